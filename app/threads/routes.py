"""/v1/threads: named threads."""

from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.http.bodies import Sent, SentOrEmpty, checked, json_response
from app.http.describing import CONFLICT, FORBIDDEN, METADATA
from app.http.pages import ListObject, Paged
from app.http.services import serving
from app.projects.auth import Authenticated
from app.projects.reads import RecordedRoute, reads
from app.projects.user_tokens import for_users
from app.threads.address import BY_NAME, Addressed, at
from app.threads.claims import ClaimObject, Claims, ThreadsClaim
from app.threads.filters import ThreadFilters
from app.threads.schemas import OneThread, ThreadCount, ThreadCreate, ThreadObject, ThreadPatch, ThreadPut
from app.threads.service import Threads, for_caller, of_caller

router = APIRouter(tags=["threads"], route_class=RecordedRoute)


Service = Annotated[Threads, serving(Threads)]

OrderBy = Annotated[Literal["created", "activity"], Query(description="`activity`: by when it was last spoken in.")]


@for_users
@reads("threads", of="project")
@router.get("/threads", response_model=ListObject[ThreadObject], openapi_extra={"parameters": [METADATA]})
async def list_threads(
    caller: Authenticated, threads: Service, filters: ThreadFilters, page: Paged, order_by: OrderBy = "created"
) -> Response:
    """List threads, the latest first.

    With `last_turn` or `model`, a page ends after 10,000 threads were checked, even if it has fewer entries than
    `limit`. Its `last_id` is the last thread that was checked.
    """
    ordered = replace(of_caller(caller, filters), by=order_by)
    return json_response(await threads.list_page(caller, ordered, page))


@router.get("/threads/count", response_model=ThreadCount, openapi_extra={"parameters": [METADATA]})
async def count(caller: Authenticated, threads: Service, filters: ThreadFilters) -> Response:
    """Count threads."""
    return json_response(await threads.count(caller, filters))


@for_users
@router.post("/threads/claim", response_model=ClaimObject, responses={**CONFLICT, **FORBIDDEN})
async def claim(
    caller: Authenticated, claims: Annotated[Claims, serving(Claims)], sent: Sent[ThreadsClaim]
) -> Response:
    """Take over the threads of an anonymous user, by the token of that user."""
    return json_response(await claims.claim(caller, sent))


@for_users
@reads("thread")
@router.put(BY_NAME, response_model=ThreadObject, responses={201: {"model": ThreadObject}})
async def get_or_create(caller: Authenticated, threads: Service, name: str, sent: SentOrEmpty[ThreadPut]) -> Response:
    """Return the thread of a name. It is created if there is none."""
    checked(ThreadCreate, {"name": name})
    thread, made = await threads.get_or_create(caller, name, for_caller(caller, sent))
    return json_response(thread, status=201 if made else 200)


@for_users
@reads("thread")
@at(router.get, response_model=OneThread)
async def get(caller: Authenticated, threads: Service, address: Addressed) -> Response:
    """Return a thread."""
    return json_response(await threads.get(caller, address))


@for_users
@at(router.patch, response_model=ThreadObject, responses=CONFLICT)
async def patch(caller: Authenticated, threads: Service, address: Addressed, sent: Sent[ThreadPatch]) -> Response:
    """Change a thread. Fields left out stay as they are."""
    return json_response(await threads.patch(caller, address, for_caller(caller, sent)))

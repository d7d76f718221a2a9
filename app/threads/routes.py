"""/v1/threads: named threads."""

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from app.http.bodies import Sent, SentOrEmpty, checked, json_response
from app.http.describing import CONFLICT, FORBIDDEN, METADATA
from app.http.pages import ListObject, Paged, Seconds, moment
from app.http.services import serving
from app.projects.auth import Authenticated
from app.projects.reads import RecordedRoute, reads
from app.projects.user_tokens import for_users
from app.threads.address import BY_NAME, Addressed, at
from app.threads.claims import ClaimObject, Claims, ThreadsClaim
from app.threads.schemas import OneThread, Status, ThreadCount, ThreadCreate, ThreadObject, ThreadPatch, ThreadPut
from app.threads.service import Threads, for_caller, of_caller
from app.threads.store import Filters

router = APIRouter(tags=["threads"], route_class=RecordedRoute)


Service = Annotated[Threads, serving(Threads)]

_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)


async def _filters(
    request: Request,
    user: str | None = None,
    name: Annotated[str | None, Query(description="The beginning of the name.")] = None,
    archived: bool | None = None,
    status: Status | None = None,
    created_after: Seconds = None,
    created_before: Seconds = None,
    updated_after: Seconds = None,
    updated_before: Seconds = None,
    order_by: Annotated[
        Literal["created", "activity"], Query(description="`activity`: by when it was last spoken in.")
    ] = "created",
) -> Filters:
    metadata: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if found := _METADATA.fullmatch(key):
            metadata[found[1]] = value
    return Filters(
        user,
        name,
        metadata,
        archived,
        status,
        moment(created_after),
        moment(created_before),
        moment(updated_after),
        moment(updated_before),
        order_by,
    )


@for_users
@reads("threads", of="project")
@router.get("/threads", response_model=ListObject[ThreadObject], openapi_extra={"parameters": [METADATA]})
async def list_threads(
    caller: Authenticated, threads: Service, filters: Annotated[Filters, Depends(_filters)], page: Paged
) -> Response:
    """List threads, the latest first."""
    return json_response(await threads.list_page(caller, of_caller(caller, filters), page))


@router.get("/threads/count", response_model=ThreadCount, openapi_extra={"parameters": [METADATA]})
async def count(caller: Authenticated, threads: Service, filters: Annotated[Filters, Depends(_filters)]) -> Response:
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

"""/responses, as OpenAI's and DashScope's clients know it."""

from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.routing import Route

from app.http.bodies import json_object, json_response
from app.http.describing import (
    AS_EVENTS,
    HEARTBEAT,
    IDEMPOTENCY_KEY,
    LAST_EVENT_ID,
    OF_A_MODEL,
    Deleted,
    ItemObject,
    request_body,
)
from app.http.errors import BadRequest
from app.http.heartbeat import heartbeat_seconds
from app.http.pages import ListObject
from app.http.services import services, serving
from app.openai_api.schemas import ResponseCreate, response_address, response_request, response_uuid
from app.openai_api.service import ItemPage, OpenAI, Order, shown_response
from app.projects.auth import Authenticated, Caller, authenticate
from app.projects.credential_watch import listening
from app.projects.reads import RecordedRoute, reads
from app.projects.user_tokens import for_users
from app.provider.models import Models
from app.threads.address import OfTurn, owned
from app.threads.names import Names
from app.threads.presets import presets_of
from app.turns.events import EventStream
from app.turns.http import AwaitedTurn, first_event, origin
from app.turns.show import ResponseObject, stored_response

router = APIRouter(tags=["responses"], route_class=RecordedRoute)


Service = Annotated[OpenAI, serving(OpenAI)]


async def item_page(
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Order = "desc",
    after: str | None = None,
) -> ItemPage:
    return ItemPage(limit, order, after)


ItemPaged = Annotated[ItemPage, Depends(item_page)]


def hot_routes(prefix: str) -> list[Route]:
    """The way to a response."""
    return [Route(f"{prefix}/responses", create, methods=["POST"])]


@for_users
@router.post(
    "/responses",
    response_model=ResponseObject,
    responses={**AS_EVENTS, **OF_A_MODEL},
    openapi_extra={
        "requestBody": request_body(ResponseCreate, required=True),
        "parameters": [IDEMPOTENCY_KEY, HEARTBEAT],
    },
)
async def create(request: Request) -> Response:
    """Create a response: after a previous one, in a conversation, or on its own."""
    here = services(request)
    caller = await authenticate(request)
    body, came = await json_object(request), origin(request, caller)
    new_thread_id = partial(here[Names].new_thread_id, caller.project_id, came.idempotency_key)
    address = owned(caller, response_address(body, new_thread_id))
    if caller.grant.user is not None:
        came = replace(came, presets=await presets_of(request, caller, address))
    sent = response_request(body, here[Models], came, address)
    turn = AwaitedTurn(request, caller, address, sent, shown_response, stored_response)
    return turn if sent.stream else await turn.opened()


@reads("responses", of="project")
@router.get("/responses", response_model=ListObject[ResponseObject])
async def listed(
    caller: Authenticated,
    openai: Service,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="The last_id of the page before.")] = None,
) -> Response:
    """List responses, the latest first."""
    return json_response(await openai.responses(caller, None if after is None else response_uuid(after), limit))


@for_users
@reads("conversation")
@router.get(
    "/responses/{response_id}",
    response_model=ResponseObject,
    responses=AS_EVENTS,
    openapi_extra={"parameters": [LAST_EVENT_ID, HEARTBEAT]},
)
async def retrieve(
    request: Request,
    caller: Authenticated,
    openai: Service,
    response_id: str,
    stream: bool = False,
    starting_after: Annotated[int | None, Query(ge=-1, le=10**9)] = None,
) -> Response:
    """Return a response of any age or, with `stream`, its events."""
    address, first = _own(caller, response_id), first_event(starting_after, request)
    if not stream:
        if starting_after is not None:
            raise BadRequest("'starting_after' goes with stream=true.", param="starting_after")
        return json_response(await openai.response(caller, address))
    thread_id, frames = await openai.frames(caller, address, first)
    return EventStream(frames, listening(request, caller, thread_id), heartbeat=heartbeat_seconds(request))


@for_users
@router.delete("/responses/{response_id}", response_model=Deleted)
async def delete(caller: Authenticated, openai: Service, response_id: str) -> Response:
    """Delete a response."""
    return json_response(await openai.delete_response(caller, _own(caller, response_id)))


@for_users
@reads("conversation")
@router.post("/responses/{response_id}/cancel", response_model=ResponseObject)
async def cancel(caller: Authenticated, openai: Service, response_id: str) -> Response:
    """Cancel a response that is in progress."""
    return json_response(await openai.cancel(caller, _own(caller, response_id)))


@for_users
@reads("conversation")
@router.get("/responses/{response_id}/input_items", response_model=ListObject[ItemObject])
async def input_items(caller: Authenticated, openai: Service, response_id: str, page: ItemPaged) -> Response:
    """List the input items of a response."""
    return json_response(await openai.input_items(caller, _own(caller, response_id), page))


def _own(caller: Caller, response_id: str) -> OfTurn:
    """Return the address of a path's response, for the caller.

    Raises:
        NotFound: it is the id of none.
    """
    return owned(caller, OfTurn(response_uuid(response_id)))

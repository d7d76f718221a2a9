"""/v1/threads/…/turns, and the conversation read back."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.routing import Route

from app.db import ids
from app.http.bodies import json_object, json_response
from app.http.describing import (
    AS_EVENTS,
    HEARTBEAT,
    IDEMPOTENCY_KEY,
    LAST_EVENT_ID,
    LIFE_EVENT_ID,
    OF_A_MODEL,
    request_body,
)
from app.http.heartbeat import heartbeat_seconds
from app.http.pages import ListObject, Paged
from app.http.services import services, serving
from app.projects.auth import Authenticated, authenticate
from app.projects.credential_watch import listening
from app.projects.reads import RecordedRoute, reads
from app.projects.stream_tickets import for_tickets
from app.projects.user_tokens import for_users
from app.provider.models import Models
from app.threads.address import BY_ID, BY_NAME, Addressed, addressed, at
from app.threads.presets import as_read, presets_of
from app.turns.events import EventStream
from app.turns.http import AwaitedTurn, first_event, origin
from app.turns.life import ThreadLife
from app.turns.replay import Replay
from app.turns.running import Running
from app.turns.schemas import TurnCreate, turn_request
from app.turns.service import Turns
from app.turns.show import TurnObject, stored_turn, turn_object

router = APIRouter(tags=["turns"], route_class=RecordedRoute)

Service = Annotated[Turns, serving(Turns)]


def _show(running: Running, response: dict[str, Any]) -> dict[str, Any]:
    ended, attempt = running.outcome.response is not None, running.attempt
    return turn_object(
        response,
        running.turn,
        running.continuation,
        running.reason,
        running.context if ended else None,
        attempt.account.provider.account if ended and attempt is not None else None,
        running.relay.recorder.pace.first if ended else None,
        running.admission.stored_cost if ended else None,
    )


def hot_routes(prefix: str) -> list[Route]:
    """The way to a turn."""
    return [Route(f"{prefix}{place}/turns", create, methods=["POST"]) for place in (BY_ID, BY_NAME)]


@for_users
@at(
    router.post,
    "/turns",
    response_model=TurnObject,
    responses={**AS_EVENTS, **OF_A_MODEL},
    openapi_extra={"requestBody": request_body(TurnCreate, required=True), "parameters": [IDEMPOTENCY_KEY, HEARTBEAT]},
)
async def create(request: Request) -> Response:
    """Create a turn: the model answers with the thread as context."""
    here = services(request)
    turns, models = here[Turns], here[Models]
    caller = await authenticate(request)
    address = as_read(caller, await addressed(request, caller, cached=caller.grant.user is None))
    body, root = await json_object(request), False
    came = origin(request, caller)
    if caller.grant.user is not None:
        came = replace(came, presets=await presets_of(request, caller, address))
    replaced = body.get("replaces")
    if replaced is not None:
        body, root = await turns.replacing(caller, address, body)
    sent = turn_request(body, models, came, root=root)
    if caller.grant.user is not None and replaced is not None:
        sent = replace(sent, replaced_id=ids.parse(replaced, ids.TURN_PREFIXES))
    turn = AwaitedTurn(request, caller, address, sent, _show, stored_turn)
    return turn if sent.stream else await turn.opened()


@for_users
@reads("conversation")
@at(router.post, "/turns/{turn_id}/cancel", response_model=TurnObject)
async def cancel(caller: Authenticated, turns: Service, address: Addressed, turn_id: str) -> Response:
    """Cancel a running turn. Its output so far is kept."""
    return json_response(await turns.cancel(caller, address, turn_id))


@for_tickets
@for_users
@reads("conversation")
@at(
    router.get,
    "/turns/{turn_id}/events",
    response_class=Response,
    responses=AS_EVENTS,
    openapi_extra={"parameters": [LAST_EVENT_ID, HEARTBEAT]},
)
async def events(
    request: Request,
    caller: Authenticated,
    turns: Service,
    address: Addressed,
    turn_id: str,
    starting_after: Annotated[int | None, Query(ge=-1, le=10**9)] = None,
) -> Response:
    """Stream the events of a turn, from any of them on, to its end."""
    replay = services(request)[Replay]
    row = await turns.row(caller, address, turn_id)
    frames = replay.frames(caller.project_id, row["id"], first_event(starting_after, request))
    return EventStream(frames, listening(request, caller, address.id), heartbeat=heartbeat_seconds(request))


@for_tickets
@for_users
@reads("conversation")
@at(
    router.get,
    "/events",
    response_class=Response,
    responses=AS_EVENTS,
    openapi_extra={"parameters": [LIFE_EVENT_ID, HEARTBEAT]},
)
async def life(
    request: Request,
    caller: Authenticated,
    address: Addressed,
    after: Annotated[str | None, Query(alias="last_event_id", description="As the header `Last-Event-ID`.")] = None,
) -> Response:
    """Stream the thread's events: its turns, from any client, and its changes."""
    frames = await services(request)[ThreadLife].frames(caller, address, request.headers.get("last-event-id", after))
    return EventStream(
        frames,
        listening(request, caller),  # The stream itself ends when the thread gets another user.
        heartbeat=heartbeat_seconds(request),
        ends_with_client=True,
        resumed_by="Last-Event-ID",
    )


@for_users
@reads("conversation")
@at(router.get, "/turns", response_model=ListObject[TurnObject])
async def list_turns(caller: Authenticated, turns: Service, address: Addressed, page: Paged) -> Response:
    """List the turns of a thread."""
    return json_response(await turns.list_page(caller, address, page))


@for_users
@reads("conversation")
@at(router.get, "/turns/{turn_id}", response_model=TurnObject)
async def get(caller: Authenticated, turns: Service, address: Addressed, turn_id: str) -> Response:
    """Return a turn, with its input."""
    return json_response(await turns.get(caller, address, turn_id))

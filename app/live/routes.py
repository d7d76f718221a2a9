"""GET /v1/events, the live list of threads, and GET /v1/now, the present state of a project."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.http.bodies import json_response
from app.http.describing import AS_EVENTS, FORBIDDEN, HEARTBEAT, LIVE_EVENT_ID, error
from app.http.heartbeat import heartbeat_seconds
from app.http.services import serving
from app.live.events import ThreadEvents
from app.live.now import Now
from app.live.now_objects import NowObject
from app.projects.auth import Authenticated
from app.projects.credential_watch import listening
from app.projects.reads import RecordedRoute, reads
from app.projects.stream_tickets import for_tickets
from app.projects.user_tokens import for_users
from app.turns.events import EventStream

router = APIRouter(tags=["events"], route_class=RecordedRoute)


@for_tickets
@for_users
@reads("threads", of="project")
@router.get(
    "/events",
    response_class=Response,
    responses={**AS_EVENTS, **FORBIDDEN},
    openapi_extra={"parameters": [LIVE_EVENT_ID, HEARTBEAT]},
)
async def follow(
    request: Request,
    caller: Authenticated,
    live: Annotated[ThreadEvents, serving(ThreadEvents)],
    user: Annotated[str | None, Query(min_length=1, max_length=256, description="Only this user's threads.")] = None,
    after: Annotated[str | None, Query(alias="last_event_id", description="As the header `Last-Event-ID`.")] = None,
) -> Response:
    """Stream the threads of the project or the user: a snapshot, then changes and turns."""
    return EventStream(
        live.frames(caller, user, request.headers.get("last-event-id", after)),
        listening(request, caller),
        heartbeat=heartbeat_seconds(request),
        ends_with_client=True,
        resumed_by="Last-Event-ID",
    )


@reads("running turns", of="project")
@router.get("/now", response_model=NowObject)
async def get_now(caller: Authenticated, now: Annotated[Now, serving(Now)]) -> Response:
    """Return what the project is doing: running turns, queues, throttled accounts, and limits near their bound."""
    return json_response(await now.snapshot(caller))


@reads("running turns", of="project")
@router.get(
    "/now/events",
    response_class=Response,
    responses={**AS_EVENTS, 429: error("The project has the maximum number of these streams.")},
    openapi_extra={"parameters": [HEARTBEAT]},
)
async def follow_now(request: Request, caller: Authenticated, now: Annotated[Now, serving(Now)]) -> Response:
    """Stream snapshots of GET /v1/now: one at once, and one after each change, at most once a second."""
    return EventStream(
        now.frames(caller),
        listening(request, caller),
        heartbeat=heartbeat_seconds(request),
        ends_with_client=True,
        resumed_by=None,
    )

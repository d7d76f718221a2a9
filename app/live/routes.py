"""GET /v1/events: the live list of threads."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.http.describing import AS_EVENTS, FORBIDDEN, HEARTBEAT, LIVE_EVENT_ID
from app.http.heartbeat import heartbeat_seconds
from app.http.services import serving
from app.live.events import ThreadEvents
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

"""POST /v1/stream_tickets: a one-use ticket that opens a stream without a header."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field
from typing_extensions import TypedDict

from app.http.bodies import Body, Sent, examples, json_response
from app.http.describing import FORBIDDEN
from app.http.errors import Forbidden
from app.http.services import serving
from app.projects.auth import Reading, bearer_of
from app.projects.stream_tickets import StreamTickets
from app.projects.user_tokens import for_users

router = APIRouter(tags=["events"])


class StreamTicketCreate(Body):
    model_config = examples({"path": "/v1/events"})

    path: Annotated[
        str,
        Field(
            max_length=4096,
            pattern=r"^/v1/(events|threads/(by-name/)?[^/?#]+/(events|turns/[^/?#]+/events))$",
        ),
    ]
    """The path of the stream, without a query."""


class StreamTicketObject(TypedDict):
    object: Literal["stream_ticket"]
    ticket: str
    """Sent once, as `?ticket=`."""
    path: str
    expires_at: int


@for_users
@router.post("/stream_tickets", response_model=StreamTicketObject, status_code=201, responses=FORBIDDEN)
async def create_ticket(
    request: Request,
    caller: Reading,
    tickets: Annotated[StreamTickets, serving(StreamTickets)],
    sent: Sent[StreamTicketCreate],
) -> Response:
    """Create a ticket with which an EventSource opens one stream, once, within seconds."""
    credential, grant = bearer_of(request), caller.grant
    if credential is None:
        raise Forbidden("A ticket can be created only with a key or a token.")
    owner = f"{grant.key_id}:{grant.user or ''}"
    ticket, expires_at = await tickets.make(caller.project_id, owner, credential, sent.path, grant.expires_at)
    shown: StreamTicketObject = {
        "object": "stream_ticket",
        "ticket": ticket,
        "path": sent.path,
        "expires_at": expires_at,
    }
    return json_response(shown, status=201)

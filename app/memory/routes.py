"""/v1/threads/…/compact and …/compactions."""

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.http.bodies import SentOrEmpty, json_response
from app.http.describing import OF_A_MODEL
from app.http.pages import ListObject
from app.http.services import serving
from app.memory.schemas import Compact, CompactionObject
from app.memory.service import Memory
from app.projects.auth import Authenticated
from app.projects.credential_watch import answer_of, listening
from app.projects.reads import RecordedRoute, reads
from app.projects.user_tokens import for_users
from app.threads.address import Addressed, at
from app.threads.presets import presets_of

router = APIRouter(tags=["memory"], route_class=RecordedRoute)

Service = Annotated[Memory, serving(Memory)]


@for_users
@reads("compactions")
@at(router.post, "/compact", response_model=CompactionObject, status_code=201, responses=OF_A_MODEL)
async def compact(
    request: Request, caller: Authenticated, memory: Service, address: Addressed, sent: SentOrEmpty[Compact]
) -> Response:
    """Compact the beginning of a long conversation into a summary, now."""
    presets = await presets_of(request, caller, address)
    if caller.grant.user is not None and sent.model is not None:
        caller.grant.settings.resolved(sent.model)
    presets.check_summary(sent.model, sent.instructions, caller.grant.settings.resolved)
    made = await answer_of(listening(request, caller, admitted=True), memory.compact(caller, address, sent))
    return json_response(made, status=201)


@for_users
@reads("compactions")
@at(router.get, "/compactions", response_model=ListObject[CompactionObject])
async def compactions(caller: Authenticated, memory: Service, address: Addressed) -> Response:
    """List the compactions of a thread."""
    return json_response(await memory.compactions(caller, address))

"""/v1/threads/…/held and /v1/holds/…/contents: contents kept by legal holds and the minimum retention."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.db.ids import ThreadId
from app.history.held import Held, HeldObject, HeldThreadObject
from app.http.bodies import json_response
from app.http.describing import AS_LINES
from app.http.pages import ListObject
from app.http.services import serving
from app.projects.auth import Auditing
from app.projects.authorized_stream import Export
from app.projects.credential_watch import listening
from app.projects.reads import RecordedRoute, reads
from app.threads.address import Audited, at

router = APIRouter(tags=["holds"], route_class=RecordedRoute)

Service = Annotated[Held, serving(Held)]
Limit = Annotated[int, Query(ge=1, le=100, description="Largest number of rows on a page.")]
After = Query(description="`last_id` of the previous page.")


@reads("held contents", of="project", always=True)
@at(router.get, "/held", response_model=ListObject[HeldObject])
async def of_thread(
    caller: Auditing, held: Service, address: Audited, limit: Limit = 20, after: Annotated[str | None, After] = None
) -> Response:
    """List the kept contents of a thread, in the order of their deletion or change."""
    return json_response(await held.of_thread(caller, address, limit, after))


@reads("threads under a hold", of="project", always=True)
@router.get("/holds/{hold_id}/contents", response_model=ListObject[HeldThreadObject])
async def contents(
    caller: Auditing, held: Service, hold_id: str, limit: Limit = 20, after: Annotated[ThreadId | None, After] = None
) -> Response:
    """List the threads with contents that a hold keeps."""
    return json_response(await held.threads_under(caller, hold_id, limit, after))


@reads("export of held contents", of="project", always=True)
@router.get("/holds/{hold_id}/export", response_class=Response, responses=AS_LINES)
async def export(request: Request, caller: Auditing, held: Service, hold_id: str) -> Response:
    """Export all contents that a hold keeps, one per line."""
    return Export(await held.export(caller, hold_id), listening(request, caller))

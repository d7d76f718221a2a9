"""Whole threads, out and in."""

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.http.bodies import Sent, json_response
from app.http.describing import CONFLICT
from app.http.services import services, serving
from app.limits.room import check_room
from app.limits.service import RateLimits
from app.projects.auth import Authenticated
from app.projects.authorized_stream import Export
from app.projects.credential_watch import listening
from app.projects.reads import RecordedRoute, reads
from app.threads.address import Addressed, at
from app.threads.schemas import ThreadObject
from app.transfer.schemas import ThreadRecord
from app.transfer.service import Transfer

router = APIRouter(tags=["transfer"], route_class=RecordedRoute)


Service = Annotated[Transfer, serving(Transfer)]


@at(router.get, "/export", response_model=ThreadRecord)
async def export(request: Request, caller: Authenticated, transfer: Service, address: Addressed) -> Response:
    """Export a whole thread, to be imported elsewhere. An export that was cut off is not such a record."""
    parts = await transfer.export(caller, address)
    return Export(parts, listening(request, caller, address.id), media_type="application/json")


@reads("thread")
@router.post("/threads/import", response_model=ThreadObject, responses={201: {"model": ThreadObject}, **CONFLICT})
async def take(request: Request, caller: Authenticated, transfer: Service, record: Sent[ThreadRecord]) -> Response:
    """Import an exported thread."""
    await check_room(services(request)[RateLimits], caller, record.user, makes_thread=True)
    thread, written = await transfer.take(caller, record)
    return json_response(thread, status=201 if written else 200)

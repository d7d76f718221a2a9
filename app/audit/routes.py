"""/v1/audit: who did what, when, from where, and the proof of it."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from app.audit.exported import CheckpointObject
from app.audit.service import Audit
from app.audit.store import Filters
from app.db import ids
from app.http.bodies import json_response
from app.http.describing import AS_LINES
from app.http.errors import BadRequest
from app.http.pages import ListObject, Paged, Seconds, moment
from app.http.services import serving
from app.projects.auth import Auditing
from app.projects.credential_watch import listening
from app.projects.held import Export
from app.threads.address import Audited, at
from app.trail.records import Action, RecordObject

router = APIRouter(tags=["audit"])

Service = Annotated[Audit, serving(Audit)]


def _shape(prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {"pattern": ids.pattern(prefixes)}


async def _filters(
    request: Request,
    thread: Annotated[
        str | None,
        Query(description="The id of a thread, deleted ones too.", json_schema_extra=_shape(ids.THREAD_PREFIXES)),
    ] = None,
    turn: Annotated[str | None, Query(json_schema_extra=_shape(ids.TURN_PREFIXES))] = None,
    key: Annotated[
        str | None, Query(description="key_… as records show it.", json_schema_extra=_shape(("key",)))
    ] = None,
    user: Annotated[str | None, Query(max_length=256)] = None,
    action: Annotated[Action | None, Query()] = None,
    since: Seconds = None,
    until: Seconds = None,
) -> Filters:
    for name, value in request.query_params.multi_items():
        if "\0" in value:
            raise BadRequest(f"'{name}' contains a NUL character.", param=name, code="invalid_character")
    return Filters(
        _id("thread", thread, ids.THREAD_PREFIXES),
        action,
        _id("key", key, ("key",)),
        user,
        _id("turn", turn, ids.TURN_PREFIXES),
        moment(since),
        moment(until),
    )


def _id(name: str, value: str | None, prefixes: tuple[str, ...]) -> UUID | None:
    if value is None:
        return None
    found = ids.parse(value, prefixes)
    if found is None:
        raise BadRequest(f"'{name}' must be an id, {prefixes[0]}_ and 32 hex digits.", param=name)
    return found


Filtered = Annotated[Filters, Depends(_filters)]


@router.get("/audit", response_model=ListObject[RecordObject])
async def list_records(caller: Auditing, audit: Service, filters: Filtered, page: Paged) -> Response:
    """List the audit trail."""
    return json_response(await audit.list_page(caller, filters, page))


@at(router.get, "/audit", response_model=ListObject[RecordObject])
async def list_of_thread(
    caller: Auditing, audit: Service, address: Audited, filters: Filtered, page: Paged
) -> Response:
    """List the audit trail of a thread, even if it is deleted."""
    return json_response(await audit.list_of_thread(caller, address, filters, page))


@router.get("/audit/checkpoints", response_model=ListObject[CheckpointObject])
async def checkpoints(caller: Auditing, audit: Service) -> Response:
    """List the signed checkpoints of the trail."""
    return json_response(await audit.checkpoints(caller))


@router.get("/audit/export", response_class=Response, responses=AS_LINES)
async def export(request: Request, caller: Auditing, audit: Service) -> Response:
    """Export the whole trail, signed up to now."""
    return Export(await audit.export(caller), listening(request, caller))


@at(router.get, "/audit/export", response_class=Response, responses=AS_LINES)
async def export_thread(request: Request, caller: Auditing, audit: Service, address: Audited) -> Response:
    """Export the trail of a thread, with its proof."""
    return Export(await audit.export_thread(caller, address), listening(request, caller))

"""/v1/audit: who did what, when, from where, and the proof of it."""

from typing import Annotated, get_args
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse

from app.audit.service import Audit
from app.audit.store import Filters
from app.bodies import json_response
from app.db import ids
from app.db.pagination import Paged, Seconds, moment
from app.errors import BadRequest
from app.projects.auth import Authenticated
from app.services import serving
from app.threads.address import BY_ID, BY_NAME, Addressed
from app.trail.records import Action

router = APIRouter(tags=["audit"])

NDJSON = "application/x-ndjson"


Service = Annotated[Audit, serving(Audit)]


async def _filters(
    request: Request,
    thread: Annotated[str | None, Query(description="The id of a thread, deleted ones too.")] = None,
    turn: Annotated[str | None, Query()] = None,
    key: Annotated[str | None, Query(description="key_… as records show it.")] = None,
    user: Annotated[str | None, Query(max_length=256)] = None,
    action: Annotated[str | None, Query()] = None,
    since: Seconds = None,
    until: Seconds = None,
) -> Filters:
    if action is not None and action not in get_args(Action):
        raise BadRequest(f"'action' must be one of {', '.join(get_args(Action))}.", param="action")
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


@router.get("/audit")
async def list_records(caller: Authenticated, audit: Service, filters: Filtered, page: Paged) -> Response:
    return json_response(await audit.list_page(caller, filters, page))


@router.get(f"{BY_NAME}/audit")
@router.get(f"{BY_ID}/audit")
async def list_of_thread(
    caller: Authenticated, audit: Service, address: Addressed, filters: Filtered, page: Paged
) -> Response:
    return json_response(await audit.list_of_thread(caller, address, filters, page))


@router.get("/audit/checkpoints")
async def checkpoints(caller: Authenticated, audit: Service) -> Response:
    return json_response(await audit.checkpoints(caller))


@router.get("/audit/export")
async def export(caller: Authenticated, audit: Service) -> Response:
    return StreamingResponse(await audit.export(caller), media_type=NDJSON)


@router.get(f"{BY_NAME}/audit/export")
@router.get(f"{BY_ID}/audit/export")
async def export_thread(caller: Authenticated, audit: Service, address: Addressed) -> Response:
    return StreamingResponse(await audit.export_thread(caller, address), media_type=NDJSON)

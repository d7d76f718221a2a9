"""/v1/audit: who did what, when, from where, and the proof of it."""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response

from app.audit.exported import CheckpointObject
from app.audit.notes import LARGEST_NUMBER
from app.audit.service import Audit, ConsistencyObject
from app.audit.store import Filters
from app.audit.stream import MOST_RECORDS, AuditStream, Format
from app.audit.turn_proof import TurnProofObject, TurnProofs
from app.audit.witnesses import WitnessObject
from app.db.ids import KeyId, ThreadId, TurnId
from app.http.bodies import json_response
from app.http.describing import AS_LINES, AS_TEXT, NDJSON, UNCHANGED
from app.http.pages import ListObject, Paged, Seconds, moment
from app.http.services import serving
from app.projects.auth import Auditing, Caller
from app.projects.authorized_stream import Export
from app.projects.credential_watch import listening
from app.projects.reads import RecordedRoute, reads
from app.threads.address import Audited, at
from app.trail.records import Action, RecordObject

router = APIRouter(tags=["audit"], route_class=RecordedRoute)

Service = Annotated[Audit, serving(Audit)]


async def _filters(
    thread: Annotated[ThreadId | None, Query(description="The id of a thread, deleted ones too.")] = None,
    turn: TurnId | None = None,
    key: Annotated[KeyId | None, Query(description="key_… as records show it.")] = None,
    user: Annotated[str | None, Query(max_length=256)] = None,
    action: Action | None = None,
    since: Seconds = None,
    until: Seconds = None,
) -> Filters:
    return Filters(thread, action, key, user, turn, moment(since), moment(until))


class RecordList(ListObject[RecordObject]):
    names: dict[str, str]
    """Names of the keys, and of the people signed in to the console, that the records name as actors."""


Filtered = Annotated[Filters, Depends(_filters)]


@router.get("/audit", response_model=RecordList)
async def list_records(caller: Auditing, audit: Service, filters: Filtered, page: Paged) -> Response:
    """List the audit trail."""
    return json_response(await audit.list_page(caller, filters, page))


@at(router.get, "/audit", response_model=RecordList)
async def list_of_thread(
    caller: Auditing, audit: Service, address: Audited, filters: Filtered, page: Paged
) -> Response:
    """List the audit trail of a thread, even if it is deleted."""
    return json_response(await audit.list_of_thread(caller, address, filters, page))


@router.get("/audit/checkpoints", response_model=ListObject[CheckpointObject])
async def checkpoints(caller: Auditing, audit: Service) -> Response:
    """List the signed checkpoints of the trail."""
    return json_response(await audit.checkpoints(caller))


@router.get("/audit/checkpoint", response_class=Response, responses=AS_TEXT | UNCHANGED)
async def checkpoint(
    caller: Auditing, audit: Service, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """Return the latest checkpoint as a signed note (C2SP tlog-checkpoint)."""
    note = (await audit.note(caller)).encode()
    etag = f'"{hashlib.sha256(note).hexdigest()[:32]}"'
    if etag in (if_none_match or ""):
        return Response(status_code=304, headers={"ETag": etag})
    return Response(note, media_type="text/plain; charset=utf-8", headers={"ETag": etag})


@router.get("/audit/consistency", response_model=ConsistencyObject)
async def consistency(
    caller: Auditing,
    audit: Service,
    size: Annotated[int, Query(alias="from", ge=1, le=LARGEST_NUMBER, description="Size of the smaller tree.")],
    to: Annotated[
        int | None,
        Query(ge=1, le=LARGEST_NUMBER, description="Size of the larger tree. Default: that of the last checkpoint."),
    ] = None,
) -> Response:
    """Return the consistency proof between two sizes of the trail's tree (RFC 6962, 2.1.2)."""
    return json_response(await audit.consistency(caller, size, to))


@router.get("/audit/witnesses", response_model=ListObject[WitnessObject])
async def list_witnesses(caller: Auditing, audit: Service) -> Response:
    """List the witnesses, with the last checkpoint that each has cosigned."""
    return json_response(await audit.witnesses(caller))


@router.get("/audit/export", response_class=Response, responses=AS_LINES)
async def export(request: Request, caller: Auditing, audit: Service) -> Response:
    """Export the whole trail, signed up to now."""
    return Export(await audit.export(caller), listening(request, caller))


@at(router.get, "/audit/export", response_class=Response, responses=AS_LINES)
async def export_thread(request: Request, caller: Auditing, audit: Service, address: Audited) -> Response:
    """Export the trail of a thread, with its proof."""
    return Export(await audit.export_thread(caller, address), listening(request, caller))


async def _reading(caller: Auditing) -> Caller:
    caller.check("read")
    return caller


@reads("proof of a turn")
@at(router.get, "/turns/{turn_id}/proof", response_model=TurnProofObject)
async def prove_turn(
    caller: Annotated[Caller, Depends(_reading)],
    proofs: Annotated[TurnProofs, serving(TurnProofs)],
    address: Audited,
    turn_id: str,
) -> Response:
    """Return the proof of a turn with its contents: its records, and their path to the signed checkpoint.

    The contents need the scope `read`, too.
    """
    return json_response(await proofs.of_turn(caller, address, turn_id))


@router.get("/audit/stream", response_class=Response, responses=AS_LINES)
async def stream(
    caller: Auditing,
    records: Annotated[AuditStream, serving(AuditStream)],
    after: Annotated[int, Query(ge=0, lt=2**63, description="Position of the last record read.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_RECORDS, description="Records in the answer.")] = 500,
    after_hash: Annotated[
        str | None,
        Query(pattern="^[0-9a-f]{64}$", description="Expected hash of the record at `after`."),
    ] = None,
    form: Annotated[Format, Query(alias="format")] = "everthread",
) -> Response:
    """Return the records of the audit trail after a position, one per line, in a fixed order."""
    return Response(await records.pull(caller, after, limit, after_hash, form), media_type=NDJSON)

"""Comparison of a restored database with an exported trail that was signed later.

A restored database is consistent. An exported trail shows which records it lacks. The record `audit.restored` in the
trail proves that a restore, and not a secret deletion, removed them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.audit import origins, store
from app.audit.exported import BadFile, signed_part
from app.audit.notes import Note
from app.audit.origins import is_continuation
from app.audit.verify import Problem
from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.trail.append import append_record
from app.trail.records import SERVICE, Action, instant

ACTION: Action = "audit.restored"

SQL = statements_of(__file__)


@dataclass(frozen=True, slots=True)
class Before:
    """Records that an exported trail proves to have been signed."""

    project_id: UUID
    leaves: list[tuple[UUID, int, bytes]]
    """The chain, the number and the hash of each, in their order."""
    at: datetime
    root: bytes
    origins: list[str]
    """Names of the project's log, oldest first."""
    keys: Sequence[Ed25519PublicKey]


def before(path: Path, trusted: Sequence[Ed25519PublicKey]) -> Before:
    """Read what was signed from an exported trail of a whole project.

    Raises:
        BadFile: it is no such file, or does not verify.
    """
    project_id, leaves, checkpoints, problems = signed_part(path, trusted)
    if problems:
        raise BadFile(f"it does not verify: {problems[0]}")
    last = checkpoints[max(checkpoints)]
    signed = [(chain_id, seq, hash_) for _, chain_id, seq, hash_ in leaves]
    notes = [checkpoints[size]["note"] for size in sorted(checkpoints) if checkpoints[size]["note"] is not None]
    origins = [*dict.fromkeys(note.partition("\n")[0] for note in notes)]
    return Before(project_id, signed, last["at"], last["root"], origins, trusted)


async def common(database: Database, signed: Before) -> int:
    """Return how many leaves, from the first one on, are in the database as they were signed."""
    found = 0
    async for rows in store.leaves(database, signed.project_id, size=len(signed.leaves)):
        for row in rows:
            if (row["chain_id"], row["seq"], row["hash"]) != signed.leaves[found]:
                return found
            found += 1
    return found


async def record_restore(database: Database, project_id: UUID, signed: Before | None) -> str:
    """Write into the project's trail to what moment the database was restored. Returns what was written.

    Args:
        signed: what was signed before, so that the record says how much of it is gone. Without it: whatever was
            signed after what the database has now.
    """
    if signed is None:
        kept, gone = await store.last_size(database, project_id), "what was signed after them"
    else:
        kept = await common(database, signed)
        gone = f"{len(signed.leaves)} with the root {signed.root.hex()} at {instant(signed.at)}"
    row = await database.fetchrow(*SQL.last_checkpoint(project_id=project_id, most=kept))
    until = "nothing signed" if row is None else f"what was signed at {instant(row['at'])}"
    detail = f"{kept} leaves; to {until}; gone: {gone}"
    if (origin := await _begin_origin(database, project_id, signed)) is not None:
        detail += f"; log: {origin}"
    async with database.session() as session:
        await append_record(session, SERVICE, project_id, ACTION, detail=detail)
    return detail


async def _begin_origin(database: Database, project_id: UUID, signed: Before | None) -> str | None:
    """Give the project's log a new name, because witnesses refuse a second history under the former one.

    Returns:
        The new name; None if the log has no name yet.
    """
    rows = await database.fetch(*SQL.origins(project_id=project_id))
    names = [row["origin"] for row in rows]
    for name in [] if signed is None else signed.origins:
        if name not in names:  # Begun after the moment to which the database was restored.
            names.append(name)
    if not names:
        return None
    number = origins.next_generation(names)
    name = f"{origins.generation(names[0])[0]}/{number}"
    for each in (*names, name):
        added = SQL.add_origin(project_id=project_id, generation=origins.generation(each)[1], origin=each)
        await database.fetchrow(*added)
    await database.fetchrow(*SQL.forget_answers(project_id=project_id))
    return name


async def compare(database: Database, signed: Before) -> tuple[list[Problem], list[str]]:
    """Check that everything that was signed is in the database.

    Returns:
        The problems; and what was deleted, with the reason, where the trail itself records it.
    """
    kept = await common(database, signed)
    lost = len(signed.leaves) - kept
    if lost == 0:
        return [], []
    said = await database.fetch(
        *SQL.restorations(project_id=signed.project_id, bucket=ids.bucket_of(signed.project_id), action=ACTION)
    )
    restored = next((row for row in said if _kept(row) <= kept), None)
    if signed.origins and not await _is_continued(database, signed):
        restored = None
    what = f"{lost} leaves that were signed until {instant(signed.at)} are not in the database, from leaf {kept} on"
    if restored is None:
        return [Problem("leaves", f"{what}, and no record says that it was restored")], []
    return [], [f"{what}: it was restored, as its trail says at {instant(restored['at'])} ({restored['detail']})."]


async def _is_continued(database: Database, signed: Before) -> bool:
    """Return True if a later log name is signed as a continuation of the exported one."""
    former, keys = signed.origins[-1], [key.public_bytes_raw() for key in signed.keys]
    for row in reversed(await store.checkpoints(database, signed.project_id)):
        if row["note"] is None or row["note"].startswith(f"{former}\n"):
            continue
        if is_continuation(Note.parse(row["note"].encode()), former, keys):
            return True
    return False


def _kept(row: asyncpg.Record) -> int:
    return int(str(row["detail"]).partition(" ")[0])

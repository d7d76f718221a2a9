"""The audit trail in Postgres, read."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from app.audit.merkle import Proofs, Tree, leaf_data
from app.audit.notes import COSIGNATURE, LARGEST_NUMBER, Signature, key_id
from app.audit.rows import CheckpointRow, CosignatureRow, LeafRow, ProjectRow, RecordRow, WitnessRow
from app.db import ids
from app.db.engine import Database
from app.db.ids import BUCKETS
from app.db.read_horizon import ReadHorizon
from app.db.sql import statements_of
from app.http.pages import Page
from app.trail.tables import AuditRecord

BATCH = 5000

SQL = statements_of(__file__)

LOWEST, HIGHEST = UUID(int=0), UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Filters:
    chain_id: UUID | None = None
    action: str | None = None
    key_id: UUID | None = None
    user: str | None = None
    turn_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    user_digest: bytes | None = None
    """The user, as records name it."""


async def list_page(
    database: Database, project_id: UUID, filters: Filters, page: Page, horizon: ReadHorizon
) -> tuple[Sequence[RecordRow], bool]:
    """One page of records, in the order they were made, and whether more follow it."""
    cursor, descending = page.scan()
    record = AuditRecord
    order: tuple[InstrumentedAttribute[Any], ...] = (record.at, record.chain_id, record.seq)
    wanted = select(record.__table__).where(record.project_id == project_id)
    if (chain_id := filters.chain_id) is not None:
        wanted = wanted.where(record.bucket == ids.bucket_of(chain_id), record.chain_id == chain_id)
    for column, value in (
        (record.action, filters.action),
        (record.key_id, filters.key_id),
        (record.user_digest, filters.user_digest),
        (record.turn_id, filters.turn_id),
    ):
        if value is not None:
            wanted = wanted.where(column == value)
    if filters.since is not None:
        wanted = wanted.where(record.at >= filters.since)
    if filters.until is not None:
        wanted = wanted.where(record.at < filters.until)
    if cursor is not None:
        place = await _place(database, project_id, cursor)
        if place is None:
            raise page.bad_cursor()
        wanted = wanted.where(tuple_(*order) < place if descending else tuple_(*order) > place)
    async with database.session() as session:
        if not descending:
            wanted = wanted.where(record.at < await horizon.until(session))
        ordered = wanted.order_by(*(column.desc() if descending else column.asc() for column in order))
        rows: Any = (await session.execute(ordered.limit(page.limit + 1))).mappings().all()
    return page.cut(rows)


async def names(database: Database, project_id: UUID, key_ids: Collection[UUID | None]) -> dict[str, str]:
    """Return the names of the project's keys, and of people who sign in to its console, by their ids. Keys of the
    operating project have none here."""
    ids_ = [each for each in key_ids if each is not None]
    rows = await database.fetch(*SQL.key_names(project_id=project_id, ids=ids_)) if ids_ else []
    return {f"key_{row['id'].hex}": row["name"] for row in rows}


async def _place(database: Database, project_id: UUID, cursor: str) -> tuple[datetime, UUID, int] | None:
    """Return where the record that a page begins behind is."""
    found = ids.parse_record(cursor)
    if found is None:
        return None
    chain_id, seq = found
    at = await database.fetchval(
        *SQL.place_of_record(project_id=project_id, bucket=ids.bucket_of(chain_id), chain_id=chain_id, seq=seq)
    )
    return None if at is None else (at, chain_id, seq)


async def in_chain_order(
    database: Database, project_id: UUID, chain_id: UUID | None = None
) -> AsyncIterator[list[RecordRow]]:
    """Every record of a project, or of one chain, chain after chain, in batches; each with its leaf, if it has one."""
    bucket, after, seq = -1, LOWEST, 0
    last_bucket, last = BUCKETS, HIGHEST
    if chain_id is not None:
        bucket, after = ids.bucket_of(chain_id), chain_id
        last_bucket, last = bucket, chain_id
    while True:
        rows = await database.fetch(
            *SQL.in_chain_order(
                project_id=project_id,
                bucket=bucket,
                chain_id=after,
                seq=seq,
                last_bucket=last_bucket,
                last_chain_id=last,
                limit=BATCH,
            )
        )
        if not rows:
            return
        yield rows
        bucket, after, seq = rows[-1]["bucket"], rows[-1]["chain_id"], rows[-1]["seq"]


async def leaves(
    database: Database, project_id: UUID, start: int = 0, size: int = LARGEST_NUMBER
) -> AsyncIterator[list[LeafRow]]:
    """The leaves of the tree of a size, or of the whole one, from a position on, in their order, in batches."""
    while rows := await database.fetch(*SQL.leaves(project_id=project_id, start=start, size=size, limit=BATCH)):
        yield rows
        start = rows[-1]["position"] + 1


async def consistency(
    database: Database, project_id: UUID, tree: Tree, size: int, larger: int
) -> tuple[list[bytes], bytes]:
    """Compute the consistency proof between two sizes of a project's tree. Leaves are read in batches and not kept.

    Args:
        tree: the project's tree with at most `size` leaves. This function grows it to `size`.

    Returns:
        The proof, and the root of the larger tree.
    """
    proofs: Proofs | None = None
    path: list[bytes] = []
    async for rows in leaves(database, project_id, tree.size, larger):
        for row in rows:
            leaf = leaf_data(row["chain_id"], row["seq"], row["hash"])
            if row["position"] < size:
                tree.add(leaf)
                continue
            if proofs is None:
                proofs = Proofs(tree)
                path = proofs.begin()
            proofs.add(leaf)
    return path, tree.root() if proofs is None else proofs.end()


async def checkpoints(database: Database, project_id: UUID) -> list[CheckpointRow]:
    """Return all checkpoints, oldest first. Notes include their cosignatures."""
    rows: list[CheckpointRow] = await database.fetch(*SQL.checkpoints(project_id=project_id))
    lines = await _cosignature_lines(database, project_id)
    return [{**row, "note": f"{row['note']}{lines[row['size']]}"} if row["size"] in lines else row for row in rows]


async def newest_checkpoint(database: Database, project_id: UUID) -> CheckpointRow | None:
    """Return the newest checkpoint, its note with the cosignatures; None if nothing is signed yet."""
    row: CheckpointRow | None = await database.fetchrow(*SQL.newest_checkpoint(project_id=project_id))
    if row is None or row["note"] is None:
        return row
    return {**row, "note": await cosigned_note(database, project_id, row["size"], row["note"])}


async def last_note(database: Database, project_id: UUID) -> str | None:
    """Return the newest checkpoint that is a signed note, with its cosignatures."""
    row = await database.fetchrow(*SQL.last_note(project_id=project_id))
    return None if row is None else await cosigned_note(database, project_id, row["size"], row["note"])


async def cosigned_note(database: Database, project_id: UUID, size: int, note: str) -> str:
    """Return the note of a checkpoint with its cosignatures."""
    lines = await _cosignature_lines(database, project_id, size)
    return note + lines.get(size, "")


async def origin(database: Database, project_id: UUID) -> str | None:
    """Return the name of a project's log, if it was ever signed."""
    row = await database.fetchrow(*SQL.origin(project_id=project_id))
    return None if row is None else row["origin"]


async def cosignatures(database: Database, project_id: UUID, size: int | None = None) -> list[CosignatureRow]:
    """Return the cosignatures of all checkpoints of a project, or of one."""
    return await database.fetch(*SQL.cosignatures(project_id=project_id, size=size))


async def _cosignature_lines(database: Database, project_id: UUID, size: int | None = None) -> dict[int, str]:
    """Return the signature lines of witnesses, by checkpoint size."""
    lines: dict[int, str] = {}
    for row in await cosignatures(database, project_id, size):
        line = Signature(row["name"], key_id(row["name"], COSIGNATURE, row["public_key"]), row["signature"])
        lines[row["size"]] = lines.get(row["size"], "") + str(line)
    return lines


async def cosigned_cover(
    database: Database, project_id: UUID, chain_id: UUID, rows: Sequence[CheckpointRow]
) -> CheckpointRow:
    """Return the newest checkpoint with a cosignature that covers all leaves of a chain; else the newest of all."""
    position = await database.fetchval(*SQL.last_leaf_of(project_id=project_id, chain_id=chain_id))
    cosigned = {row["size"] for row in await cosignatures(database, project_id)}
    covering = [row for row in rows if row["size"] in cosigned and position is not None and row["size"] > position]
    return covering[-1] if covering else rows[-1]


async def last_size(database: Database, project_id: UUID) -> int:
    """Return the size of the last checkpoint; 0 if there is none."""
    row = await database.fetchrow(*SQL.last_checkpoint(project_id=project_id, most=None))
    return 0 if row is None else int(row["size"])


async def witnesses(database: Database, project_id: UUID) -> list[WitnessRow]:
    """Return the last answer of each witness about a project."""
    return await database.fetch(*SQL.witnesses(project_id=project_id))


async def projects(database: Database, name: str | None = None) -> list[ProjectRow]:
    """The projects, or the one of a name."""
    return await database.fetch(*SQL.projects(name=name))


async def exists(database: Database, project_id: UUID, chain_id: UUID) -> bool:
    """Return True if such a chain has ever existed."""
    first = SQL.first_record(project_id=project_id, bucket=ids.bucket_of(chain_id), chain_id=chain_id)
    return await database.fetchrow(*first) is not None

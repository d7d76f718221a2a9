"""The audit trail in Postgres, read."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.audit.rows import CheckpointRow, LeafRow, ProjectRow, RecordRow
from app.db import ids
from app.db.engine import Database
from app.db.ids import BUCKETS
from app.db.read_horizon import ReadHorizon
from app.http.pages import Page

BATCH = 5000

COLUMNS = (
    "r.project_id, r.bucket, r.chain_id, r.seq, r.at, r.action, r.turn_id, r.key_id, r.user_digest, r.address_digest, "
    "r.detail, r.content, r.previous, r.hash, r.version"
)

IN_CHAIN_ORDER = f"""
SELECT {COLUMNS}, l.hash AS leaf FROM audit_records r
LEFT JOIN audit_leaves l ON l.project_id = r.project_id AND l.chain_id = r.chain_id AND l.seq = r.seq
WHERE r.project_id = $1 AND (r.bucket, r.chain_id, r.seq) > ($2, $3, $4) AND (r.bucket, r.chain_id) <= ($5, $6)
ORDER BY r.bucket, r.chain_id, r.seq LIMIT $7
"""  # noqa: S608

LEAVES = """
SELECT position, chain_id, seq, hash FROM audit_leaves WHERE project_id = $1 AND position > $2
ORDER BY position LIMIT $3
"""

CHECKPOINTS = """
SELECT size, at, root, public_key, signature FROM audit_checkpoints WHERE project_id = $1 ORDER BY size
"""

PLACE = "SELECT at FROM audit_records WHERE project_id = $1 AND bucket = $2 AND chain_id = $3 AND seq = $4"

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
    arguments: list[Any] = [project_id, page.limit + 1]
    where = ["r.project_id = $1"]

    def narrow(condition: str, *values: object) -> None:
        if values[0] is not None:
            marks = [f"${len(arguments) + number}" for number in range(1, len(values) + 1)]
            arguments.extend(values)
            where.append(f"{condition} ({', '.join(marks)})")

    chain_id = filters.chain_id
    narrow("r.bucket =", None if chain_id is None else ids.bucket_of(chain_id))
    narrow("r.chain_id =", chain_id)
    narrow("r.action =", filters.action)
    narrow("r.key_id =", filters.key_id)
    narrow("r.user_digest =", filters.user_digest)
    narrow("r.turn_id =", filters.turn_id)
    narrow("r.at >=", filters.since)
    narrow("r.at <", filters.until)
    direction = "DESC" if descending else "ASC"
    if cursor is not None:
        found = ids.parse_record(cursor)
        place = None if found is None else await database.fetchrow(PLACE, project_id, ids.bucket_of(found[0]), *found)
        if found is None or place is None:
            raise page.bad_cursor()
        narrow(f"(r.at, r.chain_id, r.seq) {'<' if descending else '>'}", place["at"], *found)
    if not descending:
        async with database.session() as session:
            narrow("r.at <", await horizon.until(session))
    order = f"r.at {direction}, r.chain_id {direction}, r.seq {direction}"
    rows = await database.fetch(
        f"SELECT {COLUMNS} FROM audit_records r WHERE {' AND '.join(where)} ORDER BY {order} LIMIT $2",  # noqa: S608
        *arguments,
    )
    return page.cut(rows)


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
        rows = await database.fetch(IN_CHAIN_ORDER, project_id, bucket, after, seq, last_bucket, last, BATCH)
        if not rows:
            return
        yield rows
        bucket, after, seq = rows[-1]["bucket"], rows[-1]["chain_id"], rows[-1]["seq"]


async def leaves(database: Database, project_id: UUID, start: int = 0) -> AsyncIterator[list[LeafRow]]:
    """Every leaf from a position on, in their order, in batches."""
    position = start - 1
    while True:
        rows = await database.fetch(LEAVES, project_id, position, BATCH)
        if not rows:
            return
        yield rows
        position = rows[-1]["position"]


async def checkpoints(database: Database, project_id: UUID) -> list[CheckpointRow]:
    """Every checkpoint, oldest first."""
    return await database.fetch(CHECKPOINTS, project_id)


async def projects(database: Database, name: str | None = None) -> list[ProjectRow]:
    """The projects, or the one of a name."""
    return await database.fetch(
        "SELECT project_id, name FROM projects WHERE $1::text IS NULL OR name = $1 ORDER BY project_id", name
    )


async def exists(database: Database, project_id: UUID, chain_id: UUID) -> bool:
    """Whether there ever was such a chain."""
    first = "SELECT seq FROM audit_records WHERE project_id = $1 AND bucket = $2 AND chain_id = $3 LIMIT 1"
    return await database.fetchrow(first, project_id, ids.bucket_of(chain_id), chain_id) is not None

"""The audit stream: all records of a project in one fixed order, read from any position."""

from collections.abc import Callable
from typing import Literal

from app.audit import ocsf, positions
from app.audit.positions import SQL, Positions
from app.audit.rows import StreamRow
from app.db.engine import Database
from app.db.replica import ReplicaReads
from app.http.errors import BadRequest
from app.projects.auth import Caller
from app.trail.records import canonical

Format = Literal["everthread", "ocsf"]

MOST_RECORDS = 1000
"""Largest number of records in one answer."""


class AuditStream:
    def __init__(self, database: Database, reads: ReplicaReads, assigning: Positions) -> None:
        self._database = database
        self._reads = reads
        self._positions = assigning

    async def pull(self, caller: Caller, after: int, limit: int, after_hash: str | None, form: Format) -> bytes:
        """Return the records after a position, one JSON object per line.

        Raises:
            BadRequest: the position does not exist, or its record has another hash.
        """
        project_id = caller.project_id
        if after_hash is not None:
            hash_ = await self._database.fetchval(*SQL.hash_at(project_id=project_id, position=after))
            if hash_ is None or hash_.hex() != after_hash:
                raise _unknown("after_hash", f"The record at position {after} has another hash")
        rows = await self._reads.read(lambda database: positions.page(database, project_id, after, limit))
        if len(rows) < limit:
            if not rows and after > (last := await self._positions.last(project_id)):
                raise _unknown("after", f"The stream ends at position {last}")
            await self._positions.assign(project_id, limit - len(rows))
            rows = await positions.page(self._database, project_id, after, limit)
        line = LINES[form]
        return b"".join(line(row) for row in rows)


def _line(row: StreamRow) -> bytes:
    return b'{"position":%d,"hash":"%s",%s\n' % (row["position"], row["hash"].hex().encode(), canonical(row)[1:])


LINES: dict[Format, Callable[[StreamRow], bytes]] = {"everthread": _line, "ocsf": ocsf.line}


def _unknown(param: str, reason: str) -> BadRequest:
    return BadRequest(
        f"{reason}. If the database was restored from a backup, read the stream from 'after=0' again.",
        param=param,
        code="invalid_cursor",
    )

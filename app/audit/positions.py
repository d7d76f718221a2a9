"""Positions of the audit stream. Each record of a project gets one when somebody reads the stream.

A record's time does not tell when the record became visible: transactions stay open, imported threads keep their own
times, and clocks are set back. Therefore a record without a position gets the next free number, whatever its time.
Three searches find such records. Each works in bounded steps and stores its progress in `audit_streams`:

- `ahead` reads the records once in the order of time, and finds nearly all.
- `again` reads once more from the read horizon on, and finds records whose transactions were open.
- The sweep reads all records in the order of their keys, again and again. It relies neither on clocks nor on a list of
  open transactions: a visible record gets a position at the latest when the sweep passes its key, so none is lost.

Records of one chain get positions in the order of `seq`: a search that finds a record whose predecessor has no position
assigns the predecessor's first.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from sqlalchemy import TextClause
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.rows import FoundRow, StreamRow
from app.db.engine import Database
from app.db.read_horizon import ReadHorizon
from app.db.sql import statements_of
from app.trail.feed import Place

STEP = 1000
"""Number of records that one step of a search reads."""

MOST_STEPS = 5
"""Largest number of steps in one request, of `ahead` and of `again`."""

OVERLAP = timedelta(seconds=10)
"""`again` begins this long before the read horizon, so that clocks set back by less cause no delay."""

SQL = statements_of(__file__)


class Positions:
    def __init__(self, database: Database, horizon: ReadHorizon) -> None:
        self._database = database
        self._horizon = horizon
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()
        """One lock per project: requests that wait hold no connection."""

    async def assign(self, project_id: UUID, wanted: int) -> None:
        """Assign positions to about `wanted` records of a project that have none.

        One request assigns at a time; the others wait. The other searches begin after `ahead` has reached the end, so
        that a long history gets its positions in the order of time.
        """
        lock = self._locks.setdefault(project_id, asyncio.Lock())
        async with lock, self._database.session() as session:
            until = await self._horizon.until(session) - OVERLAP
            await session.execute(SQL.by_index.clause)
            state = await _locked(session, project_id, Place(until))
            search = _Search(session, project_id)
            ahead = Place(state["ahead_at"], state["ahead_chain"], state["ahead_seq"])
            ahead, at_end = await search.by_moment(ahead, wanted)
            again, next_ = Place(state["again_at"], state["again_chain"], state["again_seq"]), state["again_next"]
            swept = (state["swept_bucket"], state["swept_chain"], state["swept_seq"])
            if at_end:
                if next_ is None:  # Begin a round, not later than now: a clock may have been set back.
                    again, next_ = min(again, Place(until)), until
                again, over = await search.by_moment(again)
                if over:
                    again, next_ = Place(next_), None
                swept = await search.by_key(swept)
            await session.execute(
                SQL.keep_places.clause,
                {
                    "project_id": project_id,
                    **_named("ahead", "at", ahead),
                    **_named("again", "at", again),
                    "again_next": next_,
                    **_named("swept", "bucket", swept),
                },
            )

    async def last(self, project_id: UUID) -> int:
        """Return the highest position; 0 before the first read."""
        last: int = await self._database.fetchval(*SQL.last_position(project_id=project_id))
        return last


async def page(database: Database, project_id: UUID, after: int, limit: int) -> list[StreamRow]:
    """Return the records after a position, in order."""
    async with database.session() as session:
        await session.execute(SQL.by_index.clause)
        found: Any = await session.execute(
            SQL.stream.clause, {"project_id": project_id, "after": after, "limit": limit}
        )
        rows: list[StreamRow] = found.mappings().all()
        return rows


class _Search:
    """Steps of the three searches, in one transaction."""

    def __init__(self, session: AsyncSession, project_id: UUID) -> None:
        self.assigned = 0
        self._session = session
        self._project_id = project_id

    async def by_moment(self, place: Place, wanted: int | None = None) -> tuple[Place, bool]:
        """Continue in the order of time. Returns the new place, and True at the end of the trail.

        Args:
            wanted: stop after the step in which this number of records has got positions.
        """
        for _ in range(MOST_STEPS):
            after = {"at": place.at, "after_chain": place.chain_id, "after_seq": place.seq}
            rows = await self._rows(SQL.from_moment.clause, **after, limit=STEP)
            await self._assign_in_chains([row for row in rows if not row["placed"]])
            if rows:
                place = Place(rows[-1]["at"], rows[-1]["chain_id"], rows[-1]["seq"])
            if len(rows) < STEP:
                return place, True
            if wanted is not None and self.assigned >= wanted:
                break
        return place, False

    async def by_key(self, key: tuple[int, UUID, int]) -> tuple[int, UUID, int]:
        """Continue in the order of keys. Returns the new key; after the last one, the first."""
        after = {"bucket": key[0], "after_chain": key[1], "after_seq": key[2]}
        rows = await self._rows(SQL.from_key.clause, **after, limit=STEP)
        await self._assign([row for row in rows if not row["placed"]])
        if len(rows) < STEP:
            return -1, UUID(int=0), 0
        return rows[-1]["bucket"], rows[-1]["chain_id"], rows[-1]["seq"]

    async def _assign_in_chains(self, rows: Sequence[FoundRow]) -> None:
        """Assign positions to records, after any predecessors in their chains."""
        found = {(row["chain_id"], row["seq"]) for row in rows}
        late = {
            row["chain_id"]
            for row in rows
            if not row["preceded"] and (row["chain_id"], row["seq"] - 1) not in found
        }  # fmt: skip
        if late:
            last = {row["chain_id"]: row for row in sorted(rows, key=_key) if row["chain_id"] in late}
            columns = {"buckets": _column(last.values(), "bucket"), "seqs": _column(last.values(), "seq")}
            before = await self._rows(SQL.up_to.clause, chains=list(last), **columns, limit=STEP)
            rows = [*before, *(row for row in rows if row["chain_id"] not in late)]
        await self._assign(_in_order(rows))

    async def _assign(self, rows: Sequence[FoundRow]) -> None:
        if rows:
            columns = {
                "buckets": _column(rows, "bucket"), "chains": _column(rows, "chain_id"), "seqs": _column(rows, "seq")
            }  # fmt: skip
            await self._session.execute(SQL.assign.clause, {"project_id": self._project_id, **columns})
            self.assigned += len(rows)

    async def _rows(self, statement: TextClause, **arguments: Any) -> Sequence[FoundRow]:
        found: Any = await self._session.execute(statement, {"project_id": self._project_id, **arguments})
        rows: Sequence[FoundRow] = found.mappings().all()
        return rows


async def _locked(session: AsyncSession, project_id: UUID, settled: Place) -> Any:
    """Lock the stream of a project until the transaction ends, and return the progress of its searches."""
    this = {"project_id": project_id}
    while (row := (await session.execute(SQL.lock_stream.clause, this)).mappings().first()) is None:
        await session.execute(SQL.begin_stream.clause, {**this, "again_at": settled.at})
    return row


def _in_order(rows: Sequence[FoundRow]) -> list[FoundRow]:
    """Sort records by time. Records of one chain stay in the order of `seq`."""
    latest: dict[UUID, Any] = {}
    moments = []
    for row in sorted(rows, key=_key):
        chain = row["chain_id"]
        latest[chain] = max(row["at"], latest.get(chain, row["at"]))
        moments.append((latest[chain], chain, row["seq"], row))
    return [row for *_, row in sorted(moments, key=lambda each: each[:3])]


def _key(row: FoundRow) -> tuple[UUID, int]:
    return row["chain_id"], row["seq"]


def _column(rows: Iterable[FoundRow], name: str) -> list[Any]:
    return [row[name] for row in rows]  # type: ignore[literal-required]


def _named(search: str, first: str, place: tuple[Any, UUID, int]) -> dict[str, Any]:
    return {f"{search}_{first}": place[0], f"{search}_chain": place[1], f"{search}_seq": place[2]}

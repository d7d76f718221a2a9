"""Outcomes of turns per hour: errors by their meaning, and how long answers took.

Each worker counts in memory and adds its counts to the sums in Postgres from time to time. No turn waits for that, and
a worker that dies loses the counts that it has not written.
"""

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypedDict
from uuid import UUID

from app.db.engine import Database
from app.db.sql import statements_of
from app.http.errors import DatabaseUnavailable
from app.process.background import WriteBehind

BOUNDS = (
    50, 70, 100, 140, 200, 280, 400, 560, 800, 1100, 1600, 2200, 3200, 4500, 6400, 9000, 13_000, 18_000, 25_000, 36_000,
    50_000, 72_000, 100_000, 200_000, 400_000, 800_000,
)  # fmt: skip
"""Milliseconds: a place of a histogram counts what took so long at most, and longer than the place before."""

MOST_KINDS = 5000
"""Largest number of kinds that a worker counts between two writes."""

SQL = statements_of(__file__)

Kind = tuple[UUID, int, str, str]
"""Project, the hour's beginning in Unix seconds, model, outcome."""


def added(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Two histograms as one."""
    return [a + b for a, b in zip(one, other, strict=True)]


@dataclass(slots=True)
class Sums:
    turns: int = 0
    durations: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    first_words: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def with_more(self, other: "Sums") -> "Sums":
        return Sums(
            self.turns + other.turns, added(self.durations, other.durations), added(self.first_words, other.first_words)
        )


class HourRow(TypedDict):
    hour: datetime
    model: str | None
    outcome: str | None
    turns: int
    failed_turns: int
    durations: list[int]
    first_words: list[int]


class TurnHours(WriteBehind):
    what = "statistics of turns"

    def __init__(self, database: Database, *, every_seconds: float) -> None:
        super().__init__(every_seconds=every_seconds)
        self._database = database
        self._sums: dict[Kind, Sums] = {}

    def ended(self, project_id: UUID, model: str, outcome: str, milliseconds: int, first_word: int | None) -> None:
        """A turn has ended.

        Args:
            outcome: its status; of one that has failed, the meaning of its error.
            milliseconds: how long it took; `first_word`, how long the first word of its stream.
        """
        kind = (project_id, int(time.time()) // 3600 * 3600, model, outcome)
        sums = self._sums.get(kind)
        if sums is None:
            if len(self._sums) >= MOST_KINDS:
                return
            sums = self._sums[kind] = Sums()
        sums.turns += 1
        sums.durations[bisect_left(BOUNDS, milliseconds)] += 1
        if first_word is not None:
            sums.first_words[bisect_left(BOUNDS, first_word)] += 1

    async def write(self) -> None:
        while self._sums:
            kind = next(iter(self._sums))
            sums = self._sums.pop(kind)
            project_id, hour, model, outcome = kind
            try:
                at = datetime.fromtimestamp(hour, UTC)
                await self._database.fetch(
                    *SQL.add_hour(
                        project_id=project_id,
                        hour=at,
                        model=model,
                        outcome=outcome,
                        turns=sums.turns,
                        durations=sums.durations,
                        first_words=sums.first_words,
                    )
                )
            except DatabaseUnavailable:
                self._sums[kind] = sums.with_more(self._sums.get(kind, Sums()))
                raise


async def listed(
    database: Database,
    project_id: UUID,
    since: datetime,
    until: datetime,
    limit: int,
    *,
    group_by: str | None = None,
    model: str | None = None,
) -> list[HourRow]:
    """Return the turns of each hour that begins in a range, by model and outcome; with `group_by`, hour or day, all."""
    span = {"project_id": project_id, "since": since, "until": until, "model": model, "limit": limit}
    if group_by is None:
        return await database.fetch(*SQL.hours(**span))
    return await database.fetch(*SQL.summed_hours(**span, unit=group_by))


def percentile(histogram: Sequence[int], share: float) -> int | None:
    """Within how many milliseconds a share of what was counted has come; None where nothing was, or it is not known."""
    wanted = share * sum(histogram)
    seen = 0
    for bound, count in zip(BOUNDS, histogram, strict=False):
        seen += count
        if count and seen >= wanted:
            return bound
    return None


def shown(row: HourRow) -> dict[str, Any]:
    return {
        "object": "usage.hour",
        "id": f"{int(row['hour'].timestamp())}",
        "hour": int(row["hour"].timestamp()),
        "model": row["model"],
        "outcome": row["outcome"],
        "turns": row["turns"],
        "failed_turns": row["failed_turns"],
        **{f"p{share}_ms": percentile(row["durations"], share / 100) for share in (50, 95, 99)},
        **{f"first_word_p{share}_ms": percentile(row["first_words"], share / 100) for share in (50, 95, 99)},
        "durations": row["durations"],
        "first_words": row["first_words"],
    }

"""Turns whose opening Postgres has not confirmed: they may have been opened, and their clients were told to retry."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar
from uuid import UUID

from app.db import ids

T = TypeVar("T")

MOST_KEPT = 1000

LEASES = 10
"""Number of leases after which a turn is forgotten. An older one that was opened after all has an expired lease, and
is closed for that."""


class Unconfirmed(Generic[T]):
    def __init__(self, *, lease_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._lease_seconds = lease_seconds
        self._now = now
        self._turns: dict[UUID, tuple[T, float]] = {}
        """Each turn and when it was added, oldest first."""

    def add(self, turn_id: UUID, turn: T) -> None:
        """Add a turn. Where there are too many, the oldest one is forgotten."""
        self._turns[turn_id] = turn, self._now()
        self._forget_old()
        if len(self._turns) > MOST_KEPT:
            del self._turns[next(iter(self._turns))]

    def of(self, bucket: int | None) -> list[T]:
        """Return the turns in a bucket; all of them if it is None."""
        self._forget_old()
        return [turn for id_, (turn, _) in self._turns.items() if bucket in (None, ids.bucket_of(id_))]

    def may_appear(self, turn_id: UUID) -> bool:
        """True if a statement that Postgres is still at may open the turn yet."""
        return turn_id in self._turns and self._now() <= self._turns[turn_id][1] + self._lease_seconds

    def discard(self, turn_id: UUID) -> None:
        self._turns.pop(turn_id, None)

    def _forget_old(self) -> None:
        oldest = self._now() - LEASES * self._lease_seconds
        for id_, (_, added) in list(self._turns.items()):
            if added >= oldest:
                return
            del self._turns[id_]

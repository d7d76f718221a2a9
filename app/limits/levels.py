"""Levels of limits: the used amount of each, for display only. Nothing is taken or refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from app.cache.client import Cache
from app.limits.rules import MICRO, Asks, Rule, Whose, month_end, rules
from app.limits.spent import NO_CURRENCY
from app.projects.settings import NO_LIMITS, NO_SETTINGS, KeyLimits, ProjectSettings

LEVELS = Path(__file__).with_name("levels.lua").read_bytes()

OF_A_MONTH = ("tokens_per_month", "cost_per_month")


@dataclass(frozen=True, slots=True, eq=False)
class Holder:
    """Holder of limits: a project, a key or an end user."""

    whose: Whose
    settings: ProjectSettings
    key_id: UUID | None = None
    key_limits: KeyLimits = NO_LIMITS
    user: str | None = None

    def rules(self, project_id: UUID, month: str, currencies: Sequence[str]) -> list[Rule]:
        """Return the limits that are set."""
        settings = NO_SETTINGS if self.whose == "key" else self.settings
        asks = Asks(project_id, self.key_id, self.user, settings, self.key_limits, lambda: 0)
        return [rule for rule in rules(asks, month, currencies) if rule.whose == self.whose and rule.name]


@dataclass(frozen=True, slots=True)
class Level:
    """One limit with its used amount."""

    holder: Holder
    name: str
    """Name of the field of `Limits`."""
    limit: float
    used: float | None
    """None if it is unknown."""
    resets_at: float | None
    """Unix time at which all of it is free again if nothing else is used; None if it does not become free with time."""
    currency: str | None = None

    @property
    def share(self) -> float | None:
        return None if self.used is None else self.used / self.limit


async def levels(
    cache: Cache, project_id: UUID, holders: Sequence[Holder], currencies: Sequence[str], now: datetime
) -> list[Level]:
    """Return the levels of all limits of calls that are set for holders, by one Redis command.

    A monthly limit is unknown until the first request that counts towards it.

    Raises:
        RedisError, OSError: Redis is unavailable.
    """
    met = _met(project_id, holders, currencies, now)
    if not met:
        return []
    words = [word for _, rule in met for word in (rule.kind, rule.limit)]
    answer: list[int] = await cache.execute(("EVAL", LEVELS, len(met), *(rule.key for _, rule in met), *words))
    pairs = zip(answer[::2], answer[1::2], strict=True)
    return [_level(holder, rule, now, used, frees) for (holder, rule), (used, frees) in zip(met, pairs, strict=True)]


def unknown_levels(
    project_id: UUID, holders: Sequence[Holder], running: Mapping[Holder, int], now: datetime
) -> list[Level]:
    """Return the levels of the same limits that are known without Redis.

    Args:
        running: the number of turns in progress of each holder.
    """
    return [
        _level(holder, rule, now, running.get(holder, 0) if rule.kind == "running" else -1, 0)
        for holder, rule in _met(project_id, holders, (NO_CURRENCY,), now)
    ]


def _met(
    project_id: UUID, holders: Sequence[Holder], currencies: Sequence[str], now: datetime
) -> list[tuple[Holder, Rule]]:
    month = f"{now.astimezone(UTC):%Y%m}"
    return [(holder, rule) for holder in holders for rule in holder.rules(project_id, month, currencies)]


def _level(holder: Holder, rule: Rule, now: datetime, used: int, frees: int) -> Level:
    unit = MICRO if rule.name == "cost_per_month" else 1
    resets: float | None = None
    if rule.name in OF_A_MONTH:
        resets = month_end(now).timestamp()
    elif frees:
        resets = round(now.timestamp() + frees / 1000)
    known: Any = None if used < 0 else used / unit if unit > 1 else used
    limit = rule.limit / unit if unit > 1 else rule.limit
    currency = rule.currency if rule.currency not in ("", NO_CURRENCY) else None
    return Level(holder, rule.name, limit, known, resets, currency)

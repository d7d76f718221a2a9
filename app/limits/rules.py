"""Which limits a request meets: those of its project, of its key, and of its end user."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from app.projects.auth import Caller
from app.projects.settings import KeyLimits, ProjectSettings, Rates
from app.projects.user_tokens import user_hash

Kind = Literal["bucket", "running", "month"]
Whose = Literal["project", "key", "user"]

NOTHING = Rates()

TOKENS_PER_MINUTE = "tokens_per_minute"

MICRO = 1_000_000
"""Money is counted in millionths."""


@dataclass(frozen=True, slots=True)
class Asks:
    """Who asks a model, and for how much."""

    project_id: UUID
    key_id: UUID | None
    user: str | None
    settings: ProjectSettings
    key_limits: KeyLimits
    tokens: Callable[[], int]
    """What it sends, estimated: asked for only where it is counted."""

    @property
    def limits(self) -> tuple[tuple[Whose, Rates], ...]:
        of_user = self.settings.user_limits if self.user is not None else NOTHING
        return (("project", self.settings.limits), ("key", self.key_limits), ("user", of_user))


def asks_of(caller: Caller, tokens: int) -> Asks:
    """What a caller asks for outside of any turn."""
    grant = caller.grant
    return Asks(grant.project_id, grant.key_id, grant.user, grant.settings, grant.key_limits, lambda: tokens)


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit that a request meets."""

    whose: Whose
    name: str
    """Of the field of `Limits`."""
    kind: Kind
    key: str
    """In Redis: all of a project's in one slot of a cluster."""
    limit: int


NO_LIMIT = 2**53


def rules(asks: Asks, month: str) -> list[Rule]:
    """The limits that are set. The first one is of running turns, with which a turn's end is told once: where none of
    those is set, one that lets in everybody.

    Args:
        month: in UTC, as 202611.
    """
    met = [rule for whose, limits in asks.limits for rule in _of(asks, whose, limits, month)]
    if met and not any(rule.kind == "running" for rule in met):
        met.append(Rule("project", "", "running", f"{_base(asks.project_id)}:all", NO_LIMIT))
    return sorted(met, key=lambda rule: rule.kind != "running")


def _of(asks: Asks, whose: Whose, limits: Rates, month: str) -> Iterator[Rule]:
    base = f"{_base(asks.project_id)}:{_who(asks, whose)}"
    if limits.requests_per_minute is not None:
        yield Rule(whose, "requests_per_minute", "bucket", f"{base}:requests", limits.requests_per_minute)
    if limits.tokens_per_minute is not None:
        yield Rule(whose, TOKENS_PER_MINUTE, "bucket", f"{base}:tokens", limits.tokens_per_minute)
    if limits.turns_at_once is not None:
        yield Rule(whose, "turns_at_once", "running", f"{base}:running", limits.turns_at_once)
    if limits.tokens_per_month is not None:
        yield Rule(whose, "tokens_per_month", "month", f"{base}:{month}:tokens", limits.tokens_per_month)
    if limits.cost_per_month is not None:
        limit = max(1, int(limits.cost_per_month * MICRO))
        yield Rule(whose, "cost_per_month", "month", f"{base}:{month}:cost", limit)


def _base(project_id: UUID) -> str:
    return f"everthread:limits:{{{project_id.hex}}}"


def _who(asks: Asks, whose: Whose) -> str:
    match whose:
        case "project":
            return "project"
        case "key":
            return "key" if asks.key_id is None else asks.key_id.hex
        case "user":
            return f"u{user_hash(asks.user or '')}"  # Nobody reads a user's name in Redis.


def month_of(now: datetime) -> datetime:
    """When its calendar month began."""
    return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def left_of_month(now: datetime) -> int:
    """Seconds until the next one begins."""
    began = month_of(now)
    ends = began.replace(year=began.year + began.month // 12, month=began.month % 12 + 1)
    return int((ends - now).total_seconds()) + 1

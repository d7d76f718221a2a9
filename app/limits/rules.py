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
    takes: int
    """Of a bucket: what a request takes. Of a month: how many milliseconds it has left."""


def rules(asks: Asks, now: datetime) -> list[Rule]:
    """The limits that are set."""
    return [rule for whose, limits in asks.limits for rule in _of(asks, whose, limits, now)]


def _of(asks: Asks, whose: Whose, limits: Rates, now: datetime) -> Iterator[Rule]:
    base = f"everthread:limits:{{{asks.project_id.hex}}}:{_who(asks, whose)}"
    if limits.requests_per_minute is not None:
        yield Rule(whose, "requests_per_minute", "bucket", f"{base}:requests", limits.requests_per_minute, 1)
    if limits.tokens_per_minute is not None:
        yield Rule(whose, "tokens_per_minute", "bucket", f"{base}:tokens", limits.tokens_per_minute, asks.tokens())
    if limits.turns_at_once is not None:
        yield Rule(whose, "turns_at_once", "running", f"{base}:running", limits.turns_at_once, 1)
    month = f"{now:%Y%m}"
    if limits.tokens_per_month is not None:
        left = _left_of_month(now)
        yield Rule(whose, "tokens_per_month", "month", f"{base}:{month}:tokens", limits.tokens_per_month, left)
    if limits.cost_per_month is not None:
        limit, left = max(1, int(limits.cost_per_month * MICRO)), _left_of_month(now)
        yield Rule(whose, "cost_per_month", "month", f"{base}:{month}:cost", limit, left)


def running_key(project_id: UUID) -> str:
    """The set of a project's running turns that have limits."""
    return f"everthread:limits:{{{project_id.hex}}}:all"


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


def _left_of_month(now: datetime) -> int:
    """Milliseconds."""
    began = month_of(now)
    ends = began.replace(year=began.year + began.month // 12, month=began.month % 12 + 1)
    return int((ends - now).total_seconds() * 1000)

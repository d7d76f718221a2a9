"""Rules that apply to a request: the limits of its project, of its key, and of its end user."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from app.process.values import value
from app.projects.auth import Caller
from app.projects.settings import KeyLimits, ProjectSettings, Rates
from app.projects.user_tokens import user_hash

Kind = Literal["bucket", "running", "month"]
Whose = Literal["project", "key", "user"]

NOTHING = Rates()

TOKENS_PER_MINUTE = "tokens_per_minute"

MICRO = 1_000_000
"""Money is counted in millionths."""


@value
class Asks:
    """Caller of a model, and the size of the request."""

    project_id: UUID
    key_id: UUID | None
    user: str | None
    settings: ProjectSettings
    key_limits: KeyLimits
    tokens: Callable[[], int]
    """Estimated tokens of the request, computed only where a limit counts them."""
    frame: Callable[[], int] = lambda: 0
    """Tokens of what is sent besides the new input: instructions, tools, parameters."""
    output: int | None = None
    """The most tokens that the answer may have, where the request says so."""
    model: str = ""
    history: UUID | None = None
    """The turn or the thread whose history is sent too; None where nothing goes before the input."""

    @property
    def limits_money(self) -> bool:
        project, user = self.settings.limits, self.settings.user_limits
        return (
            project.cost_per_month is not None
            or self.key_limits.cost_per_month is not None
            or (self.user is not None and user.cost_per_month is not None)
        )

    @property
    def limits(self) -> tuple[tuple[Whose, Rates], ...]:
        of_user = self.settings.user_limits if self.user is not None else NOTHING
        return (("project", self.settings.limits), ("key", self.key_limits), ("user", of_user))


def asks_of(
    caller: Caller,
    tokens: int,
    user: str | None = None,
    *,
    model: str = "",
    output: int | None = None,
    history: UUID | None = None,
) -> Asks:
    """Return what a caller asks for outside any turn.

    Args:
        tokens: an estimate of what it sends.
        user: the end user that the request names, see `user_of`.
    """
    grant = caller.grant
    return Asks(
        grant.project_id,
        grant.key_id,
        grant.user or user,
        grant.settings,
        grant.key_limits,
        lambda: tokens,
        output=output,
        model=model,
        history=history,
    )


LONGEST_USER = 256


def user_of(params: Mapping[str, Any]) -> str | None:
    """Return the end user that a request's parameters name, as OpenAI's clients name one."""
    for name in ("safety_identifier", "user"):
        if name in params and isinstance(given := params[name], str) and 0 < len(given) <= LONGEST_USER:
            return given
    return None


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit that a request meets."""

    whose: Whose
    name: str
    """Name of the field of `Limits`."""
    kind: Kind
    key: str
    """In Redis: all of a project's in one slot of a cluster."""
    limit: int
    currency: str = ""
    """Empty except for a cost limit, which counts each currency separately."""


NO_LIMIT = 2**53


PER_REQUEST = ("requests_per_minute", "turns_at_once")


def rules(asks: Asks, month: str, currencies: Sequence[str] = (), *, background: bool = False) -> list[Rule]:
    """The limits that are set. The first one is of running turns, with which a turn's end is told once: where none of
    those is set, one that lets in everybody.

    Args:
        month: in UTC, as 202611.
        currencies: those in which the request may be charged.
        background: for a call that the service makes by itself. It is no request of the user's and no turn, and meets
            only the limits of tokens and money.
    """
    met = [
        rule
        for whose, limits in asks.limits
        for rule in _of(asks, whose, limits, month, currencies)
        if not (background and rule.name in PER_REQUEST)
    ]
    if met and not any(rule.kind == "running" for rule in met):
        met.append(Rule("project", "", "running", f"{_base(asks.project_id)}:all", NO_LIMIT))
    return sorted(met, key=lambda rule: rule.kind != "running")


ADMIN_REQUESTS_PER_MINUTE = "admin_requests_per_minute"

MOST_ADMIN_REQUESTS = 600
"""Requests a minute to the admin routes, for each project but the one that operates the service. It is fixed, and not
the project's own to reach: whatever its limits are, its admins can take back what they have set."""


def admin_rules(project_id: UUID) -> list[Rule]:
    key = f"{_base(project_id)}:admin"
    return [Rule("project", ADMIN_REQUESTS_PER_MINUTE, "bucket", key, MOST_ADMIN_REQUESTS)]


def _of(asks: Asks, whose: Whose, limits: Rates, month: str, currencies: Sequence[str]) -> Iterator[Rule]:
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
        for currency in currencies:
            yield Rule(whose, "cost_per_month", "month", f"{base}:{month}:cost:{currency}", limit, currency)


def history_key(project_id: UUID, id_: UUID) -> str:
    """Return the key in Redis of the size of a turn's or a thread's history."""
    return f"{_base(project_id)}:history:{id_.hex}"


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


def month_end(now: datetime) -> datetime:
    """Return the beginning of the next calendar month."""
    began = month_of(now)
    return began.replace(year=began.year + began.month // 12, month=began.month % 12 + 1)


def left_of_month(now: datetime) -> int:
    """Seconds until the next one begins."""
    return int((month_end(now) - now).total_seconds()) + 1

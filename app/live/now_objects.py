"""API objects of a project's present state: running turns, queues, throttled accounts and limits."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from typing_extensions import TypedDict

from app.db import ids
from app.limits.levels import Level
from app.live.worker_reports import OpenBreaker, Report, RunningTurn
from app.projects.keys import key_id
from app.sealing.columns import TITLES

MOST_COUNTED = 1001
"""Bound of each list that is read. A count that reaches it is shown as more than a thousand."""

MOST_NEAR = 20
"""Maximum number of keys' and of users' limits in a snapshot: the most used ones."""

NEAR = 0.8
"""Used share from which a limit is near its bound."""

LONGEST_TITLE = 200

TurnState = Literal["starting", "waiting", "retrying", "answering", "closing", "lost", "running"]

Unknown = Literal["workers", "limits"]


class NowRow(TypedDict):
    settings: dict[str, Any]
    operates: bool
    keys: list[dict[str, Any]]
    turns: list[dict[str, Any]]
    users: list[str]
    waiting: list[str]
    deliveries: int
    retried: int
    deliveries_since: float | None
    purges: int
    purges_since: float | None
    compactions: int


class Reported(TypedDict):
    """Fields of a turn that only its worker knows and reports."""

    account: str | None
    """The provider account that was called last; null before the first call, or if its worker has not reported."""
    state: TurnState
    """`running`: its worker has not reported. `lost`: its worker has died."""
    background: bool | None
    calls: int | None
    """Number of calls to the provider that ended without an answer."""
    first_word_ms: int | None
    streamed_chars: int | None


class NowTurn(Reported):
    id: str
    thread_id: str | None
    """Null for a turn that is not stored."""
    thread_title: str | None
    user: str | None
    model: str
    key_id: str | None
    """Null for other keys' turns if the caller lacks the scope `admin`."""
    since: float
    """Unix seconds."""
    beside: bool
    cancelling: bool
    waiting: int
    """Number of requests that wait for its thread."""
    worker: str | None


class NowQueue(TypedDict):
    name: Literal["threads", "webhooks", "purges", "compactions", "closings"]
    waiting: int
    more: bool
    """True if there are more than `waiting`."""
    retried: int | None
    since: float | None
    """Time at which the oldest entry was added; null if unknown."""


class NowThrottled(TypedDict):
    account_id: str | None
    """Null for the account of the environment."""
    account: str
    """Its name; `settings` for the account of the environment."""
    endpoint: str
    """The account as turns name it."""
    model: str
    state: Literal["open", "half_open"]
    """`open`: no turn uses it before `retry_at`. `half_open`: the next turn uses it."""
    reason: str | None
    retry_at: float
    workers: int
    """Number of workers that report it."""


class NowLimit(TypedDict):
    whose: Literal["project", "key", "user"]
    key_id: str | None
    key_name: str | None
    user: str | None
    name: str
    limit: float
    used: float | None
    """Null if it is unknown."""
    share: float | None
    near: bool
    """True from 80 % on."""
    resets_at: float | None
    currency: str | None


class NowTurns(TypedDict):
    count: int
    more: bool
    data: list[NowTurn]


class NowObject(TypedDict):
    object: Literal["now"]
    project: str
    at: float
    turns: NowTurns
    queues: list[NowQueue]
    throttled: list[NowThrottled] | None
    """Null for a key without the scope `admin`."""
    limits: list[NowLimit]
    workers: int
    """Number of workers whose reports are included."""
    unknown: list[Unknown]
    """Parts that could not be read because Redis is unavailable."""


def running_turns(project_id: UUID, row: NowRow, reports: dict[UUID, Report], only_key: UUID | None) -> list[NowTurn]:
    """Return the running turns, the longest-running first.

    Args:
        only_key: the only key whose id is shown; None for all.
    """
    reported = {turn["id"]: (worker, turn) for worker, report in reports.items() for turn in report["turns"]}
    waiting = Counter(row["waiting"])
    found: list[NowTurn] = []
    for each in row["turns"]:
        turn_id, thread_id = UUID(each["id"]), UUID(each["thread_id"])
        _, report = reported.pop(turn_id.hex, (None, None))
        title = TITLES.opened(project_id, {"id": thread_id, "title": each["title"]})["title"]
        found.append({
            "id": ids.turn_id(turn_id), "thread_id": ids.thread_id(thread_id),
            "thread_title": None if title is None else title[:LONGEST_TITLE], "user": each["user_id"],
            "model": each["model"], **_reported(report, lost=each["lost"]),
            "key_id": _key_id(each["api_key_id"], only_key),
            "since": round(each["since"], 3), "beside": each["beside"], "cancelling": each["cancelling"],
            "waiting": waiting[each["thread_id"]], "worker": each["worker_id"][:8] if each["worker_id"] else None,
        })  # fmt: skip
    for worker, turn in reported.values():
        if not turn["stored"]:
            found.append({
                "id": ids.turn_id(UUID(turn["id"])), "thread_id": None, "thread_title": None, "user": None,
                "model": turn["model"], **_reported(turn, lost=False), "key_id": None, "since": turn["since"],
                "beside": False, "cancelling": False, "waiting": 0, "worker": str(worker)[:8],
            })  # fmt: skip
    return sorted(found, key=lambda turn: turn["since"])


def _key_id(given: str | None, only_key: UUID | None) -> str | None:
    return key_id(UUID(given)) if given is not None and only_key in (None, UUID(given)) else None


def _reported(turn: RunningTurn | None, *, lost: bool) -> Reported:
    """Return the fields of a turn that its worker has reported."""
    if turn is None:
        state: TurnState = "lost" if lost else "running"
        return {
            "account": None, "state": state, "background": None, "calls": None, "first_word_ms": None,
            "streamed_chars": None,
        }  # fmt: skip
    if turn["closing"]:
        state = "closing"
    elif turn["first_word_ms"] is not None:
        state = "answering"
    elif turn["account"] is None:
        state = "starting"
    else:
        state = "retrying" if turn["calls"] else "waiting"
    return {
        "account": turn["account"], "state": state, "background": turn["background"], "calls": turn["calls"],
        "first_word_ms": turn["first_word_ms"], "streamed_chars": turn["chars"],
    }  # fmt: skip


def shown_queues(row: NowRow, reports: dict[UUID, Report]) -> list[NowQueue]:
    closings = {closing for report in reports.values() for closing in report["closings"]}
    return [
        _queue("threads", len(row["waiting"])),
        _queue("webhooks", row["deliveries"], row["retried"], row["deliveries_since"]),
        _queue("purges", row["purges"], since=row["purges_since"]),
        _queue("compactions", row["compactions"]),
        _queue("closings", len(closings)),
    ]


def _queue(name: Any, waiting: int, retried: int | None = None, since: float | None = None) -> NowQueue:
    return {
        "name": name, "waiting": min(waiting, MOST_COUNTED - 1), "more": waiting >= MOST_COUNTED, "retried": retried,
        "since": since,
    }  # fmt: skip


def throttled(breakers: Sequence[OpenBreaker]) -> NowThrottled:
    """Combine the reports of several workers on one account and model."""
    last = max(breakers, key=lambda each: each["until"])
    return {
        "account_id": None if last["account_id"] is None else f"acct_{last['account_id']}",
        "account": last["account"],
        "endpoint": last["shown"],
        "model": last["model"],
        "state": "half_open" if all(each["probing"] for each in breakers) else "open",
        "reason": last["why"],
        "retry_at": last["until"],
        "workers": len(breakers),
    }


def shown_limits(levels: Sequence[Level], row: NowRow, only_key: UUID | None) -> list[NowLimit]:
    """Return all limits of the project, and those of keys and users that are near their bound.

    Args:
        only_key: the only key whose limits are shown; None for all.
    """
    found = [level for level in levels if level.holder.whose == "project"]
    near = sorted((level for level in levels if (level.share or 0) >= NEAR), key=lambda level: -(level.share or 0))
    for whose in ("key", "user"):
        those = [level for level in near if level.holder.whose == whose]
        if whose == "key" and only_key is not None:
            those = [level for level in those if level.holder.key_id == only_key]
        found += those[:MOST_NEAR]
    names = {UUID(key["id"]): key["name"] for key in row["keys"]}
    return [_limit(level, names) for level in found]


def _limit(level: Level, names: dict[UUID, str]) -> NowLimit:
    holder, share = level.holder, level.share
    return {
        "whose": holder.whose, "key_id": None if holder.key_id is None else key_id(holder.key_id),
        "key_name": None if holder.key_id is None else names[holder.key_id], "user": holder.user, "name": level.name,
        "limit": level.limit, "used": level.used, "share": None if share is None else round(share, 4),
        "near": (share or 0) >= NEAR, "resets_at": level.resets_at, "currency": level.currency,
    }  # fmt: skip

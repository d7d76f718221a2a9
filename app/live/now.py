"""A project's present state: running turns, queues, throttled accounts, and limits near their bound.

Each worker reads a watched project's state at most once a second, by one SQL statement and one Redis command, for all
viewers together. Facts that only other workers know arrive in their reports (worker_reports.py).
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import structlog
from redis.exceptions import RedisError

from app.accounts.pool import Accounts
from app.cache.client import Cache
from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.http.errors import DatabaseUnavailable, NotFound, TooManyRequests
from app.limits.levels import Holder, Level, levels, unknown_levels
from app.limits.spent import NO_CURRENCY, currency_of
from app.live.now_objects import (
    MOST_COUNTED,
    NowObject,
    NowRow,
    NowThrottled,
    Unknown,
    running_turns,
    shown_limits,
    shown_queues,
    throttled,
)
from app.live.worker_reports import OpenBreaker, Report, WorkerReports
from app.projects.auth import Caller
from app.projects.settings import KeyLimits, ProjectSettings, parse_settings
from app.projects.user_tokens import user_hash
from app.provider.models import Models

log = structlog.get_logger()

SECONDS = 1.0
"""Minimum time between two reads of a project's state."""

AWAY_SECONDS = 2.0

KEPT_SECONDS = 10.0
"""Time after the last view for which a project stays watched."""

MOST_TURNS = 100
"""Running turns in a snapshot, those that run longest."""

MOST_KEYS = 100
MOST_ACTIVE = 100
"""Number of keys, and of the threads that were active last and whose users' limits are read."""

MOST_VIEWERS = 100
"""Streams of one project in one worker."""

SQL = statements_of(__file__)


@dataclass(frozen=True, slots=True)
class _State:
    """A project's state, for every caller."""

    at: float
    row: NowRow
    reports: dict[UUID, Report]
    limits: Sequence[Level]
    unknown: list[Unknown]
    account_ids: frozenset[str | None]
    """Ids of the accounts that the project uses."""
    own_ids: frozenset[str | None]
    """Ids of those that are its own."""
    shown: dict[tuple[UUID, bool], NowObject] = field(default_factory=dict)
    """The state as callers see it, by key and admin scope."""


class _Watched:
    """A project with viewers."""

    def __init__(self) -> None:
        self.viewers = 0
        self.until = 0.0
        self.state: _State | None = None
        self.reading: asyncio.Task[_State] | None = None
        self.read = asyncio.Event()
        """Set with each new state, and replaced by a fresh one."""
        self.ended = False


class Now:
    def __init__(
        self,
        database: Database,
        cache: Cache,
        accounts: Accounts,
        models: Models,
        reports: WorkerReports,
        *,
        worker_id: UUID,
        closing: threading.Event,
    ) -> None:
        """Args: closing: set when the process accepts no more requests; streams then end."""
        self._database = database
        self._cache = cache
        self._accounts = accounts
        self._models = models
        self._reports = reports
        self._worker_id = worker_id
        self._closing = closing
        self._watched: dict[UUID, _Watched] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        prices = [price for family in [*models.families(), models.of("")] for price in family.all_prices]
        self._currencies = sorted({currency_of(price) for price in prices} | {NO_CURRENCY})

    async def snapshot(self, caller: Caller) -> NowObject:
        """Return the state of the caller's project, at most a second old.

        Raises:
            DatabaseUnavailable: Postgres is unavailable.
        """
        watched = self._watch(caller.project_id)
        return self._shown(await self._fresh(caller.project_id, watched), caller)

    def frames(self, caller: Caller) -> AsyncIterator[bytes]:
        """Return a stream of snapshots: the first at once, another one after each change.

        Raises:
            TooManyRequests: the project has the maximum number of streams in this worker.
        """
        watched = self._watch(caller.project_id)
        if watched.viewers >= MOST_VIEWERS:
            raise TooManyRequests(
                f"This project has {MOST_VIEWERS} streams of /v1/now/events in this worker, the maximum. Close some.",
                code="too_many_streams",
                headers={"Retry-After": "10"},
            )
        return self._follow(watched, caller)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, watched: _Watched, caller: Caller) -> AsyncIterator[bytes]:
        watched.viewers += 1
        last: dict[str, Any] | None = None
        try:
            with suppress(DatabaseUnavailable):  # The first snapshot comes when Postgres is back.
                await self._fresh(caller.project_id, watched)
            while not watched.ended:
                read = watched.read
                if watched.state is not None:
                    shown = self._shown(watched.state, caller)
                    what = {**shown, "at": None}
                    if what != last:
                        last = what
                        yield b"event: snapshot\ndata: %b\n\n" % orjson.dumps({"type": "snapshot", **shown})
                await read.wait()
        finally:
            watched.viewers -= 1
            watched.until = time.monotonic() + KEPT_SECONDS

    def _watch(self, project_id: UUID) -> _Watched:
        watched = self._watched.get(project_id)
        if watched is None:
            watched = self._watched[project_id] = _Watched()
            self._reports.watch(project_id)
            # In an empty context: it belongs to no request.
            task = asyncio.get_running_loop().create_task(self._keep(project_id, watched), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        watched.until = time.monotonic() + KEPT_SECONDS
        return watched

    async def _keep(self, project_id: UUID, watched: _Watched) -> None:
        """Read a project's state each second while it has streams. Stop watching it some time after the last view."""
        try:
            while not self._closing.is_set() and (watched.viewers or time.monotonic() < watched.until):
                if watched.viewers:
                    try:
                        await self._fresh(project_id, watched)
                    except DatabaseUnavailable:
                        log.warning("Postgres is unavailable; streams of /v1/now/events continue when it is back")
                        await asyncio.sleep(AWAY_SECONDS)
                    except NotFound:
                        break  # The project was deleted: its keys have ended, too.
                    woken, watched.read = watched.read, asyncio.Event()
                    woken.set()
                await asyncio.sleep(SECONDS)
        finally:
            watched.ended = True
            watched.read.set()
            self._reports.leave(project_id)
            if self._watched.get(project_id) is watched:
                del self._watched[project_id]

    async def _fresh(self, project_id: UUID, watched: _Watched) -> _State:
        """Return the state. Concurrent callers share one read."""
        state = watched.state
        if state is not None and time.time() - SECONDS * 0.9 < state.at <= time.time():
            return state
        if watched.reading is None:
            watched.reading = asyncio.get_running_loop().create_task(self._read(project_id), context=Context())
            self._tasks.add(watched.reading)
            watched.reading.add_done_callback(lambda task: self._has_read(watched, task))
        watched.state = await asyncio.shield(watched.reading)
        return watched.state

    def _has_read(self, watched: _Watched, task: "asyncio.Task[_State]") -> None:
        watched.reading = None
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Mark it as retrieved: perhaps no caller waits any more.

    async def _read(self, project_id: UUID) -> _State:
        row: NowRow | None
        row, others, accounts = await asyncio.gather(
            self._database.fetchrow(
                *SQL.now(
                    project_id=project_id, most=MOST_COUNTED, most_keys=MOST_KEYS, most_active=MOST_ACTIVE
                )
            ),
            self._reports.collect(project_id),
            self._accounts.of(project_id),
        )  # fmt: skip
        if row is None:
            raise NotFound("This project was deleted.", code="project_not_found")
        reports = {**(others or {}), self._worker_id: self._reports.own(project_id)}
        unknown: list[Unknown] = [] if others is not None else ["workers"]
        found, known = await self._levels(project_id, row, reports)
        if not known:
            unknown.append("limits")
        own = [None if account.id is None else account.id.hex for account in accounts if account.of_project]
        used = [None if account.id is None else account.id.hex for account in accounts]
        return _State(time.time(), row, reports, found, unknown, frozenset(used), frozenset(own))

    async def _levels(self, project_id: UUID, row: NowRow, reports: dict[UUID, Report]) -> tuple[list[Level], bool]:
        """Return the levels of the limits of all holders, and False if Redis is unavailable."""
        settings: ProjectSettings = parse_settings(ProjectSettings, row["settings"])
        holders = [Holder("project", settings)]
        for each in row["keys"]:
            limits = parse_settings(KeyLimits, each["limits"]) if each["limits"] else settings.key_limits
            holders.append(Holder("key", settings, key_id=UUID(each["id"]), key_limits=limits))
        running_users = [turn["user_id"] for turn in row["turns"] if turn["user_id"] is not None]
        users = list(dict.fromkeys([*running_users[:MOST_ACTIVE], *row["users"]]))
        holders += [Holder("user", settings, user=user) for user in users]
        now, known = datetime.now(UTC), True
        try:
            found = await levels(self._cache, project_id, holders, self._currencies, now)
        except (RedisError, OSError):
            known = False
            found = unknown_levels(project_id, holders, _running_of(holders, row), now)
        return [*_without_unused_currencies(found), *_stored(holders, reports)], known

    def _shown(self, state: _State, caller: Caller) -> NowObject:
        """Return the part of a state that a caller may see, built once for each kind of caller."""
        grant = caller.grant
        kind = (grant.key_id, "admin" in grant.scopes)
        if kind not in state.shown:
            state.shown[kind] = self._made(state, caller)
        return state.shown[kind]

    def _made(self, state: _State, caller: Caller) -> NowObject:
        row, admin = state.row, "admin" in caller.grant.scopes
        turns = running_turns(caller.project_id, row, state.reports, None if admin else caller.key_id)
        return {
            "object": "now",
            "project": ids.project_id(caller.project_id),
            "at": round(state.at, 3),
            "turns": {
                "count": min(len(turns), MOST_COUNTED - 1),
                "more": len(turns) >= MOST_COUNTED,
                "data": turns[:MOST_TURNS],
            },
            "queues": shown_queues(row, state.reports),
            "throttled": self._throttled(state, caller) if admin else None,
            "limits": shown_limits(state.limits, row, None if admin else caller.key_id),
            "workers": len(state.reports),
            "unknown": state.unknown,
        }

    def _throttled(self, state: _State, caller: Caller) -> list[NowThrottled]:
        """Return the open breakers of the project's accounts, those of all workers together.

        Other projects use the service's accounts too. Of these accounts, only listed models are shown, because other
        model names were written by clients of those projects.
        """
        found: dict[tuple[str | None, str], list[OpenBreaker]] = {}
        listed, settings = {self._models.default, *self._models.named()}, caller.grant.settings
        for report in state.reports.values():
            for breaker in report["breakers"]:
                account, model = breaker["account_id"], breaker["model"]
                public = model in listed and settings.may_use(model)
                if account in state.account_ids and (account in state.own_ids or caller.grant.operates or public):
                    found.setdefault((account, model), []).append(breaker)
        return sorted((throttled(breakers) for breakers in found.values()), key=lambda each: -each["retry_at"])


def _running_of(holders: Sequence[Holder], row: NowRow) -> dict[Holder, int]:
    """Return the number of running turns of each holder, as Postgres counts them."""
    keys = Counter(turn["api_key_id"] for turn in row["turns"])
    users = Counter(turn["user_id"] for turn in row["turns"])
    counts = {"project": len(row["turns"])}
    return {
        holder: counts.get(holder.whose, keys[str(holder.key_id)] if holder.whose == "key" else users[holder.user])
        for holder in holders
    }


def _without_unused_currencies(found: Sequence[Level]) -> list[Level]:
    """Leave out cost limits in unused currencies, but keep one for each holder."""
    kept: list[Level] = []
    shown: set[Holder] = set()
    # Known ones first: an unknown one is shown only where none is known.
    for level in sorted(found, key=lambda level: level.used is None):
        if level.name == "cost_per_month" and level.used is None and level.holder in shown:
            continue
        if level.name == "cost_per_month":
            shown.add(level.holder)
        kept.append(level)
    return kept


def _stored(holders: Sequence[Holder], reports: dict[UUID, Report]) -> list[Level]:
    """Return the levels of the limits of threads and stored bytes, from the last counts of workers."""
    counts: dict[tuple[str, str], int] = {}
    for report in reports.values():
        for who, name, count in report["counts"]:
            counts[who, name] = max(count, counts.get((who, name), 0))
    found: list[Level] = []
    for holder in holders:
        if holder.whose == "key":
            continue
        limits = holder.settings.limits if holder.whose == "project" else holder.settings.user_limits
        who = "" if holder.user is None else user_hash(holder.user)
        for name in ("threads", "stored_bytes"):
            limit = getattr(limits, name)
            if limit is not None:
                used = counts.get((who, name))
                found.append(Level(holder, name, limit, None if used is None else min(used, limit), None))
    return found

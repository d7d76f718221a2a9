"""Limits: a request to a model is let in by every limit that it meets, or refused by one of them, and takes nothing.

What is counted stands in Redis, so that it is right across workers; one script looks at all of a request's limits and
takes of all of them. It goes out in the pipeline in which the thread's live id is asked for. What a month has used is
Postgres's to say: Redis has a counter that is begun with that.
"""

import asyncio
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import structlog
from redis.exceptions import NoScriptError, RedisError

from app import metrics
from app.background import Background
from app.cache.client import Cache, RedisAway, reason
from app.db.engine import Database
from app.db.ids import new_uuid
from app.errors import TooManyRequests
from app.limits import store
from app.limits.local import LocalShare
from app.limits.rules import MICRO, Asks, Rule, Whose, month_of, rules, running_key
from app.projects.settings import Limits, ProjectSettings, UserLimits
from app.provider.models import Models

log = structlog.get_logger()

HERE = Path(__file__).parent

NEAR = 0.9

LEASE_SECONDS = 60
"""A turn whose worker has not said for so long that it runs is taken for dead."""

RENEW_SECONDS = 20.0

MONTH_SECONDS = 40 * 86_400
"""How long a month's counter is kept."""

COUNTED_SECONDS = 10.0
"""How old the number of threads may be that a limit is held against."""

SAID = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "turns_at_once": "turns at once",
    "tokens_per_month": "tokens a month",
    "cost_per_month": "of cost a month",
    "threads": "threads",
    "stored_bytes": "bytes stored",
}

Count = Callable[[Database, UUID, str | None, int], Awaitable[int]]

OF_A_MONTH = ("tokens_per_month", "cost_per_month")


class _Script:
    def __init__(self, name: str) -> None:
        self.source = (HERE / name).read_bytes()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


ADMIT, END, RENEW = _Script("admit.lua"), _Script("end.lua"), _Script("renew.lua")


@dataclass(eq=False, slots=True)
class Admission:
    """A request that was let in, until it has ended."""

    asks: Asks
    rules: Sequence[Rule]
    id: str
    headers: dict[str, str] = field(default_factory=dict)
    """What the client is told of its limits."""


class RateLimits(Background):
    def __init__(self, cache: Cache, database: Database, models: Models, *, workers: int) -> None:
        """Args: workers: how many processes share what there is, as far as this one knows."""
        super().__init__()
        self._cache = cache
        self._database = database
        self._models = models
        self._local = LocalShare(workers)
        self._admitted: set[Admission] = set()
        self._counts: dict[tuple[UUID, str | None, str], tuple[float, int]] = {}

    async def admit(self, asks: Asks) -> Admission | None:
        """Let a request in. None where nothing limits it: then there is nothing to end.

        Raises:
            TooManyRequests: saying which limit refuses, and when to come again.
        """
        met = rules(asks, datetime.now(UTC))
        if not met:
            return None
        # The one that says whether the turn has ended already.
        first = Rule("project", "", "running", running_key(asks.project_id), 2**53, 1)
        admission = Admission(asks, [first, *met], new_uuid().hex)
        try:
            refused, wait, left = await self._asked(admission)
        except (RedisError, OSError) as error:
            log.warning("Redis is away; each worker lets in its share", error=reason(error))
            metrics.REDIS_ERRORS.inc()
            refused, wait = self._local.admit(admission.rules, admission.id)
            left = ()
        shown = _headers(admission.rules, left)
        if refused:
            raise _refusal(admission.rules[refused - 1], wait, shown)
        admission.headers = shown
        self._admitted.add(admission)
        return admission

    def end(self, admission: Admission, tokens: int, cost: float) -> None:
        """A request has ended, which has used so many tokens, for so much money."""
        self._admitted.discard(admission)
        self._local.end(admission.rules, admission.id)
        words: list[str | int | float] = []
        for rule in admission.rules:
            match rule.name:
                case "tokens_per_minute":
                    takes: float = tokens - min(rule.takes, rule.limit)
                case "tokens_per_month":
                    takes = tokens
                case "cost_per_month":
                    takes = round(cost * MICRO)
                case _:
                    takes = 0
            words += [rule.kind, takes]
        keys = [rule.key for rule in admission.rules]
        self._cache.send(("EVAL", END.source, len(keys), *keys, admission.id, *words))

    async def check_stored(
        self, project_id: UUID, user: str | None, settings: ProjectSettings, *, makes_thread: bool = True
    ) -> None:
        """Refuse what would be one thread, or some bytes, too many.

        Args:
            user: the end user whose it will be.
            makes_thread: whether a thread is to be made.

        Raises:
            TooManyRequests: saying which limit is reached.
        """
        bounds: list[tuple[Whose, Limits | UserLimits, str | None]] = [("project", settings.limits, None)]
        if user is not None:
            bounds.append(("user", settings.user_limits, user))
        for whose, limits, of in bounds:
            if makes_thread and limits.threads is not None:
                found = await self._counted(project_id, of, "threads", limits.threads, store.threads)
                if found >= limits.threads:
                    raise _reached(whose, "threads", limits.threads)
            if limits.stored_bytes is not None:
                found = await self._counted(project_id, of, "bytes", limits.stored_bytes, store.stored_bytes)
                if found >= limits.stored_bytes:
                    raise _reached(whose, "stored_bytes", limits.stored_bytes)

    async def _counted(self, project_id: UUID, user: str | None, name: str, limit: int, count: Count) -> int:
        """How much there is, as of `COUNTED_SECONDS` ago at most; anew where it comes near to the limit, so that what
        was deleted counts no more."""
        now, place = time.monotonic(), (project_id, user, name)
        known = self._counts.get(place)
        if known is not None and known[0] > now and known[1] < NEAR * limit:
            # Whoever asks makes one.
            self._counts[place] = (known[0], known[1] + 1)
            return known[1]
        if len(self._counts) > 10_000:
            self._counts.clear()
        found = await count(self._database, project_id, user, limit)
        self._counts[place] = (now + COUNTED_SECONDS, found + 1)
        return found

    async def _asked(self, admission: Admission, begun: int = 0) -> tuple[int, int, Sequence[int]]:
        """What Redis says: the number of the limit that refuses, how many ms to wait, and what each has left.

        Args:
            begun: how many counters were begun for it.

        Raises:
            RedisError, OSError: it is away.
        """
        words: list[str | int] = [admission.id, LEASE_SECONDS * 1000]
        for rule in admission.rules:
            words += [rule.kind, rule.limit, rule.takes]
        keys = [rule.key for rule in admission.rules]
        asked = self._cache.ask(("EVALSHA", ADMIT.digest, len(keys), *keys, *words))
        if asked is None:
            raise RedisAway("It has not answered a moment ago.")
        try:
            answer = await asked
        except NoScriptError:
            answer = await self._cache.execute(("EVAL", ADMIT.source, len(keys), *keys, *words))
        refused, wait, *left = map(int, answer)
        if refused >= 0:
            return refused, wait, left
        if begun == len(admission.rules):
            raise RedisAway("It forgets what it was told a moment ago.")
        await self._begin_counter(admission.asks, admission.rules[-refused - 1])
        return await self._asked(admission, begun + 1)

    async def _begin_counter(self, asks: Asks, rule: Rule) -> None:
        """Begin a month's counter with what Postgres says was used."""
        since = month_of(datetime.now(UTC))
        key_id = asks.key_id if rule.whose == "key" else None
        user = asks.user if rule.whose == "user" else None
        tokens, cost = await store.used(self._database, self._models, asks.project_id, key_id, user, since)
        used = tokens if rule.name == "tokens_per_month" else round(cost * MICRO)
        await self._cache.execute(("SET", rule.key, used, "NX", "EX", MONTH_SECONDS))

    async def run(self) -> None:
        """Say of the requests of this worker that they are under way still."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            for admission in list(self._admitted):
                keys = [rule.key for rule in admission.rules if rule.kind == "running"]
                self._cache.send(("EVAL", RENEW.source, len(keys), *keys, admission.id, LEASE_SECONDS * 1000))


def _headers(met: Sequence[Rule], left: Sequence[int]) -> dict[str, str]:
    """OpenAI's headers, of the limit of each kind of which the least is left."""
    headers: dict[str, str] = {}
    for name, what in (("requests_per_minute", "requests"), ("tokens_per_minute", "tokens")):
        found = [(left, rule.limit) for rule, left in zip(met, left, strict=False) if rule.name == name]
        if found:
            least, limit = min(found)
            headers[f"x-ratelimit-limit-{what}"] = str(limit)
            headers[f"x-ratelimit-remaining-{what}"] = str(max(0, least))
            headers[f"x-ratelimit-reset-{what}"] = f"{max(0.0, (limit - least) * 60 / limit):.3f}s"
    return headers


def _refusal(rule: Rule, wait: int, shown: dict[str, str]) -> TooManyRequests:
    seconds = max(1, math.ceil(wait / 1000))
    headers = {**shown, "Retry-After": str(seconds), "Everthread-Limit": f"{rule.whose}.{rule.name}"}
    limit = rule.limit / MICRO if rule.name == "cost_per_month" else rule.limit
    if rule.name in OF_A_MONTH:
        # A client that retries would wait until the month is over.
        return TooManyRequests(
            f"The {rule.whose}'s limit of {limit:g} {SAID[rule.name]} is reached. It begins anew with the next month.",
            code="insufficient_quota",
            headers={**headers, "X-Should-Retry": "false"},
        )
    return TooManyRequests(
        f"The {rule.whose}'s limit of {limit} {SAID[rule.name]} is reached. Send this again in {seconds} s.",
        code="rate_limit_exceeded",
        headers=headers,
    )


def _reached(whose: str, name: str, limit: int) -> TooManyRequests:
    return TooManyRequests(
        f"The {whose}'s limit of {limit} {SAID[name]} is reached. Delete something first.",
        code="insufficient_quota",
        headers={"Everthread-Limit": f"{whose}.{name}", "X-Should-Retry": "false"},
    )

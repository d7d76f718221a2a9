"""Reports of workers: facts about a project that only each worker knows, exchanged over Redis.

A worker whose project has viewers requests reports on one channel, and all workers publish theirs on another. Nothing
is stored in Redis, and nothing is sent without viewers. A report has ids, numbers, account and model names, and no
user, title or text.
"""

import asyncio
import time
from typing import Any, TypedDict
from uuid import UUID

import orjson
from redis.exceptions import RedisClusterException, RedisError

from app.accounts.pool import Accounts, ProviderAccount
from app.cache.client import Cache
from app.cache.value_mac import ValueMac
from app.limits.service import RateLimits
from app.process.background import Background
from app.projects.user_tokens import user_hash
from app.provider.account import account as account_of
from app.turns.runner import Runner
from app.turns.running import Running, Stage
from app.turns.spool import Spool

ASK = "everthread:now:ask"
ANSWER = "everthread:now:report"

ANSWER_SECONDS = 0.5
"""Minimum time between two reports of a project. Several workers may request them."""

FRESH_SECONDS = 4.0
"""Age at which a report is dropped: its worker has ended or is cut off."""

FIRST_SECONDS = 0.5
"""Maximum wait for the other workers' first reports."""

MOST_TURNS = 500
MOST_BREAKERS = 500
MOST_COUNTS = 200
"""Maximum lengths of the lists in a report."""

PROBED_SECONDS = 300.0
"""Time for which a breaker is shown after its pause. Its state is unknown until a turn uses the account."""

QUIET_SECONDS = 30.0
"""A connection on which nothing has arrived for so long is checked with a PING."""

AWAY_SECONDS = 1.0


class RunningTurn(TypedDict):
    """Facts about a turn that only its worker knows. Ids are 32 digits."""

    id: str
    thread: str
    stored: bool
    model: str
    background: bool
    since: float
    account: str | None
    calls: int
    """Number of calls to the provider that have ended."""
    first_word_ms: int | None
    chars: int
    closing: bool


class OpenBreaker(TypedDict):
    account_id: str | None
    """None for the account of the environment."""
    account: str
    shown: str
    model: str
    probing: bool
    why: str | None
    until: float


class Report(TypedDict):
    turns: list[RunningTurn]
    breakers: list[OpenBreaker]
    counts: list[tuple[str, str, int]]
    """Hash of the user, empty for the project; name of the limit; the last count."""
    closings: list[str]
    """Ids of turns whose closings are on this worker's disk."""


class WorkerReports(Background):
    def __init__(
        self, cache: Cache, mac: ValueMac, runner: Runner, accounts: Accounts, limits: RateLimits, spool: Spool,
        *, worker_id: UUID,
    ) -> None:  # fmt: skip
        super().__init__()
        self._cache = cache
        self._mac = mac
        self._runner = runner
        self._accounts = accounts
        self._limits = limits
        self._spool = spool
        self._worker_id = worker_id
        self._answered: dict[UUID, float] = {}
        self._of_others: dict[UUID, dict[UUID, tuple[float, Report]]] = {}
        """Reports by project and worker, each with the time of its arrival. The projects are those that are watched."""
        self._new: set[UUID] = set()
        """Watched projects whose first reports were not requested yet."""
        self._arrived = asyncio.Event()

    def watch(self, project_id: UUID) -> None:
        """Keep the reports of a project from now on."""
        self._of_others[project_id] = {}
        self._new.add(project_id)

    def leave(self, project_id: UUID) -> None:
        """Stop keeping the reports of a project."""
        del self._of_others[project_id]
        self._new.discard(project_id)

    async def collect(self, project_id: UUID) -> dict[UUID, Report] | None:
        """Request reports from the other workers, and return the fresh ones. None while Redis is unavailable.

        The first call waits a moment for answers. Later calls return the reports that have arrived since.
        """
        kept, first = self._of_others[project_id], project_id in self._new
        self._new.discard(project_id)
        asked = self._mac.signed(ASK, project_id.bytes + self._worker_id.bytes)
        try:
            listening = await self._cache.execute(("PUBLISH", ASK, asked))
        except (RedisError, OSError):
            return None
        until = time.monotonic() + FIRST_SECONDS
        while first and len(kept) + 1 < listening and (left := until - time.monotonic()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                break
        oldest = time.monotonic() - FRESH_SECONDS
        for worker_id in [worker_id for worker_id, (at, _) in kept.items() if at < oldest]:
            del kept[worker_id]
        return {worker_id: report for worker_id, (_, report) in kept.items()}

    def own(self, project_id: UUID) -> Report:
        """Return this worker's report."""
        now, clock = time.monotonic(), time.time()
        counts = sorted(self._limits.last_counts(project_id), key=lambda each: -each[2])
        return {
            "turns": [_turn(running, clock) for running in self._runner.of_project(project_id)[:MOST_TURNS]],
            "breakers": [
                breaker for account in self._accounts.in_use(project_id) for breaker in _breakers(account, now, clock)
            ][:MOST_BREAKERS],
            "counts": [
                ("" if user is None else user_hash(user), name, count) for user, name, count in counts[:MOST_COUNTS]
            ],
            "closings": self._spool.waiting(project_id)[:MOST_TURNS],
        }

    async def run(self) -> None:
        while True:
            try:
                await self._listen()
            except (RedisError, RedisClusterException, OSError):
                await asyncio.sleep(AWAY_SECONDS)

    async def _listen(self) -> None:
        """Raises: RedisError, RedisClusterException, OSError: Redis is unavailable."""
        async with self._cache.pubsub() as pubsub:
            await pubsub.subscribe(ASK, ANSWER)
            while True:
                message: dict[str, Any] | None = await pubsub.get_message(
                    ignore_subscribe_messages=True, timeout=QUIET_SECONDS
                )
                if message is None:
                    await pubsub.ping()
                elif message.get("channel") == ASK.encode():
                    await self._answer(self._mac.verified(ASK, message["data"]))
                elif message.get("channel") == ANSWER.encode():
                    self._take(self._mac.verified(ANSWER, message["data"]))

    async def _answer(self, asked: bytes | None) -> None:
        if asked is None or len(asked) != 32 or asked[16:] == self._worker_id.bytes:
            return
        project_id, now = UUID(bytes=asked[:16]), time.monotonic()
        if now - self._answered.get(project_id, 0.0) < ANSWER_SECONDS:
            return
        self._answered = {each: at for each, at in self._answered.items() if at > now - ANSWER_SECONDS}
        self._answered[project_id] = now
        report = asked[:16] + self._worker_id.bytes + orjson.dumps(self.own(project_id))
        self._cache.send(("PUBLISH", ANSWER, self._mac.signed(ANSWER, report)))

    def _take(self, sent: bytes | None) -> None:
        if sent is None or sent[16:32] == self._worker_id.bytes:
            return
        kept = self._of_others.get(UUID(bytes=sent[:16]))
        if kept is not None:
            kept[UUID(bytes=sent[16:32])] = time.monotonic(), orjson.loads(sent[32:])
            self._arrived.set()


def _turn(running: Running, clock: float) -> RunningTurn:
    turn, request, recorder = running.turn, running.turn.request, running.relay.recorder
    return {
        "id": turn.id.hex,
        "thread": turn.thread_id.hex,
        "stored": request.stored,
        "model": request.model,
        "background": request.background,
        "since": round(clock - recorder.seconds(), 3),
        "account": None if running.binding is None else account_of(running.binding),
        "calls": len(running.calls),
        "first_word_ms": recorder.pace.first,
        "chars": sum(recorder.pace.chars),
        "closing": running.stage is not Stage.RUNNING,
    }


def _breakers(account: ProviderAccount, now: float, clock: float) -> list[OpenBreaker]:
    return [
        {
            "account_id": None if account.id is None else account.id.hex,
            "account": account.name,
            "shown": account.provider.account,
            "model": model,
            "probing": state == "half_open",
            "why": None if breaker.why is None else breaker.why.value,
            "until": round(clock + breaker.until - now),
        }
        for model, breaker in account.breakers.items()
        if (state := breaker.state(now)) != "closed" and breaker.until > now - PROBED_SECONDS
    ]

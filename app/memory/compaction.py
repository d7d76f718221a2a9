"""Compactions made: in the background, between turns, by a model.

The beginning of a branch becomes a summary; its last turns stay, and so do system messages and pinned items. What it
stands for is untouched. A worker that makes one has a lease on it; where the worker dies, another makes it.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson
import structlog

from app.accounts.pool import Accounts, ProviderAccount
from app.chain.answer import Answer, from_body
from app.http.errors import DatabaseUnavailable, Forbidden, TooManyRequests
from app.items.kinds import is_system
from app.items.shapes import Item, message
from app.items.token_counts import NO_USAGE
from app.items.unreadable import ContentUnreadable
from app.items.weights import tokens as weight
from app.limits.rules import Asks
from app.limits.service import Admission, RateLimits
from app.memory import transcript
from app.memory.observations import ModelObservations
from app.memory.rows import Abandoned
from app.memory.store import Branch, BranchItem, Claim, MemoryStore
from app.memory.summary_check import BadSummary, checked_summary
from app.process.background import Background
from app.provider import failure
from app.provider.client import ProviderError
from app.provider.models import Models
from app.sealing import at_rest
from app.sealing.ciphertext import CannotOpen
from app.sealing.content_keys import ContentKeys
from app.settings import Settings
from app.telemetry import metrics

log = structlog.get_logger()

KEPT_SHARE = 0.2
"""Share of the budget for the end of a branch that stays verbatim, at least its last turn."""

CHUNK_SHARE = 0.5
"""Share of the summarising model's budget that is summarised in one call."""

SUMMARY_SHARE = 0.125
"""Share of the reading model's budget that a summary may take."""

SHORTEST_SUMMARY = 64
LONGEST_SUMMARY = 4096
"""Tokens."""

ROOM_FACTOR = 2
"""Hard limit of a summary, as a multiple of the length that is asked for."""

ATTEMPTS = 2
"""Largest number of requests for one summary, if the answers cannot be used."""

AT_ONCE = 4
"""Compactions that a worker makes at the same time."""

POLL_SECONDS = 5.0

SUMMED = ("input_tokens", "output_tokens", "total_tokens")


@dataclass(frozen=True, slots=True)
class CompactionJob:
    """A compaction to be made."""

    project_id: UUID
    turn_id: UUID
    """Up to which the branch goes."""
    model: str
    """Model that reads the summary."""
    kept_turns: int | None = None
    """Number of last turns that stay as they are; None: as many as fit."""
    instructions: str | None = None
    by: str | None = None
    """The model that makes it; None for the service's, or the conversation's own."""
    now: bool = False


class Compactions(Background):
    def __init__(
        self,
        store: MemoryStore,
        accounts: Accounts,
        models: Models,
        observations: ModelObservations,
        content_keys: ContentKeys,
        limits: RateLimits,
        settings: Settings,
    ) -> None:
        super().__init__()
        self._limits = limits
        self._store = store
        self._content_keys = content_keys
        self._accounts = accounts
        self._models = models
        self._observations = observations
        self._settings = settings
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)

    def threshold(self, token_budget: int, params: dict[str, Any]) -> int | None:
        """From how many tokens on a conversation is compacted; None for never.

        Args:
            token_budget: of the model.
            params: the request's: its `context_management` goes before the service's setting.
        """
        if (wanted := threshold_of(params)) is not None:
            return wanted
        share = self._settings.compaction_share
        return None if share == 0 else int(share * token_budget)

    def begin(self, job: CompactionJob, asks: Asks) -> None:
        """Make a compaction in the background, unless the tokens or the money of who asked for the turn are used up:
        then its thread goes on with the uncompacted history."""
        task = asyncio.create_task(self._in_background(job, asks), name=f"compaction of {job.turn_id}")
        self._tasks[job.turn_id] = task
        task.add_done_callback(lambda _: self._made_or_not(job, task))

    async def make(self, job: CompactionJob, admission: Admission) -> UUID | None:
        """Make a compaction, and wait for it.

        Returns:
            Its id; None if there is nothing to compact, or another worker makes it.

        Raises:
            ProviderError: the model gave none.
        """
        if not job.now and await self._store.pauses(job.project_id, job.turn_id):
            return None
        branch = await self._store.branch(job.project_id, job.turn_id)
        account = await self._accounts.first(job.project_id, job.model)
        covered = self._covered(branch, job, self._budget(account, job.model))
        if covered == 0:
            return None
        turns = branch.turns[:covered]
        ids = {turn.id for turn in turns}
        items = [item for item in branch.items if item.turn_id in ids]
        before = branch.compacted
        if not any(transcript.lines([item.stored.item for item in items if not _stays(item)])):
            return None
        stays = [*(before.kept_items if before is not None else ()), *filter(_stays, items)]
        claim = await self._store.claim(
            job.project_id,
            turns,
            previous_id=None if before is None else before.id,
            model=self.maker(job),
            kept_items=[item.stored.id for item in stays],
            covered_turns=covered + (0 if before is None else before.covered_turns),
            covered_tokens=sum(weight(item.stored.item) for item in items)
            + (0 if before is None else before.covered_tokens),
            now=job.now,
        )
        if claim is None:
            return None
        # Read again, now that nothing can go without this compaction's going with it.
        try:
            again = await self._store.branch(job.project_id, turns[-1].id)
        except ContentUnreadable as error:
            await self._store.fail(claim, {"code": error.code, "message": error.message}, {})
            raise
        items = [item for item in again.items if item.turn_id in ids]
        if [turn.id for turn in again.turns] != [turn.id for turn in turns]:
            # Something was deleted, or another compaction of the branch became ready: from what there is now.
            await self._store.fail(claim, {"code": "changed", "message": "The history changed meanwhile."}, {})
            return await self.make(replace(job, now=True), admission)
        said = [item.stored.item for item in items if not _stays(item)]
        return await self._made(claim, job, admission, None if before is None else before.text, said)

    def _budget(self, account: ProviderAccount, model: str) -> int:
        """Return the number of tokens that a model reads at an account."""
        return self._observations.at(account.binding).token_budget(self._models.of(model), model)

    def _covered(self, branch: Branch, job: CompactionJob, budget: int) -> int:
        """Return how many of the branch's first turns the summary covers. No tool call is separated from its output.

        Args:
            budget: what the model that reads it reads, in tokens.
        """
        covered = len(branch.turns)
        if job.kept_turns is not None:
            covered -= job.kept_turns
        else:
            room = int(KEPT_SHARE * budget)
            weights = {turn.id: 0 for turn in branch.turns}
            for item in branch.items:
                weights[item.turn_id] += weight(item.stored.item)
            kept = 0
            while covered > 0 and (kept == 0 or kept + weights[branch.turns[covered - 1].id] <= room):
                covered -= 1
                kept += max(1, weights[branch.turns[covered].id])
        return _parting_no_call(branch, covered)

    def maker(self, job: CompactionJob) -> str:
        """Return the model that makes a compaction."""
        return job.by or self._settings.compaction_model or job.model

    async def _made(
        self, claim: Claim, job: CompactionJob, admission: Admission, summary: str | None, items: Sequence[Item]
    ) -> UUID | None:
        calls: list[dict[str, Any]] = []
        usage = dict.fromkeys(SUMMED, 0)
        asked = self.summary(
            job.project_id,
            admission,
            self.maker(job),
            job.model,
            items,
            calls,
            usage,
            summary=summary,
            instructions=job.instructions,
            thread_id=claim.thread_id,
        )
        work = asyncio.create_task(asked)
        lease = asyncio.create_task(self._renewing(claim, work))
        try:
            await asyncio.wait([work])
            if work.cancelled():
                return None  # The claim was lost.
            said = work.result()
            if await self._store.finish(claim, said, tokens=weight(message("user", said)), calls=calls, usage=usage):
                metrics.of(metrics.COMPACTIONS, "ready").inc()
                log.info("a compaction is ready", calls=len(calls))
                return claim.id
            return None
        except ProviderError as error:
            metrics.of(metrics.COMPACTIONS, "failed").inc()
            log.warning("a compaction failed", code=error.failure.code)
            await self._store.fail(claim, error.failure.as_error(), usage)
            raise
        finally:
            lease.cancel()
            work.cancel()

    async def summary(
        self,
        project_id: UUID,
        admission: Admission,
        maker: str,
        reader: str,
        items: Sequence[Item],
        calls: list[dict[str, Any]],
        usage: dict[str, int],
        *,
        summary: str | None = None,
        instructions: str | None = None,
        thread_id: UUID | None = None,
    ) -> str:
        """Return the summary of items, in as many calls as they need: each continues from the summary before it.

        Each is checked. One that cannot be used is asked for once more.

        Args:
            maker: the model that makes it; `reader`, the one that reads it.
            calls: what was sent is added to these, and to `usage` what it cost.
            summary: of what came before.
            thread_id: that it is made for, if it is made for one.

        Raises:
            ProviderError: the model gave none that can be used.
        """
        account = await self._accounts.first(project_id, maker)
        room = int(CHUNK_SHARE * self._budget(account, maker))
        read = self._budget(await self._accounts.first(project_id, reader), reader)
        length = max(SHORTEST_SUMMARY, min(LONGEST_SUMMARY, int(SUMMARY_SHARE * read)))
        prompt = instructions or self._settings.compaction_instructions or transcript.INSTRUCTIONS
        used = NO_USAGE
        try:
            for chunk in transcript.chunks(items, room) or [transcript.Chunk("", "")]:
                request, asked = transcript.request(summary, chunk.text, length), prompt
                for attempts_left in reversed(range(ATTEMPTS)):
                    answer = await self._ask(account, admission, maker, asked, request, length, calls)
                    reported = answer.usage
                    used += reported
                    admission.add(reported, maker, account.binding)
                    for name, tokens in zip(SUMMED, (reported.input, reported.output, reported.total), strict=True):
                        usage[name] += tokens
                    parts = [part for part in (summary, chunk.facts_in) if part]
                    source = "\n".join([*parts, chunk.text])
                    try:
                        # Milliseconds for each hundred thousand characters: not in the way of others' requests.
                        summary = await asyncio.to_thread(
                            checked_summary, answer, source, parts, own_prompt=prompt is not transcript.INSTRUCTIONS
                        )
                        break
                    except BadSummary as error:
                        metrics.of(metrics.REJECTED_ANSWERS, "summary", error.fault).inc()
                        log.warning("a summary cannot be used", reason=error.fault, model=maker)
                        if attempts_left == 0:
                            raise ProviderError(_unusable(error, maker)) from error
                        asked = transcript.again(prompt, str(error))
        finally:
            if used.total:
                self._limits.record(
                    admission, "compaction", maker, account.binding, used, admission.cost, thread_id=thread_id
                )
        return summary or ""

    async def _ask(
        self,
        account: ProviderAccount,
        admission: Admission,
        model: str,
        instructions: str,
        request: str,
        length: int,
        calls: list[dict[str, Any]],
    ) -> Answer:
        """A summary from the model. Nothing of it is stored there."""
        asked = {
            "model": model,
            "input": [message("system", instructions), message("user", request)],
            "store": False,
        }
        body = orjson.dumps(self._models.of(model).without_thinking(asked, ROOM_FACTOR * length))
        call: dict[str, Any] = {"url": account.provider.url, "body": body.decode(), "started_at": time.time()}
        calls.append(call)
        attempts = self._settings.provider_attempts
        while True:
            try:
                answer = from_body(await account.provider.respond(admission, body, {}))
                break
            except ProviderError as error:
                attempts -= 1
                if error.failure.kind not in failure.RETRIED or attempts == 0:
                    raise
                pause = failure.pause(error.failure, self._settings.provider_attempts - attempts)
            await asyncio.sleep(min(pause, failure.LONGEST_BACKOFF_SECONDS))
        call["response_id"] = answer.response["id"]
        return answer

    async def _renewing(self, claim: Claim, work: "asyncio.Task[str]") -> None:
        """Keep the lease. Once it is lost, the work on it stops."""
        while True:
            await asyncio.sleep(self._store.lease_seconds / 3)
            with suppress(DatabaseUnavailable):
                if not await self._store.renew(claim):
                    work.cancel()
                    return

    def _made_or_not(self, job: CompactionJob, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(job.turn_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a compaction failed in the service", exc_info=error)

    async def _in_background(self, job: CompactionJob, asks: Asks) -> None:
        try:
            async with self._places:
                asks = replace(
                    asks,
                    tokens=lambda: 0,
                    frame=lambda: 0,
                    output=None,
                    model=self.maker(job),
                    history=job.turn_id,
                )
                admission = await self._limits.admit(asks, background=True)
                try:
                    await self.make(job, admission)
                finally:
                    self._limits.end(admission)
        except (TooManyRequests, Forbidden) as refused:
            log.info("a conversation is not compacted: a limit refuses it", code=refused.code)
        except ProviderError:
            return  # Said, and written down; a later turn tries it again.
        except DatabaseUnavailable:
            log.warning("Postgres is unavailable; a compaction is left for later")
        except ContentUnreadable:
            log.warning("a compaction is not made: something of the conversation cannot be opened")

    async def run(self) -> None:
        while True:
            with suppress(DatabaseUnavailable):
                for row in await self._store.abandoned():
                    await self._take_over(row)
            await asyncio.sleep(POLL_SECONDS)

    async def _take_over(self, row: Abandoned) -> None:
        job = CompactionJob(row["project_id"], row["turn_id"], row["model"], kept_turns=0, by=row["model"], now=True)
        try:
            sealer = await self._content_keys.sealer(job.project_id)
            with at_rest.written_with(sealer):
                asks = await self._limits.cause(job.project_id, job.turn_id)
                if asks is None:
                    return  # The turn was deleted, and the compaction with it.
                await self._in_background(job, asks)
                # One that was not begun, because a limit refused it, does not stand before those of other projects.
                await self._store.give_up(row)
        except CannotOpen as error:
            log.error("a compaction cannot be made: the project's contents are not opened here", why=str(error))

    async def stop(self) -> None:
        await super().stop()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _unusable(error: BadSummary, model: str) -> failure.Failure:
    return failure.unusable(
        f"summary_{error.fault}",
        f"The model {model[:80]!r} made no usable summary in {ATTEMPTS} attempts: {error}. The conversation stays as "
        "it was. Try again later, or with another model.",
    )


def threshold_of(params: dict[str, Any]) -> int | None:
    """The tokens from which on a request wants its conversation compacted (OpenAI's `context_management`)."""
    for entry in params.get("context_management") or ():
        wanted: int | None = entry.get("compact_threshold")
        if wanted is not None:
            return wanted
    return None


def _parting_no_call(branch: Branch, covered: int) -> int:
    """The most of a branch's first turns, `covered` at most, with which no tool call is parted from its output.

    A call that was passed over waits for none; one of the last turn's may be answered by the next one.
    """
    places = {turn.id: place for place, turn in enumerate(branch.turns)}
    answers: dict[str, list[int]] = {}
    for item in branch.items:
        if item.stored.kind.pair == "output":
            answers.setdefault(item.stored.kind.key(item.stored.item), []).append(places[item.turn_id])
    with_it = list(range(len(branch.turns)))
    """For each turn, the last one that must be on its side."""
    for item in branch.items:
        if item.stored.kind.pair == "call":
            place, given = places[item.turn_id], answers.get(item.stored.kind.key(item.stored.item), [])
            waits = len(branch.turns) if place == len(branch.turns) - 1 else place
            at = bisect_left(given, place)
            with_it[place] = max(with_it[place], given[at] if at < len(given) else waits)
    found = last = 0
    for place in range(min(covered, len(branch.turns))):
        last = max(last, with_it[place])
        if last <= place:
            found = place + 1
    return found


def _stays(item: BranchItem) -> bool:
    """Return True if a covered item stays as it is."""
    said = item.stored.item
    return is_system(said) or (said.get("pinned") is True and bool(item.stored.kind.carried(said)))

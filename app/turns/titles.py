"""Titles that a model makes of a thread's first turn, where the service is set to, and nobody has given one.

A bad title is not stored: the thread stays without one, and the next of its first turns tries again.
"""

import asyncio
import time
from dataclasses import replace
from uuid import UUID

import orjson
import structlog

from app.accounts.pool import Accounts
from app.chain.answer import Answer, from_body
from app.db.engine import Database
from app.http.errors import APIError
from app.items.weights import BYTES_PER_TOKEN
from app.limits.rules import Asks
from app.limits.service import Admission, RateLimits
from app.memory.answer_text import begins_with_refusal, is_refused, without_reasoning
from app.memory.summary_check import Fault
from app.provider.client import ProviderError
from app.provider.models import Models
from app.settings import Settings
from app.telemetry import metrics
from app.threads import store as threads
from app.threads.address import ById
from app.threads.names import Names
from app.trail.records import SERVICE
from app.turns.store import Opened

log = structlog.get_logger()

INSTRUCTIONS = (
    "Write a title for the conversation below, in the language that its user speaks: at most six words, no quotation "
    "marks, no full stop. Answer with the title alone."
)

LONGEST_TITLE = 80
"""Characters."""
LONGEST_EXCERPT = 2000
LONGEST_ANSWER = 20_000
"""Characters of an answer in which a title is looked for."""
MOST_TOKENS = 256
MOST_READ_TOKENS = (2 * LONGEST_EXCERPT + len(INSTRUCTIONS)) // BYTES_PER_TOKEN
MOST_ATTEMPTS = 5
"""From how many turns on a thread without a title stays without one."""
MOST_REMEMBERED = 10_000
"""Threads of which a worker remembers that they need no title, or got a bad one."""
OTHERS_SECONDS = 60.0
"""Age of a thread from which on a worker makes a title that another worker may still be making."""
AT_ONCE = 4


class Titles:
    def __init__(
        self,
        database: Database,
        names: Names,
        accounts: Accounts,
        models: Models,
        limits: RateLimits,
        settings: Settings,
    ) -> None:
        self._models = models
        self._limits = limits
        self._database = database
        self._names = names
        self._accounts = accounts
        self._settings = settings
        self._free = asyncio.Semaphore(AT_ONCE)
        self._making: set[asyncio.Task[None]] = set()
        self._begun: set[UUID] = set()
        self._settled: dict[UUID, None] = {}
        self._failed: dict[UUID, None] = {}

    def after(self, turn: Opened, answer: Answer | None, asks: Asks) -> None:
        """Begin to make a title for the thread of a turn that has been answered, if it needs one.

        Args:
            asks: who asked for the turn, and pays for the title.
        """
        if not self._settings.titles or not turn.request.stored or answer is None or not answer.text:
            return
        if turn.thread_id in self._settled or turn.thread_id in self._begun:
            return
        self._begun.add(turn.thread_id)
        making = asyncio.create_task(self._make(turn, answer.text, asks), name="title")
        self._making.add(making)
        making.add_done_callback(self._making.discard)

    async def stop(self) -> None:
        for making in self._making:
            making.cancel()
        await asyncio.gather(*self._making, return_exceptions=True)

    async def _make(self, turn: Opened, answer: str, asks: Asks) -> None:
        try:
            async with self._free:
                if await self._wants_one(turn):
                    asks = replace(
                        asks,
                        tokens=lambda: MOST_READ_TOKENS,
                        frame=lambda: 0,
                        output=MOST_TOKENS,
                        model=self._settings.title_model or turn.request.model,
                        history=None,
                    )
                    admission = await self._limits.admit(asks, background=True)
                    try:
                        title = await self._asked(turn, answer, admission)
                    finally:
                        self._limits.end(admission)
                    await self._give(turn, title)
        except (ProviderError, APIError) as error:
            _remember(self._failed, turn.thread_id)
            log.info("a thread gets no title", error=type(error).__name__)
        finally:
            self._begun.discard(turn.thread_id)

    async def _wants_one(self, turn: Opened) -> bool:
        async with self._database.session() as session:
            thread = await threads.get(session, turn.project_id, ById(turn.thread_id))
        if thread is None or thread.title is not None or thread.turn_count > MOST_ATTEMPTS:
            _remember(self._settled, turn.thread_id)
            return False
        if turn.parent_id is None or turn.thread_id in self._failed:
            return True
        return time.time() - thread.created_at.timestamp() > OTHERS_SECONDS

    async def _asked(self, turn: Opened, answer: str, admission: Admission) -> str | None:
        """Return the model's title; None for an answer that is none."""
        asked = "\n".join(item.text for item in turn.request.items if item.data.get("role") == "user")
        said = f"User: {asked[:LONGEST_EXCERPT]}\n\nAssistant: {answer[:LONGEST_EXCERPT]}"
        model = self._settings.title_model or turn.request.model
        family = self._models.of(model)
        body = family.without_thinking(
            {"model": model, "input": said, "instructions": INSTRUCTIONS, "store": False}, MOST_TOKENS
        )
        account = await self._accounts.first(turn.project_id, model)
        made = from_body(await account.provider.respond(admission, orjson.dumps(body), {}))
        admission.add(made.usage, model, account.binding)
        self._limits.record(
            admission, "title", model, account.binding, made.usage, admission.cost, thread_id=turn.thread_id
        )
        title = title_in(made, said)
        if isinstance(title, Fault):
            _remember(self._failed, turn.thread_id)
            metrics.of(metrics.REJECTED_ANSWERS, "title", title).inc()
            log.info("a thread gets no title", reason=title, model=model)
            return None
        return title

    async def _give(self, turn: Opened, title: str | None) -> None:
        if title is None or "\0" in title:
            return
        async with self._database.session() as session:
            thread = await threads.locked(session, turn.project_id, ById(turn.thread_id))
            if thread is not None and thread.title is None:
                place, values = ById(turn.thread_id), {"title": title}
                await threads.change(session, self._names, SERVICE, turn.project_id, place, values)


def _remember(remembered: dict[UUID, None], thread_id: UUID) -> None:
    remembered[thread_id] = None
    if len(remembered) > MOST_REMEMBERED:
        del remembered[next(iter(remembered))]


def title_in(answer: Answer, source: str) -> str | Fault:
    """Return the title that an answer holds, or why it holds none.

    Args:
        source: what the title was made from.
    """
    if is_refused(answer):
        return Fault.REFUSAL
    if answer.status == "incomplete":
        return Fault.INCOMPLETE
    text = without_reasoning(answer.text[:LONGEST_ANSWER])
    if text is None:
        return Fault.UNFINISHED_REASONING
    if begins_with_refusal(text, source):
        return Fault.REFUSAL
    title = " ".join(text.split()).strip("\"'“”「」《》.。 ")[:LONGEST_TITLE]
    return title if any(map(str.isalnum, title)) else Fault.TOO_SHORT

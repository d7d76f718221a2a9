"""Titles that a model makes of a thread's first turn, where the service is set to, and nobody has given one."""

import asyncio

import orjson
import structlog

from app.accounts.pool import Accounts
from app.chain.answer import from_body
from app.db.engine import Database
from app.errors import APIError
from app.items.shapes import text_of
from app.limits.rules import Asks
from app.limits.service import Admission, RateLimits
from app.provider.client import ProviderError
from app.provider.models import Models
from app.settings import Settings
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
MOST_TOKENS = 64
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

    def after(self, turn: Opened, answer: str, asks: Asks) -> None:
        """A turn has been answered. If it is its thread's first one, the thread gets a title, soon.

        Args:
            asks: who asked for the turn, and pays for the title.
        """
        if not self._settings.titles or turn.parent_id is not None or not turn.request.keep or not answer:
            return
        making = asyncio.create_task(self._make(turn, answer, asks), name="title")
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
                    admission = await self._limits.admit_background(asks)
                    try:
                        title = await self._asked(turn, answer, admission)
                    finally:
                        self._limits.end(admission)
                    await self._give(turn, title)
        except (ProviderError, APIError) as error:
            log.info("a thread gets no title", error=type(error).__name__)

    async def _wants_one(self, turn: Opened) -> bool:
        async with self._database.session() as session:
            thread = await threads.get(session, turn.project_id, ById(turn.thread_id))
        return thread is not None and thread.title is None

    async def _asked(self, turn: Opened, answer: str, admission: Admission) -> str:
        """The model's title; nothing where it says none."""
        asked = "\n".join(text_of(item) for item in turn.request.items if item.get("role") == "user")
        said = f"User: {asked[:LONGEST_EXCERPT]}\n\nAssistant: {answer[:LONGEST_EXCERPT]}"
        model = self._settings.title_model or turn.request.model
        body = {
            "model": model,
            "input": said,
            "instructions": INSTRUCTIONS,
            "max_output_tokens": MOST_TOKENS,
            "store": False,
        }
        account = await self._accounts.first(turn.project_id, model)
        made = from_body(await account.provider.respond(admission, orjson.dumps(body), {}))
        usage = made.response.get("usage")
        admission.add(usage, self._models.of(model).price, account.binding)
        self._limits.record(admission, "title", model, account.binding, usage, thread_id=turn.thread_id)
        return " ".join(made.text.split()).strip("\"'“”「」《》.。 ")[:LONGEST_TITLE]

    async def _give(self, turn: Opened, title: str) -> None:
        if not title or "\0" in title:
            return
        async with self._database.session() as session:
            thread = await threads.locked(session, turn.project_id, ById(turn.thread_id))
            if thread is not None and thread.title is None:
                place, values = ById(turn.thread_id), {"title": title}
                await threads.change(session, self._names, SERVICE, turn.project_id, place, values)

"""A thread's memory: its compactions, seen and made."""

from typing import Any
from uuid import UUID

from app.chain.live_ids import LiveIds
from app.http.errors import BadRequest, Conflict
from app.http.pages import list_object
from app.limits.rules import asks_of
from app.limits.service import RateLimits
from app.memory.compaction import CompactionJob, Compactions
from app.memory.schemas import Compact, CompactionObject, compaction_object
from app.memory.store import MemoryStore
from app.projects.auth import Caller
from app.provider.client import ProviderError
from app.provider.models import Models
from app.provider.refusals import client_error
from app.threads.address import ThreadAddress


class Memory:
    def __init__(
        self, store: MemoryStore, compactions: Compactions, models: Models, live_ids: LiveIds, limits: RateLimits
    ) -> None:
        self._limits = limits
        self._live_ids = live_ids
        self._store = store
        self._compactions = compactions
        self._models = models

    async def compactions(self, caller: Caller, address: ThreadAddress) -> dict[str, Any]:
        """List the compactions on the branch of the thread's head, the latest first."""
        _, head, _ = await self._store.head(caller.project_id, address)
        rows = await self._store.on_branch(caller.project_id, head)
        return list_object(rows, compaction_object, has_more=False)

    async def compact(self, caller: Caller, address: ThreadAddress, sent: Compact) -> CompactionObject:
        """Make a compaction of the thread now. Its next turn continues from it, however short the conversation is.

        Raises:
            APIError: there is nothing to compact, another request makes the compaction, or the model returned none.
        """
        thread_id, head, model = await self._store.head(caller.project_id, address)
        await self._refuse_running(caller, head)
        if head is None:
            raise _nothing()
        job = CompactionJob(
            caller.project_id,
            head,
            model or self._models.default,
            kept_turns=sent.keep_turns,
            instructions=sent.instructions,
            by=sent.model,
            now=True,
        )
        admission = await self._limits.admit(asks_of(caller, 0, model=self._compactions.maker(job), history=head))
        try:
            made = await self._compactions.make(job, admission)
        except ProviderError as error:
            raise client_error(error.failure) from error
        finally:
            self._limits.end(admission)
        if made is None:
            await self._refuse_running(caller, head)  # Another request was faster.
            raise _nothing()
        await self._store.give_up_chain(caller.project_id, head)
        await self._live_ids.forget(caller.project_id, thread_id)
        return compaction_object(await self._store.one(caller.project_id, head, made))

    async def _refuse_running(self, caller: Caller, head: UUID | None) -> None:
        if any(row["status"] == "running" for row in await self._store.on_branch(caller.project_id, head)):
            raise Conflict("A compaction of this thread is being made. Look again soon.", code="compaction_running")


def _nothing() -> BadRequest:
    return BadRequest(
        "There is nothing to compact: no turn of this thread comes before those that are kept and is not covered yet. "
        "Send a smaller 'keep_turns'.",
        param="keep_turns",
        code="nothing_to_compact",
    )

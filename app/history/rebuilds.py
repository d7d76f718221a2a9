"""Input that a rebuild of a turn would send now, for comparison with the sent input. Nothing is sent or stored."""

from dataclasses import replace
from typing import Any, Literal

from typing_extensions import TypedDict

from app.accounts.pool import Accounts
from app.chain.context import UNKNOWN
from app.chain.reduction import LAST_IN_WORDS, ReducedObject, target_of
from app.db import ids
from app.items.input_item import with_facts
from app.items.stored import stored_item
from app.items.unreadable import ContentUnreadable, is_unreadable
from app.memory.reader import Reader, within
from app.projects.auth import Caller
from app.provider.client import ProviderError
from app.provider.models import Models
from app.provider.refusals import client_error
from app.threads.address import ThreadAddress
from app.turns.deciding import body_envelope
from app.turns.schemas import TurnRequest
from app.turns.service import Turns
from app.turns.store import Opened, TurnStore


class RebuiltInput(TypedDict):
    object: Literal["turn.rebuilt_input"]
    turn_id: str
    model: str
    account: str
    """The account that would be called first."""
    tokens: int
    """Tokens of the input: counted, or an estimate that is rather too high."""
    dropped_items: int
    """Number of the oldest items of the history that are left out."""
    compaction: str | None
    """Id of the summary that replaces the beginning of the conversation."""
    reduced: ReducedObject | None
    input: list[Any]
    """Items as they would be sent to the model."""


class Rebuilds:
    def __init__(self, turns: Turns, store: TurnStore, reader: Reader, accounts: Accounts, models: Models) -> None:
        self._turns = turns
        self._store = store
        self._reader = reader
        self._accounts = accounts
        self._models = models

    async def of_turn(self, caller: Caller, address: ThreadAddress, turn_id: str) -> RebuiltInput:
        """Return the input that would be sent now for a turn: the history up to its parent, and its own input.

        Raises:
            APIError: there is no such turn, no account serves its model, or part of it cannot be decrypted.
        """
        row = await self._turns.row(caller, address, turn_id)
        project_id, params = caller.project_id, row["params"]
        items = (await self._store.items(project_id, [row["id"]]))[row["id"]]
        own = [stored_item(item) for item in items if item["origin"] == "input"]
        if any(is_unreadable(item.data) for item in own):
            raise ContentUnreadable("An item of this turn's input", "Nothing can be rebuilt with it.")
        request = TurnRequest(
            items=with_facts([item.item for item in own]),
            model=row["model"],
            family=self._models.of(row["model"]),
            params=params,
            metadata={},
            stream=False,
            streamed=bool(params.get("stream") or params.get("background")),
            parent_id=row["parent_id"],
            ignored=[],
        )
        turn = Opened(project_id, row["id"], row["thread_id"], row["parent_id"], row["created_at"], request, b"")
        try:
            account = await self._accounts.first(project_id, request.model)
        except ProviderError as error:
            raise client_error(error.failure) from error
        target = self._reader.target(account.binding, request.family, request.model)
        around = body_envelope(turn, target)
        parent, at = row["parent_id"], target_of(account.binding, request.model)
        kept = UNKNOWN if parent is None else await self._reader.store.context(project_id, parent)
        reduction = kept.reduced if kept.reduced is not None and kept.reduced.target == at else None
        if reduction is not None and params.get("truncation") == "disabled":
            reduction = replace(reduction, step=min(reduction.step, LAST_IN_WORDS))
        rebuilt = await self._reader.model_input(
            project_id,
            parent,
            request.input,
            within(target, around.overhead_tokens, len(around.head) + len(around.tail)),
            reduction=reduction,
            reasoning=kept.reasoning_refused != at,
        )
        return {
            "object": "turn.rebuilt_input",
            "turn_id": ids.turn_id(row["id"]),
            "model": request.model,
            "account": account.provider.account,
            "tokens": rebuilt.tokens,
            "dropped_items": rebuilt.dropped_items,
            "compaction": None if rebuilt.compaction is None else ids.compaction_id(rebuilt.compaction),
            "reduced": None if rebuilt.reduction is None else rebuilt.reduction.shown(),
            "input": rebuilt.input,
        }

"""The input that a rebuild of a turn would send now: to compare with what was sent. Nothing is sent or stored."""

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
    """The account that would be asked first."""
    tokens: int
    """Weight of the input: counted, or estimated on the high side."""
    dropped_items: int
    """The history's oldest items that it leaves out."""
    compaction: str | None
    """The summary that stands for the beginning of the conversation."""
    reduced: ReducedObject | None
    input: list[Any]
    """Items as a model is sent them."""


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
            APIError: there is no such turn, no account serves its model, or something of it cannot be opened.
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

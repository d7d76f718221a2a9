"""Reads and actions on the turns of a thread."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any
from uuid import UUID

import orjson

from app.db import ids
from app.http.errors import BadRequest, NotFound
from app.http.pages import Page, list_object
from app.items.client_door import COMPACTION, REFERENCE
from app.items.input_item import with_facts
from app.items.kinds import MALFORMED, is_system
from app.items.shapes import Item, message
from app.items.stored import Row, StoredItem, stored_item
from app.items.unreadable import ContentUnreadable, is_unreadable
from app.limits.room import check_room
from app.limits.service import RateLimits
from app.memory.compaction_cipher import CompactionCipher
from app.memory.store import as_message
from app.projects.auth import Caller
from app.threads.address import Address, New, OfTurn
from app.turns.client import Client
from app.turns.opening import Joined, with_app_messages
from app.turns.replay import Replay
from app.turns.rows import TurnRow
from app.turns.runner import Runner
from app.turns.running import Running
from app.turns.schemas import TurnRequest, check_items
from app.turns.show import output_text, stored_turn
from app.turns.store import TurnStore


class Turns:
    def __init__(
        self, store: TurnStore, runner: Runner, replay: Replay, cipher: CompactionCipher, limits: RateLimits
    ) -> None:
        self._limits = limits
        self._cipher = cipher
        self._replay = replay
        self._store = store
        self._runner = runner

    async def create(
        self, caller: Caller, address: Address, request: TurnRequest, headers: dict[str, str], client: Client
    ) -> Running | Joined:
        if request.stored:
            await check_room(self._limits, caller, request.user, makes_thread=isinstance(address, New))
        if not request.is_resolved:
            request = await self.with_references(caller, address, request)
        if request.origin.user is not None:
            request = await with_app_messages(self._store, caller.project_id, address, request)
        if not request.items:
            await self._check_waits_for_answer(caller, address)
        return await self._runner.start(caller.grant.project_id, address, request, headers, client)

    async def _check_waits_for_answer(self, caller: Caller, address: Address) -> None:
        """Refuse a request without input for a thread that does not end with something to be answered."""
        thread = await self._store.thread(caller.project_id, address)
        head = thread["head_turn_id"]
        rows, _ = ([], False) if head is None else await self._store.page_of_items(
            caller.project_id, head, cursor=None, latest_first=True, limit=1
        )  # fmt: skip
        last = _readable(rows[0]) if rows else None
        if last is None or not (last.kind.pair == "output" or last.item.get("role") == "user"):
            raise BadRequest(
                "'input' is required: the conversation does not end with a message of the user's or a tool's output.",
                param="input",
                code="missing_parameter",
            )

    async def replacing(self, caller: Caller, address: Address, body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """A request that replaces a turn, as one that continues what that turn continued.

        Returns:
            The request, with the replaced turn's input if it has none of its own; and whether it continues nothing.
        """
        if body.get("parent_id") is not None:
            raise BadRequest("'replaces' and 'parent_id' exclude each other. Send one of them.", param="replaces")
        if not isinstance(body["replaces"], str):
            raise BadRequest("'replaces' must be the id of a turn.", param="replaces", code="invalid_type")
        thread = await self._store.thread(caller.project_id, address)
        row = await self.of_thread(caller, thread["id"], body["replaces"], "replaces")
        again = {name: value for name, value in body.items() if name != "replaces"}
        if again.get("input") is None:
            items = await self._store.items(caller.project_id, [row["id"]])
            sent = [_readable(item) for item in items[row["id"]] if item["origin"] == "input"]
            # For a user, `create` adds the app's messages again.
            again["input"] = [
                kept.item
                for kept in sent
                if kept.type != MALFORMED and not (caller.grant.user is not None and is_system(kept.item))
            ]
        if row["parent_id"] is not None:
            again["parent_id"] = ids.turn_id(row["parent_id"])
        return again, row["parent_id"] is None

    async def with_references(self, caller: Caller, address: Address, request: TurnRequest) -> TurnRequest:
        """A request whose references to stored items are resolved. What its thread holds already is not sent twice.

        Raises:
            BadRequest: an item is unknown, or nothing is left to be sent.
        """
        if request.compactions:
            request = replace(request, items=with_facts(self.with_opened_compactions(caller, request.input)))
            check_items(request.items, request.model, request.family)
        if not request.references:
            return request
        thread_id = None if isinstance(address, New) else (await self._store.thread(caller.project_id, address))["id"]
        found = await self._store.referenced(caller.project_id, request.references, thread_id)
        items: list[Item] = []
        for item in request.input:
            if item.get("type") != REFERENCE:
                items.append(item)
                continue
            row = found.get(item["id"])
            if row is None or (caller.grant.user is not None and not row["within"]):
                raise BadRequest(
                    f"'{item['where']}.id': there is no item {item['id'][:80]!r} in this project.",
                    param=f"{item['where']}.id",
                    code="item_not_found",
                )
            if not row["within"]:
                items.append(_readable(row).item)
        resolved = with_facts(items)
        check_items(resolved, request.model, request.family)
        return replace(request, items=resolved)

    def with_opened_compactions(self, caller: Caller, items: Sequence[Item]) -> list[Item]:
        """Return items with each compaction replaced by its text as the model reads it, behind the app's messages that
        it carries.

        Raises:
            BadRequest: one was not made by this service for this project.
        """
        opened = (self._opened(caller, item) if item.get("type") == COMPACTION else [item] for item in items)
        return list(chain.from_iterable(opened))

    def _opened(self, caller: Caller, item: Item) -> list[Item]:
        text = self._cipher.decrypt(caller.project_id, item["encrypted_content"])
        if text is None:
            raise BadRequest(
                f"'{item['where']}.encrypted_content' was not made here for this project. Send the items themselves.",
                param=f"{item['where']}.encrypted_content",
                code="invalid_encrypted_content",
            )
        summary, *of_app = orjson.loads(text)
        return [*(message("system", said) for said in of_app), as_message(summary)]

    async def list_page(self, caller: Caller, address: Address, page: Page) -> dict[str, Any]:
        thread = await self._store.thread(caller.project_id, address)
        rows, has_more = await self._store.list_page(caller.project_id, thread["id"], page)
        items = await self._store.items(caller.project_id, [row["id"] for row in rows])
        return list_object(rows, lambda row: stored_turn(row, items[row["id"]]), has_more=has_more)

    async def get(self, caller: Caller, address: Address, turn_id: str) -> dict[str, Any]:
        thread = await self._store.thread(caller.project_id, address)
        row = await self.of_thread(caller, thread["id"], turn_id)
        items = await self._store.items(caller.project_id, [row["id"]])
        shown = stored_turn(row, items[row["id"]])
        if row["status"] == "in_progress":
            output, number = await self._replay.so_far(caller.project_id, row["id"])
            shown |= {"output": output, "output_text": output_text(output), "sequence_number": number}
        return shown

    def stop(self, running: Running) -> None:
        """Stop a turn that this worker runs; what it has said is kept."""
        self._runner.stop(running.turn.id)

    async def thread_id(self, caller: Caller, address: Address) -> UUID:
        """The thread at an address, or the one that a turn there would make.

        Raises:
            APIError: there is none.
        """
        if isinstance(address, New):
            return address.id
        found: UUID = (await self._store.thread(caller.project_id, address))["id"]
        return found

    async def is_there(self, caller: Caller, address: OfTurn) -> bool:
        """Return True if the project has the turn of an address."""
        return await self._store.at(caller.project_id, address) is not None

    async def row(self, caller: Caller, address: Address, turn_id: str) -> TurnRow:
        thread = await self._store.thread(caller.project_id, address)
        return await self.of_thread(caller, thread["id"], turn_id)

    async def cancel(self, caller: Caller, address: Address, turn_id: str) -> dict[str, Any]:
        """Stop a running turn, in whichever worker. One that has ended stays as it is."""
        row = await self.row(caller, address, turn_id)
        return stored_turn(*await self._replay.cancelled(caller.project_id, row["id"]))

    async def of_thread(self, caller: Caller, thread_id: UUID, turn_id: str, param: str = "turn_id") -> TurnRow:
        """A turn of a thread, or of the history that it shares.

        Raises:
            NotFound: there is none of this id.
        """
        found = ids.parse(turn_id, ids.TURN_PREFIXES)
        row = None if found is None else await self._store.get(caller.project_id, found)
        if row is None or (
            row["thread_id"] != thread_id and not await self._store.in_history(caller.project_id, thread_id, row["id"])
        ):
            raise NotFound(f"There is no turn {turn_id[:80]!r} in this thread.", param=param, code="turn_not_found")
        return row


def _readable(row: Row) -> StoredItem:
    """Return an item that a request needs. Raises `ContentUnreadable`."""
    kept = stored_item(row)
    if is_unreadable(kept.data):
        raise ContentUnreadable(f"Item {kept.id}", "Delete the item, or send the request without it.")
    return kept

"""What can be asked of a thread's turns."""

import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg

from app.db import ids
from app.db.pagination import Page, list_object
from app.errors import BadRequest, NotFound
from app.projects.auth import Caller
from app.threads.address import Address
from app.threads.schemas import optional_turn_id
from app.turns.calls import parse_call, unknown_call
from app.turns.client import Client
from app.turns.opening import Joined
from app.turns.playback import Tempo, play
from app.turns.replay import Replay
from app.turns.runner import Runner, Running
from app.turns.schemas import TurnRequest
from app.turns.show import stored_turn
from app.turns.store import TurnStore


class Turns:
    def __init__(
        self, store: TurnStore, runner: Runner, replay: Replay, *, binding: str, margin_seconds: float
    ) -> None:
        self._replay = replay
        self._store = store
        self._runner = runner
        self._binding = binding
        self._margin_seconds = margin_seconds

    async def create(
        self, caller: Caller, address: Address, request: TurnRequest, headers: dict[str, str], client: Client
    ) -> Running | Joined:
        return await self._runner.start(caller.project_id, address, request, headers, client)

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
        row = await self._turn(caller, thread["id"], body["replaces"], "replaces")
        again = {name: value for name, value in body.items() if name != "replaces"}
        if again.get("input") is None:
            items = await self._store.items(caller.project_id, [row["id"]])
            again["input"] = [item["data"] for item in items[row["id"]] if item["origin"] == "input"]
        if row["parent_id"] is not None:
            again["parent_id"] = ids.turn_id(row["parent_id"])
        return again, row["parent_id"] is None

    async def list_page(self, caller: Caller, address: Address, page: Page) -> dict[str, Any]:
        thread = await self._store.thread(caller.project_id, address)
        rows, has_more = await self._store.list_page(caller.project_id, thread["id"], page)
        items = await self._store.items(caller.project_id, [row["id"] for row in rows])
        return list_object(rows, lambda row: stored_turn(row, items[row["id"]]), has_more=has_more)

    async def get(self, caller: Caller, address: Address, turn_id: str) -> dict[str, Any]:
        thread = await self._store.thread(caller.project_id, address)
        row = await self._turn(caller, thread["id"], turn_id)
        items = await self._store.items(caller.project_id, [row["id"]])
        return stored_turn(row, items[row["id"]])

    async def row(self, caller: Caller, address: Address, turn_id: str) -> asyncpg.Record:
        thread = await self._store.thread(caller.project_id, address)
        return await self._turn(caller, thread["id"], turn_id)

    async def cancel(self, caller: Caller, address: Address, turn_id: str) -> dict[str, Any]:
        """Stop a running turn, in whichever worker. One that has ended stays as it is."""
        row = await self.row(caller, address, turn_id)
        return stored_turn(*await self._replay.cancelled(caller.project_id, row["id"]))

    async def calls(self, caller: Caller, address: Address, turn_id: str) -> tuple[UUID, list[asyncpg.Record]]:
        row = await self.row(caller, address, turn_id)
        return row["id"], await self._store.calls(caller.project_id, row["id"])

    async def call(self, caller: Caller, call_id: str) -> tuple[UUID, asyncpg.Record]:
        """A call by its own id, with its turn's."""
        turn_id, attempt = parse_call(call_id)
        for row in await self._store.calls(caller.project_id, turn_id):
            if row["attempt"] == attempt:
                return turn_id, row
        raise unknown_call(call_id)

    async def play(self, caller: Caller, address: Address, until: str | None, tempo: Tempo) -> AsyncIterator[bytes]:
        """The events of a branch as they happened, up to its head or to another turn."""
        _, last = await self._branch(caller, address, until)
        return play(self._store, caller.project_id, last, tempo)

    async def branches(self, caller: Caller, address: Address, page: Page) -> dict[str, Any]:
        """The ends of a thread's branches, latest first. The head is one of them."""
        thread = await self._store.thread(caller.project_id, address)
        after, _ = page.bounds(ids.TURN_PREFIXES)
        rows = await self._store.branches(caller.project_id, thread["id"], after=after, limit=page.limit + 1)

        def show(row: asyncpg.Record) -> dict[str, Any]:
            return {
                "id": ids.turn_id(row["id"]),
                "object": "branch",
                "status": row["status"],
                "head": row["id"] == thread["head_turn_id"],
                "created_at": _seconds(row["created_at"]),
            }

        return list_object(rows[: page.limit], show, has_more=len(rows) > page.limit)

    async def messages(
        self, caller: Caller, address: Address, *, until: str | None, before: str | None, turns: int | None
    ) -> tuple[asyncpg.Record, list[asyncpg.Record], bool]:
        """The items of a thread's branch, up to its head, to another turn, or to the one before another.

        Args:
            turns: of how many of these turns, the last ones; None for all.

        Returns:
            The thread, the items in their order, and whether the branch has turns before them.
        """
        if before is None:
            thread, last = await self._branch(caller, address, until)
        elif until is not None:
            raise BadRequest("'before' and 'until' exclude each other. Send one of them.", param="before")
        else:
            thread = await self._store.thread(caller.project_id, address)
            last = (await self._turn(caller, thread["id"], before, "before"))["parent_id"]
        return thread, *await self._store.messages(caller.project_id, last, turns)

    async def chain(self, caller: Caller, address: Address, until: str | None) -> dict[str, Any]:
        """How each turn of a branch reached the model, and whether it can be chained on."""
        _, last = await self._branch(caller, address, until)
        rows = [] if last is None else await self._store.chain(caller.project_id, last)
        return list_object(rows, self._link, has_more=False)

    def _link(self, row: asyncpg.Record) -> dict[str, Any]:
        expires_at = row["response_expires_at"]
        return {
            "id": ids.turn_id(row["id"]),
            "object": "chain.link",
            "parent_id": optional_turn_id(row["parent_id"]),
            "status": row["status"],
            "continuation": row["continuation"],
            "model": row["model"],
            "provider": None if row["binding"] is None else row["binding"].partition("#")[0],
            "response_id": row["response_id"],
            "response_created_at": _seconds(row["response_created_at"]),
            "response_expires_at": _seconds(expires_at),
            "live": (
                row["status"] in ("completed", "incomplete")
                and expires_at is not None
                and row["response_unknown_at"] is None
                and row["binding"] == self._binding
                and time.time() < expires_at.timestamp() - self._margin_seconds
            ),
        }

    async def _branch(self, caller: Caller, address: Address, until: str | None) -> tuple[asyncpg.Record, UUID | None]:
        thread = await self._store.thread(caller.project_id, address)
        if until is None:
            return thread, thread["head_turn_id"]
        row = await self._turn(caller, thread["id"], until)
        return thread, row["id"]

    async def _turn(self, caller: Caller, thread_id: UUID, turn_id: str, param: str = "turn_id") -> asyncpg.Record:
        found = ids.parse(turn_id, ids.TURN_PREFIXES)
        row = None if found is None else await self._store.get(caller.project_id, found)
        if row is None or (
            row["thread_id"] != thread_id and not await self._store.in_history(caller.project_id, thread_id, row["id"])
        ):
            raise NotFound(f"There is no turn {turn_id[:80]!r} in this thread.", param=param, code="turn_not_found")
        return row


def _seconds(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp())

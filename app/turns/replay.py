"""The events of a turn, from wherever they can be had: this worker, the event log, or what Postgres keeps."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

from app.db import ids
from app.http.errors import DatabaseUnavailable, NotFound
from app.items.provider_door import output_text_parts
from app.items.shapes import Item
from app.provider.events import own_frame
from app.turns.cancel_signals import CancelSignals
from app.turns.closing import deleted, gone_frame, last_event
from app.turns.event_log import EventLog, LogBroken
from app.turns.rows import ItemRow, TurnRow
from app.turns.runner import Runner
from app.turns.show import stored_response
from app.turns.store import TurnStore
from app.turns.streamed import output_of

StoredTurn = tuple[TurnRow, list[ItemRow]]

POLL_SECONDS = 0.1
AWAY_SECONDS = 0.5


class Replay:
    def __init__(self, store: TurnStore, runner: Runner, event_log: EventLog, signals: CancelSignals) -> None:
        self._store = store
        self._runner = runner
        self._event_log = event_log
        self._signals = signals

    async def frames(self, project_id: UUID, turn_id: UUID, start: int) -> AsyncIterator[bytes]:
        """The events from number `start` on, to the turn's end. The caller knows that the turn is there."""
        running = self._runner.find(turn_id)
        if running is not None and running.turn.request.streamed:
            async for chunk in running.events.follow(start):
                yield chunk
            if len(running.events):
                return  # Else it has failed before its first event.
        sent = start
        try:
            async for batch, ended in self._event_log.follow(project_id, turn_id, start):
                if batch:
                    sent += len(batch)
                    yield b"".join(batch)
                if ended and sent > start:
                    return
                if ended:
                    break  # Its worker was killed, and had sent more than it had logged: the end is still to be told.
                if not batch and not await self._runs(project_id, turn_id):
                    break
        except LogBroken:
            pass  # The end of the turn is told all the same, from Postgres.
        try:
            row, items = await self._ended_at_last(project_id, turn_id)
        except NotFound:
            yield gone_frame(deleted(), sent)
            return
        response = stored_response(row, items)
        if row["status"] == "failed" and row["error_status"] is not None:
            response["error"] = {**(response["error"] or {}), "status": row["error_status"]}
        if sent == 0:
            for number, (kind, fields) in enumerate(events_of(response)):
                yield own_frame(kind, fields, number)
        else:
            # Numbers of single deltas are not kept; the last event holds the whole output.
            kind, fields = last_event(response)
            yield own_frame(kind, fields, sent)

    async def ended(self, project_id: UUID, turn_id: UUID) -> StoredTurn:
        """The turn's row and items, once it has ended, in whichever worker."""
        while True:
            stored = await self.stored(project_id, turn_id)
            if stored[0]["status"] != "in_progress":
                return stored
            running = self._runner.find(turn_id)
            if running is not None:
                await running.wait(1)
            else:
                await asyncio.sleep(POLL_SECONDS)

    async def cancelled(self, project_id: UUID, turn_id: UUID) -> StoredTurn:
        """Stop a turn, whichever worker runs it, and give it as it ended."""
        row, _ = await self.stored(project_id, turn_id)
        if row["status"] == "in_progress":
            await self._store.request_cancel(project_id, turn_id)
            await self._signals.send([turn_id])
            await self._runner.cancel(turn_id)
        return await self.ended(project_id, turn_id)

    async def client_left(self, project_id: UUID, turn_id: UUID) -> None:
        """Write down that nobody was given a byte of a turn's answer."""
        await self._store.client_left(project_id, turn_id)

    async def stored(self, project_id: UUID, turn_id: UUID) -> StoredTurn:
        """The turn's row and items as they are now.

        Raises:
            NotFound: it was deleted.
        """
        row = await self._store.get(project_id, turn_id)
        if row is None:
            raise NotFound(f"There is no turn {ids.turn_id(turn_id)}.", param="turn_id", code="turn_not_found")
        return row, (await self._store.items(project_id, [turn_id]))[turn_id]

    async def so_far(self, project_id: UUID, turn_id: UUID) -> tuple[list[Item], int | None]:
        """Return the output of a running turn so far, and the number of its last event; None if it is not known."""
        running = self._runner.find(turn_id)
        if running is not None:
            frames = running.events.since(0)
        else:
            try:
                frames, _ = await self._event_log.read(project_id, turn_id)
            except LogBroken:
                frames = []
        return output_of(frames), len(frames) - 1 if frames else None

    async def _ended_at_last(self, project_id: UUID, turn_id: UUID) -> StoredTurn:
        """The same as `ended`, for a stream that has begun: no error can be sent any more, so it waits for Postgres."""
        while True:
            try:
                return await self.ended(project_id, turn_id)
            except DatabaseUnavailable:
                await asyncio.sleep(AWAY_SECONDS)

    async def _runs(self, project_id: UUID, turn_id: UUID) -> bool:
        try:
            row = await self._store.get(project_id, turn_id)
        except DatabaseUnavailable:
            return True  # For all that is known.
        return row is not None and row["status"] == "in_progress"


def events_of(response: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """An ended response as a stream, each text in one delta."""
    opening = {**response, "status": "in_progress", "output": [], "usage": None, "completed_at": None, "error": None}
    yield "response.created", {"response": opening}
    yield "response.in_progress", {"response": opening}
    for index, item in enumerate(response["output"]):
        yield from _item_events(index, item)
    yield last_event(response)


def _item_events(index: int, item: Item) -> Iterator[tuple[str, dict[str, Any]]]:
    begun = {**item, "status": "in_progress"} if "status" in item else item
    if item.get("type") == "message":
        begun = {**begun, "content": []}
    yield "response.output_item.added", {"output_index": index, "item": begun}
    for place, part in enumerate(output_text_parts(item) if item.get("type") == "message" else []):
        at = {"item_id": item.get("id", ""), "output_index": index, "content_index": place}
        yield "response.content_part.added", {**at, "part": {**part, "text": ""}}
        yield "response.output_text.delta", {**at, "delta": part["text"], "logprobs": []}
        yield "response.output_text.done", {**at, "text": part["text"], "logprobs": []}
        yield "response.content_part.done", {**at, "part": part}
    yield "response.output_item.done", {"output_index": index, "item": item}

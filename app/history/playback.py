"""A conversation as it happened: the events of each of its turns, at the pace they came at, or faster."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson

from app.db import ids
from app.items.stored import stored_item
from app.provider.events import encoded
from app.turns.closing import TERMINAL
from app.turns.pace import deltas
from app.turns.replay import events_of
from app.turns.rows import ItemRow, TurnRow
from app.turns.show import stored_response
from app.turns.store import TurnStore

TURNS_AT_ONCE = 50

BYTES_AT_ONCE = 1_000_000
"""Frames without a pause between them are sent together, as far as they have no more bytes."""

Moment = tuple[float, bytes]
"""A frame, and its time in Unix seconds."""


@dataclass(frozen=True, slots=True)
class Tempo:
    speed: float
    """Factor of the original speed; 0 for no pauses."""
    longest_pause: float
    """Seconds; however long people took to go on talking."""


@dataclass(frozen=True, slots=True)
class Part:
    """Range of a branch's turns, counted from the first."""

    skip: int = 0
    limit: int | None = None
    """None for all remaining turns."""


async def play(store: TurnStore, project_id: UUID, last: UUID | None, tempo: Tempo, part: Part) -> AsyncIterator[bytes]:
    """Yield the events of a part of a branch, up to the turn `last`, as server-sent events.

    Each says when it happened, `at`. Before those of each turn stands a `thread.turn` with its input; at the end,
    `thread.replayed` with the number of turns of the whole branch and its last turn.
    """
    now, number = None, 0
    branch: list[UUID] = []
    if last is not None:
        branch = await store.page_of_turns(project_id, last, cursor=None, latest_first=False, limit=None)
    start = part.skip
    end = len(branch) if part.limit is None else min(len(branch), start + part.limit)
    while start < end:
        turn_ids = await store.on_a_page(project_id, branch[start : min(end, start + TURNS_AT_ONCE)], documents=True)
        start += len(turn_ids)
        rows = await store.turns(project_id, turn_ids)
        items = await store.items(project_id, turn_ids)
        ready: list[bytes] = []
        waiting = 0
        for at, frame in _moments([(rows[id_], items[id_]) for id_ in turn_ids if id_ in rows]):
            pause = 0.0 if now is None or tempo.speed == 0 else max(0.0, at - now) / tempo.speed
            if pause > 0 or waiting > BYTES_AT_ONCE:
                if ready:
                    yield b"".join(ready)
                    ready, waiting = [], 0
                await asyncio.sleep(min(pause, tempo.longest_pause))
            now = at if now is None else max(at, now)
            ready.append(b"id: %d\n" % number + frame)
            waiting += len(frame)
            number += 1
        if ready:
            yield b"".join(ready)
    ended = {"type": "thread.replayed", "turns": len(branch), "last_id": ids.optional_turn_id(last)}
    yield b"id: %d\nevent: thread.replayed\ndata: %b\n\n" % (number, orjson.dumps(ended))


def _moments(turns: Sequence[tuple[TurnRow, list[ItemRow]]]) -> Iterator[Moment]:
    for row, items in turns:
        began = row["created_at"].timestamp()
        ended = row["completed_at"].timestamp() if row["completed_at"] else began
        opening = {
            "type": "thread.turn",
            "at": round(began, 3),
            "turn_id": ids.turn_id(row["id"]),
            "status": row["status"],
            "created_at": int(began),
            "input": [stored_item(item).shown for item in items if item["origin"] == "input"],
        }
        yield began, b"event: thread.turn\ndata: " + orjson.dumps(opening) + b"\n\n"
        if row["status"] == "in_progress" or (row["continuation"] is None and row["status"] == "completed"):
            continue  # It is not over yet; or it is items that were added outside any call.
        at, used, number = began, 0, 0
        for kind, fields in events_of(stored_response(row, items)):
            pieces: list[tuple[str, int]] = [("", 0)]
            if kind == "response.output_text.delta":
                pieces = deltas(fields["delta"], row["pace"], used)
                used += len(pieces)
            for piece, milliseconds in pieces:
                at = max(at, began + milliseconds / 1000)
                said = {**fields, "delta": piece} if kind == "response.output_text.delta" else fields
                when = max(at, ended) if kind in TERMINAL else at
                data = encoded(kind, {**said, "at": round(when, 3)}, number)
                yield when, b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
                number += 1

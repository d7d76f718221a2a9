"""Answers that could not be written, Postgres being away when the process had to stop: on disk until it is back."""

import os
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import structlog

from app.db import ids
from app.trail.records import Actor
from app.turns.store import CallRecord, Closable, Closing, TurnStore

log = structlog.get_logger()


class Spool:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, turn: Closable, closing: Closing) -> None:
        """Write what a turn is to be closed with. It is on the disk when this returns."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = asdict(closing)
        kept["calls"] = [{**asdict(call), "body": call.body.decode()} for call in closing.calls]
        content = orjson.dumps({"turn": {**asdict(turn), "salt": turn.salt.hex()}, "closing": kept}, default=str)
        part = self._directory / f"{turn.id.hex}.part"
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self._directory / f"{turn.id.hex}.json")
        log.warning("Postgres is away; an answered turn was kept on disk", turn=ids.turn_id(turn.id))

    async def empty(self, store: TurnStore) -> None:
        """Close what was kept. Of two workers, one takes each file.

        Raises:
            DatabaseUnavailable: Postgres is still away; the rest stays.
        """
        if not self._directory.is_dir():
            return
        for path in self._directory.glob("*.json"):
            taken = path.with_suffix(f".{os.getpid()}")
            try:
                path.rename(taken)
            except FileNotFoundError:
                continue  # Another worker has it.
            try:
                kept = orjson.loads(taken.read_bytes())
                turn = _turn(kept["turn"])
                closed = await store.close(turn, _read(kept["closing"]))
            except BaseException:
                taken.rename(path)
                raise
            taken.unlink()
            log.info("a turn was closed from disk", turn=ids.turn_id(turn.id), closed=closed)


def _turn(kept: dict[str, Any]) -> Closable:
    key_id = kept["actor"]["key_id"]
    actor = Actor(None if key_id is None else UUID(key_id), kept["actor"]["address"])
    thread_id = kept.get("thread_id")  # Older releases have not kept it.
    return Closable(
        UUID(kept["project_id"]),
        UUID(kept["id"]),
        None if thread_id is None else UUID(thread_id),
        kept["input_items"],
        bytes.fromhex(kept["salt"]),
        actor,
    )


def _read(kept: dict[str, Any]) -> Closing:
    kept["calls"] = [
        CallRecord(**{name: _value(name, call[name]) for name in (f.name for f in fields(CallRecord))})
        for call in kept["calls"]
    ]
    return Closing(**{name: _value(name, value) for name, value in kept.items()})


def _value(name: str, value: Any) -> Any:
    if name == "body":
        return value.encode()
    if name.endswith("_at") and value is not None:
        return datetime.fromisoformat(value)
    return value

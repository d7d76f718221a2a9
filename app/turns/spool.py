"""Closings of turns on disk, while a process stops: written before Postgres has them, removed once it has.

A file holds one turn's closing, in a form of its own with a version. Closing a turn twice changes nothing, so that
whoever finds a file reads it, closes its turn, and removes it then: whatever dies in between, the file is still there.
"""

import asyncio
import base64
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import structlog

from app.http.errors import ThreadLocked
from app.items.stored import StoredItem
from app.sealing import opening
from app.sealing.at_rest import PLAIN
from app.sealing.ciphertext import CannotOpen, Place
from app.sealing.content_keys import ContentKeys
from app.trail.records import Actor
from app.turns.closing import CallRecord, Closing
from app.turns.pieces import Body, Piece
from app.turns.store import BRIEF_WAIT_SECONDS, Closable, TurnStore

log = structlog.get_logger()

VERSION = 2

UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OSError, asyncpg.PostgresError, CannotOpen)

SET_ASIDE = ".unreadable"
"""The suffix of a file that cannot be processed: an operator has to look at it."""


WRITERS = 16
"""Threads that write files. File systems commit together what several threads wait for."""


class Spool:
    def __init__(self, directory: Path, content_keys: ContentKeys) -> None:
        self._directory = directory
        self._content_keys = content_keys
        self._writers = ThreadPoolExecutor(WRITERS, "spool")
        self._held: set[str] = set()
        """Names of the files whose turns this process is closing itself."""

    async def write(self, turn: Closable, closing: Closing) -> None:
        """Write what a turn is to be closed with. It is on the disk when this returns, until `remove`.

        Raises:
            OSError: it is not: the disk is full, for one.
        """
        self._held.add(_name(turn))
        await asyncio.get_running_loop().run_in_executor(self._writers, self._write, turn, closing)

    async def remove(self, turn: Closable) -> None:
        """Remove the file of a turn that is closed by now. One that stays does no harm: see `empty`."""
        path = self._directory / f"{_name(turn)}.json"
        try:
            await asyncio.get_running_loop().run_in_executor(self._writers, lambda: path.unlink(missing_ok=True))
        except OSError as error:
            log.warning("a file of the spool cannot be removed", error=error.strerror, **turn.in_logs)
        self._held.discard(_name(turn))

    def _write(self, turn: Closable, closing: Closing) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = _name(turn)
        part = self._directory / f"{name}.part"
        try:
            with part.open("wb") as file:
                file.write(turn.sealer.bytes(_place(turn.project_id, turn.id), "closing", encoded(turn, closing)))
                file.flush()
                os.fsync(file.fileno())
            part.rename(self._directory / f"{name}.json")
            _sync(self._directory)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def waiting(self, project_id: UUID) -> list[str]:
        """Return the ids of a project's turns whose closings are on this disk, as 32 digits."""
        return [path.stem.partition(".")[2] for path in self._directory.glob(f"{project_id.hex}.*.json")]

    async def empty(self, store: TurnStore) -> None:
        """Close what was kept. A file that cannot be worked off is set aside, and does not stop the others.

        Raises:
            DatabaseUnavailable: Postgres is still away; the rest stays.
        """
        if not self._directory.is_dir():
            return
        for path in sorted(self._directory.glob("*.json")):
            if path.stem in self._held:
                continue
            try:
                turn, closing = await self._read(path.stem, path.read_bytes())
                closed = await store.close(turn, closing, BRIEF_WAIT_SECONDS) is not None
            except FileNotFoundError:
                continue  # Another worker has closed it.
            except ThreadLocked:
                log.warning(
                    "an answered turn on disk is in a thread that is locked; it is closed later", **turn.in_logs
                )
                continue
            except UNREADABLE as error:
                log.error(
                    "a file of the spool cannot be worked off and is set aside; look at it",
                    file=path.name,
                    error=type(error).__name__,
                )
                path.replace(path.with_suffix(SET_ASIDE))
                continue
            path.unlink(missing_ok=True)
            if closed:
                log.info("a turn was closed from disk", **turn.in_logs)
            else:
                log.warning(
                    "an answer on disk is dropped: its turn was deleted, or closed by another worker", **turn.in_logs
                )

    async def _read(self, name: str, content: bytes) -> tuple[Closable, Closing]:
        """Return what a file holds. Raises one of `UNREADABLE`."""
        project_id, turn_id = map(UUID, name.split("."))
        sealer = await self._content_keys.sealer(project_id)
        turn, closing = decoded(opening.content(_place(project_id, turn_id), "closing", content))
        if (turn.project_id, turn.id) != (project_id, turn_id):
            raise ValueError("another turn's file")
        return replace(turn, sealer=sealer), closing


def _name(turn: Closable) -> str:
    return f"{turn.project_id.hex}.{turn.id.hex}"


def _place(project_id: UUID, turn_id: UUID) -> Place:
    return Place(project_id, "spool", (turn_id,))


def encoded(turn: Closable, closing: Closing) -> bytes:
    """Return a file's content: a turn's closing."""
    return orjson.dumps(
        {
            "version": VERSION,
            "turn": {
                "project_id": turn.project_id.hex,
                "id": turn.id.hex,
                "thread_id": None if turn.thread_id is None else turn.thread_id.hex,
                "input_items": turn.input_items,
                "salt": turn.salt.hex(),
                "key_id": None if turn.actor.key_id is None else turn.actor.key_id.hex,
                "address": turn.actor.address,
            },
            "closing": {
                "status": closing.status,
                "continuation": closing.continuation,
                "continuation_reason": closing.continuation_reason,
                "calls": [_encoded_call(call) for call in closing.calls],
                "output": [{"type": item.type, "id": item.id, "data": item.data} for item in closing.output],
                "response": closing.response,
                "usage": closing.usage,
                "cost": closing.cost,
                "error": closing.error,
                "incomplete_details": closing.incomplete_details,
                "binding": closing.binding,
                "response_id": closing.response_id,
                "response_created_at": _instant(closing.response_created_at),
                "response_expires_at": _instant(closing.response_expires_at),
                "error_status": closing.error_status,
                "pace": closing.pace,
                "context": closing.context,
                "replaced_model": closing.replaced_model,
                "pieces": [
                    {
                        "data": piece.data,
                        "digest": piece.digest.hex(),
                        "sources": list(piece.sources),
                        "media_id": None if piece.media_id is None else piece.media_id.hex,
                    }
                    for piece in closing.pieces
                ],
            },
        }
    )


def decoded(content: bytes) -> tuple[Closable, Closing]:
    """The contents of a file.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is none of ours, or of a version that is not known here.
    """
    found = orjson.loads(content)
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ValueError("not a file of this version")
    turn, closing = found["turn"], found["closing"]
    closable = Closable(
        UUID(turn["project_id"]),
        UUID(turn["id"]),
        _optional(turn["thread_id"], UUID),
        int(turn["input_items"]),
        bytes.fromhex(turn["salt"]),
        Actor(_optional(turn["key_id"], UUID), turn["address"]),
        PLAIN,
    )
    return closable, Closing(
        closing["status"],
        closing["continuation"],
        [_decoded_call(call) for call in closing["calls"]],
        [StoredItem(str(item["type"]), str(item["id"]), dict(item["data"])) for item in closing["output"]],
        closing["response"],
        closing["usage"],
        closing["error"],
        closing["incomplete_details"],
        closing["binding"],
        closing["response_id"],
        _optional(closing["response_created_at"], datetime.fromisoformat),
        _optional(closing["response_expires_at"], datetime.fromisoformat),
        closing["error_status"],
        closing["pace"],
        [
            Piece(
                str(one["data"]),
                bytes.fromhex(one["digest"]),
                list(one["sources"]),
                _optional(one["media_id"], UUID),
            )
            for one in closing["pieces"]
        ],
        closing["context"],
        closing["replaced_model"],
        closing["cost"],
        closing.get("continuation_reason"),  # The previous release does not write it.
    )


def _encoded_call(call: CallRecord) -> dict[str, Any]:
    return {
        "continuation": call.continuation,
        "account": call.account,
        "url": call.url,
        "body": {
            "sent": base64.b64encode(call.body.sent).decode(),
            "frames": call.body.literals,
            "refs": call.body.refs,
        },
        "dropped_items": call.dropped_items,
        "status": call.status,
        "response_id": call.response_id,
        "error": call.error,
        "started_at": call.started_at.isoformat(),
        "finished_at": call.finished_at.isoformat(),
        "continuation_reason": call.continuation_reason,
    }


def _decoded_call(call: dict[str, Any]) -> CallRecord:
    return CallRecord(
        str(call["continuation"]),
        str(call["account"]),
        str(call["url"]),
        Body(
            base64.b64decode(call["body"]["sent"], validate=True),
            [str(frame) for frame in call["body"]["frames"]],
            [int(ref) for ref in call["body"]["refs"]],
        ),
        int(call["dropped_items"]),
        call["status"],
        call["response_id"],
        call["error"],
        datetime.fromisoformat(call["started_at"]),
        datetime.fromisoformat(call["finished_at"]),
        call.get("continuation_reason"),
    )


def _instant(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _optional(value: Any, made: Callable[[Any], Any]) -> Any:
    return None if value is None else made(value)


def _sync(directory: Path) -> None:
    """The name of a new file is on the disk too when its directory is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

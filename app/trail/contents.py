"""What the digests of the audit trail are over: the contents of threads, turns and calls, part by part.

The parts are texts as they lie in the tables, so that a digest can be compared with the rows at any time.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from app.trail.records import content_digest

SALT_BYTES = 16


def new_salt() -> bytes:
    return secrets.token_bytes(SALT_BYTES)


def thread(
    salt: bytes, name: str | None, title: str | None, user: str | None, metadata: dict[str, str], *, archived: bool
) -> bytes:
    return content_digest(salt, "thread", name, title, user, _sorted(metadata), int(archived))


def opened(
    salt: bytes, model: str, params: str, metadata: dict[str, str], item_ids: Sequence[str], data: Sequence[str]
) -> bytes:
    """A turn's request; or, without a model, items that were added outside any call."""
    return content_digest(salt, "opened", model, params, _sorted(metadata), item_ids, data)


def called(
    salt: bytes,
    attempt: int,
    continuation: str,
    url: str,
    body: bytes,
    dropped_items: int,
    status: int | None,
    response_id: str | None,
    error: str | None,
) -> bytes:
    """A call with the exact body sent, and how it was answered; the answer itself is in `closed`."""
    return content_digest(salt, "called", attempt, continuation, url, body, dropped_items, status, response_id, error)


def closed(
    salt: bytes,
    status: str,
    continuation: str | None,
    response: str | None,
    usage: str | None,
    error: str | None,
    incomplete_details: str | None,
    binding: str | None,
    response_id: str | None,
    pace: str | None,
    item_ids: Sequence[str],
    data: Sequence[str],
) -> bytes:
    """What a turn was closed with."""
    outcome = (status, continuation, response, usage, error, incomplete_details, binding, response_id, pace)
    return content_digest(salt, "closed", *outcome, item_ids, data)


def compacted(salt: bytes, text: str, calls: str, usage: str) -> bytes:
    """A compaction, and what a model was sent for it."""
    return content_digest(salt, "compacted", text, calls, usage)


def compacted_row(salt: bytes, compaction: Mapping[str, Any]) -> bytes:
    """The same, of the columns that are about to be written."""
    return compacted(salt, compaction["text"], _text(compaction["calls"]) or "", _text(compaction["usage"]) or "null")


def imported(
    salt: bytes,
    request: tuple[str, str, dict[str, str]],
    outcome: Sequence[str | None],
    response_id: str | None,
    item_ids: Sequence[str],
    data: Sequence[str],
) -> bytes:
    """A turn that came in whole.

    Args:
        request: model, params, metadata.
        outcome: status, continuation, response, usage, error, incomplete details.
    """
    model, params, metadata = request
    return content_digest(salt, "imported", model, params, _sorted(metadata), *outcome, response_id, item_ids, data)


def imported_rows(salt: bytes, turn: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> bytes:
    """The same, of the columns that are about to be written."""
    outcome = (turn["status"], turn["continuation"])
    documents = (turn["response"], turn["usage"], turn["error"], turn["incomplete_details"])
    return imported(
        salt,
        (turn["model"], _text(turn["params"]) or "", turn["metadata_"]),
        (*outcome, *map(_text, documents)),
        turn["response_id"],
        [item["item_id"] for item in items],
        [_text(item["data"]) or "" for item in items],
    )


def _text(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _sorted(metadata: dict[str, str]) -> str:
    return orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS).decode()

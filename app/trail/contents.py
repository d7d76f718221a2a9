"""Digests in audit records: what each kind of content covers, in lists of fields that have versions.

A digest is the SHA-256 of a salt and a JSON array: the kind, the version, and the values of the fields in the order of
their list. A column that is added later goes into a new list under the next version; records that were written before
keep the list of theirs.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, Literal
from uuid import UUID

import orjson

VERSION: Literal[2] = 2
"""The version of new records."""

Kind = Literal[
    "thread", "opened", "placed", "called", "closed", "turn", "left", "compacted", "feedback", "share", "key", "project"
]

_ITEMS = ("item_positions", "item_origins", "item_types", "item_ids", "item_data")
_PLACE = ("thread_id", "seq", "beside", "parent_id", "copied_from_id")
_MOMENTS = ("created_at", "arrived_at", "completed_at", "deleted_at")
_RESPONSE = ("binding", "response_id", "response_created_at", "response_expires_at")
_OUTCOME = ("response", "usage", "error", "incomplete_details", "pace", "context", "error_status")

FIELDS: dict[tuple[Kind, int], tuple[str, ...]] = {
    # `created_at` is null where it is the moment at which the thread arrived.
    ("thread", 2): (
        "name", "title", "user_id", "metadata", "ttl_seconds", "archived_at", "created_at", "forked_turn_id",
    ),
    # A turn's request. The thread, the key and the moment are fields of the record itself.
    ("opened", 2): ("model", "params", "metadata", "ignored", *_ITEMS),
    # The place that the database gave to the turn. Its salt is the digest of the request.
    ("placed", 2): ("seq", "beside", "parent_id"),
    # A call with the exact body sent, and how it was answered. The answer itself is in `closed`.
    ("called", 2): (
        "attempt", "continuation", "url", "body", "dropped_items", "status", "response_id", "error", "started_at",
        "finished_at",
    ),
    # The outcome of a turn. The moment is the record's.
    ("closed", 2): ("status", "continuation", *_OUTCOME, *_RESPONSE, "copied_from_id", "deleted_at", *_ITEMS),
    # A whole turn: one that was imported or copied, items that were added, and what is left after an item was deleted.
    ("turn", 2): (
        *_PLACE, *_MOMENTS, "api_key_id", "status", "continuation", "model", "params", "metadata", "ignored", *_OUTCOME,
        *_RESPONSE, *_ITEMS,
    ),
    # The place of a turn whose content is gone, or that a fork has taken over. No contents.
    ("left", 2): (
        *_PLACE, *_MOMENTS, "api_key_id", "status", "continuation", "model", "error_status", *_RESPONSE, "has_content",
    ),
    # A compaction, and what a model was sent for it.
    ("compacted", 2): (
        "id", "model", "text", "kept_items", "covered_turns", "covered_tokens", "tokens", "calls", "usage",
        "created_at", "completed_at",
    ),
    ("feedback", 2): ("turn_id", "score", "label", "comment", "user_id", "created_at"),
    ("share", 2): ("thread_id", "turn_id", "title", "token_hash", "expires_at", "created_at"),
    ("key", 2): ("name", "hint", "key_hash", "scopes", "limits", "created_at", "expires_at", "revoked_at", "subject"),
    ("project", 2): (
        "name", "operates", "settings", "retention_days", "session_cache", "created_at", "archived_at", "encrypted_at",
        "key_destroyed_at",
    ),
}  # fmt: skip

TURN_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(name for name in FIELDS["turn", 2] if name not in _ITEMS),
    "beside": 0,
    "metadata": {},
    "ignored": [],
}
"""A turn's columns where an insert leaves them out."""

DOCUMENTS = ("params", "response", "usage", "error", "incomplete_details", "pace", "context")
"""Columns of turns that are hashed as the text that lies in the table."""

_VALUES = {key: itemgetter(*names) for key, names in FIELDS.items()}
"""Functions that return the values of a content in the order of its list."""

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z

SALT_BYTES = 16


def new_salt() -> bytes:
    return os.urandom(SALT_BYTES)


def covered(kind: Kind, values: Mapping[str, Any], version: int = VERSION) -> bytes:
    """Return the JSON array that the digest of a content covers.

    Args:
        values: at least the fields of the kind's list. JSON documents are given as the text that lies in the table.

    Raises:
        KeyError: the version has no list for this kind, or a field is missing.
    """
    return orjson.dumps((kind, version, *_VALUES[kind, version](values)), _shown, _OPTIONS)


def digest(kind: Kind, salt: bytes, values: Mapping[str, Any], version: int = VERSION) -> bytes:
    """Return the salted digest of a content. The arguments are those of `covered`."""
    return hashlib.sha256(salt + covered(kind, values, version)).digest()


def thread(salt: bytes, values: Mapping[str, Any], arrived_at: datetime | None) -> bytes:
    """Return the digest of a thread's columns.

    Args:
        arrived_at: the thread's; None where the thread is made in this moment.
    """
    created_at = values["created_at"]
    return digest("thread", salt, {**values, "created_at": None if created_at == arrived_at else created_at})


def new_thread(salt: bytes, user: str | None) -> bytes:
    """Return the digest of a thread that a turn makes: it has a user at most."""
    values: dict[str, Any] = {**dict.fromkeys(FIELDS["thread", VERSION]), "metadata": {}, "user_id": user}
    return thread(salt, values, None)


def placed(request: bytes, seq: int, beside: int, parent_id: UUID | None) -> bytes:
    """Return the digest of a turn's request and of its place, as `open_turn_v4` makes it.

    Args:
        request: the digest of the request: see `("opened", 2)`.
    """
    return digest("placed", request, {"seq": seq, "beside": beside, "parent_id": parent_id})


def items(
    types: Sequence[str], ids: Sequence[str], data: Sequence[str], *, origin: str, first: int = 0
) -> dict[str, Any]:
    """Return the fields of items that are written one after the other.

    Args:
        data: as text.
        first: the position of the first one.
    """
    return {
        "item_positions": list(range(first, first + len(types))),
        "item_origins": [origin] * len(types),
        "item_types": types,
        "item_ids": ids,
        "item_data": data,
    }


def turn(salt: bytes, row: Mapping[str, Any], item_rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the digest of a whole turn.

    Args:
        row: its columns, by the names of the model; those that are left out are the defaults.
        item_rows: its items in their order, by the names of the model.
    """
    values = {**TURN_DEFAULTS, **row, "metadata": row.get("metadata_", {})}
    for name in DOCUMENTS:
        values[name] = _text(values[name])
    return digest(
        "turn",
        salt,
        {
            **values,
            "item_positions": [item["position"] for item in item_rows],
            "item_origins": [item["origin"] for item in item_rows],
            "item_types": [item["type"] for item in item_rows],
            "item_ids": [item["item_id"] for item in item_rows],
            "item_data": [_text(item["data"]) for item in item_rows],
        },
    )


def left(salt: bytes, row: Mapping[str, Any]) -> bytes:
    """Return the digest of what is left of a turn whose content is gone. Columns that are left out are the defaults."""
    return digest("left", salt, {**TURN_DEFAULTS, **row, "has_content": False})


def compacted(salt: bytes, row: Mapping[str, Any]) -> bytes:
    """Return the digest of a compaction's columns."""
    return digest("compacted", salt, {**row, "calls": _text(row["calls"]), "usage": _text(row["usage"]) or "null"})


def _text(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, UUID):  # A driver's own class of them.
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a digest")

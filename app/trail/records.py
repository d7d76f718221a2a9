"""An audit record: what it says, as canonical JSON (RFC 8785), and the hash over that.

The database builds the same text when it writes a record (`record_hash_v2` in migrations/schema.sql); here it is
built again from the columns, to show and to verify. Neither trusts the other.
"""

import hashlib
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID

import orjson
from typing_extensions import TypedDict

from app.db import ids
from app.process.values import value

Action = Literal[
    "thread.created", "thread.changed", "thread.forked", "thread.imported", "thread.exported", "thread.deleted",
    "thread.purged", "thread.read", "turn.opened", "turn.called", "turn.model_replaced",
    "turn.closed", "turn.imported", "turn.inherited", "turn.deleted", "turn.purged",
    "items.added", "item.deleted", "history.erased", "compaction.made", "compaction.deleted",
    "key.created", "key.used", "key.rotated", "key.revoked", "key.signed_in",
    "project.created", "project.changed", "project.archived", "project.restored",
    "project.encrypted", "project.key_destroyed",
    "account.created", "account.changed", "account.deleted",
    "feedback.given", "feedback.deleted", "thread.shared", "thread.unshared", "share.changed",
    "webhook.created", "webhook.changed", "webhook.deleted",
    "hold.placed", "hold.released", "hold.erased",
    "user.exported", "user.purged", "user.tokens_revoked", "user.claimed",
    "audit.exported", "audit.key_added", "audit.key_retired", "audit.restored",
]  # fmt: skip

COPY_OF = "copy of "
"""Begins the detail of `turn.imported` where a fork has copied a turn: each such turn becomes the fork's head."""

UNREADABLE_REST = ", the rest of the turn cannot be opened"
"""The end of the detail of `item.deleted` where the record covers the turn's place, and not its contents."""

READS_RECORDED = "record_reads="
"""Prefix of the new value of `record_reads` in the detail of `project.changed`."""

MINIMUM_RETENTION = "minimum_retention_days from "
"""Prefix of the former and the new value of `minimum_retention_days` in the detail of `project.changed`."""

FIRST = bytes(32)
"""Previous hash of the first record of a chain."""


class ActorObject(TypedDict):
    address: str | None
    key: str | None
    project: str
    user: str | None


class RecordObject(TypedDict):
    id: str
    object: Literal["audit.record"]
    action: str
    actor: ActorObject
    at: str
    content: str | None
    """The digest of what the record is about."""
    detail: str | None
    previous: str
    seq: int
    thread: str | None
    turn: str | None
    version: int
    hash: str


@value
class Actor:
    """Actor of a change. Without a key: the service itself, or a command on its host."""

    key_id: UUID | None = None
    address: str | None = None


SERVICE = Actor()


class Columns(Protocol):
    """A record's row, from wherever it was read."""

    def __getitem__(self, name: str, /) -> Any: ...


def canonical(row: Columns) -> bytes:
    """The record without its hash, as canonical JSON."""
    chain, project = row["chain_id"], row["project_id"]
    return (
        f'{{"action":{_text(row["action"])},"actor":{{"address":{_named("address", row["address_digest"])},'
        f'"key":{_id("key", row["key_id"])},"project":"{project.hex}","user":{_named("user", row["user_digest"])}}},'
        f'"at":"{instant(row["at"])}",'
        f'"content":{_digits(row["content"])},"detail":{_text(row["detail"])},'
        f'"id":"{ids.record_id(chain, row["seq"])}",'
        f'"object":"audit.record","previous":{_digits(row["previous"])},"seq":{row["seq"]},'
        f'"thread":{_id("thread", None if chain == project else chain)},"turn":{_id("turn", row["turn_id"])},'
        f'"version":{row["version"]}}}'
    ).encode()


def record_hash(record: bytes) -> bytes:
    return hashlib.sha256(record).digest()


def record_object(row: Columns) -> dict[str, Any]:
    """The record as it is shown and exported: the hash is over all the rest of it."""
    return {**orjson.loads(canonical(row)), "hash": row["hash"].hex()}


def instant(moment: datetime) -> str:
    """RFC 3339 in UTC, to the microsecond."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _text(value: str | None) -> str:
    return "null" if value is None else orjson.dumps(value).decode()


def _id(prefix: str, value: UUID | None) -> str:
    return "null" if value is None else f'"{prefix}_{value.hex}"'


def _digits(value: bytes | None) -> str:
    return "null" if value is None else f'"{value.hex()}"'


def _named(kind: str, value: bytes | None) -> str:
    return "null" if value is None else f'"{kind}_{value.hex()}"'

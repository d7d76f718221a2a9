"""Identifiers: a UUID in the tables, `prefix_` and 32 hex digits on the wire.

A thread and a conversation are the same row under two prefixes, as are a turn and a response;
either form is taken wherever one is expected.

The ids of threads and turns are UUIDv8: 48 bits of milliseconds and 12 of their fractions, so that they sort by the
time they were made; 52 random bits; and at the end 10 bits of bucket: where all of a thread lies, found without a
look-up. All other ids are UUIDv7.
"""

import os
import re
import secrets
import time
from typing import Annotated
from uuid import UUID, SafeUUID

from pydantic import PlainValidator, WithJsonSchema
from uuid_utils.compat import uuid7

THREAD_PREFIXES = ("thread", "conv")
TURN_PREFIXES = ("turn", "resp")

BUCKETS = 1024

_VERSION = 8 << 76
_VARIANT = 2 << 62
_NANOSECONDS = 1_000_000

_DIGITS = re.compile("[0-9A-Fa-f]{32}")
_new, _set = object.__new__, object.__setattr__


def uuid_of(number: int) -> UUID:
    """Return the UUID of 128 bits: `UUID(int=number)`, whose `__init__` and its checks take three times as long."""
    made = _new(UUID)
    _set(made, "int", number)
    _set(made, "is_safe", SafeUUID.unknown)
    return made


def new_uuid() -> UUID:
    """A UUIDv7: sorts by the time it was made."""
    return uuid7()


def new_id(bucket: int) -> UUID:
    """An id of a thread or a turn that lies in a bucket."""
    milliseconds, rest = divmod(time.time_ns(), _NANOSECONDS)
    fraction = rest * 4096 // _NANOSECONDS
    return made_of(milliseconds, fraction, int.from_bytes(os.urandom(7)) >> 4, bucket)


def made_of(milliseconds: int, fraction: int, random: int, bucket: int) -> UUID:
    """Return an id of 48 bits of milliseconds, 12 of their fraction, 52 random ones and 10 of bucket."""
    return uuid_of((milliseconds << 80) | _VERSION | (fraction << 64) | _VARIANT | (random << 10) | bucket)


def new_bucket() -> int:
    """A bucket for what nobody will look for under another name."""
    return secrets.randbelow(BUCKETS)


def bucket_of(id_: UUID) -> int:
    """Return the bucket of a thread or turn id. `bucket_of` in migrations/schema.sql computes the same."""
    return id_.int & (BUCKETS - 1)


def thread_id(id_: UUID) -> str:
    return f"thread_{id_.int:032x}"


def conversation_id(id_: UUID) -> str:
    """A thread's id on the OpenAI surface."""
    return f"conv_{id_.hex}"


def project_id(id_: UUID) -> str:
    return f"proj_{id_.int:032x}"


def turn_id(id_: UUID) -> str:
    return f"turn_{id_.int:032x}"


def optional_turn_id(id_: UUID | None) -> str | None:
    return None if id_ is None else turn_id(id_)


def response_id(id_: UUID) -> str:
    """A turn's id on the OpenAI surface and in streamed events."""
    return f"resp_{id_.int:032x}"


def purge_id(id_: UUID) -> str:
    return f"purge_{id_.hex}"


def compaction_id(id_: UUID) -> str:
    return f"cmp_{id_.hex}"


def record_id(chain_id: UUID, seq: int) -> str:
    """An audit record's id: its chain and its number there."""
    return f"audit_{chain_id.hex}_{seq}"


def in_logs(project: UUID, thread: UUID | None, turn: UUID) -> dict[str, str]:
    """Return the fields that name a turn in log lines."""
    named = {"project": project_id(project), "turn": turn_id(turn)}
    return named if thread is None else {**named, "thread": thread_id(thread)}


def pattern(prefixes: tuple[str, ...]) -> str:
    """Return a regular expression of the ids that `parse` accepts."""
    return f"^({'|'.join(prefixes)})_[0-9a-f]{{32}}$"


def parse(text: str, prefixes: tuple[str, ...]) -> UUID | None:
    """The row's id, or None if `text` is not an id of this kind."""
    prefix, _, digits = text.partition("_")
    if prefix not in prefixes or not _DIGITS.fullmatch(digits):
        return None
    return uuid_of(int(digits, 16))


def _parsed(prefixes: tuple[str, ...]) -> PlainValidator:
    def parsed(text: object) -> UUID:
        found = parse(text, prefixes) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"must be an id: {prefixes[0]}_ and 32 hex digits")
        return found

    return PlainValidator(parsed)


def _shape(prefixes: tuple[str, ...]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern(prefixes)})


ThreadId = Annotated[UUID, _parsed(THREAD_PREFIXES), _shape(THREAD_PREFIXES)]
"""The id of a thread in a request."""
TurnId = Annotated[UUID, _parsed(TURN_PREFIXES), _shape(TURN_PREFIXES)]
KeyId = Annotated[UUID, _parsed(("key",)), _shape(("key",))]


def parse_record(text: str) -> tuple[UUID, int] | None:
    """The chain and the number of an audit record, or None if `text` is not the id of one."""
    chain, _, seq = text.rpartition("_")
    chain_id = parse(chain, ("audit",))
    return (chain_id, int(seq)) if chain_id is not None and seq.isascii() and seq.isdigit() and len(seq) < 19 else None

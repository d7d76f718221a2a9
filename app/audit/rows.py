"""The rows that leave the store of the audit trail."""

from datetime import datetime
from typing import NotRequired, TypedDict
from uuid import UUID

from app.trail.records import Action


class RecordRow(TypedDict):
    project_id: UUID
    bucket: int
    chain_id: UUID
    seq: int
    at: datetime
    action: Action
    turn_id: UUID | None
    key_id: UUID | None
    user_digest: bytes | None
    address_digest: bytes | None
    detail: str | None
    content: bytes | None
    previous: bytes
    hash: bytes
    version: int
    leaf: NotRequired[bytes | None]
    """Hash that a checkpoint contains, of records that are read in chain order."""


class LeafRow(TypedDict):
    position: int
    chain_id: UUID
    seq: int
    hash: bytes


class CheckpointRow(TypedDict):
    size: int
    at: datetime
    root: bytes
    public_key: bytes
    signature: bytes
    note: str | None


class OriginRow(TypedDict):
    origin: str


class CosignatureRow(TypedDict):
    size: int
    origin: str
    name: str
    public_key: bytes
    signature: bytes


class WitnessRow(TypedDict):
    public_key: bytes
    answered_at: datetime | None
    error: str | None
    size: int | None
    """Size and time of the last checkpoint that the witness has cosigned."""
    at: datetime | None
    name: str | None
    """Key name in that cosignature."""
    forked: bool


class ProjectRow(TypedDict):
    project_id: UUID
    name: str


class StreamRow(RecordRow):
    position: int


class FoundRow(TypedDict):
    """The columns of a record that the search for records without a position reads."""

    bucket: int
    chain_id: UUID
    seq: int
    at: datetime
    placed: bool
    preceded: bool

"""File format of erasure certificates: a signed note, then one line for each deletion record of a user's purge.

The text of the note has two lines: the name of the format, and canonical JSON (RFC 8785). The JSON contains the record
that ends the purge, a checkpoint, and the inclusion proof of that record (RFC 6962). The deletion records are the
leaves of a Merkle tree, whose root is in the JSON and in the `content` of the record that ends the purge.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit.merkle import LEAF_BYTES, LONGEST_PATH, Tree, leaf_data, leaf_parts, root_of
from app.audit.notes import (
    ED25519,
    LARGEST_NUMBER,
    BadNote,
    Checkpoint,
    Note,
    VerifierKey,
    decoded,
    log_keys,
    sign,
)
from app.audit.origins import is_of
from app.audit.policy import Policy
from app.db import ids
from app.history.erase import counts_of
from app.http.nesting import excess
from app.trail.records import record_hash

FORMAT = "everthread/erasure-certificate/v1"
"""First line. It cannot be the origin of a checkpoint, because origins end with a project's id."""

MOST_OF_NOTE = 512 * 1024
"""Largest number of bytes of the note, which quotes the note of the checkpoint."""
MOST_VALUES, DEEPEST = 20_000, 8
LONGEST_LINE = 160
LINES_AT_ONCE = 1_000

Kind = Literal["user", "thread", "key", "hold"]

ENDS: dict[str, tuple[str, ...]] = {
    "user": ("user.purged",),
    "thread": ("thread.deleted", "thread.purged"),
    "key": ("project.key_destroyed",),
    "hold": ("hold.erased",),
}
"""The actions of the records that end a purge, by its kind."""


class BadCertificate(ValueError):
    """A malformed certificate, or one that does not verify. The message names the first problem."""


@dataclass(frozen=True, slots=True)
class Certified:
    """A verified certificate."""

    statement: Mapping[str, Any]
    checkpoint: Note
    records: int
    """Number of deletion records after the note."""


def signer_of(origin: str) -> str:
    """Return the key name that signs a project's certificates."""
    return f"{origin}/certificates"


def counts(kind: str, detail: str | None) -> dict[str, int]:
    """Return the counts of deleted rows from the record that ends a purge."""
    return {} if kind == "key" else counts_of(detail)


def signed(statement: Mapping[str, Any], key: Ed25519PrivateKey) -> Note:
    """Return the note of a certificate."""
    origin = Checkpoint.parse(Note.parse(statement["checkpoint"].encode()).text).origin
    text = f"{FORMAT}\n{orjson.dumps(statement, option=orjson.OPT_SORT_KEYS).decode()}\n"
    return Note(text, (sign(text, signer_of(origin), key),))


def lines(note: str, leaves: bytes) -> Iterator[bytes]:
    """Return the file of a certificate, in pieces of whole lines."""
    yield note.encode()
    for start in range(0, len(leaves), LEAF_BYTES * LINES_AT_ONCE):
        piece = b"" if start else b"\n"
        for at in range(start, min(start + LEAF_BYTES * LINES_AT_ONCE, len(leaves)), LEAF_BYTES):
            chain_id, seq, hash_ = leaf_parts(leaves[at : at + LEAF_BYTES])
            piece += f"{ids.record_id(chain_id, seq)} {hash_.hex()}\n".encode()
        yield piece


def verify(path: Path, trusted: Sequence[bytes], policy: Policy | None = None) -> Certified:
    """Verify a certificate offline. One of the public keys must have signed it and its checkpoint.

    Args:
        policy: the logs and witnesses that must have signed the checkpoint. Its keys of that log replace `trusted`.

    Raises:
        BadCertificate: something of it is wrong.
    """
    with path.open("rb") as file:
        note = _note(file)
        try:
            statement = _statement(note)
            checkpoint_note = Note.parse(statement["checkpoint"].encode())
            checkpoint = Checkpoint.parse(checkpoint_note.text)
            if policy is not None:
                trusted = [log.public_key for log in policy.logs if log.name == checkpoint.origin]
                policy.accept(checkpoint_note)
            signers = [VerifierKey(signer_of(checkpoint.origin), ED25519, key) for key in trusted]
            _verified(note, signers, "the certificate")
            _verified(checkpoint_note, log_keys(checkpoint.origin, trusted), "its checkpoint")
            _check_record(statement)
            _check_inclusion(statement, checkpoint)
            _check_records(statement, file)
        except BadNote as error:
            raise BadCertificate(f"its checkpoint does not verify: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, BadCertificate):
                raise
            raise BadCertificate(f"a field is missing or has another type: {error}") from error
    return Certified(statement, checkpoint_note, (statement["records"] or {"count": 0})["count"])


def _note(file: BinaryIO) -> Note:
    """Read the note, and leave the file at the first deletion record."""
    head = file.read(MOST_OF_NOTE)
    end = head.find(b"\n\n", head.find(b"\n\n") + 2)
    if end >= 0:
        file.seek(end + 2)
        head = head[: end + 1]
    elif len(head) == MOST_OF_NOTE:
        raise BadCertificate(f"its note has more than {MOST_OF_NOTE} bytes")
    try:
        return Note.parse(head, most=MOST_OF_NOTE)
    except BadNote as error:
        raise BadCertificate(f"it is not a signed note: {error}") from error


def _statement(note: Note) -> dict[str, Any]:
    format_, _, text = note.text.partition("\n")
    if format_ != FORMAT:
        raise BadCertificate(f"its first line is not {FORMAT}")
    if excess(text.encode(), values=MOST_VALUES, levels=DEEPEST) is not None:
        raise BadCertificate(f"it has more than {MOST_VALUES} values, or more than {DEEPEST} levels")
    try:
        statement = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadCertificate("its second line is not JSON") from error
    if not isinstance(statement, dict) or text != orjson.dumps(statement, option=orjson.OPT_SORT_KEYS).decode() + "\n":
        raise BadCertificate("its second line is not canonical JSON")
    return statement


def _verified(note: Note, keys: Sequence[VerifierKey], what: str) -> None:
    try:
        note.verified(keys)
    except BadNote as error:
        raise BadCertificate(f"{what}: {error}") from error


def _check_record(statement: Mapping[str, Any]) -> None:
    """Verify the hash of the record, and compare its fields with those of the certificate."""
    record, kind = statement["record"], statement["kind"]
    chain_id, seq = _place(record["id"])
    content = {name: value for name, value in record.items() if name != "hash"}
    if record_hash(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hex() != record["hash"]:
        raise BadCertificate(f"the record {record['id']} was changed: its hash does not match its content")
    actor, purge = record["actor"], statement["purge"]
    purge_id, project_id = ids.parse(purge, ("purge",)), UUID(hex=statement["project"])
    detail = record["detail"] or ""
    named = {
        "user": detail.partition("; ")[2] in ("", purge),
        "hold": detail.startswith(purge.replace("purge_", "hold_") + ":"),
        "key": purge_id == project_id,
    }
    same = (
        (record["action"] in ENDS.get(kind, ()), "kind"),
        (chain_id == (purge_id if kind == "thread" else project_id) and named.get(kind, True), "purge"),
        (record["seq"] == seq, "record"),
        (statement["ended_at"] == record["at"], "ended_at"),
        (statement["counts"] == counts(kind, record["detail"]), "counts"),
        *((statement[name] == actor[name], name) for name in ("project", "user", "key", "address")),
    )
    wrong = next((name for fits, name in same if not fits), None)
    if wrong is not None:
        raise BadCertificate(f"{wrong}: it is not what the record {record['id']} says")


def _check_inclusion(statement: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    project, record, position = statement["project"], statement["record"], statement["position"]
    if not is_of(checkpoint.origin, UUID(hex=project)):
        raise BadCertificate(f"its checkpoint belongs to another log: {checkpoint.origin}")
    path = [decoded(each) for each in statement["proof"][: LONGEST_PATH + 1]]
    if len(path) > LONGEST_PATH or type(position) is not int or not 0 <= position < checkpoint.size:
        raise BadCertificate(f"its position is outside the tree of {checkpoint.size} leaves")
    leaf = leaf_data(*_place(record["id"]), bytes.fromhex(record["hash"]))
    if root_of(leaf, position, checkpoint.size, path) != checkpoint.root:
        raise BadCertificate(f"the record {record['id']} is not in the tree of its checkpoint")


def _check_records(statement: Mapping[str, Any], file: BinaryIO) -> None:
    """Verify the deletion records against the root in the record that ends the purge."""
    tree, listed, record = Tree(), statement["records"], statement["record"]
    while line := file.readline(LONGEST_LINE):
        if listed is None or tree.size == listed["count"]:
            raise BadCertificate("it has more deletion records than it lists")
        named, _, hash_ = line.decode("ascii").removesuffix("\n").partition(" ")
        tree.add(leaf_data(*_place(named), bytes.fromhex(hash_)))
    if listed is None:
        if statement["kind"] == "user" and record["content"] is not None:
            raise BadCertificate("its deletion records are missing")
        return
    if tree.size != listed["count"]:
        raise BadCertificate(f"it has {tree.size} deletion records, but lists {listed['count']}")
    root = tree.root().hex()
    if root != listed["root"]:
        raise BadCertificate("the deletion records were changed or reordered: their Merkle root differs")
    if root != record["content"]:
        raise BadCertificate(f"the Merkle root of the deletion records differs from that in the record {record['id']}")


def _place(record_id: str) -> tuple[UUID, int]:
    """Parse the id of a record into chain and number."""
    found = ids.parse_record(record_id)
    if found is None or found[1] > LARGEST_NUMBER:
        raise BadCertificate(f"{record_id[:80]!r} is not the id of a record")
    return found

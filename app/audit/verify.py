"""Verification that a project's audit trail is complete, and that the contents still match it.

Records are read chain after chain. The first problem of each chain is named; what follows from it is not.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.audit import store, witness_check
from app.audit.contents_check import Contents
from app.audit.merkle import Tree, is_consistent, leaf_data, root_of
from app.audit.notes import BadNote, Checkpoint, Note, log_keys
from app.audit.origins import is_continuation, is_of
from app.audit.policy import Policy
from app.audit.rows import RecordRow
from app.audit.signing import fits, signed_text
from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.sealing.content_keys import altered_projects, state_of
from app.trail.records import FIRST, canonical, record_hash

SQL = statements_of(__file__)

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """The first thing that is wrong in a chain, or with a checkpoint."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(slots=True)
class Verdict:
    records: int = 0
    chains: int = 0
    checkpoints: int = 0
    unsigned: int = 0
    """Records that no checkpoint covers yet."""
    gap: bool = False
    """True if a missing leaf is among the problems: later ones are not named."""
    problems: list[Problem] = field(default_factory=list)
    notes: dict[int, Note] = field(default_factory=dict)
    """The verified notes of checkpoints, by the size of their tree."""
    signers: dict[int, bytes] = field(default_factory=dict)
    """The public keys whose signatures of checkpoints fit, by the size of their tree."""
    size: int = 0
    """Size of the newest checkpoint."""
    origin: str | None = None
    """Name of the log in the last note that was read."""
    begun: list[str] = field(default_factory=list)
    """Names that the log took after restores."""
    restored: list[str] = field(default_factory=list)
    """Details of the `audit.restored` records."""
    accepted: int | None = None
    """Size of the newest checkpoint that the reader's policy accepts."""
    sealed_for_good: bool = False
    """The key of the contents was destroyed: there is nothing that records could be compared with."""


@dataclass(frozen=True, slots=True)
class Link:
    """Fields of a record that the chain check needs."""

    chain_id: UUID
    seq: int
    shown: str
    """The record's id, as a reader looks it up."""
    previous: bytes
    hash: bytes
    computed: bytes
    """The hash that the record should have."""
    leaf: bytes | None
    """The hash that a checkpoint has seen it with."""


class Chains:
    """Takes every record of every chain, in order, and says where one does not follow from the one before.

    Chains come in the order of their buckets and ids, so that none can come twice, with another history.
    """

    def __init__(self, verdict: Verdict, named: Callable[[UUID], str]) -> None:
        self._verdict = verdict
        self._named = named
        self._chain: UUID | None = None
        self._seq = 0
        self._hash = FIRST
        self._broken = False
        self._since_leaf = 0

    def take(self, link: Link) -> None:
        if link.chain_id != self._chain:
            self.end()
            moved = self._chain is not None and _order(link.chain_id) < _order(self._chain)
            self._chain, self._seq, self._hash, self._broken = link.chain_id, 0, FIRST, moved
            self._verdict.chains += 1
            if moved:
                what = "its records were put to another place, behind those of a chain that it comes before"
                self._verdict.problems.append(Problem(self._named(link.chain_id), what))
        self._verdict.records += 1
        self._since_leaf += 1
        if link.leaf is not None:
            self._since_leaf = 0
        if not self._broken and (wrong := self._wrong(link)) is not None:
            self._broken = True
            self._verdict.problems.append(Problem(f"{self._named(link.chain_id)} record {link.seq}", wrong))
        self._seq, self._hash = link.seq, link.hash

    def end(self) -> None:
        self._verdict.unsigned += self._since_leaf
        self._since_leaf = 0

    def _wrong(self, link: Link) -> str | None:
        if link.seq != self._seq + 1:
            return f"{link.shown} follows record {self._seq}: what was between them was removed or renumbered"
        if link.hash != link.computed:
            return f"{link.shown} was changed: its hash does not match its content"
        if link.previous != self._hash:
            return f"{link.shown} does not follow the record before it: one was changed, inserted or put elsewhere"
        if link.leaf is not None and link.leaf != link.hash:
            return f"{link.shown} is not what a signed checkpoint has seen here: the chain was rewritten"
        return None


def check_tree(
    project_id: UUID,
    leaves: Iterable[tuple[int, UUID, int, bytes]],
    checkpoints: dict[int, Any],
    tree: Tree,
    trusted: Sequence[Ed25519PublicKey],
    verdict: Verdict,
) -> None:
    """Grow a tree by leaves, and compare it with the checkpoints that it passes.

    Args:
        checkpoints: by their size; those that are passed are taken out.
        trusted: the keys of which one must have signed; none to take each checkpoint's own.
    """
    for position, chain_id, seq, hash_ in leaves:
        if position != tree.size and not verdict.gap:
            verdict.gap = True
            verdict.problems.append(Problem("leaves", f"leaf {tree.size} is missing"))
        tree.add(leaf_data(chain_id, seq, hash_))
        checkpoint = checkpoints.pop(tree.size, None)
        if checkpoint is not None:
            verdict.checkpoints += 1
            verdict.size = tree.size
            if checkpoint["root"] != tree.root():
                wrong: str | None = "its root does not match the leaves: one was changed, removed or inserted"
            else:
                wrong = _wrong_signature(project_id, tree.size, checkpoint, trusted, verdict)
            if wrong is not None:
                verdict.problems.append(Problem(f"checkpoint {tree.size}", wrong))


def check_proofs(
    project_id: UUID,
    leaves: Iterable[tuple[int, UUID, int, bytes]],
    proofs: dict[int, list[bytes]],
    checkpoints: dict[int, Any],
    trusted: Sequence[Ed25519PublicKey],
    verdict: Verdict,
) -> None:
    """Compare some leaves of a tree with the one checkpoint that there is of it.

    Args:
        proofs: each leaf's path to the root, by its position.
        checkpoints: by their size; the last is taken out.
    """
    if not checkpoints:
        return
    size = max(checkpoints)
    checkpoint = checkpoints.pop(size)
    verdict.checkpoints += 1
    verdict.size = size
    if (wrong := _wrong_signature(project_id, size, checkpoint, trusted, verdict)) is not None:
        verdict.problems.append(Problem(f"checkpoint {size}", wrong))
    if checkpoint["follows"] is not None:
        former, root, path = checkpoint["follows"]
        if not is_consistent(former, root, size, checkpoint["root"], path):
            wrong = f"its consistency proof from checkpoint {former} does not verify"
            verdict.problems.append(Problem(f"checkpoint {size}", wrong))
    for position, chain_id, seq, hash_ in leaves:
        root = root_of(leaf_data(chain_id, seq, hash_), position, size, proofs.get(position, ()))
        if root != checkpoint["root"]:
            verdict.problems.append(Problem(f"leaf {position}", f"it is not in the tree of checkpoint {size}"))


def _wrong_signature(
    project_id: UUID, size: int, checkpoint: Any, trusted: Sequence[Ed25519PublicKey], verdict: Verdict
) -> str | None:
    signer = Ed25519PublicKey.from_public_bytes(checkpoint["public_key"])
    if trusted and checkpoint["public_key"] not in [key.public_bytes_raw() for key in trusted]:
        return "it was signed with another key than the one that is trusted"
    signed = signed_text(project_id, size, checkpoint["at"], checkpoint["root"])
    if not fits(signer, checkpoint["signature"], signed):
        return "its signature is invalid"
    verdict.signers[size] = checkpoint["public_key"]
    if checkpoint["note"] is None:
        return None
    try:
        verdict.notes[size] = note = _note(project_id, size, checkpoint)
    except BadNote as error:
        return f"its note does not verify: {error}"
    return _wrong_origin(note, checkpoint["public_key"], verdict)


def _wrong_origin(note: Note, public_key: bytes, verdict: Verdict) -> str | None:
    """Return the fault of a checkpoint whose log name differs from that of the checkpoint before it; None if none."""
    origin, former = Checkpoint.parse(note.text).origin, verdict.origin
    verdict.origin = origin
    if former in (None, origin):
        return None
    verdict.begun.append(origin)
    if not is_continuation(note, former, [public_key]):
        return f"it begins the log {origin}, but is not signed as a continuation of {former}"
    return None


def check_origins(verdict: Verdict) -> None:
    """Report a new log name without a record of a restore."""
    for origin in verdict.begun:
        if not any(detail.endswith(f"; log: {origin}") for detail in verdict.restored):
            verdict.problems.append(Problem(f"log {origin}", "no audit.restored record explains the new name"))


def _note(project_id: UUID, size: int, checkpoint: Any) -> Note:
    """Return the verified note of a checkpoint. Raises `BadNote` if it differs from the checkpoint's fields."""
    note = Note.parse(checkpoint["note"].encode())
    signed = Checkpoint.parse(note.text)
    if not is_of(signed.origin, project_id):
        raise BadNote(f"it belongs to another log: {signed.origin}")
    if (signed.size, signed.root) != (size, checkpoint["root"]):
        raise BadNote("its size or root differs from the checkpoint's")
    times = {each.time for each in note.verified(log_keys(signed.origin, [checkpoint["public_key"]]))}
    if times != {None, int(checkpoint["at"].timestamp())}:
        raise BadNote("it lacks the signature, or the cosignature at the time of the checkpoint")
    return note


def check_policy(policy: Policy, verdict: Verdict) -> None:
    """Store the newest checkpoint that a policy accepts. Report a problem if there is none, or if the key of another
    log of the policy has signed one."""
    origins = {Checkpoint.parse(note.text).origin for note in verdict.notes.values()}
    keys = {log.public_key for log in policy.logs if log.name in origins}
    for size, key in verdict.signers.items():
        if keys and key not in keys:
            what = "it was signed with another key than those that the policy has for this log"
            verdict.problems.append(Problem(f"checkpoint {size}", what))
    newest: Problem | None = None
    for size in sorted(verdict.notes, reverse=True):
        try:
            policy.accept(verdict.notes[size])
        except BadNote as error:
            newest = newest or Problem(f"checkpoint {size}", f"the policy does not accept it: {error}")
        else:
            verdict.accepted = size
            return
    verdict.problems.append(
        newest or Problem("checkpoints", "a policy needs a checkpoint with a signed note, and there is none")
    )


def check_ends(checkpoints: dict[int, Any], verdict: Verdict, leaves: int = 0) -> None:
    """Check that no checkpoint is left over, and no leaf behind the last one.

    Args:
        leaves: number of the leaves of the whole tree, where those are read.
    """
    if leaves > verdict.size:
        verdict.problems.append(_unsigned_leaf(verdict.size))
    for size in sorted(checkpoints):
        verdict.problems.append(Problem(f"checkpoint {size}", "leaves that it covers were removed"))


def _unsigned_leaf(position: int) -> Problem:
    return Problem(f"leaf {position}", "it is behind the last checkpoint: it was inserted, and nothing signs it")


async def verify_project(
    database: Database,
    project_id: UUID,
    *,
    thread_id: UUID | None = None,
    trusted: Sequence[Ed25519PublicKey] = (),
    advance: Advance = lambda count: None,
) -> Verdict:
    """Verify a project's trail in the database, or one thread's, and the contents that it covers.

    Encrypted contents are decrypted: their key must be available or destroyed.

    Args:
        trusted: the public keys that checkpoints must have been signed with, each with one of them.
        advance: called with the number of verified records, from time to time.
    """
    verdict = Verdict(sealed_for_good=(await state_of(database, project_id)).destroyed)
    if thread_id is None and project_id in [altered_id for altered_id, _ in await altered_projects(database)]:
        said = "its contents are encrypted, as a record tells, and the project's row (encrypted_at) says otherwise"
        verdict.problems.append(Problem("the project's own", said))
    tree = Tree()
    # Leaves first: whatever they name must be among the records that are read after them.
    signed = {row["size"]: row for row in await store.checkpoints(database, project_id)}
    async for leaves in store.leaves(database, project_id):
        grown = ((leaf["position"], leaf["chain_id"], leaf["seq"], leaf["hash"]) for leaf in leaves)
        check_tree(project_id, grown, signed, tree, trusted, verdict)
    check_ends(signed, verdict)
    chains = Chains(verdict, partial(named, project_id))
    contents, key_destroyed = Contents(database, project_id), False
    async for rows in store.in_chain_order(database, project_id, thread_id):
        for row in rows:
            chains.take(_link(row))
            key_destroyed = key_destroyed or row["action"] == "project.key_destroyed"
            if row["action"] == "audit.restored":
                verdict.restored.append(str(row["detail"]))
        if not verdict.sealed_for_good:
            verdict.problems += [Problem(*found) for found in await contents.take(rows)]
        advance(len(rows))
    chains.end()
    unsigned = await database.fetchval(*SQL.unsigned_leaf(project_id=project_id))
    if unsigned is not None:
        verdict.problems.append(_unsigned_leaf(unsigned))
    if not verdict.sealed_for_good:
        verdict.problems += [Problem(*found) for found in await contents.end(thread_id)]
    elif not key_destroyed and thread_id is None:
        verdict.problems.append(Problem("the project's own", "its key is destroyed, and no record tells of it"))
    if thread_id is None:
        check_origins(verdict)
    verdict.problems += [Problem(*found) for found in await witness_check.problems(database, project_id, verdict.notes)]
    verdict.problems += await _lost(database, project_id, thread_id)
    return verdict


async def _lost(database: Database, project_id: UUID, thread_id: UUID | None) -> list[Problem]:
    rows = await database.fetch(*SQL.lost_leaves(project_id=project_id, chain_id=thread_id))
    return [
        Problem(f"{named(project_id, row['chain_id'])} record {row['seq']}", "a checkpoint has seen it: it was removed")
        for row in rows
    ]


def _link(row: RecordRow) -> Link:
    return Link(
        row["chain_id"],
        row["seq"],
        ids.record_id(row["chain_id"], row["seq"]),
        row["previous"],
        row["hash"],
        record_hash(canonical(row)),
        row["leaf"],
    )


def _order(chain_id: UUID) -> tuple[int, UUID]:
    return ids.bucket_of(chain_id), chain_id


def named(project_id: UUID, chain_id: UUID) -> str:
    """A chain as a reader knows it."""
    return "the project's own" if chain_id == project_id else ids.thread_id(chain_id)


async def counted(database: Database, project_id: UUID, thread_id: UUID | None) -> int:
    """Return the number of records to verify."""
    count: int = await database.fetchval(*SQL.count_records(project_id=project_id, chain_id=thread_id))
    return count

"""An audit trail as a file, NDJSON: its leaves, its checkpoints, then its records, chain after chain.

Such a file is verified with nothing but itself and the public key. That of a project has all leaves; that of one
thread has the thread's, each with the path that proves that it is in the tree of the last checkpoint.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from typing_extensions import TypedDict

from app.audit import store
from app.audit.merkle import Proofs, Tree, leaf_data
from app.audit.notes import LARGEST_NUMBER, Note
from app.audit.proofs import Entry, TlogProof
from app.audit.rows import CheckpointRow, LeafRow
from app.audit.verify import (
    Advance,
    Chains,
    Link,
    Problem,
    Verdict,
    check_ends,
    check_origins,
    check_proofs,
    check_tree,
    named,
)
from app.db import ids
from app.db.engine import Database
from app.http.nesting import excess
from app.trail.records import instant, record_hash, record_object

LINES_AT_ONCE = 1000
"""Number of lines between two reports of the reader's progress."""

MOST_OF_LINE = 10_000
"""JSON values in a line; a record has some twenty."""

LONGEST_LINE = 4 * 1024 * 1024
"""Bytes. A checkpoint's note has at most 128 KiB; a record's detail is made by the service, and short."""

DEEPEST = 64

Leaf = tuple[int, UUID, int, bytes]
"""Position, chain, number, hash."""


class BadFile(ValueError):
    """A line that is no part of an exported audit trail."""


async def lines(database: Database, project_id: UUID) -> AsyncIterator[bytes]:
    """A project's file, in pieces of whole lines."""
    # Checkpoints before leaves before records: whatever one names, the next has.
    checkpoints = await store.checkpoints(database, project_id)
    size = checkpoints[-1]["size"] if checkpoints else 0
    async for leaves in store.leaves(database, project_id, size=size):
        yield _lines([leaf_object(project_id, leaf) for leaf in leaves])
    yield _lines([checkpoint_object(project_id, row) for row in checkpoints])
    async for rows in store.in_chain_order(database, project_id):
        yield _lines([record_object(row) for row in rows])


async def lines_of_thread(database: Database, project_id: UUID, thread_id: UUID) -> AsyncIterator[bytes]:
    """The file of one thread: it tells nothing of any other."""
    checkpoints = await store.checkpoints(database, project_id)
    last = await store.cosigned_cover(database, project_id, thread_id, checkpoints)
    before = next((row for row in reversed(checkpoints) if row["size"] < last["size"]), None)
    proofs, own = Proofs(), []
    consistency: list[bytes] = []
    async for leaves in store.leaves(database, project_id, size=last["size"]):
        for leaf in leaves:
            path: list[bytes] | None = None
            if before is not None and leaf["position"] == before["size"]:
                consistency = proofs.begin()
            if leaf["chain_id"] == thread_id:
                path = []
                own.append((leaf, path))
            proofs.add(leaf_data(leaf["chain_id"], leaf["seq"], leaf["hash"]), path)
    proofs.end()
    yield _lines([{**leaf_object(project_id, leaf), "proof": [each.hex() for each in path]} for leaf, path in own])
    follows = None if before is None else {"size": before["size"], "root": before["root"].hex()}
    follows = follows and {**follows, "proof": [each.hex() for each in consistency]}
    yield _lines([{**checkpoint_object(project_id, last), "follows": follows}])
    async for rows in store.in_chain_order(database, project_id, thread_id):
        yield _lines([record_object(row) for row in rows])


class CheckpointObject(TypedDict):
    object: Literal["audit.checkpoint"]
    id: str
    project: str
    size: int
    at: str
    root: str
    public_key: str
    signature: str
    note: str | None
    """Signed note (C2SP tlog-checkpoint) with all stored cosignatures."""


def checkpoint_object(project_id: UUID, row: CheckpointRow) -> CheckpointObject:
    return {
        "object": "audit.checkpoint",
        "id": f"checkpoint_{row['size']}",
        "project": project_id.hex,
        "size": row["size"],
        "at": instant(row["at"]),
        "root": row["root"].hex(),
        "public_key": row["public_key"].hex(),
        "signature": row["signature"].hex(),
        "note": row["note"],
    }


def leaf_object(project_id: UUID, row: LeafRow) -> dict[str, Any]:
    chain_id = row["chain_id"]
    return {
        "object": "audit.leaf",
        "position": row["position"],
        "thread": None if chain_id == project_id else ids.thread_id(chain_id),
        "seq": row["seq"],
        "hash": row["hash"].hex(),
    }


def verify_file(
    path: Path,
    trusted: Sequence[Ed25519PublicKey],
    advance: Advance = lambda count: None,
    proved: Sequence[Entry] = (),
) -> Verdict:
    """Verify an exported file.

    Args:
        trusted: the public keys that its checkpoints must have been signed with, each with one of them.
        advance: told how many bytes have been read, from time to time.
        proved: leaves of verified `.tlog-proof` files. Their records must be in the file.

    Raises:
        BadFile: the file has another format.
    """
    verdict, tree = Verdict(), Tree()
    leaves: dict[tuple[UUID, int], bytes] = {}
    waiting: list[Leaf] = []
    proofs: dict[int, list[bytes]] = {}
    checkpoints: dict[int, Any] = {}
    chains: Chains | None = None
    project_id = UUID(int=0)
    with path.open("rb") as file:
        for number, said in _read(file, advance):
            try:
                match said["object"]:
                    case "audit.leaf":
                        waiting.append(_leaf(said))
                        if "proof" in said:
                            proofs[said["position"]] = [bytes.fromhex(each) for each in said["proof"]]
                    case "audit.checkpoint":
                        project_id = UUID(said["project"])
                        checkpoints[_size(said)] = _checkpoint(said)
                    case "audit.record":
                        if chains is None:
                            project_id = UUID(said["actor"]["project"])
                            waiting = _of_project(waiting, project_id)
                            leaves = {(chain_id, seq): hash_ for _, chain_id, seq, hash_ in waiting}
                            if proofs:
                                check_proofs(project_id, waiting, proofs, checkpoints, trusted, verdict)
                            else:
                                check_tree(project_id, waiting, checkpoints, tree, trusted, verdict)
                            check_ends(checkpoints, verdict, tree.size)
                            _add_proved(leaves, proved, project_id, verdict)
                            chains = Chains(verdict, partial(named, project_id))
                        chains.take(_link(said, project_id, leaves))
                        if said["action"] == "audit.restored":
                            verdict.restored.append(str(said["detail"]))
                    case other:
                        raise BadFile(f"line {number} is a {other}, which is no part of an audit trail")
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise BadFile(f"line {number} cannot be read: {error}") from error
    if chains is None:
        raise BadFile("it has no records")
    chains.end()
    check_origins(verdict)
    if verdict.checkpoints == 0:
        verdict.problems.append(Problem("checkpoints", "nothing in this file is signed"))
    lost = sorted(leaves, key=lambda leaf: (leaf[0].int, leaf[1]))[:10]
    for chain_id, seq in lost:
        where = f"{named(project_id, chain_id)} record {seq}"
        verdict.problems.append(Problem(where, "a checkpoint has seen it: it was removed"))
    return verdict


def signed_part(
    path: Path, trusted: Sequence[Ed25519PublicKey]
) -> tuple[UUID, list[Leaf], dict[int, Any], list[Problem]]:
    """Read the signed part of a whole project's exported file: its leaves, its checkpoints, and their problems.

    Returns:
        The project; the leaves, as position, chain, number and hash; the checkpoints by their size; the problems.

    Raises:
        BadFile: the file has another format.
    """
    leaves: list[Leaf] = []
    checkpoints: dict[int, Any] = {}
    project_id: UUID | None = None
    with path.open("rb") as file:
        for number, said in _read(file, lambda count: None):
            try:
                if said["object"] == "audit.leaf" and "proof" not in said:
                    leaves.append(_leaf(said))
                elif said["object"] == "audit.checkpoint":
                    project_id = UUID(said["project"])
                    checkpoints[_size(said)] = _checkpoint(said)
                else:
                    break
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise BadFile(f"line {number} cannot be read: {error}") from error
    if project_id is None:
        raise BadFile("nothing of a whole project is signed in it")
    leaves = _of_project(leaves, project_id)
    verdict, left, tree = Verdict(), dict(checkpoints), Tree()
    check_tree(project_id, leaves, left, tree, trusted, verdict)
    check_ends(left, verdict, tree.size)
    return project_id, leaves, checkpoints, verdict.problems


def proof_of(path: Path) -> TlogProof | None:
    """Return the proof of the last leaf in a thread's exported file; None if its checkpoint has no note.

    The hash in that leaf covers the record before it, and so all records of the thread up to it.

    Raises:
        BadFile: the file has another format.
    """
    leaf: dict[str, Any] | None = None
    note: str | None = None
    with path.open("rb") as file:
        for number, said in _read(file, lambda count: None):
            try:
                if said["object"] == "audit.record":
                    break
                if said["object"] == "audit.checkpoint":
                    note = _checkpoint(said)["note"]
                elif leaf is None or said["seq"] > leaf["seq"]:
                    leaf = said
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise BadFile(f"line {number} cannot be read: {error}") from error
    if leaf is None or note is None:
        return None
    try:
        position, chain_id, seq, hash_ = _leaf(leaf)
        path_to_root = tuple(bytes.fromhex(each) for each in leaf["proof"])
        return TlogProof(Entry(chain_id, seq, hash_), position, path_to_root, Note.parse(note.encode()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFile(f"its last leaf or its note cannot be read: {error}") from error


def _add_proved(
    leaves: dict[tuple[UUID, int], bytes], proved: Sequence[Entry], project_id: UUID, verdict: Verdict
) -> None:
    for chain_id, seq, hash_ in proved:
        if leaves.setdefault((chain_id, seq), hash_) != hash_:
            where = f"{named(project_id, chain_id)} record {seq}"
            verdict.problems.append(Problem(where, "its leaf differs from the one in the given proof"))


def _read(file: BinaryIO, advance: Advance) -> Any:
    read = 0
    for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE + 1), b""), 1):
        if len(line) > LONGEST_LINE:
            raise BadFile(f"line {number} has more than {LONGEST_LINE} bytes")
        read += len(line)
        if number % LINES_AT_ONCE == 0:
            advance(read)
            read = 0
        if excess(line, values=MOST_OF_LINE, levels=DEEPEST) is not None:
            raise BadFile(f"line {number} has more than {MOST_OF_LINE} values, or more than {DEEPEST} levels")
        try:
            said = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BadFile(f"line {number} is not JSON") from error
        yield number, said
    advance(read)


def _leaf(said: dict[str, Any]) -> Leaf:
    """A leaf; zero stands for the project's own chain."""
    chain_id = UUID(int=0) if said["thread"] is None else _thread(said["thread"])
    position, seq = said["position"], said["seq"]
    if not all(isinstance(number, int) and 0 <= number <= LARGEST_NUMBER for number in (position, seq)):
        raise ValueError("a leaf's position and number are whole numbers")
    return position, chain_id, seq, bytes.fromhex(said["hash"])


def _of_project(leaves: list[Leaf], project_id: UUID) -> list[Leaf]:
    """Leaves with the project's own chain by its id, once that is known."""
    return [leaf if leaf[1].int else (leaf[0], project_id, *leaf[2:]) for leaf in leaves]


def _size(said: dict[str, Any]) -> int:
    size = said["size"]
    if type(size) is not int or not 0 <= size <= LARGEST_NUMBER:
        raise ValueError("a checkpoint's size is a whole number")
    return size


def _checkpoint(said: dict[str, Any]) -> dict[str, Any]:
    at, public_key = datetime.fromisoformat(said["at"]), bytes.fromhex(said["public_key"])
    if at.utcoffset() != timedelta(0) or len(public_key) != 32:
        raise ValueError("a checkpoint has a time in UTC, and a public key of 32 bytes")
    return {
        "at": at,
        "root": bytes.fromhex(said["root"]),
        "public_key": public_key,
        "signature": bytes.fromhex(said["signature"]),
        "note": _note(said.get("note")),
        "follows": _follows(said.get("follows")),
    }


def _follows(said: Any) -> tuple[int, bytes, list[bytes]] | None:
    """Return the size and root of the checkpoint before, and the consistency proof from there."""
    if said is None:
        return None
    return int(said["size"]), bytes.fromhex(said["root"]), [bytes.fromhex(each) for each in said["proof"]]


def _note(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError("a note must be a string")
    return value


def _link(said: dict[str, Any], project_id: UUID, leaves: dict[tuple[UUID, int], bytes]) -> Link:
    chain_id = project_id if said["thread"] is None else _thread(said["thread"])
    without_hash = {name: value for name, value in said.items() if name != "hash"}
    return Link(
        chain_id,
        said["seq"],
        str(said["id"]),
        bytes.fromhex(said["previous"]),
        bytes.fromhex(said["hash"]),
        record_hash(orjson.dumps(without_hash, option=orjson.OPT_SORT_KEYS)),
        leaves.pop((chain_id, said["seq"]), None),
    )


def _thread(given: str) -> UUID:
    found = ids.parse(given, ids.THREAD_PREFIXES)
    if found is None:
        raise ValueError(f"{given} is not the id of a thread")
    return found


def _lines(objects: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(each) + b"\n" for each in objects)

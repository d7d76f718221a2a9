"""Proof of one turn with its contents, for a reader who recomputes the digests.

The turn's records claim digests. For each claim, the proof has the contents that the digest covers, as they are stored
now; the records that lead to a leaf of the project's tree; the path of the leaf; and the newest signed checkpoint.
"""

from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from typing_extensions import TypedDict

from app.audit import store
from app.audit.claims import Claim, ThreadClaims
from app.audit.contents_check import Contents, Covered, covered
from app.audit.exported import CheckpointObject, checkpoint_object, leaf_object
from app.audit.paths import TreePaths
from app.audit.rows import LeafRow, RecordRow
from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.projects.auth import Caller
from app.threads.address import ThreadAddress
from app.trail.contents import FIELDS, VERSION
from app.trail.records import RecordObject, record_object
from app.turns.service import Turns

MOST_BYTES = 8 * 1024 * 1024
"""Bytes of contents in a proof."""

MOST_RECORDS = 5000
"""Records in a proof. Many records of a thread may lie between a turn and the next leaf."""

TRIES = 4
"""Attempts at reading a turn that changes meanwhile."""

SQL = statements_of(__file__)

Problem = Literal["erased", "unreadable", "too_large", "too_many_records"]


class LeafObject(TypedDict):
    object: Literal["audit.leaf"]
    position: int
    thread: str | None
    seq: int
    hash: str
    proof: list[str]
    """Hashes of the path to the root of the checkpoint."""


class PartObject(TypedDict):
    part: str
    """`opened`: the request; `call N`; `closed`: the answer; `compacted`; `turn`: all of it; `left`: its place."""
    record: str
    """Id of the record whose `content` is the digest."""
    leaf: int | None
    """Position of the leaf that covers the record; null until a checkpoint covers it."""
    salt: str | None
    texts: list[str]
    """JSON arrays that the digest covers, as they are stored now. The digest of the first salts the second."""
    fields: list[list[str]]
    """Names of the values in each text, after its kind and its version."""
    problem: Problem | None
    """Reason why there are no texts, or no records that lead to the leaf."""


class TurnProofObject(TypedDict):
    object: Literal["turn.proof"]
    thread_id: str
    turn_id: str
    status: str
    checkpoint_seconds: float
    """Time between two checkpoints of the service."""
    parts: list[PartObject]
    records: list[RecordObject]
    """Records of the thread's chain, from those of the turn to the leaves."""
    leaves: list[LeafObject]
    checkpoint: CheckpointObject | None


class TurnProofs:
    def __init__(self, database: Database, turns: Turns, paths: TreePaths, *, every_seconds: float) -> None:
        self._database = database
        self._turns = turns
        self._paths = paths
        self._every_seconds = every_seconds

    async def of_turn(self, caller: Caller, address: ThreadAddress, turn_id: str) -> TurnProofObject:
        """Return the proof of a turn, signed as far as the newest checkpoint goes.

        Raises:
            NotFound: there is no such turn in this thread.
        """
        row = await self._turns.row(caller, address, turn_id)
        project_id, chain_id = caller.project_id, row["thread_id"]
        status, claims, now = await self._claimed(project_id, chain_id, row["id"])
        checkpoint = await store.newest_checkpoint(self._database, project_id)
        size = 0 if checkpoint is None else checkpoint["size"]
        leaves: dict[int, LeafRow] = {}
        covering: dict[str, LeafRow | None] = {}
        for kind, claim in claims.items():
            asked = SQL.covering_leaf(project_id=project_id, chain_id=chain_id, seq=claim.seq, size=size)
            covering[kind] = leaf = await self._database.fetchrow(*asked)
            if leaf is not None:
                leaves[leaf["position"]] = leaf
        records = await self._records(project_id, chain_id, claims, covering)
        paths: dict[int, list[bytes]] = {}
        if checkpoint is not None and leaves:
            paths = await self._paths.of(project_id, list(leaves), size, checkpoint["root"])
        left, parts = MOST_BYTES, list[PartObject]()
        for kind, claim in claims.items():
            found, problem = now[kind]
            weight = 0 if found is None else sum(len(text) for _, text in found.texts)
            if weight > left:
                found, problem = None, "too_large"
            left -= 0 if found is None else weight
            leaf = covering[kind]
            if leaf is not None and leaf["seq"] not in records:
                problem = "too_many_records"
            parts.append(
                {
                    "part": kind,
                    "record": ids.record_id(chain_id, claim.seq),
                    "leaf": None if leaf is None else leaf["position"],
                    "salt": None if found is None else found.salt.hex(),
                    "texts": [] if found is None else [text.decode() for _, text in found.texts],
                    "fields": [] if found is None else [list(FIELDS[each, VERSION]) for each, _ in found.texts],
                    "problem": problem,
                }
            )
        proved: list[Any] = [
            {**leaf_object(project_id, leaf), "proof": [each.hex() for each in paths[position]]}
            for position, leaf in sorted(leaves.items())
        ]
        shown: list[Any] = [record_object(records[seq]) for seq in sorted(records)]
        return {
            "object": "turn.proof",
            "thread_id": ids.thread_id(chain_id),
            "turn_id": ids.turn_id(row["id"]),
            "status": status,
            "checkpoint_seconds": self._every_seconds,
            "parts": parts,
            "records": shown,
            "leaves": proved,
            "checkpoint": None if checkpoint is None else checkpoint_object(project_id, checkpoint),
        }

    async def _claimed(
        self, project_id: UUID, chain_id: UUID, turn_id: UUID
    ) -> tuple[str, dict[str, Claim], dict[str, tuple[Covered | None, Problem | None]]]:
        """Return the turn's status, the claims of its records, and the contents that each claim must cover."""
        contents = Contents(self._database, project_id)
        status, claims = "", dict[str, Claim]()
        found: dict[str, tuple[Covered | None, Problem | None]] = {}
        for _ in range(TRIES):
            turns = await contents.turns([turn_id])
            calls = await contents.calls(turns)
            chain = ThreadClaims(chain_id)
            place = {"project_id": project_id, "bucket": ids.bucket_of(chain_id), "chain_id": chain_id}
            for record in await self._database.fetch(*SQL.of_turn(**place, turn_id=turn_id)):
                chain.take(record)
            row, claims = turns[turn_id], chain.turns.get(turn_id, {})
            status, found = row["status"], {}
            for kind in claims:
                call = calls.get((turn_id, kind))
                unreadable = row["unreadable"] or (call is not None and call["unreadable"])
                now = None if unreadable else covered(kind, row, call)
                found[kind] = now, None if now is not None else "unreadable" if unreadable else "erased"
            if all(now is None or now.digest == claims[kind].content for kind, (now, _) in found.items()):
                break  # Otherwise a record may have been written between the two reads.
        return status, claims, found

    async def _records(
        self, project_id: UUID, chain_id: UUID, claims: dict[str, Claim], covering: dict[str, LeafRow | None]
    ) -> dict[int, RecordRow]:
        """Return the records from each claim to its leaf; only its own without a leaf, or if it is too far away."""
        first: dict[int, int] = {}
        for kind, claim in claims.items():
            leaf = covering[kind]
            last = claim.seq if leaf is None else leaf["seq"]
            first[last] = min(claim.seq, first.get(last, claim.seq))
        records: dict[int, RecordRow] = {}
        for last, begin in first.items():
            end = last if last - begin < MOST_RECORDS - len(records) else begin
            for row in await self._between(project_id, chain_id, begin, end):
                records[row["seq"]] = row
        for claim in claims.values():
            if claim.seq not in records:
                for row in await self._between(project_id, chain_id, claim.seq, claim.seq):
                    records[row["seq"]] = row
        return records

    async def _between(self, project_id: UUID, chain_id: UUID, first: int, last: int) -> Sequence[RecordRow]:
        place = {"project_id": project_id, "bucket": ids.bucket_of(chain_id), "chain_id": chain_id}
        rows: list[RecordRow] = await self._database.fetch(*SQL.between(**place, first=first, last=last))
        return rows

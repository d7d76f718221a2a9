"""Claims of audit records: what the records of one chain say of the rows in the tables, the last word for each."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.db import ids
from app.trail.records import COPY_OF, MINIMUM_RETENTION, READS_RECORDED, UNREADABLE_REST

WHOLE = ("items.added", "turn.imported", "item.deleted")
"""Their content is the digest of a whole turn."""
ERASED = ("turn.deleted", "turn.purged")
THREAD_BORN = ("thread.created", "thread.imported")
THREAD_SAID = (*THREAD_BORN, "thread.changed", "thread.exported")
THREAD_GONE = ("thread.deleted", "thread.purged")


@dataclass(frozen=True, slots=True)
class Claim:
    """One record's digest of a content, with the fields of the record that are columns of the row, too."""

    seq: int
    content: bytes
    at: datetime
    key_id: UUID | None


class ThreadClaims:
    """The claims of a thread's chain."""

    def __init__(self, id_: UUID) -> None:
        self.id = id_
        self.seq = 0
        self.hash = b""
        self.deleted = False
        self.arrived_at: datetime | None = None
        self.thread: Claim | None = None
        self.turn_count = 0
        self.turns: dict[UUID, dict[str, Claim]] = {}
        """By turn, and by kind of content: `opened`, `closed`, `turn`, `left`, `compacted`, and each call."""
        self.erased: set[UUID] = set()
        self.cut: set[UUID] = set()
        """Turns of which an item was deleted. Their calls have lost their bodies, and their digests their salt."""
        self.lost_pieces = False
        """True if something was deleted that calls of other turns may have sent."""
        self.feedback: dict[UUID, Claim] = {}
        self.shares: dict[UUID, Claim] = {}
        self.former: dict[UUID, dict[str, Claim]] = {}
        """Claims on turns of a thread that was deleted. A fork may have taken them over."""
        self.former_feedback: dict[UUID, Claim] = {}
        self._moves: list[tuple[str, UUID | None]] = []

    def take(self, row: Any) -> None:
        """Take the next record of the chain."""
        self.seq, self.hash = row["seq"], row["hash"]
        action, turn_id, detail = row["action"], row["turn_id"], row["detail"] or ""
        self._take_history(action, turn_id, detail)
        if action in THREAD_GONE:
            self._end()
        if row["content"] is None:
            self._take_removal(action, turn_id, detail)
            return
        claim = Claim(row["seq"], row["content"], row["at"], row["key_id"])
        if action in THREAD_SAID:
            self.thread = claim
            if action in THREAD_BORN:
                self.deleted, self.arrived_at = False, row["at"]
        elif action == "feedback.given":
            self.feedback[_id(detail, "feedback")] = claim
        elif action in ("thread.shared", "share.changed"):
            self.shares[_id(detail, "share")] = claim
        elif turn_id is not None:
            self._take_turn(action, turn_id, detail, claim)

    def head(self, places: dict[UUID, tuple[UUID | None, int]]) -> UUID | None:
        """Return the head that the thread must have.

        Args:
            places: the parent of each of the thread's turns, and its `beside`.
        """
        head: UUID | None = None
        for kind, turn_id in self._moves:
            parent, beside = (None, 0) if turn_id is None else places.get(turn_id, (None, 0))
            match kind:
                case "set":
                    head = turn_id
                case "closed" if beside == 0 or head == parent:
                    head = turn_id
                case "deleted" if head == turn_id:
                    head = parent
        return head

    def _take_history(self, action: str, turn_id: UUID | None, detail: str) -> None:
        """Follow what the thread's head and its number of turns come to."""
        if action in ("turn.closed", "items.added", "turn.imported"):
            self.turn_count += 1
        if action in THREAD_BORN:
            self.turn_count = 0
        copied = action == "turn.imported" and detail.startswith(COPY_OF)
        chosen = action == "thread.changed" and "head_id" in detail.split(", ")
        if copied or chosen or action == "items.added" or action in THREAD_BORN:
            self._moves = [("set", turn_id)]
        elif action == "turn.closed" and detail != "failed":
            self._moves.append(("closed", turn_id))
        elif action == "turn.deleted":
            self._moves.append(("deleted", turn_id))

    def _take_turn(self, action: str, turn_id: UUID, detail: str, claim: Claim) -> None:
        of_turn = self.turns.setdefault(turn_id, {})
        if action == "turn.called":
            of_turn[f"call {detail.partition(' ')[0]}"] = claim
        elif action == "turn.closed":
            of_turn["closed"] = claim
        elif action == "compaction.made":
            of_turn["compacted"] = claim
        elif action == "turn.opened":
            self.turns[turn_id] = {"opened": claim}
        elif action in WHOLE:
            self.turns[turn_id] = {"left" if detail.endswith(UNREADABLE_REST) else "turn": claim}
            if action == "item.deleted":
                self.cut.add(turn_id)
                self.lost_pieces = True
        elif action == "turn.inherited" or action in ERASED:
            self.turns[turn_id] = {"left": claim}
            if action in ERASED:
                self.erased.add(turn_id)
                self.lost_pieces = True

    def _take_removal(self, action: str, turn_id: UUID | None, detail: str) -> None:
        if action == "feedback.deleted":
            self.feedback.pop(_id(detail, "feedback"), None)
        elif action == "thread.unshared":
            self.shares.pop(_id(detail, "share"), None)
        elif action == "history.erased":
            self.lost_pieces = True
        elif action == "compaction.deleted" and turn_id is not None:
            self.lost_pieces = True
            self.turns.get(turn_id, {}).pop("compacted", None)

    def _end(self) -> None:
        self.deleted = True
        # A turn without content is claimed by the chain of the thread that has it now.
        self.former |= {turn_id: claims for turn_id, claims in self.turns.items() if "left" not in claims}
        self.former_feedback |= self.feedback
        self.turns, self.feedback, self.shares, self._moves = {}, {}, {}, []
        self.erased, self.cut = set(), set()


class ProjectClaims:
    """The claims of a project's own chain."""

    def __init__(self) -> None:
        self.seq = 0
        self.project: Claim | None = None
        self.keys: dict[UUID, Claim] = {}
        self.record_reads = "staff"
        self.minimum_retention = "none"

    def take(self, row: Any) -> None:
        """Take the next record of the chain."""
        self.seq = row["seq"]
        if row["content"] is None:
            return
        claim = Claim(row["seq"], row["content"], row["at"], row["key_id"])
        if row["action"].startswith("project."):
            self.project = claim
            for said in (row["detail"] or "").split(", ") if row["action"] == "project.changed" else ():
                if said.startswith(READS_RECORDED):
                    self.record_reads = said.removeprefix(READS_RECORDED)
                elif said.startswith(MINIMUM_RETENTION):
                    self.minimum_retention = said.rpartition(" to ")[2]
        elif row["action"].startswith("key."):
            self.keys[_id(row["detail"].partition(" ")[0], "key")] = claim


def _id(shown: str, prefix: str) -> UUID:
    """Return the id that a record's detail names; zero for none."""
    return ids.parse(shown, (prefix,)) or UUID(int=0)

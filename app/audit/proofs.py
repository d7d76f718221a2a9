"""Inclusion proofs (c2sp.org/tlog-proof): a leaf of a log, its path to the root, and a checkpoint with that root.

The line `extra` contains the leaf as `merkle.leaf_data` encodes it. Without a verified path, it proves nothing.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple, Self
from uuid import UUID

from app.audit.merkle import LEAF_BYTES, LONGEST_PATH, leaf_data, leaf_parts, root_of
from app.audit.notes import LARGEST_NUMBER, MOST_OF_NOTE, BadNote, Note, decoded, encoded
from app.audit.policy import Accepted, Policy

FORMAT = "c2sp.org/tlog-proof@v1"

MOST_OF_PROOF = MOST_OF_NOTE + 8 * 1024
"""Largest number of bytes."""

_HEAD = re.compile(
    rf"{re.escape(FORMAT)}\n(?:extra (?P<extra>[^\n]+)\n)?index (?P<index>0|[1-9][0-9]{{0,18}})\n"
    rf"(?P<path>(?:[^\n]+\n){{0,{LONGEST_PATH}}})\n"
)


class Entry(NamedTuple):
    """A leaf: a record as the head of its chain."""

    chain_id: UUID
    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class TlogProof:
    entry: Entry
    index: int
    path: tuple[bytes, ...]
    note: Note

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Parse a proof without verifying it.

        Raises:
            BadNote: the proof is malformed or too large, or does not contain its leaf.
        """
        if len(content) > MOST_OF_PROOF:
            raise BadNote(f"a proof has at most {MOST_OF_PROOF} bytes")
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise BadNote("a proof must be UTF-8") from error
        head = _HEAD.match(text)
        if head is None or int(head["index"]) > LARGEST_NUMBER:
            raise BadNote(
                f"a proof must have {FORMAT}, a leaf, an index, up to {LONGEST_PATH} hashes, and a checkpoint"
            )
        leaf, path = decoded(head["extra"] or ""), tuple(map(decoded, head["path"].split("\n")[:-1]))
        if len(leaf) != LEAF_BYTES or any(len(each) != 32 for each in path):
            raise BadNote(f"the leaf of a proof must have {LEAF_BYTES} bytes, and each hash 32")
        return cls(Entry(*leaf_parts(leaf)), int(head["index"]), path, Note.parse(text[head.end() :].encode()))

    def __str__(self) -> str:
        lines = [FORMAT, f"extra {encoded(leaf_data(*self.entry))}", f"index {self.index}", *map(encoded, self.path)]
        return "\n".join([*lines, "", str(self.note)])

    def verify(self, policy: Policy) -> Accepted:
        """Verify that the leaf is in the tree of a checkpoint that a policy accepts.

        Raises:
            BadNote: the path or the checkpoint does not verify.
        """
        accepted = policy.accept(self.note)
        checkpoint = accepted.checkpoint
        if root_of(leaf_data(*self.entry), self.index, checkpoint.size, self.path) != checkpoint.root:
            raise BadNote(f"the path does not lead from leaf {self.index} to the root of checkpoint {checkpoint.size}")
        return accepted

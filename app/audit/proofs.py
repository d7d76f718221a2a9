"""Proofs of C2SP (c2sp.org/tlog-proof): one leaf of a log, its path to the root, and the checkpoint of the root.

The leaf itself, by `merkle.leaf_data`, is in the line `extra`. It proves nothing until the path leads from it to the
root.
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
"""Bytes."""

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
    def parse(cls, given: bytes) -> Self:
        """Read a proof. Nothing is verified.

        Raises:
            BadNote: it is none, is too large, or does not contain its leaf.
        """
        if len(given) > MOST_OF_PROOF:
            raise BadNote(f"a proof has at most {MOST_OF_PROOF} bytes")
        try:
            text = given.decode()
        except UnicodeDecodeError as error:
            raise BadNote("a proof is UTF-8") from error
        head = _HEAD.match(text)
        if head is None or int(head["index"]) > LARGEST_NUMBER:
            raise BadNote(f"a proof is {FORMAT}, its leaf, its index, at most {LONGEST_PATH} hashes, and a checkpoint")
        leaf, path = decoded(head["extra"] or ""), tuple(map(decoded, head["path"].split("\n")[:-1]))
        if len(leaf) != LEAF_BYTES or any(len(each) != 32 for each in path):
            raise BadNote(f"the leaf in a proof has {LEAF_BYTES} bytes, and each hash 32")
        return cls(Entry(*leaf_parts(leaf)), int(head["index"]), path, Note.parse(text[head.end() :].encode()))

    def __str__(self) -> str:
        lines = [FORMAT, f"extra {encoded(leaf_data(*self.entry))}", f"index {self.index}", *map(encoded, self.path)]
        return "\n".join([*lines, "", str(self.note)])

    def verify(self, policy: Policy) -> Accepted:
        """Verify that the leaf is in the tree of a checkpoint that a policy accepts.

        Raises:
            BadNote: it is not.
        """
        accepted = policy.accept(self.note)
        checkpoint = accepted.checkpoint
        if root_of(leaf_data(*self.entry), self.index, checkpoint.size, self.path) != checkpoint.root:
            raise BadNote(f"the leaf is not at the place {self.index} of the tree of checkpoint {checkpoint.size}")
        return accepted

"""The Merkle tree of RFC 6962: grows at its right edge, and has a root for every size that it ever had."""

import hashlib
from uuid import UUID


def leaf_data(chain_id: UUID, seq: int, hash_: bytes) -> bytes:
    """A chain's head as a leaf: the chain, the record's number in it, and the record's hash."""
    return chain_id.bytes + seq.to_bytes(8, "big") + hash_


class Tree:
    """Holds the roots of its full subtrees only: a hash for each bit of its size."""

    def __init__(self) -> None:
        self.size = 0
        self._full: list[tuple[int, bytes]] = []

    def add(self, leaf: bytes) -> None:
        count, node = 1, hashlib.sha256(b"\x00" + leaf).digest()
        while self._full and self._full[-1][0] == count:
            node = _parent(self._full.pop()[1], node)
            count *= 2
        self._full.append((count, node))
        self.size += 1

    def root(self) -> bytes:
        if not self._full:
            return hashlib.sha256(b"").digest()
        root = self._full[-1][1]
        for _, left in reversed(self._full[:-1]):
            root = _parent(left, root)
        return root


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()

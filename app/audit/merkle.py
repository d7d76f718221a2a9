"""The Merkle tree of RFC 6962: grows at its right edge, and has a root for every size that it ever had."""

import hashlib
from collections.abc import Sequence
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
        count, node = 1, _leaf(leaf)
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


class Proofs:
    """Grows like a tree, and gathers for chosen leaves the path that proves that they are in it (section 2.1.1)."""

    def __init__(self) -> None:
        self._full: list[tuple[int, bytes, list[list[bytes]]]] = []

    def add(self, leaf: bytes, path: list[bytes] | None = None) -> None:
        """Args: path: filled while the tree grows, and whole after `end`."""
        count, node, paths = 1, _leaf(leaf), [] if path is None else [path]
        while self._full and self._full[-1][0] == count:
            node, paths = self._join(node, paths)
            count *= 2
        self._full.append((count, node, paths))

    def end(self) -> None:
        """The tree has all its leaves."""
        _, node, paths = self._full.pop()
        while self._full:
            node, paths = self._join(node, paths)

    def _join(self, right: bytes, right_paths: list[list[bytes]]) -> tuple[bytes, list[list[bytes]]]:
        _, left, left_paths = self._full.pop()
        for path in left_paths:
            path.append(right)
        for path in right_paths:
            path.append(left)
        return _parent(left, right), left_paths + right_paths


def root_of(leaf: bytes, position: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root of a tree of `size` leaves in which the leaf is at `position`; None if the path does not fit there."""
    if not 0 <= position < size:
        return None
    node, last = _leaf(leaf), size - 1
    for sibling in path:
        if last == 0:
            return None
        if position & 1 or position == last:
            node = _parent(sibling, node)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            node = _parent(node, sibling)
        position, last = position >> 1, last >> 1
    return node if last == 0 else None


def _leaf(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()

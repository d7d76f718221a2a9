"""The Merkle tree of RFC 6962: grows at its right edge, and has a root for every size that it ever had."""

import hashlib
from collections.abc import Sequence
from uuid import UUID

LEAF_BYTES = 56

LONGEST_PATH = 63
"""Hashes from a leaf to the root of the largest tree."""


def leaf_data(chain_id: UUID, seq: int, hash_: bytes) -> bytes:
    """A chain's head as a leaf: the chain, the record's number in it, and the record's hash."""
    return chain_id.bytes + seq.to_bytes(8, "big") + hash_


def leaf_parts(leaf: bytes) -> tuple[UUID, int, bytes]:
    """Return the chain, the record's number and its hash, from a leaf."""
    return UUID(bytes=leaf[:16]), int.from_bytes(leaf[16:24], "big"), leaf[24:]


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

    def copy(self) -> "Tree":
        tree = Tree()
        tree.size, tree._full = self.size, [*self._full]
        return tree

    def root(self) -> bytes:
        if not self._full:
            return hashlib.sha256(b"").digest()
        root = self._full[-1][1]
        for _, left in reversed(self._full[:-1]):
            root = _parent(left, root)
        return root


class Proofs:
    """A growing tree that collects inclusion proofs of chosen leaves (section 2.1.1), and consistency proofs from
    chosen sizes (section 2.1.2)."""

    def __init__(self, tree: Tree | None = None) -> None:
        """Args: tree: the tree to start from. It is not changed."""
        full = () if tree is None else tree._full
        self._full: list[tuple[int, bytes, list[list[bytes]]]] = [(count, node, []) for count, node in full]

    def add(self, leaf: bytes, path: list[bytes] | None = None) -> None:
        """Args: path: filled while the tree grows, and whole after `end`."""
        self._add(1, _leaf(leaf), [] if path is None else [path])

    def add_full(self, count: int, root: bytes) -> None:
        """Add a full subtree by its root. Args: count: its leaves, a power of two that divides the tree's size."""
        self._add(count, root, [])

    def _add(self, count: int, node: bytes, paths: list[list[bytes]]) -> None:
        while self._full and self._full[-1][0] == count:
            node, paths = self._join(node, paths)
            count *= 2
        self._full.append((count, node, paths))

    def begin(self) -> list[bytes]:
        """Return a consistency proof from the present size. It grows with the tree, and is complete after `end`.

        The proof is the path of the last full subtree, preceded by the root of that subtree unless it is the whole
        tree. The proof from an empty tree is empty.
        """
        path: list[bytes] = []
        if self._full:
            _, node, paths = self._full[-1]
            path += [] if len(self._full) == 1 else [node]
            paths.append(path)
        return path

    def end(self) -> bytes:
        """Complete all proofs after the last leaf, and return the root."""
        if not self._full:
            return hashlib.sha256(b"").digest()
        _, node, paths = self._full.pop()
        while self._full:
            node, paths = self._join(node, paths)
        return node

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


def is_consistent(size: int, root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Return True if a path is a valid consistency proof from a tree of `size` leaves to one of `new_size` leaves."""
    if size in (0, new_size):
        return not path and root == (new_root if size else hashlib.sha256(b"").digest())
    if not 0 < size < new_size:
        return False
    last, new_last = size - 1, new_size - 1
    while last & 1:
        last, new_last = last >> 1, new_last >> 1
    nodes = iter(path if last else (root, *path))
    node = new_node = next(nodes, b"")
    for sibling in nodes:
        if new_last == 0:
            return False
        if last & 1 or last == new_last:
            node, new_node = _parent(sibling, node), _parent(sibling, new_node)
            while not last & 1 and last:
                last, new_last = last >> 1, new_last >> 1
        else:
            new_node = _parent(new_node, sibling)
        last, new_last = last >> 1, new_last >> 1
    return new_last == 0 and (node, new_node) == (root, new_root)


def _leaf(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()

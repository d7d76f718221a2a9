"""Inclusion paths of a few leaves, and consistency proofs, computed from cached roots of full subtrees."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID
from weakref import WeakValueDictionary

from app.audit import store
from app.audit.merkle import Proofs, Tree, leaf_data
from app.db.engine import Database

SUBTREE_LEAVES = 512
"""Leaves of a subtree whose root is cached."""

MOST_PROJECTS = 256
"""Projects whose subtrees are cached."""


class TreePaths:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._roots: dict[UUID, list[bytes]] = {}
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def of(self, project_id: UUID, positions: Sequence[int], size: int, root: bytes) -> dict[int, list[bytes]]:
        """Return the path of each leaf to the root of the tree of a size.

        A worker reads all leaves of a project once. Later calls read only the subtrees of these positions. If leaves
        were changed, the paths lead to another root.
        """
        return (await self._proofs(project_id, frozenset(positions), None, size, root)).paths

    async def consistency(self, project_id: UUID, older: int, size: int, root: bytes) -> list[bytes]:
        """Return the consistency proof from a smaller tree to the tree of a size, whose root is given."""
        return (await self._proofs(project_id, frozenset(), older, size, root)).consistency

    async def _proofs(
        self, project_id: UUID, positions: frozenset[int], older: int | None, size: int, root: bytes
    ) -> "_Computed":
        lock = self._locks.setdefault(project_id, asyncio.Lock())
        async with lock:
            remembered = project_id in self._roots
            computed = await self._computed(project_id, positions, older, size)
            if computed.root != root and remembered:  # Leaves changed: the database was restored, for example.
                del self._roots[project_id]
                computed = await self._computed(project_id, positions, older, size)
            return computed

    async def _computed(self, project_id: UUID, positions: frozenset[int], older: int | None, size: int) -> "_Computed":
        roots = await self._full(project_id, size // SUBTREE_LEAVES)
        computed = _Computed(older, {position: [] for position in positions})
        opened = {position // SUBTREE_LEAVES for position in (*positions, *(() if older is None else (older,)))}
        for number, root in enumerate(roots):
            if number in opened:
                await self._add(project_id, computed, number, size)
            else:
                computed.proofs.add_full(SUBTREE_LEAVES, root)
        if size % SUBTREE_LEAVES:
            await self._add(project_id, computed, len(roots), size)
        computed.root = computed.proofs.end()
        return computed

    async def _add(self, project_id: UUID, computed: "_Computed", number: int, size: int) -> None:
        """Add the leaves of a subtree."""
        start = number * SUBTREE_LEAVES
        async for rows in store.leaves(self._database, project_id, start, min(size, start + SUBTREE_LEAVES)):
            for row in rows:
                if row["position"] == computed.older:
                    computed.consistency = computed.proofs.begin()
                leaf = leaf_data(row["chain_id"], row["seq"], row["hash"])
                computed.proofs.add(leaf, computed.paths.get(row["position"]))

    async def _full(self, project_id: UUID, number: int) -> Sequence[bytes]:
        """Return the roots of the first full subtrees of a project's tree."""
        while len(self._roots) >= MOST_PROJECTS and project_id not in self._roots:
            del self._roots[next(iter(self._roots))]
        roots = self._roots.setdefault(project_id, [])
        tree = Tree()
        start = len(roots) * SUBTREE_LEAVES
        async for rows in store.leaves(self._database, project_id, start, number * SUBTREE_LEAVES):
            for row in rows:
                tree.add(leaf_data(row["chain_id"], row["seq"], row["hash"]))
                if tree.size == SUBTREE_LEAVES:
                    roots.append(tree.root())
                    tree = Tree()
        return roots[:number]


@dataclass(slots=True)
class _Computed:
    """The proofs of a tree, and its root."""

    older: int | None
    """Size of the tree from which the consistency proof leads."""
    paths: dict[int, list[bytes]]
    consistency: list[bytes] = field(default_factory=list)
    root: bytes = b""
    proofs: Proofs = field(default_factory=Proofs)

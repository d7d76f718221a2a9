"""Inclusion paths of a few leaves, computed from cached roots of full subtrees."""

import asyncio
from collections.abc import Sequence
from uuid import UUID
from weakref import WeakValueDictionary

from app.audit import store
from app.audit.merkle import Proofs, Tree, leaf_data
from app.db.engine import Database

SUBTREE_LEAVES = 4096
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
        lock = self._locks.setdefault(project_id, asyncio.Lock())
        async with lock:
            remembered = project_id in self._roots
            paths, found = await self._computed(project_id, set(positions), size)
            if found != root and remembered:  # Leaves changed: the database was restored, for example.
                del self._roots[project_id]
                paths, _ = await self._computed(project_id, set(positions), size)
            return paths

    async def _computed(self, project_id: UUID, positions: set[int], size: int) -> tuple[dict[int, list[bytes]], bytes]:
        roots = await self._full(project_id, size // SUBTREE_LEAVES)
        paths: dict[int, list[bytes]] = {position: [] for position in positions}
        opened = {position // SUBTREE_LEAVES for position in positions}
        proofs = Proofs()
        for number, root in enumerate(roots):
            if number in opened:
                await self._add(project_id, proofs, number, size, paths)
            else:
                proofs.add_full(SUBTREE_LEAVES, root)
        if size % SUBTREE_LEAVES:
            await self._add(project_id, proofs, len(roots), size, paths)
        return paths, proofs.end()

    async def _add(
        self, project_id: UUID, proofs: Proofs, number: int, size: int, paths: dict[int, list[bytes]]
    ) -> None:
        start = number * SUBTREE_LEAVES
        async for rows in store.leaves(self._database, project_id, start, min(size, start + SUBTREE_LEAVES)):
            for row in rows:
                leaf = leaf_data(row["chain_id"], row["seq"], row["hash"])
                proofs.add(leaf, paths.get(row["position"]))

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

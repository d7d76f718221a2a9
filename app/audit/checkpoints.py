"""Checkpoints: from time to time, the heads of all chains that have grown become leaves, and the tree is signed."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit import store
from app.audit.merkle import Tree, leaf_data
from app.audit.notes import Checkpoint, signed_checkpoint
from app.audit.origins import cross_signatures
from app.audit.rows import RecordRow
from app.audit.signing import signed_text
from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.http.errors import DatabaseUnavailable
from app.process.background import Background
from app.trail.records import Columns

log = structlog.get_logger()

OVERLAP = timedelta(hours=1)
"""Greatest age, before the last checkpoint, of a record that it missed: clocks differ, and commits take time."""

BEGINNING = datetime.fromtimestamp(0, UTC)

LEAVES_AT_ONCE = 10_000

SQL = statements_of(__file__)


class Checkpoints(Background):
    def __init__(
        self, database: Database, key: Ed25519PrivateKey, *, every_seconds: float, origin_base: str | None = None
    ) -> None:
        """Args: origin_base: first part of the log names of projects without a checkpoint."""
        super().__init__()
        self._database = database
        self._key = key
        self._every_seconds = every_seconds
        self._origin_base = origin_base
        self._trees: dict[UUID, Tree] = {}
        self._writing = asyncio.Lock()

    async def write(self, project_id: UUID, records: Sequence[RecordRow] = ()) -> int:
        """Sign all that is in the project's chains now, if anything is new. Returns the size of the signed tree.

        Args:
            records: each of them gets a leaf, too, even if its chain has grown since.

        Where leaves do not fit their checkpoint, nothing is signed any more: somebody has changed them; that is said.
        """
        async with self._writing:  # A tree is nobody else's while it grows.
            signed: int | None = None
            while (size := await self._try(project_id, records)) is None:
                before, signed = signed, await store.last_size(self._database, project_id)
                if signed == before:  # Nobody else has written one: it is not for that that ours is refused.
                    log.error(
                        "the leaves of a project's audit trail do not fit its checkpoints, and nothing of it is signed "
                        "any more: 'everthread audit verify' says more",
                        project=ids.project_id(project_id),
                    )
                    return signed
        return size

    async def _try(self, project_id: UUID, records: Sequence[RecordRow]) -> int | None:
        """The same; None if another service has written a checkpoint meanwhile."""
        last = await self._database.fetchrow(*SQL.last_checkpoint(project_id=project_id, most=None))
        since = BEGINNING if last is None else last["at"] - OVERLAP
        tree = await self._tree(project_id, 0 if last is None else last["size"])
        after = {"bucket": -1, "chain_id": store.LOWEST}
        while heads := await self._database.fetch(
            *SQL.grown(project_id=project_id, since=since, **after, limit=LEAVES_AT_ONCE)
        ):
            after = {"bucket": heads[-1]["bucket"], "chain_id": heads[-1]["chain_id"]}
            new = await self._without_leaf(project_id, heads)
            if new and not await self._sign(project_id, tree, new):
                return None
        left = await self._without_leaf(project_id, records) if records else []
        return None if left and not await self._sign(project_id, tree, left) else tree.size

    async def _sign(self, project_id: UUID, tree: Tree, heads: Sequence[Columns]) -> bool:
        """Write leaves and their checkpoint. False if another service has written one meanwhile."""
        size, at = tree.size, datetime.now(UTC)
        for head in heads:
            tree.add(leaf_data(head["chain_id"], head["seq"], head["hash"]))
        root = tree.root()
        # Processes of the release before require this signature.
        signature = self._key.sign(signed_text(project_id, tree.size, at, root))
        origin, former = await self._origin(project_id)
        note = signed_checkpoint(Checkpoint(origin, tree.size, root), self._key, at)
        note = note.with_signatures(cross_signatures(note.text, former, self._key))
        self._trees.pop(project_id, None)
        try:
            row = await self._database.fetchrow(
                *SQL.write_checkpoint(
                    project_id=project_id,
                    before=size,
                    chain_ids=[head["chain_id"] for head in heads],
                    seqs=[head["seq"] for head in heads],
                    hashes=[head["hash"] for head in heads],
                    size=tree.size,
                    at=at,
                    root=root,
                    public_key=self._key.public_key().public_bytes_raw(),
                    signature=signature,
                    note=str(note),
                )
            )
        except asyncpg.UniqueViolationError:
            return False
        if row is not None:
            self._trees[project_id] = tree
        return row is not None

    async def _origin(self, project_id: UUID) -> tuple[str, list[str]]:
        """Return the name of a project's log, which its first checkpoint with a note fixes. Before the first checkpoint
        under a new name, the former names are returned, too."""
        while (row := await self._database.fetchrow(*SQL.origin(project_id=project_id))) is None:
            public_key = self._key.public_key().public_bytes_raw()
            begun = SQL.begin_origin(project_id=project_id, base=self._origin_base, public_key=public_key)
            await self._database.fetchrow(*begun)
        return row["origin"], row["former"] or []

    async def _without_leaf(self, project_id: UUID, heads: Sequence[Columns]) -> list[Columns]:
        chains, numbers = [head["chain_id"] for head in heads], [head["seq"] for head in heads]
        leaves = SQL.with_leaf(project_id=project_id, chain_ids=chains, seqs=numbers)
        known = {tuple(row) for row in await self._database.fetch(*leaves)}
        return [head for head in heads if (head["chain_id"], head["seq"]) not in known]

    async def _tree(self, project_id: UUID, size: int) -> Tree:
        """The tree as it stands: what is remembered of it, and the leaves that have come since."""
        tree = self._trees.get(project_id)
        if tree is None or tree.size > size:
            tree = self._trees[project_id] = Tree()
        async for rows in store.leaves(self._database, project_id, tree.size, size):
            for row in rows:
                tree.add(leaf_data(row["chain_id"], row["seq"], row["hash"]))
        return tree

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._every_seconds)
            try:
                for project in await store.projects(self._database):
                    await self.write(project["project_id"])
            except DatabaseUnavailable:
                log.warning("Postgres is unavailable; the next checkpoint will cover what this one should have")

"""Queries of the audit trail."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Literal
from uuid import UUID

from typing_extensions import TypedDict

from app.audit import exported, store
from app.audit.checkpoints import Checkpoints
from app.audit.merkle import Tree
from app.audit.paths import TreePaths
from app.audit.store import Filters
from app.audit.witnesses import Witness, witness_object
from app.db import ids
from app.db.engine import Database
from app.db.read_horizon import ReadHorizon
from app.db.replica import ReplicaReads
from app.http.errors import BadRequest, NotFound
from app.http.pages import Page, list_object
from app.projects.auth import Caller
from app.threads import store as threads
from app.threads.address import ThreadAddress, unknown
from app.trail.append import append_record
from app.trail.records import record_object
from app.trail.users import UserKeys

ConsistencyObject = TypedDict(
    "ConsistencyObject", {"object": Literal["audit.consistency"], "from": int, "to": int, "proof": list[str]}
)


class Audit:
    def __init__(
        self,
        database: Database,
        reads: ReplicaReads,
        users: UserKeys,
        checkpoints: Checkpoints,
        horizon: ReadHorizon,
        witnesses: Sequence[Witness],
        paths: TreePaths,
    ) -> None:
        self._database = database
        self._reads = reads
        self._users = users
        self._horizon = horizon
        self._checkpoints = checkpoints
        self._witnesses = witnesses
        self._paths = paths

    async def list_page(self, caller: Caller, filters: Filters, page: Page) -> dict[str, Any]:
        """One page of records. Those of a user who was purged cannot be told from others."""
        if filters.user is not None:
            named = await self._users.digest(caller.project_id, filters.user)
            if named is None:
                return {**list_object([], record_object, has_more=False), "names": {}}
            filters = replace(filters, user_digest=named)
        rows, has_more = await store.list_page(self._database, caller.project_id, filters, page, self._horizon)
        names = await store.names(self._database, caller.project_id, {row["key_id"] for row in rows})
        return {**list_object(rows, record_object, has_more=has_more), "names": names}

    async def list_of_thread(
        self, caller: Caller, address: ThreadAddress, filters: Filters, page: Page
    ) -> dict[str, Any]:
        """One page of a thread's records: of a deleted one too, by its id.

        Raises:
            NotFound: there is no such thread, and there never was.
        """
        chain_id = await self._chain(caller, address)
        return await self.list_page(caller, replace(filters, chain_id=chain_id), page)

    async def checkpoints(self, caller: Caller) -> dict[str, Any]:
        """Every checkpoint, latest first."""
        rows = await store.checkpoints(self._database, caller.project_id)
        return list_object(rows[::-1], lambda row: exported.checkpoint_object(caller.project_id, row), has_more=False)

    async def note(self, caller: Caller) -> str:
        """Return the newest checkpoint as a signed note.

        Raises:
            NotFound: none has been written yet.
        """
        note = await store.last_note(self._database, caller.project_id)
        if note is None:
            raise NotFound("This project has no checkpoint with a signed note yet. An export writes one at once.")
        return note

    async def consistency(self, caller: Caller, size: int, larger: int | None) -> ConsistencyObject:
        """Return the consistency proof between two tree sizes; by default, to the last checkpoint.

        Raises:
            BadRequest: the sizes are not in order, or larger than what is signed.
        """
        checkpoint = await store.newest_checkpoint(self._database, caller.project_id)
        last = 0 if checkpoint is None else checkpoint["size"]
        larger = last if larger is None else larger
        if not size <= larger <= last:
            raise BadRequest(
                f"The sizes must be in order, and not larger than the last checkpoint ({last} leaves).",
                param="to",
            )
        path: list[bytes] = []
        if checkpoint is not None and size < larger == last:
            path = await self._paths.consistency(caller.project_id, size, last, checkpoint["root"])
        elif size < larger:
            path, _ = await store.consistency(self._database, caller.project_id, Tree(), size, larger)
        return {"object": "audit.consistency", "from": size, "to": larger, "proof": [each.hex() for each in path]}

    async def witnesses(self, caller: Caller) -> dict[str, Any]:
        """Return the configured witnesses with their last answers about the project."""
        answered = {row["public_key"]: row for row in await store.witnesses(self._database, caller.project_id)}
        rows = [(witness, answered.get(witness.key.public_key)) for witness in self._witnesses]
        return list_object(rows, lambda row: witness_object(*row), has_more=False)

    async def export(self, caller: Caller) -> AsyncIterator[bytes]:
        """The whole trail, signed up to now."""
        async with self._database.session() as session:
            await append_record(session, caller.actor, caller.project_id, "audit.exported")
        await self._checkpoints.write(caller.project_id)
        return exported.lines(await self._reads.with_all_so_far(), caller.project_id)

    async def export_thread(self, caller: Caller, address: ThreadAddress) -> AsyncIterator[bytes]:
        """A thread's trail, signed up to now: of a deleted one too, by its id.

        Raises:
            NotFound: there is no such thread, and there never was.
        """
        chain_id = await self._chain(caller, address)
        async with self._database.session() as session:
            await append_record(
                session, caller.actor, caller.project_id, "audit.exported", detail=ids.thread_id(chain_id)
            )
        await self._checkpoints.write(caller.project_id)
        return exported.lines_of_thread(await self._reads.with_all_so_far(), caller.project_id, chain_id)

    async def _chain(self, caller: Caller, address: ThreadAddress) -> UUID:
        """The chain of a thread, or of one that was deleted.

        Raises:
            NotFound: there never was one.
        """
        async with self._database.session() as session:
            thread = await threads.get(session, caller.project_id, address)
        if thread is not None:
            return thread.id
        if not await store.exists(self._database, caller.project_id, address.id):
            raise unknown(address)
        return address.id

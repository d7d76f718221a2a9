"""Store of a branch's memory: its nearest compaction, and the items after it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.ext.asyncio import AsyncSession

from app.chain.context import Context
from app.chain.continuation import ContinuationReason
from app.db import ids
from app.db.engine import Database
from app.db.routing import Routing
from app.db.sql import Statement, statements_of
from app.http.errors import NotFound
from app.http.pages import PAGE_BYTES
from app.items import vocabulary
from app.items.media import EMPTY, lacks_large
from app.items.shapes import Item, message
from app.items.stored import StoredItem, stored_item
from app.items.unreadable import ContentUnreadable, is_unreadable
from app.media import store as media
from app.memory.rows import Abandoned, CompactionRow
from app.memory.tables import Compaction
from app.sealing import at_rest
from app.sealing.ciphertext import Place
from app.sealing.columns import ITEMS, rows_of
from app.threads.address import ThreadAddress, unknown
from app.trail import contents
from app.trail.append import append_record
from app.trail.records import SERVICE

COMPACTIONS = rows_of(Compaction)

SQL = statements_of(__file__)

MARK = "[A summary of the conversation so far, made by the service; it is no request of the user's]"
"""Stands before a compaction's text, which is sent as a message of the user's: it is made of users' words, and must not
speak as the system."""


def as_message(text: str) -> Item:
    """A summary as the model is given it. It is never dropped."""
    return {**message("user", f"{MARK}\n\n{text}"), "pinned": True}


@dataclass(slots=True)
class BranchItem:
    """An item of a branch, and where it is."""

    stored: StoredItem
    turn_id: UUID
    tokens: int | None
    """Tokens by Qwen's vocabulary; None until it is counted."""
    binding: str | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of a branch, whether it has items or not."""

    id: UUID
    thread_id: UUID


@dataclass(slots=True)
class Compacted:
    """A compaction that stands for the beginning of a branch."""

    id: UUID
    text: str
    tokens: int
    kept_items: list[BranchItem]
    """Covered items that stay as they are."""
    covered_turns: int
    covered_tokens: int

    @property
    def source(self) -> str:
        """Name that a call uses for the text that it has sent."""
        return ids.compaction_id(self.id)

    @property
    def item(self) -> Item:
        """As the model is given it."""
        return as_message(self.text)


@dataclass(slots=True)
class Branch:
    """Memory of a branch, in order."""

    turns: list[Turn] = field(default_factory=list)
    """Turns that no compaction covers."""
    items: list[BranchItem] = field(default_factory=list)
    """Theirs."""
    compacted: Compacted | None = None
    left_out: int = 0
    """Old items that were not read, because the branch is too large."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A compaction that this worker makes."""

    project_id: UUID
    id: UUID
    turn_id: UUID
    thread_id: UUID
    """Thread of its turn."""


class MemoryStore:
    def __init__(
        self, database: Database, nodes: Routing, *, worker_id: UUID, lease_seconds: float, most_bytes: int = PAGE_BYTES
    ) -> None:
        """Args: most_bytes: of a branch, that are read of each sort of item."""
        self._most_bytes = most_bytes
        self._database = database
        self._nodes = nodes
        self._worker_id = worker_id
        self.lease_seconds = lease_seconds

    async def branch(self, project_id: UUID, turn_id: UUID) -> Branch:
        """Return a branch up to a turn.

        Raises:
            ContentUnreadable: something of it cannot be opened. A model is sent all of a branch or nothing.
        """
        node = self._nodes.of(ids.bucket_of(turn_id))
        [row] = await node.fetch(*SQL.branch(**_at(project_id, turn_id), most_bytes=self._most_bytes))
        branch = Branch(list(map(Turn, row["turn_ids"] or (), row["thread_ids"] or ())))
        if row["documents"] is not None:
            await self._add_items(node, project_id, branch, row)
        if row["compaction"] is not None:
            branch.compacted = await self._compacted(project_id, turn_id, row["compaction"])
            if branch.compacted is None:  # Deleted in this moment: once more, without it.
                return await self.branch(project_id, turn_id)
        return branch

    async def _add_items(self, node: media.Reads, project_id: UUID, branch: Branch, row: Any) -> None:
        """Add the items of a branch's row, whole."""
        documents = orjson.loads(b"[" + row["documents"] + b"]")
        columns = (row["types"], row["item_ids"], row["depths"], row["positions"], row["tokens"], row["with_media"])
        turn_ids, bindings, models = row["turn_ids"], row["bindings"], row["models"]
        may_lack_media = EMPTY.encode() in row["documents"]
        not_whole: dict[int, dict[str, Any]] = {}
        for data, type_, item_id, depth, position, tokens, with_media in zip(documents, *columns, strict=True):
            if data is None:
                branch.left_out += 1
                continue
            turn = -1 - depth
            if type(data) is not dict or (may_lack_media and lacks_large(data)):
                not_whole[len(branch.items)] = {
                    "turn_id": turn_ids[turn], "position": position, "type": type_, "item_id": item_id, "data": data,
                    "with_media": with_media,
                }  # fmt: skip
            stored = StoredItem(type_, item_id, data)
            branch.items.append(BranchItem(stored, turn_ids[turn], tokens, bindings[turn], models[turn]))
        if not_whole:
            whole = await _readable(node, project_id, list(not_whole.values()))
            for place, stored in zip(not_whole, whole, strict=True):
                branch.items[place].stored = stored

    async def _compacted(self, project_id: UUID, turn_id: UUID, id_: UUID) -> Compacted | None:
        here = {"project_id": project_id, "bucket": ids.bucket_of(turn_id)}
        stored = await self._database.fetchrow(*SQL.compaction(**here, compaction_id=id_))
        if stored is None:
            return None
        row = COMPACTIONS.opened(project_id, stored)
        if row.get("unreadable"):
            until = ids.turn_id(row["turn_id"])
            raise ContentUnreadable(
                f"The compaction of this conversation up to turn {until}",
                f"Delete an item that it covers, so that it goes too, or fork the thread at a turn before {until}.",
            )
        found = await self._database.fetch(*SQL.kept_items(**here, item_ids=row["kept_items"]))
        by_id = {
            item["item_id"]: BranchItem(stored, row["turn_id"], item["tokens"])
            for item, stored in zip(found, await _readable(self._database, project_id, found), strict=True)
        }
        kept_items = [by_id[item_id] for item_id in row["kept_items"] if item_id in by_id]
        return Compacted(id_, row["text"] or "", row["tokens"], kept_items, row["covered_turns"], row["covered_tokens"])

    async def nearest(self, project_id: UUID, turn_id: UUID) -> UUID | None:
        """The nearest ready compaction on a branch."""
        node = self._nodes.of(ids.bucket_of(turn_id))
        found: UUID | None = await node.fetchval(*SQL.nearest(**_at(project_id, turn_id)))
        return found

    async def context(self, project_id: UUID, turn_id: UUID) -> Context:
        return Context.from_json(await self._database.fetchval(*SQL.context_of(**_at(project_id, turn_id))))

    async def count(self, project_id: UUID, items: Sequence[BranchItem]) -> list[int]:
        """Count the tokens of items, and store each count with its item."""
        uncounted = [item for item in items if item.tokens is None]
        found = await vocabulary.counts([item.stored.item for item in uncounted])
        for item, tokens in zip(uncounted, found, strict=True):
            item.tokens = tokens
        if uncounted:
            await self._database.fetch(
                *SQL.count_items(
                    project_id=project_id,
                    bucket=ids.bucket_of(uncounted[0].turn_id),
                    item_ids=[item.stored.id for item in uncounted],
                    counts=found,
                )
            )
        return [item.tokens or 0 for item in items]

    async def head(self, project_id: UUID, address: ThreadAddress) -> tuple[UUID, UUID | None, str | None]:
        """A thread's id, its head, and the head's model.

        Raises:
            NotFound: there is no such thread.
        """
        name = getattr(address, "name", None)
        place = {"project_id": project_id, "bucket": ids.bucket_of(address.id), "thread_id": address.id}
        row = await self._database.fetchrow(*SQL.head(**place, name=name, of_user=address.user))
        if row is None:
            raise unknown(address)
        return row["thread_id"], row["head_turn_id"], row["model"]

    async def on_branch(self, project_id: UUID, turn_id: UUID | None) -> list[CompactionRow]:
        """Every compaction on a branch, the nearest first."""
        if turn_id is None:
            return []
        rows = await self._database.fetch(*SQL.on_branch(**_at(project_id, turn_id)))
        return [COMPACTIONS.opened(project_id, row) for row in rows]

    async def pauses(self, project_id: UUID, turn_id: UUID) -> bool:
        """Return True while a branch waits after a compaction that failed."""
        return await self._database.fetchrow(*SQL.pause(**_at(project_id, turn_id))) is not None

    async def claim(
        self,
        project_id: UUID,
        turns: Sequence[Turn],
        *,
        previous_id: UUID | None,
        model: str,
        kept_items: Sequence[str],
        covered_turns: int,
        covered_tokens: int,
        now: bool,
    ) -> Claim | None:
        """Claim a compaction for this worker.

        Args:
            turns: the turns that it covers, including those of the compaction before it.
            now: True to retry a failed compaction immediately.

        Returns:
            None if another worker makes it, it is ready, or it has failed recently.
        """
        last = turns[-1]
        here = {"project_id": project_id, "bucket": ids.bucket_of(last.id)}
        async with self._database.session() as session:
            # Who deletes something of these has the thread's row: what is read after this holds nothing that is about
            # to go, and what is deleted later takes this compaction with it.
            await _run(session, SQL.lock_threads, **here, thread_ids=list({turn.thread_id for turn in turns}))
            row = await _run(
                session,
                SQL.claim,
                **here,
                compaction_id=ids.new_uuid(),
                turn_id=last.id,
                previous_id=previous_id,
                worker_id=self._worker_id,
                lease_seconds=self.lease_seconds,
                model=model,
                kept_items=list(kept_items),
                covered_turns=covered_turns,
                covered_tokens=covered_tokens,
                now=now,
            )
        return None if row is None else Claim(project_id, row.id, last.id, last.thread_id)

    async def renew(self, claim: Claim) -> bool:
        """Renew the lease. False if the claim is lost: somebody else has taken it, or it was deleted."""
        mine = {**_of(claim), "worker_id": self._worker_id}
        row = await self._database.fetchrow(*SQL.renew(**mine, lease_seconds=self.lease_seconds))
        return row is not None

    async def finish(
        self, claim: Claim, said: str, *, tokens: int, calls: Sequence[dict[str, Any]], usage: dict[str, Any]
    ) -> bool:
        """Make a compaction ready, with its record in the trail. False if the claim is lost."""
        salt, seal, place = contents.new_salt(), at_rest.sealer(), _place(claim)
        documents = orjson.dumps(list(calls)).decode(), orjson.dumps(usage).decode()
        async with self._database.session() as session:
            mine = {**_of(claim), "worker_id": self._worker_id}
            thread = {"project_id": claim.project_id, "bucket": mine["bucket"], "thread_id": claim.thread_id}
            if await _run(session, SQL.lock_thread, **thread) is None:
                return False
            row = await _run(
                session, SQL.finish, **mine, text=seal.text(place, "text", said), tokens=tokens,
                calls=seal.document(place, "calls", documents[0]), usage=documents[1], salt=seal.salt(salt, place),
            )  # fmt: skip
            if row is None:
                return False
            await append_record(
                session,
                SERVICE,
                claim.project_id,
                "compaction.made",
                thread_id=claim.thread_id,
                turn_id=claim.turn_id,
                detail=ids.compaction_id(claim.id),
                content=contents.compacted(salt, {**row._mapping, "text": said, "calls": list(calls), "usage": usage}),
            )
        return True

    async def fail(self, claim: Claim, error: dict[str, Any], usage: dict[str, Any]) -> None:
        mine = {**_of(claim), "worker_id": self._worker_id}
        said = at_rest.sealer().document(_place(claim), "error", orjson.dumps(error).decode())
        documents = {"error": said, "usage": orjson.dumps(usage).decode()}
        await self._database.fetchrow(*SQL.fail(**mine, **documents))

    async def give_up(self, abandoned: Abandoned) -> None:
        """Mark a compaction as failed whose worker died and that no worker may make. A later turn asks for it again."""
        project_id, turn_id, id_ = abandoned["project_id"], abandoned["turn_id"], abandoned["id"]
        error = {"code": "limit_reached", "message": "A limit of the project was reached."}
        said = at_rest.sealer().document(
            COMPACTIONS.at(project_id, turn_id, id_), "error", orjson.dumps(error).decode()
        )
        here = {"project_id": project_id, "bucket": ids.bucket_of(turn_id)}
        await self._database.fetchrow(*SQL.give_up(**here, compaction_id=id_, error=said))

    async def give_up_chain(self, project_id: UUID, turn_id: UUID) -> None:
        """Give up the chains that continue from a turn: its next turns are rebuilt with the current memory."""
        reason = ContinuationReason.COMPACTED
        await self._database.fetchrow(*SQL.give_up_chain(**_at(project_id, turn_id), reason=reason))

    async def abandoned(self) -> list[Abandoned]:
        """Compactions whose worker is dead."""
        return await self._database.fetch(*SQL.abandoned())

    async def one(self, project_id: UUID, turn_id: UUID, id_: UUID) -> CompactionRow:
        """Raises NotFound: it was deleted."""
        for row in await self.on_branch(project_id, turn_id):
            if row["id"] == id_:
                return row
        raise NotFound("The compaction was deleted meanwhile, with something that it covers.", code="compaction_gone")


async def _readable(database: media.Reads, project_id: UUID, rows: Sequence[Any]) -> list[StoredItem]:
    """Return items of a branch, whole except media that are not read. Raises `ContentUnreadable`."""
    opened = [ITEMS.opened(project_id, row) for row in rows]
    with_media = [row for row in opened if row.get("with_media", True)]
    whole = iter(await media.restored_rows(database, project_id, with_media))
    found = [stored_item(next(whole) if row.get("with_media", True) else row) for row in opened]
    for kept, row in zip(found, rows, strict=True):
        if is_unreadable(kept.data):
            turn = ids.turn_id(row["turn_id"])
            raise ContentUnreadable(
                f"Item {kept.id} of turn {turn}",
                f"Delete the item, or fork the thread at a turn before {turn}.",
            )
    return found


def _place(claim: Claim) -> Place:
    return COMPACTIONS.at(claim.project_id, claim.turn_id, claim.id)


async def _run(session: AsyncSession, statement: Statement, **arguments: Any) -> Any:
    """A statement within a session's transaction: its first row."""
    return (await session.execute(statement.clause, arguments)).first()


def _at(project_id: UUID, turn_id: UUID) -> dict[str, Any]:
    return {"project_id": project_id, "bucket": ids.bucket_of(turn_id), "turn_id": turn_id}


def _of(claim: Claim) -> dict[str, Any]:
    return {"project_id": claim.project_id, "bucket": ids.bucket_of(claim.turn_id), "compaction_id": claim.id}

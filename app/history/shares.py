"""Links that show a conversation to whoever has them: up to one turn, until they expire or are taken back."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

from pydantic import Field
from sqlalchemy import delete, func, insert, or_, select
from typing_extensions import TypedDict

from app.db import ids
from app.db.engine import Database
from app.history.tables import Share
from app.http.bodies import WHOLE, Body, examples
from app.http.describing import Deleted, ItemObject
from app.http.errors import BadRequest, NotFound
from app.http.pages import Page, list_object
from app.items.stored import stored_item
from app.items.unreadable import is_unreadable, marked
from app.items.user_items import is_for_users
from app.projects.auth import Caller
from app.projects.tables import Project
from app.sealing import at_rest
from app.sealing.columns import rows_of
from app.sealing.content_keys import ContentKeys
from app.threads import store as threads
from app.threads.address import ById, ThreadAddress, unknown
from app.threads.schemas import TURN_ID
from app.threads.tables import Thread
from app.trail import contents
from app.trail.append import append_record
from app.turns.rows import ItemRow
from app.turns.service import Turns
from app.turns.store import TurnStore

SHOWN_ROLES = ("user", "assistant")
"""Roles whose messages are shown: neither the app's instructions nor tool calls."""

TURNS_AT_ONCE = 1000
"""On a page of a shared conversation."""

LONGEST_SECONDS = 315_360_000


class ShareCreate(Body):
    model_config = examples({"expires_in": 604_800})

    turn_id: Annotated[str | None, TURN_ID] = None
    """The last turn that is shown; the head as it is now, if left out."""
    expires_in: Annotated[int, Field(ge=60, le=LONGEST_SECONDS), WHOLE] | None = None
    """Seconds; never, if left out."""


class ShareObject(TypedDict):
    id: str
    object: Literal["share"]
    thread_id: str
    turn_id: str
    expires_at: int | None
    created_at: int


class ShareLink(ShareObject):
    path: str
    """Shown this once: who has it reads the conversation."""


class SharedThread(TypedDict):
    object: Literal["shared.thread"]
    title: str | None
    messages: list[ItemObject]
    next: int | None
    """The `after` of the next page."""
    has_more: bool
    unreadable: NotRequired[list[str]]
    """The fields that cannot be opened. Left out where there are none."""


class Shares:
    def __init__(self, database: Database, turns: Turns, store: TurnStore, content_keys: ContentKeys) -> None:
        self._content_keys = content_keys
        self._database = database
        self._turns = turns
        self._store = store

    async def create(self, caller: Caller, address: ThreadAddress, sent: ShareCreate) -> ShareLink:
        thread = await self._store.thread(caller.project_id, address)
        turn_id = thread["head_turn_id"]
        if sent.turn_id is not None:
            turn_id = (await self._turns.of_thread(caller, thread["id"], sent.turn_id))["id"]
        if turn_id is None:
            raise BadRequest("There is nothing to share yet: nothing has been said.", param="turn_id")
        bucket = ids.bucket_of(thread["id"])
        id_, secret, salt = ids.new_id(bucket), secrets.token_urlsafe(32), contents.new_salt()
        expires = None if sent.expires_in is None else func.now() + timedelta(seconds=sent.expires_in)
        async with self._database.session() as session:
            shared = await threads.get(session, caller.project_id, ById(thread["id"]))
            if shared is None:
                raise unknown(address)
            row_ = {"project_id": caller.project_id, "bucket": bucket, "id": id_, "thread_id": thread["id"]}
            given = {"turn_id": turn_id, "title": shared.title, "token_hash": _hash(secret), "expires_at": expires}
            made = insert(Share).values(rows_of(Share).written(at_rest.sealer(), {**row_, **given, "salt": salt}))
            row = (await session.execute(made.returning(Share))).scalar_one()
            await append_record(
                session, caller.actor, caller.project_id, "thread.shared", thread_id=thread["id"], turn_id=turn_id,
                detail=share_id(id_), content=contents.digest("share", salt, _covered(row)),
            )  # fmt: skip
        return {**_shown(row), "path": f"/v1/shared/{id_.hex}.{secret}"}

    async def listed(self, caller: Caller, address: ThreadAddress, page: Page) -> dict[str, Any]:
        """Return a page of the links to a thread.

        Raises:
            BadRequest: the cursor is the id of no link.
        """
        thread = await self._store.thread(caller.project_id, address)
        where = [
            Share.project_id == caller.project_id,
            Share.bucket == ids.bucket_of(thread["id"]),
            Share.thread_id == thread["id"],
        ]
        cursor, descending = page.scan()
        if cursor is not None:
            last = ids.parse(cursor, ("share",))
            if last is None:
                raise page.bad_cursor()
            where.append(Share.id < last if descending else Share.id > last)
        wanted = select(Share).where(*where).order_by(Share.id.desc() if descending else Share.id).limit(page.limit + 1)
        async with self._database.session() as session:
            rows, more = page.cut((await session.scalars(wanted)).all())
        return list_object(rows, _shown, has_more=more)

    async def take_back(self, caller: Caller, given: str) -> Deleted:
        id_ = ids.parse(given, ("share",))
        if id_ is None:
            raise _unknown(given)
        this = [Share.project_id == caller.project_id, Share.bucket == ids.bucket_of(id_), Share.id == id_]
        if (user := caller.grant.user) is not None:
            mine = (Thread.project_id == caller.project_id, Thread.bucket == ids.bucket_of(id_), Thread.user_id == user)
            this.append(Share.thread_id.in_(select(Thread.id).where(*mine)))
        if caller.grant.thread_id is not None:
            this.append(Share.thread_id == caller.grant.thread_id)
        async with self._database.session() as session:
            gone = await session.execute(delete(Share).where(*this).returning(Share.thread_id, Share.turn_id))
            row = gone.one_or_none()
            if row is None:
                raise _unknown(given)
            await append_record(
                session, caller.actor, caller.project_id, "thread.unshared", thread_id=row[0], turn_id=row[1],
                detail=share_id(id_),
            )  # fmt: skip
        return {"id": share_id(id_), "object": "share.deleted", "deleted": True}

    async def read(self, token: str, after: int) -> "SharedPage":
        """Return a page of the messages that a link shows.

        Args:
            after: the number of turns on the pages before. Their ids are not shown.

        Raises:
            NotFound: it is no link, it has expired or was taken back, or its project is archived.
        """
        digits, _, secret = token.partition(".")
        id_ = ids.parse(f"share_{digits}", ("share",))
        if id_ is None or not secret or len(secret) > 100 or not secret.isascii():
            raise _no_link()
        this = (Share.bucket == ids.bucket_of(id_), Share.token_hash == _hash(secret), Share.id == id_)
        lives = or_(Share.expires_at.is_(None), Share.expires_at > func.now())
        async with self._database.session() as session:
            project_id = await session.scalar(
                select(Share.project_id)
                .join(Project, Project.project_id == Share.project_id)
                .where(*this, lives, Project.archived_at.is_(None))
            )
        if project_id is None:
            raise _no_link()
        await self._content_keys.load(project_id)  # No key has told the project.
        async with self._database.session() as session:
            mine = (Share.project_id == project_id, *this, lives)
            share = (await session.scalars(select(Share).where(*mine))).one_or_none()
        if share is None:
            raise _no_link()
        branch = await self._store.page_of_turns(
            project_id, share.turn_id, cursor=None, latest_first=False, limit=after + TURNS_AT_ONCE + 1
        )
        turns = await self._store.on_a_page(project_id, branch[after : after + TURNS_AT_ONCE])
        items = await self._store.items(project_id, turns)
        rows = [row for turn_id in turns for row in items[turn_id] if _is_shown(row)]
        read = after + len(turns)
        return SharedPage(share, rows, read if read < len(branch) else None)


@dataclass(frozen=True, slots=True)
class SharedPage:
    share: Share
    """Its title is the one that the thread had when the link was made."""
    rows: list[ItemRow]
    next: int | None
    """The `after` of the next page."""

    def shown(self) -> dict[str, Any]:
        return {
            "object": "shared.thread",
            "title": self.share.title,
            "messages": [_said(row) for row in self.rows],
            "next": self.next,
            "has_more": self.next is not None,
            **marked(self.share),
        }


def _said(row: ItemRow) -> dict[str, Any]:
    kept = stored_item(row)
    if is_unreadable(kept.data):
        return {**kept.data}
    return {"type": "message", "role": kept.item["role"], "content": kept.item.get("content")}


def _is_shown(row: ItemRow) -> bool:
    data = row["data"]
    said = data.get("role") in SHOWN_ROLES and is_for_users(data)
    return row["type"] == "message" and (is_unreadable(data) or said)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def share_id(id_: UUID) -> str:
    return f"share_{id_.hex}"


def _covered(row: Share) -> dict[str, Any]:
    """Return the columns that the audit record covers."""
    return {name: getattr(row, name) for name in contents.FIELDS["share", contents.VERSION]}


def _shown(row: Share) -> ShareObject:
    return {
        "id": share_id(row.id),
        "object": "share",
        "thread_id": ids.thread_id(row.thread_id),
        "turn_id": ids.turn_id(row.turn_id),
        "expires_at": None if row.expires_at is None else int(row.expires_at.timestamp()),
        "created_at": int(row.created_at.timestamp()),
    }


def _unknown(given: str) -> NotFound:
    return NotFound(f"There is no link {given[:80]!r} in this project.", param="share_id", code="share_not_found")


def _no_link() -> NotFound:
    return NotFound(
        "This link shows nothing: it has expired, was taken back, or its project is archived.", code="share_not_found"
    )

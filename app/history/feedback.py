"""Feedback on turns: a score, a label, a comment; listed, and exported with the conversation so far."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

import orjson
from pydantic import Field, model_validator
from sqlalchemy import and_, delete, insert, select, tuple_
from typing_extensions import TypedDict

from app.db import ids
from app.db.engine import Database
from app.db.read_horizon import ReadHorizon
from app.history import messages
from app.history.tables import Feedback
from app.holds.doors import check_turn
from app.http.bodies import Body, examples
from app.http.describing import Deleted
from app.http.errors import NotFound
from app.http.pages import Page, list_object
from app.items.unreadable import ContentUnreadable, marked
from app.projects.auth import Caller
from app.sealing import at_rest
from app.sealing.columns import rows_of
from app.threads.address import ThreadAddress
from app.threads.schemas import User
from app.trail import contents
from app.trail.append import append_record
from app.turns.service import Turns
from app.turns.store import TurnStore
from app.turns.tables import Turn

EXPORTED_AT_ONCE = 100


class FeedbackCreate(Body):
    model_config = examples({"score": 1, "label": "helpful"})

    score: Annotated[float, Field(ge=-1, le=1)] | None = None
    """From -1 to 1."""
    label: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    comment: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    user: User | None = None
    """End user who gives the feedback."""

    @model_validator(mode="after")
    def _says_something(self) -> "FeedbackCreate":
        if self.score is None and self.label is None and self.comment is None:
            raise ValueError("send a 'score', a 'label' or a 'comment'")
        return self


class FeedbackObject(TypedDict):
    id: str
    object: Literal["feedback"]
    turn_id: str
    thread_id: str
    score: float | None
    label: str | None
    comment: str | None
    user: str | None
    created_at: int
    unreadable: NotRequired[list[str]]
    """The fields that cannot be opened. Left out where there are none."""


class Feedbacks:
    def __init__(self, database: Database, turns: Turns, store: TurnStore, horizon: ReadHorizon) -> None:
        self._database = database
        self._turns = turns
        self._store = store
        self._horizon = horizon

    async def add(self, caller: Caller, address: ThreadAddress, turn_id: str, sent: FeedbackCreate) -> FeedbackObject:
        turn = await self._turns.row(caller, address, turn_id)
        bucket = ids.bucket_of(turn["id"])
        given = {"score": sent.score, "label": sent.label, "comment": sent.comment, "user_id": sent.user}
        salt, id_ = contents.new_salt(), ids.new_id(bucket)
        row_ = {"project_id": caller.project_id, "bucket": bucket, "id": id_, "turn_id": turn["id"], "salt": salt}
        made = insert(Feedback).values(rows_of(Feedback).written(at_rest.sealer(), {**row_, **given}))
        async with self._database.session() as session:
            row = (await session.execute(made.returning(Feedback))).scalar_one()
            covered = {**given, "turn_id": turn["id"], "created_at": row.created_at}
            await append_record(
                session, caller.actor, caller.project_id, "feedback.given", thread_id=turn["thread_id"],
                turn_id=turn["id"], detail=feedback_id(row.id),
                content=contents.digest("feedback", salt, covered),
            )  # fmt: skip
        return _shown(row, turn["thread_id"])

    async def of_turn(self, caller: Caller, address: ThreadAddress, turn_id: str) -> dict[str, Any]:
        turn = await self._turns.row(caller, address, turn_id)
        mine = and_(
            Feedback.project_id == caller.project_id,
            Feedback.bucket == ids.bucket_of(turn["id"]),
            Feedback.turn_id == turn["id"],
        )
        async with self._database.session() as session:
            rows = (await session.scalars(select(Feedback).where(mine).order_by(Feedback.id))).all()
        return list_object(rows, lambda row: _shown(row, turn["thread_id"]), has_more=False)

    async def list_page(self, caller: Caller, label: str | None, page: Page) -> dict[str, Any]:
        """The project's feedback.

        Raises:
            BadRequest: the cursor is none of its ids.
        """
        cursor, descending = page.scan()
        order = (Feedback.created_at, Feedback.id)
        where = [Feedback.project_id == caller.project_id]
        if label is not None:
            where.append(Feedback.label == label)
        async with self._database.session() as session:
            if cursor is not None:
                found = ids.parse(cursor, ("feedback",))
                one = select(*order).where(
                    Feedback.project_id == caller.project_id,
                    Feedback.bucket == (0 if found is None else ids.bucket_of(found)),
                    Feedback.id == found,
                )
                place = None if found is None else (await session.execute(one)).one_or_none()
                if place is None:
                    raise page.bad_cursor()
                where.append(tuple_(*order) < tuple(place) if descending else tuple_(*order) > tuple(place))
            if not descending:
                where.append(Feedback.created_at < await self._horizon.until(session))
            by = [column.desc() if descending else column.asc() for column in order]
            rows, more = page.cut(await _with_threads(session, where, by, page.limit + 1))
        return list_object(rows, lambda row: _shown(*row), has_more=more)

    async def delete(self, caller: Caller, given: str) -> Deleted:
        id_ = ids.parse(given, ("feedback",))
        if id_ is None:
            raise _unknown(given)
        this = (
            Feedback.project_id == caller.project_id,
            Feedback.bucket == ids.bucket_of(id_),
            Feedback.id == id_,
        )
        async with self._database.session() as session:
            turn_id = await session.scalar(delete(Feedback).where(*this).returning(Feedback.turn_id))
            if turn_id is None:
                raise _unknown(given)
            await check_turn(session, caller, turn_id)
            of_id = (Turn.project_id == caller.project_id, Turn.bucket == ids.bucket_of(turn_id), Turn.id == turn_id)
            await append_record(
                session, caller.actor, caller.project_id, "feedback.deleted", turn_id=turn_id, detail=feedback_id(id_),
                thread_id=await session.scalar(select(Turn.thread_id).where(*of_id)),
            )  # fmt: skip
        return {"id": feedback_id(id_), "object": "feedback.deleted", "deleted": True}

    async def export(self, caller: Caller, label: str | None) -> AsyncIterator[bytes]:
        """Each with the conversation so far, one a line, the oldest first."""
        return self._lines(caller, label)

    async def _lines(self, caller: Caller, label: str | None) -> AsyncIterator[bytes]:
        last: tuple[Any, ...] | None = None
        while True:
            where = [Feedback.project_id == caller.project_id]
            if label is not None:
                where.append(Feedback.label == label)
            if last is not None:
                where.append(tuple_(Feedback.created_at, Feedback.id) > last)
            async with self._database.session() as session:
                by = [Feedback.created_at.asc(), Feedback.id.asc()]
                rows = await _with_threads(session, where, by, EXPORTED_AT_ONCE)
            for row, thread_id in rows:
                line: dict[str, Any] = {**_shown(row, thread_id)}
                latest_first = await self._store.page_of_turns(
                    caller.project_id, row.turn_id, cursor=None, latest_first=True, limit=None
                )
                turns = await self._store.on_a_page(caller.project_id, latest_first)
                items = await self._store.items(caller.project_id, turns)
                if len(turns) < len(latest_first):
                    line["earlier_turns"] = len(latest_first) - len(turns)
                try:
                    line["messages"] = messages.as_chat([item for turn in turns[::-1] for item in items[turn]])
                except ContentUnreadable:
                    line |= {"messages": None, "unreadable": [*line.get("unreadable", []), "messages"]}
                yield orjson.dumps(line) + b"\n"
            if len(rows) < EXPORTED_AT_ONCE:
                return
            last = (rows[-1][0].created_at, rows[-1][0].id)


async def _with_threads(session: Any, where: Any, by: Any, limit: int) -> list[tuple[Feedback, UUID]]:
    """Feedback, each with the thread of its turn."""
    of_turn = and_(Turn.project_id == Feedback.project_id, Turn.bucket == Feedback.bucket, Turn.id == Feedback.turn_id)
    found = select(Feedback, Turn.thread_id).join(Turn, of_turn).where(*where).order_by(*by).limit(limit)
    return [(row[0], row[1]) for row in (await session.execute(found)).all()]


def feedback_id(id_: UUID) -> str:
    return f"feedback_{id_.hex}"


def _shown(row: Feedback, thread_id: UUID) -> FeedbackObject:
    return {
        "id": feedback_id(row.id),
        "object": "feedback",
        "turn_id": ids.turn_id(row.turn_id),
        "thread_id": ids.thread_id(thread_id),
        "score": row.score,
        "label": row.label,
        "comment": row.comment,
        "user": row.user_id,
        "created_at": int(row.created_at.timestamp()),
        **marked(row),
    }


def _unknown(given: str) -> NotFound:
    return NotFound(
        f"There is no feedback {given[:80]!r} in this project.", param="feedback_id", code="feedback_not_found"
    )

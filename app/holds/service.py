"""Legal holds: placed, released, and listed."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.db.engine import Database
from app.holds.schemas import HoldCreate, HoldObject, HoldRelease, hold_id, hold_object
from app.holds.store import SQL
from app.holds.tables import Hold
from app.http.errors import Conflict, DatabaseUnavailable, NotFound
from app.http.pages import Page, list_object
from app.projects.auth import Caller
from app.projects.tables import Project
from app.sealing import at_rest
from app.sealing.columns import rows_of
from app.trail.append import append_record
from app.trail.records import Actor
from app.trail.users import UserKeys

MOST_ACTIVE = 1000
"""Largest number of active holds of a project. Each deletion checks all of them."""

LOCK_TRIES = 100
LOCK_NOT_AVAILABLE = "55P03"

T = TypeVar("T")


class Holds:
    def __init__(self, database: Database, users: UserKeys, released: Callable[[], None] = lambda: None) -> None:
        """Args: released: called after the release of a hold, to wake the cleaner."""
        self._database = database
        self._users = users
        self._released = released

    async def place(self, caller: Caller, sent: HoldCreate) -> HoldObject:
        """Place a hold. When this returns, no deletion that began before the hold is still running.

        Raises:
            NotFound: there is no such thread.
            Conflict: the project has too many active holds.
        """
        id_, project_id = ids.new_uuid(), caller.project_id
        values = {
            "project_id": project_id, "id": id_, "scope": sent.scope, "thread_id": sent.thread_id,
            "user_id": sent.user, "reason": sent.reason, "key_id": caller.key_id,
        }  # fmt: skip

        named = await self._named(project_id, sent.user)

        async def placed(session: AsyncSession) -> HoldObject:
            # Without this check, a request from before the archiving could place a hold during the key's destruction.
            if await session.scalar(select(Project.archived_at).where(Project.project_id == project_id)) is not None:
                raise Conflict("The project is archived.", code="project_archived")
            of_project = (Hold.project_id == project_id, Hold.released_at.is_(None))
            if (
                await session.execute(select(func.count()).select_from(Hold).where(*of_project))
            ).scalar_one() >= MOST_ACTIVE:
                raise Conflict(
                    f"The project has {MOST_ACTIVE} active holds, which is the limit. Release one, or hold a user "
                    "or the project.",
                    code="too_many_holds",
                )
            if sent.thread_id is not None:
                where = {"bucket": ids.bucket_of(sent.thread_id), "thread_id": sent.thread_id}
                if not await session.scalar(SQL.has_thread.clause, {"project_id": project_id, **where}):
                    raise NotFound(
                        f"There is no thread {ids.thread_id(sent.thread_id)}.",
                        param="thread_id",
                        code="thread_not_found",
                    )
            made = insert(Hold).values(rows_of(Hold).written(at_rest.sealer(), values)).returning(Hold)
            try:
                hold = (await session.execute(made)).scalar_one()
            except IntegrityError as error:
                if "holds_distributed_check" not in str(error.orig):
                    raise
                raise Conflict(
                    "Legal holds need a database on one Postgres server. They are not available on a Citus cluster.",
                    code="holds_unsupported",
                ) from error
            await self._record(session, caller.actor, "hold.placed", hold, named)
            return hold_object(hold)

        return await self._exclusively(project_id, placed)

    async def release(self, caller: Caller, given: str, sent: HoldRelease) -> HoldObject:
        """Release a hold. The cleaner then erases rows that no other hold covers.

        Raises:
            NotFound: there is no such hold.
            Conflict: it was released before.
        """
        id_ = _parsed(given)
        return await self.release_as(caller.actor, caller.project_id, id_, sent.reason)

    async def release_as(self, actor: Actor, project_id: UUID, id_: UUID, reason: str) -> HoldObject:
        place = rows_of(Hold).at(project_id, id_)
        values = {"released_by": actor.key_id, "release_reason": reason}
        written = rows_of(Hold).written(at_rest.sealer(), values, place)
        async with self._database.session() as session:
            row = await session.get(Hold, (project_id, id_))
        named = None if row is None else await self._named(project_id, row.user_id)

        async def released(session: AsyncSession) -> HoldObject:
            this = (Hold.project_id == project_id, Hold.id == id_)
            change = update(Hold).where(*this, Hold.released_at.is_(None))
            change = change.values(**written, released_at=func.clock_timestamp()).returning(Hold)
            hold = (await session.execute(change)).scalar_one_or_none()
            if hold is None:
                if await session.get(Hold, (project_id, id_)) is None:
                    raise _unknown(hold_id(id_))
                raise Conflict(f"The hold {hold_id(id_)} is already released.", code="hold_released")
            await self._record(session, actor, "hold.released", hold, named)
            return hold_object(hold)

        shown = await self._exclusively(project_id, released)
        self._released()
        return shown

    async def get(self, caller: Caller, given: str) -> HoldObject:
        return hold_object(await self.row(caller, given))

    async def row(self, caller: Caller, given: str) -> Hold:
        """Return a hold.

        Raises:
            NotFound: there is no such hold.
        """
        async with self._database.session() as session:
            hold = await session.get(Hold, (caller.project_id, _parsed(given)))
        if hold is None:
            raise _unknown(given)
        return hold

    async def list_page(self, caller: Caller, page: Page, *, active: bool | None) -> dict[str, Any]:
        """Return a page of holds.

        Raises:
            BadRequest: the cursor is the id of no hold.
        """
        where = [Hold.project_id == caller.project_id]
        if active is not None:
            where.append(Hold.released_at.is_(None) if active else Hold.released_at.is_not(None))
        cursor, descending = page.scan()
        if cursor is not None:
            place = ids.parse(cursor, ("hold",))
            if place is None:
                raise page.bad_cursor()
            where.append(Hold.id < place if descending else Hold.id > place)
        wanted = select(Hold).where(*where).order_by(Hold.id.desc() if descending else Hold.id).limit(page.limit + 1)
        async with self._database.session() as session:
            rows, more = page.cut((await session.scalars(wanted)).all())
        return list_object(rows, hold_object, has_more=more)

    async def _exclusively(self, project_id: UUID, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run a transaction under the exclusive lock of the project's holds, which excludes deletions.

        The lock is requested again and again with a short time-out: other deletions wait behind each request.

        Raises:
            DatabaseUnavailable: deletions have held the lock through all tries.
        """
        for tries_left in reversed(range(LOCK_TRIES)):
            try:
                async with self._database.session() as session:
                    await session.execute(SQL.short_waits.clause)
                    await session.execute(SQL.lock.clause, {"project_id": project_id})
                    return await work(session)
            except DatabaseUnavailable as error:
                if not tries_left or _sqlstate(error) != LOCK_NOT_AVAILABLE:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _named(self, project_id: UUID, user: str | None) -> bytes | None:
        """Return the digest that names a user in records.

        It is read before the lock: deletions that wait for the lock may have all connections.
        """
        return None if user is None else await self._users.digest(project_id, user)

    async def _record(self, session: AsyncSession, actor: Actor, action: Any, hold: Hold, named: bytes | None) -> None:
        """Write a record on the project's chain. A thread's own chain is for its user too, who must not learn of it."""
        target = ids.thread_id(hold.thread_id) if hold.thread_id is not None else hold.scope
        detail = f"{hold_id(hold.id)} on {target}"
        await append_record(session, actor, hold.project_id, action, user_digest=named, detail=detail)


def _parsed(given: str) -> UUID:
    id_ = ids.parse(given, ("hold",))
    if id_ is None:
        raise _unknown(given)
    return id_


def _sqlstate(error: DatabaseUnavailable) -> str | None:
    found: str | None = getattr(getattr(error.__cause__, "orig", None), "sqlstate", None)
    return found


def _unknown(given: str) -> NotFound:
    return NotFound(f"There is no hold {given[:80]!r} in this project.", param="hold_id", code="hold_not_found")

"""Retention: how long a project keeps contents, and the data of one end user."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from typing_extensions import TypedDict

from app.db import ids
from app.db.engine import Database
from app.holds.doors import check_user, knows_holds
from app.holds.schemas import hold_id
from app.holds.store import holds_on_user, minimum_of_user
from app.http.errors import BadRequest, Conflict, NotFound
from app.http.pages import list_object
from app.projects.auth import Caller
from app.projects.tables import Project
from app.projects.trail_records import record_project
from app.retention.certificate_file import Kind
from app.retention.certificates import Certificates, PurgeObject, user_purge_object
from app.retention.cleaner import Cleaner
from app.retention.preview import PurgePreview, Refusal, counted, remaining, snapshot
from app.retention.purge import Purge
from app.threads.address import ById
from app.threads.tables import Thread
from app.trail.append import append_record
from app.trail.records import MINIMUM_RETENTION, READS_RECORDED
from app.trail.users import UserKeys
from app.transfer.service import Transfer

THREADS_AT_ONCE = 100


class ProjectObject(TypedDict):
    id: str
    object: Literal["project"]
    name: str
    retention_days: int | None
    minimum_retention_days: int | None
    session_cache: str | None
    record_reads: str
    created_at: int


class Retention:
    def __init__(
        self,
        database: Database,
        users: UserKeys,
        purge: Purge,
        certificates: Certificates,
        cleaner: Cleaner,
        transfer: Transfer,
    ) -> None:
        self._certificates = certificates
        self._database = database
        self._users = users
        self._purge = purge
        self._cleaner = cleaner
        self._transfer = transfer

    async def project(self, caller: Caller) -> ProjectObject:
        async with self._database.session() as session:
            return _project_object(await session.get_one(Project, caller.project_id))

    async def change(self, caller: Caller, values: dict[str, Any]) -> ProjectObject:
        """Change for how many days content is kept (None: forever), whether contexts are cached, or whose reads are
        recorded.

        Raises:
            BadRequest: content would be purged before its minimum retention ends.
        """
        changed = update(Project).where(Project.project_id == caller.project_id).values(values)
        try:
            async with self._database.session() as session:
                former = (await session.get_one(Project, caller.project_id)).minimum_retention_days
                project = (await session.execute(changed.returning(Project))).scalar_one()
                await record_project(session, caller.actor, "project.changed", project, _said(values, former))
                shown = _project_object(project)
        except IntegrityError as error:
            if "projects_distributed_check" in str(error.orig):
                raise Conflict(
                    "A minimum retention needs a database on one Postgres. On a Citus cluster, nothing would be kept.",
                    code="holds_unsupported",
                ) from error
            if "projects_minimum_retention_check" not in str(error.orig):
                raise
            raise BadRequest(
                "'retention_days' must not be less than 'minimum_retention_days'. Change both in one request.",
                param="retention_days",
                code="below_minimum_retention",
            ) from error
        self._cleaner.wake()
        return shown

    async def preview(self, caller: Caller, user: str) -> PurgePreview:
        """Return what the purge of an end user's data would delete now, and what would remain.

        Callers who may not know of holds get the same answer with and without one.
        """
        async with self._database.session() as session:
            await snapshot(session)
            found = await counted(session, caller.project_id, user)
            holds = await holds_on_user(session, caller.project_id, user) if knows_holds(caller) else ()
            until = await minimum_of_user(session, caller.project_id, user)
        remains: list[dict[str, Any]] = [
            {"what": "held_rows", "hold": hold_id(each), "why": "A legal hold keeps them until its release."}
            for each in holds
        ]
        refused: Refusal | None = "user_held" if holds else None
        if until is not None:
            remains.append({"what": "kept_rows", "until": until, "why": "The project's minimum retention keeps them."})
            refused = refused or ("minimum_retention" if knows_holds(caller) else None)
        remains += self._certificates.remaining("user", found["at"])
        return {
            **found,
            "object": "user.purge.preview",
            "user": user,
            "at": int(found["at"].timestamp()),
            "refused": refused,
            "remains": [remaining(each) for each in remains],
        }

    async def forget_user(self, caller: Caller, user: str) -> PurgeObject:
        """Start the purge of an end user's data in the background, and return its progress."""
        async with self._database.session() as session:
            await check_user(session, caller, user)
        purge_id = await self._purge.begin_user(caller.actor, caller.project_id, user)
        self._cleaner.wake()
        return await self._shown(caller, purge_id)

    async def purge(self, caller: Caller, purge_id: str) -> PurgeObject:
        """Return the progress of a purge.

        Raises:
            NotFound: no purge has this id.
        """
        return await self._shown(caller, _parsed(purge_id))

    async def purges(self, caller: Caller, kind: Kind, limit: int) -> dict[str, Any]:
        """The latest purges of a kind, the newest first.

        Raises:
            Forbidden: the caller may not know of holds.
        """
        if kind == "hold":
            caller.check("audit")
        if kind == "user":
            rows = await self._purge.latest(caller.project_id, limit + 1)
            return list_object(rows[:limit], user_purge_object, has_more=len(rows) > limit)
        ends = await self._certificates.latest(caller.project_id, kind, limit + 1)
        return list_object(ends[:limit], lambda purged: purged.shown, has_more=len(ends) > limit)

    async def certificate(self, caller: Caller, purge_id: str) -> AsyncIterator[bytes]:
        """Return the erasure certificate of a purge as a file, in pieces.

        Raises:
            NotFound: no purge has this id.
            Conflict: it is not complete.
        """
        found = _parsed(purge_id)
        purged = await self._certificates.purged(caller.project_id, found, holds=True)
        if purged is None:
            shown = await self._shown(caller, found)
            raise Conflict(
                f"The purge {shown['id']} is not complete: {shown['threads_done']} of {shown['threads']} threads are "
                "deleted. Ask again later.",
                param="purge_id",
                code="purge_not_completed",
            )
        return _in_turns(await self._certificates.file(caller.project_id, purged))

    async def export_user(self, caller: Caller, user: str) -> AsyncIterator[bytes]:
        """Every thread of an end user, one a line, as `everthread import` takes them."""
        named = await self._users.digest(caller.project_id, user)
        async with self._database.session() as session:
            await append_record(session, caller.actor, caller.project_id, "user.exported", user_digest=named)
        return self._threads_of(caller, user)

    async def _threads_of(self, caller: Caller, user: str) -> AsyncIterator[bytes]:
        last = UUID(int=0)
        mine = select(Thread.id).where(Thread.project_id == caller.project_id, Thread.user_id == user)
        while True:
            async with self._database.session() as session:
                page = mine.where(Thread.id > last).order_by(Thread.id).limit(THREADS_AT_ONCE)
                thread_ids = list(await session.scalars(page))
            if not thread_ids:
                return
            for thread_id in thread_ids:
                try:
                    exported = await self._transfer.export(caller, ById(thread_id))
                except NotFound:
                    continue  # Deleted meanwhile.
                last_part = b""
                async for part in exported:
                    if last_part:
                        yield last_part
                    last_part = part
                yield last_part + b"\n"
            last = thread_ids[-1]

    async def _shown(self, caller: Caller, purge_id: UUID) -> PurgeObject:
        purge = await self._purge.get(caller.project_id, purge_id)
        if purge is not None:
            return user_purge_object(purge)
        purged = await self._certificates.purged(caller.project_id, purge_id, holds=knows_holds(caller))
        if purged is None:
            raise _unknown_purge(ids.purge_id(purge_id))
        return purged.shown


def _parsed(purge_id: str) -> UUID:
    found = ids.parse(purge_id, ("purge",))
    if found is None:
        raise _unknown_purge(purge_id)
    return found


def _unknown_purge(purge_id: str) -> NotFound:
    return NotFound(f"There is no purge {purge_id[:80]!r} in this project.", param="purge_id", code="purge_not_found")


async def _in_turns(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield parts, with other requests served between them."""
    for part in parts:
        yield part
        await asyncio.sleep(0)


def _said(values: dict[str, Any], former_minimum: int | None) -> str:
    """Return the names of changed settings, and the values of those by which the trail must be read."""
    minimum = values.get("minimum_retention_days") or "none"
    shown = {
        "record_reads": f"{READS_RECORDED}{values.get('record_reads')}",
        "minimum_retention_days": f"{MINIMUM_RETENTION}{former_minimum or 'none'} to {minimum}",
    }
    return ", ".join(shown.get(name, name) for name in values)


def _project_object(project: Project) -> ProjectObject:
    return {
        "id": ids.project_id(project.project_id),
        "object": "project",
        "name": project.name,
        "retention_days": project.retention_days,
        "minimum_retention_days": project.minimum_retention_days,
        "session_cache": project.session_cache,
        "record_reads": project.record_reads,
        "created_at": int(project.created_at.timestamp()),
    }

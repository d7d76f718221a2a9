"""The keys that hosts may sign checkpoints with, so that no host signs with an unknown key.

This list is no ground for trust: whoever can write to the database can write to it. A reader pins a key outside, and
verifies with that.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.tables import AuditKey
from app.db.engine import Database
from app.projects.tables import Project
from app.trail.append import append_record
from app.trail.records import SERVICE, Action


class NotListed(Exception):
    """A host has a key that the database does not list, or that was retired."""


async def admit(database: Database, public_key: bytes) -> None:
    """Let a host sign. The first key of a database is listed by its first host.

    Raises:
        NotListed: there are other keys, and this is none of them.
    """
    async with _changing(database) as session:
        if await session.scalar(select(AuditKey.public_key).limit(1)) is None:
            await _add(session, public_key)
        retired = select(AuditKey.retired_at.is_not(None)).where(AuditKey.public_key == public_key)
        found = await session.scalar(retired)
    if found is None or found:
        raise NotListed(public_key.hex())


async def add(database: Database, public_key: bytes) -> None:
    """List a key, or take back that it was retired."""
    async with _changing(database) as session:
        await _add(session, public_key)


async def retire(database: Database, public_key: bytes) -> bool:
    """No host may sign with a key any more; what it has signed stays signed. False if it is not listed."""
    async with _changing(database) as session:
        mine = (AuditKey.public_key == public_key, AuditKey.retired_at.is_(None))
        gone = update(AuditKey).where(*mine).values(retired_at=func.now()).returning(AuditKey.public_key)
        if await session.scalar(gone) is None:
            return False
        await _tell(session, "audit.key_retired", public_key)
    return True


async def listed(database: Database) -> list[tuple[bytes, datetime, datetime | None]]:
    """Every key, when it was listed, and when it was retired, if it was."""
    async with database.session() as session:
        columns = select(AuditKey.public_key, AuditKey.added_at, AuditKey.retired_at).order_by(AuditKey.added_at)
        return [(row.public_key, row.added_at, row.retired_at) for row in await session.execute(columns)]


@asynccontextmanager
async def _changing(database: Database) -> AsyncIterator[AsyncSession]:
    """A transaction in which nobody else changes the list."""
    async with database.session() as session:
        await session.execute(select(func.pg_advisory_xact_lock(func.hashtext("everthread audit keys"))))
        yield session


async def _add(session: AsyncSession, public_key: bytes) -> None:
    made = insert(AuditKey).values(public_key=public_key)
    again = made.on_conflict_do_update(index_elements=[AuditKey.public_key], set_={"retired_at": None})
    await session.execute(again)
    await _tell(session, "audit.key_added", public_key)


async def _tell(session: AsyncSession, action: Action, public_key: bytes) -> None:
    """The trail of every project has it."""
    projects: list[UUID] = list(await session.scalars(select(Project.project_id).order_by(Project.project_id)))
    for project_id in projects:
        await append_record(session, SERVICE, project_id, action, detail=public_key.hex())

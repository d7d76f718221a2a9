"""A project's contents encrypted at rest, from some moment on; and its key destroyed."""

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.projects.tables import Project
from app.projects.trail_records import record_project
from app.sealing.project_cipher import ProjectCipher
from app.trail.records import Action, Actor
from app.trail.tables import AuditRecord

KEY_DESTROYED = "The project's key was destroyed: nobody can read what it holds, and it stays archived."

ENCRYPTED: Action = "project.encrypted"

MOST_AFTER_RECORD = timedelta(minutes=1)
"""The longest time from its record to the start of sealing. Anything later is a change by hand: `content_keys.py`."""

SOON = timedelta(seconds=10)
"""Until contents are written sealed, every worker has looked the project up: see `auth.CACHE_SECONDS`."""


async def encrypt_from_now(
    session: AsyncSession, cipher: ProjectCipher, actor: Actor, project: Project, *, wait: timedelta = timedelta()
) -> None:
    """Write the project's contents sealed from a moment on. Its row is new, or locked."""
    await cipher.key(session, project.project_id)
    project.encrypted_at = await session.scalar(select(func.now() + wait))
    await record_project(session, actor, ENCRYPTED, project, project.name)


async def restore_encrypted_at(session: AsyncSession, actor: Actor, project: Project) -> bool:
    """Set `encrypted_at` back to what the audit trail tells, if it was changed by hand. False if it was not.

    Its row is locked.
    """
    chain = (AuditRecord.project_id == project.project_id, AuditRecord.chain_id == project.project_id)
    told = await session.scalar(select(func.min(AuditRecord.at)).where(*chain, AuditRecord.action == ENCRYPTED))
    if told is None:
        return False
    kept = select(Project.encrypted_at <= told + MOST_AFTER_RECORD).where(Project.project_id == project.project_id)
    if await session.scalar(kept):
        return False
    project.encrypted_at = told
    await record_project(session, actor, "project.changed", project, "encrypted_at")
    return True


async def destroy_key(session: AsyncSession, cipher: ProjectCipher, actor: Actor, project: Project) -> None:
    """Delete the key that an archived project's contents are sealed with. Its row is locked."""
    await cipher.destroy(session, project.project_id)
    project.key_destroyed_at = await session.scalar(select(func.now()))
    # Without the project's name: the record is in the erasure certificate.
    await record_project(session, actor, "project.key_destroyed", project)

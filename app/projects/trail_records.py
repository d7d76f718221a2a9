"""Audit records of projects and API keys, with a digest of what each is after the change."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.projects.tables import ApiKey, Project
from app.trail import contents
from app.trail.append import append_record
from app.trail.records import Action, Actor


async def record_project(
    session: AsyncSession, actor: Actor, action: Action, project: Project, detail: str | None = None
) -> None:
    """Append a change of a project to its chain."""
    await _record(session, actor, action, "project", project, detail)


async def record_key(session: AsyncSession, actor: Actor, action: Action, key: ApiKey, detail: str) -> None:
    """Append a change of a key to its project's chain.

    Args:
        detail: begins with the key's id: verification finds the key by it.
    """
    await _record(session, actor, action, "key", key, detail)


async def _record(
    session: AsyncSession, actor: Actor, action: Action, kind: contents.Kind, row: Project | ApiKey, detail: str | None
) -> None:
    # With a new salt for each record, former values cannot be guessed from earlier records.
    row.salt = contents.new_salt()
    await session.flush()
    await session.refresh(row)  # As it lies in the table.
    values = {name: getattr(row, name) for name in contents.FIELDS[kind, contents.VERSION]}
    content = contents.digest(kind, row.salt, values)
    await append_record(session, actor, row.project_id, action, detail=detail, content=content)

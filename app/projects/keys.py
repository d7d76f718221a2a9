"""API keys: made once, shown once, hashed at rest; what each may do, and until when."""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args
from uuid import UUID

from sqlalchemy import ColumnElement, exists, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import func

from app.db.engine import Database
from app.db.ids import new_uuid
from app.projects.encryption import encrypt_from_now
from app.projects.tables import ApiKey, ClaimedAudience, Project
from app.projects.trail_records import record_key, record_project
from app.sealing.project_cipher import ProjectCipher
from app.trail import contents
from app.trail.records import SERVICE, Action, Actor
from app.trail.users import new_trail_key

DEFAULT_PROJECT = "default"
"""The project of who runs the service: its admins manage all of it."""

Scope = Literal["read", "write", "audit", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
USUAL: tuple[Scope, ...] = ("read", "write", "audit")
"""Default scopes of a key."""


def new_key() -> str:
    """A key of 256 random bits."""
    return f"et_{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> bytes:
    """Return the hash that is stored of a key. Keys are random, so a plain SHA-256 is enough."""
    return hashlib.sha256(key.encode()).digest()


def hint(key: str) -> str:
    return f"{key[:7]}…" if len(key) >= 20 else "…"


def key_id(id_: UUID) -> str:
    return f"key_{id_.hex}"


async def ensure_first_key(
    database: Database, bootstrap_key: str | None, encrypted_by: ProjectCipher | None = None
) -> str | None:
    """Give a database its first key, which may do everything.

    Args:
        encrypted_by: see `add_project`.
        bootstrap_key: the key to have, or None to make one where there is none yet.

    Returns:
        The key if it was made here: it cannot be shown again.
    """
    project_id = await ensure_project(database, DEFAULT_PROJECT, encrypted_by)
    key = new_key() if bootstrap_key is None else bootstrap_key
    async with database.session() as session:
        if bootstrap_key is None and await session.scalar(select(ApiKey.id).limit(1)) is not None:
            return None
        name = "first" if bootstrap_key is None else "bootstrap"
        await add_key(session, SERVICE, project_id, key, name=name, scopes=SCOPES)
    return None if bootstrap_key is not None else key


async def ensure_project(database: Database, name: str, encrypted_by: ProjectCipher | None = None) -> UUID:
    """The project of a name, which is made if it is not there: see `add_project`."""
    async with database.session() as session:
        await add_project(session, SERVICE, name, encrypted_by)
        found = await session.scalar(select(Project.project_id).where(Project.name == name))
        assert found is not None
        return found


async def add_project(
    session: AsyncSession, actor: Actor, name: str, encrypted_by: ProjectCipher | None = None
) -> Project | None:
    """A new project; None if there is one of this name.

    Args:
        encrypted_by: where its key is, if its contents are to be encrypted.
    """
    values = {
        "project_id": new_uuid(),
        "name": name,
        "trail_key": new_trail_key(),
        "operates": name == DEFAULT_PROJECT,
        "salt": contents.new_salt(),
    }
    made = insert(Project).values(values).on_conflict_do_nothing().returning(Project)
    project = (await session.execute(made)).scalar_one_or_none()
    if project is not None:
        await record_project(session, actor, "project.created", project, name)
        if encrypted_by is not None:
            await encrypt_from_now(session, encrypted_by, actor, project)
    return project


async def set_archived(session: AsyncSession, actor: Actor, project: Project, *, archived: bool) -> bool:
    """Take none of a project's keys any more, or take them again. False if it is so already."""
    if archived == (project.archived_at is not None):
        return False
    project.archived_at = datetime.now(UTC) if archived else None
    action: Action = "project.archived" if archived else "project.restored"
    await record_project(session, actor, action, project, project.name)
    return True


async def add_key(
    session: AsyncSession,
    actor: Actor,
    project_id: UUID,
    key: str,
    *,
    name: str,
    scopes: Sequence[str] = USUAL,
    expires_at: datetime | None = None,
    limits: dict[str, Any] | None = None,
    subject: str | None = None,
) -> ApiKey | None:
    """Keep a key's hash. One that is already there stays as it is, revoked or not, and None is returned."""
    id_ = new_uuid()
    values = {
        "project_id": project_id,
        "id": id_,
        "name": name,
        "key_hash": hash_key(key),
        "hint": hint(key) if subject is None else "",
        "subject": subject,
        "scopes": [scope for scope in SCOPES if scope in scopes],
        "expires_at": expires_at,
        "limits": limits or {},
        "salt": contents.new_salt(),
    }
    made = insert(ApiKey).values(values).on_conflict_do_nothing().returning(ApiKey)
    row = (await session.execute(made)).scalar_one_or_none()
    if row is not None:
        said = f"{key_id(id_)} {','.join(row.scopes)} {name}"
        await record_key(session, actor, "key.created", row, said)
    return row


async def rotate_key(
    session: AsyncSession, actor: Actor, project_id: UUID, id_: UUID, key: str, *, overlap: timedelta
) -> ApiKey | None:
    """A new key in the place of one, with all that it may do. The one before is taken for the overlap still.

    Returns:
        The new key; None if there is none of this id that is taken now.
    """
    last_moment = func.least(ApiKey.expires_at, func.now() + overlap)
    ending = update(ApiKey).where(*_is_taken(project_id, id_)).values(expires_at=last_moment)
    # The new key keeps the expiry: a rotation must not prolong access.
    until = await session.scalar(select(ApiKey.expires_at).where(*_is_taken(project_id, id_)).with_for_update())
    former = (await session.execute(ending.returning(ApiKey))).scalar_one_or_none()
    if former is None:
        return None
    made = await add_key(
        session,
        actor,
        project_id,
        key,
        name=former.name,
        scopes=former.scopes,
        expires_at=until,
        limits=former.limits,
    )
    assert made is not None
    said = f"{key_id(id_)} -> {key_id(made.id)} {former.name}"
    await record_key(session, actor, "key.rotated", former, said)
    return made


async def revoke_key(session: AsyncSession, actor: Actor, id_: UUID, project_id: UUID | None = None) -> bool:
    """Revoke a key. Workers that have it cached refuse it within `auth.CACHE_SECONDS`.

    Args:
        project_id: whose key it must be; None: anybody's.
    """
    of_project = [] if project_id is None else [ApiKey.project_id == project_id]
    revoked = update(ApiKey).where(ApiKey.id == id_, ApiKey.revoked_at.is_(None), *of_project)
    row = (await session.scalars(revoked.values(revoked_at=func.now()).returning(ApiKey))).one_or_none()
    if row is not None:
        await record_key(session, actor, "key.revoked", row, f"{key_id(id_)} {row.name}")
    return row is not None


async def list_keys(session: AsyncSession, project_id: UUID | None = None) -> list[tuple[str, ApiKey]]:
    """Every key, or every one of a project, with its project's name; oldest first."""
    wanted = select(Project.name, ApiKey).join(Project, Project.project_id == ApiKey.project_id).order_by(ApiKey.id)
    if project_id is not None:
        wanted = wanted.where(ApiKey.project_id == project_id)
    return [row._tuple() for row in await session.execute(wanted)]


def _is_taken(project_id: UUID, id_: UUID) -> tuple[ColumnElement[bool], ...]:
    now = func.now()
    of_provider = (ClaimedAudience.project_id == project_id, ClaimedAudience.key_id == id_)
    return (
        ~exists().where(*of_provider),  # Nobody uses the text of such a key: a new one would only end the JWTs.
        ApiKey.project_id == project_id,
        ApiKey.id == id_,
        ApiKey.revoked_at.is_(None),
        ApiKey.subject.is_(None),
        or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now),
    )

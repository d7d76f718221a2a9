"""API keys: made once, shown once, hashed at rest."""

import hashlib
import secrets
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import func

from app.db.engine import Database
from app.db.ids import new_uuid
from app.projects.tables import ApiKey, Project
from app.trail.append import append_record
from app.trail.records import SERVICE
from app.trail.users import new_trail_key

DEFAULT_PROJECT = "default"

# The project that a key opens. That it is used is written down once an hour, however many workers see it.
USE_KEY = """
WITH key AS (
    SELECT project_id, id, last_used_at FROM api_keys WHERE key_hash = $1 AND revoked_at IS NULL
), used AS (
    UPDATE api_keys k SET last_used_at = now() FROM key
    WHERE k.project_id = key.project_id AND k.id = key.id
        AND (k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 hour')
    RETURNING k.project_id, k.id, k.name
)
SELECT key.project_id, key.id, used.name AS first_use, p.session_cache
FROM key JOIN projects p ON p.project_id = key.project_id LEFT JOIN used ON true
"""


def new_key() -> str:
    """A key of 256 random bits."""
    return f"et_{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> bytes:
    """What is kept of a key. Keys are random, so that a plain SHA-256 is enough."""
    return hashlib.sha256(key.encode()).digest()


def hint(key: str) -> str:
    return f"{key[:7]}…" if len(key) >= 20 else "…"


async def ensure_first_key(database: Database, bootstrap_key: str | None) -> str | None:
    """Give a database its first key.

    Args:
        bootstrap_key: the key to have, or None to make one where there is none yet.

    Returns:
        The key if it was made here: it cannot be shown again.
    """
    project_id = await ensure_project(database, DEFAULT_PROJECT)
    if bootstrap_key is not None:
        await add_key(database, project_id, "bootstrap", bootstrap_key)
        return None
    async with database.session() as session:
        if await session.scalar(select(ApiKey.id).limit(1)) is not None:
            return None
    key = new_key()
    await add_key(database, project_id, "first", key)
    return key


async def ensure_project(database: Database, name: str) -> UUID:
    async with database.session() as session:
        made = (
            insert(Project).values(project_id=new_uuid(), name=name, trail_key=new_trail_key()).on_conflict_do_nothing()
        )
        await session.execute(made)
        found = await session.scalar(select(Project.project_id).where(Project.name == name))
        assert found is not None
        return found


async def add_key(database: Database, project_id: UUID, name: str, key: str) -> None:
    """Keep a key's hash. A key that is already there stays as it is, revoked or not."""
    values = {"project_id": project_id, "id": new_uuid(), "name": name, "key_hash": hash_key(key), "hint": hint(key)}
    async with database.session() as session:
        made = insert(ApiKey).values(values).on_conflict_do_nothing().returning(ApiKey.id)
        id_ = await session.scalar(made)
        if id_ is not None:
            await append_record(session, SERVICE, project_id, "key.created", detail=f"key_{id_.hex} {name}")


async def list_keys(database: Database) -> list[tuple[str, UUID, str, str, datetime, datetime | None]]:
    """Every key as (project, id, name, hint, created, revoked), oldest first."""
    columns = (Project.name, ApiKey.id, ApiKey.name, ApiKey.hint, ApiKey.created_at, ApiKey.revoked_at)
    async with database.session() as session:
        rows = await session.execute(
            select(*columns).join(Project, Project.project_id == ApiKey.project_id).order_by(ApiKey.id)
        )
        return [row._tuple() for row in rows]


async def revoke_key(database: Database, key_id: UUID) -> bool:
    """Revoke a key. Workers that have it cached refuse it within `auth.CACHE_SECONDS`."""
    async with database.session() as session:
        revoked = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)).values(revoked_at=func.now())
        row = (await session.execute(revoked.returning(ApiKey.project_id, ApiKey.name))).one_or_none()
        if row is not None:
            await append_record(session, SERVICE, row.project_id, "key.revoked", detail=f"key_{key_id.hex} {row.name}")
        return row is not None

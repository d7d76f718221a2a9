"""Stored presets of projects and user tokens. In an encrypted project they are sealed.

A token names its preset by an id: everyone who has the token can read it, but not the preset.
"""

import hashlib
from collections.abc import Sequence
from uuid import UUID

import orjson
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import func

from app.db.engine import Database
from app.http.errors import Unauthorized
from app.items.unreadable import ContentUnreadable
from app.projects.auth import BEARER, Caller
from app.projects.presets import UserPreset
from app.projects.tables import Project, StoredPreset
from app.sealing import at_rest
from app.sealing.at_rest import ContentCipher
from app.sealing.columns import rows_of
from app.sealing.content_keys import ContentKeys

KEPT_SECONDS = 86_400
"""Time for which a token's preset is stored longer than needed, so that equal presets are seldom written."""


class UserPresets:
    def __init__(self, database: Database, content_keys: ContentKeys, key: bytes) -> None:
        """Args: key: the database's own, that other keys are made of."""
        self._database = database
        self._content_keys = content_keys
        self._key = hashlib.blake2b(b"presets of user tokens", key=key, digest_size=32).digest()

    async def of(self, caller: Caller) -> list[UserPreset]:
        """Return the presets of a user token's project and of the token itself.

        Raises:
            APIError: one of them is not there, or cannot be read: nothing is done without it.
        """
        wanted = [id_ for id_ in (caller.project_id, caller.grant.preset_id) if id_ is not None]
        async with self._database.session() as session:
            found = {row.id: read(row) for row in await _rows(session, caller.project_id, wanted)}
        if len(wanted) > 1 and wanted[1] not in found:
            raise Unauthorized("The preset of this token is not stored any more.", headers=BEARER)
        return [found[id_] for id_ in wanted if id_ in found]

    async def keep_for_token(self, caller: Caller, preset: UserPreset, expires_at: int) -> UUID:
        """Store the preset of a token until the token has expired. Returns its id: equal presets have the same one."""
        content = orjson.dumps(preset.stored(), option=orjson.OPT_SORT_KEYS)
        of_project = caller.project_id.bytes + content
        id_ = UUID(bytes=hashlib.blake2b(of_project, key=self._key, digest_size=16).digest())
        async with self._database.session() as session:
            row = _row(at_rest.sealer(), caller.project_id, id_, preset)
            kept = insert(StoredPreset).values({**row, "expires_at": func.to_timestamp(expires_at + KEPT_SECONDS)})
            longer = kept.on_conflict_do_update(
                index_elements=[StoredPreset.project_id, StoredPreset.id],
                set_={"expires_at": kept.excluded.expires_at},
                where=StoredPreset.expires_at < func.to_timestamp(expires_at),
            )
            await session.execute(longer)
        return id_

    async def set_of_project(self, session: AsyncSession, project: Project, preset: UserPreset | None) -> None:
        """Replace or delete a project's preset. The project's row is locked."""
        here = (StoredPreset.project_id == project.project_id, StoredPreset.id == project.project_id)
        await session.execute(delete(StoredPreset).where(*here).execution_options(synchronize_session=False))
        if preset is not None:
            sealer = await self._content_keys.sealer(project.project_id)
            row = _row(sealer, project.project_id, project.project_id, preset)
            await session.execute(insert(StoredPreset).values(row))

    async def of_project(self, session: AsyncSession, project_id: UUID) -> dict[str, object] | None:
        """Return a project's preset as it is shown to its admins."""
        await self._content_keys.try_to_load(project_id)
        rows = await _rows(session, project_id, [project_id])
        return rows[0].preset if rows else None


def read(row: StoredPreset) -> UserPreset:
    """Return a stored preset. Raises `ContentUnreadable`."""
    return preset_of(row.preset, unreadable="preset" in row.unreadable)


def preset_of(stored: object, *, unreadable: bool) -> UserPreset:
    """Return the preset that was stored.

    Raises:
        ContentUnreadable: it cannot be opened. Nothing is sent to a model without it.
    """
    if unreadable:
        raise ContentUnreadable("A preset", "Set it again, with a key.")
    return UserPreset.model_validate(stored)


async def _rows(session: AsyncSession, project_id: UUID, ids: Sequence[UUID]) -> Sequence[StoredPreset]:
    wanted = select(StoredPreset).where(StoredPreset.project_id == project_id, StoredPreset.id.in_(ids))
    return (await session.scalars(wanted)).all()


def _row(sealer: ContentCipher, project_id: UUID, id_: UUID, preset: UserPreset) -> dict[str, object]:
    values = {"project_id": project_id, "id": id_, "preset": preset.stored()}
    return rows_of(StoredPreset).written(sealer, values)

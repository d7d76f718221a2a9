"""Stored presets of projects and user tokens. In an encrypted project they are sealed.

A token, and the settings of a project, name a preset by an id. Everyone who has the token can read the id, but not the
preset.
"""

import hashlib
from datetime import timedelta
from uuid import UUID

import orjson
from sqlalchemy import update
from sqlalchemy.dialects.postgresql import Insert, insert
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

KEY = ("project_id", "id")

MOST_READ = 500

FORMER_KEPT = timedelta(days=2)
"""Time for which the former preset of a project is stored: workers may read it once more, and tokens may have it."""

KEPT_SECONDS = 86_400
"""Time for which a token's preset is stored longer than needed, so that equal presets are seldom written."""


class UserPresets:
    def __init__(self, database: Database, content_keys: ContentKeys, key: bytes) -> None:
        """Args: key: the database's own key, which other keys are derived from."""
        self._database = database
        self._content_keys = content_keys
        self._key = hashlib.blake2b(b"presets of users", key=key, digest_size=32).digest()
        self._read: dict[UUID, UserPreset] = {}
        """Cache of presets, which never change under their ids."""

    async def of(self, caller: Caller) -> list[UserPreset]:
        """Return the presets of a user token's project and of the token itself.

        Raises:
            APIError: one of them is missing or cannot be read. The request is then refused.
        """
        of_project = caller.grant.settings.user_preset_id
        wanted = [None if of_project is None else UUID(of_project), caller.grant.preset_id]
        return [self._read.get(id_) or await self._looked_up(caller, id_) for id_ in wanted if id_ is not None]

    async def _looked_up(self, caller: Caller, id_: UUID) -> UserPreset:
        async with self._database.session() as session:
            row = await session.get(StoredPreset, (caller.project_id, id_))
            if row is None:
                raise Unauthorized("A preset of this token is not stored any more.", headers=BEARER)
            found = preset_of(row.preset, unreadable="preset" in row.unreadable)
        if len(self._read) >= MOST_READ:
            self._read.clear()
        self._read[id_] = found
        return found

    async def keep_for_token(self, caller: Caller, preset: UserPreset, expires_at: int) -> UUID:
        """Store the preset of a token until the token has expired. Returns its id."""
        async with self._database.session() as session:
            kept = self._insert(at_rest.sealer(), caller.project_id, preset, expires_at + KEPT_SECONDS)
            longer = kept.on_conflict_do_update(
                index_elements=KEY,
                set_={"expires_at": kept.excluded.expires_at},
                where=StoredPreset.expires_at < func.to_timestamp(expires_at),
            )
            await session.execute(longer)
        return self._id(caller.project_id, preset)

    async def replace(self, session: AsyncSession, project: Project, preset: UserPreset | None) -> str | None:
        """Store the new preset of a project, whose row is locked. Returns its id. The former one is deleted later."""
        if (former := project.settings.get("user_preset_id")) is not None:
            of_project = (StoredPreset.project_id == project.project_id, StoredPreset.id == UUID(former))
            ends = update(StoredPreset).where(*of_project).values(expires_at=func.now() + FORMER_KEPT)
            await session.execute(ends.execution_options(synchronize_session=False))
        if preset is None:
            return None
        sealer = await self._content_keys.sealer(project.project_id)
        kept = self._insert(sealer, project.project_id, preset, None)
        await session.execute(kept.on_conflict_do_update(index_elements=KEY, set_={"expires_at": None}))
        return self._id(project.project_id, preset).hex

    async def of_project(self, session: AsyncSession, project: Project) -> dict[str, object] | None:
        """Return a project's preset as it is shown to its admins."""
        id_ = project.settings.get("user_preset_id")
        if id_ is None:
            return None
        await self._content_keys.try_to_load(project.project_id)
        row = await session.get(StoredPreset, (project.project_id, UUID(id_)))
        return None if row is None else row.preset

    def _id(self, project_id: UUID, preset: UserPreset) -> UUID:
        """Return the id of a preset: equal presets of a project have the same id, which reveals nothing about them."""
        content = project_id.bytes + orjson.dumps(preset.stored(), option=orjson.OPT_SORT_KEYS)
        return UUID(bytes=hashlib.blake2b(content, key=self._key, digest_size=16).digest())

    def _insert(self, sealer: ContentCipher, project_id: UUID, preset: UserPreset, expires_at: int | None) -> Insert:
        values = {"project_id": project_id, "id": self._id(project_id, preset), "preset": preset.stored()}
        ends = None if expires_at is None else func.to_timestamp(expires_at)
        return insert(StoredPreset).values({**rows_of(StoredPreset).written(sealer, values), "expires_at": ends})


def preset_of(stored: object, *, unreadable: bool) -> UserPreset:
    """Return the preset that was stored.

    Raises:
        ContentUnreadable: it cannot be opened. Nothing is sent to a model without it.
    """
    if unreadable:
        raise ContentUnreadable("A preset", "Set it again, with a key.")
    return UserPreset.model_validate(stored)

"""The keys of projects that encrypt their contents, at hand in this process."""

from dataclasses import dataclass
from uuid import UUID

import structlog

from app.db import sealed, wall
from app.db.engine import Database
from app.db.sealed import CannotOpen
from app.sealing.at_rest import PLAIN, ContentKey, Sealer
from app.sealing.vault import Vault

log = structlog.get_logger()

STATE = """
SELECT encrypted_at IS NOT NULL AS encrypted, coalesce(encrypted_at <= now(), false) AS seals,
    key_destroyed_at IS NOT NULL AS destroyed
FROM projects WHERE project_id = $1
"""


@dataclass(frozen=True, slots=True)
class State:
    """How a project's contents are kept."""

    encrypted: bool
    """They have a key, and some may be sealed by it."""
    seals: bool
    """It is time to seal what is written."""
    destroyed: bool
    """The key is gone for good."""


async def state_of(database: Database, project_id: UUID) -> State:
    """That of a project, looked up now; of one that is not there, that of an open one."""
    with wall.across_projects():
        row = await database.fetchrow(STATE, project_id)
    return State(False, False, False) if row is None else State(row["encrypted"], row["seals"], row["destroyed"])


class ContentKeys:
    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._keys: dict[UUID, ContentKey] = {}

    async def sealer(self, project_id: UUID) -> Sealer:
        """How contents are written for a project, looked up now: for work beside any request.

        Raises:
            CannotOpen: the project's key cannot be had.
        """
        state = await state_of(self._database, project_id)
        if state.destroyed:
            sealed.know_destroyed(project_id)
            self._keys.pop(project_id, None)
            return PLAIN
        return await self.sealer_of(project_id, encrypted=state.encrypted, seals=state.seals)

    async def sealer_of(self, project_id: UUID, *, encrypted: bool, seals: bool) -> Sealer:
        """The same, where it is known that the project has a key for its contents, and whether it is time to seal."""
        if not encrypted:
            return PLAIN
        key = self._keys.get(project_id) or await self._load(project_id)
        return Sealer(key) if seals else PLAIN

    async def load(self, project_id: UUID) -> None:
        """Have the key of a project at hand whose sealed contents were met: `Database.load_key`.

        Raises:
            CannotOpen: it cannot be had.
        """
        await self.sealer(project_id)

    async def _load(self, project_id: UUID) -> ContentKey:
        found = await self._vault.keys(project_id)
        if not found:
            log.error("a project's contents are sealed, and its key is gone")
            raise CannotOpen("the project's key is gone")
        for number, data_key in found:
            key = ContentKey.of(project_id, number, data_key)
            sealed.know(project_id, number, key.cipher)
        self._keys[project_id] = key
        return key

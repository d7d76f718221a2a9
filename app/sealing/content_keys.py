"""The keys of projects that encrypt their contents, in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.sealing import ciphertext
from app.sealing.at_rest import PLAIN, ContentCipher, ContentKey
from app.sealing.ciphertext import CannotOpen
from app.sealing.project_cipher import ProjectCipher

log = structlog.get_logger()

SQL = statements_of(__file__)


@dataclass(frozen=True, slots=True)
class State:
    """State of a project's encryption."""

    encrypted: bool
    """The project has a key for its contents, and some may be sealed with it."""
    seals: bool
    """True if contents are sealed when they are written."""
    destroyed: bool
    """The key is gone for good."""


async def state_of(database: Database, project_id: UUID) -> State:
    """Return the state of a project's encryption, by its row. A project that does not exist is not encrypted."""
    row = await database.fetchrow(*SQL.state(project_id=project_id))
    return State(False, False, False) if row is None else State(**row)


async def altered_projects(database: Database) -> Sequence[tuple[UUID, str]]:
    """Return the id and name of each project whose `encrypted_at` does not match its audit trail."""
    return [(row["project_id"], row["name"]) for row in await database.fetch(*SQL.altered_projects())]


class ContentKeys:
    def __init__(self, database: Database, cipher: ProjectCipher) -> None:
        self._database = database
        self._cipher = cipher
        self._keys: dict[UUID, ContentKey] = {}

    async def report_altered_projects(self) -> None:
        """Log each project whose `encrypted_at` was changed in the database by hand."""
        for _, name in await altered_projects(self._database):
            log.error("a project's encrypted_at was changed by hand; its contents are still sealed", name=name)

    async def sealer(self, project_id: UUID) -> ContentCipher:
        """Return the cipher for a project's contents, by its current state: for work outside of requests.

        Raises:
            CannotOpen: the project's key is not available.
        """
        state = await state_of(self._database, project_id)
        if state.destroyed:
            ciphertext.know_destroyed(project_id)
            self._keys.pop(project_id, None)
            return PLAIN
        return await self.sealer_of(project_id, encrypted=state.encrypted, seals=state.seals)

    async def sealer_of(self, project_id: UUID, *, encrypted: bool, seals: bool) -> ContentCipher:
        """Return the same for a project whose row was read before.

        Args:
            encrypted, seals: see `State`. Before contents are written unsealed, the audit trail is read too.
        """
        if not seals:
            bucket = ids.bucket_of(project_id)
            recorded = await self._database.fetchval(*SQL.sealed_by_trail(project_id=project_id, bucket=bucket))
            if recorded is not None:
                encrypted, seals = True, recorded or not encrypted
        if not encrypted:
            return PLAIN
        key = self._keys.get(project_id) or await self._load(project_id)
        return ContentCipher(key) if seals else PLAIN

    async def load(self, project_id: UUID) -> None:
        """Load a project's key into this process, so that its contents can be opened.

        Raises:
            CannotOpen: the key is not available.
        """
        await self.sealer(project_id)

    async def try_to_load(self, project_id: UUID) -> None:
        """Load a project's key if it is available. Deleting contents needs none."""
        try:
            await self.load(project_id)
        except CannotOpen as error:
            log.warning("a project's key is not available", why=str(error))

    async def _load(self, project_id: UUID) -> ContentKey:
        found = await self._cipher.keys(project_id)
        if not found:
            log.error("a project's contents are sealed, and its key is gone")
            raise CannotOpen("the project's key is gone")
        for number, data_key in found:
            key = ContentKey.of(project_id, number, data_key)
            ciphertext.know(project_id, number, key.cipher)
        self._keys[project_id] = key
        return key

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
    """Return how a project keeps its contents, as its row says; a project that does not exist has them open."""
    row = await database.fetchrow(*SQL.state(project_id=project_id))
    return State(False, False, False) if row is None else State(**row)


async def cleared(database: Database) -> Sequence[tuple[UUID, str]]:
    """Return the projects whose audit trail says that they are encrypted, and whose row does not: id and name."""
    return [(row["project_id"], row["name"]) for row in await database.fetch(*SQL.cleared())]


class ContentKeys:
    def __init__(self, database: Database, cipher: ProjectCipher) -> None:
        self._database = database
        self._cipher = cipher
        self._keys: dict[UUID, ContentKey] = {}

    async def report_cleared(self) -> None:
        """Log the projects whose `encrypted_at` was cleared or moved past the service."""
        for _, name in await cleared(self._database):
            log.error("a project's encrypted_at was changed by hand; its contents are still sealed", name=name)

    async def sealer(self, project_id: UUID) -> ContentCipher:
        """Return how contents are written for a project, looked up now: for work outside of requests.

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
        """Return the same where it is known whether the project has a key for its contents, and whether it seals.

        Args:
            encrypted, seals: as the project's row says. The audit trail is asked too before contents are written open.
        """
        if not seals:
            bucket = ids.bucket_of(project_id)
            told = await self._database.fetchval(*SQL.told(project_id=project_id, bucket=bucket))
            if told is not None:
                encrypted, seals = True, told or not encrypted
        if not encrypted:
            return PLAIN
        key = self._keys.get(project_id) or await self._load(project_id)
        return ContentCipher(key) if seals else PLAIN

    async def load(self, project_id: UUID) -> None:
        """Have a project's key in this process, so that its contents can be opened.

        Raises:
            CannotOpen: the key is not available.
        """
        await self.sealer(project_id)

    async def try_to_load(self, project_id: UUID) -> None:
        """Have a project's key in this process if it is available. Deleting contents needs none."""
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

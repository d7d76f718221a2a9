"""What deliveries are signed with, as it is kept: sealed by the project's own key."""

import base64
import binascii
from uuid import UUID

from app.db.engine import Database
from app.memory.sealed import Sealed
from app.sealing.ciphertext import CannotOpen
from app.sealing.vault import Vault

BY_VAULT = "1."
"""What a secret begins with that the project's own key has sealed. The release before sealed with one of the
database's, and wrote nothing before it."""

PURPOSE = "secret of a webhook"


class Secrets:
    def __init__(self, database: Database, vault: Vault, former: Sealed) -> None:
        self._database = database
        self._vault = vault
        self._former = former

    async def closed(self, project_id: UUID, secret: str) -> str:
        async with self._database.session() as session:
            sealed = await self._vault.seal(session, project_id, PURPOSE, secret.encode())
        return BY_VAULT + base64.b64encode(sealed).decode()

    async def opened(self, project_id: UUID, closed: str) -> str | None:
        """The secret; None where it cannot be had: it was changed, or its key is not here."""
        if not closed.startswith(BY_VAULT):
            return self._former.opened(project_id, closed)
        try:
            sealed = base64.b64decode(closed.removeprefix(BY_VAULT), validate=True)
            return (await self._vault.open(project_id, PURPOSE, sealed)).decode()
        except (binascii.Error, CannotOpen):
            return None

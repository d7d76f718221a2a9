"""The secrets that deliveries are signed with, as they are kept: sealed by the project's own key."""

import base64
import binascii
from uuid import UUID

from app.db.engine import Database
from app.sealing.ciphertext import CannotOpen
from app.sealing.vault import Vault

PURPOSE = "secret of a webhook"


class Secrets:
    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def closed(self, project_id: UUID, secret: str) -> str:
        async with self._database.session() as session:
            sealed = await self._vault.seal(session, project_id, PURPOSE, secret.encode())
        return base64.b64encode(sealed).decode()

    async def opened(self, project_id: UUID, closed: str) -> str | None:
        """Return the secret; None if it was changed, or its key is not available."""
        try:
            sealed = base64.b64decode(closed, validate=True)
            return (await self._vault.open(project_id, PURPOSE, sealed)).decode()
        except (binascii.Error, CannotOpen):
            return None

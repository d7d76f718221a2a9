"""The secrets that deliveries are signed with, as they are kept: sealed by the project's own key."""

import base64
import binascii
from uuid import UUID

from app.db.engine import Database
from app.sealing.ciphertext import CannotOpen
from app.sealing.project_cipher import ProjectCipher


class Secrets:
    def __init__(self, database: Database, cipher: ProjectCipher) -> None:
        self._database = database
        self._cipher = cipher

    async def encrypt(self, project_id: UUID, webhook_id: UUID, secret: str) -> str:
        async with self._database.session() as session:
            sealed = await self._cipher.seal(session, project_id, _purpose(webhook_id), secret.encode())
        return base64.b64encode(sealed).decode()

    async def decrypt(self, project_id: UUID, webhook_id: UUID, encrypted: str) -> str | None:
        """Return the secret; None if it was changed, or is another webhook's, or its key is not available."""
        try:
            sealed = base64.b64decode(encrypted, validate=True)
            return (await self._cipher.open(project_id, _purpose(webhook_id), sealed)).decode()
        except (binascii.Error, CannotOpen):
            return None


def _purpose(webhook_id: UUID) -> str:
    return f"secret of webhook {webhook_id.hex}"

"""Encryption of compactions that clients carry (OpenAI's `encrypted_content`), for one project each."""

import base64
import binascii
import hashlib
import secrets
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


class CompactionCipher:
    def __init__(self, key: bytes, purpose: str = "compactions that clients carry") -> None:
        """Args: key: the database's own, that other keys are made of."""
        self._cipher = AESGCM(hashlib.blake2b(purpose.encode(), key=key, digest_size=32).digest())

    def encrypt(self, project_id: UUID, text: str) -> str:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, text.encode(), project_id.bytes)).decode()

    def decrypt(self, project_id: UUID, encrypted: str) -> str | None:
        """Return a text that was encrypted for this project; None for anything else."""
        try:
            data = base64.b64decode(encrypted, altchars="-_", validate=True)
            return self._cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], project_id.bytes).decode()
        except (binascii.Error, ValueError, InvalidTag):
            return None

"""AES-256-GCM ciphertexts that open only in the place that they were written for.

A ciphertext is Base64 of key number, nonce, and what AES-GCM returns. It does not name its project, table or row: the
reader passes the place that it reads from, and that place is the associated data. A ciphertext that was moved to
another column, row or project does not open there.
"""

import base64
import binascii
import secrets
from collections.abc import Sequence
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.process.values import value

NUMBER_BYTES = 2
NONCE_BYTES = 12
HEAD_BYTES = NUMBER_BYTES + NONCE_BYTES


class CannotOpen(Exception):
    """A ciphertext or a key cannot be opened; the message says why."""


class KeyDestroyed(CannotOpen):
    """The project's key was destroyed: its contents read as deleted."""

    def __init__(self) -> None:
        super().__init__("the project's key was destroyed")


@value
class Place:
    """The place of a value: a row of a table, or a file or a Redis entry of a turn."""

    project_id: UUID
    holder: str
    """The table; outside of Postgres, the purpose."""
    key: Sequence[UUID | int | bytes]
    """The row's key. Each part has a fixed length, so that no two keys have the same bytes."""

    def bound(self, field: str) -> bytes:
        """Return the associated data of a field in this place."""
        parts = (part if isinstance(part, bytes) else _encoded(part) for part in self.key)
        return b"".join([self.project_id.bytes, f"{self.holder}.{field}".encode(), b"\0", *parts])


_ciphers: dict[tuple[UUID, int], AESGCM] = {}
_destroyed: set[UUID] = set()


def know(project_id: UUID, number: int, cipher: AESGCM) -> None:
    """Keep a key in this process, to open what was sealed with it. The project's key was not destroyed."""
    _destroyed.discard(project_id)
    _ciphers[project_id, number] = cipher


def know_destroyed(project_id: UUID) -> None:
    """Forget the keys of a project whose key was destroyed."""
    _destroyed.add(project_id)
    for known in [key for key in _ciphers if key[0] == project_id]:
        del _ciphers[known]


def sealed(cipher: AESGCM, number: int, place: Place, field: str, content: bytes) -> str:
    """Return the ciphertext of a content for a field of a place."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    data = cipher.encrypt(nonce, content, place.bound(field))
    return base64.b64encode(number.to_bytes(NUMBER_BYTES, "big") + nonce + data).decode()


def opened(place: Place, field: str, text: str) -> bytes:
    """Return the content of a ciphertext that was read from a field of a place.

    Raises:
        KeyDestroyed: its key was destroyed.
        CannotOpen: it was changed, or written for another place, or its key is not in this process.
    """
    if place.project_id in _destroyed:
        raise KeyDestroyed
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CannotOpen("it is not a ciphertext") from error
    if len(found) < HEAD_BYTES:
        raise CannotOpen("it is not a ciphertext")
    cipher = _ciphers.get((place.project_id, int.from_bytes(found[:NUMBER_BYTES], "big")))
    if cipher is None:
        raise CannotOpen("the project's key is not in this process")
    try:
        return cipher.decrypt(found[NUMBER_BYTES:HEAD_BYTES], found[HEAD_BYTES:], place.bound(field))
    except InvalidTag as error:
        raise CannotOpen("it was changed, or written for another place") from error


def moved(text: str, source: Place, target: Place, field: str) -> str:
    """Return a ciphertext of the same content for another place, sealed with the same key.

    Raises:
        CannotOpen: it cannot be opened in `source`.
    """
    content = opened(source, field, text)
    number = int.from_bytes(base64.b64decode(text)[:NUMBER_BYTES], "big")
    return sealed(_ciphers[source.project_id, number], number, target, field, content)


def _encoded(part: UUID | int) -> bytes:
    return part.bytes if isinstance(part, UUID) else part.to_bytes(8, "big", signed=True)

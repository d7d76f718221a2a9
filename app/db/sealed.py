"""Contents that lie sealed in the tables, opened where rows come in: by the project and the key that they name.

A sealed content is text: MARK, and Base64 of project, number of the key, nonce and what AES-256-GCM has made. In a
column of JSON it stands first in an array, which no plain content of such a column begins with; in `metadata`, in one
under the empty name, which no plain metadata has.

How contents are sealed, and where the keys come from: `app/sealing`.
"""

import base64
import binascii
import secrets
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MARK = "\x01et1:"
"""What a text begins with that is sealed."""
ESCAPE = "\x01"
"""Stands before a plain text that begins with it."""

DOCUMENT = '["\\u0001et1:'
METADATA = ('{"": ["\\u0001et1:', '{"":["\\u0001et1:')

NUMBER_BYTES = 2
HEAD_BYTES = 16 + NUMBER_BYTES
NONCE_BYTES = 12

SALT_BYTES = 16
"""Of a salt that lies open: a sealed one is longer."""


class CannotOpen(Exception):
    """Something sealed is not opened with what is at hand here."""


class KeyNotAtHand(CannotOpen):
    """The key of a project has not been looked up yet."""

    def __init__(self, project_id: UUID) -> None:
        super().__init__("a project's contents are sealed, and its key is not at hand")
        self.project_id = project_id


_ciphers: dict[tuple[UUID, int], AESGCM] = {}
_destroyed: set[UUID] = set()


def know(project_id: UUID, number: int, cipher: AESGCM) -> None:
    """Open what was sealed with this key, from here on in this process."""
    _ciphers[project_id, number] = cipher


def know_destroyed(project_id: UUID) -> None:
    """Nobody can open what was sealed for this project: it is read as what was deleted is."""
    _destroyed.add(project_id)
    for known in [key for key in _ciphers if key[0] == project_id]:
        del _ciphers[known]


def seal(project_id: UUID, number: int, cipher: AESGCM, content: bytes) -> str:
    nonce = secrets.token_bytes(NONCE_BYTES)
    head = project_id.bytes + number.to_bytes(NUMBER_BYTES, "big")
    return MARK + base64.b64encode(head + nonce + cipher.encrypt(nonce, content, head)).decode()


def is_sealed(text: str) -> bool:
    return text.startswith(MARK)


def opened(text: str) -> bytes | None:
    """What was sealed; None where its key was destroyed.

    Raises:
        KeyNotAtHand: it has to be looked up.
        CannotOpen: it was changed.
    """
    try:
        sealed = base64.b64decode(text[len(MARK) :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise CannotOpen("it is nothing that was sealed here") from error
    head, nonce = sealed[:HEAD_BYTES], sealed[HEAD_BYTES : HEAD_BYTES + NONCE_BYTES]
    if len(nonce) < NONCE_BYTES:
        raise CannotOpen("it is nothing that was sealed here")
    project_id = UUID(bytes=head[:16])
    cipher = _ciphers.get((project_id, int.from_bytes(head[16:], "big")))
    if cipher is None:
        if project_id in _destroyed:
            return None
        raise KeyNotAtHand(project_id)
    try:
        return cipher.decrypt(nonce, sealed[HEAD_BYTES + NONCE_BYTES :], head)
    except InvalidTag as error:
        raise CannotOpen("it was changed since it was sealed") from error


def loads(text: str) -> Any:
    """A JSON document from the tables: what asyncpg's codec is given."""
    if not text.startswith((DOCUMENT, *METADATA)):
        return orjson.loads(text)
    found = orjson.loads(text)
    content = opened((found[""] if isinstance(found, dict) else found)[0])
    return {} if content is None else orjson.loads(content)


def document_text(text: str | None) -> str | None:
    """The same, of a document that was read as text: its very bytes."""
    if text is None or not text.startswith(DOCUMENT):
        return text
    content = opened(orjson.loads(text)[0])
    return None if content is None else content.decode()


def opened_text(text: str | None) -> str | None:
    """A text from the tables."""
    if text is None or not text.startswith(ESCAPE):
        return text
    if not is_sealed(text):
        return text[len(ESCAPE) :]
    content = opened(text.partition(" ")[0])
    return None if content is None else content.decode()


def opened_texts(texts: Sequence[str] | None) -> list[str] | None:
    """Texts of one row; None where one of them cannot be had any more."""
    found = [opened_text(text) for text in texts or ()]
    return None if texts is None or None in found else [text for text in found if text is not None]


def opened_salt(value: bytes | None) -> bytes | None:
    """A salt from the tables."""
    if value is None or len(value) == SALT_BYTES:
        return value
    return opened(value.decode())

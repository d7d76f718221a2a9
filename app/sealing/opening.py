"""Stored values read back: the forms that `at_rest.py` writes.

Each function takes the place that the value was read from, and raises `CannotOpen` if its ciphertext does not open
there.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from app.sealing import ciphertext
from app.sealing.at_rest import ESCAPE, MARK, PLAIN_ARRAY, SALT_BYTES, element
from app.sealing.ciphertext import CannotOpen, Place


def text(place: Place, field: str, stored: str) -> str:
    if not stored.startswith(ESCAPE):
        return stored
    if not stored.startswith(MARK):
        return stored[len(ESCAPE) :]
    return ciphertext.opened(place, field, stored[len(MARK) :].partition(" ")[0]).decode()


def texts(place: Place, field: str, stored: Sequence[str]) -> list[str]:
    return [text(place, element(field, number), each) for number, each in enumerate(stored)]


def is_envelope(document: Any) -> bool:
    """True if a JSON value from a column has to be opened: a ciphertext, or a plain array in an array."""
    return type(document) is list and bool(document) and (document[0] is None or type(document[0]) is str)


def document(place: Place, field: str, stored: Any) -> Any:
    """Return a JSON value that was read as one."""
    if not is_envelope(stored):
        return stored
    if stored[0] is None:
        if len(stored) != 2:
            raise CannotOpen("it is not a ciphertext")
        return stored[1]
    return orjson.loads(ciphertext.opened(place, field, stored[0]))


def document_text(place: Place, field: str, stored: str) -> str:
    """Return a JSON value that was read as text, in the bytes that were written."""
    if not stored.startswith("["):
        return stored
    if stored.startswith(PLAIN_ARRAY):
        return stored[len(PLAIN_ARRAY) : -1]
    found = orjson.loads(stored)
    return ciphertext.opened(place, field, found[0]).decode() if is_envelope(found) else stored


def is_sealed_metadata(stored: Any) -> bool:
    return "" in stored and type(stored[""]) is list


def metadata(place: Place, stored: dict[str, Any]) -> dict[str, str]:
    if not is_sealed_metadata(stored):
        return stored
    found = stored[""][0] if stored[""] else None
    if not isinstance(found, str):
        raise CannotOpen("it is not a ciphertext")
    opened: dict[str, str] = orjson.loads(ciphertext.opened(place, "metadata", found))
    return opened


def salt(place: Place, stored: bytes) -> bytes:
    if len(stored) == SALT_BYTES:
        return stored
    return ciphertext.opened(place, "salt", stored.decode("ascii", "replace"))


def content(place: Place, field: str, stored: bytes) -> bytes:
    """Return what `Sealer.bytes` has written."""
    mark = MARK.encode()
    if not stored.startswith(mark):
        return stored
    return ciphertext.opened(place, field, stored[len(mark) :].decode("ascii", "replace"))

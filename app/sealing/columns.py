"""Columns whose values lie sealed for a project that encrypts its contents. What is read of them is opened.

A column of text, JSON or bytes is one of these, or is on the list of the plain ones in tests/test_encryption.py, with
the reason.
"""

from typing import Any

import orjson
from sqlalchemy import JSON, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from app.db import sealed
from app.sealing import at_rest
from app.sealing.at_rest import Sealer


class Sealable:
    """What `encrypting.py` needs of such a column: how a value that lies open is told, and sealed."""

    lies_open: str
    """A condition in SQL, of `{}`, the column."""
    as_text = "{}::text"

    def sealed(self, sealer: Sealer, value: Any) -> Any:
        """What is written in the place of a value that lies open, given as `as_text` reads it."""
        raise NotImplementedError


class SealedText(TypeDecorator[str], Sealable):
    impl = Text
    cache_ok = True
    lies_open = r"NOT starts_with({}, E'\x01et1:')"

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else self.sealed(at_rest.sealer(), value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return sealed.opened_text(value)

    def sealed(self, sealer: Sealer, value: str) -> str | None:
        return sealer.text(value)


class SealedTitle(SealedText):
    """One that is searched for."""

    cache_ok = True

    def sealed(self, sealer: Sealer, value: str) -> str | None:
        return sealer.title(value)


class SealedTexts(TypeDecorator[list[str]], Sealable):
    """Written by statements of their own; sessions set it to NULL."""

    impl = ARRAY(Text)
    cache_ok = True
    lies_open = r"cardinality({0}) > 0 AND NOT starts_with(({0})[1], E'\x01et1:')"
    as_text = "{}"

    def sealed(self, sealer: Sealer, value: list[str]) -> list[str]:
        return sealer.texts(value)


class SealedSalt(TypeDecorator[bytes], Sealable):
    impl = LargeBinary
    cache_ok = True
    lies_open = f"octet_length({{}}) = {sealed.SALT_BYTES}"
    as_text = "{}"

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        return None if value is None else self.sealed(at_rest.sealer(), value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        return sealed.opened_salt(value)

    def sealed(self, sealer: Sealer, value: bytes) -> bytes | None:
        return sealer.salt(value)


class SealedDigest(TypeDecorator[bytes], Sealable):
    """A digest that contents are told to be the same by: keyed where another column of the row is sealed."""

    impl = LargeBinary
    cache_ok = True
    as_text = "{}"

    def __init__(self, beside: str) -> None:
        super().__init__()
        self.beside = beside

    def sealed(self, sealer: Sealer, value: bytes) -> bytes:
        return sealer.digest(value)


class SealedDocument(TypeDecorator[Any], Sealable):
    """JSON as it came, key order and all; `json` and not `jsonb`. Opened by the codec: see `db/sealed.py`."""

    impl = JSON(none_as_null=True)
    cache_ok = True
    lies_open = r"""{0}::text NOT IN ('{{}}', '[]', 'null') AND NOT starts_with({0}::text, '["\u0001et1:')"""

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if not value:  # Empty: there is nothing to hide.
            return value
        found = at_rest.sealer()
        return value if found.key is None else [found.key.seal(orjson.dumps(value))]

    def sealed(self, sealer: Sealer, value: str) -> str | None:
        return sealer.document(value)


class SealedItem(SealedDocument):
    """With what the database asks for of it."""

    cache_ok = True
    lies_open = "json_typeof({}) <> 'array'"

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        found = at_rest.sealer()
        return value if found.key is None else [found.key.seal(orjson.dumps(value)), found.about(value)]

    def sealed(self, sealer: Sealer, value: str) -> str | None:
        return sealer.item(orjson.loads(value), value)


class SealedMetadata(TypeDecorator[Any], Sealable):
    impl = JSONB
    cache_ok = True
    lies_open = "{0} <> '{{}}' AND jsonb_typeof({0}->'') IS DISTINCT FROM 'array'"

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return at_rest.sealer().metadata(value) if value else value

    def sealed(self, sealer: Sealer, value: str) -> str:
        return orjson.dumps(sealer.metadata(orjson.loads(value))).decode()

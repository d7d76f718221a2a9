"""Columns that are sealed for a project that encrypts its contents, and the rows that hold them.

A column of text, JSON or bytes has one of these types, or is on the list of the plain ones in tests/test_encryption.py,
with the reason.

A class with such columns names in `__bound_by__` the columns whose values its ciphertexts are bound to, beside project,
table and column. Entities of a session are opened when they are loaded, by an event; rows of statements in text by
`Rows.opened`; and `Rows.written` makes the values that are inserted. A value that does not open is marked: the row
lists its column under `unreadable`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import structlog
from sqlalchemy import JSON, LargeBinary, Text, event, inspect
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.types import TypeDecorator

from app.db.base import Base
from app.items.unreadable import CODE, Unreadable, unreadable_item
from app.sealing import opening
from app.sealing.at_rest import ESCAPE, SALT_BYTES, ContentCipher
from app.sealing.ciphertext import CannotOpen, KeyDestroyed, Place

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Written:
    """A value in its stored form: a column takes no other, so that none is written open by mistake."""

    value: Any


@dataclass(frozen=True, slots=True)
class Stored:
    """A value of an entity that has to be opened: the event below does that, with the place that the row is."""

    value: Any


class Sealable(TypeDecorator[Any]):
    """A column type with a stored form for ciphertexts."""

    cache_ok = True
    lies_open: str
    """A condition in SQL for a plain value. `{}` is the column."""
    as_text = "{}::text"
    """The SQL with which `encrypting.py` reads a plain value."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.cache_ok = True  # SQLAlchemy reads it from each class itself, and warns about those that lack it.

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if isinstance(value, Written):
            return value.value
        if not value:
            return value  # Empty: there is nothing to hide.
        raise TypeError("contents are written through Rows.written")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return Stored(value) if value is not None and self.needs_opening(value) else value

    def needs_opening(self, stored: Any) -> bool:
        """Return True for anything but a plain value that is stored as it is."""
        raise NotImplementedError

    def opened(self, place: Place, field: str, stored: Any) -> Any:
        """Return the value of a stored one. Raises `CannotOpen`."""
        raise NotImplementedError

    def written(self, sealer: ContentCipher, place: Place, field: str, value: Any) -> Any:
        """Return the stored form of a value that is not empty."""
        raise NotImplementedError

    def sealed(self, sealer: ContentCipher, place: Place, field: str, stored: Any) -> Any:
        """Return the sealed form of a plain value, as `as_text` reads it."""
        raise NotImplementedError

    def unreadable(self, row: Mapping[str, Any], field: str) -> Any:
        """Return what stands for a value that cannot be opened."""
        return None

    def deleted(self) -> Any:
        """Return what stands for a value whose key was destroyed."""
        return None


class SealedText(Sealable):
    impl = Text
    lies_open = r"NOT starts_with({}, E'\x01et1:')"

    def needs_opening(self, stored: str) -> bool:
        return stored.startswith(ESCAPE)

    def opened(self, place: Place, field: str, stored: str) -> str:
        return opening.text(place, field, stored)

    def written(self, sealer: ContentCipher, place: Place, field: str, value: str) -> str | None:
        return sealer.text(place, field, value)

    def sealed(self, sealer: ContentCipher, place: Place, field: str, stored: str) -> str | None:
        return self.written(sealer, place, field, opening.text(place, field, stored))


class SealedTitle(SealedText):
    """A text that can be searched."""

    def written(self, sealer: ContentCipher, place: Place, field: str, value: str) -> str | None:
        return sealer.title(place, field, value)


class SealedTexts(Sealable):
    impl = ARRAY(Text)
    lies_open = r"cardinality({0}) > 0 AND NOT starts_with(({0})[1], E'\x01et1:')"
    as_text = "{}"

    def needs_opening(self, stored: list[str]) -> bool:
        return any(each.startswith(ESCAPE) for each in stored)

    def opened(self, place: Place, field: str, stored: list[str]) -> list[str]:
        return opening.texts(place, field, stored)

    def written(self, sealer: ContentCipher, place: Place, field: str, value: list[str]) -> list[str]:
        return sealer.texts(place, field, value)

    def sealed(self, sealer: ContentCipher, place: Place, field: str, stored: list[str]) -> list[str]:
        return sealer.texts(place, field, opening.texts(place, field, stored))


class SealedSalt(Sealable):
    impl = LargeBinary
    lies_open = f"octet_length({{}}) = {SALT_BYTES}"
    as_text = "{}"

    def needs_opening(self, stored: bytes) -> bool:
        return len(stored) != SALT_BYTES

    def opened(self, place: Place, field: str, stored: bytes) -> bytes:
        return opening.salt(place, stored)

    def written(self, sealer: ContentCipher, place: Place, field: str, value: bytes) -> bytes | None:
        return sealer.salt(value, place)

    def sealed(self, sealer: ContentCipher, place: Place, field: str, stored: bytes) -> bytes | None:
        return sealer.salt(stored, place)


class SealedDigest(Sealable):
    """A digest that equal contents have in common. It is keyed where another column of the row is sealed."""

    impl = LargeBinary
    as_text = "{}"

    def __init__(self, beside: str) -> None:
        super().__init__()
        self.beside = beside

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return value.value if isinstance(value, Written) else value

    def needs_opening(self, stored: bytes) -> bool:
        return False

    def written(self, sealer: ContentCipher, place: Place, field: str, value: bytes) -> bytes:
        return sealer.digest(value)

    def sealed(self, sealer: ContentCipher, place: Place, field: str, stored: bytes) -> bytes:
        return sealer.digest(stored)


class SealedDocument(Sealable):
    """JSON with its keys in the order that they came in; `json` and not `jsonb`."""

    impl = JSON(none_as_null=True)
    lies_open = r"""{0}::text NOT IN ('{{}}', '[]', 'null') AND NOT starts_with({0}::text, '["')"""

    def needs_opening(self, stored: Any) -> bool:
        return opening.is_envelope(stored)

    def opened(self, place: Place, field: str, stored: Any) -> Any:
        return opening.document(place, field, stored)

    def opened_text(self, place: Place, field: str, stored: str) -> str:
        """Return a value that was read as text, in the bytes that were written."""
        return opening.document_text(place, field, stored)

    def written(self, sealer: ContentCipher, place: Place, field: str, value: Any) -> Any:
        text = sealer.document(place, field, orjson.dumps(value).decode())
        return value if sealer.key is None and isinstance(value, dict) else orjson.loads(text or "null")

    def sealed(self, sealer: ContentCipher, place: Place, field: str, stored: str) -> str | None:
        return sealer.document(place, field, opening.document_text(place, field, stored))

    def unreadable(self, row: Mapping[str, Any], field: str) -> Any:
        if field == "error":
            return Unreadable(code=CODE, message="What was kept of this error cannot be opened.")
        return Unreadable()

    def deleted(self) -> Any:
        return {}


class SealedItem(SealedDocument):
    """An item, with what the database looks it up by. It is an object."""

    lies_open = "json_typeof({}) <> 'array'"

    def needs_opening(self, stored: Any) -> bool:
        return type(stored) is not dict

    def opened(self, place: Place, field: str, stored: Any) -> Any:
        found = opening.document(place, field, stored)
        if type(found) is not dict:
            raise CannotOpen("it is not an item")
        return found

    def written(self, sealer: ContentCipher, place: Place, field: str, value: Any) -> Any:
        return value if sealer.key is None else orjson.loads(sealer.item(place, value, orjson.dumps(value).decode()))

    def sealed(self, sealer: ContentCipher, place: Place, field: str, stored: str) -> str | None:
        return sealer.item(place, orjson.loads(stored), stored)

    def unreadable(self, row: Mapping[str, Any], field: str) -> Any:
        return unreadable_item(row["type"])


class SealedMetadata(Sealable):
    impl = JSONB
    lies_open = "{0} <> '{{}}' AND jsonb_typeof({0}->'') IS DISTINCT FROM 'array'"

    def needs_opening(self, stored: Any) -> bool:
        return opening.is_sealed_metadata(stored)

    def opened(self, place: Place, field: str, stored: Any) -> Any:
        return opening.metadata(place, stored)

    def written(self, sealer: ContentCipher, place: Place, field: str, value: Any) -> Any:
        return sealer.metadata(place, value)

    def sealed(self, sealer: ContentCipher, place: Place, field: str, stored: str) -> str:
        return orjson.dumps(sealer.metadata(place, orjson.loads(stored))).decode()

    def unreadable(self, row: Mapping[str, Any], field: str) -> Any:
        return Unreadable()

    def deleted(self) -> Any:
        return {}


class Rows:
    """The rows of a table that has sealed columns."""

    def __init__(
        self,
        table: str,
        bound_by: tuple[str, ...],
        columns: Mapping[str, Sealable],
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Args: attributes: the columns by what a mapped class calls them."""
        self.table = table
        self.bound_by = bound_by
        self._bound_by = len(bound_by)
        self.columns = columns
        self.attributes = {name: name for name in columns} if attributes is None else attributes
        self._opened = [(name, type_) for name, type_ in columns.items() if not isinstance(type_, SealedDigest)]

    @classmethod
    def of(cls, model: type[Base]) -> "Rows":
        table: Any = model.__table__
        columns = {column.name: column.type for column in table.columns if isinstance(column.type, Sealable)}
        attributes = {
            attribute.key: attribute.columns[0].name
            for attribute in inspect(model).column_attrs
            if attribute.columns[0].name in columns
        }
        return cls(str(table.name), model.__bound_by__, columns, attributes)

    def at(self, project_id: UUID, *key: UUID | int | bytes) -> Place:
        """Return a row as a place. Args: key: the values of `__bound_by__`."""
        assert len(key) == self._bound_by
        return Place(project_id, self.table, key)

    def opened(self, project_id: UUID, row: Any) -> Any:
        """Return a row with its values opened; the row itself where all of them are plain.

        Args:
            row: has the columns of `__bound_by__`, and any of the sealed ones.
        """
        names = [(name, type_) for name, type_ in self._opened if _has_to_be_opened(type_, row.get(name))]
        if not names:
            return row
        place = self.at(project_id, *(row[name] for name in self.bound_by))
        found, failed = _opened(place, names, row)
        return {**row, **found, **({"unreadable": failed} if failed else {})}

    def written(self, sealer: ContentCipher, values: Mapping[str, Any], place: Place | None = None) -> dict[str, Any]:
        """Return values of a row, by their attributes, in the form in which they are inserted.

        Args:
            place: left out where the values have the row's key.
        """
        if place is None:
            place = self.at(values["project_id"], *(values[name] for name in self.bound_by))
        found = dict(values)
        for attribute, name in self.attributes.items():
            if found.get(attribute):
                found[attribute] = Written(self.columns[name].written(sealer, place, name, found[attribute]))
        return found


def _has_to_be_opened(type_: Sealable, stored: Any) -> bool:
    return stored is not None and type_.needs_opening(stored)


def _opened(
    place: Place, columns: Iterable[tuple[str, Sealable]], row: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of columns, and which of them cannot be opened."""
    found: dict[str, Any] = {}
    failed: list[str] = []
    for name, type_ in columns:
        try:
            found[name] = type_.opened(place, name, row[name])
        except KeyDestroyed:
            found[name] = type_.deleted()
        except CannotOpen as error:
            log.error("a stored content cannot be opened", table=place.holder, column=name, why=str(error))
            found[name] = type_.unreadable(row, name)
            failed.append(name)
    return found, failed


_rows: dict[type[Base], Rows] = {}


def rows_of(model: type[Base]) -> Rows:
    """Return the rows of a mapped class."""
    found = _rows.get(model)
    if found is None:
        found = _rows[model] = Rows.of(model)
    return found


# Read by parts of the service that stand below the tables' classes.
ITEMS = Rows("items", ("turn_id", "position"), {"data": SealedItem()})
TITLES = Rows("threads", ("id",), {"title": SealedTitle()})


def _open_entity(entity: Any) -> None:
    held = entity.__dict__
    stored = {name: value.value for name, value in held.items() if isinstance(value, Stored)}
    if not stored:
        return
    of = rows_of(type(entity))
    columns = [(of.attributes[name], of.columns[of.attributes[name]]) for name in stored]
    place = of.at(held["project_id"], *(held[name] for name in of.bound_by))
    values, failed = _opened(place, columns, {**held, **{of.attributes[name]: value for name, value in stored.items()}})
    for name in stored:
        set_committed_value(entity, name, values[of.attributes[name]])
    if failed:
        entity.unreadable = sorted({*entity.unreadable, *failed})


def _on_load(entity: Any, context: Any) -> None:
    _open_entity(entity)


def _on_refresh(entity: Any, context: Any, attributes: Any) -> None:
    if attributes is None:
        entity.unreadable = ()
    _open_entity(entity)


event.listen(Base, "load", _on_load, propagate=True)
event.listen(Base, "refresh", _on_refresh, propagate=True)

"""Stored forms: what is written is read back, and a ciphertext opens only in the place that it was written for."""

import base64
import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import schema
from app.db.base import Base
from app.sealing import ciphertext, opening
from app.sealing.at_rest import MARK, PLAIN, SALT_BYTES, ContentCipher, ContentKey
from app.sealing.ciphertext import CannotOpen, KeyDestroyed, Place
from app.sealing.columns import (
    ITEMS,
    Rows,
    Sealable,
    SealedDigest,
    SealedDocument,
    SealedItem,
    SealedMetadata,
    SealedSalt,
    SealedText,
    SealedTexts,
    Written,
    rows_of,
)
from app.turns import event_log, spool
from app.turns.tables import Call

assert schema.metadata is Base.metadata  # All tables are known.

MODELS = sorted(
    (mapper.class_ for mapper in Base.registry.mappers if rows_of(mapper.class_).columns),
    key=lambda model: model.__name__,
)
SEALED = [
    (model, name, type_)
    for model in MODELS
    for name, type_ in rows_of(model).columns.items()
    if not isinstance(type_, SealedDigest)
]


def key(project_id: UUID, number: int = 1) -> ContentKey:
    found = ContentKey.of(project_id, number, project_id.bytes * 2)
    ciphertext.know(project_id, number, found.cipher)
    return found


PROJECT, OTHER = uuid4(), uuid4()
KEY, _ = key(PROJECT), key(OTHER)
SEALER = ContentCipher(KEY)

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
ciphertexts = st.builds(lambda raw: base64.b64encode(raw).decode(), st.binary(max_size=60)) | st.just(
    KEY.seal(Place(PROJECT, "items", (uuid4(), 0)), "data", b'{"a": 1}')
)
texts = (
    st.text(characters)
    | st.builds(str.__add__, st.sampled_from(["\x01", MARK, "\x01\x01", MARK + MARK]), ciphertexts)
    | ciphertexts
)  # fmt: skip
documents: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | texts,
    lambda of: st.lists(of) | st.dictionaries(texts, of),
    max_leaves=8,
)
objects = st.dictionaries(texts | st.just(""), documents)


def values(type_: Sealable) -> st.SearchStrategy[Any]:
    """Return what a client could have in a column."""
    match type_:
        case SealedItem():
            return objects
        case SealedDocument():
            return objects | st.lists(documents)
        case SealedMetadata():
            return st.dictionaries(texts | st.just(""), texts)
        case SealedTexts():
            return st.lists(texts)
        case SealedText():
            return texts
        case SealedSalt():
            return st.binary(min_size=SALT_BYTES, max_size=SALT_BYTES)
        case _:
            raise AssertionError(type_)


def row_of(rows: Rows, project_id: UUID = PROJECT) -> dict[str, Any]:
    """Return a row's key, a new one."""
    made: dict[str, Any] = {"position": 3, "attempt": 2, "digest": b"d" * 16}
    return {"project_id": project_id, **{name: made.get(name, uuid4()) for name in rows.bound_by}, "type": "message"}


def stored(rows: Rows, sealer: ContentCipher, row: dict[str, Any], name: str, value: Any) -> Any:
    """Return what the driver gives back of a value that was written."""
    attribute = next(key for key, column in rows.attributes.items() if column == name)
    written = rows.written(sealer, {**row, attribute: value})[attribute]
    found = written.value if isinstance(written, Written) else written
    return found if isinstance(found, bytes) else json.loads(json.dumps(found))


@pytest.mark.parametrize(("model", "name", "type_"), SEALED, ids=lambda value: getattr(value, "__name__", str(value)))
@given(data=st.data())
def test_whatever_is_written_is_read_back(model: type[Base], name: str, type_: Sealable, data: st.DataObject) -> None:
    """Also what looks like a ciphertext, for a project that is encrypted and for one that is not."""
    rows, value = rows_of(model), data.draw(values(type_))
    for sealer in (PLAIN, SEALER):
        row = row_of(rows)
        found = rows.opened(PROJECT, {**row, name: stored(rows, sealer, row, name, value)})
        assert (found[name], found.get("unreadable")) == (value, None)


@given(value=objects | st.lists(documents), said=texts, item=objects, metadata=st.dictionaries(texts, texts))
def test_the_statements_that_are_written_by_hand_have_the_same_forms(
    value: Any, said: str, item: dict[str, Any], metadata: dict[str, str]
) -> None:
    place = Place(PROJECT, "turns", (uuid4(),))
    for sealer in (PLAIN, SEALER):
        text = json.dumps(value, separators=(",", ":"))
        written = sealer.document(place, "params", text)
        assert written is not None
        assert SealedDocument().opened_text(place, "params", written) == text
        assert SealedDocument().opened(place, "params", json.loads(written)) == value
        for each in (sealer.text(place, "title", said), sealer.title(place, "title", said)):
            assert each is not None
            assert SealedText().opened(place, "title", each) == said
        turn = uuid4()
        at = ITEMS.at(PROJECT, turn, 4)
        assert SealedItem().opened(at, "data", json.loads(sealer.item(at, item, json.dumps(item)))) == item
        assert SealedMetadata().opened(place, "metadata", sealer.metadata(place, metadata)) == metadata


@pytest.mark.parametrize(("model", "name", "type_"), SEALED, ids=lambda value: getattr(value, "__name__", str(value)))
@given(data=st.data())
def test_a_ciphertext_opens_in_no_other_place(
    model: type[Base], name: str, type_: Sealable, data: st.DataObject
) -> None:
    rows = rows_of(model)
    value = data.draw(values(type_).filter(bool))
    row = row_of(rows)
    moved = stored(rows, SEALER, row, name, value)
    assert rows.opened(PROJECT, {**row, name: moved})[name] == value
    # To each other row: the key differs in one of its parts; and to another project with a row of the same key.
    for part in rows.bound_by:
        elsewhere = {
            **row,
            part: 7 if isinstance(row[part], int) else (b"e" * 16 if isinstance(row[part], bytes) else uuid4()),
        }
        assert rows.opened(PROJECT, {**elsewhere, name: moved})["unreadable"] == [name]
    assert rows.opened(OTHER, {**row, name: moved})["unreadable"] == [name]
    # To each other column of the row, and each other table with such a column.
    for other, column, kind in SEALED:
        if (other, column) == (model, name) or type(kind).impl is not type(type_).impl:
            continue
        there = row_of(rows_of(other)) | {part: row[part] for part in rows_of(other).bound_by if part in row}
        assert rows_of(other).opened(PROJECT, {**there, column: moved})["unreadable"] == [column]


def test_the_parts_of_a_body_open_in_their_order_alone() -> None:
    rows = rows_of(Call)
    row = row_of(rows)
    frames = stored(rows, SEALER, row, "frames", ["one", "two"])
    assert rows.opened(PROJECT, {**row, "frames": frames})["frames"] == ["one", "two"]
    assert rows.opened(PROJECT, {**row, "frames": frames[::-1]})["unreadable"] == ["frames"]


def test_a_key_that_opens_was_not_destroyed() -> None:
    place = Place(PROJECT, "threads", (uuid4(),))
    sealed = KEY.seal(place, "title", b"said")
    ciphertext.know_destroyed(PROJECT)
    with pytest.raises(KeyDestroyed):
        ciphertext.opened(place, "title", sealed)
    key(PROJECT)
    assert ciphertext.opened(place, "title", sealed) == b"said"


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_ciphertext_that_was_changed_does_not_open(at: int, bits: int) -> None:
    place = Place(PROJECT, "threads", (uuid4(),))
    raw = bytearray(base64.b64decode((SEALER.text(place, "title", "something") or "").removeprefix(MARK)))
    raw[at % len(raw)] ^= bits
    with pytest.raises(CannotOpen):
        SealedText().opened(place, "title", MARK + base64.b64encode(raw).decode())


@pytest.mark.parametrize(
    "garbage", ["", "x", "=", "AAEB", "\u00e9", "A" * 2000, base64.b64encode(b"\0" * 60).decode(), "AAAA\n"]
)
def test_garbage_is_marked_in_every_column(garbage: str) -> None:
    forms: dict[type[Sealable], list[Any]] = {
        SealedText: [MARK + garbage, f"{MARK}{garbage} word"],
        SealedTexts: [[MARK + garbage], ["open", MARK + garbage]],
        SealedSalt: [b"", garbage.encode(), b" ", garbage.encode() + b" " + garbage.encode()],
        SealedDocument: [[garbage], [garbage, {}], [None], [None, 1, 2]],
        SealedMetadata: [{"": [garbage]}, {"": []}, {"": [1]}, {"": [[garbage]]}],
    }
    for model, name, type_ in SEALED:
        rows = rows_of(model)
        for form in next(each for kind, each in forms.items() if isinstance(type_, kind)):
            found = rows.opened(PROJECT, {**row_of(rows), name: form})
            assert found["unreadable"] == [name], (name, form)
            json.dumps(found[name])
    for form in ([], [1], "text", 5, [None, 1]):
        assert ITEMS.opened(PROJECT, {**row_of(ITEMS), "data": form})["unreadable"] == ["data"]


def test_a_column_takes_nothing_that_no_sealer_has_written() -> None:
    for _, _, type_ in SEALED:
        with pytest.raises(TypeError, match=r"Rows\.written"):
            type_.process_bind_param("said", None)  # type: ignore[arg-type]


def test_every_row_with_sealed_columns_is_bound_to_its_key() -> None:
    for model in MODELS:
        rows = rows_of(model)
        table: Any = model.__table__
        own = {column.name for column in table.primary_key.columns} - {"project_id", "bucket"}
        # A piece's number is given by the statement that inserts it: its digest stands for it.
        assert own - set(rows.bound_by) == ({"number"} if table.name == "pieces" else set())
    assert rows_of(next(model for model in MODELS if model.__tablename__ == "items")).bound_by == ITEMS.bound_by


def test_what_lies_outside_of_postgres_opens_for_its_turn_and_purpose_alone() -> None:
    turn, other = uuid4(), uuid4()
    batch = event_log._sealed(SEALER, PROJECT, turn, 3, [b"event: a\n\n"])
    assert opening.content(event_log._place(PROJECT, turn, 3), "events", batch) == b"event: a\n\n"
    for place, field in (
        (event_log._place(PROJECT, other, 3), "events"),
        (event_log._place(PROJECT, turn, 4), "events"),
        (event_log._place(OTHER, turn, 3), "events"),
        (spool._place(PROJECT, turn), "closing"),
    ):
        with pytest.raises(CannotOpen):
            opening.content(place, field, batch)

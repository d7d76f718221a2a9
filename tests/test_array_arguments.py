"""asyncpg reads the classes that `app/db/arrays.py` replaces, and arrays arrive as before."""

from abc import ABCMeta
from collections import deque
from collections.abc import Iterable, Sized
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from asyncpg.protocol import protocol

from app.db.engine import Database


@pytest.fixture
async def database(database_url: str) -> Any:
    database = Database(database_url, pool_size=2, timeout_seconds=5)
    yield database
    await database.close()


NOW = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("text", []), ("text", ["a", None, '"{}\\', "ü", ""]), ("text", ("a", "b")), ("text", deque(["a"])),
        ("text", {"a": 1}.keys()), ("text", {"only"}), ("bytea", [b"a", None, b""]), ("int", [1, None, -3]),
        ("uuid", [UUID(int=7), None]), ("timestamptz", (NOW, None)), ("int", [[1, 2], [3, 4]]),
        ("text", [["a", "b"], ["c", "d"]]), ("boolean", [True, False]),
    ],
)  # fmt: skip
async def test_arrays_arrive_as_they_are(database: Database, type_: str, value: Any) -> None:
    row = await database.fetchrow(f"SELECT $1::{type_}[] AS found", value)
    assert row is not None
    assert row["found"] == list(value)


@pytest.mark.parametrize("value", ["text", b"text", {"a": 1}, 5, [[1, 2], [3]], (each for each in "ab")])
async def test_what_is_no_array_is_refused(database: Database, value: Any) -> None:
    with pytest.raises(asyncpg.DataError):
        await database.fetchrow("SELECT $1::text[] AS found", value)


async def test_asyncpg_asks_no_abstract_class_about_an_array_of_texts(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is where a release shows that asks in another way."""
    texts = "SELECT $1::text[] AS found"
    await database.fetchrow(texts, [])  # Its type is known from here on, and not asked for with an array of numbers.
    asked: list[Any] = []

    class Recording(ABCMeta):
        def __instancecheck__(cls, instance: Any) -> bool:
            asked.append(instance)
            return isinstance(instance, Sized)

    class Asked(metaclass=Recording):
        pass

    for name, was in (("IterableABC", Iterable), ("SizedABC", Sized)):
        replaced = getattr(protocol, name)
        assert replaced[-1] is was
        monkeypatch.setattr(protocol, name, (*replaced[:-1], Asked))
    await database.fetchrow(texts, ["a", "b"])
    await database.fetchrow(texts, ("a",))
    assert asked == []
    await database.fetchrow(texts, deque(["a"]))
    assert asked == [deque(["a"]), deque(["a"])]

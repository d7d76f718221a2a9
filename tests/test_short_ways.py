"""Short ways of usual turns: each gives the same as the general one beside it."""

import asyncio
import copy
from operator import attrgetter
from typing import Any, cast
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.db import ids
from app.db.engine import Database
from app.db.sql import Statement
from app.http.errors import BadRequest
from app.items.input_item import with_facts
from app.memory.observations import ModelObservations
from app.memory.reader import Reader
from app.memory.store import MemoryStore
from app.provider.models import Models
from app.turns.pieces import Envelope, Pieces, body_of_input, write_body
from app.turns.schemas import Origin, Short, TurnCreate, new_turn

MODELS = Models(default="qwen3.7-plus")


@given(st.integers(0, 2**128 - 1))
def test_a_uuid_of_a_number_is_the_librarys(number: int) -> None:
    made, other = ids.uuid_of(number), UUID(int=number)
    assert (made, hash(made), repr(made), made.is_safe) == (other, hash(other), repr(other), other.is_safe)
    assert copy.copy(made) == other
    assert ids.parse(ids.thread_id(made), ids.THREAD_PREFIXES) == other
    assert ids.turn_id(made) == f"turn_{other.hex}"


@pytest.mark.parametrize(
    "digits", ["", "0" * 31, "0" * 33, "0" * 31 + "g", "+" + "0" * 31, "0_" * 16, " " * 32, "٠" * 32]
)
def test_what_is_not_32_hex_digits_is_no_id(digits: str) -> None:
    assert ids.parse(f"turn_{digits}", ids.TURN_PREFIXES) is None
    assert ids.parse(f"turn_{'aB' * 16}", ids.TURN_PREFIXES) == UUID("ab" * 16)


def test_new_ids_of_a_bucket_differ_and_sort_by_time() -> None:
    made = [ids.new_id(5) for _ in range(1000)]
    assert len(set(made)) == 1000
    assert [each.int >> 64 for each in made] == sorted(each.int >> 64 for each in made)
    assert {(each.version, ids.bucket_of(each)) for each in made} == {(8, 5)}


@pytest.mark.parametrize("names", [(), ("a",), ("b", "a", "c")])
def test_the_arguments_of_a_statement_are_given_in_their_order(names: tuple[str, ...]) -> None:
    statement = Statement("SELECT", names, "")
    given_ = {name: name.upper() for name in sorted(names)}
    assert statement(**given_) == ("SELECT", *(name.upper() for name in names))
    for wrong in ({**given_, "x": 1}, {**dict(list(given_.items())[1:]), "x": 1}):
        with pytest.raises(TypeError):
            statement(**wrong)


BODIES: list[dict[str, Any]] = [
    {"input": "Hello"}, {"input": "Hello", "stream": True}, {"input": "Hello", "stream": False},
    {"input": [{"role": "user", "content": "Hello"}], "stream": True}, {}, {"input": None}, {"input": ""}, {"input": 5},
    {"stream": True}, {"input": "Hello", "stream": None}, {"input": "Hello", "stream": 1},
    {"input": "Hello", "stream": "true"}, {"input": "Hello", "model": "qwen3-max"},
    {"input": "Hello", "background": True},
    {"input": "Hello", "metadata": {"a": "b"}}, {"input": "Hello", "if_busy": "wait", "on_disconnect": "cancel"},
]  # fmt: skip


def made_of(body: dict[str, Any]) -> Any:
    try:
        return new_turn(body, MODELS, Origin())
    except BadRequest as error:
        return error.status, error.code, error.message, error.param


@pytest.mark.parametrize("body", BODIES)
def test_a_short_body_is_read_as_its_model_reads_it(body: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    short = made_of(body)
    monkeypatch.setattr(Short, "FIELDS", frozenset[str]())
    assert short == made_of(body)


def test_a_short_body_has_what_the_model_has_as_far_as_it_is_read() -> None:
    names = ("input", "model", "stream", "metadata", "background", "parent_id", "replaces", "if_busy", "on_disconnect")
    read = attrgetter(*names)
    assert read(Short("Hello", stream=True)) == read(TurnCreate(input="Hello", stream=True))


VALUES = st.one_of(
    st.text(max_size=3), st.integers(-9, 9), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)
)
ITEM = st.dictionaries(st.sampled_from(["content", "role", "a"]), VALUES, max_size=3)


@given(st.lists(ITEM, max_size=3), st.lists(ITEM, max_size=3), st.booleans())
def test_a_body_of_the_own_input_holds_what_is_sent(own: list[Any], other: list[Any], same: bool) -> None:
    envelope, kept = Envelope(b'{"input":[', b"]}"), with_facts(own)
    for sent in ([dict(item) for item in own] if same else other, [dict(reversed(item.items())) for item in own]):
        body = body_of_input(envelope, kept, sent)
        assert body.sent == b'{"input":[' + orjson.dumps(sent)[1:-1] + b"]}"
        assert body == write_body(envelope, sent, own, [()] * len(sent), Pieces())


def test_a_target_is_made_again_once_something_of_the_model_was_learnt() -> None:
    async def run() -> None:
        observations = ModelObservations(cast(Database, None))
        reader = Reader(cast(MemoryStore, None), observations)
        model, family = "qwen3.7-plus", MODELS.of("qwen3.7-plus")
        before = reader.target("a", family, model)
        assert reader.target("a", family, model) is before
        observations.at("a").refused(model, 500_000)
        smaller = reader.target("a", family, model)
        assert smaller.abilities.token_budget < before.abilities.token_budget
        observations.at("a").read(model, 100_000, None)
        assert reader.target("a", family, model).abilities.token_budget < smaller.abilities.token_budget
        assert before.enforces_format
        observations.at("a").format_ignored(model)
        assert not reader.target("a", family, model).enforces_format
        other = family.model_copy(update={"tool_outputs": not family.tool_outputs})
        assert reader.target("a", other, model).abilities.takes_tool_outputs == other.tool_outputs
        assert reader.target("b", family, model).abilities == before.abilities

    asyncio.run(run())

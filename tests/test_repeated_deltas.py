"""Deltas that repeat an earlier one are passed on by their bytes: just as they would be if each of them were read."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cache.value_mac import ValueMac
from app.provider import repeats
from app.provider.client import ProviderError
from app.provider.events import data_of
from app.provider.reading import read_object
from app.sealing import at_rest
from app.turns import relay
from app.turns.event_log import EventLog
from app.turns.provider_call import ProviderCall
from app.turns.recorder import Recorder
from app.turns.relay import Relay
from app.turns.store import Opened
from app.turns.streamed import output_of

TEXT = "response.output_text.delta"
ID = UUID(int=1)

Order = Callable[[dict[str, Any]], dict[str, Any]]
Written = Callable[[int, dict[str, Any]], bytes]


class _Call:
    """A provider call that counts the first words."""

    def __init__(self) -> None:
        self.first = 0

    def first_output(self, _: float) -> None:
        self.first += 1


async def passed_on(chunks: list[bytes], params: dict[str, Any] | None = None) -> Any:
    """Return all that a stream leads to: its frames, what is kept of it, and its end."""
    turn = SimpleNamespace(request=SimpleNamespace(params=params or {}, streamed=True))
    log = EventLog(cast(Any, None), ValueMac(b"x" * 32), keep_seconds=1)
    passing = Relay(cast(Opened, turn), Recorder(log, ID, ID, at_rest.PLAIN, logs=False, flush_seconds=1.0))
    call = _Call()

    async def read() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    try:
        answer = await passing.pass_on(read(), cast(ProviderCall, call))
        end: Any = ([item.data for item in answer.output], answer.text)
    except ProviderError as error:
        end = error.failure
    frames = passing.recorder.events.since(0)
    heads = [frame.partition(b"data: ")[0] for frame in frames]
    assert all(frame.endswith(b"\n\n") and frame.count(b"\n") == 4 for frame in frames)
    pace = passing.recorder.pace
    assert len(pace.milliseconds) == len(pace.chars)
    told = [orjson.loads(data_of(frame)) for frame in frames]
    return heads, told, pace.chars, call.first, passing.has_output, passing.begun, output_of(frames), end


def block(number: int, event: dict[str, Any]) -> bytes:
    """An event as the provider writes it."""
    data = orjson.dumps(event)
    return b"id:%d\nevent:%b\n:HTTP_STATUS/200\ndata:%b\n\n" % (number + 1, event["type"].encode(), data)


def spaced(number: int, event: dict[str, Any]) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, event["type"].encode(), json.dumps(event).encode())


def without_id(_: int, event: dict[str, Any]) -> bytes:
    return b"data:%b\n\n" % orjson.dumps(event)


def with_crlf(number: int, event: dict[str, Any]) -> bytes:
    return block(number, event).replace(b"\n", b"\r\n")


def delta(number: int, text: str, item: str = "msg_1", type_: str = TEXT, **more: Any) -> dict[str, Any]:
    """A delta with its fields in the provider's order."""
    return {
        "sequence_number": number, "content_index": 0, "item_id": item, "delta": text, "output_index": 0, "type": type_,
        **more,
    }  # fmt: skip


def reordered(event: dict[str, Any]) -> dict[str, Any]:
    """The same event with its number behind its text."""
    return {name: event[name] for name in sorted(event)}


ORDERS: list[Order] = [dict, reordered]
COMPLETED = {
    "type": "response.completed",
    "response": {"id": "resp_1", "status": "completed", "output": [], "created_at": 1790500000},
}

words = st.sampled_from(
    ["lorem ", "", "字字", '"', "\\", '","', "a\nb", "%", "%b%d", "\n\n", "null", "é😀", "\t", "\x00"]
)
texts = words | st.text(max_size=6)
types = st.sampled_from(
    [TEXT, TEXT, TEXT, "response.reasoning_text.delta", "response.reasoning_summary_text.delta",
     "response.function_call_arguments.delta", "response.output_text.annotation.added"]
)  # fmt: skip
NOTHING: dict[str, Any] = {}
odd: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        *[NOTHING] * 12,
        {"sequence_number": 7}, {"sequence_number": None}, {"delta": None}, {"delta": 5}, {"type": 5},
        {"logprobs": None}, {"logprobs": []},
        {"item": {"delta": "x", "sequence_number": 3, "name": None}}, {"a%dd": "%b"},
        {"type": "error"},
        {"type": "response.failed", "response": {"status": "failed"}}, {"x": [[]] * 101}, {"output_index": 1},
    ]
)  # fmt: skip
damage = st.sampled_from(
    [(b'"delta":"', b'"delta":"\xff'), (b'"delta":"', b'"delta":"\\ud83d'), (b'"delta":"', b'"delta":"\\u0041'),
     (b'"delta":"', b'"delta":"\\x'), (b'"delta":"', b'"delta":"\x01'), (b'"delta":"', b'"delta":"a","b":"'),
     (b'"delta"', b'"\\u0064elta"'), (b"}\n", b"\n"), (b"data:", b"data:\ndata:"), (b"\n\n", b"\n\n\n"),
     (b"\n\n", b"\n"),
     (b"event:", b"data:{}\n\nevent:"), (b"data:", b"retry:"), (b"id:", b"\xef\xbb\xbfid:")]
)  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """A stream in which most events repeat one another, some are odd, and some are damaged, cut into chunks."""
    write: Written = draw(st.sampled_from([block, block, block, spaced, without_id, with_crlf]))
    order: Order = draw(st.sampled_from(ORDERS))
    number = draw(st.integers(0, 2))
    raw = b""
    for _ in range(draw(st.integers(1, 5))):
        type_, item = draw(types), draw(st.sampled_from(["msg_1", "msg_%d"]))
        more: dict[str, Any] = draw(odd)
        for text in draw(st.lists(texts, min_size=1, max_size=6)):
            event = {**delta(number, text, item, type_), **more}
            written = write(number, {**order(event), "type": str(event["type"])})
            if draw(st.integers(0, 11)) == 0:
                written = written.replace(*draw(damage))
            raw += written
            number += draw(st.sampled_from([1] * 9 + [0, 2]))
    if draw(st.booleans()):
        raw += write(number, {**COMPLETED, "sequence_number": number})
    places = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    return [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]


@given(streams(), st.sampled_from([None, {"reasoning": {"summary": "auto"}}]))
@settings(max_examples=4 * settings().max_examples)
async def test_any_stream_is_passed_on_as_if_each_event_were_read(
    chunks: list[bytes], params: dict[str, Any] | None
) -> None:
    with patch.object(repeats, "ATTEMPTS", 0):
        read = await passed_on(chunks, params)
    assert await passed_on(chunks, params) == read


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("text", ["lorem ", "字", 'He said: "no"\n', "100 % %d"])
async def test_repetitions_are_not_read(order: Order, text: str) -> None:
    """The saving itself: of a hundred deltas only the first is parsed."""
    deltas = [block(number, order(delta(number, text, logprobs=[]))) for number in range(100)]
    for chunks in ([b"".join(deltas)], deltas):
        with patch.object(relay, "read_object", side_effect=read_object) as reads:
            _, told, chars, first, *_ = await passed_on([*chunks, block(100, {**COMPLETED, "sequence_number": 100})])
        assert reads.call_count == 2
        assert [event["delta"] for event in told] == [text] * 100
        assert [event["sequence_number"] for event in told] == list(range(100))
        assert chars == [len(text)] * 100
        assert first == 1


async def test_repetitions_get_our_numbers() -> None:
    """After an attempt that failed, the provider's numbers begin again."""
    raw = b"".join(block(number, delta(number + 40, "a")) for number in range(50))
    heads, told, *_ = await passed_on([raw])
    assert [event["sequence_number"] for event in told] == list(range(50))
    assert heads == [b"id: %d\nevent: response.output_text.delta\n" % number for number in range(50)]


async def test_a_stream_whose_deltas_never_repeat_is_soon_read_as_a_whole() -> None:
    raw = b"".join(block(0, delta(0, "a")) for _ in range(50))
    with patch.object(repeats, "_learned", side_effect=repeats._learned) as learned:
        _, told, *_ = await passed_on([raw])
    assert len(told) == 50
    assert learned.call_count == repeats.ATTEMPTS


async def test_repetitions_that_have_to_be_read_are_not_searched_again_and_again() -> None:
    """Every second text holds a NUL. The time grows with the number of events, and not with its square."""
    raw = b"".join(block(number, delta(number, ("a", "\0")[number % 2])) for number in range(1000))
    searched = 0

    def lengths(texts: Sequence[bytes]) -> list[int]:
        nonlocal searched
        searched += len(texts)
        return found(texts)

    found = repeats._lengths
    with patch.object(repeats, "_lengths", side_effect=lengths):
        _, told, *_ = await passed_on([raw])
    assert [event["delta"] for event in told] == ["a", "\ufffd"] * 500
    assert searched < 10 * 1000


@pytest.mark.parametrize(
    "field",
    [
        b'"item":{"delta":"b","sequence_number":1}',
        b'"\\u0064elta":"x"',
        b'"delta":"x"',
        b'"x":{"delta":"a"}',
        b'"d":NaN',
    ],
)
async def test_a_place_that_only_looks_like_the_text_is_no_place(field: bytes) -> None:
    for written in (
        b'{%b,"sequence_number":%d,"delta":"%b","type":"%b"}',
        b'{"delta":"a",%b,"sequence_number":%d,"x":"%b","type":"%b"}',
    ):
        raw = b"".join(
            b"id:%d\ndata:%b\n\n" % (number, written % (field, number, b"ab"[number % 2 :], TEXT.encode()))
            for number in range(4)
        )
        with patch.object(repeats, "ATTEMPTS", 0):
            read = await passed_on([raw])
        assert await passed_on([raw]) == read


@pytest.mark.parametrize(
    "written",
    [
        b'{"x":{"delta":"%(text)b"},"sequence_number":%(number)d,"\\u0064elta":"a","type":"response.output_text.delta"}',
        b'{"delta":"%(text)b","x":{"sequence_number":%(number)d},"type":"response.output_text.delta"}',
        b'{"delta":"%(text)b","x":{"sequence_number":%(number)d},"sequence_number":0,"type":"response.output_text.delta"}',
    ],
)
async def test_a_text_or_number_inside_another_value_is_not_taken_for_the_events_own(written: bytes) -> None:
    texts = (b"a", b"", b"ab", b"abc")
    raw = b"".join(
        b"id:%d\ndata:%b\n\n" % (number, written % {b"text": text, b"number": number})
        for number, text in enumerate(texts)
    )
    with patch.object(repeats, "ATTEMPTS", 0):
        read = await passed_on([raw])
    assert await passed_on([raw]) == read


@pytest.mark.parametrize("item", ["msg_1", "msg_%d", "msg_%%", "%"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b"", b""),
        (b'"sequence_number":4', b'"sequence_number":5'),
        (b'"sequence_number":4', b'"sequence_number":04'),
        (b"id:5", b"id:6"),
        (b'"delta":"4"', b'"delta":"\\ud83d"'),
        (b'"delta":"4"', b'"delta":"\\uDE00x"'),
        (b'"delta":"4"', b'"delta":"\\ud83d\\ude00"'),
        (b'"delta":"4"', b'"delta":"\\u0000"'),
        (b'"delta":"4"', b'"delta":"\x00"'),
        (b'"delta":"4"', b'"delta":"%%d%b"'),
        (b'"delta":"4"', b'"delta":"\\\\"'),
    ],
)
async def test_one_odd_delta_among_repetitions_is_passed_on_as_if_it_were_read(
    order: Order, item: str, was: bytes, becomes: bytes
) -> None:
    deltas = [block(number, order(delta(number, str(number), item))) for number in range(9)]
    assert was in deltas[4]
    deltas[4] = deltas[4].replace(was, becomes)
    for chunks in ([b"".join(deltas)], [b"".join(deltas[:4]), b"".join(deltas[4:])], deltas):
        with patch.object(repeats, "ATTEMPTS", 0):
            read = await passed_on(chunks)
        with patch.object(relay, "read_object", side_effect=read_object) as reads:
            assert await passed_on(chunks) == read
        assert reads.call_count <= 3  # The first, the odd one, and the one after it.


async def test_half_characters_again_and_again_end_the_search_for_repetitions() -> None:
    """The search behind a text that has to be read is without success. It is not repeated for each such text."""
    raw = b"".join(block(i, delta(i, "a")).replace(b'"a"', b'"\\ud83d"' if i % 2 else b'"a"') for i in range(60))
    with patch.object(repeats, "_learned", side_effect=repeats._learned) as learned:
        _, told, *_ = await passed_on([raw])
    assert [event["delta"] for event in told] == ["a", "�"] * 30
    assert learned.call_count <= repeats.ATTEMPTS

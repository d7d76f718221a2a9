"""Server-sent events are read as the standard says, wherever they are cut; the official client is the oracle."""

import asyncio
import json
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder as OfficialDecoder

from app.provider.client import Provider
from app.provider.events import RawEvent, SSEDecoder
from app.provider.permit import Permit
from tests.service import Emulator

Pair = tuple[str, str]

# Half characters and other line ends of Unicode's are no line ends here: the official decoder cuts some of them.
texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12)
values = st.dictionaries(texts, texts | st.integers(0, 9), max_size=3)
ends = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def events(draw: st.DrawFn) -> tuple[list[str], Pair]:
    """The lines of an event, and what it says."""
    name = draw(st.sampled_from(["", "message", "response.output_text.delta"]))
    data = json.dumps(draw(values), ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    # One space behind the colon is no part of the data.
    lines = [f"data:{' ' if line[:1] == ' ' else draw(st.sampled_from(['', ' ']))}{line}" for line in data.split("\n")]
    if name:
        lines.insert(draw(st.sampled_from([0, len(lines)])), f"event:{draw(st.sampled_from(['', ' ']))}{name}")
    for noise in draw(
        st.lists(st.sampled_from([":HTTP_STATUS/200", ": hi", "id:7", "retry: 5", "unknown", "x:y"]), max_size=2)
    ):
        lines.insert(draw(st.integers(0, len(lines))), noise)
    return lines, (name, data)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Pair]]:
    """A stream of events as bytes, each line with an end of its own, and what it says."""
    found = draw(st.lists(events(), max_size=4))
    raw = draw(st.sampled_from(["", "\ufeff"]))
    for lines, _ in found:
        for line in [*lines, ""]:
            # A CR and the LF of an empty line behind it would be one end of a line, not two.
            raw += line + draw(ends if line or not raw.endswith("\r") else st.sampled_from(["\r", "\r\n"]))
    return raw.encode(), [said for _, said in found]


@st.composite
def cut(draw: st.DrawFn) -> tuple[list[bytes], list[Pair]]:
    raw, said = draw(streams())
    places = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    return [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)], said


def read(chunks: list[bytes]) -> list[Pair]:
    decoder = SSEDecoder()
    found: list[RawEvent] = [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.end()
    return [(event.name.decode(), event.data.decode()) for event in found]


def read_officially(raw: bytes) -> Iterator[Pair]:
    # It decodes a whole stream by lines; how the bytes are cut is ours to choose.
    decoder = OfficialDecoder()
    for line in raw.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        event = decoder.decode(line)
        if event is not None and event.data:
            yield event.event or "", event.data


@given(cut())
@settings(max_examples=5 * settings().max_examples)
def test_every_event_is_read_wherever_the_stream_is_cut(stream: tuple[list[bytes], list[Pair]]) -> None:
    chunks, said = stream
    assert read(chunks) == said
    assert list(read_officially(b"".join(chunks))) == said


PARTS = [b"data: {}", b"event: x", b":c", b"\n", b"\r", b"\r\n", b"data", b":", b" "]


@given(st.lists(st.sampled_from(PARTS), max_size=14), st.data())
@settings(max_examples=5 * settings().max_examples)
def test_any_lines_are_read_as_the_official_client_reads_them(parts: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(parts) + b"\n\n"
    places = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    chunks = [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]
    # An event without data is none for us, whatever its other lines say.
    assert [pair for pair in read(chunks) if pair[1]] == list(read_officially(raw))


def test_a_stream_that_ends_without_a_blank_line_has_its_last_event() -> None:
    for end in (b"", b"\n", b"\r"):
        assert read([b"data: 1\n\ndata: 2" + end]) == [("", "1"), ("", "2")]


def test_an_endless_line_costs_no_more_than_its_length() -> None:
    decoder = SSEDecoder()
    chunk = b"x" * 65_536
    for _ in range(2000):  # 131 MB: joined again with each chunk, it would be 130 GB.
        assert decoder.feed(chunk) == []
    assert decoder.end() == []


async def test_a_stream_that_speaks_fast_is_read_in_pieces_that_hold_nothing_back(emulator: Emulator) -> None:
    """`pause_reading` of aiohttp's protocol is what the pieces are made with: this is where a change of it shows."""
    body = b'{"model": "qwen3.5-plus", "stream": true, "input": "Echo: ' + b"word " * 200 + b'"}'

    async def chunks(gather_milliseconds: int) -> list[bytes]:
        emulator.fault("slow", seconds_per_event=0.001)
        provider = Provider(
            emulator.base_url,
            "sk-tests",
            connect_timeout_seconds=5,
            timeout_seconds=30,
            stall_seconds=10,
            max_answer_bytes=10**7,
            gather_milliseconds=gather_milliseconds,
        )
        try:
            async with provider.stream(Permit(), body, {}) as read:
                return [chunk async for chunk in read]
        finally:
            await provider.close()

    each, gathered = await chunks(0), await chunks(16)
    assert len(gathered) < len(each) / 3

    def said(found: list[bytes]) -> str:
        events = [json.loads(data) for _, data in read(found)]
        return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")

    assert said(gathered) == said(each)
    assert said(each).split() == ["word"] * 200


async def test_what_has_come_in_a_pause_is_read_whole() -> None:
    event = b'data: {"type":"response.output_text.delta","delta":"word"}\n\n'
    chunk = b"%x\r\n%b\r\n" % (len(event), event)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
        await asyncio.sleep(0.02)
        writer.write(chunk)  # After this one the reader pauses.
        await asyncio.sleep(0.02)
        writer.write(chunk * 10)
        await asyncio.sleep(0.6)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    provider = Provider(
        f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        "sk-tests",
        connect_timeout_seconds=5,
        timeout_seconds=30,
        stall_seconds=10,
        max_answer_bytes=10**7,
        gather_milliseconds=500,
    )
    try:
        async with provider.stream(Permit(), b"{}", {}) as chunks:
            assert [read.count(b"data:") async for read in chunks] == [1, 1, 10]
    finally:
        await provider.close()
        server.close()

"""The cost of everything that outside input reaches, against the size of the input: it grows no faster than the input.

A new parser, renderer, matcher or validator is a line of the table. What has no bound of this kind (schemas, Markdown)
runs in a process that is killed: tests/test_hostile_input.py.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from app.audit.merkle import Tree
from app.audit.verify import Verdict, check_tree
from app.chain.rebuild import Abilities, rebuild
from app.console import markdown
from app.console.pages.thread import part
from app.console.words import language_of
from app.history.messages import as_markdown
from app.http.bodies import checked, parsed
from app.http.errors import BadRequest
from app.items import lexemes, vocabulary, weights
from app.items.client_door import check_sendable, items_of
from app.items.input_item import with_facts
from app.memory.answer_text import without_reasoning
from app.memory.summary_check import LONGEST_TEXT, fault_of
from app.provider import failure
from app.provider.client import ProviderError
from app.provider.events import SSEDecoder
from app.provider.reading import NotJSON, read_json
from app.sealing.at_rest import PLAIN
from app.search.fragments import fragments
from app.search.matching import Matcher
from app.settings import Connected
from app.threads.schemas import ThreadCreate
from app.transfer.formats import _entries, _entry
from app.transfer.schemas import ThreadRecord
from app.turns.pace import deltas
from app.turns.recorder import Recorder
from app.turns.relay import Relay
from app.turns.schemas import TurnCreate

Work = Callable[[], Any]

MOST_RATIO = 8.0
"""The cost of an input of four times the size: 4 is linear, 16 is quadratic. Between them lies the noise."""

LEAST_SECONDS = 0.002
"""The least time that the smallest input takes. A quicker one is enlarged first: a ratio of nothing says nothing."""

ID = UUID(int=1)

LARGEST_FACTOR = 64
TRIES = 4

SETTINGS = Connected.model_construct(max_json_depth=64, max_json_values=200_000)


def parse(raw: bytes) -> None:
    with suppress(BadRequest):
        parsed(raw, SETTINGS)


def read(raw: bytes) -> None:
    with suppress(NotJSON):
        read_json(raw)


def check(model: Any, body: dict[str, Any]) -> None:
    with suppress(BadRequest):
        checked(model, body)


def take(items: list[Any]) -> None:
    with suppress(BadRequest):
        found = items_of(items)
        check_sendable(with_facts(found), "input")
        rebuild(found, [user("a")], Abilities(10_000))


def search(text: str, asked: str) -> None:
    terms = lexemes.terms(asked)
    Matcher(terms).rank(text)
    fragments(text, [run for term in terms for run in term.runs])


def decode(chunks: list[bytes]) -> None:
    decoder = SSEDecoder()
    for chunk in chunks:
        decoder.feed(chunk)
    decoder.end()


def pass_on(chunk: bytes) -> None:
    turn = SimpleNamespace(request=SimpleNamespace(params={}, streamed=True))

    async def whole() -> None:
        passing = Relay(cast(Any, turn), Recorder(cast(Any, None), ID, ID, PLAIN, logs=False, flush_seconds=1.0))
        with suppress(ProviderError):
            await passing.pass_on(one(), cast(Any, SimpleNamespace(first_output=bool)))

    async def one() -> AsyncIterator[bytes]:
        yield chunk

    asyncio.run(whole())


def delta(number: int, text: str, more: str = "") -> bytes:
    event = f'"type":"response.output_text.delta","delta":"{text}","item_id":"a"{more},"sequence_number":{number}'
    return f"id:{number + 1}\nevent:response.output_text.delta\ndata:{{{event}}}\n\n".encode()


def odd_deltas(text: str = "a", more: str = "") -> Callable[[int], Work]:
    """Return what makes a stream in which every second delta repeats the one before it except its text or its end."""

    def make(n: int) -> Work:
        chunk = b"".join(delta(i, text, more) if i % 2 else delta(i, "a") for i in range(n // 4))
        return lambda: pass_on(chunk)

    return make


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def call(number: int) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": "{}"}


def output(number: int) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"c{number}", "output": "a"}


MARKS = ("\u0301\u0316", "\u05b0\u0591", "\uff9e\u0316")
SCRIPTS = {
    "words": "lorem ipsumq dolor ",
    "a": "a",
    "a b": "a ",
    "xa": "xa ",
    "cjk": "字",
    "cjk words": "字 ",
    "ß": "ßa ",
}
QUERIES = {
    "word": "ipsumq",
    "letters": "a b c d e f g h",
    "phrase": '"a a a a"',
    "chain": "a.a.a.a.b",
    "cjk": "字字 字.字",
}


def tokens(text: str, size: int) -> Work:
    said = text * (size // len(text))
    return lambda: vocabulary.text_tokens(said)


def folding(text: str, size: int) -> Work:
    said = "a" + text * size
    return lambda: lexemes.folded(said)


def refused(names: list[str]) -> None:
    found = failure.from_error({"message": f"Invalid tools: {', '.join(names)}", "code": "invalid"})
    failure.without_tools(found, names)


def summing(text: str, size: int) -> Work:
    said = text * (size // 2)

    def work() -> None:
        without_reasoning(said[:LONGEST_TEXT])
        fault_of(said[:LONGEST_TEXT], said, [said])

    return work


def played(pace: dict[str, Any]) -> None:
    for start in range(len(pace["ms"])):
        deltas("a", pace, start)


def gapped(number: int) -> list[tuple[int, UUID, int, bytes]]:
    """Leaves of an exported trail: the first half where they belong, the others elsewhere."""
    return [(each if each < number else 0, UUID(int=1), each, b"h") for each in range(2 * number)]


def grow(leaves: list[tuple[int, UUID, int, bytes]]) -> None:
    checkpoints = {size: {"root": b"wrong"} for size in range(1, len(leaves) // 2)}
    check_tree(UUID(int=1), leaves, checkpoints, Tree(), [], Verdict())


def fenced(text: str, size: int) -> Work:
    said = text * (10 * size)
    data = {"type": "function_call_output", "call_id": "c", "output": said}
    rows = [{"type": data["type"], "item_id": "fco_1", "data": data}]
    return lambda: as_markdown(None, rows)


def searching(text: str, asked: str, size: int) -> Work:
    said = (text * size)[: 4 * size]
    return lambda: search(said, asked)


# Work on an input of size n: each function makes the input, and returns the work to measure.
TABLE: dict[str, Callable[[int], Work]] = {
    # A body, a message of a WebSocket
    "body: open arrays": lambda n: (lambda raw: lambda: parse(raw))(b"[" * (20 * n)),
    "body: empty arrays": lambda n: (lambda raw: lambda: parse(raw))(b'{"a":[' + b"[]," * (9 * n)),
    "body: quotes": lambda n: (lambda raw: lambda: parse(raw))(b'"' * (20 * n)),
    "body: backslashes": lambda n: (lambda raw: lambda: parse(raw))(b'{"a":"' + b"\\" * (20 * n)),
    "body: escaped quotes": lambda n: (lambda raw: lambda: parse(raw))(b'{"a":["' + rb"\"," * (20 * n) + b'"]}'),
    "body: an unterminated string": lambda n: (lambda raw: lambda: parse(raw))(
        b'{"a":[' + b"[]," * 70 + b'"' + rb"\"" * n
    ),
    "body: a NUL behind a long key": lambda n: (lambda raw: lambda: parse(raw))(
        b'{"' + b"k" * (10 * n) + b'":[' + b"1," * n + b'"\\u0000"]}'
    ),
    "body: digits": lambda n: (lambda raw: lambda: parse(raw))(b'{"a":' + b"9" * n + b"}"),
    # Its fields
    "fields: unknown": lambda n: (lambda body: lambda: check(ThreadCreate, body))({f"k{i}": 1 for i in range(n)}),
    "fields: metadata": lambda n: (lambda body: lambda: check(ThreadCreate, body))(
        {"metadata": {f"k{i}": 1 for i in range(n)}}
    ),
    "fields: tools": lambda n: (lambda body: lambda: check(TurnCreate, body))({"tools": [{"type": "f"}] * n}),
    "fields: wrong tools": lambda n: (lambda body: lambda: check(TurnCreate, body))({"tools": [{}] * n}),
    "fields: a record": lambda n: (lambda body: lambda: check(ThreadRecord, body))({"turns": [{}] * n}),
    # Its items
    "items: messages": lambda n: (lambda items: lambda: take(items))([user("a")] * (n // 10)),
    "items: parts": lambda n: (lambda items: lambda: take(items))([user(["a"] * (n // 5))]),
    "items: calls and outputs": lambda n: (lambda items: lambda: take(items))(
        [make(i) for i in range(n // 20) for make in (call, output)]
    ),
    "items: all calls first": lambda n: (lambda items: lambda: take(items))(
        [*map(call, range(n // 20)), *map(output, reversed(range(n // 20)))]
    ),
    "items: one call id": lambda n: (lambda items: lambda: take(items))(
        [output(1)] * (n // 20) + [call(1)] * (n // 20)
    ),
    "items: the weight of a deep value": lambda n: (lambda item: lambda: weights.tokens(item))(
        {"type": "x", "a": [["b"] * n]}
    ),
    # Tokens
    **{
        f"tokens: {text!r}": partial(tokens, text)
        for text in ("a", " ", "\n", "字", "=", "9", "\u0301", "z" * 999 + " ")
    },
    # The provider
    "provider: a long event": lambda n: (lambda chunks: lambda: decode(chunks))([b"data: x", *[b"y" * 10] * n]),
    "provider: deltas, each other one with a half character": odd_deltas("\\ud83d"),
    "provider: deltas, each other one of another form": odd_deltas(more=',"b":1'),
    "provider: repeated deltas": odd_deltas(),
    "provider: empty lines": lambda n: (lambda chunks: lambda: decode(chunks))([b"\r\n" * 50] * (n // 10)),
    "provider: data lines": lambda n: (lambda chunks: lambda: decode(chunks))([b"data: a\n" * 50] * (n // 10)),
    "provider: JSON that is broken": lambda n: (lambda raw: lambda: read(raw))(
        b'{"a":[' + b'"\\ud800\\u0000",' * n + b"1]}"
    ),
    "provider: open arrays": lambda n: (lambda raw: lambda: read(raw))(b"[" * (20 * n)),
    "provider: an error": lambda n: (lambda raw: lambda: failure.from_http(400, raw, None))(
        json.dumps({"message": "range of input length should be [" + " 1" * (5 * n)}).encode()
    ),
    "provider: Retry-After": lambda n: (lambda said: lambda: failure.seconds(said))("1 " * n),
    "provider: names of tools in an error": lambda n: (lambda names: lambda: refused(names))(
        [f"a-{i}" for i in range(n)]
    ),
    # Summaries and titles
    **{
        f"summary: {text!r}": partial(summing, text)
        for text in (
            "<think></think>", " ", "sorry ", "9,9", "a_b@", "字", "\u201ca", "Ada, Bob ", "Decided ",
        )
    },
    # Search
    **{
        f"folding: {text!r}": partial(folding, text)
        for text in (*MARKS, "é", "ß", "ﷺ", "\u1100\u1161")
    },
    **{
        f"search: {query} in {script}": partial(searching, SCRIPTS[script], QUERIES[query])
        for query in QUERIES
        for script in SCRIPTS
    },
    "search: a query": lambda n: (lambda asked: lambda: lexemes.terms(asked))('-"a' * (n // 10)),
    # The console: what is not rendered in a process of its own
    "console: arguments of a call": lambda n: (lambda item: lambda: part(item))(
        {"type": "function_call", "name": "f", "arguments": "[" + "[]," * n + "1]"}
    ),
    "console: languages": lambda n: (lambda said: lambda: language_of(said))("a;q=0.5," * (n // 10)),
    "console: brackets": lambda n: (lambda text: lambda: markdown.rendered([text]))("[" * (n // 20)),
    "console: emphasis": lambda n: (lambda text: lambda: markdown.rendered([text]))("*a **b " * (n // 100)),
    "console: quotes": lambda n: (lambda text: lambda: markdown.rendered([text]))("> " * (n // 100)),
    "audit: an export with a gap": lambda n: (lambda leaves: lambda: grow(leaves))(gapped(n // 4)),
    # Reading back
    **{
        f"markdown of a thread: {text!r}": partial(fenced, text)
        for text in ("`", "``` ", "a")
    },
    "replay: an answer of many parts": lambda n: (lambda pace: lambda: played(pace))({"ms": [1] * n, "chars": [1] * n}),
    # Files
    "import: lines": lambda n: (lambda raw: lambda: _entries(raw))(b'{"messages":[]}\n' * (n // 10)),
    "import: a broken file": lambda n: (lambda raw: lambda: _entries(raw))(b'{"a":' * n),
    "import: a chain": lambda n: (lambda value: lambda: _entry("", value))(linked(n // 50, back=1, role="human")),
    "import: a star": lambda n: (lambda value: lambda: _entry("", value))(linked(n // 50, back=None, role="human")),
    "import: a chain of no messages": lambda n: (lambda value: lambda: _entry("", value))(
        linked(n // 50, back=1, role="nobody")
    ),
    "import: a ring": lambda n: (lambda value: lambda: _entry("", value))(linked(n // 50, back=-1, role="human")),
}  # fmt: skip


def linked(n: int, back: int | None, role: str) -> dict[str, Any]:
    """Return an export of messages that each follow the one `back` places before, or all the first."""
    messages = [
        {"uuid": str(i), "parent_message_uuid": str(0 if back is None else (i - back) % n), "sender": role, "text": "x"}
        for i in range(n)
    ]
    return {"uuid": "x", "chat_messages": messages}


def cost(work: Work) -> float:
    """The CPU seconds of this process, at best."""
    best = float("inf")
    for _ in range(TRIES):
        begun = time.process_time()
        work()
        best = min(best, time.process_time() - begun)
    return best


@pytest.mark.parametrize("name", TABLE)
def test_the_cost_grows_no_faster_than_the_input(name: str) -> None:
    make, size = TABLE[name], 2000
    make(size)()  # What is loaded once is loaded.
    while cost(make(size)) < LEAST_SECONDS and size < 2000 * LARGEST_FACTOR:
        size *= 4
    # Caches and the allocator have thresholds: what is linear is so at one of these sizes, what is quadratic at none.
    measured = []
    for scale in (1, 2, 4):
        first, second, fourth = (cost(make(scale * times * size)) for times in (1, 2, 4))
        measured.append([first, second, fourth])
        if fourth / max(first, LEAST_SECONDS) <= MOST_RATIO:
            return
    pytest.fail(f"seconds of CPU time at 1x, 2x and 4x: {measured}")

"""Facts about the provider on which the service relies, each with the request that probes it.

The expectations come from captures of the provider's answers (tests/captures), its reference pages and public reports,
never from the emulator. `tests/test_provider_check.py` reads the captures with the same functions.
"""

import json
import struct
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from app.chain.continuation import PLAUSIBLE_SKEW_SECONDS, seconds
from app.items.kinds import sent_back
from app.items.shapes import Item, fields_of, objects
from app.items.token_counts import usage_of
from app.items.weights import count
from app.provider.client import CHAT_PATH, PATH, SESSION_CACHE
from app.provider.failure import Cause, Kind
from app.provider_check.answers import LONGEST_SEEN, Answer
from app.settings import REGION_CODES, region_base_url

Earlier = Mapping[str, Answer]
"""Answers of earlier probes, by name."""

MODEL, THINKING, OLDER = "the model", "the thinking model", "the older model"
"""Placeholders for the models of a check."""

PROBED = "a probe of the endpoint, September 2026"
PAGE = "the provider's reference pages"
REPORTS = "public reports"

UNKNOWN_ID = "resp_00000000-0000-4000-8000-000000000000"
WRONG_KEY = "sk-invalid"


@dataclass(frozen=True, slots=True)
class Request:
    body: Item | None = None
    method: str = "POST"
    path: str = PATH
    headers: Mapping[str, str] = field(default_factory=dict)
    base_url: str | None = None
    """An endpoint other than the one that is checked."""
    key: str | None = None
    """A key other than the user's."""


@dataclass(frozen=True, slots=True)
class Probe:
    name: str
    fact: str
    source: str
    expected: str
    holds: Callable[[Answer, Earlier], bool]
    request: Callable[[Earlier], Request] | None = None
    """None: the answer of the first probe in `after` is examined."""
    after: tuple[str, ...] = ()
    captures: tuple[str, ...] = ()
    """Files in tests/captures with such an answer; `FILE#CASE` is one error of a list."""
    seen: Callable[[Answer], str] = str


@dataclass(frozen=True, slots=True)
class NotProbed:
    fact: str
    why: str


NOT_PROBED = (
    NotProbed("A response id is valid for seven days", "it takes seven days"),
    NotProbed("The session cache holds a context for five minutes", "it takes five minutes"),
    NotProbed("A context over 80% of the window is cut without an error", "it takes about a million tokens"),
    NotProbed("A request body has at most 10,000,000 bytes", "it takes an upload of ten megabytes"),
    NotProbed("Requests that come too fast get a 429", "it would throttle the account"),
    NotProbed("Instructions do not carry over along a chain", "a model's words cannot show it"),
)


def asks(input_: Any, **fields: Any) -> Callable[[Earlier], Request]:
    """Return a request to `MODEL` without thinking."""
    body = {"model": MODEL, "input": input_, "reasoning": {"effort": "none"}, "max_output_tokens": 512, **fields}
    return lambda earlier: Request({name: value for name, value in body.items() if value is not None})


def chains(name: str, input_: Any, **fields: Any) -> Callable[[Earlier], Request]:
    """Return a request that continues the answer of another probe."""
    return lambda earlier: asks(input_, previous_response_id=earlier[name].value.get("id"), **fields)(earlier)


def looks_up(name: str, method: str = "GET") -> Callable[[Earlier], Request]:
    """Return a request for the response of another probe."""
    return lambda earlier: Request(method=method, path=f"{PATH}/{earlier[name].value.get('id')}")


def looks_up_unknown(key: str | None = None, base_url: str | None = None) -> Callable[[Earlier], Request]:
    """Return a request for a response that does not exist."""
    return lambda earlier: Request(method="GET", path=f"{PATH}/{UNKNOWN_ID}", key=key, base_url=base_url)


def with_session_cache(request: Callable[[Earlier], Request]) -> Callable[[Earlier], Request]:
    return lambda earlier: replace(request(earlier), headers={SESSION_CACHE: "enable"})


def answered(answer: Answer, earlier: Earlier) -> bool:
    value = answer.value
    return (
        answer.failure is None
        and value.get("object") == "response"
        and isinstance(value.get("id"), str)
        and value.get("status") == "completed"
        and bool(answer.text)
    )


def says(word: str) -> Callable[[Answer, Earlier], bool]:
    return lambda answer, earlier: answered(answer, earlier) and word in answer.text


def fails(kind: Kind, cause: Cause | None = None, word: str = "") -> Callable[[Answer, Earlier], bool]:
    """Return a check for an error that the service classifies in this way."""

    def holds(answer: Answer, earlier: Earlier) -> bool:
        found = answer.failure
        return (
            found is not None
            and found.kind is kind
            and (cause is None or found.cause is cause)
            and word in found.message
        )

    return holds


def is_dated(answer: Answer, earlier: Earlier) -> bool:
    created_at = answer.value.get("created_at")
    found = seconds(created_at)
    return found is not None and found == created_at and abs(found - time.time()) <= PLAUSIBLE_SKEW_SECONDS


def is_counted(answer: Answer, earlier: Earlier) -> bool:
    paths = (("input_tokens_details", "cached_tokens"), ("output_tokens_details", "reasoning_tokens"))
    read, written, total = (answer.counted(f"{name}_tokens") for name in ("input", "output", "total"))
    counts = [read, written, total, *(answer.counted(*path) for path in paths)]
    return all(isinstance(each, int) for each in counts) and read > 0 and total == read + written


def is_whole_stream(answer: Answer, earlier: Earlier) -> bool:
    types = [event.get("type") for event in answer.events]
    text = "".join(str(e.get("delta")) for e in answer.events if e.get("type") == "response.output_text.delta")
    return (
        answered(answer, earlier)
        and types[:1] == ["response.created"]
        and [event.get("sequence_number") for event in answer.events] == list(range(len(types)))
        and text == answer.text
    )


def calls_a_tool(answer: Answer, earlier: Earlier) -> bool:
    call = answer.first("function_call")
    try:
        arguments = json.loads(call.get("arguments", ""))
    except (TypeError, ValueError):
        return False
    return isinstance(call.get("call_id"), str) and call.get("name") == "get_weather" and isinstance(arguments, dict)


def has_reasoning(answer: Answer, earlier: Earlier) -> bool:
    item = answer.first("reasoning")
    encrypted = item.get("encrypted_content")
    return answered(answer, earlier) and bool(item.get("summary")) and isinstance(encrypted, str) and bool(encrypted)


def is_chat(answer: Answer, earlier: Earlier) -> bool:
    texts = [fields_of(choice.get("message")).get("content") for choice in objects(answer.value.get("choices"))]
    return answer.failure is None and any(texts) and count(answer.counted("prompt_tokens")) > 0


def is_cut_by_limit(answer: Answer, earlier: Earlier) -> bool:
    reason = fields_of(answer.value.get("incomplete_details")).get("reason")
    return answer.failure is None and (reason == "max_output_tokens" or not answer.text)


def cache_written(answer: Answer) -> int:
    return usage_of(answer.value.get("usage")).written


def cache_read(answer: Answer) -> int:
    return usage_of(answer.value.get("usage")).cached


def _png() -> str:
    """Return a red square as a data URL, large enough for the provider's vision models (over ten pixels a side)."""
    side = 32

    def chunk(type_: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + type_ + data + struct.pack(">I", zlib.crc32(type_ + data))

    head, rows = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), (b"\0" + b"\xff\0\0" * side) * side
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{b64encode(png).decode()}"


WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALLED: list[Item] = [
    {"role": "user", "content": "What is the weather in Oslo?"},
    {"type": "function_call", "name": "get_weather", "arguments": '{"city": "Oslo"}', "call_id": "call_1"},
    {"type": "function_call_output", "call_id": "call_1", "output": "12 degrees and rain"},
]
LONG = " ".join(f"Entry {number} of the list is the number {7 * number}." for number in range(250))
"""Text with more tokens than the minimum of the session cache (1,024)."""

QUESTION = {"role": "user", "content": "How many times is the letter r in strawberry? Answer with a number."}
COLOUR = {
    "type": "json_schema",
    "name": "colour",
    "schema": {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]},
}

WITH_THINKING: Item = {
    "model": THINKING, "reasoning": {"effort": "low", "summary": "auto"}, "max_output_tokens": 2000,
}  # fmt: skip

ERRORS = "errors-plain-2026-09.json"


def _gives_output(earlier: Earlier) -> Request:
    call_id = earlier["tool-call"].first("function_call").get("call_id")
    output = {"type": "function_call_output", "call_id": call_id, "output": "12 degrees and rain"}
    return chains("tool-call", [output], tools=[WEATHER])(earlier)


def _sends_thoughts_back(earlier: Earlier) -> Request:
    thought = sent_back(earlier["reasoning"].first("reasoning"))["item"]
    answer = {"role": "assistant", "content": earlier["reasoning"].text}
    again = [QUESTION, thought, answer, {"role": "user", "content": "And in berry? Answer with a number."}]
    return asks(again, **WITH_THINKING)(earlier)


def _fits_colour(answer: Answer) -> str:
    try:
        fits = isinstance(fields_of(json.loads(answer.text)).get("colour"), str)
    except ValueError:
        fits = False
    return f"{answer.status}, and the answer {'fits' if fits else 'does not fit'} the schema"


def _refused(name: str, fact: str, case: str, cause: Cause = Cause.PARAMETER, **fields: Any) -> Probe:
    """Return a probe of a request that the provider refuses with a captured error."""
    expected = f"refused: {cause.replace('_', ' ')}"
    return Probe(
        name, fact, PROBED, expected, fails(Kind.REFUSED, cause), asks("Hi", **fields), (), (f"{ERRORS}#{case}",)
    )


PROBES: tuple[Probe, ...] = (
    Probe(
        "lookup-unknown", "A look-up of an unknown response says so", PAGE, "unknown response",
        fails(Kind.UNKNOWN_PREVIOUS), looks_up_unknown(),
        captures=(f"{ERRORS}#GET, DELETE or input_items of an unknown id",),
    ),
    Probe(
        "wrong-key", "A wrong key is refused", PROBED, "refused account", fails(Kind.CREDENTIALS),
        looks_up_unknown(key=WRONG_KEY),
        captures=(f"{ERRORS}#a key of another region",),
    ),
    Probe(
        "plain", "A plain call is answered", PROBED, "200 completed, with text", answered,
        asks("My name is Ada. Answer with one word: OK."),
        captures=("plain-keys-qwen3.5-flash-2026-09.json", "plain-qwen3.8-max-2026-08.json"),
    ),
    Probe(
        "created-at", "created_at is in seconds, by a clock that agrees with this one", PAGE,
        f"within {PLAUSIBLE_SKEW_SECONDS:g} s of this clock", is_dated, after=("plain",),
        seen=lambda answer: str(answer.value.get("created_at")),
    ),
    Probe(
        "usage", "usage counts tokens, with cached and reasoning tokens", PROBED, "five numbers", is_counted,
        after=("plain",), seen=lambda answer: json.dumps(answer.value.get("usage"))[:LONGEST_SEEN],
        captures=(
            "plain-keys-qwen3.5-flash-2026-09.json", "plain-qwen3.8-max-2026-08.json",
            "sdk-dump-second-turn-session-cache-qwen3.5-plus-2026-03.json",
        ),
    ),
    Probe(
        "stream", "A stream begins with created, numbers its events from 0, and ends with the whole answer", PROBED,
        "completed, deltas and text equal", is_whole_stream, asks("Count from one to five in words.", stream=True),
        captures=("stream-text-raw-2025-10.sse",),
    ),
    Probe(
        "chained", "A call with previous_response_id knows the conversation before it", PAGE, "an answer with the name",
        says("Ada"), chains("plain", "What is my name? Answer with the name only."), ("plain",),
    ),
    Probe(
        "chained-usage", "A chained call counts the whole context", PAGE, "more input tokens than the first call",
        lambda answer, earlier: count(answer.counted("input_tokens")) > count(earlier["plain"].counted("input_tokens")),
        after=("chained", "plain"), seen=lambda answer: f"{answer.counted('input_tokens')} input tokens",
    ),
    Probe(
        "unknown-previous", "An unknown previous_response_id is refused in words that the service knows", PROBED,
        "unknown response", fails(Kind.UNKNOWN_PREVIOUS), asks("Hi", previous_response_id=UNKNOWN_ID),
        captures=(f"{ERRORS}#unknown or unstored previous_response_id",),
    ),
    Probe(
        "unknown-previous-stream", "The same in a stream, before any part of an answer", PROBED, "unknown response",
        fails(Kind.UNKNOWN_PREVIOUS), asks("Hi", previous_response_id=UNKNOWN_ID, stream=True),
        captures=("stream-failed-unknown-previous-2026-09.sse", "stream-flat-error-unknown-previous-made.sse"),
    ),
    Probe(
        "unstored", "A call with store: false is answered", PROBED, "200 completed, with text", answered,
        asks("Hi", store=False),
    ),
    Probe(
        "unstored-chained", "A response that was not stored cannot be continued", PROBED, "unknown response",
        fails(Kind.UNKNOWN_PREVIOUS), chains("unstored", "Hi"), ("unstored",),
        (f"{ERRORS}#unknown or unstored previous_response_id",),
    ),
    Probe(
        "tool-call", "A function tool in the flat form is called", PAGE, "function_call with a JSON object",
        calls_a_tool, asks("What is the weather in Oslo?", tools=[WEATHER], tool_choice="required"),
    ),
    Probe(
        "tool-output", "Its output is taken on the chain, with the tools sent again", REPORTS,
        "200 completed, with text", answered, _gives_output, ("tool-call",),
    ),
    Probe(
        "history", "A history of system, user and assistant messages is taken as input", PAGE,
        "an answer with the name", says("Ada"),
        asks([
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "What is my name? Answer with the name only."},
        ]),
    ),
    Probe(
        "tool-history", "So are function_call and function_call_output", PAGE, "200 completed, with text", answered,
        asks(CALLED),
    ),
    Probe(
        "two-systems", "A second system message is refused", REPORTS, "refused", fails(Kind.REFUSED),
        asks([
            {"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Hi"},
            {"role": "system", "content": "Answer in English."}, {"role": "user", "content": "Hi"},
        ], stream=True),
        captures=("stream-failed-system-messages-2026-05.sse",),
    ),
    Probe(
        "image", "A user's image is taken as a data URL", PAGE, "200 completed, with text", answered,
        asks([{
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Which colour is this? Answer with one word."},
                {"type": "input_image", "image_url": _png()},
            ],
        }]),
    ),
    Probe(
        "reasoning", "The thinking model gives a summary and encrypted reasoning where they are asked for", PAGE,
        "reasoning with summary and encrypted_content", has_reasoning,
        asks([QUESTION], **WITH_THINKING),
    ),
    Probe(
        "reasoning-back", "It takes its encrypted reasoning back unchanged", PAGE, "200 completed, with text", answered,
        _sends_thoughts_back, ("reasoning",),
    ),
    Probe(
        "reasoning-without-summary", "Reasoning without a summary list is refused", REPORTS,
        "refused, naming 'summary'", fails(Kind.REFUSED, word="summary"),
        asks([QUESTION, {"type": "reasoning", "encrypted_content": "none"}, QUESTION], model=THINKING),
    ),
    Probe(
        "thinking-limit", "Thinking and answer share max_output_tokens", REPORTS,
        "incomplete (max_output_tokens), or no text", is_cut_by_limit,
        asks([QUESTION], model=THINKING, reasoning={"effort": "high"}, max_output_tokens=16),
    ),
    Probe(
        "older-tools", "Older models refuse tool outputs", REPORTS, "refused", fails(Kind.REFUSED, word="tool"),
        asks(CALLED, model=OLDER),
        captures=("stream-failed-tool-role-2026-07.sse",),
    ),
    Probe(
        "cache-write", "The session cache writes a long context, and counts it in x_details", PAGE, "tokens written",
        lambda answer, earlier: cache_written(answer) > 0,
        with_session_cache(asks(f"{LONG} Answer with one word: OK.")),
        captures=("sdk-dump-second-turn-session-cache-qwen3.5-plus-2026-03.json",),
        seen=lambda answer: f"{answer.status}, {cache_written(answer)} tokens written",
    ),
    Probe(
        "cache-read", "The next call of the chain reads it", PAGE, "tokens read",
        lambda answer, earlier: cache_read(answer) > 0,
        with_session_cache(chains("cache-write", "Once more: OK.")), ("cache-write",),
        ("sdk-dump-second-turn-session-cache-qwen3.5-plus-2026-03.json",),
        lambda answer: f"{answer.status}, {cache_read(answer)} tokens read",
    ),
    Probe(
        "lookup", "A stored response can be looked up", PAGE, "200 completed, with text", answered, looks_up("plain"),
        ("plain", "chained"), ("get-response-qwen-plus-2026-05.json",),
    ),
    Probe(
        "unknown-field", "An unknown field is ignored", PROBED, "200 completed, with text", answered,
        asks("Hi", no_such_field=1),
    ),
    Probe(
        "delete", "A response can be deleted", PAGE, "deleted: true",
        lambda answer, earlier: answer.failure is None and answer.value.get("deleted") is True,
        looks_up("unknown-field", "DELETE"), ("unknown-field",), ("delete-response-2026.json",),
        lambda answer: f"{answer.status}, deleted: {json.dumps(answer.value.get('deleted'))}",
    ),
    Probe(
        "deleted-chained", "A deleted response cannot be continued", PAGE, "unknown response",
        fails(Kind.UNKNOWN_PREVIOUS), chains("unknown-field", "Hi"), ("unknown-field", "delete"),
        (f"{ERRORS}#unknown or unstored previous_response_id",),
    ),
    Probe(
        "json-schema", "text.format with a JSON schema is taken, enforced or not", PROBED, "200 completed", answered,
        asks("Which colour is the sky? Answer with one word.", text={"format": COLOUR}),
        seen=_fits_colour,
    ),
    Probe(
        "chat", "Chat Completions answers, and counts tokens", PAGE, "text and usage", is_chat,
        lambda earlier: Request({
            "model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "enable_thinking": False,
            "max_tokens": 512,
        }, path=CHAT_PATH),
        seen=lambda answer: f"{answer.status}, {json.dumps(answer.value.get('usage'))}"[:LONGEST_SEEN],
    ),
    _refused("unknown-model", "An unknown model is refused", "unknown model", Cause.MODEL, model="no-such-model"),
    Probe(
        "unknown-model-stream", "The same in a stream", PROBED, "refused: model", fails(Kind.REFUSED, Cause.MODEL),
        asks("Hi", model="no-such-model", stream=True),
        captures=(
            "stream-failed-unknown-model-2026-09.sse", "stream-flat-error-unsupported-model-2026-08.sse",
        ),
    ),
    _refused("temperature", "temperature is below 2", "temperature 5", temperature=5),
    _refused("top-p", "top_p is at most 1", "top_p 9", top_p=9),
    _refused("output-limit", "max_output_tokens is at least 16", "max_output_tokens 1", max_output_tokens=1),
    _refused("effort", "An unknown effort is refused", "reasoning.effort bogus", reasoning={"effort": "bogus"}),
    Probe(
        "effort-and-budget", "An effort together with thinking_budget is refused", REPORTS, "refused",
        fails(Kind.REFUSED), asks("Hi", model=THINKING, reasoning={"effort": "low"}, thinking_budget=100),
    ),
    _refused("store", "store is a boolean", "store not a boolean", store="X"),
    _refused(
        "previous-and-conversation", "previous_response_id and conversation exclude each other",
        "previous_response_id with conversation", previous_response_id=UNKNOWN_ID, conversation="conv_1",
    ),
    _refused(
        "nested-tool", "A function tool in Chat's nested form is refused", "function tool in Chat's nested form",
        tools=[{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}],
    ),
)  # fmt: skip
"""Each probe stands behind those in its `after`. The first shows if the endpoint accepts the key at all."""


def region_probe(region: str, base_url: str) -> Probe:
    """Return a probe that another region refuses the key."""
    return Probe(
        f"region-{region}", f"The key is refused in another region ({region})", PROBED, "refused account",
        fails(Kind.CREDENTIALS), looks_up_unknown(base_url=base_url),
        captures=(f"{ERRORS}#a key of another region",),
    )  # fmt: skip


def region_probes(base_url: str) -> list[Probe | NotProbed]:
    """Return a probe of each other region if the endpoint is a region of DashScope.

    The key is sent to hosts of DashScope only. No source says which of QwenCloud's hosts accept which keys.
    """
    urls = {region: url for region in REGION_CODES if (url := region_base_url(region, None)) is not None}
    hosts = {region: urlsplit(url).hostname for region, url in urls.items()}
    here = urlsplit(base_url).hostname
    if here not in hosts.values():
        return [NotProbed("A key is refused in other regions", "this endpoint is no region of DashScope")]
    return [region_probe(region, url) for region, url in urls.items() if hosts[region] != here]

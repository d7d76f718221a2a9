"""The table that gives a provider's error its meaning, by status, code and, last, words.

The HTTP status and the error's `code` decide first. The message decides only where both leave the meaning open, and
then only with a sentence that the provider is known to write, at the place where it writes it. A message quotes what
the client sent, so quoted text and the request's tool names are removed before any words are compared.

The sources of the rows are the provider's error reference, the captures in `tests/captures` and reports of users. Each
row has an example in `tests/test_error_table.py`, and docs/failures.md shows the table.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from app.provider.quotes import FIELD_MARK, OF_INPUT, without_names, without_quotes


class Kind(StrEnum):
    """The meaning of a failure: what the service does about it."""

    UNKNOWN_PREVIOUS = "unknown_previous"
    """The provider does not know the response id that the turn was chained on."""
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    """5xx, or no connection. The model did not answer, so the call may be repeated."""
    BROKEN = "broken"
    """The answer broke off or cannot be read. The model was asked, so the call is not repeated."""
    TOO_LARGE = "too_large"
    """The answer exceeds the size limit for answers."""
    TIMEOUT = "timeout"
    CREDENTIALS = "credentials"
    """The account is refused: its key, its permissions or its payment."""
    REFUSED = "refused"
    """The request is refused. `Cause` says which part of it."""
    FAILED = "failed"
    """The model failed."""


class Cause(StrEnum):
    """The part of a request that a refusal (`Kind.REFUSED`) is about."""

    INADMISSIBLE = "inadmissible"
    """Content inspection refused the input."""
    INVALID_INPUT = "invalid_input"
    """The input is invalid: media that cannot be downloaded, malformed arguments, a body that is too large, or a
    refusal that names nothing else."""
    OUTPUT_INSPECTED = "output_inspected"
    """Content inspection stopped the model's own answer."""
    TOO_LONG = "too_long"
    """The input has more tokens than the model reads."""
    MODEL = "model"
    """The model is unknown, retired, or not served by this API."""
    PARAMETER = "parameter"
    """A parameter other than the input: sampling, tools, format."""
    OTHER = "other"
    """The endpoint or the method."""


class Side(StrEnum):
    """The side that status and code blame. It limits which words may decide."""

    REQUEST = "request"
    SERVER = "server"
    OPEN = "open"
    """Neither status nor code tells."""


MODEL_UNSUPPORTED = "model_unsupported"
MODEL_RETIRED = "model_retired"
MODEL_NOT_FOUND = "model_not_found"
TOO_LONG = "context_length_exceeded"


@dataclass(frozen=True, slots=True)
class Said:
    """An error as the provider sent it."""

    http: int
    """The HTTP status; 200 for an error inside an answer or a stream."""
    code: str
    message: str
    type: str = ""
    param: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. It applies if every condition that it has is met.

    `codes` is matched against each name in the error's code and `params` against its `param`, both as whole strings.
    `words` is searched in the message's own sentence.
    """

    kind: Kind
    cause: Cause | None = None
    code: str | None = None
    """The code that the client gets instead of the provider's."""
    statuses: frozenset[int] | None = None
    codes: str | None = None
    params: str | None = None
    sides: frozenset[Side] | None = None
    words: str | None = None


ACCOUNT_CODES = (
    r"invalidapikey|invalidaccesstoken\w*|notauthorized|unauthorized|authenticationerror|permission(denied|error)\w*"
    r"|(model)?accessdenied|unpurchased|commoditynotpurchased|arrearage|(pre|post)paidbilloverdue|freetieronly"
    r"|insufficientbalance|budgetlimitexceeded"
)
THROTTLE_CODES = (
    r"throttling\w*|ratelimit\w*|requestratelimit\w*|limitrequests|limitburstrate|limittokens|toomanyrequests"
    r"|insufficientquota|429"
)
INSPECTION_CODES = (
    r"datainspectionfailed|contentfilter|contentpolicyviolation|ipinfringementsuspect|faqruleblocked|customroleblocked"
)
MODEL_CODES = r"modelnotfound\w*|modelnotsupported|modelnotexist"
MEDIA_CODES = (
    r"datainspection|invalidurl\w*|invalidfile\w*|invalidimage\w*|invalidvideo\w*|invalidaudio\w*|invalidinputlength"
    r"|inputdownloadfailed|downloadfailed|unsupportedfileformat|illegalinput|emptyinput|toolarge|payloadtoolarge"
    r"|requestentitytoolarge|413"
)
PARAMETER_CODES = r"notsupportenablethinking|emptymodel|emptyparameters|invalidfunctionparameters"

PARAMETER = (
    r"(?:temperature|top_p|top_k|seed|presence_penalty|repetition_penalty|frequency_penalty|max_(?:\w+_)?tokens"
    r"|max_tool_calls|reasoning\.\w+|thinking_budget|enable_\w+|incremental_output|result_format|response_format"
    r"|tool_choice|parallel_tool_calls|(?:top_)?logprobs|service_tier|ocr_options)"
)
"""Names of request fields other than the input, none of which is a word of English prose."""

START = r"(?:\A|[.:;!\[\n]\s*)"
"""The beginning of a sentence, or of what stands behind a colon."""
NOT_THERE = r"(?:(?:was |is |has |have |does |do |could |can ?|been )*(?:not (?:be )?(?:found|exist)|expired|invalid))"
MEDIA = r"(?:image|video|audio|media|text|file)"
FIELD_PREFIX = (
    r"\A(?:invalid |unknown |unsupported |missing |required |range of |value of |the |this |parameters?[ .:]+)*"
)

BLAMED_SERVER = frozenset({Side.SERVER, Side.OPEN})
BLAMED_REQUEST = frozenset({Side.REQUEST, Side.OPEN})

ROWS = (
    # 1. Statuses and codes that name the account.
    Row(Kind.CREDENTIALS, statuses=frozenset({401, 402})),
    Row(Kind.CREDENTIALS, codes=ACCOUNT_CODES),
    # 2. Codes that name their meaning.
    Row(Kind.UNKNOWN_PREVIOUS, codes=r"previousresponsenotfound"),
    Row(Kind.THROTTLED, codes=THROTTLE_CODES),
    Row(Kind.REFUSED, Cause.TOO_LONG, TOO_LONG, codes=r"contextlengthexceeded"),
    Row(Kind.REFUSED, Cause.OUTPUT_INSPECTED, codes=INSPECTION_CODES, words=rf"\Aoutput ({MEDIA} )?data\b"),
    Row(Kind.REFUSED, Cause.INADMISSIBLE, codes=INSPECTION_CODES),
    Row(
        Kind.REFUSED,
        Cause.INADMISSIBLE,
        codes=r"datainspection",
        words=rf"\Athe {MEDIA} content does not comply\b",
    ),
    Row(
        Kind.REFUSED,
        Cause.MODEL,
        MODEL_RETIRED,
        codes=MODEL_CODES,
        words=r"\b(retired|deprecated|discontinued|decommissioned|no longer|taken offline)\b",
    ),
    Row(Kind.REFUSED, Cause.MODEL, MODEL_NOT_FOUND, codes=MODEL_CODES),
    Row(Kind.REFUSED, Cause.INVALID_INPUT, codes=MEDIA_CODES),
    Row(Kind.REFUSED, Cause.PARAMETER, codes=PARAMETER_CODES),
    # 3. Statuses that name their meaning.
    Row(Kind.CREDENTIALS, statuses=frozenset({403, 407})),
    Row(Kind.THROTTLED, statuses=frozenset({429})),
    Row(Kind.REFUSED, Cause.INVALID_INPUT, statuses=frozenset({413})),
    # 4. Sentences, where the code is a general one (InvalidParameter, InternalError, server_error …).
    Row(
        Kind.UNKNOWN_PREVIOUS,
        params=r"previous_response_id",
        words=r"\b(not found|not exist|expired|invalid)\b",
    ),
    Row(Kind.UNKNOWN_PREVIOUS, words=rf"{START}not found {FIELD_MARK}?previous_response_id\b"),
    Row(
        Kind.UNKNOWN_PREVIOUS,
        words=rf"{START}(?:the |provided |specified )*{FIELD_MARK}?previous[_ ]response(?:[_ ]id)?\b[:=]?"
        rf"[^.:;\[\n]{{0,160}}?\b{NOT_THERE}\b",
    ),
    Row(Kind.UNKNOWN_PREVIOUS, words=rf"{START}response with id \S{{1,200}} {NOT_THERE}\b"),
    Row(Kind.REFUSED, Cause.MODEL, MODEL_UNSUPPORTED, words=r"\Aagent capabilities are not enabled\b"),
    Row(Kind.REFUSED, Cause.MODEL, MODEL_UNSUPPORTED, words=rf"\A{FIELD_MARK}?agent_api_metadata\Z"),
    Row(Kind.REFUSED, Cause.MODEL, MODEL_UNSUPPORTED, words=r"\A\d+ validation errors? for Event object\b"),
    Row(
        Kind.REFUSED,
        Cause.MODEL,
        MODEL_RETIRED,
        words=r"\A(?:the |this |requested )*model(?: \S{1,200})? (?:has been |have been |was |is |will be )"
        r"(?:retired|deprecated|discontinued|decommissioned|taken offline"
        r"|no longer (?:available|supported|offered|served|maintained))\b",
    ),
    Row(Kind.REFUSED, Cause.MODEL, MODEL_RETIRED, words=r"\A(?:该|此)?模型\s?[\w.:/-]{0,100}?\s?已(?:经)?下线"),
    Row(Kind.REFUSED, Cause.MODEL, MODEL_NOT_FOUND, words=r"\Aunsupported model\b"),
    Row(
        Kind.REFUSED,
        Cause.MODEL,
        MODEL_NOT_FOUND,
        words=r"\A(?:the |provided |requested )*model(?: \S{1,200})? (?:was |is |does |could |can ?)?"
        r"not (?:be )?(?:found|exist)\b",
    ),
    Row(
        Kind.REFUSED,
        Cause.TOO_LONG,
        TOO_LONG,
        words=r"\A(?:this model's |the model's )?maximum context length\b|\Arange of input length should\b",
    ),
    Row(
        Kind.REFUSED,
        Cause.OUTPUT_INSPECTED,
        sides=BLAMED_REQUEST,
        words=rf"\Aoutput ({MEDIA} )?data may contain\b",
    ),
    Row(
        Kind.REFUSED,
        Cause.INADMISSIBLE,
        sides=BLAMED_REQUEST,
        words=rf"\Ainput (?:or output )?(?:{MEDIA} )?data (?:may contain|is suspected|is blocked)\b"
        rf"|\Athe {MEDIA} content does not comply\b",
    ),
    Row(
        Kind.THROTTLED,
        sides=BLAMED_SERVER,
        words=rf"{START}(?:too many requests\b|backend buffer overflow\b|(?:requests )?throttling triggered\b"
        r"|(?:your |the |batch )*requests? (?:is|are|was|were) (?:being )?throttled\b"
        r"|(?:the |requests? )?rate limit (?:is |was )?(?:exceeded|reached)\b|request rate increased too quickly\b"
        r"|all models are temporarily rate.limited\b"
        r"|(?:you (?:have )?exceeded your|(?:free )?allocated) (?:current |request )?(?:quota|requests|limit)\b)",
    ),
    Row(
        Kind.CREDENTIALS,
        sides=BLAMED_SERVER,
        words=r"\A(?:invalid|incorrect|no) api[- ]key provided\b|\Aaccess denied, (?:please )?make sure your account\b",
    ),
    Row(
        Kind.UNAVAILABLE,
        sides=BLAMED_SERVER,
        words=rf"{START}(?:(?:the |this )?(?:service|model) (?:is )?(?:temporarily )?unavailable\b"
        r"|(?:the )?server is overloaded\b|internal (?:server )?error\b|request timed out\b)",
    ),
    Row(
        Kind.REFUSED,
        Cause.INVALID_INPUT,
        words=rf"\A(?:(?:failed|unable) to (?:download|decode|read|open)\b|download (?:the )?{MEDIA}\b"
        r"|(?:missing|wrong) content-(?:length|type) of multimodal url\b|exceeded limit on max bytes per data-uri\b"
        r"|multimodal file size is too large\b|the provided url does not appear to be valid\b"
        r"|don't have authorization to access the media\b)",
    ),
    Row(
        Kind.REFUSED,
        Cause.PARAMETER,
        sides=BLAMED_REQUEST,
        words=rf"{FIELD_PREFIX}(?:{FIELD_MARK}(?!{OF_INPUT})|{PARAMETER}\b)|\Atools(?:\[\d+\]|\s)"
        r"|\A(?:the |this )model(?: \S{1,200})? does not support enable_",
    ),
    Row(
        Kind.REFUSED,
        Cause.PARAMETER,
        sides=BLAMED_REQUEST,
        words=r"\Athe parameters, when provided as a dict\b|\Amutually exclusive parameters\b"
        r"|\Ainvalid schema for (?:function|response_format)\b|\Atool names? \b|\Ajson mode\b",
    ),
    Row(Kind.REFUSED, Cause.PARAMETER, params=rf"(?!(?:{OF_INPUT}|messages)\b)\w+.*", sides=BLAMED_REQUEST),
    # 5. General statuses and codes.
    Row(
        Kind.REFUSED,
        Cause.OTHER,
        statuses=frozenset({404, 405, 406, 410, 411, 412, 414, 415, 416, 417, 421, 426, 431, 451}),
        sides=frozenset({Side.REQUEST}),
    ),
    Row(Kind.REFUSED, Cause.INVALID_INPUT, sides=frozenset({Side.REQUEST})),
    Row(Kind.UNAVAILABLE, sides=frozenset({Side.SERVER})),
    Row(Kind.FAILED),
)
"""The first row that applies decides. The last applies to everything."""

_PATTERNS = {row.words: re.compile(row.words, re.IGNORECASE) for row in ROWS if row.words is not None}

REQUEST_CODES = re.compile(r"invalid\w*|badrequest\w*|unsupported\w*|missing\w*|unprocessable\w*|unknownparameter")
SERVER_CODES = re.compile(
    r"internal(server)?error|systemerror|serviceunavailable(error)?|modelservingerror|modelservicefailed"
    r"|modelunavailable|requesttimeout|responsetimeout|serveroverloaded|overloaded(error)?"
)
SERVING_CODES = re.compile(r"modelservingerror|modelservicefailed|modelunavailable")

LONGEST_READ = 4000
"""The beginning of a message that is compared."""

MOST_LAYERS = 6

_HEAD = re.compile(r"\s*<(\d{1,9})>\s*([A-Za-z]\w*(?:\.\w+)*)?\s*:?\s*")
"""`<400> InternalError.Algo.InvalidParameter: `."""
_WRAPPER = re.compile(
    r"(?:agent invalid parameter\. the error message is|internal error during qwen agent\. the error message is"
    r"|an error occurred in model serving[.,] (?:the )?error message(?: it sent us)? is):?\s*\[?\s*",
    re.IGNORECASE,
)
"""A sentence of the provider that announces a backend's own message."""
_ERROR_CODE = re.compile(r"error code:\s*(\d{3})\b\.?\s*(?:error message:\s*)?", re.IGNORECASE)

_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class _Facts:
    status: int
    """The status that tells most: a backend's own where the message quotes one, else the HTTP status."""
    names: Sequence[str]
    """The names in `code`, `type` and the message's head, in lower case without spaces, `_` and `-`."""
    side: Side
    sentence: str
    """The message's own sentence, without what announces it."""


def row_of(said: Said, tools: Collection[str] = ()) -> Row:
    """Return the row of the table that gives an error its meaning.

    Args:
        tools: the names of the request's tools, which are removed from the message.
    """
    facts = _facts(replace(said, message=without_names(said.message[:LONGEST_READ], tools)))
    sentence = without_quotes(facts.sentence)
    return next(row for row in ROWS if _applies(row, said, facts, sentence))


def own_sentence(message: str) -> str:
    """Return a message's own sentence, without what announces it and without quoted text."""
    return without_quotes(_facts(Said(200, "", message)).sentence)


def tool_names(tools: Any, items: Any = ()) -> set[str]:
    """Return the names of a request's tools and of the calls in its input, in the forms of both APIs."""
    names: set[str] = set()
    for entry in [*_objects(tools), *_objects(items)]:
        function = entry.get("function")
        for each in (entry, function if isinstance(function, dict) else {}):
            names |= {value for field in ("name", "server_label") if isinstance(value := each.get(field), str)}
        allowed = entry.get("allowed_tools")
        names |= {name for name in allowed if isinstance(name, str)} if isinstance(allowed, list) else set()
        names |= {nested["name"] for nested in _objects(entry.get("tools")) if isinstance(nested.get("name"), str)}
    return names


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list | tuple) else []


def _applies(row: Row, said: Said, facts: _Facts, sentence: str) -> bool:
    if row.statuses is not None and facts.status not in row.statuses:
        return False
    if row.sides is not None and facts.side not in row.sides:
        return False
    if row.codes is not None and not any(re.fullmatch(row.codes, name) for name in facts.names):
        return False
    if row.params is not None and re.fullmatch(row.params, said.param, re.DOTALL) is None:
        return False
    return row.words is None or _PATTERNS[row.words].search(sentence) is not None


DECISIVE = (401, 402, 403, 407, 413, 429)
"""HTTP statuses that no number in the message refines."""


def _facts(said: Said) -> _Facts:
    """Read what is structured of an error, and peel the layers off its message.

    A layer is a head (`<400> InternalError.Algo.X:`), a sentence that announces a backend's message, an
    `Error code: 400.` or the JSON of a backend. A number that blames the request ends this: what follows may be the
    client's own text.
    """
    names = _names(said.code) + _names(said.type)
    numeric = int(said.code) if re.fullmatch(r"[45]\d\d", said.code) else None
    number = numeric if said.http < 400 else None
    odd_number = False
    sentence = said.message[:LONGEST_READ].lstrip()
    for _ in range(MOST_LAYERS):
        if (wrapper := _WRAPPER.match(sentence)) is not None:
            sentence = sentence[wrapper.end() :]
        elif (head := _HEAD.match(sentence)) is not None and not _blames_request(number):
            sentence = sentence[head.end() :]
            names += _names(head[2] or "")
            number, odd_number = (int(head[1]), False) if len(head[1]) == 3 else (None, True)
        elif _blames_request(number) or (number is None and not odd_number and _blames_request(said.http)):
            break
        elif (quoted := _ERROR_CODE.match(sentence)) is not None:
            sentence, number = sentence[quoted.end() :], int(quoted[1])
        elif (backend := _json_error(sentence)) is not None:
            number, sentence = backend
        else:
            break
    status = number if number is not None and said.http not in DECISIVE else said.http
    return _Facts(status, names, _side(said.http, status, names, number, odd_number=odd_number), sentence)


def _side(http: int, status: int, names: Sequence[str], number: int | None, *, odd_number: bool) -> Side:
    if _blames_request(status):
        return Side.REQUEST
    if number is not None:
        return Side.SERVER
    if odd_number:  # <50004>, <5000202> …: a refusal, unless its name is the server's.
        return Side.SERVER if any(SERVING_CODES.fullmatch(name) for name in names) else Side.REQUEST
    if any(REQUEST_CODES.fullmatch(name) for name in names):
        return Side.REQUEST
    if any(SERVER_CODES.fullmatch(name) for name in names) or http >= 400:
        return Side.SERVER
    return Side.OPEN


def _blames_request(status: int | None) -> bool:
    return status is not None and 400 <= status < 500 and status not in (408, 409, 429)


def _json_error(text: str) -> tuple[int, str] | None:
    """Return the status and the message of a backend's error in JSON, where the text begins with one."""
    if not text.startswith("{"):
        return None
    try:
        value, _ = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    status, message = value.get("status_code"), value.get("status_message", value.get("message", ""))
    if not isinstance(status, int) or not 400 <= status < 600:
        return None
    return status, message if isinstance(message, str) else ""


def _names(code: str) -> list[str]:
    return [re.sub(r"[\s_-]", "", name).lower() for name in code.split(".") if name]

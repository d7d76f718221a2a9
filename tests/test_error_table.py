"""The meaning of a provider's error: the table of docs/failures.md, row by row.

Status and code decide first, and the client's own words never.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.provider import failure
from app.provider.error_table import ROWS, Cause, Kind, Row, Said, row_of, tool_names
from app.provider.quotes import CLOSING, MARK, without_names, without_quotes

CAPTURES = Path(__file__).parent / "captures"

Meaning = tuple[Kind, Cause | None, str | None, bool]
"""The kind, the cause, the code that replaces the provider's, and the answer of `may_be_the_input`."""
Error = tuple[int, str, str]
"""The HTTP status (200 inside an answer or a stream), the code and the message."""

PREVIOUS = (Kind.UNKNOWN_PREVIOUS, None, None, False)
THROTTLED = (Kind.THROTTLED, None, None, False)
UNAVAILABLE = (Kind.UNAVAILABLE, None, None, False)
ACCOUNT = (Kind.CREDENTIALS, None, None, False)
FAILED = (Kind.FAILED, None, None, False)
INADMISSIBLE = (Kind.REFUSED, Cause.INADMISSIBLE, None, True)
INVALID_INPUT = (Kind.REFUSED, Cause.INVALID_INPUT, None, True)
OUTPUT = (Kind.REFUSED, Cause.OUTPUT_INSPECTED, None, False)
TOO_LONG = (Kind.REFUSED, Cause.TOO_LONG, "context_length_exceeded", False)
PARAMETER = (Kind.REFUSED, Cause.PARAMETER, None, False)
ENDPOINT = (Kind.REFUSED, Cause.OTHER, None, False)
NOT_FOUND = (Kind.REFUSED, Cause.MODEL, "model_not_found", False)
UNSUPPORTED = (Kind.REFUSED, Cause.MODEL, "model_unsupported", False)
RETIRED = (Kind.REFUSED, Cause.MODEL, "model_retired", False)

ALGO = "InternalError.Algo"
BUSY = "Too many requests. Your requests are being throttled due to system capacity limits. Please try again later."
BACKEND = '{"request_id":"0a","service_id":"v-1","status_code":503,"status_name":"ServiceUnavailable","status_message":'
UNKNOWN_ERROR = f"{ALGO}.ModelServingError.ModelServingUnknownError"

EXAMPLES: list[tuple[Meaning, list[Error]]] = [
    (
        ACCOUNT,
        [
            (401, "InvalidApiKey", "No API-key provided."),
            (401, "", "Unauthorized"),
            (402, "", "Payment Required"),
            (402, "insufficient_quota", "Your credit balance is too low."),
            (402, "InvalidParameter", "Too many requests."),
            (400, "Arrearage", "Access denied, please make sure your account is in good standing."),
            (403, "Arrearage", "Overdue payment."),
            (429, "PrepaidBillOverdue", "The prepaid bill is overdue."),
            (429, "PostpaidBillOverdue", "The postpaid bill is overdue."),
            (429, "CommodityNotPurchased", "Commodity has not purchased yet."),
            (403, "AllocationQuota.FreeTierOnly", "The free tier of the model has been exhausted."),
            (403, "AccessDenied.Unpurchased", "Access to model denied."),
            (403, "Model.AccessDenied", "Model access denied."),
            (400, "access_denied", "Access denied."),
            (403, "", "Forbidden"),
            (407, "", "Proxy Authentication Required"),
            (200, "InvalidApiKey", "Invalid API-key provided."),
            (200, "server_error", "Invalid API-key provided."),
            (200, "server_error", "Access denied, please make sure your account is in good standing."),
            (200, "server_error", "<403> InternalError.Algo: Access denied."),
            (200, "401", "No key."),
        ],
    ),
    (
        PREVIOUS,
        [
            (400, "InvalidParameter", "Not found previous_response_id: resp_0a..."),
            (200, "InvalidParameter", "Not found previous_response_id: resp_0a..."),
            (400, "previous_response_not_found", "Previous response with id 'resp_x' not found."),
            (400, "invalid_request_error", "Previous response with id 'resp_x' not found."),
            (404, "InvalidParameter", "Response with id 'resp_xxx' not found."),
            (404, "not_found", "Response with id resp_xxx was not found."),
            (400, "InvalidParameter", "The previous_response_id has expired."),
            (400, "InvalidParameter", "The 'previous_response_id' 'resp_x' is invalid."),
            (400, "InvalidParameter", "previous_response_id: resp_x does not exist"),
            (500, "InternalError", "<500> InternalError.Algo: Not found previous_response_id: resp_x"),
            (400, "InvalidParameter", "<400> InternalError.Algo.InvalidParameter: Not found previous_response_id: x"),
        ],
    ),
    (
        THROTTLED,
        [
            (429, "", ""),
            (429, "Throttling", "Requests throttling triggered."),
            (429, "Throttling.RateQuota", "Requests rate limit exceeded, please try again later."),
            (429, "Throttling.BurstRate", "Request rate increased too quickly."),
            (400, "Throttling.AllocationQuota", "Free allocated quota exceeded."),
            (403, "Throttling.AllocationQuota", "Allocated quota exceeded, please increase your quota limit."),
            (429, "LimitRequests", "You exceeded your current requests list."),
            (429, "limit_burst_rate", "Slow down."),
            (429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing details."),
            (200, "rate_limit_exceeded", "Slow down."),
            (200, "Throttling.RateQuota", "Slow down."),
            (200, "429", "Slow down."),
            (200, "server_error", "The service is busy: rate limit exceeded, please try again later."),
            (200, "server_error", "Requests rate limit exceeded, please try again later."),
            (200, "server_error", "You have exceeded your request limit."),
            (200, "server_error", "Backend buffer overflow."),
            (500, "server_error", "Backend buffer overflow."),
            (200, "server_error", f"<429> {ALGO}: An error occurred in model serving, error message is: [{BUSY}]"),
            (
                500,
                "ServiceUnavailable",
                f"<503> {ALGO}: An error occurred in model serving, error message is: [{BUSY}]",
            ),
            (503, "ModelServingError", BUSY),
            (
                200,
                "server_error",
                f"<5000202> {UNKNOWN_ERROR}: An error occurred in model serving. The error message it sent us is \n"
                f'    [{BACKEND}"{BUSY}"}}]',
            ),
            (200, "server_error", f'<5000202> {ALGO}: {{"status_code":429}}'),
            (400, "server_error", "<429> InternalError.Algo: Slow down."),
        ],
    ),
    (
        UNAVAILABLE,
        [
            (500, "", ""),
            (502, "", "<html>Bad gateway</html>"),
            (503, "ServiceUnavailable", "try later"),
            (500, "InternalError", "An internal error has occured, please try again later."),
            (500, "InternalError.Timeout", "An internal timeout error has occured during execution."),
            (500, "InvokePluginFailed", "Failed to invoke plugin."),
            (408, "RequestTimeOut", "Request timed out, please try again later."),
            (409, "", "Conflict"),
            (200, "InternalError", "Something broke."),
            (200, "server_error", "<500> InternalError.Algo: an error in model serving"),
            (200, "server_error", "<500> InternalError.Algo.InvalidParameter: wrong"),
            (400, "server_error", "<500> InternalError.Algo: list index out of range"),
            (200, "server_error", f'<5000202> {ALGO}: {{"status_code":503}}'),
            (200, "server_error", f"<5000202> {UNKNOWN_ERROR}: Something broke."),
            (200, "server_error", f'{BACKEND}"Down."}}'),
            (200, "server_error", "Service unavailable."),
            (200, "server_error", "The server is overloaded."),
        ],
    ),
    (
        NOT_FOUND,
        [
            (404, "ModelNotFound", "Model can not be found."),
            (404, "model_not_found", "The model `x` does not exist or you do not have access to it."),
            (404, "model_not_supported", "Unsupported model `x` for OpenAI compatibility mode."),
            (404, "404", "The model `x` does not exist."),
            (404, "", "model 'x' not found, try pulling it first"),
            (400, "InvalidParameter", "Model not exist."),
            (400, "InvalidParameter", "Unsupported model: '__x__'"),
            (200, "InvalidParameter", "Unsupported model: 'qwen3.8-max'."),
        ],
    ),
    (
        UNSUPPORTED,
        [
            (
                400,
                "InvalidParameter",
                f"<400> {ALGO}.InvalidParameter: Agent capabilities are not enabled for this model.",
            ),
            (500, "", f"<500> {ALGO}: 'agent_api_metadata'"),
            (
                500,
                "",
                "1 validation error for Event object   Field required [type=missing, input_value={'text': 'Hello'}]",
            ),
        ],
    ),
    (
        RETIRED,
        [
            (400, "InvalidParameter", "Model qwen3-max-preview has been retired."),
            (400, "InvalidParameter", "The model is no longer available."),
            (404, "model_not_found", "The model `x` has been deprecated, learn more here."),
            (400, "InvalidParameter", "模型 qwen-turbo 已下线"),
        ],
    ),
    (
        TOO_LONG,
        [
            (400, "context_length_exceeded", "Too many tokens."),
            (400, "InvalidParameter", f"<400> {ALGO}.InvalidParameter: Range of input length should be [1, 129024]"),
            (400, "BadRequestError", "This model's maximum context length is 4096 tokens."),
            (
                200,
                "server_error",
                f"<50004> {ALGO}.QwenAgentError: Internal Error during qwen agent. The error message is [\n"
                "Error code: 400. Error message: Range of input length should be [1, 129024]]",
            ),
        ],
    ),
    (
        INADMISSIBLE,
        [
            (400, "DataInspectionFailed", "Input data may contain inappropriate content."),
            (400, "DataInspectionFailed", "Input or output data may contain inappropriate content."),
            (400, "data_inspection_failed", "No."),
            (400, "IPInfringementSuspect", "Input data is suspected of being involved in IP infringement."),
            (400, "CustomRoleBlocked", "Input or output data may contain inappropriate content with custom rule."),
            (400, "FaqRuleBlocked", "Input or output data is blocked by faq rule."),
            (400, "content_filter", "No."),
            (
                400,
                "InvalidParameter.DataInspection",
                "The image content does not comply with green network verification.",
            ),
            (400, "InvalidParameter", "The image content does not comply with green network verification."),
            (200, "server_error", "Input text data may contain inappropriate content."),
            (
                200,
                "server_error",
                f"<400> {ALGO}.DataInspectionFailed: Input text data may contain inappropriate content.",
            ),
        ],
    ),
    (
        OUTPUT,
        [
            (400, "DataInspectionFailed", "Output data may contain inappropriate content."),
            (200, "server_error", "Output data may contain inappropriate content."),
        ],
    ),
    (
        INVALID_INPUT,
        [
            (413, "", "<html>413 Request Entity Too Large</html>"),
            (413, "BadRequest.TooLarge", "Payload Too Large."),
            (400, "BadRequest.TooLarge", "Payload Too Large."),
            (
                400,
                "InvalidParameter.DataInspection",
                "Unable to download the media resource during the data inspection.",
            ),
            (400, "InvalidURL", "Invalid URL provided in your request."),
            (400, "InvalidURL.ConnectionRefused", "Connection to x refused, please provide available URL."),
            (400, "InvalidFile.Size", "Invalid file size, The image file size must be smaller than 5MB."),
            (400, "BadRequest.InputDownloadFailed", "Failed to download the input file: 404 not found."),
            (400, "InvalidParameter", "Failed to download multimodal content: the model got 404 not found."),
            (400, "InvalidParameter", "Failed to download the image of model x: 404 not found"),
            (500, "InternalError.Algo", "Missing Content-Length of multimodal url."),
            (200, "server_error", "Download the media resource timed out during the data inspection process."),
            (400, "InvalidParameter", f"<400> {ALGO}.InvalidParameter: The provided URL does not appear to be valid."),
            (400, "InvalidParameter", "Exceeded limit on max bytes per data-uri item : 10485760."),
            (
                400,
                "InvalidParameter",
                "The video modality input does not meet the requirements because: too many images.",
            ),
            (
                400,
                "InvalidParameter",
                f'<400> {ALGO}.InvalidParameter: The "function.arguments" parameter must be JSON.',
            ),
            (400, "InvalidParameter", "Invalid 'summary': summary is required and must be a list for reasoning."),
            (400, "InvalidParameter", "This model does not support image input."),
            (400, "InvalidParameter", "Required parameter(input) missing or invalid, please check the parameters."),
            (400, "InternalError.Algo.InvalidParameter", "wrong"),
            (409, "InvalidParameter", "wrong"),
            (422, "", "Unprocessable"),
            (400, "", "Bad request"),
            (400, "InternalError", "A fault."),
            (
                400,
                "ServiceUnavailableError",
                "Role must be user or assistant and Content length must be greater than 0.",
            ),
            (500, "server_error", f"<400> {ALGO}.InvalidParameter: wrong"),
            (
                200,
                "server_error",
                f"<50004> {ALGO}.QwenAgentError: Internal Error during qwen agent. The error message is [\n"
                "Error code: 400. Error message: The input messages must contain no more than one system message.]",
            ),
            (200, "server_error", f"<50004> {ALGO}.QwenAgentError: No."),
            # The client's own words are in these.
            (400, "InvalidParameter", "The function set_throttle has no arguments."),
            (400, "InvalidParameter", "Too many requests"),
            (400, "InvalidParameter", "Tool check rate limit exceeded its depth."),
            (400, "InvalidParameter", "Function check_access_denied: rate limit exceeded"),
            (400, "InvalidParameter", f'<400> {ALGO}.InvalidParameter: {{"status_code": 503}} is no valid argument.'),
            (400, "InvalidParameter", f"<400> {ALGO}.InvalidParameter: <429> Throttling.RateQuota: is no valid name."),
            (400, "InvalidParameter", f"<400> {ALGO}.InvalidParameter: Error code: 503. is no valid name."),
        ],
    ),
    (
        PARAMETER,
        [
            (400, "InvalidParameter", "Invalid 'temperature': 5. Expected a value between [0,2), but got 5 instead."),
            (400, "InvalidParameter", "Invalid 'reasoning.effort': bogus. Supported values are: ('none','minimal')."),
            (400, "InvalidParameter", "Invalid 'store': X. Must be a boolean."),
            (400, "InvalidParameter", "Invalid 'tools[0].function.name': empty."),
            (400, "InvalidParameter", "temperature is wrong"),
            (400, "InvalidParameter", f"<400> {ALGO}.InvalidParameter: Range of max_tokens should be [1, 8192]"),
            (400, "InvalidParameter", "Temperature should be in [0.0, 2.0)"),
            (400, "InvalidParameter", "parameter.enable_thinking only support stream call"),
            (400, "InvalidParameter", "The thinking_budget parameter must be a positive integer"),
            (400, "InvalidParameter", "This model does not support enable_search."),
            (400, "InvalidParameter", "tools must be a list."),
            (400, "InvalidParameter", "Tool names are not allowed to be [search]"),
            (400, "InvalidParameter", "Invalid schema for function 'set_throttle': no object."),
            (400, "InvalidParameter", "Mutually exclusive parameters: Ensure you are only providing one of: a or b."),
            (
                400,
                "InvalidParameter",
                f"<400> {ALGO}.InvalidParameter: The parameters, when provided as a dict, must confirm",
            ),
            (400, "InvalidParameter.NotSupportEnableThinking", "The model x does not support enable_thinking."),
            (400, "BadRequest.EmptyModel", "Required parameter missing from request."),
        ],
    ),
    (
        ENDPOINT,
        [
            (404, "Not Found", "Not support"),
            (404, "", "404 page not found"),
            (404, "NotFound", "Not found!"),
            (405, "Method Not Allowed", "Method 'GET' is not allowed for '/compatible-mode/v1/responses'."),
            (415, "", "Unsupported media type"),
        ],
    ),
    (
        FAILED,
        [
            (200, "server_error", "The model broke."),
            (200, "", ""),
            (200, "x", "No."),
            (200, "server_error", "The function set_throttle failed."),
        ],
    ),
]

WITH_PARAM: list[tuple[Meaning, Said]] = [
    (PREVIOUS, Said(400, "invalid_value", "'x' is invalid.", "invalid_request_error", "previous_response_id")),
    (PARAMETER, Said(400, "invalid_value", "Too large.", "invalid_request_error", "temperature")),
    (PARAMETER, Said(400, "invalid_value", "No object.", "invalid_request_error", "tools[0].parameters")),
    (INVALID_INPUT, Said(400, "invalid_value", "Wrong.", "invalid_request_error", "input[2].content[0].image_url")),
    (INVALID_INPUT, Said(400, "invalid_value", "Wrong.", "invalid_request_error", "messages[2]")),
]


def examples() -> Iterator[tuple[Said, Meaning]]:
    for meaning, errors in EXAMPLES:
        yield from ((Said(*error), meaning) for error in errors)
    yield from ((said, meaning) for meaning, said in WITH_PARAM)


def as_failure(said: Said) -> failure.Failure:
    """The failure that an error becomes on its way through the service's own door."""
    error = {"code": said.code or None, "message": said.message, "type": said.type or None, "param": said.param or None}
    if said.http == 200:
        return failure.from_error(error)
    return failure.from_http(said.http, orjson.dumps(error), None)


@pytest.mark.parametrize(("said", "meaning"), list(examples()), ids=lambda value: str(value)[:80])
def test_an_error_has_its_meaning(said: Said, meaning: Meaning) -> None:
    kind, cause, code, may_be_the_input = meaning
    found = as_failure(said)
    assert (found.kind, found.cause) == (kind, cause)
    assert failure.may_be_the_input(found) is may_be_the_input
    if code is not None:
        assert found.code == code
    elif said.code not in ("", "server_error"):
        assert found.code == said.code


def test_every_row_of_the_table_has_an_example() -> None:
    missing = set(ROWS) - {row_of(said) for said, _ in examples()}
    assert missing == set()


def test_a_refusal_has_a_cause_and_nothing_else_has_one() -> None:
    for row in ROWS:
        assert (row.cause is not None) is (row.kind is Kind.REFUSED)


def test_only_a_refused_input_may_be_the_input() -> None:
    for kind in Kind:
        for cause in (None, *Cause):
            found = failure.Failure(kind, 400, "x", "x", cause=cause)
            expected = kind is Kind.REFUSED and cause in (Cause.INADMISSIBLE, Cause.INVALID_INPUT)
            assert failure.may_be_the_input(found) is expected
    for own in (failure.too_long(100), failure.timed_out(1), failure.broken("x"), failure.no_connection("x")):
        assert not failure.may_be_the_input(own)


CAPTURED = {
    "stream-failed-429-2026.sse": THROTTLED,
    "stream-failed-buffer-overflow-2026.sse": THROTTLED,
    "stream-failed-inspection-2026.sse": INADMISSIBLE,
    "stream-failed-system-messages-2026-05.sse": INVALID_INPUT,
    "stream-failed-tool-role-2026-07.sse": INVALID_INPUT,
    "stream-failed-unknown-model-2026-09.sse": NOT_FOUND,
    "stream-failed-unknown-previous-2026-09.sse": PREVIOUS,
    "stream-flat-error-429-made.sse": THROTTLED,
    "stream-flat-error-unknown-previous-made.sse": PREVIOUS,
    "stream-flat-error-unsupported-model-2026-08.sse": NOT_FOUND,
}


def test_every_captured_stream_that_fails_has_its_meaning() -> None:
    found = {}
    for path in sorted(CAPTURES.glob("stream-f*.sse")):
        (line,) = [line for line in path.read_text().splitlines() if line.startswith("data:")]
        event = orjson.loads(line.removeprefix("data:"))
        error = failure.from_response(event["response"]) if "response" in event else failure.from_error(event)
        found[path.name] = (error.kind, error.cause)
    assert found == {name: meaning[:2] for name, meaning in CAPTURED.items()}


MEANINGFUL = [
    "Too many requests", "rate limit exceeded", "Requests rate limit exceeded", "check rate limit", "set_throttle",
    "Your requests are being throttled", "Backend buffer overflow", "insufficient_quota", "429", "<429> Throttling",
    "check_access_denied", "AccessDenied", "Invalid API-key provided", "Arrearage", "404 not found", "model_not_found",
    "The model x does not exist", "Unsupported model", "Model x has been retired", "Agent capabilities are not enabled",
    "Not found previous_response_id", "The previous_response_id has expired", "Response with id resp_x not found",
    "Range of input length should be [1, 100]", "maximum context length is 100", "Service unavailable", "<503>",
    "Input data may contain inappropriate content", "Failed to download", "Internal error", "status_code: 503",
    "1 validation error for Event object", "Mutually exclusive parameters", "Error code: 503.", "\n", ". ", ": ", "[",
]  # fmt: skip
NEUTRAL = "zzz_yyy"
QUOTES = ['""', "''", "``", "“”", "‘’", "„“", "«»", "「」", "『』", "《》"]
FORMS = [
    "Function {} has no arguments.",
    "Invalid schema for {}: not an object.",
    "<400> InternalError.Algo.InvalidParameter: {} is not valid.",
    "<400> InternalError.Algo.InvalidParameter: Agent invalid parameter. The error message is [{} is not valid]",
    "<500> InternalError.Algo: {}.",
    "<500> InternalError.Algo: An error occurred in model serving, error message is: [{}]",
    "<50004> InternalError.Algo.QwenAgentError: Internal Error during qwen agent. The error message is [\nError code: "
    "400. Error message: {} is not valid.]",
    "{}: the call failed.",
    "The tool {}",
    "Invalid value: {}. Supported values are: 'text'.",
    "Not found previous_response_id: {}",
    "Unsupported model: {}",
]
ERRORS = [
    (400, "InvalidParameter"), (400, "invalid_request_error"), (400, ""), (400, "server_error"), (404, "NotFound"),
    (413, ""), (422, ""), (500, "InternalError"), (500, ""), (503, "ServiceUnavailable"), (200, "server_error"),
    (200, "InvalidParameter"), (200, "InternalError"), (200, ""), (400, "DataInspectionFailed"), (402, ""),
]  # fmt: skip


def own_words() -> st.SearchStrategy[str]:
    """A client's words: sentences that would mean something if the provider said them, among any others."""
    return st.lists(st.sampled_from(MEANINGFUL) | st.text(max_size=10), min_size=1, max_size=4).map(" ".join)


def meaning_of(error: tuple[int, str], message: str, tools: Collection[str] = ()) -> Row:
    return row_of(Said(*error, message), tools)


@given(own_words(), st.sampled_from(QUOTES), st.sampled_from(FORMS), st.sampled_from(ERRORS))
def test_words_inside_quotes_never_decide(words: str, quotes: str, form: str, error: tuple[int, str]) -> None:
    opening, closing = quotes[0], quotes[1]
    assume(not set(words) & {"\\", *CLOSING[opening]})
    quoted = f"{opening}{words}{closing}"
    assume(without_quotes(quoted) == MARK)  # The bare name of a request's field stays.
    assert meaning_of(error, form.format(quoted)) is meaning_of(error, form.format(f"{opening}{NEUTRAL}{closing}"))


@given(own_words(), st.sampled_from(FORMS), st.sampled_from(ERRORS))
def test_words_of_a_tools_name_never_decide(words: str, form: str, error: tuple[int, str]) -> None:
    name = words.strip()
    assume(len(name.split()) > 1 and name.lower() not in form.lower())
    assert meaning_of(error, form.format(name), {name}) is meaning_of(error, form.format(NEUTRAL), {NEUTRAL})


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("This model's maximum context length", "This model's maximum context length"),
        ("The tool 'it's throttled' failed", f"The tool {MARK} failed"),
        ('The tool "a \\" b" failed', f"The tool {MARK} failed"),
        ("The tool 'never closed, rate limit exceeded", f"The tool {MARK}"),
        ("Don’t use ‘rate limit’", f"Don’t use {MARK}"),
    ],
)
def test_quoted_text_is_removed_and_apostrophes_are_not(text: str, left: str) -> None:
    assert without_quotes(text) == left


def test_tool_names_are_found_in_the_forms_of_both_apis() -> None:
    tools = [
        {"type": "function", "name": "flat one"},
        {"type": "function", "function": {"name": "nested one"}},
        {"type": "mcp", "server_label": "a server", "allowed_tools": ["allowed one", 5]},
        {"type": "namespace", "tools": [{"name": "inner one"}]},
        "odd",
    ]
    items = [{"type": "function_call", "name": "called one"}, {"type": "message", "role": "user"}]
    assert tool_names(tools, items) == {
        "flat one", "nested one", "a server", "allowed one", "inner one", "called one",
    }  # fmt: skip
    assert tool_names("odd", None) == set()


def test_a_name_of_one_word_takes_no_word_of_the_providers_away() -> None:
    assert without_names("Unsupported model: x", {"model", "x", "unsupported"}) == "Unsupported model: x"
    assert without_names("Check Rate Limit: exceeded", {"check rate limit"}) == f"{MARK}: exceeded"
    assert without_names("recheck rate limits", {"check rate limit"}) == "recheck rate limits"


def test_a_limit_is_learnt_from_the_providers_sentence_alone() -> None:
    algo = "<400> InternalError.Algo.InvalidParameter: "
    assert failure.limit_in(f"{algo}Range of input length should be [1, 129024]") == 129024
    assert failure.limit_in("This model's maximum context length is 4096 tokens.") == 4096
    assert failure.limit_in(f"{algo}The tool 'range of input length should be [1, 50]' is invalid") is None

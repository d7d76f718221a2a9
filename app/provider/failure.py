"""What the provider means when it does not answer, read by its words: HTTP statuses say little.

Plain calls send `{code, message, request_id}` with an HTTP status, lookups `{error: {…}}`, streams HTTP 200 with
`response.failed`, `event: error`, or the flat object as an event of no type; throttling can come as HTTP 200 with a
failed response (reference page, probe, captures). One table tells what the words mean: docs/failures.md shows it.
"""

import random
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from app.provider.reading import NotJSON, read_object


class Kind(StrEnum):
    UNKNOWN_PREVIOUS = "unknown_previous"
    """It does not know the id that we chained on."""
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    """5xx, or no connection: the model was not asked."""
    BROKEN = "broken"
    """The answer broke off or cannot be read: the model has been asked, and is not asked again."""
    TOO_LARGE = "too_large"
    """The answer is larger than one may be."""
    TIMEOUT = "timeout"
    CREDENTIALS = "credentials"
    REFUSED = "refused"
    """The request itself is at fault."""
    FAILED = "failed"
    """The model failed."""


RETRIED = (Kind.THROTTLED, Kind.UNAVAILABLE)

FIRST_BACKOFF_SECONDS = 0.5

LONGEST_BACKOFF_SECONDS = 20.0
"""A longer `Retry-After` is not waited for: it is passed on to the client, with a 429."""

MODEL_UNSUPPORTED = "model_unsupported"
MODEL_RETIRED = "model_retired"
REFUSED_CODE = "refused_by_provider"
MODEL_NOT_FOUND = "model_not_found"
TOO_LONG = "context_length_exceeded"


@dataclass(frozen=True, slots=True)
class Failure:
    kind: Kind
    status: int | None
    """The HTTP status; None where no answer came."""
    code: str
    message: str
    retry_after: float | None = None
    """Seconds."""

    def as_error(self) -> dict[str, Any]:
        """The turn's `error`, in the form that a Response has it."""
        return {"code": self.code, "message": self.message}


@dataclass(frozen=True, slots=True)
class Meaning:
    kind: Kind
    words: str
    """A pattern, found in the code or the message."""
    code: str | None = None
    """What a client is told instead of the provider's code."""


MEANINGS = (
    # DashScope's words, OpenAI's and vLLM's.
    Meaning(Kind.UNKNOWN_PREVIOUS, r"previous_response_id\b.*(not found|not exist|expired|invalid)"),
    Meaning(Kind.UNKNOWN_PREVIOUS, r"not found previous_response_id|previous_response_not_found"),
    Meaning(Kind.UNKNOWN_PREVIOUS, r"(previous )?response with id .* (was )?not found"),
    # Models that are not, or no longer, to be had here.
    Meaning(Kind.REFUSED, r"agent capabilities are not enabled|agent_api_metadata", MODEL_UNSUPPORTED),
    Meaning(Kind.REFUSED, r"validation errors? for Event object", MODEL_UNSUPPORTED),
    Meaning(
        Kind.REFUSED,
        r"model\b.{0,80}\b(retired|deprecated|discontinued|decommissioned|no longer|taken offline|已下线)",
        MODEL_RETIRED,
    ),
    Meaning(
        Kind.REFUSED, r"unsupported model|model_?not_?found|model .{0,80} (does not exist|not found)", MODEL_NOT_FOUND
    ),
    # A backend's own status, quoted in the message, says more than the one around it.
    Meaning(Kind.THROTTLED, r'"status_code"\s*:\s*429|<429>'),
    Meaning(Kind.UNAVAILABLE, r'"status_code"\s*:\s*5\d\d\b'),
    Meaning(Kind.THROTTLED, r"too many requests|throttl|rate.?limit|backend buffer overflow|insufficient_quota"),
    Meaning(Kind.CREDENTIALS, r"invalid_?api_?key|arrearage|access_?denied|invalid api.?key"),
    Meaning(Kind.REFUSED, r"context_length_exceeded|maximum context length|range of input length", TOO_LONG),
    Meaning(Kind.REFUSED, r"data_?inspection_?failed|inappropriate content|content_filter"),
    Meaning(Kind.UNAVAILABLE, r"^<5\d\d>|serviceunavailable|service unavailable|server is overloaded"),
    # Any other number at the head is a refusal: <400>, <50004> …
    Meaning(Kind.REFUSED, r"^<\d+>"),
    Meaning(Kind.REFUSED, r"invalid_?parameter|invalid_request_error|unsupported_|bad_?request"),
    Meaning(Kind.UNAVAILABLE, r"internal_?error|request_?time_?out"),
)
"""The first whose pattern matches the code or the message decides; where none matches, the HTTP status does."""

_PATTERNS = tuple((meaning, re.compile(meaning.words, re.IGNORECASE | re.DOTALL)) for meaning in MEANINGS)

LONGEST_SEARCHED = 4000
LONGEST_KEPT = 4000
LONGEST_CODE = 200


def from_http(status: int, body: bytes, retry_after: str | None) -> Failure:
    """The meaning of an HTTP error."""
    if 300 <= status < 400:
        message = f"It answered with a redirect (HTTP {status}), which is not followed. Check DASHSCOPE_BASE_URL."
        return Failure(Kind.CREDENTIALS, status, "provider_redirect", message)
    try:
        said, _ = read_object(body)
    except NotJSON:
        said = {"message": body[:500].decode("utf-8", "replace")}
    code, message = _code_and_message(said)
    found = _meaning(code, message)
    kind = found.kind if found is not None else _by_status(status)
    code = (found.code if found is not None else None) or code or str(status)
    return Failure(kind, status, code, message or f"HTTP {status}", seconds(retry_after))


def from_response(response: dict[str, Any]) -> Failure:
    """The meaning of a Response whose status is `failed`."""
    error = response.get("error")
    return from_error(error if isinstance(error, dict) else {})


def from_error(said: dict[str, Any]) -> Failure:
    """The meaning of an error within an answer of HTTP 200: an error object, flat or in `error`."""
    code, message = _code_and_message(said)
    code, message = code or "server_error", message or "The model failed."
    found = _meaning(code, message)
    if found is None:
        return Failure(Kind.FAILED, 200, code, message)
    if found.kind is Kind.REFUSED and code == "server_error":
        code = REFUSED_CODE  # Its code says the server's fault, its words the request's (captures).
    return Failure(found.kind, 200, found.code or code, message)


def is_error(said: dict[str, Any]) -> bool:
    """Whether an object that is no Response is an error: `{error: {…}}`, or the flat one."""
    if isinstance(said.get("error"), dict):
        return True
    return "message" in said and ("code" in said or "request_id" in said)


def no_connection(message: str) -> Failure:
    return Failure(Kind.UNAVAILABLE, None, "provider_unreachable", f"The provider could not be reached: {message}.")


def timed_out(seconds: float) -> Failure:
    return Failure(Kind.TIMEOUT, None, "provider_timeout", f"The provider did not answer within {seconds:g} seconds.")


def broken(message: str) -> Failure:
    return Failure(Kind.BROKEN, None, "provider_answer_broken", f"The provider's answer broke off: {message}.")


def too_large(limit: int) -> Failure:
    message = f"The provider's answer is larger than {limit} bytes (EVERTHREAD_MAX_ANSWER_BYTES)."
    return Failure(Kind.TOO_LARGE, None, "answer_too_large", message)


def retired(found: Failure, model: str, successor: str | None) -> Failure:
    """That the provider does not have a model any more, and what to do."""
    instead = "another model" if successor is None else repr(successor)
    message = (
        f"The model {model[:80]!r} is retired. Send {instead} instead, or have the project's aliases do so: PATCH "
        f'/v1/admin/projects/ID {{"aliases": {{"{model[:80]}": "{successor or "MODEL"}"}}}}. ({found.message})'
    )
    return replace(found, kind=Kind.REFUSED, code=MODEL_RETIRED, message=message)


def too_long(limit: int) -> Failure:
    """Our own: the request would rather fail than leave something out."""
    message = (
        f"The conversation is longer than the {limit} tokens that the model reads, and 'truncation' is 'disabled'. "
        "Send truncation 'auto', or compact the thread (POST /v1/threads/ID/compact), or choose a model with a larger "
        "window."
    )
    return Failure(Kind.REFUSED, 400, TOO_LONG, message)


def pause(found: Failure, attempt: int) -> float:
    """Seconds to wait before the next attempt: what the provider asks for, else twice as long each time.

    Args:
        attempt: how many have been made.
    """
    if found.retry_after is not None:
        return found.retry_after
    return float(FIRST_BACKOFF_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.75, 1.25)  # noqa: S311


_LIMIT = re.compile(
    r"range of input length should be \[\s*\d+\s*,\s*(\d{2,9})\s*\]|maximum context length (?:is|of) (\d{2,9})",
    re.IGNORECASE,
)


def limit_in(message: str) -> int | None:
    """The tokens that a model takes at most, where the provider's refusal says so."""
    found = _LIMIT.search(message[:LONGEST_SEARCHED])
    return None if found is None else int(found[1] or found[2])


def seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header says, in seconds: as a number, or as the moment until which to wait (RFC 9110)."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\s*[0-9]{1,9}(\.[0-9]{1,9})?\s*", retry_after):
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except (ValueError, TypeError):
        return None
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _meaning(code: str, message: str) -> Meaning | None:
    for meaning, pattern in _PATTERNS:
        if pattern.search(message[:LONGEST_SEARCHED]) or pattern.search(code):
            return meaning
    return None


def _by_status(status: int) -> Kind:
    if status in (401, 403):
        return Kind.CREDENTIALS
    if status == 429:
        return Kind.THROTTLED
    if status >= 500 or status in (408, 409):
        return Kind.UNAVAILABLE
    return Kind.REFUSED


def _code_and_message(said: dict[str, Any]) -> tuple[str, str]:
    nested = said.get("error")
    error = nested if isinstance(nested, dict) else said
    if isinstance(nested, str) and "message" not in said:
        error = {**said, "message": nested}
    code = error.get("code") or (error.get("type") if error.get("type") != "error" else None)
    message = error.get("message")
    return _text(code)[:LONGEST_CODE], _text(message)[:LONGEST_KEPT]


def _text(value: Any) -> str:
    return "" if value is None else str(value)

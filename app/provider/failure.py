"""Failures of the provider, read from whatever form they arrive in.

Plain calls send `{code, message, request_id}` with an HTTP status, lookups send `{error: {…}}`. Streams send HTTP 200
with `response.failed`, `event: error`, or the flat object as an event without a type; throttling can arrive as HTTP 200
with a failed response. `error_table` gives all of them their meaning.
"""

import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from app.http.errors import ServiceStopping
from app.provider import error_table
from app.provider.error_table import (
    MODEL_NOT_FOUND,
    MODEL_RETIRED,
    MODEL_UNSUPPORTED,
    TOO_LONG,
    Cause,
    Kind,
    Said,
    own_sentence,
)
from app.provider.reading import NotJSON, read_object

__all__ = ["MODEL_NOT_FOUND", "MODEL_RETIRED", "MODEL_UNSUPPORTED", "TOO_LONG", "Cause", "Failure", "Kind"]

RETRIED = (Kind.THROTTLED, Kind.UNAVAILABLE)

FIRST_BACKOFF_SECONDS = 0.5

LONGEST_BACKOFF_SECONDS = 20.0
"""The longest `Retry-After` that the service waits for. A longer one is passed on to the client with a 429."""

REFUSED_CODE = "refused_by_provider"
"""The code of a refusal that the provider sent inside an answer as `server_error`."""


@dataclass(frozen=True, slots=True)
class Failure:
    kind: Kind
    status: int | None
    """The HTTP status; None where no answer came."""
    code: str
    message: str
    retry_after: float | None = None
    """Seconds."""
    cause: Cause | None = None
    """The part of the request that a refusal is about; None for every other kind."""
    said: Said | None = None
    """The provider's own words; None for a failure that the service itself reports."""

    def as_error(self) -> dict[str, Any]:
        """Return the turn's `error` in the shape that a Response has."""
        return {"code": self.code, "message": self.message}


LONGEST_KEPT = 4000
LONGEST_CODE = 200


def from_http(status: int, body: bytes, retry_after: str | None) -> Failure:
    """Return the failure that an HTTP error stands for."""
    if 300 <= status < 400:
        message = f"It answered with a redirect (HTTP {status}), which is not followed. Check DASHSCOPE_BASE_URL."
        return Failure(Kind.CREDENTIALS, status, "provider_redirect", message)
    try:
        error, _ = read_object(body)
    except NotJSON:
        error = {"message": body[:500].decode("utf-8", "replace")}
    return replace(_read(_said(status, error)), retry_after=seconds(retry_after))


def from_response(response: dict[str, Any]) -> Failure:
    """Return the failure that a Response with the status `failed` stands for."""
    error = response.get("error")
    return from_error(error if isinstance(error, dict) else {})


def from_error(error: dict[str, Any]) -> Failure:
    """Return the failure that an error inside an answer of HTTP 200 stands for: flat, or in `error`."""
    return _read(_said(200, error))


def without_tools(found: Failure, tools: Collection[str]) -> Failure:
    """Read the provider's words again, this time without the names of the request's tools."""
    if found.said is None or not tools:
        return found
    return replace(_read(found.said, tools), retry_after=found.retry_after)


def may_be_the_input(found: Failure) -> bool:
    """Return True if the same request with less input may be accepted.

    This holds for a refusal of the input as inadmissible (content inspection) or invalid (media, arguments, size, or a
    400 that names nothing else). It does not hold for a refused account (401, 402, 403, arrears), an unknown model,
    throttling, 5xx, a refused parameter, or an inspection of the model's answer. An input with too many tokens is
    excluded as well, because `TOO_LONG` is handled separately.
    """
    return found.kind is Kind.REFUSED and found.cause in (Cause.INADMISSIBLE, Cause.INVALID_INPUT)


def is_error(value: dict[str, Any]) -> bool:
    """Return True if an object that is no Response is an error: `{error: {…}}`, or the flat form."""
    if isinstance(value.get("error"), dict):
        return True
    return "message" in value and ("code" in value or "request_id" in value)


def no_connection(message: str) -> Failure:
    return Failure(Kind.UNAVAILABLE, None, "provider_unreachable", f"The provider could not be reached: {message}.")


def timed_out(seconds: float) -> Failure:
    return Failure(Kind.TIMEOUT, None, "provider_timeout", f"The provider did not answer within {seconds:g} seconds.")


def broken(message: str) -> Failure:
    return Failure(Kind.BROKEN, None, "provider_answer_broken", f"The provider's answer broke off: {message}.")


def unusable(code: str, message: str) -> Failure:
    """Return the failure of an answer to the service's own request that arrived and cannot be used."""
    return Failure(Kind.BROKEN, None, code, message)


def stopped() -> Failure:
    """Return the failure of a turn that the end of its process cuts off."""
    message = "The service was stopped before the model had answered. Send the request again."
    return Failure(Kind.BROKEN, None, ServiceStopping.code, message)


def too_large(limit: int) -> Failure:
    message = f"The provider's answer is larger than {limit} bytes (EVERTHREAD_MAX_ANSWER_BYTES)."
    return Failure(Kind.TOO_LARGE, None, "answer_too_large", message)


def retired(found: Failure, model: str, successor: str | None) -> Failure:
    """Return the failure of a retired model, with a message that says what to send instead."""
    instead = "another model" if successor is None else repr(successor)
    message = (
        f"The model {model[:80]!r} is retired. Send {instead} instead, or have the project's aliases do so: PATCH "
        f'/v1/admin/projects/ID {{"aliases": {{"{model[:80]}": "{successor or "MODEL"}"}}}}. ({found.message})'
    )
    return replace(found, kind=Kind.REFUSED, cause=Cause.MODEL, code=MODEL_RETIRED, message=message)


def too_long(limit: int) -> Failure:
    """Return the service's own refusal of an input that must not be shortened (`truncation: disabled`)."""
    message = (
        f"The conversation is longer than the {limit} tokens that the model reads, and 'truncation' is 'disabled'. "
        "Send truncation 'auto', or compact the thread (POST /v1/threads/ID/compact), or choose a model with a larger "
        "window."
    )
    return Failure(Kind.REFUSED, 400, TOO_LONG, message, cause=Cause.TOO_LONG)


MOST_NAMED = 5
"""Turns that a message names."""


def with_kept(found: Failure, turns: Sequence[str]) -> Failure:
    """Return a refusal whose message names the turns of the system messages and pinned items that were sent.

    They are part of every rebuilt input, so the thread goes on only after the refused one is deleted.

    Args:
        turns: their ids.
    """
    named = ", ".join(turns[:MOST_NAMED]) + (f" and {len(turns) - MOST_NAMED} more" if len(turns) > MOST_NAMED else "")
    way_out = (
        " If the new input is not the reason, a system message or a pinned item of the history is: they are part of "
        f"every request, and belong to {named}. Delete the item (DELETE /v1/conversations/ID/items/ITEM), or fork the "
        "thread at an earlier turn."
    )
    return replace(found, message=found.message + way_out)


def pause(found: Failure, attempt: int) -> float:
    """Return the seconds to wait before the next attempt: the provider's `Retry-After`, else exponential back-off.

    Args:
        attempt: the number of attempts made so far.
    """
    if found.retry_after is not None:
        return found.retry_after
    return float(FIRST_BACKOFF_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.75, 1.25)  # noqa: S311


_LIMIT = re.compile(
    r"range of input length should be \[\s*\d+\s*,\s*(\d{2,9})\s*\]"
    r"|(?:this model's |the model's )?maximum context length (?:is|of) (\d{2,9})",
    re.IGNORECASE,
)


def limit_in(message: str) -> int | None:
    """Return the model's largest input in tokens, if the provider's refusal names it outside of quoted text."""
    found = _LIMIT.match(own_sentence(message))
    return None if found is None else int(found[1] or found[2])


def seconds(retry_after: str | None) -> float | None:
    """Return a `Retry-After` header in seconds. It holds a number or a date (RFC 9110)."""
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


def _read(said: Said, tools: Collection[str] = ()) -> Failure:
    row = error_table.row_of(said, tools)
    if said.http == 200:
        code, message = said.code or "server_error", said.message or "The model failed."
        if row.kind is Kind.REFUSED and code == "server_error":
            code = REFUSED_CODE  # Its code blames the server, its words the request (captures).
    else:
        code, message = said.code or str(said.http), said.message or f"HTTP {said.http}"
    return Failure(row.kind, said.http, row.code or code, message, cause=row.cause, said=said)


def _said(http: int, error: dict[str, Any]) -> Said:
    nested = error.get("error")
    inner = nested if isinstance(nested, dict) else error
    if isinstance(nested, str) and "message" not in error:
        inner = {**error, "message": nested}
    type_ = "" if inner.get("type") == "error" else _text(inner.get("type"))
    code = _text(inner.get("code") or type_)
    message, param = _text(inner.get("message")), _text(inner.get("param"))
    return Said(http, code[:LONGEST_CODE], message[:LONGEST_KEPT], type_[:LONGEST_CODE], param[:LONGEST_CODE])


def _text(value: Any) -> str:
    return "" if value is None else str(value)

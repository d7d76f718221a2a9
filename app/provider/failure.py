"""What the provider means when it does not answer: its three shapes of errors, read by their meaning.

Plain calls send `{code, message, request_id}` with an HTTP status, lookups `{error: {…}}`, and streams
HTTP 200 with `response.failed`. Throttling can come as HTTP 200 with a failed response (reference page).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson


class Kind(StrEnum):
    UNKNOWN_PREVIOUS = "unknown_previous"
    """It does not know the id that we chained on."""
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    """5xx, or no connection: the model was not asked."""
    BROKEN = "broken"
    """The answer broke off or cannot be read: the model has been asked, and is not asked again."""
    TIMEOUT = "timeout"
    CREDENTIALS = "credentials"
    REFUSED = "refused"
    """The request itself is at fault."""
    FAILED = "failed"
    """The model failed."""


RETRIED = (Kind.THROTTLED, Kind.UNAVAILABLE)


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


def from_http(status: int, body: bytes, retry_after: str | None) -> Failure:
    """The meaning of an HTTP error."""
    code, message = _read(body)
    kind = _by_words(code, message)
    if kind is Kind.FAILED:
        if status in (401, 403):
            kind = Kind.CREDENTIALS
        elif status == 429:
            kind = Kind.THROTTLED
        elif status >= 500 or status in (408, 409):
            kind = Kind.UNAVAILABLE
        else:
            kind = Kind.REFUSED
    return Failure(kind, status, code or str(status), message or f"HTTP {status}", _seconds(retry_after))


def from_response(response: dict[str, Any]) -> Failure:
    """The meaning of a Response whose status is `failed`."""
    error = response.get("error")
    error = error if isinstance(error, dict) else {}
    code, message = str(error.get("code") or "server_error"), str(error.get("message") or "The model failed.")
    return Failure(_by_words(code, message), 200, code, message)


def no_connection(message: str) -> Failure:
    return Failure(Kind.UNAVAILABLE, None, "provider_unreachable", f"The provider could not be reached: {message}")


def timed_out(seconds: float) -> Failure:
    return Failure(Kind.TIMEOUT, None, "provider_timeout", f"The provider did not answer within {seconds:g} seconds.")


def broken(message: str) -> Failure:
    return Failure(Kind.BROKEN, None, "provider_answer_broken", f"The provider's answer broke off: {message}")


def _by_words(code: str, message: str) -> Kind:
    words = message.lower()
    if "previous_response_id" in words and ("not found" in words or "expired" in words or "not exist" in words):
        return Kind.UNKNOWN_PREVIOUS
    if code.startswith("Throttling") or code in ("insufficient_quota", "rate_limit_exceeded") or "rate limit" in words:
        return Kind.THROTTLED
    if code in ("InvalidApiKey", "invalid_api_key", "Arrearage") or code.startswith("AccessDenied"):
        return Kind.CREDENTIALS
    if code in ("InvalidParameter", "ModelNotFound", "DataInspectionFailed", "data_inspection_failed"):
        return Kind.REFUSED
    if code in ("InternalError", "ServiceUnavailable", "internal_error"):
        return Kind.UNAVAILABLE
    return Kind.FAILED


def _read(body: bytes) -> tuple[str, str]:
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", body[:500].decode("utf-8", "replace")
    if not isinstance(read, dict):
        return "", ""
    error = read["error"] if isinstance(read.get("error"), dict) else read
    return str(error.get("code") or error.get("type") or ""), str(error.get("message") or "")


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None

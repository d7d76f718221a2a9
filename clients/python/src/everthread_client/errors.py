"""Errors that the client raises. Each one is an `EverthreadError`."""

from collections.abc import Mapping
from typing import Any


class EverthreadError(Exception):
    """Base class of the client's errors."""


class ConnectionFailedError(EverthreadError):
    """The service could not be reached, or the connection was lost before the answer was complete."""


class InvalidAnswerError(EverthreadError):
    """The answer has an unexpected form, for example a proxy's page instead of JSON."""


class APIError(EverthreadError):
    """The service refused the request. `code` is stable, `message` says what to do."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.type = type
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after


class BadRequestError(APIError):
    """A field or a parameter is wrong; `param` names it."""


class AuthenticationError(APIError):
    """The key or token is unknown, expired or revoked."""


class PermissionDeniedError(APIError):
    """The key, token or project does not permit the request."""


class NotFoundError(APIError):
    """The object does not exist, was deleted, or belongs to another user or project."""


class ConflictError(APIError):
    """The thread is busy, the name is taken, or the idempotency key was used for another request."""


class RateLimitError(APIError):
    """A limit is reached. `retry_after` has the seconds to wait, if the service names them."""


class ServerError(APIError):
    """The service or the model provider failed."""


_CLASSES: Mapping[int, type[APIError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitError,
}

_STATUS_OF_EVENT = {
    "credential_expired": 401,
    "credential_revoked": 401,
    "invalid_api_key": 401,
    "project_archived": 403,
    "thread_not_found": 404,
    "turn_deleted": 404,
    "turn_not_found": 404,
}
"""Statuses of `error` events that carry none."""


def api_error(status: int, fields: Any, *, request_id: str | None = None, retry_after: float | None = None) -> APIError:
    """Return the error for a status and an answer's `error` object, which may have any form."""
    found = fields if isinstance(fields, dict) else {}
    texts = {name: found[name] for name in ("code", "type", "param") if isinstance(found.get(name), str)}
    message = found.get("message")
    of_class = ServerError if status >= 500 else _CLASSES.get(status, BadRequestError if status >= 400 else APIError)
    return of_class(
        message if isinstance(message, str) else f"The service answered with status {status}.",
        status=status,
        request_id=request_id,
        retry_after=retry_after,
        **texts,
    )


def event_error(event: Mapping[str, Any]) -> APIError:
    """Return the error for an event `error` of a stream."""
    status = event.get("status")
    if not isinstance(status, int):
        # An event that tells where to resume, or that the worker stops, ends only its connection.
        resumable = event.keys() & {"starting_after", "last_event_id"} or event.get("code") == "service_stopping"
        status = _STATUS_OF_EVENT.get(str(event.get("code")), 503 if resumable else 500)
    return api_error(status, event)

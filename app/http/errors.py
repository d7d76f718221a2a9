"""Everything that can go wrong for a client, in OpenAI's error shape. Mapped to HTTP once, in main."""

from typing import Any


class APIError(Exception):
    """An answer other than 2xx.

    Args:
        message: tells the reader what to do next.
        param: the field at fault, if one is.
    """

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.headers = headers or {}

    @property
    def meaning(self) -> str:
        """Return the label of the error in metrics: one of the service's own codes."""
        return str(self.code)

    def with_headers(self, headers: dict[str, str]) -> "APIError":
        self.headers = {**self.headers, **headers}
        return self

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class BadRequest(APIError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class Unauthorized(APIError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(APIError):
    status = 403
    type = "invalid_request_error"
    code = "forbidden"


class NotFound(APIError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowed(APIError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class Conflict(APIError):
    status = 409
    type = "invalid_request_error"
    code = "conflict"


class BodyTooLarge(APIError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedEncoding(APIError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_encoding"


class BodyTooSlow(APIError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class TooManyRequests(APIError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class Overloaded(APIError):
    """This worker has as much to do as it can."""

    status = 503
    code = "overloaded"


class DatabaseUnavailable(APIError):
    status = 503
    code = "database_unavailable"
    words = "The database cannot be reached at the moment. Nothing was changed; send the request again."

    def __init__(self) -> None:
        super().__init__(self.words, headers={"Retry-After": "1"})


class ThreadLocked(DatabaseUnavailable):
    """Other transactions in the database have held what a statement has to change for too long. It was not run."""

    code = "thread_locked"
    words = (
        "Another transaction in the database holds a lock on this thread. Nothing was changed; send the request again "
        "later. If this lasts, ask the operator to end that transaction: pg_blocking_pids() names its process."
    )


class ServiceStopping(APIError):
    """This process stops before the request has an answer."""

    status = 503
    code = "service_stopping"

    def __init__(self, message: str = "This worker is stopping. Send the request again.") -> None:
        super().__init__(message, headers={"Retry-After": "2"})


class ProviderFailure(APIError):
    """The model did not answer. The status says whose fault it was; the turn is kept as `failed`."""

    def __init__(
        self, status: int, type_: str, message: str, *, meaning: str, code: str, headers: dict[str, str]
    ) -> None:
        """Args: meaning: what metrics count it as."""
        super().__init__(message, code=code, headers=headers)
        self.status = status
        self.type = type_
        self._meaning = meaning

    @property
    def meaning(self) -> str:
        """Not its code: that may be the provider's own."""
        return self._meaning

"""Client errors for failures of the provider."""

from typing import Any

from app.http.errors import APIError, ProviderFailure, ServiceStopping
from app.provider.failure import Failure, Kind


def client_error(found: Failure) -> APIError:
    """Return the client's error for a failure. Its HTTP status tells whether the request or the service is at fault."""
    if found.code == ServiceStopping.code:
        return ServiceStopping(found.message)
    headers: dict[str, str] = {}
    match found.kind:
        case Kind.THROTTLED:
            if found.retry_after is not None:
                headers["Retry-After"] = f"{found.retry_after:g}"
            status, type_, code = 429, "rate_limit_error", "rate_limit_exceeded"
            message = f"The provider is throttling: {found.message} Send this again later."
        case Kind.REFUSED:
            # Clients retry other statuses, and would be refused again.
            status = found.status if found.status in (400, 403, 404, 413, 422) else 400
            type_, code, message = "invalid_request_error", found.code, found.message
        case Kind.CREDENTIALS:
            status, type_, code = 502, "server_error", "provider_credentials"
            message = (
                "The provider refuses the service's own account (check DASHSCOPE_API_KEY and the account's balance): "
                f"{found.message}"
            )
        case Kind.TIMEOUT:
            status, type_, code, message = 504, "server_error", found.code, found.message
        case Kind.UNAVAILABLE:
            status, type_, code = 502, "server_error", "provider_unavailable"
            message = f"The provider is unavailable: {found.message} Send this again later."
        case _:
            status, type_, code, message = 502, "server_error", found.code, found.message
    return ProviderFailure(status, type_, message, meaning=f"provider_{found.kind}", code=code, headers=headers)


def is_retried(status: int | None) -> bool:
    """Return True if clients retry after this HTTP status, and a retry may succeed."""
    return status is not None and (status in (408, 429) or status >= 500)


def failed_before(status: int | None, error: dict[str, Any]) -> ProviderFailure:
    """Return the error of a failed turn, for a repetition of the request that it failed on."""
    status = status or 502
    type_ = {429: "rate_limit_error"}.get(status, "invalid_request_error" if status < 500 else "server_error")
    code, message = str(error.get("code")), str(error.get("message"))
    return ProviderFailure(status, type_, message, meaning="failed_before", code=code, headers={})

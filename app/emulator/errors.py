"""The provider's errors, in its own codes and its three shapes."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4


@dataclass
class ProviderError(Exception):
    """A refusal. Plain calls send it flat, streams as a `response.failed` event."""

    status: int
    code: str
    message: str
    retry_after: float | None = None

    def flat(self) -> dict[str, Any]:
        """The body of a plain call's error: not OpenAI's shape (probe, September 2026)."""
        return {"code": self.code, "message": self.message, "request_id": str(uuid4())}


def invalid_parameter(message: str) -> ProviderError:
    return ProviderError(400, "InvalidParameter", message)


def not_found(response_id: str) -> dict[str, Any]:
    """The body of GET, DELETE and input_items for an unknown id: the third shape (reference page)."""
    return {"error": {"message": f"Response with id '{response_id}' not found.", "type": "InvalidParameter"}}

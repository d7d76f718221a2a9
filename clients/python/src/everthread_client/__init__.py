"""Python client for Everthread: `Everthread` and, for asyncio, `AsyncEverthread`."""

from everthread_client import types
from everthread_client._async_client import AsyncEverthread
from everthread_client._client import Everthread
from everthread_client._requests import ByName
from everthread_client.errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ConnectionFailedError,
    EverthreadError,
    InvalidAnswerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)

__all__ = [
    "APIError",
    "AsyncEverthread",
    "AuthenticationError",
    "BadRequestError",
    "ByName",
    "ConflictError",
    "ConnectionFailedError",
    "Everthread",
    "EverthreadError",
    "InvalidAnswerError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "ServerError",
    "types",
]

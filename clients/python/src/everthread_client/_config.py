"""Settings that both clients share."""

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import httpx2

from everthread_client.errors import EverthreadError

DEFAULT_URL = "http://127.0.0.1:8080"

TIMEOUT = httpx2.Timeout(600, connect=10)
"""Time-out of a request. A turn that is not streamed is answered at its end."""

STREAM_TIMEOUT = httpx2.Timeout(60, connect=10)
"""Time-out of a stream. The service sends a heartbeat after 15 seconds of silence."""

LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
"""Limits of connections. Each open stream holds one, and must not keep other requests waiting."""

MOST_RETRIES = 4
MOST_RECONNECTS = 10
"""Consecutive attempts to open a stream again without any new event."""

try:
    _VERSION = version("everthread-client")
except PackageNotFoundError:  # Run from its source.
    _VERSION = "0"

HEADERS = {"User-Agent": f"everthread-client-python/{_VERSION}"}


def base_url(given: str | None) -> str:
    """Return the URL of the API, which ends with /v1."""
    url = given or os.environ.get("EVERTHREAD_URL") or DEFAULT_URL
    return url.rstrip("/").removesuffix("/v1") + "/v1"


def credential(given: str | None) -> str:
    """Return the key or token.

    Raises:
        EverthreadError: there is none.
    """
    found = given or os.environ.get("EVERTHREAD_KEY")
    if not found:
        raise EverthreadError("A key or token is needed: pass `token`, or set EVERTHREAD_KEY.")
    return found


def authorized(headers: Mapping[str, str], token: str) -> dict[str, str]:
    """Return the headers of a request."""
    return {**HEADERS, **headers, "Authorization": f"Bearer {token}"}

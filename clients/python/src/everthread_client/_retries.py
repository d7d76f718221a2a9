"""Retries: which failures a request is sent again after, and when."""

from random import SystemRandom
from typing import Any

import httpx2

from everthread_client._requests import Call
from everthread_client.errors import APIError, ConnectionFailedError

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0
LONGEST_RETRY_AFTER_SECONDS = 60.0
"""A longer `Retry-After` is left to the caller, as an error."""

UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""Errors before the service got anything of the request."""

_random = SystemRandom()


class Attempts:
    """The failures of a request so far."""

    def __init__(self, most: int, *, renewable: bool) -> None:
        """Args:
        most: the number of consecutive failures after which the error is raised.
        renewable: True if a refused token can be replaced by a new one.
        """
        self._most = most
        self._renewable = renewable
        self._failures = 0
        self._renewed = False

    def succeeded(self) -> None:
        """Start counting from zero: part of the answer arrived."""
        self._failures = 0
        self._renewed = False

    def pause(self, call: Call[Any], error: httpx2.RequestError | APIError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            EverthreadError: the request is not sent again.
        """
        if isinstance(error, APIError) and error.status == 401 and self._renewable and not self._renewed:
            self._renewed = True
            return 0.0
        self._failures += 1
        again = (
            _may_succeed(call, error) if isinstance(error, APIError) else call.repeatable or isinstance(error, UNSENT)
        )
        if not again or self._failures > self._most:
            if isinstance(error, APIError):
                raise error
            raise ConnectionFailedError(f"{call.method} {call.path}: {error or type(error).__name__}") from error
        if isinstance(error, APIError) and error.retry_after is not None:
            return error.retry_after
        longest = min(FIRST_PAUSE_SECONDS * float(2 ** (self._failures - 1)), LONGEST_PAUSE_SECONDS)
        return _random.uniform(longest / 2, longest)


def _may_succeed(call: Call[Any], error: APIError) -> bool:
    """True if the request can succeed later, and cannot have had an effect that a second one would double."""
    if (error.retry_after or 0) > LONGEST_RETRY_AFTER_SECONDS or error.code == "insufficient_quota":
        return False
    if error.status == 429 or error.code == "overloaded":
        return True
    if not call.repeatable:
        return False
    if error.status in (408, 503):
        return True
    # With a code, it is the service's answer, and the model may have been called; without, a proxy's.
    return error.status in (500, 502, 504) and (call.method == "GET" or error.code is None)

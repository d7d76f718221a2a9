"""A circuit breaker: an account that fails is left alone for a while, then one turn tries it."""

from typing import Literal, get_args

from app.provider.failure import Kind

FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0

State = Literal["closed", "half_open", "open"]
STATES: tuple[State, ...] = get_args(State)
"""From the best on."""


class Breaker:
    """Circuit breaker of one account for one model, since throttling applies per model. Times are in the event loop's
    seconds."""

    __slots__ = ("_pause", "until", "why")

    def __init__(self) -> None:
        self._pause = 0.0
        self.until = 0.0
        """End of the pause, by the monotonic clock."""
        self.why: Kind | None = None
        """Kind of the last failure."""

    def state(self, now: float) -> State:
        if not self._pause:
            return "closed"
        return "open" if now < self.until else "half_open"

    def lets_through(self, now: float) -> bool:
        """Return True if the account may be called. While one request probes it, the others skip it for another open
        period."""
        if self.state(now) == "half_open":
            self.until = now + self._pause
            return True
        return not self._pause

    def failed(self, now: float, why: Kind) -> None:
        self.why = why
        self._pause = min(2 * self._pause or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self.until = now + self._pause

    def answered(self) -> None:
        self._pause = 0.0

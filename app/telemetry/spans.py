"""Spans of what is done for a request: none, at no cost, unless OpenTelemetry is asked for (see `start`)."""

from asyncio import Future
from collections.abc import Mapping
from types import TracebackType
from typing import Any

Attributes = Mapping[str, str | int | float | bool]


class Span:
    """Span that is not exported. It lasts as long as its `with` block."""

    __slots__ = ()

    def __enter__(self) -> "Span":
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def add(self, attributes: Attributes) -> None:
        """Say more of it."""

    def fail(self, error_type: str) -> None:
        """Say that it failed, and as what."""


class Tracer:
    """Tracer whose spans are not exported."""

    active = False
    """True if spans are exported."""

    def span(self, name: str, attributes: Attributes, *, asks: bool = False) -> Span:
        """A span within the one that is current, and current itself while it lasts.

        Args:
            asks: it waits for another server.
        """
        return NOBODYS

    def until_done(self, name: str, attributes: Attributes, answer: "Future[Any]") -> None:
        """A span from now until another server's answer is there."""

    def headers(self) -> dict[str, str]:
        """Return the headers that name the calling span to another server: `traceparent`, of W3C's Trace Context."""
        return {}

    def provider_call(self, seconds: float, first_token: float | None, attributes: Attributes) -> None:
        """A call of the provider has ended: for the metrics that go by OTLP.

        Args:
            seconds: how long it took.
            first_token: after how many seconds it spoke; None for one that did not, or was not streamed.
        """

    def tokens(self, counted: Mapping[str, int], attributes: Attributes) -> None:
        """A call of the provider has used so many tokens, by OpenTelemetry's type of token."""

    def close(self) -> None:
        """Send what has not been sent. It blocks."""


NOBODYS = Span()

_tracer = Tracer()


def tracer() -> Tracer:
    """The tracer of this process."""
    return _tracer


def use(tracer: Tracer) -> None:
    """Make the spans of this process from now on with another tracer."""
    global _tracer
    _tracer = tracer

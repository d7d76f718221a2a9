"""Spans of what is done for a request: none, at no cost, unless OpenTelemetry is asked for (see `start`)."""

from asyncio import Future
from collections.abc import Mapping
from importlib import import_module
from types import TracebackType
from typing import Any

from fastapi import FastAPI

from app.settings import OTelSettings, environment, export

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
        return NO_SPAN

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


NO_SPAN = Span()

tracer = Tracer()
"""The tracer of this process."""


def start(app: FastAPI, settings: OTelSettings) -> None:
    """Trace an app, if OpenTelemetry's variables ask for it. None of its modules is loaded otherwise."""
    global tracer
    if not (settings.traces or settings.metrics):
        return
    # The names of the conventions that are stable, unless somebody has asked for the ones before.
    if "OTEL_SEMCONV_STABILITY_OPT_IN" not in environment():
        export(OTEL_SEMCONV_STABILITY_OPT_IN="http,database")
    otel = import_module("app.telemetry.otel")
    tracer = otel.OTel(app, traces=settings.traces, metrics_too=settings.metrics)

"""Spans of what is done for a request: none, at no cost, unless OpenTelemetry is asked for (see `start`)."""

from collections.abc import Mapping
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING

from fastapi import FastAPI

from app.settings import OTelSettings, environment, export

if TYPE_CHECKING:
    from app.telemetry.otel import OTel

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


NO_SPAN = Span()

tracer: "OTel | None" = None
"""The tracer of this process; None if no spans are exported."""


def span(name: str, attributes: Attributes, *, asks: bool = False) -> Span:
    """Return a span within the one that is current, and current itself while it lasts.

    Args:
        asks: it waits for another server.
    """
    return NO_SPAN if tracer is None else tracer.span(name, attributes, asks=asks)


def headers() -> dict[str, str]:
    """Return the headers that name the calling span to another server: `traceparent`, of W3C's Trace Context."""
    return {} if tracer is None else tracer.headers()


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

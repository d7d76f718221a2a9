"""Spans of the work for a request. Without OpenTelemetry (see `start`) there are none, at no cost."""

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
        """Add attributes."""

    def fail(self, error_type: str) -> None:
        """Mark the span as failed, with the type of the error."""


NO_SPAN = Span()

tracer: "OTel | None" = None
"""The tracer of this process; None if no spans are exported."""


def span(name: str, attributes: Attributes, *, outbound: bool = False) -> Span:
    """Return a child of the current span, which is the current span itself while it lasts.

    Args:
        outbound: True for a call of another server.
    """
    return NO_SPAN if tracer is None else tracer.span(name, attributes, outbound=outbound)


def headers() -> dict[str, str]:
    """Return the headers that name the calling span to another server: `traceparent`, of W3C's Trace Context."""
    return {} if tracer is None else tracer.headers()


def start(app: FastAPI, settings: OTelSettings) -> None:
    """Trace an app if OpenTelemetry's variables request it. Otherwise none of its modules is loaded."""
    global tracer
    if not (settings.traces or settings.metrics):
        return
    # The stable semantic conventions, unless the environment selects others.
    if "OTEL_SEMCONV_STABILITY_OPT_IN" not in environment():
        export(OTEL_SEMCONV_STABILITY_OPT_IN="http,database")
    otel = import_module("app.telemetry.otel")
    tracer = otel.OTel(app, traces=settings.traces, metrics_too=settings.metrics)

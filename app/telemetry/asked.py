"""Access to OpenTelemetry. None of its modules is loaded unless the settings ask for it."""

from importlib import import_module

from fastapi import FastAPI

from app.settings import OTelSettings, environment, export
from app.telemetry.spans import use


def start(app: FastAPI, settings: OTelSettings) -> None:
    """Trace an app, if OpenTelemetry's variables ask for it."""
    if not (settings.traces or settings.metrics):
        return
    # The names of the conventions that are stable, unless somebody has asked for the ones before.
    if "OTEL_SEMCONV_STABILITY_OPT_IN" not in environment():
        export(OTEL_SEMCONV_STABILITY_OPT_IN="http,database")
    otel = import_module("app.telemetry.otel")
    use(otel.OTel(app, traces=settings.traces, metrics_too=settings.metrics))

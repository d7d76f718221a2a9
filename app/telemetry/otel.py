"""OpenTelemetry: traces and metrics by OTLP over HTTP, as its standard variables say. Loaded only where they do.

What a span may say is decided here, once: nothing of what people have said, no name that a client gave, no address of
a client. The libraries' own spans hold URLs and the messages of exceptions, which do.
"""

import threading
from asyncio import Future
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter

from app.telemetry import metrics
from app.telemetry.spans import Attributes, Span

UNSAID = frozenset(
    ("url.path", "url.query", "url.full", "http.url", "http.target", "client.address", "client.port", "net.peer.ip",
     "net.peer.port", "http.client_ip")
)  # fmt: skip
"""A URL holds the names of threads, and what was searched for."""

CLOSE_SECONDS = 3.0

NOT_TRACED = "/healthz$,/readyz$,/metrics$"

CALL_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bucket bounds of the semantic conventions."""

TOKEN_COUNTS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


class Discreet(SpanExporter):
    """Exports what spans may say, and none of those that the service's own chores make."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export(
            [_discreet(span) for span in spans if span.parent is not None or span.kind is not SpanKind.CLIENT]
        )

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _discreet(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        span.name,
        span.context,
        span.parent,
        span.resource,
        {name: value for name, value in (span.attributes or {}).items() if name not in UNSAID},
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


class _Recorded(Span):
    __slots__ = ("_current", "_span")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._current = trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=True)

    def __enter__(self) -> Span:
        self._current.__enter__()
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._current.__exit__(type_, error, traceback)

    def add(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def fail(self, error_type: str) -> None:
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(Status(StatusCode.ERROR))


class OTel:
    def __init__(self, app: FastAPI, *, traces: bool, metrics_too: bool) -> None:
        """Begin to trace an app, and all that this process does with asyncpg.

        Args:
            traces, metrics_too: what is exported.
        """
        default = {"service.name": "everthread", "service.version": version("everthread")}
        resource = Resource.create({**default, "service.instance.id": str(uuid4())}).merge(
            OTELResourceDetector().detect()
        )
        self._exporters: list[OTLPSpanExporter | OTLPMetricExporter] = []
        self._traces = TracerProvider(resource=resource)
        if traces:
            spans = OTLPSpanExporter()
            self._exporters.append(spans)
            self._traces.add_span_processor(BatchSpanProcessor(Discreet(spans)))
        readers = []
        if metrics_too:
            points = OTLPMetricExporter()
            self._exporters.append(points)
            readers.append(PeriodicExportingMetricReader(points))
        self._meters = MeterProvider(readers, resource=resource)
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = self._traces.get_tracer("everthread")
        meter = self._meters.get_meter("everthread")
        self._call_seconds = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=CALL_SECONDS,
        )  # fmt: skip
        self._first_token_seconds = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk", "s", "Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=CALL_SECONDS,
        )  # fmt: skip
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKEN_COUNTS,
        )  # fmt: skip
        for counter in metrics.COUNTERS:
            (family,) = counter.collect()
            meter.create_observable_counter(family.name, [_observer(counter)], description=family.documentation)
        AsyncPGInstrumentor().instrument(tracer_provider=self._traces)  # type: ignore[no-untyped-call]
        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=self._traces,
            meter_provider=self._meters,
            excluded_urls=NOT_TRACED,
            exclude_spans=["receive", "send"],
        )

    def span(self, name: str, attributes: Attributes, *, outbound: bool = False) -> Span:
        kind = SpanKind.CLIENT if outbound else SpanKind.INTERNAL
        return _Recorded(self._tracer.start_span(name, kind=kind, attributes=attributes))

    def until_done(self, name: str, attributes: Attributes, answer: "Future[Any]") -> None:
        """Start a span that ends with the answer of another server."""
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)

        def end(done: "Future[Any]") -> None:
            error = None if done.cancelled() else done.exception()
            if error is not None:
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR))
            span.end()

        answer.add_done_callback(end)

    def headers(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        # Not the client's tracestate, nor its baggage: they are not for the provider.
        return {name: value for name, value in carrier.items() if name == "traceparent"}

    def provider_call(self, seconds: float, first_token: float | None, attributes: Attributes) -> None:
        """Count a call of the provider. Args: first_token: seconds to it; None if there was none in a stream."""
        self._call_seconds.record(seconds, attributes)
        if first_token is not None:
            self._first_token_seconds.record(first_token, attributes)

    def tokens(self, counted: Mapping[str, int], attributes: Attributes) -> None:
        for type_, number in counted.items():
            self._tokens.record(number, {**attributes, "gen_ai.token.type": type_})

    def close(self) -> None:
        """Send what has not been sent. It blocks."""
        # A collector that is unavailable would be tried again and again.
        patience = threading.Timer(CLOSE_SECONDS, self._give_up)
        patience.start()
        self._traces.shutdown()
        self._meters.shutdown()
        patience.cancel()

    def _give_up(self) -> None:
        for exporter in self._exporters:
            exporter.shutdown()


def _observer(counter: Counter) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """Return a callback that reports a counter of /metrics over OTLP."""

    def observe(options: CallbackOptions) -> Iterable[Observation]:
        for family in counter.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    yield Observation(sample.value, sample.labels)

    return observe

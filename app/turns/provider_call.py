"""A call to the provider as metrics and traces tell of it. Its record in the database is the runner's own."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from app.db import ids
from app.items.token_counts import Usage
from app.telemetry import metrics, spans
from app.telemetry.spans import Span

PROVIDER_NAME = "alibaba_cloud"
"""OpenTelemetry's semantic conventions have no name for it yet."""


class ProviderCall:
    """Begins and ends with its `with` block. One that neither answered nor failed was cancelled."""

    def __init__(self, url: str, account: str, model: str, *, stream: bool, thread_id: UUID) -> None:
        """Args: account: as metrics name it."""
        self._account, self._model, self._stream = account, model, stream
        self._outcome = "cancelled"
        self._first_token: float | None = None
        self._began = time.monotonic()
        self._attributes: dict[str, str | int | float | bool] = {}
        self._span: Span | None = None
        if spans.tracer is None:
            return
        place = urlsplit(url)
        self._attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER_NAME,
            "gen_ai.request.model": model,
            "server.address": place.hostname or "",
            "server.port": place.port or (443 if place.scheme == "https" else 80),
        }
        begun = {
            **self._attributes,
            "gen_ai.conversation.id": ids.thread_id(thread_id),
            "gen_ai.request.stream": stream,
        }
        self._span = spans.span(f"chat {model}", begun, outbound=True)

    def __enter__(self) -> "ProviderCall":
        if self._span is not None:
            self._span.__enter__()
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._began
        model = metrics.model(self._model)
        metrics.of(metrics.PROVIDER_CALLS, self._outcome, model, self._account).inc()
        metrics.of(metrics.PROVIDER_SECONDS, str(self._stream).lower(), model, self._account).observe(seconds)
        if spans.tracer is None or self._span is None:
            return
        if self._outcome != "answered":
            self._attributes["error.type"] = self._outcome
            self._span.fail(self._outcome)
        spans.tracer.provider_call(seconds, self._first_token, self._attributes)
        self._span.__exit__(None, None, None)  # What it failed of has been said, without its message.

    def first_output(self, since_request: float) -> None:
        """Its first text has come, so many seconds after the client's request."""
        self._first_token = time.monotonic() - self._began
        model = metrics.model(self._model, answers=True)
        metrics.of(metrics.FIRST_TOKEN_SECONDS, model, self._account).observe(since_request)

    def answered(self, response: Mapping[str, Any], usage: Usage) -> None:
        self._outcome = "answered"
        model = metrics.model(self._model, answers=True)
        counted = {
            "input": usage.input, "cached": usage.cached, "output": usage.output, "reasoning": usage.reasoning,
        }  # fmt: skip
        for kind, number in counted.items():
            counter = metrics.of(metrics.TOKENS, kind, model, self._account)  # Exported from zero on.
            if number:
                counter.inc(number)
        if spans.tracer is None or self._span is None:
            return
        self._span.add(
            {
                "gen_ai.response.id": str(response["id"]),
                "gen_ai.usage.input_tokens": usage.input,
                "gen_ai.usage.cache_read.input_tokens": usage.cached,
                "gen_ai.usage.output_tokens": usage.output,
                "gen_ai.usage.reasoning.output_tokens": usage.reasoning,
            }
        )
        if isinstance(named := response.get("model"), str):
            self._span.add({"gen_ai.response.model": named})
        spans.tracer.tokens({"input": usage.input, "output": usage.output}, self._attributes)

    def failed(self, kind: str) -> None:
        """Args: kind: what the failure means, see `provider.failure.Kind`."""
        self._outcome = kind

"""Telemetry of a turn while it runs: traces and metrics for OpenTelemetry, and logs. None contains message text."""

import json
import subprocess
import sys

import httpx2
import pytest

from tests.collector import Collector, attributes, collecting
from tests.service import KEY, Emulator, Process, Service, eventually, free_port

SAID = "xylophone-of-the-user"
NAMED = "thread-named-oboe"
SEARCHED = "xylophone"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def talk(service: Service, emulator: Emulator) -> None:
    """A conversation with all that can be told of: names, a stream, a search, a rebuild, a failure."""
    headers = {
        "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
        "tracestate": "vendor=secretly",
        "baggage": "user=mallory",
    }
    service.http.put(f"/threads/by-name/{NAMED}", json={"user": "eve-of-the-app", "metadata": {"k": "bassoon"}})
    path = f"/threads/by-name/{NAMED}/turns"
    assert service.http.post(path, json={"input": f"Echo: {SAID}"}, headers=headers).status_code == 200
    service.stream(service.http.get(f"/threads/by-name/{NAMED}").json()["id"], f"Echo: {SAID}")
    emulator.forget()
    assert service.http.post(path, json={"input": f"Echo: {SAID}"}).status_code == 200
    emulator.fault("status", status=400, code="DataInspectionFailed", message=f"not this: {SAID}")
    assert service.http.post(path, json={"input": f"Echo: {SAID}"}).status_code == 400
    emulator.fault("status", status=429, code="Throttling", message="slow", times=3)
    assert service.http.post(path, json={"input": "Hi", "model": f"model-{SAID}"}).status_code == 429
    assert service.http.get("/search", params={"q": SEARCHED}).json()["data"]


@pytest.fixture(scope="module")
def told(service_env: dict[str, str], running_emulator: Emulator) -> tuple[Collector, Emulator, list[str]]:
    running_emulator.reset()
    with collecting() as collector:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer the-collectors-secret",
        }
        service = Service(env={**service_env, **env})
        talk(service, running_emulator)
        eventually(lambda: "gen_ai.client.operation.duration" in collector.metrics)
        assert service.stop() == 0
    return collector, running_emulator, service.process.lines


def test_a_turn_is_one_trace_from_the_client_to_the_provider(told: tuple[Collector, Emulator, list[str]]) -> None:
    collector, emulator, _ = told
    assert collector.services == {"everthread"}
    spans = {span.span_id: span for span in collector.spans if span.trace_id.hex() == TRACE}
    (request,) = [span for span in spans.values() if span.parent_span_id.hex() == "b7ad6b7169203331"]
    assert attributes(request)["http.route"] == "/v1/threads/by-name/{name}/turns"
    (turn,) = [span for span in spans.values() if span.name == "turn"]
    (call,) = [span for span in spans.values() if span.name == "chat qwen3.5-plus"]
    assert (turn.parent_span_id, call.parent_span_id) == (request.span_id, turn.span_id)
    systems = {attributes(span).get("db.system.name") for span in spans.values()}
    assert {"postgresql", "redis"} <= systems
    assert all(span.parent_span_id in spans for span in spans.values() if span is not request)
    shown = attributes(call)
    assert shown["gen_ai.usage.input_tokens"] > 0
    assert shown["gen_ai.conversation.id"] == attributes(turn)["everthread.thread"]
    sent = emulator.calls()[0]["headers"]
    assert sent["traceparent"] == f"00-{TRACE}-{call.span_id.hex()}-01"
    assert not {"tracestate", "baggage"} & set(sent)


def test_what_went_wrong_is_told_by_its_meaning(told: tuple[Collector, Emulator, list[str]]) -> None:
    collector = told[0]
    failed = [attributes(span).get("error.type") for span in collector.spans if span.name.startswith("chat ")]
    assert sorted(filter(None, failed)) == ["refused", "throttled", "throttled", "throttled", "unknown_previous"]
    rebuilt = [attributes(span)["everthread.continuation"] for span in collector.named("turn")]
    assert sorted(rebuilt[:3]) == ["chained", "new", "rebuilt"]


def test_metrics_go_by_otlp_as_they_stand_in_metrics(told: tuple[Collector, Emulator, list[str]]) -> None:
    found = told[0].metrics
    turns = {point["continuation"]: point[""] for point in found["everthread_turns"] if point["status"] == "completed"}
    assert turns == {"new": 1, "chained": 1, "rebuilt": 1}
    assert {point["gen_ai.token.type"] for point in found["gen_ai.client.token.usage"]} == {"input", "output"}
    assert sum(point[""] for point in found["gen_ai.client.operation.time_to_first_chunk"]) == 1
    assert "http.server.request.duration" in found


def test_neither_traces_nor_metrics_nor_logs_hold_what_was_said_or_a_secret(
    told: tuple[Collector, Emulator, list[str]],
) -> None:
    collector, _, lines = told
    logged = "\n".join(lines).encode()
    model = f"model-{SAID}".encode()
    received = collector.received.replace(model, b"")  # A model's name is told in traces.
    of_users = (SAID, SEARCHED, NAMED, "eve-of-the-app", "mallory", "bassoon")
    for secret in (*of_users, KEY, "sk-tests", "the-collectors-secret"):
        assert secret.encode() not in received, secret
        assert secret.encode() not in logged, secret


def test_a_line_of_the_log_names_its_request_project_thread_and_turn(
    told: tuple[Collector, Emulator, list[str]],
) -> None:
    lines = [json.loads(line) for line in told[2] if line.startswith("{")]
    of_turns = [
        line for line in lines if line["event"] in ("a turn failed", "the provider does not know a live id; rebuilding")
    ]
    assert len(of_turns) == 3
    for line in of_turns:
        kinds = {name: str(line[name]).partition("_")[0] for name in ("request_id", "project", "thread", "turn")}
        assert kinds == {"request_id": "req", "project": "proj", "thread": "thread", "turn": "turn"}
    assert len({line["turn"] for line in of_turns}) == 3


def test_nothing_of_opentelemetry_is_loaded_unless_it_is_asked_for(service_env: dict[str, str]) -> None:
    # redis-py looks by itself whether the API is installed.
    look = (
        "import sys, app.main; app.main.create_app(); parts = ('app.telemetry.otel', 'opentelemetry.exporter', "
        "'opentelemetry.instrumentation', 'opentelemetry.sdk.trace'); "
        "print([name for name in sys.modules if name.startswith(parts)])"
    )
    ran = subprocess.run([sys.executable, "-c", look], env=service_env, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_protocol_that_is_not_spoken_is_refused_at_the_start(service_env: dict[str, str]) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    refused = Process("serve", "--port", str(free_port()), env={**service_env, **env})
    assert refused.ended() == 1
    (line,) = refused.lines
    assert line.startswith("everthread: The setting OTEL_EXPORTER_OTLP_PROTOCOL is wrong")


def test_a_collector_that_is_away_costs_no_turn(service_env: dict[str, str], emulator: Emulator) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "EVERTHREAD_DRAIN_SECONDS": "1"}
    service = Service(env={**service_env, **env})
    assert service.turn(service.thread(), "Echo: hello")["output_text"] == "hello"
    service.process.stop()


def test_models_that_never_answered_have_no_series_of_their_own(service: Service, emulator: Emulator) -> None:
    for number in range(3):
        emulator.fault("status", status=400, code="InvalidParameter", message="no")
        service.http.post("/responses", json={"input": "Hi", "model": f"made-up-{number}"})
    service.turn(service.thread(), "Hi", model="qwen-that-answers")
    shown = httpx2.get(f"{service.url}/metrics").text
    assert "made-up" not in shown
    assert 'model="qwen-that-answers"' in shown
    account = f"127.0.0.1:{emulator.port}#"
    assert f'everthread_provider_calls_total{{account="{account}' in shown
    assert 'everthread_refused_requests_total{meaning="provider_refused",status="400"}' in shown

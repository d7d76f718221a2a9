"""Health and metrics: without a key, and without a word about anybody."""

import socket

import httpx2

from tests.service import Emulator, Service


def test_health_and_readiness_are_told_without_a_key(service: Service) -> None:
    assert httpx2.get(f"{service.url}/healthz").json() == {"status": "ok"}
    ready = httpx2.get(f"{service.url}/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ready", "postgres": "ok", "redis": "ok", "migrations": "ok"}


def test_metrics_count_turns_by_continuation_and_outcome(service: Service, emulator: Emulator) -> None:
    def value(line_start: str) -> float:
        lines = httpx2.get(f"{service.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(line_start))

    names = (
        'everthread_turns_total{continuation="new",status="completed"}',
        'everthread_turns_total{continuation="chained",status="completed"}',
        'everthread_turns_total{continuation="rebuilt",status="completed"}',
        'everthread_live_id_lookups_total{result="hit"}',
        "everthread_first_token_seconds_count",
        "everthread_rebuilt_items_count",
    )
    before = [value(name) for name in names]
    thread = service.thread()
    service.turn(thread, "Hello")
    service.stream(thread, "Hello")
    emulator.forget()
    service.turn(thread, "Hello")
    assert [value(name) - was for name, was in zip(names, before, strict=True)] == [1, 1, 1, 2, 1, 1]
    assert value("everthread_provider_seconds_count") > 0


async def test_every_answer_names_its_request_as_the_client_did_or_anew(service: Service) -> None:
    answers = [
        service.http.get("/threads"),
        service.http.get("/nothing/here"),
        service.http.post("/threads", content=b"{"),
        httpx2.get(f"{service.url}/healthz"),
        httpx2.get(f"{service.url}/v1/threads"),
    ]
    named = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(named)) == len(named)
    assert all(name.startswith("req_") for name in named)
    given = service.http.get("/threads", headers={"x-request-id": "trace-1:2/3"})
    assert given.headers["x-request-id"] == "trace-1:2/3"
    for odd in ("x" * 129, "a b", "a\tb", '"'):
        answer = service.http.get("/threads", headers={"x-request-id": odd})
        assert answer.headers["x-request-id"].startswith("req_")
    response = await service.openai.responses.create(model="qwen3.5-plus", input="Hello")
    assert str(response._request_id).startswith("req_")
    with socket.create_connection(("127.0.0.1", service.port)) as raw:
        raw.sendall(b"NONSENSE\r\n\r\n")
        assert b"x-request-id: req_" in raw.recv(1000)

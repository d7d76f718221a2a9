"""HTTP's own forms: what other clients and tools send besides OpenAI's, and what they are told."""

import gzip

import openai
import pytest

from tests.service import Emulator, Service


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/responses", {"GET", "HEAD", "POST", "OPTIONS"}),
        (f"/responses/resp_{'0' * 32}", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        ("/threads", {"GET", "HEAD", "POST", "OPTIONS"}),
        (f"/threads/thread_{'0' * 32}/turns", {"GET", "HEAD", "POST", "OPTIONS"}),
    ],
)
def test_a_method_that_is_not_taken_is_answered_with_all_that_are(
    service: Service, path: str, methods: set[str]
) -> None:
    refused = service.http.request("PUT", path)
    assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
    assert set(refused.headers["allow"].split(", ")) == methods
    asked = service.http.options(path)
    assert (asked.status_code, asked.content) == (204, b"")
    assert set(asked.headers["allow"].split(", ")) == methods


def test_a_head_is_that_of_the_whole_answer(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    whole = service.http.get(f"/threads/{thread}")
    head = service.http.head(f"/threads/{thread}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    nobody = service.http.head(f"/threads/{thread}", headers={"Authorization": "Bearer et_wrong"})
    assert (nobody.status_code, nobody.content) == (401, b"")


def test_a_slash_at_the_end_leads_where_the_path_without_it_does(service: Service, emulator: Emulator) -> None:
    made = service.http.post("/responses/", json={"model": "qwen3.5-plus", "input": "Echo: here"})
    assert (made.status_code, made.history) == (200, [])
    assert service.http.get(f"/responses/{made.json()['id']}/").json()["id"] == made.json()["id"]


def test_a_body_may_come_as_gzip(service: Service, emulator: Emulator) -> None:
    body = b'{"model": "qwen3.5-plus", "input": "Echo: packed"}'
    packed = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    answer = service.http.post("/responses", content=gzip.compress(body), headers=packed)
    assert answer.json()["output"][0]["content"][0]["text"] == "packed"


@pytest.mark.parametrize(
    ("content", "encoding", "status", "code"),
    [
        (b"not gzip", "gzip", 400, "invalid_encoding"),
        (gzip.compress(b'{"input": "Hi"}')[:-4], "gzip", 400, "invalid_encoding"),
        (gzip.compress(b'{"input": "Hi"}') + b"more", "gzip", 400, "invalid_encoding"),
        (gzip.compress(b'{"input": "' + b"a" * 5_000_000 + b'"}'), "gzip", 413, "request_too_large"),
        (b"\x28\xb5\x2f\xfd", "zstd", 415, "unsupported_encoding"),
    ],
    ids=["no gzip", "cut off", "more behind it", "too large", "another encoding"],
)
def test_a_body_that_cannot_be_unpacked_is_refused_and_asks_nobody(
    service: Service, emulator: Emulator, content: bytes, encoding: str, status: int, code: str
) -> None:
    refused = service.http.post("/responses", content=content, headers={"Content-Encoding": encoding})
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert emulator.calls() == []


async def test_the_openai_client_lists_models_and_sees_what_each_can_do(service: Service, emulator: Emulator) -> None:
    models = [model async for model in service.openai.models.list()]
    assert {"qwen4-max", "qwen3.5-plus"} <= {model.id for model in models}
    assert all(model.object == "model" for model in models)
    one = await service.openai.models.retrieve("qwen3.5-plus")
    assert one.model_dump()["context_window"] == 1_000_000
    with pytest.raises(openai.NotFoundError) as refused:
        await service.openai.models.retrieve("no-such-model")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize("path", ["/files", "/embeddings", "/vector_stores/vs_1", "/audio/speech", "/completions"])
def test_what_is_not_here_is_said_with_what_to_do_instead(service: Service, path: str) -> None:
    for method in ("GET", "POST"):
        refused = service.http.request(method, path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unsupported_endpoint")
        assert len(refused.json()["error"]["message"]) > 60


def test_every_answer_to_a_turn_says_how_long_it_took_and_which_request_it_was(
    service: Service, emulator: Emulator
) -> None:
    emulator.fault("slow", seconds=0.3)
    answer = service.http.post("/responses", json={"input": "Hi"}, headers={"X-Request-ID": "mine-1"})
    assert 300 <= int(answer.headers["openai-processing-ms"]) < 60_000
    assert answer.headers["x-request-id"] == "mine-1"

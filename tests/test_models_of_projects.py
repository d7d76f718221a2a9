"""Models outlive their names: aliases, successors of what is retired, and what a project may use."""

from typing import Any

import openai
import pytest

from tests.service import Emulator, Service
from tests.tenants import Tenant


@pytest.fixture
def tenant(service: Service) -> Tenant:
    return Tenant(service)


def test_alias_stands_for_its_model_and_the_trail_says_which(tenant: Tenant, emulator: Emulator) -> None:
    tenant.settings(aliases={"chat": "best", "best": "qwen4-max"})
    thread = tenant.thread()
    answer = tenant.http.post(f"/threads/{thread}/turns", json={"input": "Hi", "model": "chat"})
    turn = answer.json()
    assert (turn["model"], answer.headers["everthread-model"]) == ("qwen4-max", "qwen4-max")
    assert [call["body"]["model"] for call in emulator.calls()] == ["qwen4-max"]
    records = tenant.http.get("/audit", params={"turn": turn["id"], "order": "asc"}).json()["data"]
    assert [record["action"] for record in records] == [
        "turn.opened", "turn.called", "turn.model_replaced", "turn.closed",
    ]  # fmt: skip
    assert records[2]["detail"] == "chat -> qwen4-max"


def test_thread_goes_on_with_the_successor_of_its_model(tenant: Tenant) -> None:
    thread = tenant.thread()
    tenant.turn(thread, "My name is Ada.", model="qwen3-max")
    tenant.settings(aliases={"qwen3-max": "qwen4-max"})
    turn = tenant.turn(thread, "What is my name?", model="qwen3-max")
    assert (turn["output_text"], turn["model"], turn["continuation"]) == ("Ada", "qwen4-max", "rebuilt")


@pytest.mark.parametrize("message", ["Unsupported model: qwen3-max", "Model qwen3-max has been retired."])
@pytest.mark.parametrize("stream", [False, True])
def test_retired_model_is_told_with_what_to_ask_for_instead(
    service: Service, emulator: Emulator, message: str, stream: bool
) -> None:
    emulator.fault("status", status=400, code="InvalidParameter", message=message, times=1)
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0)
    with pytest.raises(openai.BadRequestError, match="'qwen4-max'") as refused:
        client.responses.create(model="qwen3-max", input="Hi", stream=stream)
    assert refused.value.code == "model_retired"


def test_model_that_is_not_known_to_be_retired_is_not_said_to_be(service: Service, emulator: Emulator) -> None:
    emulator.fault("status", status=400, code="InvalidParameter", message="Unsupported model: qwen9", times=1)
    answer = service.http.post("/responses", json={"model": "qwen9", "input": "Hi"})
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/responses", {"input": "Hi"}),
        ("/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/responses/compact", {"input": "Hi"}),
        ("/responses/input_tokens", {"input": "Hi"}),
    ],
)
def test_model_that_a_project_may_not_use_is_not_asked(
    tenant: Tenant, emulator: Emulator, path: str, body: dict[str, Any]
) -> None:
    tenant.settings(models=["qwen3.7-*", "qwen4-max"], aliases={"sly": "qwen3.5-plus", "fine": "qwen3.7-max"})
    for model in ("qwen3.5-plus", "sly", "qwen3.7"):
        answer = tenant.http.post(path, json={**body, "model": model})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_allowed")
        assert answer.json()["error"]["param"] == "model"
    assert emulator.calls() == []
    for model in ("qwen3.7-max", "qwen4-max", "fine"):
        assert tenant.http.post(path, json={**body, "model": model}).status_code == 200


def test_list_of_models_has_what_the_project_may_use_under_its_own_names(tenant: Tenant) -> None:
    tenant.settings(models=["qwen4-max"], aliases={"chat": "qwen4-max", "sly": "qwen3.5-plus"})
    listed = tenant.http.get("/models").json()["data"]
    assert [model["id"] for model in listed] == ["chat", "qwen4-max"]
    assert tenant.http.get("/models/chat").json()["context_window"] == 1_000_000
    for model in ("sly", "qwen3.5-plus"):
        assert tenant.http.get(f"/models/{model}").status_code == 404


def test_aliases_that_lead_in_a_ring_lead_somewhere(tenant: Tenant) -> None:
    tenant.settings(aliases={"one": "two", "two": "one"})
    answer = tenant.http.post("/responses", json={"model": "one", "input": "Hi"})
    assert answer.status_code in (200, 400)

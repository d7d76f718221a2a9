"""Bad input gets a 4xx that names the field, and changes nothing."""

from typing import Any

import pytest

from tests.service import Emulator, Service


def refused(service: Service, body: Any, thread: str | None = None, **kwargs: Any) -> dict[str, Any]:
    """The error that a turn with this body gets. Nothing of it is stored, and no model is asked."""
    thread = thread or service.thread()
    before = service.http.get(f"/threads/{thread}").json()
    if isinstance(body, bytes):
        kwargs["content"] = body
    else:
        kwargs["json"] = body
    answer = service.http.post(f"/threads/{thread}/turns", **kwargs)
    assert 400 <= answer.status_code < 500, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert service.http.get(f"/threads/{thread}").json() == before
    assert service.http.get(f"/threads/{thread}/turns").json()["data"] == []
    return {**error, "status": answer.status_code}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": ["Hello"]}, "input[0]"),
        ({"input": [{"content": "Hello"}]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "Hello"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 7}]}, "input[0].content"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"text": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}, "input[1].tool_call_id"),
        ({"input": [{"type": 5}]}, "input[0].type"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "n"}]}, "input[0].arguments"),
        ({"input": "Hi", "model": 7}, "model"),
        ({"input": "Hi", "stream": "yes"}, "stream"),
        ({"input": "Hi", "instructions": ["x"]}, "instructions"),
        ({"input": "Hi", "max_output_tokens": 15}, "max_output_tokens"),
        ({"input": "Hi", "temperature": 2}, "temperature"),
        ({"input": "Hi", "top_p": 0}, "top_p"),
        ({"input": "Hi", "tools": ["web_search"]}, "tools.0"),
        ({"input": "Hi", "metadata": {"k": 1}}, "metadata.k"),
        ({"input": "Hi", "metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"input": "Hi", "metadata": {"k" * 65: "v"}}, "metadata." + "k" * 65),
        ({"input": "Hi", "metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"input": "Hi", "parent_id": "msg_1"}, "parent_id"),
        ({"input": "Hi", "if_busy": "shout"}, "if_busy"),
        ({"input": "Hi", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "Hi", "conversation": "conv_1"}, "conversation"),
        ({"input": "a\0b"}, "input"),
        ({"input": [{"role": "user", "content": "a\0b"}]}, "input[0].content"),
        ({"input": "Hi", "metadata": {"k": "\0"}}, "metadata.k"),
    ],
)
def test_the_field_at_fault_is_named(service: Service, emulator: Emulator, body: Any, param: str) -> None:
    assert refused(service, body)["param"] == param
    assert emulator.calls() == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[1]", "invalid_json"),
        (b'"text"', "invalid_json"),
        (b'{"input": "\xff\xfe"}', "invalid_json"),
        (b'{"input": "\\ud800"}', "invalid_json"),
        (b'{"input": NaN}', "invalid_json"),
        (b'{"input": ' + b"[" * 1000 + b"]" * 1000 + b"}", "nesting_too_deep"),
        (b'{"input": "Hi", "x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "nesting_too_deep"),
    ],
)
def test_a_body_that_is_not_plain_json_is_refused(service: Service, body: bytes, code: str) -> None:
    assert refused(service, body)["code"] == code


def test_brackets_inside_strings_are_not_nesting(service: Service) -> None:
    service.turn(service.thread(), "[{" * 5000)


def test_a_written_backslash_u0000_is_not_a_nul_character(service: Service) -> None:
    assert service.turn(service.thread(), "Echo: \\u0000")["output_text"] == "\\u0000"


def test_a_body_that_is_too_large_is_refused_with_or_without_its_length(service: Service) -> None:
    large = b'{"input": "' + b"x" * 1_000_000 + b'"}'
    assert refused(service, large)["status"] == 413
    thread = service.thread()
    chunks = (large[i : i + 65536] for i in range(0, len(large), 65536))
    answer = service.http.post(f"/threads/{thread}/turns", content=chunks)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("thread", ["thread_x", "thread_" + "0" * 32, "nonsense", "turn_" + "0" * 32, "by-name/nobody"])
def test_an_unknown_thread_is_a_404(service: Service, thread: str) -> None:
    for answer in (
        service.http.get(f"/threads/{thread}"),
        service.http.post(f"/threads/{thread}/turns", json={"input": "Hi"}),
        service.http.get(f"/threads/{thread}/messages"),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "thread_not_found"


def test_an_unknown_parent_and_one_of_another_thread_are_a_404(service: Service) -> None:
    elsewhere = service.turn(service.thread(), "Hi")["id"]
    for parent in (elsewhere, "turn_" + "0" * 32):
        error = refused(service, {"input": "Hi", "parent_id": parent})
        assert (error["status"], error["code"], error["param"]) == (404, "turn_not_found", "parent_id")


@pytest.mark.parametrize("cursor", ["x", "turn_" + "0" * 32, "thread_12", "", "thread_" + "z" * 32])
@pytest.mark.parametrize("side", ["after", "before"])
def test_a_wrong_cursor_is_named(service: Service, side: str, cursor: str) -> None:
    answer = service.http.get("/threads", params={side: cursor})
    assert answer.status_code == 400
    assert answer.json()["error"] | {"param": side, "code": "invalid_cursor"} == answer.json()["error"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"order": "sideways"}, "order"),
        ({"archived": "maybe"}, "archived"),
        ({"updated_after": "-1"}, "updated_after"),
        ({"user": "a\0"}, "user"),
    ],
)
def test_a_wrong_query_is_named(service: Service, query: dict[str, str], param: str) -> None:
    answer = service.http.get("/threads", params=query)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "x" * 257}, "name"),
        ({"title": "x" * 1001}, "title"),
        ({"user": ""}, "user"),
        ({"metadata": []}, "metadata"),
        ({"nane": "typo"}, "nane"),
        ({"title": "a\0"}, "title"),
    ],
)
def test_a_wrong_field_of_a_thread_is_named(service: Service, body: Any, param: str) -> None:
    thread = service.thread()
    for answer in (service.http.post("/threads", json=body), service.http.patch(f"/threads/{thread}", json=body)):
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param


def test_an_unknown_address_and_method_are_errors_of_the_same_shape(service: Service) -> None:
    assert service.http.get("/nothing").json()["error"]["code"] == "unknown_url"
    answer = service.http.delete("/threads")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")

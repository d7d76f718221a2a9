"""Calls that wait for the client and are no function calls: approvals of MCP tools, and tool searches."""

from typing import Any

import pytest

from tests.service import Emulator, Service

MODEL = "qwen3.5-plus"
MCP = {"type": "mcp", "server_label": "maps", "server_url": "https://mcp.example/sse", "require_approval": "always"}
FOUND = [{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}]


def approval(id_: str, *, approve: bool = True, **more: Any) -> dict[str, Any]:
    return {"type": "mcp_approval_response", "approval_request_id": id_, "approve": approve, **more}


def search_call(**more: Any) -> dict[str, Any]:
    call = {"call_id": "call_search", "execution": "client", "arguments": {"goal": "weather"}, "status": "completed"}
    return {"type": "tool_search_call", "id": "tsc_1", **call, **more}


def search_output(**more: Any) -> dict[str, Any]:
    return {"type": "tool_search_output", "call_id": "call_search", "execution": "client", "tools": FOUND, **more}


def sent(emulator: Emulator) -> list[dict[str, Any]]:
    """The input of the last call."""
    items: list[dict[str, Any]] = emulator.calls()[-1]["body"]["input"]
    return items


def asked_for(service: Service, thread: str, *, streamed: bool = False) -> str:
    """The id of the approval request that a turn ends with."""
    if streamed:
        turn = service.stream(thread, "Where is Oslo?", tools=[MCP])[-1]["response"]
    else:
        turn = service.turn(thread, "Where is Oslo?", tools=[MCP])
    (item,) = turn["output"]
    assert item["type"] == "mcp_approval_request"
    id_: str = item["id"]
    return id_


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("approve", [False, True])
def test_an_approval_goes_out_as_it_is_while_the_chain_lives(
    service: Service, emulator: Emulator, *, approve: bool, streamed: bool
) -> None:
    thread = service.thread()
    answer = approval(asked_for(service, thread, streamed=streamed), approve=approve, reason="As the user said.")
    words = {"type": "message", "role": "user", "content": "Go on."}
    turn = service.turn(thread, [words, {**answer, "id": "mcpr_of_the_client"}], tools=[MCP])
    assert turn["continuation"] == "chained"
    assert sent(emulator) == [answer, words]  # The provider takes no message before it.
    assert service.turn(thread, "Echo: and on", tools=[])["output_text"] == "and on"


def test_an_approved_tool_runs(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    turn = service.turn(thread, [approval(asked_for(service, thread))], tools=[MCP])
    assert [item["type"] for item in turn["output"]] == ["mcp_call", "message"]
    denied = service.thread()
    turn = service.turn(denied, [approval(asked_for(service, denied), approve=False)], tools=[MCP])
    assert [item["type"] for item in turn["output"]] == ["message"]
    assert len(emulator.calls()) == 4


@pytest.mark.parametrize("by", ["previous_response_id", "conversation"])
async def test_the_openai_client_approves_a_tool(service: Service, emulator: Emulator, by: str) -> None:
    conversation = (await service.openai.conversations.create()).id if by == "conversation" else None
    asked: Any = {"model": MODEL, "tools": [MCP]}
    where: Any = {"conversation": conversation} if conversation else {}
    first = await service.openai.responses.create(input="Where is Oslo?", **asked, **where)
    (request,) = first.output
    assert request.type == "mcp_approval_request"
    where = where or {"previous_response_id": first.id}
    answer: Any = [approval(request.id)]
    second = await service.openai.responses.create(input=answer, **asked, **where)
    assert [item.type for item in second.output] == ["mcp_call", "message"]
    assert sent(emulator) == answer
    emulator.forget()
    where = where if conversation else {"previous_response_id": second.id}
    third = await service.openai.responses.create(model=MODEL, input="Echo: and on", **where)
    assert third.output_text == "and on"


@pytest.mark.parametrize("forgotten", ["between", "unseen"])
def test_an_approval_of_a_forgotten_request_goes_with_its_request(
    service: Service, emulator: Emulator, forgotten: str
) -> None:
    thread = service.thread()
    id_ = asked_for(service, thread)
    if forgotten == "unseen":
        emulator.forget()
    else:
        emulator.advance(days=8)
    turn = service.turn(thread, [approval(id_, reason="Yes.")])
    assert turn["continuation"] == "rebuilt"
    _, call, output = sent(emulator)
    assert (call["type"], call["name"], call["call_id"]) == ("function_call", "mcp_approval", id_)
    assert output == {"type": "function_call_output", "call_id": id_, "output": "approved: Yes."}


@pytest.mark.parametrize("surface", ["thread", "parent", "new", "response", "conversation", "unstored", "stream"])
def test_an_approval_of_an_unknown_request_is_refused_and_changes_nothing(
    service: Service, emulator: Emulator, surface: str
) -> None:
    thread = service.thread()
    first = service.turn(thread, "Hello")
    words = {"type": "message", "role": "user", "content": "Go on."}
    body: dict[str, Any] = {"model": MODEL, "input": [words, approval("mcpr_unknown")]}
    before = service.http.get(f"/threads/{thread}").json()
    made = len(service.http.get("/threads", params={"limit": 100}).json()["data"])
    path = f"/threads/{thread}/turns" if surface in ("thread", "parent", "stream") else "/responses"
    response_id = first["id"].replace("turn_", "resp_")
    body |= {
        "thread": {},
        "parent": {"parent_id": first["id"]},
        "new": {},
        "response": {"previous_response_id": response_id},
        "conversation": {"conversation": thread.replace("thread_", "conv_")},
        "unstored": {"previous_response_id": response_id, "store": False},
        "stream": {"stream": True},
    }[surface]
    for key in ({}, {"Idempotency-Key": f"key-{thread}"}):
        answer = service.http.post(path, json=body, headers=key)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == ("input[1].approval_request_id", "approval_request_not_found")
        assert "mcpr_unknown" in error["message"]
    assert service.http.get(f"/threads/{thread}").json() == before
    assert len(service.http.get("/threads", params={"limit": 100}).json()["data"]) == made
    assert len(service.http.get(f"/threads/{thread}/turns").json()["data"]) == 1
    assert len(emulator.calls()) == 1


def test_an_approval_is_given_once_and_in_the_branch_that_asks_for_it(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    opening = service.turn(thread, "Hello")
    id_ = asked_for(service, thread)
    other = service.thread()
    service.turn(other, "Hello")

    def refused(where: str, **fields: Any) -> bool:
        answer = service.http.post(f"/threads/{where}/turns", json={"input": [approval(id_)], **fields})
        return bool(answer.status_code == 400 and answer.json()["error"]["code"] == "approval_request_not_found")

    assert refused(other)
    assert refused(thread, parent_id=opening["id"])
    twice = service.http.post(f"/threads/{thread}/turns", json={"input": [approval(id_), approval(id_)]})
    assert twice.json()["error"]["code"] == "approval_request_not_found"
    key = {"Idempotency-Key": f"approve-{thread}"}
    body = {"input": [approval(id_)], "tools": [MCP]}
    first = service.http.post(f"/threads/{thread}/turns", json=body, headers=key)
    again = service.http.post(f"/threads/{thread}/turns", json=body, headers=key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["id"] == again.json()["id"]
    assert refused(thread)


def test_an_approval_is_found_in_a_fork_and_behind_other_turns(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    id_ = asked_for(service, thread)
    pair = {"type": "function_call_output", "call_id": id_, "output": "approved"}
    for named in ("as the provider", "as the fork"):
        fork = service.http.post(f"/threads/{thread}/fork", json={}).json()["id"]
        shown = service.http.get(f"/threads/{fork}/messages").json()["data"][-1]
        assert shown["type"] == "mcp_approval_request"
        service.turn(fork, [approval(id_ if named == "as the provider" else shown["id"])])
        assert sent(emulator) == [approval(id_)] or pair in sent(emulator)
    service.turn(thread, "Echo: wait")
    turn = service.turn(thread, [approval(id_)])
    assert turn["continuation"] == "rebuilt"
    assert pair in sent(emulator)


def test_an_approval_sent_while_the_request_is_made_waits_for_it(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    emulator.fault("slow", seconds_per_event=0.2, times=1)
    body = {"input": "Where is Oslo?", "tools": [MCP], "stream": True}
    with service.http.stream("POST", f"/threads/{thread}/turns", json=body) as answer:
        lines = answer.iter_lines()
        line = next(line for line in lines if '"mcp_approval_request"' in line)
        id_ = "mcpr_" + line.partition('"id":"mcpr_')[2].partition('"')[0]
        turn = service.turn(thread, [approval(id_)], tools=[MCP], if_busy="wait")
        list(lines)
    assert [item["type"] for item in turn["output"]] == ["mcp_call", "message"]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "mcp_approval_response", "approve": True}, "approval_request_id"),
        ({"type": "mcp_approval_response", "approval_request_id": "", "approve": True}, "approval_request_id"),
        ({"type": "mcp_approval_response", "approval_request_id": "a"}, "approve"),
        ({"type": "mcp_approval_response", "approval_request_id": "a", "approve": "yes"}, "approve"),
        ({"type": "mcp_approval_response", "approval_request_id": "a", "approve": True, "reason": 1}, "reason"),
        ({"type": "tool_search_call", "call_id": "a"}, "arguments"),
        ({"type": "tool_search_call", "call_id": "", "arguments": {}}, "call_id"),
        ({"type": "tool_search_call", "execution": "client", "arguments": {}}, "call_id"),
        ({"type": "tool_search_output", "call_id": "a"}, "tools"),
        ({"type": "tool_search_output", "call_id": "a", "tools": {}}, "tools"),
        ({"type": "tool_search_output", "call_id": "a", "tools": ["x"]}, "tools[0]"),
        ({"type": "tool_search_output", "execution": "client", "tools": []}, "call_id"),
    ],
)
def test_an_item_of_the_wrong_shape_is_refused(service: Service, item: dict[str, Any], param: str) -> None:
    answer = service.http.post("/responses", json={"model": MODEL, "input": [{"role": "user", "content": "a"}, item]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"input[1].{param}")


async def test_the_openai_client_searches_tools(service: Service, emulator: Emulator) -> None:
    emulator.fault("output", output=[search_call()])
    tools: Any = [{"type": "tool_search", "execution": "client", "parameters": {"type": "object"}}]
    first = await service.openai.responses.create(model=MODEL, input="Is it warm?", tools=tools)
    (call,) = first.output
    assert call.type == "tool_search_call"
    assert (call.call_id, call.arguments) == ("call_search", {"goal": "weather"})
    answer: Any = [search_output()]
    second = await service.openai.responses.create(
        model=MODEL, input=answer, tools=tools, previous_response_id=first.id
    )
    assert sent(emulator) == [{**search_output(), "status": "completed"}]
    listed = await service.openai.responses.input_items.list(second.id)
    assert [item.type for item in listed.data] == ["tool_search_output"]
    assert listed.data[0].model_dump()["tools"][0]["name"] == "get_weather"
    emulator.forget()
    await service.openai.responses.create(model=MODEL, input="Echo: on", previous_response_id=second.id)
    _, called, output, *_ = sent(emulator)
    assert (called["type"], called["name"], called["arguments"]) == (
        "function_call",
        "tool_search",
        '{"goal":"weather"}',
    )
    assert (output["type"], output["call_id"]) == ("function_call_output", called["call_id"])
    assert "get_weather" in output["output"]


def test_a_tool_search_that_a_client_replays_is_sent_as_a_pair(service: Service, emulator: Emulator) -> None:
    words = {"role": "user", "content": "Is it warm?"}
    later = {"role": "user", "content": "Echo: on"}
    replayed = [words, search_call(), {"role": "assistant", "content": "Searching."}, search_output(), later]
    answer = service.http.post("/responses", json={"model": MODEL, "input": replayed, "store": False})
    assert answer.status_code == 200, answer.text
    types = [item["type"] for item in sent(emulator)]
    assert types == ["message", "function_call", "function_call_output", "message", "message"]


@pytest.mark.parametrize("half", [search_call(), search_output()])
def test_half_a_tool_search_is_never_sent_as_one(service: Service, emulator: Emulator, half: dict[str, Any]) -> None:
    thread = service.thread()
    service.turn(thread, [{"role": "user", "content": "Is it warm?"}, half, {"role": "user", "content": "Echo: on"}])
    emulator.forget()
    service.turn(thread, "Echo: and on")
    for call in emulator.calls():
        for item in call["body"]["input"]:
            assert item["type"] == "message"


def test_a_tool_search_of_the_providers_own_waits_for_nobody(service: Service, emulator: Emulator) -> None:
    own = {"execution": "server", "call_id": None}
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Yes"}],
    }
    output = search_output(id="tso_1", status="completed", **own)
    emulator.fault("output", output=[search_call(**own), output, message])
    thread = service.thread()
    turn = service.turn(thread, "Is it warm?")
    assert [item["type"] for item in turn["output"]] == ["tool_search_call", "tool_search_output", "message"]
    assert service.turn(thread, "Echo: on")["continuation"] == "chained"
    emulator.forget()
    service.turn(thread, "Echo: and on")
    assert all(item["type"] == "message" for item in sent(emulator))
    assert any("get_weather" in str(item["content"]) for item in sent(emulator))

"""Branches and their choice, the calls that were made, and what was used."""

import subprocess
from typing import Any
from uuid import uuid4

from tests.service import Emulator, Process, Service


def test_branches_are_listed_and_any_of_them_can_be_the_head(service: Service) -> None:
    thread = service.thread()
    first = service.turn(thread, "My name is Ada.")
    left = service.turn(thread, "My name is Grace.", parent_id=first["id"])
    right = service.turn(thread, "Hello.", parent_id=first["id"])
    branches = service.http.get(f"/threads/{thread}/branches").json()["data"]
    assert [(branch["id"], branch["head"]) for branch in branches] == [(right["id"], True), (left["id"], False)]
    longer = service.turn(thread, "What is my name?")
    assert longer["output_text"] == "Ada"
    chosen = service.http.patch(f"/threads/{thread}", json={"head_id": left["id"]}).json()
    assert chosen["head_id"] == left["id"]
    answer = service.turn(thread, "What is my name?")
    assert (answer["output_text"], answer["parent_id"], answer["continuation"]) == ("Grace", left["id"], "chained")
    elsewhere = service.turn(service.thread(), "Hi")["id"]
    for wrong, status in ((elsewhere, 404), ("turn_" + "0" * 32, 404), ("x", 400), (None, 400)):
        refused = service.http.patch(f"/threads/{thread}", json={"head_id": wrong})
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, "head_id")
    page = service.http.get(f"/threads/{thread}/branches", params={"limit": 1}).json()
    assert page["has_more"] is True
    rest = service.http.get(f"/threads/{thread}/branches", params={"after": page["last_id"]}).json()
    assert [branch["id"] for branch in rest["data"]] == [longer["id"]]


def test_every_call_of_a_turn_is_kept_with_the_exact_body_and_prints_as_curl(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada; it's 'quoted'.")
    emulator.forget()
    turn = service.turn(thread, "What is my name?", temperature=0.5)
    calls = service.http.get(f"/threads/{thread}/turns/{turn['id']}/calls").json()["data"]
    assert [(call["continuation"], call["status"]) for call in calls] == [("chained", 400), ("rebuilt", 200)]
    assert [call["body"] for call in calls] == [call["body"] for call in emulator.calls()[1:]]
    assert "Not found previous_response_id" in calls[0]["error"]["message"]
    assert calls[1]["response_id"] == emulator.calls()[2]["answer"]["id"]
    assert calls[0]["started_at"] <= calls[0]["finished_at"] <= calls[1]["started_at"]
    printed = service.http.get(f"/threads/{thread}/turns/{turn['id']}/calls", params={"format": "curl"}).text
    assert "sk-tests" not in printed
    second = printed.split("\n\n")[1]
    env = {"DASHSCOPE_API_KEY": "sk-by-hand", "PATH": "/usr/bin:/bin:/usr/local/bin"}
    ran = subprocess.run(["sh", "-c", second], env=env, capture_output=True, text=True, check=True)
    assert '"text":"Ada"' in ran.stdout
    assert emulator.calls()[-1]["body"] == calls[1]["body"]


def test_usage_is_counted_by_day_model_user_and_thread(
    service: Service, service_env: dict[str, str], emulator: Emulator
) -> None:
    made = Process("keys", "create", "--project", uuid4().hex, env=service_env).wait_for("API key: ")
    headers = {"Authorization": f"Bearer {made.rpartition(' ')[2]}"}

    def call(method: str, path: str, **kwargs: Any) -> Any:
        return service.http.request(method, path, headers=headers, **kwargs).json()

    threads = [call("POST", "/threads", json={"user": user})["id"] for user in ("ann", "bob")]
    tools = [{"type": "web_search"}, {"type": "web_extractor"}]
    turns = [
        call("POST", f"/threads/{threads[0]}/turns", json={"input": "Hi", "tools": tools, "enable_thinking": True}),
        call("POST", f"/threads/{threads[0]}/turns", json={"input": "Ho", "model": "qwen3-max"}),
        call("POST", f"/threads/{threads[1]}/turns", json={"input": "Hey"}),
    ]
    emulator.fault("status", status=400, code="DataInspectionFailed")
    failed = call("POST", f"/threads/{threads[1]}/turns", json={"input": "Fails"})
    assert failed["error"]["code"] == "DataInspectionFailed"

    def total(name: str, of: list[dict[str, Any]]) -> int:
        return sum(turn["usage"][name] for turn in of)

    by_user = call("GET", "/usage", params={"group_by": "user"})["data"]
    ann, bob = by_user
    assert (ann["user"], ann["turns"], ann["failed_turns"], ann["tool_calls"]) == ("ann", 2, 0, 2)
    assert (bob["user"], bob["turns"], bob["failed_turns"]) == ("bob", 2, 1)
    assert ann["input_tokens"] == total("input_tokens", turns[:2])
    assert ann["output_tokens"] == total("output_tokens", turns[:2])
    assert ann["reasoning_tokens"] > 0
    assert (ann["rebuilt_turns"], ann["rebuilt_input_tokens"]) == (1, turns[1]["usage"]["input_tokens"])
    by_model = call("GET", "/usage", params={"group_by": "model"})["data"]
    assert [(row["model"], row["turns"]) for row in by_model] == [("qwen3-max", 1), ("qwen3.5-plus", 3)]
    (account,) = call("GET", "/usage", params={"group_by": "account"})["data"]
    assert (account["account"], account["turns"]) == (turns[0]["account"], 4)
    (day,) = call("GET", "/usage")["data"]
    assert day["turns"] == 4
    page = call("GET", "/usage", params={"group_by": "thread", "limit": 1})
    rest = call("GET", "/usage", params={"group_by": "thread", "after": page["last_id"]})
    assert [row["thread"] for row in [*page["data"], *rest["data"]]] == sorted(threads)
    assert (page["has_more"], rest["has_more"]) == (True, False)
    assert call("GET", "/usage", params={"until": 1000})["data"] == []
    csv = service.http.get("/usage", headers=headers, params={"group_by": "user", "format": "csv"}).text.splitlines()
    assert csv[0].startswith("user,turns,failed_turns,input_tokens,")
    assert [line.split(",")[:2] for line in csv[1:]] == [["ann", "2"], ["bob", "2"]]
    for query, param in (({"group_by": "x"}, "group_by"), ({"since": 9, "until": 3}, "until"), ({"limit": 0}, "limit")):
        assert call("GET", "/usage", params=query)["error"]["param"] == param

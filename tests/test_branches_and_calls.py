"""Branches and their choice, the calls that were made, and what was used."""

import inspect
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import openai

from app.history.call_program import FIELDS
from tests.projects import Project
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
    for turn, beside in ((left, [left, right]), (right, [left, right]), (first, [first]), (longer, [longer])):
        listed = service.http.get(f"/threads/{thread}/turns/{turn['id']}/siblings").json()["data"]
        assert [each["id"] for each in listed] == [each["id"] for each in beside]
    assert service.http.get(f"/threads/{thread}/turns/{elsewhere}/siblings").status_code == 404
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


HOSTILE = (
    "it's 'quoted' \"twice\" $(touch pwned) `touch pwned` \\ \\\" \\u0027 ''' \"\"\"\r\n\t\0true, false and null; "
    "你好 😀 \u202etxet\u202c\u2028{x} %s #"
)


def test_a_call_copied_as_a_command_or_as_a_program_sends_the_same_body(
    service: Service, emulator: Emulator, tmp_path: Path
) -> None:
    thread = service.thread()
    text = HOSTILE.replace("\0", "")
    service.turn(thread, "Hello.", instructions=text)
    deep: Any = {"const": text}
    for _ in range(25):
        deep = {"not": [deep, True, None, -1.5e-7]}
    tool = {"type": "function", "name": "look", "parameters": {"type": "object", "description": text, "x-deep": deep}}
    more = {
        "tools": [tool],
        "enable_thinking": False,
        "x'); import os": text,
        "seed": 7,
        "timeout": 5,
        "extra_body": {},
    }
    plain = service.turn(thread, text, temperature=0.5, **more)["id"]
    with service.http.stream("POST", f"/threads/{thread}/turns", json={"input": text, "stream": True}) as answer:
        answer.read()
    streamed = service.http.get(f"/threads/{thread}/turns").json()["data"][0]["id"]
    env = {"DASHSCOPE_API_KEY": "sk-tests", "PATH": "/usr/bin:/bin:/usr/local/bin"}
    for turn in (plain, streamed):
        (call,) = service.http.get(f"/threads/{thread}/turns/{turn}/calls").json()["data"]
        for form, command in (("curl", ["sh"]), ("python", [sys.executable])):
            copied = service.http.get(f"/calls/{call['id']}", params={"format": form})
            assert "sk-tests" not in copied.text
            assert copied.headers["everthread-account"] == call["account"]
            script = tmp_path / form
            script.write_bytes(copied.content)
            before = len(emulator.calls())
            ran = subprocess.run([*command, script], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert (ran.returncode, len(emulator.calls())) == (0, before + 1), ran.stderr
            assert "resp_" in ran.stdout
            assert emulator.calls()[-1]["body"] == call["body"]
            assert all(character.isprintable() or character == "\n" for character in copied.text) or form == "curl"
        exact = service.http.get(f"/calls/{call['id']}", params={"format": "body"})
        assert exact.headers["content-type"] == "application/json"
        assert f"-d {shlex.quote(exact.text)}" in service.http.get(f"/calls/{call['id']}?format=curl").text
        (light,) = service.http.get(f"/threads/{thread}/turns/{turn}/calls", params={"bodies": False}).json()["data"]
        assert light == {**call, "body": None}
    assert {path.name for path in tmp_path.iterdir()} == {"curl", "python"}


def test_the_arguments_of_a_copied_program_are_those_of_the_client() -> None:
    assert set(FIELDS) <= inspect.signature(openai.OpenAI(api_key="none").responses.create).parameters.keys()


def test_the_input_that_a_rebuild_would_send_is_read_without_sending_it(
    service: Service, emulator: Emulator, project: Project
) -> None:
    thread = service.thread()
    first = service.turn(thread, "My name is Ada.")["id"]
    second = service.turn(thread, "What is my name?")["id"]
    before = len(emulator.calls())

    def rebuilt(turn: str) -> dict[str, Any]:
        found: dict[str, Any] = service.http.get(f"/threads/{thread}/turns/{turn}/rebuilt_input").json()
        return found

    assert [item["content"] for item in rebuilt(first)["input"]] == ["My name is Ada."]
    now = rebuilt(second)
    assert len(emulator.calls()) == before
    assert (now["dropped_items"], now["compaction"], now["reduced"]) == (0, None, None)
    assert now["tokens"] > 0
    emulator.forget()
    again = service.turn(thread, "What is my name?", replaces=second)["id"]
    (_, call) = service.http.get(f"/threads/{thread}/turns/{again}/calls").json()["data"]
    assert (call["continuation"], call["body"]["input"]) == ("rebuilt", now["input"])
    assert call["account"] == now["account"]
    assert rebuilt(again)["input"] == now["input"]
    here = f"/threads/{thread}/turns/{second}/rebuilt_input"
    assert project.http.get(here).status_code == 404
    elsewhere = project.call("POST", "/threads")["id"]
    assert project.http.get(f"/threads/{elsewhere}/turns/{second}/rebuilt_input").status_code == 404

"""Conversations that exist already come in, and everything goes out again."""

import gzip
import json
import random
import string
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.service import Emulator, Process, Service

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "My name is Ada."},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "note", "arguments": "{}"}}
    ]},
    {"role": "tool", "tool_call_id": "call_1", "content": "noted"},
    {"role": "assistant", "content": "Hello Ada!"},
]  # fmt: skip


def command(service: Service, *arguments: str, key: str | None = None) -> Process:
    return Process(*arguments, "--url", service.url, env={"EVERTHREAD_KEY": key or service.key})


def new_project(service_env: dict[str, str]) -> str:
    made = Process("keys", "create", "--project", uuid4().hex, env=service_env).wait_for("API key: ")
    return made.rpartition(" ")[2]


@pytest.mark.parametrize("form", ["chat", "responses"])
def test_a_thread_goes_on_from_messages_that_it_is_made_with(service: Service, form: str) -> None:
    messages = CHAT
    if form == "responses":
        source = service.thread(messages=CHAT)
        messages = service.every(f"/threads/{source}/messages")
        for message in messages:
            del message["turn_id"]
    thread = service.thread(messages=messages)
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    recited = service.turn(thread, "Recite the conversation")["output_text"].splitlines()
    assert recited[:3] == [
        "system: You are a helpful assistant.", "user: My name is Ada.", "assistant: Hello Ada!",
    ]  # fmt: skip
    wrong = service.http.post("/threads", json={"messages": [{"role": "robot"}]})
    assert wrong.json()["error"]["param"] == "messages[0].role"


@pytest.mark.parametrize("form", ["one array", "json", "jsonl"])
def test_files_of_message_arrays_are_imported_once(
    service: Service, service_env: dict[str, str], tmp_path: Path, form: str
) -> None:
    key = new_project(service_env)
    named = {"name": "ada", "user": "7", "messages": CHAT}
    other = [{"role": "user", "content": "Hello"}]
    file = tmp_path / "threads"
    match form:
        case "one array":
            file.write_text(json.dumps(CHAT))
            count = 1
        case "json":
            file.write_text(json.dumps([named, other]))
            count = 2
        case _:
            file.write_text("\n".join(json.dumps(entry) for entry in (named, other, CHAT)) + "\n")
            count = 3
    first = command(service, "import", str(file), key=key)
    first.wait_for(f"{count} threads imported, 0 were there already.")
    again = command(service, "import", str(file), key=key)
    again.wait_for(f"0 threads imported, {count} were there already.")
    assert (first.ended(), again.ended()) == (0, 0)
    headers = {"Authorization": f"Bearer {key}"}
    assert len(service.http.get("/threads", headers=headers).json()["data"]) == count
    if form != "one array":
        answer = service.http.post("/threads/by-name/ada/turns", json={"input": "What is my name?"}, headers=headers)
        assert answer.json()["output_text"] == "Ada"


def test_two_users_equal_short_chats_stay_two_threads(
    service: Service, service_env: dict[str, str], tmp_path: Path
) -> None:
    key = new_project(service_env)
    chat = json.dumps([{"role": "user", "content": "Hello"}])
    file = tmp_path / "threads.jsonl"
    file.write_text(f"{chat}\n{chat}\n{chat}\n")
    for line in ("3 threads imported, 0 were there already.", "0 threads imported, 3 were there already."):
        process = command(service, "import", str(file), key=key)
        process.wait_for(line)
        assert process.ended() == 0
    found = service.http.get("/threads", headers={"Authorization": f"Bearer {key}"}).json()["data"]
    assert len({thread["name"] for thread in found}) == 3


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.long)])
def test_many_threads_are_imported_and_an_interrupted_import_is_resumed(
    service: Service, service_env: dict[str, str], tmp_path: Path, count: int
) -> None:
    key, before = new_project(service_env), count // 5 * 2
    lines = [json.dumps({"name": f"t{n}", "messages": CHAT}) for n in range(count)]
    file = tmp_path / "threads.jsonl"
    file.write_text("\n".join([*lines[:before], "{broken", *lines[before:]]))
    broken = command(service, "import", str(file), "--strict", key=key)
    broken.wait_for(f"Line {before + 1} is not taken: is not JSON")
    assert broken.ended() == 1
    file.write_text("\n".join(lines))
    again = command(service, "import", str(file), key=key)
    again.wait_for(f"{count - before} threads imported, {before} were there already.")


def test_an_export_is_imported_without_a_loss(
    service: Service, service_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    source, target = new_project(service_env), new_project(service_env)
    headers = {"Authorization": f"Bearer {source}"}

    def call(method: str, path: str, **kwargs: Any) -> Any:
        answer = service.http.request(method, path, headers=headers, **kwargs)
        assert answer.status_code < 300, answer.text
        return answer.json()

    thread = call("POST", "/threads", json={"title": "All", "user": "u", "metadata": {"k": "v"}, "messages": CHAT})
    turns = f"/threads/{thread['id']}/turns"
    tools = [{"type": "web_search"}, {"type": "web_extractor"}]
    first = call("POST", turns, json={"input": "Hi", "tools": tools, "enable_thinking": True, "metadata": {"a": "b"}})
    call("POST", turns, json={"input": "Left", "parent_id": first["id"]})
    call("POST", turns, json={"input": "Right", "parent_id": first["id"], "max_output_tokens": 16})
    emulator.fault("status", status=400)
    service.http.post(turns, headers=headers, json={"input": "Fails"})
    call("POST", "/threads", json={"name": "empty"})
    archived = call("POST", "/threads", json={"name": "old"})
    call("PATCH", f"/threads/{archived['id']}", json={"archived": True})

    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    command(service, "export", str(one), key=source).wait_for("3 threads exported")
    command(service, "import", str(one), key=target).wait_for("3 threads imported, 0 were there already.")
    command(service, "export", str(two), key=target).wait_for("3 threads exported")
    assert two.read_text() == one.read_text()
    command(service, "import", str(one), key=target).wait_for("0 threads imported, 3 were there already.")

    # The conversation goes on in its new place, under the ids that clients hold.
    headers = {"Authorization": f"Bearer {target}"}
    answer = call("POST", "/responses", json={"input": "What is my name?", "previous_response_id": first["id"]})
    assert answer["output"][-1]["content"][0]["text"] == "Ada"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"id": "x"}, "id"),
        ({"format": "other"}, "format"),
        ({"head_id": "turn_" + "0" * 32}, "head_id"),
        ({"turns": [{}]}, "turns.0.id"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_a_wrong_export_is_refused_and_names_the_field(service: Service, change: dict[str, Any], param: str) -> None:
    thread = service.thread()
    record = service.http.get(f"/threads/{thread}/export").json()
    service.http.delete(f"/threads/{thread}")
    refused = service.http.post("/threads/import", json={**record, **change})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert service.http.get(f"/threads/{thread}").status_code == 404


def test_the_service_away_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps(CHAT))
    process = Process("import", str(file), "--url", "http://127.0.0.1:1", "--key", "et_x")
    process.wait_for("Cannot reach the service")
    assert process.ended() == 1


CHATGPT = {
    "title": "Names", "create_time": 1700000000.5, "current_node": "c", "conversation_id": "abc",
    "mapping": {
        "r": {"id": "r", "message": None, "parent": None, "children": ["a"]},
        "a": {"message": {"author": {"role": "user"},
                          "content": {"content_type": "text", "parts": ["My name is Ada."]}},
              "parent": "r"},
        "x": {"message": {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["Left"]}},
              "parent": "a"},
        "b": {"message": {"author": {"role": "assistant"},
                          "content": {"content_type": "multimodal_text",
                                      "parts": [{"content_type": "image_asset_pointer"}, "Hello Ada!"]}},
              "parent": "a"},
        "c": {"message": {"author": {"role": "tool"}, "content": {"content_type": "text", "parts": ["found"]}},
              "parent": "b"},
    },
}  # fmt: skip
CLAUDE = {
    "uuid": "def", "name": "Names", "created_at": "2023-11-14T22:13:20+00:00",
    "chat_messages": [
        {"sender": "human", "text": "My name is Ada.", "content": [{"type": "text", "text": "My name is Ada."}],
         "attachments": [{"file_name": "a.txt"}]},
        {"sender": "assistant", "text": "Hello Ada!", "content": []},
    ],
}  # fmt: skip
LANGCHAIN = [
    {"type": "human", "data": {"content": "My name is Ada."}},
    {"type": "ai", "data": {"content": "Hello Ada!"}},
]
SHAREGPT = {"conversations": [{"from": "human", "value": "My name is Ada."}, {"from": "gpt", "value": "Hello Ada!"}]}
TUNING = {
    "messages": [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": "Hello Ada!"}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
}
FILES: dict[str, tuple[Any, list[str]]] = {
    "chatgpt": ([CHATGPT], ["image_asset_pointer", "a result of a tool", "only 3 imported, in 2 branches"]),
    "claude": ([CLAUDE], ["a file"]),
    "langchain": (LANGCHAIN, []),
    "sharegpt": ([SHAREGPT], []),
    "fine-tuning": ([TUNING], ["'tools'"]),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("product", FILES)
def test_the_exports_of_other_products_are_read(
    service: Service, service_env: dict[str, str], tmp_path: Path, product: str, packed: bool
) -> None:
    key, file = new_project(service_env), tmp_path / "conversations.json"
    content, left_out = FILES[product]
    raw = b"\xef\xbb\xbf" + json.dumps(content).encode()
    file.write_bytes(gzip.compress(raw) if packed else raw)
    imported = command(service, "import", str(file), key=key)
    assert imported.ended() == 0
    printed = "\n".join(imported.lines)
    assert "1 threads imported" in printed
    assert all(words in printed for words in left_out)
    headers = {"Authorization": f"Bearer {key}"}
    (thread,) = service.http.get("/threads", headers=headers).json()["data"]
    if product in ("chatgpt", "claude"):
        assert (thread["title"], thread["created_at"]) == ("Names", 1700000000)
    body = {"input": "Recite the conversation"}
    said = service.http.post(f"/threads/{thread['id']}/turns", json=body, headers=headers).json()["output_text"]
    assert said.splitlines()[:2] == ["user: My name is Ada.", "assistant: Hello Ada!"]


FOREIGN: dict[str, list[Any]] = {
    "langchain's messages_to_dict": [
        {"type": "system", "data": {"content": "Be kind.", "type": "system"}},
        {"type": "human", "data": {"content": "What is 6 * 7?", "type": "human", "id": None}},
        {"type": "ai", "data": {"content": "", "tool_calls": [{"name": "mul", "args": {"a": 6}, "id": "c1"}]}},
        {"type": "tool", "data": {"content": "42", "tool_call_id": "c1"}},
        {"type": "ai", "data": {"content": "It is 42."}},
    ],
    "langchain's dumpd": [
        {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", name], "kwargs": kwargs}
        for name, kwargs in [
            ("SystemMessage", {"content": "Be kind."}),
            ("HumanMessage", {"content": "What is 6 * 7?"}),
            ("AIMessage", {"content": "", "tool_calls": [{"name": "mul", "args": {"a": 6}, "id": "c1"}]}),
            ("ToolMessage", {"content": "42", "tool_call_id": "c1"}),
            ("AIMessage", {"content": "It is 42."}),
        ]
    ],
    "anthropic": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "What is 6 * 7?"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
                                          {"type": "tool_use", "id": "c1", "name": "mul", "input": {"a": 6}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1",
                                      "content": [{"type": "text", "text": "42"}]}]},
        {"role": "assistant", "content": [{"type": "text", "text": "It is 42."}]},
    ],
    "sharegpt": [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "What is 6 * 7?"},
        {"from": "gpt", "value": "It is 42."},
    ],
}  # fmt: skip


def test_messages_of_other_libraries_are_translated(
    service: Service, service_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    key, file = new_project(service_env), tmp_path / "threads.jsonl"
    threads = [{"name": form, "messages": messages} for form, messages in FOREIGN.items()]
    bad: list[Any] = [
        [{"lc": 1, "type": "constructor", "id": ["langchain", "PromptTemplate"], "kwargs": {}}],
        [{"from": "nobody", "value": "x"}],
        [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}],
    ]
    file.write_text("\n".join(json.dumps(each) for each in [*threads, *bad]))
    imported = command(service, "import", str(file), key=key)
    assert imported.ended() == 1
    printed = "\n".join(imported.lines)
    assert f"{len(FOREIGN)} threads imported" in printed
    for where in ("'messages[0]'", "'messages[0].from'", "'messages[0].content[0].source'"):
        assert f"is not taken: {where}" in printed
    headers = {"Authorization": f"Bearer {key}"}
    for form in FOREIGN:
        path = f"/threads/by-name/{quote(form)}/turns"
        assert service.http.post(path, json={"input": "And now?"}, headers=headers).status_code == 200
        sent = emulator.calls()[-1]["body"]["input"]
        roles = [item.get("role", item["type"]) for item in sent]
        called = [] if form == "sharegpt" else ["function_call", "function_call_output"]
        assert roles == ["system", "user", *called, "assistant", "user"], form
        assert sent[-2]["content"] == "It is 42."
        if called:
            assert (sent[2]["name"], json.loads(sent[2]["arguments"])) == ("mul", {"a": 6})
            assert (sent[3]["call_id"], sent[3]["output"]) == (sent[2]["call_id"], "42")


def test_a_bad_conversation_is_said_by_its_line_and_the_rest_is_taken(
    service: Service, service_env: dict[str, str], tmp_path: Path
) -> None:
    key, file = new_project(service_env), tmp_path / "threads.jsonl"
    bad: list[Any] = [5, {"x": 1}, [{"role": "nobody", "content": "x"}], {"messages": [{"type": "human", "data": {}}]}]
    lines = [json.dumps(entry) for entry in (CHAT, *bad, TUNING)]
    file.write_text("\n".join([*lines[:2], "{broken", *lines[2:]]))
    imported = command(service, "import", str(file), key=key)
    assert imported.ended() == 1
    printed = "\n".join(imported.lines)
    assert "2 threads imported" in printed
    for number, words in ((2, "must be"), (3, "is not JSON"), (4, "no 'messages'"), (5, "role"), (6, "messages[0]")):
        assert [line for line in imported.lines if line.startswith(f"Line {number} is not taken") and words in line]
    strict = command(service, "import", str(file), "--strict", key=key)
    assert strict.ended() == 1
    assert "threads imported" not in "\n".join(strict.lines)


def test_an_export_that_fails_leaves_the_last_one_as_it_was(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "backup.jsonl"
    file.write_text("the last good backup\n")
    for url, key in ((service.url, "et_wrong"), ("http://127.0.0.1:1", service.key)):
        assert Process("export", str(file), "--url", url, "--key", key).ended() == 1
        assert file.read_text() == "the last good backup\n"
    assert [path.name for path in tmp_path.iterdir()] == ["backup.jsonl"]


def test_an_exported_item_has_an_id_that_a_key_can_be_made_of(service: Service) -> None:
    thread = service.thread(messages=CHAT)
    record = service.http.get(f"/threads/{thread}/export").json()
    service.http.delete(f"/threads/{thread}")
    record["turns"][0]["items"][0]["item_id"] = "".join(random.choices(string.ascii_letters, k=20_000))
    refused = service.http.post("/threads/import", json=record)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "turns.0.items.0.item_id")

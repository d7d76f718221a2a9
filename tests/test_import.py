"""Exports of other products are imported with every branch, or refused by name; what is left out is counted."""

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.transfer import files
from app.transfer.client import CannotTransfer, Counted, import_file, preview_file
from app.transfer.files import MOST_BYTES
from tests.projects import new_key
from tests.service import Process, Service


class Imports:
    """Imports into a project that holds nothing else."""

    def __init__(self, service: Service, env: dict[str, str], directory: Path) -> None:
        self._service, self._directory = service, directory
        self.key = new_key(env["DATABASE_URL"], uuid4().hex)
        self.lines: list[str] = []

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        return self._service.http.request(method, path, headers=headers, **kwargs).json()

    def file(self, content: Any) -> Path:
        path = self._directory / uuid4().hex
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    def __call__(self, content: Any, *, most_bytes: int = MOST_BYTES) -> Counted:
        self.lines.clear()
        path = self.file(content)
        return import_file(
            path, self._service.url, self.key, strict=False, most_bytes=most_bytes, report=self.lines.append
        )

    def thread(self) -> dict[str, Any]:
        """Return the only thread, as it is exported."""
        (thread,) = self.call("GET", "/threads")["data"]
        exported: dict[str, Any] = self.call("GET", f"/threads/{thread['id']}/export")
        return exported

    def branches(self) -> tuple[set[tuple[str, ...]], tuple[str, ...]]:
        """Return the texts of every branch of the only thread, and of the one that it is at."""
        thread = self.thread()
        turns = {turn["id"]: turn for turn in thread["turns"]}

        def said(id_: str | None) -> tuple[str, ...]:
            if id_ is None:
                return ()
            return said(turns[id_]["parent_id"]) + tuple(_text(item["data"]) for item in turns[id_]["items"])

        ends = turns.keys() - {turn["parent_id"] for turn in turns.values()}
        return {said(end) for end in ends}, said(thread["head_id"])

    def recited(self, parent: str | None = None) -> list[str]:
        (thread,) = self.call("GET", "/threads")["data"]
        body = {"input": "Recite the conversation", **({} if parent is None else {"parent_id": parent})}
        answer: str = self.call("POST", f"/threads/{thread['id']}/turns", json=body)["output_text"]
        return answer.splitlines()


def _text(item: dict[str, Any]) -> str:
    content = item["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.fixture
def imports(service: Service, service_env: dict[str, str], tmp_path: Path) -> Imports:
    return Imports(service, service_env, tmp_path)


def gpt(role: str, text: Any, parent: str | None, **message: Any) -> dict[str, Any]:
    content = text if isinstance(text, dict) else {"content_type": "text", "parts": [text]}
    return {"parent": parent, "message": {"author": {"role": role}, "content": content, **message}}


def chatgpt(current: str | None = "a2", **mapping: Any) -> dict[str, Any]:
    """Return a conversation with a question that was asked again: the branches q-a and q2-a2."""
    tree = {
        "root": {"parent": None, "message": None, "children": ["q", "q2"]},
        "empty": gpt("system", "", "root", metadata={"is_visually_hidden_from_conversation": True}),
        "q": gpt("user", "My name is Ada.", "empty"),
        "a": gpt("assistant", "Hello Ada!", "q"),
        "q2": gpt("user", "My name is Bob.", "empty"),
        "a2": gpt("assistant", "Hello Bob!", "q2"),
        **mapping,
    }
    return {"title": "Names", "conversation_id": uuid4().hex, "current_node": current, "mapping": tree}


def claude(*messages: tuple[str, str | None, str, str]) -> dict[str, Any]:
    return {
        "uuid": uuid4().hex,
        "name": "Names",
        "chat_messages": [
            {"uuid": id_, "parent_message_uuid": parent, "sender": sender, "content": [{"type": "text", "text": text}]}
            for id_, parent, sender, text in messages
        ],
    }


def open_webui() -> dict[str, Any]:
    messages: dict[str, Any] = {
        "q": {"parentId": None, "role": "user", "content": "My name is Ada.", "timestamp": 1700000000},
        "a": {"parentId": "q", "role": "assistant", "content": "Hello Ada!", "timestamp": 1700000001},
        "q2": {"parentId": None, "role": "user", "content": "My name is Bob.", "timestamp": 1700000002},
        "a2": {"parentId": "q2", "role": "assistant", "content": "Hello Bob!", "timestamp": 1700000003},
    }
    messages = {id_: {"id": id_, "childrenIds": [], **said} for id_, said in messages.items()}
    shown = [messages["q2"], messages["a2"]]
    chat = {"title": "Names", "messages": shown, "history": {"messages": messages, "currentId": "a2"}}
    return {
        "id": uuid4().hex,
        "user_id": "u",
        "title": "Names",
        "chat": chat,
        "created_at": 1700000000,
        "archived": False,
    }


def llama_cpp() -> dict[str, Any]:
    def said(id_: str, parent: str | None, role: str, content: str, **more: Any) -> dict[str, Any]:
        return {"id": id_, "convId": "c", "type": "text", "role": role, "content": content, "parent": parent, **more}

    messages = [
        said("r", None, "system", "", type="root", children=["q", "q2"]),
        said("q", "r", "user", "My name is Ada.", timestamp=1700000000000),
        said("a", "q", "assistant", "Hello Ada!", timestamp=1700000001000),
        said("q2", "r", "user", "My name is Bob.", timestamp=1700000002000),
        said("a2", "q2", "assistant", "Hello Bob!", timestamp=1700000003000),
    ]
    return {"conv": {"id": uuid4().hex, "name": "Names", "currNode": "a2", "lastModified": 1}, "messages": messages}


def jsonl(*sessions: dict[str, Any]) -> bytes:
    lines: list[Any] = []
    for session in sessions:
        lines.append({"type": "session", "harness": "llama.cpp", **session["conv"]})
        lines += [{"type": "message", "message": said} for said in session["messages"]]
    return "\n".join(map(json.dumps, lines)).encode()


ROOT = "00000000-0000-4000-8000-000000000000"
CLAUDE_NAMES = (
    ("q", ROOT, "human", "My name is Ada."), ("a", "q", "assistant", "Hello Ada!"),
    ("q2", ROOT, "human", "My name is Bob."), ("a2", "q2", "assistant", "Hello Bob!"),
)  # fmt: skip
NUMBERED = llama_cpp()
NUMBERED["conv"]["currNode"] = 5
for _place, _said in enumerate(NUMBERED["messages"]):
    _said["id"], _said["parent"] = _place + 1, {"r": 1, "q": 2, "q2": 4}.get(_said["parent"], -1)
BRANCHED: dict[str, Callable[[], Any]] = {
    "chatgpt": lambda: [chatgpt()],
    "claude": lambda: [claude(*CLAUDE_NAMES)],
    "open-webui": lambda: [open_webui()],
    "open-webui, one chat": lambda: open_webui()["chat"],
    "llama.cpp": lambda: [llama_cpp()],
    "llama.cpp, one": llama_cpp,
    "llama.cpp, numbers": lambda: NUMBERED,
    "llama.cpp, lines": lambda: jsonl(llama_cpp()),
}


@pytest.mark.parametrize("product", BRANCHED)
def test_every_branch_is_imported_and_goes_on(imports: Imports, product: str) -> None:
    content = BRANCHED[product]()
    counted = imports(content)
    assert (counted.done, counted.refused, counted.shortened) == (1, 0, 0), imports.lines
    assert imports.lines[0].endswith("4 messages in the file, 4 imported, in 2 branches.")
    branches, current = imports.branches()
    assert branches == {("My name is Ada.", "Hello Ada!"), ("My name is Bob.", "Hello Bob!")}
    assert current == ("My name is Bob.", "Hello Bob!")
    other = next(turn["id"] for turn in imports.thread()["turns"] if _text(turn["items"][0]["data"]).endswith("Ada."))
    thread = imports.thread()
    assert thread["title"] == "Names"
    assert len(imports.call("GET", f"/threads/{thread['id']}/branches")["data"]) == 2
    answer = imports.call("GET", f"/threads/{thread['id']}/turns/{thread['head_id']}")
    assert (answer["status"], answer["output_text"]) == ("completed", "Hello Bob!")
    assert [hit["role"] for hit in imports.call("GET", "/search", params={"q": '"Hello Ada"'})["data"]] == ["assistant"]
    again = imports(content)
    assert (again.done, again.present) == (0, 1)
    assert imports.recited()[:2] == ["user: My name is Bob.", "assistant: Hello Bob!"]
    assert imports.recited(other)[:2] == ["user: My name is Ada.", "assistant: Hello Ada!"]


@pytest.mark.parametrize("product", ["claude", "chatgpt"])
def test_lists_without_links_are_one_branch(imports: Imports, product: str) -> None:
    if product == "claude":
        content = claude(*((id_, None, sender, text) for id_, _, sender, text in CLAUDE_NAMES))
        for said in content["chat_messages"]:
            del said["uuid"], said["parent_message_uuid"]
    else:
        content = chatgpt(None)
        content["mapping"] = {id_: {"message": node["message"]} for id_, node in content["mapping"].items()}
    imports([content])
    assert imports.branches()[0] == {("My name is Ada.", "Hello Ada!", "My name is Bob.", "Hello Bob!")}


@pytest.mark.parametrize("current", [None, "nowhere", "root"])
def test_a_tree_that_does_not_say_where_it_was_left_is_at_its_last_end(imports: Imports, current: str | None) -> None:
    content = chatgpt(current)
    content["mapping"]["a"]["message"]["create_time"] = 1700000009.0
    content["mapping"]["a2"]["message"]["create_time"] = 1700000001.0
    imports([content])
    assert imports.branches()[1] == ("My name is Ada.", "Hello Ada!")


def test_a_conversation_left_in_the_middle_goes_on_from_there(imports: Imports) -> None:
    content = claude(*CLAUDE_NAMES[:2], ("q3", "a", "human", "More?"), ("a3", "q3", "assistant", "No."))
    imports([{**content, "current_leaf_message_uuid": "q3"}])
    branches, current = imports.branches()
    assert current == ("My name is Ada.", "Hello Ada!", "More?")
    assert branches == {(*current, "No.")}


def test_voice_messages_are_imported_with_their_words(imports: Imports) -> None:
    def voice(*parts: Any) -> dict[str, Any]:
        return {"content_type": "multimodal_text", "parts": list(parts)}

    spoken = {"content_type": "audio_transcription", "text": "My name is Eve.", "direction": "in"}
    pointer = {"content_type": "audio_asset_pointer", "asset_pointer": "sediment://x"}
    live = {"content_type": "real_time_user_audio_video_asset_pointer", "audio_asset_pointer": pointer}
    answer = {"content_type": "audio_transcription", "text": "Hello Eve!", "direction": "out"}
    imports([
        chatgpt("v3", v1=gpt("user", voice(live, spoken), "a2"), v2=gpt("assistant", voice(answer, pointer), "v1"),
                v3=gpt("user", voice(pointer), "v2"))
    ])  # fmt: skip
    assert imports.branches()[1][-2:] == ("My name is Eve.", "Hello Eve!")
    (line,) = imports.lines
    assert "7 messages in the file, only 6 imported" in line
    assert "a message with nothing but audio_asset_pointer" in line
    assert "real_time_user_audio_video_asset_pointer" in line


def test_hidden_instructions_are_a_system_message_and_tools_are_left_out_by_name(imports: Imports) -> None:
    hidden = {"is_visually_hidden_from_conversation": True}
    instructions = {
        "content_type": "user_editable_context",
        "user_profile": "A baker.",
        "user_instructions": "Be brief.",
    }
    content = chatgpt(
        "answer",
        context=gpt("user", instructions, "root", metadata=hidden),
        ask=gpt("user", "Who won?", "context"),
        secret=gpt("user", "SECRET", "ask", metadata=hidden),
        call=gpt("assistant", {"content_type": "code", "text": "search('x')"}, "secret", recipient="web.run"),
        page=gpt("tool", {"content_type": "tether_quote", "text": "PAGE"}, "call"),
        think=gpt("assistant", {"content_type": "thoughts", "thoughts": []}, "page"),
        odd=gpt("assistant", {"content_type": "tether_browsing_display", "result": "PAGE"}, "think"),
        answer=gpt("assistant", "They did.", "odd"),
    )
    content["mapping"]["page"]["message"]["author"]["name"] = "browser"
    counted = imports([content])
    assert (counted.done, counted.shortened) == (1, 1)
    assert imports.branches()[1] == ("A baker.\n\nBe brief.", "Who won?", "They did.")
    (line,) = imports.lines
    assert "12 messages in the file, only 7 imported, in 3 branches" in line
    for kind in ("a hidden message", "a call of web.run", "a result of browser", "thoughts", "tether_browsing_display"):
        assert kind in line
    assert imports.recited()[0] == "system: A baker. Be brief."
    exported = json.dumps(imports.thread())
    assert "SECRET" not in exported
    assert "PAGE" not in exported


def test_what_open_webui_and_llama_cpp_lose_is_named(imports: Imports) -> None:
    chat = open_webui()
    messages = chat["chat"]["history"]["messages"]
    messages["q"]["files"] = [{"type": "image", "url": "data:"}]
    messages["a"].update(content="", error={"content": "away"})
    messages["q2"]["content"] = [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": "x"}}]
    imports([chat])
    assert imports.lines[0].endswith("in 2 branches. Left out: an error instead of an answer, image, image_url.")
    session = llama_cpp()
    for said, more in zip(session["messages"][1:], (
        {"extra": [{"type": "imageFile", "base64Url": "x"}]}, {"toolCalls": "[{}]", "content": ""}, {"role": "tool"},
        {"reasoningContent": "Hm"},
    ), strict=True):  # fmt: skip
        said.update(more)
    imports([session])
    for kind in ("imageFile", "a message with nothing but a call of a tool", "a result of a tool", "reasoning"):
        assert kind in imports.lines[0]
    assert "4 messages in the file, only 2 imported" in imports.lines[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"id": "1", "title": "Empty", "chat": {"history": {"messages": {}}, "messages": []}},
            "0 messages in the file",
        ),
        ({"conv": {"id": "1", "name": "Empty", "currNode": None}, "messages": []}, "0 messages in the file"),
        ({"title": "Empty", "mapping": {}}, "0 messages in the file"),
        ({"uuid": "1", "name": "Empty", "chat_messages": []}, "0 messages in the file"),
        (
            {"title": "Empty", "mapping": {"t": gpt("tool", "x", None)}},
            "1 message in the file, only 0 imported. Left out",
        ),
        ({"title": "Of another product", "turns": [{"q": "Hi"}]}, "(it has 'title', 'turns'). Known are"),
        ({"name": "only a name"}, "Known are everthread's own exports"),
        ({"messages": []}, "has no messages"),
        ([[]], "has no messages"),
        ([], "holds no conversation"),
        (b"", "is empty"),
        (b"<html>chat</html>", "is neither JSON nor JSONL. Known are"),
        (b'{"type":"session","harness":"other","id":"1"}\n{"type":"message","message":{}}', "Known are"),
        ({"bad\x1b[2Jname": 1}, "bad�[2Jname"),
    ],
)
def test_an_empty_conversation_and_an_unknown_format_are_refused_by_name(
    imports: Imports, content: Any, words: str
) -> None:
    counted = imports(content)
    assert counted.refused >= 1
    assert counted.done == 0
    assert words in imports.lines[0]
    assert "\x1b" not in "".join(imports.lines)
    assert imports.call("GET", "/threads")["data"] == []
    previewed: list[str] = []
    assert preview_file(imports.file(content), MOST_BYTES, previewed.append).done == 0


@pytest.mark.parametrize("packed", [False, True])
def test_the_command_prints_counts_and_fails_if_one_conversation_is_refused(imports: Imports, packed: bool) -> None:
    raw = json.dumps([chatgpt(), {"title": "Empty", "mapping": {}}]).encode()
    path = imports.file(zipped(("export/conversations.json", raw)) if packed else raw)
    process = Process("import", str(path), "--url", imports._service.url, "--key", imports.key)
    assert process.ended() == 1
    printed = "\n".join(process.lines)
    assert "4 messages in the file, 4 imported, in 2 branches." in printed
    assert "1 threads imported, 0 were there already." in printed
    assert "1 were not taken" in printed


def test_trees_of_any_shape_are_imported(imports: Imports) -> None:
    """Rings, long chains, nodes that are there twice, and parents that are not there end in a thread."""
    n = 1500
    deep = chatgpt(f"n{n}", n0=gpt("user", "0", "a2"), **{
        f"n{i}": gpt("user" if i % 2 else "assistant", str(i), f"n{i - 1}") for i in range(1, n + 1)
    })  # fmt: skip
    ring = claude(("a", "c", "human", "1"), ("b", "a", "assistant", "2"), ("c", "b", "human", "3"))
    lost = claude(("a", "gone", "human", "1"), ("b", "a", "assistant", "2"), ("b", "a", "assistant", "3"))
    hollow = chatgpt("s2", s1=gpt("tool", "x", "s2"), s2=gpt("tool", "y", "s1"), s3=gpt("user", "z", "s1"))
    own = claude(("a", "a", "human", "1"))
    counted = imports([deep, ring, lost, hollow, own])
    assert (counted.done, counted.refused, counted.shortened) == (5, 0, 2), imports.lines
    assert f"{n + 5} messages in the file, {n + 5} imported, in 2 branches." in imports.lines[0]
    assert "a message whose id another one has" in imports.lines[2]


def test_a_line_of_a_session_that_is_not_json_is_counted(imports: Imports) -> None:
    first, second = llama_cpp(), llama_cpp()
    lines = jsonl(first, second).split(b"\n")
    lines[4] = b'{"type":"mess'
    counted = imports(b"\n".join(lines))
    assert (counted.done, counted.shortened) == (2, 1)
    assert "4 messages in the file, only 3 imported" in imports.lines[0]
    assert "a line that is not JSON" in imports.lines[0]


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return packed.getvalue()


def test_a_whole_export_is_read_out_of_its_archive(imports: Imports) -> None:
    numbered = (f"conversations-00{n}.json" for n in range(2))
    content = zipped(
        ("user.json", b"{}"), ("chat.html", b"<html>"), ("../conversations.json", b"[]"),
        ("/conversations.json", b"[]"),
        *((name, json.dumps([chatgpt()]).encode()) for name in numbered), ("file-1.png", b"\x00" * 10),
        ("one.jsonl", jsonl(llama_cpp())),
    )  # fmt: skip
    counted = imports(content)
    assert (counted.done, counted.refused) == (3, 0)
    assert imports.lines[0].startswith("conversations-000.json, conversation 1: 4 messages in the file, 4 imported")
    assert imports.lines[2].startswith("one.jsonl, line 1: 4 messages")


def _encrypted() -> bytes:
    packed = bytearray(zipped(("conversations.json", b"[]")))
    packed[6] |= 1
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    return bytes(packed)


def _twice() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zipped(("conversations.json", b"[]"), ("conversations.json", b"[]"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: zipped(("notes.txt", b"x"), ("../conversations.json", b"[]")), "none of its files is a known export"),
        (lambda: zipped(*((f"{n}.png", b"") for n in range(files.MOST_ENTRIES + 1))), "more than 20,000 files"),
        (lambda: zipped(*((f"{n:060000}", b"") for n in range(80))), "table of contents has more than"),
        (lambda: zipped(("conversations.json", b" " * 5_000_000)), "unpacks to more than 200 times its size"),
        (_twice, "holds conversations.json 2 times"),
        (_encrypted, "is encrypted"),
        (lambda: zipped(("conversations.json", b"[]"), method=zipfile.ZIP_LZMA), "another method than 'deflate'"),
        (lambda: zipped(("conversations.json", b"[]"))[:-30], "cannot be read"),
        (
            lambda: zipped(("conversations.json", b"[" * 900), method=zipfile.ZIP_STORED).replace(b"[[", b"[ ", 1),
            "cannot",
        ),
    ],
)
def test_an_archive_beyond_a_bound_is_refused(imports: Imports, content: Callable[[], bytes], words: str) -> None:
    with pytest.raises(CannotTransfer, match="is not imported") as refused:
        imports(content())
    assert words in str(refused.value)
    assert imports.call("GET", "/threads")["data"] == []


@pytest.mark.parametrize("form", ["plain", "zip", "gzip", "two in a zip"])
def test_no_more_bytes_are_read_than_are_allowed(imports: Imports, form: str) -> None:
    raw = json.dumps([chatgpt()]).encode()
    content, size = {
        "plain": (raw, len(raw)),
        "zip": (zipped(("conversations.json", raw)), len(raw)),
        "gzip": (gzip.compress(raw), len(raw)),
        "two in a zip": (zipped(("conversations-0.json", raw), ("conversations-1.json", raw)), 2 * len(raw)),
    }[form]
    with pytest.raises(CannotTransfer, match="--max-bytes"):
        imports(content, most_bytes=size - 1)
    assert imports.call("GET", "/threads")["data"] == []
    assert imports(content, most_bytes=size).done == 1

"""The files that `everthread import` reads: our own exports, message arrays, and other products' exports.

ChatGPT's and Claude's conversations.json, ShareGPT, fine-tuning JSONL, LangChain's dumped messages; as JSON or JSONL,
with a byte order mark or without, packed with gzip or not. What of a conversation cannot be taken is said.
"""

import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from app.items.shapes import fields_of, objects, string
from app.transfer.schemas import FORMAT

GZIP = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"

TAKEN = ("name", "title", "user", "metadata", "messages", "created_at")
"""The fields of a conversation that a thread is made with."""


@dataclass(slots=True)
class Entry:
    """One conversation of a file."""

    where: str
    """Its line, or its place in the file."""
    thread: dict[str, Any] = field(default_factory=dict)
    """What is sent to the service."""
    problem: str | None = None
    """Why it cannot be taken."""
    left_out: list[str] = field(default_factory=list)
    """What of it is not taken."""
    unnamed: bool = False
    """The file gives it no name: it has one that is made of its content."""


def read_file(path: Path) -> list[Entry]:
    """The conversations of a file, those that cannot be taken with the reason.

    Raises:
        OSError, EOFError, zlib.error: it cannot be read, or unpacked.
    """
    raw = path.read_bytes()
    if raw.startswith(GZIP):
        raw = gzip.decompress(raw)
    entries = _entries(raw.removeprefix(BOM))
    met: Counter[str] = Counter()
    for entry in entries:
        if entry.unnamed:
            name = entry.thread["name"]
            met[name] += 1
            if met[name] > 1:  # Two people have said the same: their chats are two.
                entry.thread["name"] = f"{name}-{met[name]}"
    return entries


def _entries(raw: bytes) -> list[Entry]:
    try:
        whole = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return list(_lines(raw))
    if not isinstance(whole, list):
        return [_entry("The file", whole)]
    # A list of messages is one thread; a list of threads is many.
    one = bool(whole) and all(isinstance(m, dict) and _is_message(m) for m in whole)
    if one:
        return [_entry("The file", whole)]
    return [_entry(f"Conversation {number}", value) for number, value in enumerate(whole, 1)]


UNREADABLE = (OSError, EOFError, zlib.error)


def _lines(raw: bytes) -> Iterator[Entry]:
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            continue
        where = f"Line {number}"
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield Entry(where, problem=f"is not JSON: {error}")
        else:
            yield _entry(where, value)


def _is_message(value: dict[str, Any]) -> bool:
    return "role" in value or "type" in value or ("from" in value and "value" in value)


def _entry(where: str, value: Any) -> Entry:
    if isinstance(value, list):
        return _named(Entry(where, {"messages": value}))
    if not isinstance(value, dict):
        return Entry(where, problem="must be an array of messages or an object")
    if value.get("format") == FORMAT:
        return Entry(where, value)
    if value.get("object") == "error":
        why = string(fields_of(value.get("error")).get("message"))
        return Entry(where, problem=f"says that the export was cut off there: {why}")
    if isinstance(value.get("mapping"), dict):
        return _chatgpt(where, value)
    if isinstance(value.get("chat_messages"), list):
        return _claude(where, value)
    if "messages" not in value and isinstance(value.get("conversations"), list):
        value = {**value, "messages": value["conversations"]}
        del value["conversations"]
    if not isinstance(value.get("messages"), list) and not set(value) & set(TAKEN):
        return Entry(where, problem="has no 'messages', and is no export that is known here")
    left_out = [f"'{name}'" for name in value if name not in TAKEN]
    thread = {name: value[name] for name in TAKEN if value.get(name) is not None}
    if (created := _seconds(thread.get("created_at"))) is not None:
        thread["created_at"] = created
    return _named(Entry(where, thread, left_out=left_out))


def _named(entry: Entry) -> Entry:
    if "name" not in entry.thread:
        # A name of its content's own, so that the same file imported again changes nothing.
        digest = hashlib.sha256(orjson.dumps(entry.thread, option=orjson.OPT_SORT_KEYS)).hexdigest()
        entry.thread["name"], entry.unnamed = f"import-{digest[:32]}", True
    return entry


def _chatgpt(where: str, value: dict[str, Any]) -> Entry:
    """A conversation of ChatGPT's export: a tree, of which the branch is taken that it ends with."""
    mapping = value["mapping"]
    path: list[dict[str, Any]] = []
    seen: set[str] = set()
    node = value.get("current_node")
    while isinstance(node, str) and node not in seen and isinstance(mapping.get(node), dict):
        seen.add(node)
        path.append(mapping[node])
        node = mapping[node].get("parent")
    messages: list[dict[str, Any]] = []
    left_out: list[str] = []
    for found in reversed(path):
        said = found.get("message")
        if not isinstance(said, dict):
            continue
        role = string(fields_of(said.get("author")).get("role"))
        text, lost = _chatgpt_text(fields_of(said.get("content")))
        left_out += lost
        if text and role in ("system", "user", "assistant"):
            messages.append({"role": role, "content": text})
        elif text:
            left_out.append(f"a message of {role or 'nobody'}")
    return _taken(where, "chatgpt", value.get("conversation_id") or value.get("id"), value.get("title"),
                  value.get("create_time"), messages, left_out)  # fmt: skip


def _chatgpt_text(content: dict[str, Any]) -> tuple[str, list[str]]:
    kind = string(content.get("content_type"))
    if kind in ("text", "multimodal_text"):
        parts = content.get("parts")
        parts = parts if isinstance(parts, list) else []
        lost = [string(part.get("content_type")) or "a part" for part in objects(parts)]
        return "\n".join(part for part in parts if isinstance(part, str) and part), lost
    if kind in ("code", "execution_output"):
        return string(content.get("text")), []
    return "", [kind] if kind else []


def _claude(where: str, value: dict[str, Any]) -> Entry:
    """A conversation of Claude's export."""
    messages: list[dict[str, Any]] = []
    left_out: list[str] = []
    for said in objects(value["chat_messages"]):
        role = {"human": "user", "assistant": "assistant"}.get(string(said.get("sender")))
        parts = objects(said.get("content"))
        texts = [string(part.get("text")) for part in parts if part.get("type") == "text"]
        text = "\n".join(text for text in texts if text) or string(said.get("text"))
        left_out += [string(part.get("type")) for part in parts if part.get("type") != "text"]
        left_out += ["a file" for _ in [*objects(said.get("attachments")), *objects(said.get("files"))]]
        if text and role is not None:
            messages.append({"role": role, "content": text})
    return _taken(where, "claude", value.get("uuid"), value.get("name"), value.get("created_at"), messages, left_out)


def _taken(
    where: str, product: str, id_: Any, title: Any, created: Any, messages: list[dict[str, Any]], left_out: list[str]
) -> Entry:
    if not messages:
        return Entry(where, problem="has no message with text in it", left_out=left_out)
    thread: dict[str, Any] = {"messages": messages}
    if isinstance(id_, str) and id_:
        thread["name"] = f"{product}-{id_}"[:256]
    if isinstance(title, str) and title:
        thread["title"] = title[:1000]
    if (seconds := _seconds(created)) is not None:
        thread["created_at"] = seconds
    return _named(Entry(where, thread, left_out=left_out))


def _seconds(moment: Any) -> float | None:
    """A moment in Unix seconds, given so or in ISO 8601; None if it is neither."""
    if isinstance(moment, bool):
        return None
    if isinstance(moment, int | float):
        return float(moment)
    try:
        found = datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()

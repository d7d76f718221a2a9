"""The formats that `everthread import` reads: our own exports, message arrays, and other products' exports.

ChatGPT's, Claude's, Open WebUI's and llama.cpp's conversations, ShareGPT, fine-tuning JSONL, LangChain's dumped
messages; as JSON or JSONL, with a byte order mark or without, packed with gzip, in a ZIP archive, or as they are. Each
conversation says how many messages it has and how many are imported, and what of it is left out.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from app.http.errors import BadRequest
from app.items.shapes import fields_of, objects, string
from app.transfer import products
from app.transfer.files import MOST_BYTES, documents, shown
from app.transfer.foreign import translated
from app.transfer.schemas import FORMAT
from app.transfer.trees import Conversation, seconds, thread_of

TAKEN = ("name", "title", "user", "metadata", "messages", "created_at")
"""The fields of a conversation that a thread is made with."""

KNOWN = (
    "Known are everthread's own exports, arrays of messages, ChatGPT, Claude, Open WebUI, llama.cpp, ShareGPT, "
    "LangChain and fine-tuning files"
)


@dataclass(slots=True)
class Entry:
    """One conversation of a file."""

    where: str
    """Its line, or its place in the file."""
    thread: dict[str, Any] = field(default_factory=dict)
    """Body that is sent to the service."""
    problem: str | None = None
    """Why it is not imported."""
    left_out: list[str] = field(default_factory=list)
    """The parts of it that are not imported, counted by reason."""
    unnamed: bool = False
    """True if the file gives it no name, and it has one that is made of its content."""
    messages: int = 0
    """The messages that it has in the file."""
    imported: int = 0
    """The messages that the thread has."""
    branches: int = 1

    @property
    def is_shortened(self) -> bool:
        return self.imported < self.messages

    def counted(self) -> str:
        """Return how many messages there are and how many come, and what is left out, as a sentence or two."""
        came = f"{'only ' if self.is_shortened else ''}{self.imported}"
        branches = f", in {self.branches} branches" if self.branches > 1 else ""
        what = [kind if times == 1 else f"{kind} ({times})" for kind, times in Counter(self.left_out).most_common()]
        more = f", and {len(what) - MOST_KINDS} other kinds" if len(what) > MOST_KINDS else ""
        left_out = f". Left out: {', '.join(what[:MOST_KINDS])}{more}" if what else ""
        return f"{_counted(self.messages)} in the file, {came} imported{branches}{left_out}."


MOST_KINDS = 12
"""Kinds of what is left out that are named."""


def _counted(messages: int) -> str:
    return f"{messages} message{'' if messages == 1 else 's'}"


def read_file(path: Path, most_bytes: int = MOST_BYTES) -> list[Entry]:
    """Return the conversations of a file, those that cannot be imported with the reason.

    Raises:
        Unreadable: the file cannot be read, or is too large once it is unpacked.
    """
    entries: list[Entry] = []
    for name, raw in documents(path, most_bytes):
        for entry in _entries(raw):
            if name:
                entry.where = f"{shown(name)}, {entry.where[0].lower()}{entry.where[1:]}"
            entries.append(entry)
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
        if raw.strip() and not raw.lstrip().startswith((b"{", b"[")):
            return [Entry("The file", problem=f"is neither JSON nor JSONL. {KNOWN}")]
        return list(_lines(raw)) or [Entry("The file", problem="is empty")]
    if not isinstance(whole, list):
        return [_entry("The file", whole)]
    if not whole:
        return [Entry("The file", problem="holds no conversation")]
    # A list of messages is one thread; a list of threads is many.
    one = all(isinstance(m, dict) and _is_message(m) for m in whole)
    if one:
        return [_entry("The file", whole)]
    return [_entry(f"Conversation {number}", value) for number, value in enumerate(whole, 1)]


def _lines(raw: bytes) -> Iterator[Entry]:
    """Read JSONL: a conversation a line, or sessions of llama.cpp, each a line that is followed by its messages."""
    session: _Session | None = None
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            continue
        where, problem = f"Line {number}", None
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            value, problem = None, f"is not JSON: {error}"
        kind = fields_of(value).get("type")
        if session is not None and problem is not None:
            session.add(None)
        elif session is not None and kind == "message" and isinstance(value.get("message"), dict):
            session.add(value["message"])
        elif kind == "session" and value.get("harness") == "llama.cpp":
            if session is not None:
                yield session.entry()
            session = _Session(where, value)
        else:
            if session is not None:
                yield session.entry()
                session = None
            yield Entry(where, problem=problem) if problem is not None else _entry(where, value)
    if session is not None:
        yield session.entry()


class _Session:
    """A session of llama.cpp's JSONL: its first line, and the messages of the lines after it."""

    def __init__(self, where: str, first: dict[str, Any]) -> None:
        self._where, self._first = where, first
        self._messages: list[dict[str, Any]] = []
        self._unread = 0

    def add(self, said: dict[str, Any] | None) -> None:
        """Add a message; None is a line that is not JSON."""
        if said is None:
            self._unread += 1
        else:
            self._messages.append(said)

    def entry(self) -> Entry:
        entry = _entry(self._where, {"conv": self._first, "messages": self._messages})
        entry.messages += self._unread
        entry.left_out += ["a line that is not JSON"] * self._unread
        return entry


def _is_message(value: dict[str, Any]) -> bool:
    return "role" in value or "type" in value or ("from" in value and "value" in value)


def _entry(where: str, value: Any) -> Entry:
    if isinstance(value, list):
        if not value:
            return Entry(where, problem="has no messages")
        return _of_messages(Entry(where, {"messages": value}, messages=len(value), imported=len(value)))
    if not isinstance(value, dict):
        return Entry(where, problem=f"must be an array of messages or an object. {KNOWN}")
    if value.get("format") == FORMAT:
        count = sum(
            fields_of(item.get("data")).get("type") == "message"
            for turn in objects(value.get("turns"))
            for item in objects(turn.get("items"))
        )
        return Entry(where, value, messages=count, imported=count, branches=_ends(objects(value.get("turns"))))
    if value.get("object") == "error":
        why = string(fields_of(value.get("error")).get("message"))
        return Entry(where, problem=f"says that the export was cut off there: {why}")
    if (conversation := products.read(value)) is not None:
        return _of_product(where, conversation)
    if "messages" not in value and isinstance(value.get("conversations"), list):
        value = {**value, "messages": value["conversations"]}
        del value["conversations"]
    if not isinstance(value.get("messages"), list):
        named = ", ".join(repr(shown(name)) for name in list(value)[:6])
        return Entry(where, problem=f"has no 'messages', and is no export that is known here (it has {named}). {KNOWN}")
    if not value["messages"]:
        return Entry(where, problem="has no messages")
    left_out = [f"'{shown(name)}'" for name in value if name not in TAKEN]
    thread = {name: value[name] for name in TAKEN if value.get(name) is not None}
    if (created := seconds(thread.get("created_at"))) is not None:
        thread["created_at"] = created
    count = len(value["messages"])
    return _of_messages(Entry(where, thread, left_out=left_out, messages=count, imported=count))


def _ends(turns: list[dict[str, Any]]) -> int:
    parents = {string(turn.get("parent_id")) for turn in turns}
    return sum(turn.get("id") not in parents for turn in turns)


def _of_messages(entry: Entry) -> Entry:
    """Give the thread a name, if it has none, and translate its messages."""
    if "name" not in entry.thread:
        # A name of its content's own, so that the same file imported again changes nothing.
        digest = hashlib.sha256(orjson.dumps(entry.thread, option=orjson.OPT_SORT_KEYS)).hexdigest()
        entry.thread["name"], entry.unnamed = f"import-{digest[:32]}", True
    try:
        entry.thread["messages"] = translated(entry.thread["messages"])
    except BadRequest as error:
        entry.problem = error.message
    return entry


def _of_product(where: str, conversation: Conversation) -> Entry:
    thread = thread_of(conversation)
    entry = Entry(
        where,
        thread.record,
        left_out=thread.left_out,
        unnamed=thread.unnamed,
        messages=thread.messages,
        imported=thread.imported,
        branches=thread.branches,
    )
    if not thread.imported:
        entry.problem = f"has no message with text in it: {entry.counted()[:-1]}"
    return entry

"""Conversations of other products as threads: trees of messages become trees of turns."""

import hashlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Literal

import orjson

from app.db import ids
from app.items import provider_door
from app.items.shapes import message
from app.transfer.schemas import FORMAT

LATEST = 253_402_300_799
"""The end of the year 9999, in Unix seconds."""

MILLISECONDS_FROM = 100_000_000_000
"""A number from here on is one of milliseconds."""


@dataclass(slots=True)
class Node:
    """A message of a conversation, or a node of its tree without one."""

    id: str
    parent: str | None = None
    role: Literal["system", "user", "assistant"] = "user"
    text: str = ""
    created: float | None = None
    lost: list[str] = field(default_factory=list)
    """The parts of the message that are not imported."""
    missing: str | None = None
    """Why the message as a whole is not imported. Its children hang on its parent."""
    is_message: bool = True
    """False for a node that holds nothing, such as the root of a tree."""

    @property
    def is_taken(self) -> bool:
        return self.is_message and self.missing is None


@dataclass(slots=True)
class Conversation:
    product: str
    id: str
    title: str
    created: float | None
    current: str | None
    """The node that the conversation was left at."""
    nodes: list[Node]


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation as a thread, and what of it is left out."""

    record: dict[str, Any]
    messages: int
    imported: int
    branches: int
    left_out: list[str]
    unnamed: bool


def thread_of(conversation: Conversation) -> Thread:
    """Make a thread of a conversation, to be sent to `POST /v1/threads/import`."""
    kept, parents = _linked(conversation.nodes)
    children: dict[str | None, list[str]] = {}
    for id_ in kept:
        children.setdefault(parents[id_], []).append(id_)
    order = _from_the_roots(children)
    head = _head(conversation, kept, parents, children)
    now = time.time()
    began = conversation.created
    if began is None:
        began = min((node.created for node in kept.values() if node.created is not None), default=now)

    moments: dict[str, float] = {}
    turn_of: dict[str, int] = {}
    turns: list[list[Node]] = []
    above: list[int | None] = []
    for id_ in order:
        node, parent = kept[id_], parents[id_]
        before = began if parent is None else moments[parent]
        moments[id_] = before if node.created is None else max(before, node.created)
        if parent is not None and len(children[parent]) == 1 and parent != head and _continues(kept[parent], node):
            turn_of[id_] = turn_of[parent]
            turns[turn_of[id_]].append(node)
        else:
            turn_of[id_] = len(turns)
            turns.append([node])
            above.append(None if parent is None else turn_of[parent])

    bucket = ids.new_bucket()
    turn_ids = [ids.turn_id(ids.new_id(bucket)) for _ in turns]
    # A turn stands behind its parent: it did not begin before it, and was met after it.
    in_time = sorted(range(len(turns)), key=lambda turn: (moments[turns[turn][0].id], turn))
    name, unnamed = _name(conversation, kept, parents)
    record: dict[str, Any] = {
        "format": FORMAT,
        "id": ids.thread_id(ids.new_id(bucket)),
        "name": name,
        "title": conversation.title[:1000] or None,
        "user": None,
        "metadata": {},
        "archived": False,
        "created_at": began,
        "updated_at": max(now, began),
        "head_id": None if head is None else turn_ids[turn_of[head]],
        "turns": [
            _turn(turn_ids[n], None if (up := above[n]) is None else turn_ids[up], turns[n], moments) for n in in_time
        ],
    }
    return Thread(
        record=record,
        messages=sum(node.is_message for node in conversation.nodes),
        imported=len(kept),
        branches=sum(id_ not in children for id_ in kept),
        left_out=[
            *(node.missing for node in conversation.nodes if node.missing is not None and node.is_message),
            *(part for node in kept.values() for part in node.lost),
        ],
        unnamed=unnamed,
    )


def seconds(moment: Any) -> float | None:
    """A moment in Unix seconds, given in seconds, milliseconds or ISO 8601; None if it is none of these."""
    if isinstance(moment, bool):
        return None
    if isinstance(moment, int | float):
        found = moment / 1000 if moment >= MILLISECONDS_FROM else float(moment)
    else:
        try:
            parsed = datetime.fromisoformat(moment)
            found = (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).timestamp()
        except (TypeError, ValueError, OverflowError):
            return None
    return found if 0 <= found <= LATEST else None


def _linked(nodes: list[Node]) -> tuple[dict[str, Node], dict[str, str | None]]:
    """Return the messages that are imported, and for each the nearest one above it that is imported too."""
    by_id: dict[str, Node] = {}
    for node in nodes:
        if node.id in by_id:
            node.missing = "a message whose id another one has"
        else:
            by_id[node.id] = node
    if not any(node.parent in by_id for node in by_id.values()):
        # A list without links: each message follows the one before it.
        for before, node in pairwise(nodes):
            node.parent = before.id
    kept = {id_: node for id_, node in by_id.items() if node.is_taken}
    nearest: dict[str, str | None] = {}

    def above(node: Node) -> str | None:
        passed: dict[str, None] = {}
        up = node.parent
        while up is not None and up in by_id and up not in kept and up not in nearest and up not in passed:
            passed[up] = None
            up = by_id[up].parent
        found = up if up in kept else None if up is None else nearest.get(up)
        nearest.update(dict.fromkeys(passed, found))
        return found

    parents = {id_: above(node) for id_, node in kept.items()}
    _cut_rings(parents)
    return kept, parents


def _cut_rings(parents: dict[str, str | None]) -> None:
    """Make each message a root whose ancestors lead back to it."""
    done: set[str] = set()
    for id_ in parents:
        path: dict[str, None] = {}
        up: str | None = id_
        while up is not None and up not in done and up not in path:
            path[up] = None
            up = parents[up]
        if up is not None and up in path:
            parents[up] = None
        done.update(path)


def _from_the_roots(children: dict[str | None, list[str]]) -> list[str]:
    """Return all messages, each behind its parent."""
    order: list[str] = []
    stack = list(reversed(children.get(None, [])))
    while stack:
        order.append(stack.pop())
        stack += reversed(children.get(order[-1], []))
    return order


def _head(
    conversation: Conversation,
    kept: dict[str, Node],
    parents: dict[str, str | None],
    children: dict[str | None, list[str]],
) -> str | None:
    """Return the message that the conversation was left at; where the export does not say, the end that came last."""
    nodes = {node.id: node for node in conversation.nodes}
    current, passed = conversation.current, set[str]()
    while current is not None and current in nodes and current not in passed:
        if current in kept:
            return current
        passed.add(current)
        current = nodes[current].parent
    ends = [(node.created or 0.0, place, id_) for place, (id_, node) in enumerate(kept.items()) if id_ not in children]
    return max(ends)[2] if ends else None


def _continues(before: Node, node: Node) -> bool:
    """True if a message belongs to the turn of the one before it: a turn's input stands before its output."""
    return before.role != "assistant" or node.role == "assistant"


def _name(conversation: Conversation, kept: dict[str, Node], parents: dict[str, str | None]) -> tuple[str, bool]:
    """Return a name that the same conversation has again, and True if it is made of the content."""
    name = f"{conversation.product}-{conversation.id}"
    if conversation.id and "/" not in name and len(name) <= 256:
        return name, False
    places = {id_: place for place, id_ in enumerate(kept)}
    said = [(node.role, node.text, None if (up := parents[id_]) is None else places[up]) for id_, node in kept.items()]
    digest = hashlib.sha256(orjson.dumps([conversation.product, conversation.id, conversation.title, said])).hexdigest()
    return f"import-{digest[:32]}", True


def _turn(id_: str, parent_id: str | None, nodes: list[Node], moments: dict[str, float]) -> dict[str, Any]:
    return {
        "id": id_,
        "parent_id": parent_id,
        "status": "completed",
        "continuation": None,
        "model": "",
        "params": {},
        "metadata": {},
        "ignored": [],
        "created_at": moments[nodes[0].id],
        "completed_at": moments[nodes[-1].id],
        "response": None,
        "usage": None,
        "error": None,
        "incomplete_details": None,
        "response_id": None,
        "items": [_item(node) for node in nodes],
    }


def _item(node: Node) -> dict[str, Any]:
    item_id = provider_door.new_id("message", ids.new_uuid().hex)
    if node.role != "assistant":
        return {"origin": "input", "item_id": item_id, "data": message(node.role, node.text)}
    said = {"type": "output_text", "text": node.text, "annotations": []}
    output = {"id": item_id, "type": "message", "role": "assistant", "status": "completed", "content": [said]}
    return {"origin": "output", "item_id": item_id, "data": output}

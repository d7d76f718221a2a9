"""The whole history as an input array, for a model that has lost it.

A pure function of the branch's items, the new input and a token budget. The rules:

- Messages keep their role, order and images. System and developer messages are never dropped.
- A tool call goes with its output or not at all; a call that was never answered is left out.
- Reasoning and web searches are left out: the model's own answer holds what came of them.
- What the other server-side tools found goes along as a short assistant message, since the provider
  takes none of their items as input.
- Over the budget, the oldest items are dropped, a call together with its output; the call that the new
  input answers stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.items.sendable import Item, sendable, text_of, tokens

NOTE_LENGTH = 2000
"""Characters of a server-side tool's output that are carried along."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    input: list[Item]
    dropped_items: int
    """How many of the history's oldest items were left out to fit the budget."""


def rebuild(history: Sequence[Item], new: Sequence[Item], token_budget: int) -> Rebuilt:
    """The input array that carries a conversation on.

    Args:
        history: the stored items from the branch's first turn to the parent, in order.
        new: the turn's own input; all of it is sent.
        token_budget: how many tokens the model may be sent.
    """
    whole = [*history, *new]
    paired = _paired_calls(whole)
    kept: list[Item] = []
    for item in history:
        kept.extend(_carried(item, paired))
    fresh = [sendable(item) for item in new]
    wanted = {item["call_id"] for item in fresh if "call_id" in item}
    dropped = _too_much(kept, token_budget - sum(map(tokens, fresh)), wanted)
    return Rebuilt([item for index, item in enumerate(kept) if index not in dropped] + fresh, len(dropped))


def _paired_calls(items: Sequence[Item]) -> set[str]:
    """The call ids that have a call and, after it, an output."""
    called: set[str] = set()
    answered: set[str] = set()
    for item in items:
        if item.get("type") == "function_call":
            called.add(item["call_id"])
        elif item.get("type") == "function_call_output" and item["call_id"] in called:
            answered.add(item["call_id"])
    return answered


def _carried(item: Item, paired: set[str]) -> list[Item]:
    match item.get("type", "message"):
        case "message":
            said = item.get("role") != "assistant" or text_of(item)
            return [sendable(item)] if said else []
        case "function_call" | "function_call_output":
            return [sendable(item)] if item["call_id"] in paired else []
        case "web_extractor_call":
            return _note("Read " + ", ".join(map(str, item.get("urls") or [])), item.get("output"))
        case "code_interpreter_call":
            logs = "\n".join(str(output.get("logs", "")) for output in item.get("outputs") or [])
            return _note(f"Ran code:\n{item.get('code', '')}\nIt printed", logs)
        case "web_search_image_call" | "image_search_call" | "mcp_call":
            return _note(f"{item.get('name', 'A tool')} found", item.get("output"))
        case "file_search_call":
            texts = [str(result.get("text", "")) for result in item.get("results") or []]
            return _note("Found in the files", "\n".join(texts))
        case _:
            return []


def _note(about: str, found: Any) -> list[Item]:
    if not found:
        return []
    return [{"type": "message", "role": "assistant", "content": f"[{about}: {str(found)[:NOTE_LENGTH]}]"}]


def _too_much(items: Sequence[Item], budget: int, wanted: set[str]) -> set[int]:
    """The positions to drop, oldest first, until the rest is within `budget` tokens. Calls in `wanted` stay."""
    sizes = [tokens(item) for item in items]
    over = sum(sizes) - budget
    dropped: set[int] = set()
    if over <= 0:
        return dropped
    partners: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        if "call_id" in item:
            partners.setdefault(item["call_id"], []).append(index)
    for index, item in enumerate(items):
        if over <= 0:
            break
        if index in dropped or item.get("role") in ("system", "developer") or item.get("call_id") in wanted:
            continue
        for position in partners.get(item.get("call_id", ""), [index]):
            dropped.add(position)
            over -= sizes[position]
    return dropped

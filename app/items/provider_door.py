"""The door for what the provider gives as its output: items that may have any shape.

Lenient: everything is kept that can be kept, and is harmless from then on. What has not the shape of its type is
kept as it came, under the type `malformed`, and shown, and never sent.
"""

import re
from typing import Any

from app.items.kinds import MALFORMED, kind_of, type_of
from app.items.shapes import Item, objects

LONGEST_ID = 256

ID_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}

NULLABLE = ("action", "code", "error", "output", "outputs", "result", "results", "summary")
"""Fields of items that the specification lets be null. Others are left out instead."""

_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def items_of(output: Any) -> list[Item]:
    """A response's output as items, whatever it is. What is no object is wrapped in one."""
    if output is None:
        return []
    elements = output if isinstance(output, list) else [output]
    return [
        without_nulls(element) if isinstance(element, dict) else {"type": MALFORMED, "value": element}
        for element in elements
    ]


def without_nulls(item: Item) -> Item:
    """An item, and its parts, without nulls where the specification has none: `logprobs`, `content`, `status` …

    An item without such nulls is returned itself.
    """
    kept = item
    if None in item.values():
        kept = {name: value for name, value in item.items() if value is not None or name in NULLABLE}
    for field in ("content", "summary"):
        parts = kept.get(field)
        if not isinstance(parts, list):
            continue
        for part in parts:
            if isinstance(part, dict) and None in part.values():
                clean = [_without_null_fields(part) if isinstance(part, dict) else part for part in parts]
                kept = {**kept, field: clean}
                break
    return kept


def stored_type(item: Item) -> str:
    """The type under which an item of the provider's is kept."""
    type_ = type_of(item)
    return type_ if type_ and kind_of(item).fits(item) else MALFORMED


def new_id(type_: str, digits: str) -> str:
    """An item id of ours.

    Args:
        digits: what makes it unique.
    """
    return f"{ID_PREFIXES.get(type_, 'item')}_{digits}"


def usable_id(value: Any) -> str | None:
    """An id of the provider's, if a key can be made of it."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID or _CONTROL.search(value):
        return None
    return value


def output_text_parts(item: Item) -> list[Item]:
    """The parts of a message that hold text of the model's."""
    content = item.get("content")
    return [
        part for part in objects(content) if part.get("type") == "output_text" and isinstance(part.get("text"), str)
    ]


def _without_null_fields(part: Item) -> Item:
    return {name: value for name, value in part.items() if value is not None}

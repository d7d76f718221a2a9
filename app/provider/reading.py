"""The provider's JSON, which may be broken: read as far as it can be, so that no answer is lost over a character."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import orjson

DEEPEST = 100
"""Levels of nesting; what lies deeper is left out."""

TOO_DEEP = "[nested too deep]"

_UNKEPT = re.compile("[\x00\ud800-\udfff]")
"""What Postgres does not take: NUL, and half characters."""


class NotJSON(ValueError):
    """It cannot be read, however leniently."""


@dataclass(frozen=True, slots=True)
class Read:
    value: Any
    repaired: bool
    """Something of it could not be kept as it came."""


def read_json(data: bytes) -> Read:
    """A JSON text of the provider's. Half characters, NUL and numbers that are none are replaced.

    Raises:
        NotJSON: there is nothing to be read.
    """
    if b"\\u0000" not in data:
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            pass
        else:
            return Read(value, repaired=False) if _is_flat(data) else _cleaned(value)
    try:
        value = json.loads(data.decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from error
    return Read(_cleaned(value).value, repaired=True)


def read_object(data: bytes) -> tuple[dict[str, Any], bool]:
    """The same, of a text that must be an object.

    Raises:
        NotJSON: it is none.
    """
    if b"\\u0000" not in data and data.count(b"{") + data.count(b"[") <= DEEPEST:
        # The usual case at once: this is done for each event of a stream.
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            pass
        else:
            if type(value) is dict:
                return value, False
    read = read_json(data)
    if not isinstance(read.value, dict):
        raise NotJSON("it is not an object")
    return read.value, read.repaired


def _is_flat(data: bytes) -> bool:
    """Whether it cannot be nested too deep, by the count of what opens a level."""
    return data.count(b"[") + data.count(b"{") <= DEEPEST or _depth(data) <= DEEPEST


_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def _depth(data: bytes) -> int:
    deepest = depth = 0
    for token in _STRUCTURE.finditer(data):
        first = data[token.start()]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest


def _cleaned(value: Any) -> Read:
    changed = False

    def clean(found: Any, depth: int) -> Any:
        nonlocal changed
        if isinstance(found, str):
            if (clear := _UNKEPT.sub("�", found)) != found:
                changed = True
            return clear
        if isinstance(found, float):
            if math.isfinite(found):
                return found
            changed = True
            return None
        if isinstance(found, int) and not isinstance(found, bool) and not -(2**63) <= found < 2**64:
            changed = True
            return float(found) if abs(found) < 10**300 else None
        if isinstance(found, list | dict) and depth >= DEEPEST:
            changed = True
            return TOO_DEEP
        if isinstance(found, list):
            return [clean(element, depth + 1) for element in found]
        if isinstance(found, dict):
            return {clean(key, depth): clean(element, depth + 1) for key, element in found.items()}
        return found

    cleaned = clean(value, 0)
    return Read(cleaned, changed)

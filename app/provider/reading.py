"""The provider's JSON, which may be broken: read as far as it can be, so that no answer is lost over a character."""

import json
import math
import re
from typing import Any

import orjson

from app.http.nesting import Excess, excess

DEEPEST = 100
"""Levels of nesting; what lies deeper is left out."""

MOST_VALUES = 200_000
"""Values in an answer, or in an event of a stream."""

TOO_DEEP = "[nested too deep]"

_UNKEPT = re.compile("[\x00\ud800-\udfff]")
"""Characters that Postgres does not store: NUL, and lone surrogates."""


class NotJSON(ValueError):
    """It cannot be read, however leniently."""


def read_json(data: bytes) -> tuple[Any, bool]:
    """A JSON text of the provider's. Half characters, NUL and numbers that are none are replaced.

    Returns:
        The value, and whether something of it could not be kept as it came.

    Raises:
        NotJSON: there is nothing to be read, or it has more than `MOST_VALUES` values.
    """
    # A text this short cannot be too deep, nor have too many values.
    exceeded = excess(data, values=MOST_VALUES, levels=DEEPEST) if len(data) > 2 * DEEPEST else None
    if exceeded is Excess.VALUES:
        raise NotJSON(f"it has more than {MOST_VALUES} values")
    if b"\\u0000" not in data:
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            pass
        else:
            return (value, False) if exceeded is None else _cleaned(value)
    try:
        value = json.loads(data.decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from error
    return _cleaned(value)[0], True


def read_object(data: bytes) -> tuple[dict[str, Any], bool]:
    """The same, of a text that must be an object.

    Raises:
        NotJSON: it is none.
    """
    value, repaired = read_json(data)
    if not isinstance(value, dict):
        raise NotJSON("it is not an object")
    return value, repaired


def _cleaned(value: Any) -> tuple[Any, bool]:
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
    return cleaned, changed

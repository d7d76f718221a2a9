"""The size of a JSON text in values and levels, measured before it is parsed into as many objects.

Every step is one pass of a C function over the text, or a loop over at most a few times `values` elements, so that a
text of any content costs milliseconds.
"""

from enum import StrEnum


class Excess(StrEnum):
    """The bound that a JSON text exceeds."""

    VALUES = "values"
    LEVELS = "levels"


FIRST_LOOK = 1 << 20
"""Bytes of a longer text that are checked first: a text of nothing but brackets is refused by them."""

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def excess(text: bytes, *, values: int, levels: int) -> Excess | None:
    """Return the first bound that a JSON text exceeds, None if neither. The text may be malformed.

    Args:
        values: strings, numbers, literals, arrays and objects that it may have.
        levels: arrays and objects that may be inside one another.
    """
    opens = text.count(b"[") + text.count(b"{")
    if opens <= levels and opens + text.count(b",") < values:
        return None
    if len(text) > FIRST_LOOK and excess(text[:FIRST_LOOK], values=values, levels=levels) is Excess.VALUES:
        return Excess.VALUES
    outside = _outside_strings(text, values)
    # In each array and object that is not empty, there is one value more than commas.
    if outside is None or outside.count(b"[") + outside.count(b"{") + outside.count(b",") >= values:
        return Excess.VALUES
    depth = 0
    for bracket in outside.translate(_BRACKETS, _NO_BRACKETS):
        if bracket == 0x5B:
            depth += 1
            if depth > levels:
                return Excess.LEVELS
        else:
            depth -= 1
    return None


def _outside_strings(text: bytes, values: int) -> bytes | None:
    """Return what stands outside the strings of a JSON text; None if it has more strings than values and keys."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    pieces = text.split(b'"', 4 * values + 1)
    return b" ".join(pieces[::2]) if len(pieces) <= 4 * values + 1 else None

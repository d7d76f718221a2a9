"""How deep a JSON text is nested, told before it is parsed into as many objects."""

import re

# An unterminated string is read once, to its end, and not again from each quote in it.
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def is_deeper(text: bytes, levels: int) -> bool:
    """Whether a JSON text, which may be broken, has more than so many levels of arrays and objects."""
    if text.count(b"{") + text.count(b"[") <= levels:
        return False
    depth = 0
    for token in _STRUCTURE.finditer(text):
        first = text[token.start()]
        if first in b"[{":
            depth += 1
            if depth > levels:
                return True
        elif first in b"]}":
            depth -= 1
    return False

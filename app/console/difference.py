"""Lines in which two bodies of calls differ.

It runs in a process that can be killed (`app/process/killable.py`): a text of lines that repeat can cost `difflib` the
cube of their number.
"""

import difflib
from itertools import islice

LINES_AROUND = 3

MOST_LINES = 2000
"""Lines that are shown."""

MOST_CHARACTERS = 100_000

LONGEST_LINE = 2000
"""Characters of a line that are shown."""


def lines(before: str, now: str) -> list[tuple[str, str]]:
    """Return the lines of both around each difference, each with what has become of it: '+', '-', ' ' or '@'."""
    found = difflib.unified_diff(before.splitlines(), now.splitlines(), n=LINES_AROUND, lineterm="")
    shown: list[tuple[str, str]] = []
    left = MOST_CHARACTERS
    for line in islice(found, 2, None):  # The first two name the texts.
        cut = line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"
        left -= len(cut)
        if left < 0 or len(shown) == MOST_LINES:
            break
        shown.append((cut[:1], cut))
    return shown

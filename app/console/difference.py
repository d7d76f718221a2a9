"""Lines in which two bodies of calls differ.

It runs in a process that can be killed (`app/process/killable.py`): a text of lines that repeat can cost `difflib` the
cube of their number.
"""

import difflib

LINES_AROUND = 3

MOST_LINES = 5000
"""Lines that are shown."""


def lines(before: str, now: str) -> list[tuple[str, str]]:
    """Return the lines of both around each difference, each with what has become of it: '+', '-', ' ' or '@'."""
    found = difflib.unified_diff(before.splitlines(), now.splitlines(), n=LINES_AROUND, lineterm="")
    return [(line[:1], line) for line in found if not line.startswith(("---", "+++"))][:MOST_LINES]

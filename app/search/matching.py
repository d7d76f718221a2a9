"""Matching and ranking of texts: the text itself is checked, after an index of its lexemes."""

import re
from collections.abc import Sequence
from itertools import islice, pairwise
from math import log2

from app.items.lexemes import BETWEEN, LONGEST_TEXT, UNSPACED, Term, folded

MOST_PLACES = 255
"""Places of a term that count."""

_IN_WORD = f"[^{UNSPACED}{BETWEEN}]"


class Matcher:
    """Query, prepared for matching."""

    def __init__(self, asked: Sequence[Term]) -> None:
        self._wanted = [_pattern(term) for term in asked if not term.excluded]
        self._excluded = [_pattern(term) for term in asked if term.excluded]

    def rank(self, text: str) -> float | None:
        """Return the rank of a text; None if it does not match.

        A text ranks higher if it has each term more often, has the terms closer together, and is shorter.
        """
        text = folded(text[:LONGEST_TEXT])
        if any(pattern.search(text) for pattern in self._excluded):
            return None
        places = [[found.start() for found in islice(each.finditer(text), MOST_PLACES)] for each in self._wanted]
        if not all(places):
            return None
        # Each further time counts less: their sum has a limit.
        often = sum(1 / (time * time) for of_term in places for time in range(1, len(of_term) + 1)) / len(places)
        apart = sum(_nearest(one, other) for one, other in pairwise(places))
        return often / (1 + log2(1 + apart / 10)) / log2(2 + len(text) / 6)


def _pattern(term: Term) -> re.Pattern[str]:
    """A pattern for folded texts. What is looked for stands first in it, for `re` is quick with that."""
    first, *others = term.runs
    pattern = begins_word(first.text) if first.spaced else re.escape(first.text)
    before = first
    for run in others:
        rest = f"{_IN_WORD}*" if before.spaced and not term.exact else ""
        pattern += f"{rest}[{BETWEEN}]{'+' if before.spaced and run.spaced else '*'}" + re.escape(run.text)
        before = run
    return re.compile(pattern + (f"(?!{_IN_WORD})" if term.exact and before.spaced else ""))


def begins_word(word: str) -> str:
    """Return a pattern for a word, or the beginning of one, in a folded text."""
    found = re.escape(word)
    return f"{found}(?<!{_IN_WORD}{found})"


def _nearest(one: list[int], other: list[int]) -> int:
    """The smallest distance between a place of one and a place of the other. Both are in their order."""
    best, i, j = abs(one[0] - other[0]), 0, 0
    while i < len(one) and j < len(other):
        best = min(best, abs(one[i] - other[j]))
        if one[i] < other[j]:
            i += 1
        else:
            j += 1
    return best

"""The places of a text that match, with what stands around them."""

import html
import re
from collections.abc import Iterator, Sequence
from heapq import merge

from typing_extensions import TypedDict

from app.items.lexemes import BETWEEN, Run, folded, runs
from app.search.matching import begins_word

AROUND = 60
"""Characters shown on either side of a match."""

MOST = 3
"""Fragments of a text."""

LONGEST = 400
"""Characters of a fragment between its first match's beginning and its last match's end. What matches beyond them is in
the next fragment; a match that is longer itself is cut."""

BLOCK = 1000
"""Characters that are folded and searched at a time. Only a block with a match is cut into words."""

_BLOCK = re.compile(f".{{1,{BLOCK}}}[^{BETWEEN}]*", re.DOTALL)


class FragmentObject(TypedDict):
    text: str
    highlights: list[list[int]]
    html: str


def fragments(text: str, asked: Sequence[Run]) -> list[FragmentObject]:
    """Where `text` has what is asked for.

    Returns:
        For each place its text, the highlights as [start, end) in it, and the same as HTML with <mark>.
    """
    merged: list[list[tuple[int, int]]] = []
    for start, end in _matches(text, asked):
        if merged and start - merged[-1][-1][1] < AROUND and end - merged[-1][0][0] <= LONGEST:
            merged[-1].append((start, end))
        elif len(merged) == MOST:
            break
        else:
            merged.append([(start, min(end, start + LONGEST))])
    return [_fragment(text, places) for places in merged]


def _fragment(text: str, places: list[tuple[int, int]]) -> FragmentObject:
    first, last = max(0, places[0][0] - AROUND), min(len(text), places[-1][1] + AROUND)
    # Not cut in the middle of a word, where there are any.
    while 0 < first < places[0][0] and text[first - 1].isalnum() and text[first - 1].isascii():
        first += 1
    while places[-1][1] < last < len(text) and text[last].isalnum() and text[last].isascii():
        last -= 1
    shown, done = [], first
    for start, end in places:
        shown += [html.escape(text[done:start]), "<mark>", html.escape(text[start:end]), "</mark>"]
        done = end
    shown.append(html.escape(text[done:last]))
    before, after = "…" if first else "", "…" if last < len(text) else ""
    shift = len(before) - first
    return {
        "text": before + text[first:last] + after,
        "highlights": [[start + shift, end + shift] for start, end in places],
        "html": before + "".join(shown) + after,
    }


def _matches(text: str, asked: Sequence[Run]) -> Iterator[tuple[int, int]]:
    """Yield the matches from the text's beginning on, without overlaps. The work ends where the caller stops."""
    spaced = tuple(run.text for run in asked if run.spaced)
    unspaced = [run.text for run in asked if not run.spaced]
    wanted = re.compile("|".join([*map(begins_word, spaced), *map(re.escape, unspaced)]))
    for block in _BLOCK.finditer(text):
        if wanted.search(folded(block[0])) is None:
            continue
        for run in runs(block[0]):
            start, end = block.start() + run.start, block.start() + run.end
            if run.spaced:
                if spaced and run.text.startswith(spaced):
                    yield start, end
            elif len(run.text) == run.end - run.start:
                for place, until in _joined(merge(*(_places(run.text, part) for part in unspaced))):
                    yield start + place, start + until
            elif any(part in run.text for part in unspaced):
                yield start, end  # Folding has changed the length: the whole run is shown.


def _places(text: str, part: str) -> Iterator[tuple[int, int]]:
    place = text.find(part)
    while place >= 0:
        yield place, place + len(part)
        place = text.find(part, place + len(part))


def _joined(places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield overlapping places as one."""
    joined: tuple[int, int] | None = None
    for start, end in places:
        if joined is None:
            joined = (start, end)
        elif start < joined[1] and end - joined[0] <= LONGEST:
            joined = (joined[0], max(end, joined[1]))
        else:
            yield joined
            joined = (max(start, joined[1]), end)
    if joined is not None:
        yield joined

"""The places of a text that match, with what stands around them."""

import html
from collections.abc import Sequence

from typing_extensions import TypedDict

from app.items.lexemes import Run, runs

AROUND = 60
"""Characters shown on either side of a match."""

MOST = 3
"""Fragments of a text."""


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
        if merged and start - merged[-1][-1][1] < AROUND:
            merged[-1].append((start, end))
        elif len(merged) == MOST:
            break
        else:
            merged.append([(start, end)])
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


def _matches(text: str, asked: Sequence[Run]) -> list[tuple[int, int]]:
    spaced = tuple(run.text for run in asked if run.spaced)
    unspaced = [run.text for run in asked if not run.spaced]
    found: list[tuple[int, int]] = []
    for run in runs(text):
        if run.spaced:
            if spaced and run.text.startswith(spaced):
                found.append((run.start, run.end))
        elif len(run.text) == run.end - run.start:
            found += [
                (run.start + place, run.start + place + len(part))
                for part in unspaced
                for place in _places(run.text, part)
            ]
        elif any(part in run.text for part in unspaced):
            found.append((run.start, run.end))  # Folding has changed the length: the whole run is shown.
    return _joined(sorted(found))


def _places(text: str, part: str) -> list[int]:
    places, place = [], text.find(part)
    while place >= 0:
        places.append(place)
        place = text.find(part, place + len(part))
    return places


def _joined(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Overlapping places as one."""
    joined: list[tuple[int, int]] = []
    for start, end in places:
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined

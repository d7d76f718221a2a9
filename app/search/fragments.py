"""The places of a text that match, with what stands around them."""

import html
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import accumulate

import regex
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

_CLUSTER = regex.compile(r"\X")

_CONTINUES = r"[\p{GCB=Extend}\p{GCB=SpacingMark}\u200d]"
"""A character that belongs to the grapheme cluster of the one before it."""

_JOINED = regex.compile(rf"(?s){_CONTINUES}|(?<=\u200d).|(?<=\r)\n")

_BLOCK = regex.compile(f"(?s).{{1,{BLOCK}}}+[^{BETWEEN}]*+(?:(?:{_CONTINUES}|(?<=\u200d).)[^{BETWEEN}]*+)*+")


class FragmentObject(TypedDict):
    text: str
    highlights: list[list[int]]
    html: str


def fragments(text: str, asked: Sequence[Run]) -> list[FragmentObject]:
    """Return the places in `text` that match the query.

    Returns:
        The text of each place, its highlights as [start, end), and the same as HTML with <mark>.
    """
    merged: list[list[tuple[int, int]]] = []
    for start, end in _matches(text, asked):
        if merged and start - merged[-1][-1][1] < AROUND and end - merged[-1][0][0] <= LONGEST:
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
    while first < places[0][0] and _JOINED.match(text, first):
        first += 1
    while places[-1][1] < last and _JOINED.match(text, last):
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
    """Yield the matches from the text's beginning on, as whole grapheme clusters, without overlaps.

    The work ends where the caller stops.
    """
    spaced = tuple(run.text for run in asked if run.spaced)
    unspaced = [run.text for run in asked if not run.spaced]
    wanted = re.compile("|".join([*map(begins_word, spaced), *map(re.escape, unspaced)]))
    for block in _BLOCK.finditer(text):
        if wanted.search(folded(block[0])) is None:
            continue
        edges = _edges(block[0])
        for start, end in _clustered(_in_block(block[0], spaced, unspaced), edges):
            yield block.start() + start, block.start() + end


def _in_block(text: str, spaced: tuple[str, ...], unspaced: Sequence[str]) -> Iterator[tuple[int, int]]:
    for run in runs(text):
        if run.spaced:
            if spaced and run.text.startswith(spaced):
                yield run.start, run.end
        elif any(part in run.text for part in unspaced):
            edges = _folded_edges(text[run.start : run.end], run.text)
            for place, until in _joined(merge(*(_places(run.text, part) for part in unspaced))):
                # The cluster that a match begins in, up to the end of the one that it ends in.
                first, last = bisect_right(edges, (place, len(text))) - 1, bisect_left(edges, (until, 0))
                yield run.start + edges[first][1], run.start + edges[last][1]


def _folded_edges(raw: str, said: str) -> list[tuple[int, int]]:
    """Return the edges of the grapheme clusters of a run, each in its folded text and in the text itself.

    Those of the whole run alone, if folding it does more than folding its clusters.
    """
    clusters = _CLUSTER.findall(raw)
    parts = [folded(cluster) for cluster in clusters]
    if "".join(parts) != said:
        return [(0, 0), (len(said), len(raw))]
    folded_at, raw_at = (accumulate(map(len, each), initial=0) for each in (parts, clusters))
    return list(zip(folded_at, raw_at, strict=True))


def _edges(text: str) -> Sequence[int]:
    """Return where grapheme clusters begin, and the end of the text."""
    if text.isascii() and "\r" not in text:
        return range(len(text) + 1)
    return [*(found.start() for found in _CLUSTER.finditer(text)), len(text)]


def _clustered(places: Iterator[tuple[int, int]], edges: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield places widened to whole clusters, those that then overlap as one, each cut to `LONGEST` characters."""
    last = (0, 0)
    for start, end in places:
        start, end = edges[bisect_right(edges, start) - 1], edges[bisect_left(edges, end)]
        if start < last[1]:
            start = last[1]
            if end <= start:
                continue
        if end - start > LONGEST:
            cut = edges[bisect_right(edges, start + LONGEST) - 1]
            end = cut if cut > start else start + LONGEST  # One cluster that is longer is cut itself.
        last = (start, end)
        yield last


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

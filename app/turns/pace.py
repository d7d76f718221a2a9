"""The pace of a stream: when each delta of its text came, and how long it was. The text itself is in the items."""

import re
from collections.abc import Sequence
from typing import Any

import orjson

DELTA = b"\nevent: response.output_text.delta\n"
_DELTAS = re.compile(
    rb'\nevent: response\.output_text\.delta\ndata: [^\n]*?"delta"\s*:\s*("(?:[^"\\]|\\.)*")', re.DOTALL
)


def measured(frames: Sequence[bytes], arrivals: Sequence[tuple[int, int]]) -> dict[str, Any] | None:
    """The pace of a stream; None if it had no text, or none that can be measured.

    Args:
        frames: its events, as they were sent on.
        arrivals: how many of them were there, and after how many milliseconds, each time some came.
    """
    places = [place for place, frame in enumerate(frames) if DELTA in frame[:80]]
    found = _DELTAS.findall(b"".join([frames[place] for place in places]))
    if not found or len(found) != len(places):
        return None
    try:
        texts = orjson.loads(b"[" + b",".join(found) + b"]")
    except orjson.JSONDecodeError:
        return None  # Half a character is no JSON for orjson.
    milliseconds: list[int] = []
    arrival = iter(arrivals)
    count, at = next(arrival, (len(frames), 0))
    for place in places:
        while place >= count:
            count, at = next(arrival, (len(frames), at))
        milliseconds.append(at)
    return {"ms": milliseconds, "chars": list(map(len, texts))}


def deltas(text: str, pace: dict[str, Any] | None, start: int) -> list[tuple[str, int]]:
    """A text as the deltas that it came in, each with its milliseconds; in one piece if that is not known.

    Args:
        start: how many of the pace's deltas earlier texts of the same answer have used.
    """
    if pace is None:
        return [(text, 0)]
    pieces: list[tuple[str, int]] = []
    done = 0
    for milliseconds, chars in zip(pace["ms"][start:], pace["chars"][start:], strict=True):
        if done == len(text):
            break
        pieces.append((text[done : done + chars], milliseconds))
        done += chars
    return pieces if done == len(text) else [(text, pieces[0][1] if pieces else 0)]

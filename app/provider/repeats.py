"""Deltas that repeat an earlier one: the same bytes except for the text and the numbers.

Most events of a stream are such repetitions. They are recognised by their bytes and passed on without being parsed.
Every other event is decoded and read (`events`, `reading`), and so is the first delta of each item. It is within all
bounds, and a repetition of it is, too: text adds no values and no levels.
"""

import re
import secrets
from collections.abc import Sequence

import orjson

from app.provider.events import SSEDecoder, data_of
from app.provider.reading import NotJSON, read_object

LONGEST = 2000
"""Bytes of the longest event whose form is learned."""

MOST = 10_000
"""Repetitions that are taken together."""

ATTEMPTS = 4
"""Forms without a repetition, or with one that has to be read, one after the other, after which no more are learned.

Repetitions are searched up to the end of a chunk, so that one that has to be read costs as much as all behind it."""

_DELTA = b'.delta"'
"""The end of the type of every event that may have repetitions."""

_END = b"\n\n"
_TYPE = re.compile(rb"\nevent: ([^\n]+\.delta)\n")
_ID = re.compile(rb"id: ?([0-9]{1,9})\n")
_NUMBER = re.compile(rb'"sequence_number": ?([0-9]{1,9})')
_TEXT = re.compile(rb'"delta": ?"((?:[^"\\]|\\.)*+)"')
_PLAIN = rb'[^"\\\x00-\x1f]*+'
_STRINGS = re.compile(
    _PLAIN + rb'(?:\\(?:["\\/bfnrt]|u(?!0000|[dD][89a-fA-F])[0-9a-fA-F]{4})' + _PLAIN + rb")*+",
)
"""Contents of JSON strings that are stored as they are: without NUL and halves of surrogate pairs."""

_PROBE = (secrets.token_hex(8).encode(), secrets.randbelow(10**9), secrets.randbelow(10**9))


class Repeats:
    """The repetitions of a stream's latest delta."""

    def __init__(self) -> None:
        self._form: _Form | None = None
        self._attempts = ATTEMPTS

    def stop(self, chunk: bytes, start: int) -> int:
        """Return the place up to which a chunk is to be decoded: behind its first delta, so that this can be learned.

        Args:
            start: where to begin in the chunk.
        """
        if self._attempts:
            delta = chunk.find(_DELTA, start)
            end = chunk.find(_END, delta) if delta >= 0 else -1
            if end >= 0:
                return end + len(_END)
        return len(chunk)

    def learn(self, chunk: bytes, start: int, end: int, sent: bytes) -> None:
        """Learn the form of the event at the end of a part of a chunk, if that is a delta.

        Args:
            start: where the part begins. An event begins there, or before.
            sent: the latest frame that was passed on.
        """
        before = chunk.rfind(_END, start, end - len(_END))
        begin = start if before < 0 else before + len(_END)
        block = chunk[begin:end] if end - begin <= LONGEST and len(sent) <= LONGEST else b""
        type_ = _TYPE.search(sent)
        # An event that was passed on as another one has no repetitions, and is no reason to give up.
        if self._attempts and block.endswith(_END) and type_ is not None and type_[1] in block:
            self._attempts -= 1
            self._form = _learned(block, sent)

    def taken(self, chunk: bytes, start: int, number: int) -> tuple[int, list[bytes], list[int]]:
        """Take the repetitions with which a chunk goes on.

        Args:
            start: where an event begins.
            number: ours for the first of them.

        Returns:
            The place behind them, their frames, and the lengths of what they add to the answer's text.
        """
        form = self._form
        if form is None:
            return start, [], []
        end, frames, lengths = form.taken(chunk, start, number)
        if frames and not form.is_spoilt:
            self._attempts = ATTEMPTS
        return end, frames, lengths if form.is_text else []


def _learned(block: bytes, sent: bytes) -> "_Form | None":
    """Return the form of a delta; None if its repetitions have to be read.

    Args:
        block: the event as it came.
        sent: the same as it was passed on.
    """
    id_, theirs, text = _ID.match(block), _NUMBER.search(block), _TEXT.search(block)
    our_id, ours, our_text = _ID.match(sent), _NUMBER.search(sent), _TEXT.search(sent)
    if not (id_ and theirs and text and our_id and ours and our_text):
        return None
    number_first = theirs.start() < text.start()
    if number_first != (ours.start() < our_text.start()):
        return None
    form = _Form(
        _format(block, (id_, b"%d"), (theirs, b"%d"), (text, _END)),
        _format(sent, (our_id, b"%d"), (ours, b"%d"), (our_text, b"%b")),
        int(id_[1]) + 1,
        int(theirs[1]) + 1,
        number_first=number_first,
        is_text=b"\nevent: response.output_text.delta\n" in sent,
    )
    # The patterns find places by their look. With a text and numbers that nobody can guess, these are the right ones.
    return form if form.has_its_places(*_PROBE) else None


def _format(whole: bytes, *places: tuple[re.Match[bytes], bytes]) -> bytes:
    """Return bytes as a format, with fields in the places of the groups of matches."""
    parts: list[bytes] = []
    done = 0
    for match, field in sorted(places, key=lambda place: place[0].start()):
        parts += [whole[done : match.start(1)].replace(b"%", b"%%"), field]
        done = match.end(1)
    return b"".join([*parts, whole[done:].replace(b"%", b"%%")])


class _Form:
    """The bytes that all repetitions of a delta share, as formats, and the numbers of the next one."""

    def __init__(self, block: bytes, sent: bytes, id_: int, theirs: int, *, number_first: bool, is_text: bool) -> None:
        """Args: number_first: whether the number stands before the text."""
        self._before, self._after = block.split(_END, 1)
        if number_first:
            self._after %= ()
        self._sent = sent
        self._theirs = theirs
        self._id_ahead = id_ - theirs
        self._number_first = number_first
        self.is_text = is_text
        self.is_spoilt = False
        """A repetition's text is not stored as it is."""

    def taken(self, chunk: bytes, start: int, number: int, most: int = MOST) -> tuple[int, list[bytes], list[int]]:
        """Return the place behind the repetitions at a place, their frames, and the lengths of their texts."""
        texts: list[bytes] = []
        place, first = start, self._theirs
        before, after, number_first, id_ahead = self._before, self._after, self._number_first, self._id_ahead
        starts, find = chunk.startswith, chunk.find
        for theirs in range(first, first + most):
            head = before % ((theirs + id_ahead, theirs) if number_first else theirs + id_ahead)
            if not starts(head, place):
                break
            begin = place + len(head)
            tail = after if number_first else after % theirs
            end = find(b"\n", begin) + len(_END) - len(tail)
            if end < begin or not starts(tail, end):
                break
            texts.append(chunk[begin:end])
            place = end + len(tail)
        lengths = _lengths(texts)
        if len(lengths) < len(texts):
            self.is_spoilt = True
            return self.taken(chunk, start, number, len(lengths))
        self._theirs += len(texts)
        sent, numbers = self._sent, range(number, number + len(texts))
        if number_first:
            return place, [sent % (ours, ours, text) for ours, text in zip(numbers, texts, strict=True)], lengths
        return place, [sent % (ours, text, ours) for ours, text in zip(numbers, texts, strict=True)], lengths

    def has_its_places(self, probe: bytes, theirs: int, ours: int) -> bool:
        """Return True if a repetition is read, and its frame shown, with just its own text and numbers in place."""
        if self._number_first:
            block = self._before % (theirs + self._id_ahead, theirs) + probe + self._after
            sent = self._sent % (ours, ours, probe)
        else:
            block = self._before % (theirs + self._id_ahead) + probe + self._after % theirs
            sent = self._sent % (ours, probe, ours)
        events = SSEDecoder().feed(block)
        try:
            event, repaired = read_object(events[0].data if len(events) == 1 else b"")
        except NotJSON:
            return False
        told = orjson.loads(data_of(sent))
        return (
            not repaired
            and (event.get("delta"), event.get("sequence_number")) == (probe.decode(), theirs)
            and {**told, **event, "sequence_number": ours} == told
        )


def _lengths(texts: Sequence[bytes]) -> list[int]:
    """Return the lengths in characters of JSON strings, up to the first that is not stored as it is."""
    if not texts:
        return []
    # A backslash at the end of one would escape the space.
    if _STRINGS.fullmatch(b" ".join(texts)):
        try:
            return [len(text) for text in orjson.loads(b'["%b"]' % b'","'.join(texts))]
        except orjson.JSONDecodeError:
            pass  # One of them is not UTF-8.
    if len(texts) == 1:
        return []
    lengths: list[int] = []
    for text in texts:
        if not (length := _lengths([text])):
            break
        lengths += length
    return lengths

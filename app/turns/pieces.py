"""The body of a call as it is kept: in pieces, which only have to be put together again.

A body is literal text with references in between: to the turn's own input, which its items hold in the very bytes
that were sent, or to a range of pieces that calls of the thread have sent before. So a rebuilt call costs what it adds,
and not the history again; and what is erased is gone from every call that has sent it.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from uuid import UUID

import orjson

from app.items.input_item import InputItem
from app.items.media import LARGE, StoredMedium, large_in
from app.items.shapes import Item
from app.items.weights import BYTES_PER_TOKEN
from app.process.values import value

DIGEST_BYTES = 16

OWN_INPUT = 0
"""The first number of a reference to the turn's own input. The second is the position of an item or, from MOST_PLACES
on, a large medium of an item that is not sent in its stored form: see `_own_media`."""

MOST_PLACES = 100_000
"""Limit on the items of an input, and on the media of an item, so that a reference fits into 31 bits."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes that a call has sent for items of the history. Later calls refer to them."""

    data: str
    digest: bytes
    sources: Sequence[str]
    """The ids of the items that it holds: it goes with any of them."""
    media_id: UUID | None = None
    """The large medium to which it refers, instead of `data`."""


@value
class Envelope:
    """A body around its input items: model, instructions, tools and sampling parameters."""

    head: bytes = b""
    tail: bytes = b""

    @property
    def overhead_tokens(self) -> int:
        """The size of instructions and tools in tokens."""
        return len(self.tail) // BYTES_PER_TOKEN


@value
class Body:
    sent: bytes
    """The very bytes."""
    literals: Sequence[str]
    """The literal text: before, between and behind the references."""
    refs: Sequence[int]
    """Two numbers for each reference: a range of the thread's pieces, where new ones count down from -1; or
    OWN_INPUT and a position."""


def put_together(
    literals: Sequence[str] | None, refs: Sequence[int], own: Mapping[int, str | None], pieces: Mapping[int, str | None]
) -> str | None:
    """A body from its pieces: nothing but concatenation. None where something of it was erased, or the row was changed.

    Args:
        own: the turn's own input, by position; `pieces` those of its thread, by number.
    """
    if literals is None or len(refs) != 2 * (len(literals) - 1):
        return None
    parts = [literals[0]]
    for place, literal in enumerate(literals[1:]):
        first, last = refs[2 * place], refs[2 * place + 1]
        for number in (last,) if first == OWN_INPUT else range(first, last + 1):
            part = own.get(number) if first == OWN_INPUT else pieces.get(number)
            if part is None:
                return None
            parts.append(part)
        parts.append(literal)
    return "".join(parts)


def own_parts(texts: Mapping[int, str | None]) -> dict[int, str | None]:
    """Return a turn's own input as the argument of `put_together`: items by position, and their large media."""
    parts = dict(texts)
    for position, text in texts.items():
        if text is not None and len(text) > LARGE:
            parts |= {key: medium.decode() for key, medium in _own_media(position, orjson.loads(text))}
    return parts


def referenced_pieces(refs: Sequence[int]) -> tuple[int, int]:
    """The range of pieces that a body refers to; (0, 0) for none."""
    ranges = [(first, last) for first, last in zip(refs[::2], refs[1::2], strict=False) if first != OWN_INPUT]
    return (min(first for first, _ in ranges), max(last for _, last in ranges)) if ranges else (0, 0)


@dataclass(slots=True)
class Pieces:
    """The pieces of a thread, by digest: those that are there, and those that this turn adds."""

    known: Mapping[bytes, int] = field(default_factory=dict)
    digested: Callable[[bytes], bytes] = bytes
    """The function that each digest passes through before it is stored or looked up."""
    new: list[Piece] = field(default_factory=list)
    _numbers: dict[bytes, int] = field(default_factory=dict)

    def number(self, data: bytes, sources: Sequence[str], media_id: UUID | None = None) -> int:
        content = data if media_id is None else media_id.bytes
        digest = self.digested(hashlib.sha256(content).digest()[:DIGEST_BYTES])
        number = self.known.get(digest) or self._numbers.get(digest)
        if number is None:
            text = data.decode() if media_id is None else ""
            self.new.append(Piece(text, digest, sources, media_id))
            number = self._numbers[digest] = -len(self.new)
        return number


class Writer:
    """Puts a body together, piece by piece."""

    def __init__(self) -> None:
        self._sent: list[bytes] = []
        self._literals: list[list[bytes]] = [[]]
        self._refs: list[int] = []

    def literal(self, data: bytes) -> None:
        self._sent.append(data)
        self._literals[-1].append(data)

    def own(self, data: bytes, position: int) -> None:
        self._refer(data, OWN_INPUT, position)

    def piece(self, data: bytes, number: int) -> None:
        if self._refs and self._refs[-2] != OWN_INPUT and not self._literals[-1]:
            last = self._refs[-1]
            if (last > 0) == (number > 0) and abs(number) == abs(last) + 1:
                self._sent.append(data)
                self._refs[-1] = number  # The next of a range.
                return
        self._refer(data, number, number)

    def body(self) -> Body:
        return Body(b"".join(self._sent), [b"".join(parts).decode() for parts in self._literals], self._refs)

    def _refer(self, data: bytes, first: int, last: int) -> None:
        self._sent.append(data)
        self._refs += [first, last]
        self._literals.append([])


def write_body(
    envelope: Envelope,
    items: Sequence[Item],
    own: Sequence[Item],
    sources: Sequence[Sequence[str]] = (),
    pieces: Pieces | None = None,
    encoded: Sequence[bytes] | None = None,
) -> Body:
    """Return the body whose input array holds these items.

    Args:
        own: the turn's own input, as its items are kept.
        sources: for each item the ids of the history's items that it was made of, and of nothing else; none for one
            that has to do with the turn's own input.
        pieces: the thread's, where `sources` are given.
        encoded: the same items as JSON, each behind a comma, where they are encoded by now.
    """
    if pieces is None and (body := _own_body(envelope, items, own)) is not None:
        return body
    writer = Writer()
    writer.literal(envelope.head)
    mine: dict[bytes, deque[int]] = {}
    own_media: dict[bytes, int] = {}
    for position, item in enumerate(own):
        mine.setdefault(data := orjson.dumps(item), deque()).append(position)
        if len(data) > LARGE:
            own_media |= {medium: key for key, medium in _own_media(position, item)}
    for place, item in enumerate(items):
        data = orjson.dumps(item) if encoded is None else encoded[place][1:]
        if pieces is not None and sources[place]:
            if place:
                data = b"," + data if encoded is None else encoded[place]
            for part, media_id in _parts(item, data) if len(data) > LARGE else ((data, None),):
                writer.piece(part, pieces.number(part, sources[place], media_id))
            continue
        if place:
            writer.literal(b",")
        if positions := mine.get(data):
            writer.own(data, positions.popleft())
            continue
        for medium in map(orjson.dumps, large_in(item).values() if len(data) > LARGE else ()):
            if medium in own_media:
                before, _, data = data.partition(medium)
                writer.literal(before)
                writer.own(medium, own_media[medium])
        writer.literal(data)
    writer.literal(envelope.tail)
    return writer.body()


def _own_body(envelope: Envelope, items: Sequence[Item], own: Sequence[Item]) -> Body | None:
    """Return the body whose items are the turn's own input as it is kept, as in most chained calls; None for others."""
    parts = list(map(orjson.dumps, own))
    return _body_of(envelope, parts) if parts and parts == list(map(orjson.dumps, items)) else None


def body_of_input(envelope: Envelope, own: Sequence[InputItem], items: Sequence[Item]) -> Body:
    """Return the same as `write_body` for a turn that sends its own input alone.

    Items that are sent as they are kept, as most are, are not encoded again.
    """
    if own and len(items) == len(own) and all(map(_is_as_kept, items, own)):
        return _body_of(envelope, [item.encoded for item in own])
    return write_body(envelope, items, [item.data for item in own])


def _is_as_kept(item: Item, own: InputItem) -> bool:
    """Return True if an item has the fields of one of the own input: the very same values in the same order."""
    kept = own.data
    return [*item] == [*kept] and all(map(is_, item.values(), kept.values()))


def _body_of(envelope: Envelope, parts: Sequence[bytes]) -> Body:
    """Return the body whose items are the turn's own input, given as JSON."""
    refs = [OWN_INPUT] * 2 * len(parts)
    refs[1::2] = range(len(parts))
    literals = [envelope.head.decode(), *[","] * (len(parts) - 1), envelope.tail.decode()]
    return Body(envelope.head + b",".join(parts) + envelope.tail, literals, refs)


def _parts(item: Item, data: bytes) -> Iterator[tuple[bytes, UUID | None]]:
    """Yield the bytes of an item of the history in parts: its large media with their ids, and the rest."""
    for medium in large_in(item).values():
        if isinstance(medium, StoredMedium):
            before, stored, data = data.partition(orjson.dumps(medium))
            yield before, None
            yield stored, medium.id
    yield data, None


def _own_media(position: int, item: Item) -> Iterator[tuple[int, bytes]]:
    """Yield the second number of the reference and the JSON of each large medium in an item of the own input."""
    for place, medium in large_in(item).items():
        yield (1 + position) * MOST_PLACES + place, orjson.dumps(medium)

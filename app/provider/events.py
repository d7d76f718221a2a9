"""A provider's server-sent events as bytes: cut into events, never parsed into models."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

_EVENT = re.compile(rb'"type"\s*:\s*"([^"]+)"')


@dataclass(frozen=True, slots=True)
class RawEvent:
    type: bytes
    data: bytes
    """The JSON text."""

    def frame(self, number: int) -> bytes:
        """The event as a client gets it."""
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, self.type, self.data)


class Splitter:
    """Cuts a byte stream into events, wherever its chunks end. Comments (`:HTTP_STATUS/200`) are left out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[RawEvent]:
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n")
        *blocks, self._rest = (self._rest + chunk).split(b"\n\n")
        for block in blocks:
            event = _event(block)
            if event is not None:
                yield event


def _event(block: bytes) -> RawEvent | None:
    kind = b""
    data: list[bytes] = []
    for line in block.split(b"\n"):
        if line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            kind = line[6:].strip()
    if not data or data[0] == b"[DONE]":
        return None
    joined = data[0] if len(data) == 1 else b"\n".join(data)
    if not kind:
        found = _EVENT.search(joined)
        kind = found[1] if found else b"message"
    return RawEvent(kind, joined)


def encode(type_: str, fields: dict[str, object], number: int) -> RawEvent:
    """An event of our own."""
    data = orjson.dumps({"type": type_, **fields, "sequence_number": number})
    return RawEvent(type_.encode(), data)

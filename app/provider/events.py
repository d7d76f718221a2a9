"""Server-sent events: a provider's, read by the WHATWG's rules, and ours."""

from typing import Any, NamedTuple

import orjson

BOM = b"\xef\xbb\xbf"


class RawEvent(NamedTuple):
    name: bytes
    """Value of its `event:` line; empty without one."""
    data: bytes
    """Its `data:` lines, joined by newlines."""


class SSEDecoder:
    """Cuts a byte stream into events, wherever its chunks end.

    Lines end with LF, CR or CRLF; a byte order mark, comments and fields that are not known are passed over. What
    stands at the end without a blank line behind it counts, where the standard drops it: providers forget that line.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._name = b""
        self._data: list[bytes] = []
        self._begun = False
        self._after_cr = False

    @property
    def between_events(self) -> bool:
        """True if the next byte begins an event."""
        return self._begun and not (self._line or self._data or self._name or self._after_cr)

    def feed(self, chunk: bytes) -> list[RawEvent]:
        """The events that this chunk completes."""
        if not self._begun:
            chunk = self._without_bom(chunk)
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        if b"\r" in chunk:
            # An LF that the next chunk begins with belongs to this CR.
            self._after_cr = chunk[-1:] == b"\r"
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in chunk:
            # A long line is joined once, at its end, and not again with each chunk.
            if chunk:
                self._line.append(chunk)
            return []
        first, *lines = chunk.split(b"\n")
        lines.insert(0, b"".join([*self._line, first]) if self._line else first)
        rest = lines.pop()
        self._line = [rest] if rest else []
        events: list[RawEvent] = []
        data = self._data
        for line in lines:
            if line[:5] == b"data:":
                data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif line[:6] == b"event:":
                self._name = line[7:] if line[6:7] == b" " else line[6:]
            elif not line:
                if data:
                    events.append(RawEvent(self._name, data[0] if len(data) == 1 else b"\n".join(data)))
                    data.clear()
                self._name = b""
            elif line == b"data":
                data.append(b"")
            elif line == b"event":
                self._name = b""
        return events

    def end(self) -> list[RawEvent]:
        """The event that the stream's end completes, if there is one."""
        return self.feed(b"\n") + self.feed(b"\n")

    def _without_bom(self, chunk: bytes) -> bytes:
        chunk = b"".join([*self._line, chunk])
        self._line = []
        if len(chunk) < len(BOM) and BOM.startswith(chunk):
            self._line = [chunk] if chunk else []
            return b""
        self._begun = True
        return chunk.removeprefix(BOM)


def frame(type_: bytes, data: bytes, number: int) -> bytes:
    """An event as a client gets it.

    Args:
        data: JSON, on one line.
    """
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, type_, data)


def encoded(type_: str, fields: dict[str, Any], number: int) -> bytes:
    """The JSON of an event of our own."""
    return orjson.dumps({"type": type_, **fields, "sequence_number": number})


def own_frame(type_: str, fields: dict[str, Any], number: int) -> bytes:
    """An event of our own as a client gets it."""
    return frame(type_.encode(), encoded(type_, fields, number), number)


def data_of(sent: bytes) -> bytes:
    """The JSON of a frame of ours."""
    _, _, data = sent.partition(b"\ndata: ")
    return data.rstrip(b"\n")

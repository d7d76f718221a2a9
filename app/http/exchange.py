"""One request of an HTTP connection and its answer: uvicorn's, with two shortcuts past the ASGI messages."""

from contextvars import Context
from typing import Any

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

_valid_names: set[str] = set()
"""Names of headers that were checked: all of them are the service's own."""


class Exchange(RequestResponseCycle):
    standing = b""
    """`default_headers` as they are written."""
    context: Context
    """Context variables of a request that waits for the one before it."""

    def whole_body(self) -> bytes | None:
        """Take the body if it has arrived as a whole, None if it must be received. Most bodies come with their head."""
        if self.more_body or self.disconnected or self.response_complete or self.waiting_for_100_continue:
            return None
        self.flow.resume_reading()
        self.message_event.clear()
        body, self.body = bytes(self.body), bytearray()
        return body

    @property
    def is_writable(self) -> bool:
        """True if a whole answer can be written at once: none has begun, and the client reads what is sent to it."""
        return not (self.response_started or self.flow.write_paused or self.access_log)

    def respond(self, status: int, headers: dict[str, str], media_type: str, body: bytes) -> None:
        """Write a whole answer in one piece: the bytes that `send` writes for it. `is_writable` must be true.

        Not for HEAD, nor for a status without a body.

        Args:
            headers: without Content-Type, and without those that decide where the answer ends.

        Raises:
            RuntimeError: a header has a character that no header may have.
        """
        if self.disconnected:
            return
        lines = [f"{name.lower()}: {value}\r\n" for name, value in headers.items()]
        lines.append(f"content-length: {len(body)}\r\ncontent-type: {media_type}\r\n")
        lines.append("\r\n" if self.keep_alive else "connection: close\r\n\r\n")
        own = "".join(lines).encode("latin-1")
        self.response_started = True
        self.waiting_for_100_continue = False
        if not _valid_names.issuperset(headers):
            if HEADER_RE.search("".join(headers).encode("latin-1")):
                raise RuntimeError("Invalid HTTP header name.")
            _valid_names.update(headers)
        if HEADER_VALUE_RE.search("".join(headers.values()).encode("latin-1")):
            raise RuntimeError("Invalid HTTP header value.")
        self.response_complete = True
        self.transport.write(b"%b%b%b%b" % (STATUS_LINE[status], self.standing, own, body))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def exchange_of(callable_: Any) -> Exchange | None:
    """Return the exchange that an ASGI callable is a method of; None if it is another server's or a middleware's."""
    found = getattr(callable_, "__self__", None)
    return found if type(found) is Exchange else None

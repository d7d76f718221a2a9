"""The first door: what a connection may cost before anything is known of who is there.

uvicorn's protocol over httptools, with bounds: the head of a request has a largest size and a time to come in, and
there are no more connections than files for them.
"""

import asyncio
import re
import secrets
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import count
from typing import Any

import orjson
from structlog.contextvars import bind_contextvars
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app import capacity, metrics
from app.settings import Settings

LARGEST_HEAD_BYTES = 64 * 1024

closing = threading.Event()
"""Set when this process takes no more requests: a stream that has no end of its own ends."""

REQUEST_ID = b"x-request-id"
_GOOD_ID = re.compile(rb"[\w.:=/+-]{1,128}")
"""What a client may name its request by."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
"""What a browser is told of every answer: that it is what it says, stands in no frame, and names no page to others."""

_connected: Counter[str] = Counter()
"""How many connections each address has to this process."""

_of_process, _numbers = f"req_{secrets.token_hex(10)}".encode(), count(1)


def _new_id() -> bytes:
    return b"%b%012x" % (_of_process, next(_numbers))


class HttpDoor(HttpToolsProtocol):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        self._in_head = True
        self._patience: asyncio.TimerHandle | None = None
        self._refused = False
        self._address: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _bounds().connections:
            self._refuse(503, "This server has as many connections as it can have. Try again later.", "overloaded")
            return
        self._address = None if self.client is None else self.client[0]
        if self._address is not None:
            _connected[self._address] += 1
            if _connected[self._address] > _bounds().per_address and not _is_trusted(self._address):
                message = "Your address has as many connections as one may have. Use them again, or try again later."
                self._refuse(429, message, "too_many_connections")
                return
        self._patience = self.loop.call_later(_bounds().head_seconds, self._give_up)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head or self._refused:
            return
        if self._head_bytes > LARGEST_HEAD_BYTES:
            message = (
                f"The head of the request is larger than {LARGEST_HEAD_BYTES} bytes. Send fewer or shorter headers."
            )
            self._refuse(431, message, "request_head_too_large")
        elif self._head_bytes and self._patience is None:
            self._patience = self.loop.call_later(_bounds().head_seconds, self._give_up)

    def shutdown(self) -> None:
        closing.set()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        self._count_no_more()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        # Another protocol has the connection from now on, and says nothing of its end here.
        self._count_no_more()
        super().handle_websocket_upgrade()

    def _count_no_more(self) -> None:
        if self._address is not None:
            _connected[self._address] -= 1
            if not _connected[self._address]:
                del _connected[self._address]
            self._address = None

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._be_patient()
        given = next((value for name, value in self.headers if name == REQUEST_ID), None)
        request_id = given if given is not None and _GOOD_ID.fullmatch(given) else _new_id()
        # What is logged for this request, and by the turn that it begins, names it.
        bind_contextvars(request_id=request_id.decode())
        before = self.cycle
        super().on_headers_complete()
        if "path" not in self.scope:
            return  # It becomes a WebSocket, whose protocol reads the request again.
        # The application reads it after this: a slash at the end leads where the path without it does.
        if len(self.scope["path"]) > 1 and self.scope["path"].endswith("/"):
            self.scope["path"] = self.scope["path"].rstrip("/") or "/"
        if self.cycle is not None and self.cycle is not before:  # It is an ordinary request.
            self.cycle.default_headers = [*self.cycle.default_headers, *SECURITY_HEADERS, (REQUEST_ID, request_id)]

    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, f"{msg} It is not HTTP/1.1 as RFC 9112 has it.", "invalid_http")

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        if not self.transport.is_closing():
            self._refuse(408, "The head of the request did not come in time.", "request_timeout")

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer, and close the connection: nothing more of it is read."""
        self._refused = True
        metrics.of(metrics.REFUSED_REQUESTS, str(status), code).inc()
        type_ = "server_error" if status >= 500 else "invalid_request_error"
        body = orjson.dumps({"error": {"message": message, "type": type_, "param": None, "code": code}})
        head = [
            STATUS_LINE[status],
            b"content-type: application/json\r\nconnection: close\r\nretry-after: 1\r\n",
            b"%b: %b\r\n" % (REQUEST_ID, _new_id()),
            b"content-length: %d\r\n\r\n" % len(body),
        ]
        self.transport.write(b"".join([*head, body]))
        self.transport.close()


@dataclass(frozen=True, slots=True)
class _Bounds:
    connections: int
    per_address: int
    head_seconds: float
    trusted: Sequence[IPv4Network | IPv6Network]


@cache
def _bounds() -> _Bounds:
    """The bounds of this process."""
    settings = Settings()
    most = capacity.most_connections(settings.database_pool_size)
    trusted = [ip_network(each.strip(), strict=False) for each in (settings.trusted_proxies or "").split(",") if each]
    return _Bounds(most, settings.connections_per_address or max(1, most // 2), settings.head_seconds, trusted)


def _is_trusted(address: str) -> bool:
    """Whether an address is a proxy's, behind which there are many."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in _bounds().trusted)

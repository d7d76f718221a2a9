"""The HTTP/1.1 door: message framing checked as RFC 9112 requires, and bounds on an unauthenticated connection.

uvicorn's protocols with bounds. The bytes of a request outside its body (head, trailers, chunk extensions), its fields,
the time for its head, the requests in a pipeline and the connections of an address are all limited. Trailers are
counted and discarded: they never become headers.
"""

import asyncio
import re
import secrets
import threading
from collections import Counter
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import chain, count
from typing import Any, NoReturn
from urllib.parse import unquote

import httptools
import orjson
from structlog.contextvars import bind_contextvars
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from app.http import capacity
from app.http.exchange import Exchange
from app.http.fields import fields_of
from app.settings import Settings
from app.telemetry import metrics

LARGEST_HEAD_BYTES = 64 * 1024
"""Limit on the bytes of a request outside its body: head, trailers and chunk extensions together."""

LONGEST_PATH_BYTES = 8 * 1024
"""Limit on a path, which uvicorn decodes before anything else sees it."""

MOST_FIELDS = 100
"""Limit on the fields of a request, headers and trailers together."""

MOST_PIPELINED = 64
"""Limit on the requests of a connection that wait for the one before them."""

MOST_FRAMES = 10_000
"""Limit on the frames of a WebSocket that come one after the other and complete no message."""

UNREAD_SECONDS = 5.0
"""Time in which the client of a connection that is being closed has to read something."""

PIECE_BYTES = 16 * 1024
"""Bytes of a WebSocket whose frames are parsed at a time."""

CHUNK_BYTES = 16
"""Framing that each chunk may have uncounted: its size, and the ends of its two lines."""

_HOST = re.compile(rb"(?:\[[0-9A-Za-z:.%_~-]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
"""A Host field (RFC 9110, section 7.2): a name or an address, and a port. It may be empty."""

closing = threading.Event()
"""Set when this process takes no more requests: a stream that has no end of its own ends."""

REQUEST_ID = b"x-request-id"
_GOOD_ID = re.compile(rb"[\w.:=/+-]{1,128}")
"""Format of a request id that a client may send."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
"""Security headers of every answer."""

_connected: Counter[str] = Counter()
"""Number of connections of each address to this process."""

_of_process, _numbers = f"req_{secrets.token_hex(10)}".encode(), count(1)


def _new_id() -> bytes:
    return b"%b%012x" % (_of_process, next(_numbers))


@dataclass(frozen=True, slots=True)
class Refused:
    """The error that a request gets before its connection is closed."""

    status: int
    message: str
    code: str


TOO_LARGE = Refused(
    431,
    f"The request has more than {LARGEST_HEAD_BYTES} bytes or {MOST_FIELDS} fields outside its body. "
    "Send fewer or shorter headers.",
    "request_head_too_large",
)


class _Stopped(Exception):
    """Raised within a callback of the parser to end its work."""


def _written(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return uvicorn's headers of every answer, and those of `SECURITY_HEADERS`, as they are written.

    uvicorn makes a new list each second, for the date.
    """
    global _standing
    if _standing[0] is not headers:
        _standing = headers, b"".join([b"%b: %b\r\n" % field for field in (*headers, *SECURITY_HEADERS)])
    return _standing[1]


_standing: tuple[list[tuple[bytes, bytes]], bytes] = [], b""


class HttpDoor(HttpToolsProtocol):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._in_head = True
        self._begun = False
        """True between the first byte of a request line and the end of its head."""
        self._head_bytes = 0
        """Bytes of the request outside its body, as far as whole reads show them."""
        self._field_bytes = 0
        """Bytes of the request target and of fields that are complete: exact, wherever reads begin and end."""
        self._fields = 0
        self._body_bytes = self._chunks = 0
        """Bytes of the current read."""
        self._ended = False
        """True if a request ended within the current read."""
        self._patience: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle
        """Runs while writing is paused."""
        self._refused = False
        self._refusal: Refused | None = None
        self._address: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _bounds().connections:
            message = "This server has as many connections as it can have. Try again later."
            self._refuse(Refused(503, message, "overloaded"))
            return
        self._address = None if self.client is None else self.client[0]
        _count(self._address)
        if (
            self._address is not None
            and _connected[self._address] > _bounds().per_address
            and not _is_trusted(self._address)
        ):
            message = "Your address has as many connections as one may have. Use them again, or try again later."
            self._refuse(Refused(429, message, "too_many_connections"))
            return
        self._patience = self.loop.call_later(_bounds().head_seconds, self._give_up)

    def data_received(self, data: bytes) -> None:
        while data and not self._refused and self.transport.get_protocol() is self:
            # A head is read up to its limit and no further, so that the limit is exact.
            room = LARGEST_HEAD_BYTES - self._head_bytes if self._in_head else len(data)
            self._read(data[:room])
            data = data[room:]

    def _read(self, data: bytes) -> None:
        self._body_bytes = self._chunks = 0
        self._ended = False
        super().data_received(data)
        if self._body_bytes and self.cycle is not None and self.cycle.more_body:
            self.cycle.message_event.set()  # A body that is complete is told of by `on_message_complete`.
        if self._refused:
            return
        if self._ended:
            self._head_bytes = 0  # What belongs to the next request is not known; its fields are counted exactly.
        else:
            outside_body = len(data) - self._body_bytes - CHUNK_BYTES * self._chunks
            self._head_bytes = max(0, self._head_bytes + outside_body)
        if self._head_bytes >= LARGEST_HEAD_BYTES + (not self._in_head):
            self._refuse(TOO_LARGE)
        elif self._patience is None and (self._begun or (self._in_head and self._head_bytes)):
            self._patience = self.loop.call_later(_bounds().head_seconds, self._give_up)

    def shutdown(self) -> None:
        closing.set()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        if self.flow.write_paused:
            self._unread.cancel()
        _count_no_more(self._address)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        # Another protocol has the connection from now on, and counts it.
        _count_no_more(self._address)
        super().handle_websocket_upgrade()

    def _should_upgrade(self) -> bool:
        return self.parser.get_method() == b"GET" and super()._should_upgrade()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        self._unread.cancel()
        super().resume_writing()

    def _watch_reading(self) -> None:
        """Abort a connection that is being closed while its client reads nothing, which would otherwise stay open."""
        left = self.transport.get_write_buffer_size()

        def check() -> None:
            if self.transport.is_closing() and self.transport.get_write_buffer_size() >= left:
                self.transport.abort()
            else:
                self._watch_reading()

        self._unread = self.loop.call_later(UNREAD_SECONDS, check)

    def on_message_begin(self) -> None:
        self._begun = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._field_bytes += len(url)
        if self._field_bytes > LARGEST_HEAD_BYTES:
            self._stop(TOO_LARGE)
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MOST_FIELDS:
            self._stop(TOO_LARGE)
        if self._in_head:
            self.headers.append((name.lower(), value))  # Their bytes are counted together: see `_check_bytes`.
        else:
            self._check_bytes(((name, value),))

    def _check_bytes(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """Count fields. Stop the connection if those of the request are longer than they may be."""
        self._field_bytes += sum(map(len, chain.from_iterable(fields))) + 4 * len(fields)
        if self._field_bytes > LARGEST_HEAD_BYTES:
            self._stop(TOO_LARGE)

    def on_headers_complete(self) -> None:
        parser, scope = self.parser, self.scope
        self._check_bytes(self.headers)
        version = parser.get_http_version()
        fields = self._checked_head(version)
        self._in_head = self._begun = False
        if self._patience is not None:
            self._be_patient()
        given = fields.get(REQUEST_ID)
        request_id = given if given is not None and _GOOD_ID.fullmatch(given) else _new_id()
        # What is logged for this request, and by the turn that it begins, names it.
        bind_contextvars(request_id=request_id.decode())
        scope["method"] = parser.get_method().decode()
        scope["http_version"] = version
        if parser.should_upgrade() and self._should_upgrade():
            return  # A WebSocket, whose protocol reads the head again.
        if parser.should_upgrade() and (b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0"):
            # The parser skips the body of such a request, and would take it for the next one.
            message = "A request that asks for another protocol (Upgrade) cannot have a body. Leave out the Upgrade."
            self._stop(Refused(400, message, "invalid_http"))
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + url.path if self.root_path else url.path
        scope["query_string"] = url.query or b""
        before, defaults = self.cycle, self.server_state.default_headers
        self.cycle = cycle = Exchange(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=[*defaults, *SECURITY_HEADERS, (REQUEST_ID, request_id)],
            message_event=asyncio.Event(),
            expect_100_continue=b"expect" in fields and self._expects_continue(fields),
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        cycle.standing = b"%b%b: %b\r\n" % (_written(defaults), REQUEST_ID, request_id)
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            # It begins while the request before it ends, and must not be logged as that one's.
            cycle.context = copy_context()
            self.pipeline.appendleft((cycle, self.app))

    def _checked_head(self, version: str) -> dict[bytes, bytes]:
        """Return the fields of the head. Stop the connection if the head breaks a rule of RFC 9112."""
        scope: Any = self.scope
        fields = fields_of(scope)
        if b"cookie" in fields:
            # FastAPI parses the cookies of each request. For a quoted value, Python takes quadratic time: half a
            # minute for 60 kB.
            self.headers = scope["headers"] = [
                (name, value.replace(b'"', b"") if name == b"cookie" else value) for name, value in self.headers
            ]
            fields = fields_of(scope)
        hosts = self._values(fields, b"host")
        codings = self._values(fields, b"transfer-encoding") if b"transfer-encoding" in fields else []
        if len(self.url) > LONGEST_PATH_BYTES and len(self.url.partition(b"?")[0]) > LONGEST_PATH_BYTES:
            message = f"The path of the request is longer than {LONGEST_PATH_BYTES} bytes. Shorten it."
            self._stop(Refused(414, message, "request_head_too_large"))
        if version not in ("1.0", "1.1"):
            self._stop(Refused(505, "Only HTTP/1.1 and HTTP/1.0 are supported.", "http_version_not_supported"))
        if len(hosts) != 1 and (hosts or version == "1.1"):
            message = f"The request has {len(hosts)} Host headers. Send exactly one (RFC 9112, section 3.2)."
            self._stop(Refused(400, message, "invalid_http"))
        if hosts and not _HOST.fullmatch(hosts[0]):
            message = "The Host header is not a host with an optional port (RFC 9112, section 3.2)."
            self._stop(Refused(400, message, "invalid_http"))
        if codings and version == "1.0":
            message = "HTTP/1.0 has no Transfer-Encoding (RFC 9112, section 6.1). Send a Content-Length."
            self._stop(Refused(400, message, "invalid_http"))
        if codings and [each.lower() for each in codings] != [b"chunked"]:
            message = "The only supported Transfer-Encoding is 'chunked'. Compress the body with Content-Encoding."
            self._stop(Refused(501, message, "unsupported_encoding"))
        if len(self.pipeline) >= MOST_PIPELINED:
            message = f"More than {MOST_PIPELINED} requests of this connection wait. Read their answers first."
            self._stop(Refused(429, message, "rate_limit_exceeded"))
        return fields

    def _values(self, fields: dict[bytes, bytes], name: bytes) -> list[bytes]:
        """Return the values of all fields with a name."""
        if name not in fields:
            return []
        if len(fields) == len(self.headers):
            return [fields[name]]
        return [value for each, value in self.headers if each == name]

    def _expects_continue(self, fields: dict[bytes, bytes]) -> bool:
        return b"100-continue" in [each.lower() for each in self._values(fields, b"expect")]

    def on_chunk_header(self) -> None:
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        cycle = self.cycle
        if (self.parser.should_upgrade() and self._should_upgrade()) or cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self._in_head = self._ended = True
        self._field_bytes = self._fields = 0
        if self._patience is not None:
            self._be_patient()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.pipeline:
            waiting: Any = self.pipeline[-1][0]
            waiting.context.run(super().on_response_complete)
        else:
            super().on_response_complete()
        if not self._in_head and self.cycle.response_complete and self._patience is None:
            # The answer did not need the whole body. What is left of it has a time limit, too.
            self._patience = self.loop.call_later(_bounds().head_seconds, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        invalid = Refused(400, f"{msg} It is not HTTP/1.1 as RFC 9112 has it.", "invalid_http")
        self._refuse(self._refusal or invalid)

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        if not self.transport.is_closing():
            self._refuse(Refused(408, "The head of the request did not come in time.", "request_timeout"))

    def _stop(self, refused: Refused) -> NoReturn:
        """Refuse the request from within a callback of the parser: uvicorn then calls `send_400_response`."""
        self._refusal = refused
        raise _Stopped

    def _refuse(self, refused: Refused) -> None:
        """Answer with the error where an answer is due, and close the connection. Nothing more of it is read."""
        self._refused = True
        self._be_patient()
        metrics.of(metrics.REFUSED_REQUESTS, str(refused.status), refused.code).inc()
        cycle = self.cycle
        if cycle is not None and self._in_head and not cycle.response_complete:
            # Earlier requests of the connection are answered first; the one at fault, behind them, is dropped.
            cycle.keep_alive = False
            return
        if cycle is not None and not self._in_head:
            if self.pipeline or cycle.response_started:
                # A second answer to the same request would be taken for the answer to the next one.
                self.transport.close()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(_answer(refused))
        self.transport.close()


class WebSocketDoor(WebSocketsSansIOProtocol):
    """uvicorn's protocol of a WebSocket, counted for its address, with an answer to every handshake that fails."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._address = None if self.client is None else self.client[0]
        self._frames_alone = 0
        """Frames since the last whole message: fragments, pings and pongs."""
        _count(self._address)

    def connection_lost(self, exc: Exception | None) -> None:
        _count_no_more(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for begin in range(0, len(data), PIECE_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[begin : begin + PIECE_BYTES])
        if self.conn.handshake_exc is not None and not self.close_sent:
            # The library's own limits on a handshake are narrower, and it answers nothing where they are passed.
            message = "The WebSocket handshake has a body, or a line of more than 8 kB. Leave out what is not needed."
            self.transport.write(_answer(Refused(400, message, "invalid_http")))
            self.close_sent = True
            self.transport.close()

    def handle_cont(self, event: Frame) -> None:
        self._count_frame()
        super().handle_cont(event)

    def handle_ping(self) -> None:
        self._count_frame()
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        self._count_frame()
        super().handle_pong(event)

    def send_receive_event_to_app(self) -> None:
        self._frames_alone = 0
        super().send_receive_event_to_app()

    def _count_frame(self) -> None:
        """Close a connection with too many frames that complete no message: each costs time, and memory until it is
        answered or complete."""
        self._frames_alone += 1
        if self._frames_alone > MOST_FRAMES and not self.transport.is_closing():
            self.transport.abort()

    def shutdown(self) -> None:
        if not self.handshake_complete and not self.close_sent:
            # uvicorn would answer with a 500 in plain text.
            self.transport.write(_answer(Refused(503, "This worker is stopping. Connect again.", "service_stopping")))
            self.close_sent = True
        super().shutdown()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # Else uvicorn logs an error for each handshake that is denied.


def _count(address: str | None) -> None:
    if address is not None:
        _connected[address] += 1


def _count_no_more(address: str | None) -> None:
    if address is not None:
        _connected[address] -= 1
        if not _connected[address]:
            del _connected[address]


def _answer(refused: Refused) -> bytes:
    type_ = "server_error" if refused.status == 503 else "invalid_request_error"
    error = {"message": refused.message, "type": type_, "param": None, "code": refused.code}
    body = orjson.dumps({"error": error})
    head = [
        STATUS_LINE[refused.status],
        b"content-type: application/json\r\nconnection: close\r\nretry-after: 1\r\n",
        b"%b: %b\r\n" % (REQUEST_ID, _new_id()),
        b"content-length: %d\r\n\r\n" % len(body),
    ]
    return b"".join([*head, body])


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
    """Return True if an address is a trusted proxy's, behind which there are many clients."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in _bounds().trusted)

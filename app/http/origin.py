"""Requests to one server over kept connections: HTTP/1.1, one request at a time on each.

aiohttp opens the connections (names, addresses, TLS, proxies, the address check of app/http/egress.py). Requests and
answers then pass without its request and response objects, which cost several times as much as sending and parsing.
No request is sent twice: the exception tells the caller whether it may have arrived.
"""

import asyncio
import re
import zlib
from collections import deque
from collections.abc import Mapping

import aiohttp
import httptools
import structlog
from aiohttp.connector import Connection
from yarl import URL

from app.http import egress
from app.http.egress import HEAD_BYTES, InvalidAnswer

log = structlog.get_logger()

IDLE_SECONDS = 30.0
"""The longest time that an idle connection is kept."""

MOST_FIELDS = 128
"""Limit on the header fields of an answer."""

FRAMED_SHARE = 2
"""Limit on an answer's size as it is sent, in chunks, as a multiple of the limit on its content."""

UNREAD_BYTES = 512 * 1024
"""Unread bytes of a stream at which no more is received until they are taken."""

_CONTROL = re.compile("[\0\r\n]")


class TooLarge(OSError):
    """An answer that is longer than it may be."""


class Answer:
    """An answer as it arrives, read whole or piece by piece. `end` must be called.

    Attributes:
        status: 0 until the head has arrived. Interim answers (1xx) are skipped.
        fields: the fields of the head, by their names in lower case.
    """

    def __init__(self, connection: "_Connection", expires: float, silence: float | None) -> None:
        self.status = 0
        self.fields: dict[bytes, bytes] = {}
        self.complete = False
        self._connection = connection
        self._origin = connection.origin
        self._loop = connection.origin.loop
        self._error: OSError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._whole = False
        self._blocks: list[bytes] = []
        self._size = self._unread = 0
        self._left = HEAD_BYTES
        self._unpacked: zlib._Decompress | None = None
        self._has_ended = self._keeps_alive = self._has_surplus = False
        # The parser's callbacks. Fields and pieces of the body are collected without a call in Python.
        self._raw_fields: dict[bytes, bytes] = {}
        self.on_header = self._raw_fields.__setitem__
        self._pieces: list[bytes] = []
        self._own_pieces = 0
        self.on_body = self._pieces.append
        # One parser for each answer: a trailer that a parser still holds must not reach the next answer.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(  # As lenient as aiohttp's.
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._silence = silence
        self._expires = expires
        self._paused = False
        self._timer = self._loop.call_at(expires, self._expire)

    async def head(self) -> None:
        """Wait until `status` and `fields` are known.

        Raises:
            OSError: the answer is not valid HTTP, or longer than it may be, or the connection was closed.
            TimeoutError: it did not arrive in time.
        """
        while not self.status:
            await self._more()

    async def whole(self) -> bytes:
        """Return the body, or what is left of it, which must come in the time that is left. Raises as `head` does."""
        self._whole = True
        if self._paused:
            self.resume()
        self._silence = None
        while not self.complete:
            await self._more()
        return await self.read()

    async def read(self) -> bytes:
        """Return what has arrived since the last call; nothing at the end. Raises as `head` does."""
        while not self._blocks and not self.complete:
            await self._more()
        blocks = self._blocks
        content = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        blocks.clear()
        self._unread = 0
        if self._paused:
            self.resume()
        return content

    def pause(self) -> None:
        """Leave what comes to the kernel. The provider's silence is not counted meanwhile."""
        self._paused = True
        if not self._connection.transport.is_closing():
            self._connection.transport.pause_reading()

    def resume(self) -> None:
        """Receive again."""
        self._paused = False
        self._expires = self._loop.time() + (self._silence or 0)
        if not self._connection.transport.is_closing():
            self._connection.transport.resume_reading()

    def end(self) -> None:
        """Keep the connection for the next request if the answer is complete, else close it."""
        self._timer.cancel()
        self._parser = None
        connection, transport = self._connection, self._connection.transport
        connection.answer = None
        if (
            self.complete
            and self._keeps_alive
            and not (self._has_surplus or self._paused or transport.is_closing())
            and not transport.get_write_buffer_size()  # It answered before it was asked the whole.
        ):
            self._origin.keep(connection)
        else:
            transport.abort()  # To close waits until the server has read the request, and it may never do so.

    def received(self, data: bytes) -> None:
        """Parse what the connection has received."""
        if self._parser is None or self.complete or self._error is not None:
            self._has_surplus = True
            return
        self._left -= len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._has_surplus = True
            if not self._has_ended:
                self.fail(InvalidAnswer("the answer is not valid HTTP"))
        if self._left < 0:
            log.warning("an answer is longer than it may be; its connection is closed")
            self.fail(ConnectionAbortedError("the answer is longer than it may be"))
        if self._pieces and self.status:
            self._collect()
        if self._has_ended:
            self._complete()
        elif not self._whole:
            self._wake()
        if self._silence is not None and self.status:
            self._expires = self._loop.time() + self._silence

    def closed(self, error: Exception | None) -> None:
        """End with the connection: complete if neither a length nor chunks say where the body ends."""
        is_framed = b"content-length" in self.fields or b"chunked" in self.fields.get(b"transfer-encoding", b"").lower()
        if error is None and self.status and not is_framed:
            self._complete()
        self.fail(error if isinstance(error, OSError) else ConnectionResetError("the connection was closed"))

    def fail(self, error: OSError) -> None:
        """End an answer that is not complete. What has arrived of it can still be read."""
        if not self.complete and self._error is None:
            self._error = error
            self._wake()

    def on_message_begin(self) -> None:
        if self._has_ended:
            self._has_surplus = True  # A second answer to one request.

    def on_headers_complete(self) -> None:
        if self.status or self._parser is None or (status := self._parser.get_status_code()) < 200:
            self._raw_fields.clear()
            return
        self.status = status
        self._pieces.clear()  # They belong to an interim answer.
        self.fields = {name.lower(): value for name, value in self._raw_fields.items()}
        self._left += FRAMED_SHARE * self._origin.most_bytes
        if len(self.fields) > MOST_FIELDS:
            self.fail(InvalidAnswer("the answer has too many header fields"))
        if self.fields.get(b"content-encoding", b"").lower() in (b"gzip", b"deflate"):  # It was asked for as it is.
            self._unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def on_message_complete(self) -> None:
        if self.status and not self._has_ended and self._parser is not None:
            self._has_ended = True
            self._own_pieces = len(self._pieces)
            self._keeps_alive = self._parser.should_keep_alive()

    def _collect(self) -> None:
        """Join the pieces of the body that have arrived together, unpack and count them."""
        pieces = self._pieces
        if self._has_surplus and self._has_ended:
            del pieces[self._own_pieces :]
        block = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        left = self._origin.most_bytes - self._size
        if self._unpacked is not None:
            try:
                block = b"" if self._unpacked.eof else self._unpacked.decompress(block, left + 1)
            except zlib.error:
                self.fail(InvalidAnswer("the answer is not packed as its head says"))
                return
        self._size += len(block)
        if len(block) > left:
            self.fail(TooLarge(f"the answer is larger than {self._origin.most_bytes} bytes"))
            return
        if block:
            self._blocks.append(block)
        self._unread += len(block)
        if self._unread > UNREAD_BYTES and not (self._whole or self._paused):
            self.pause()

    def _complete(self) -> None:
        if self._unpacked is not None and not self._unpacked.eof and self._size:
            self.fail(InvalidAnswer("the answer is not packed as its head says"))
        if self._error is None:
            self.complete = True
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _expire(self) -> None:
        """Fail when the time is over. Each sign of life of a stream moves the time, and not the timer."""
        if self._paused:
            self._expires = self._loop.time() + (self._silence or 0)
        if self._expires > self._loop.time():
            self._timer = self._loop.call_at(self._expires, self._expire)
        else:
            self.fail(TimeoutError())


class _Connection(asyncio.Protocol):
    """A connection of an origin. What comes while nothing has been asked for closes it."""

    def __init__(self, origin: "Origin", opened: Connection, transport: asyncio.Transport) -> None:
        self.origin = origin
        self.transport = transport
        self.answer: Answer | None = None
        self.idle_since = 0.0
        self._opened = opened
        self._opener = opened.protocol

    def data_received(self, data: bytes) -> None:
        if self.answer is None:
            self.transport.abort()
        else:
            self.answer.received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.origin.connections.discard(self)
        self._opened.close()
        if self._opener is not None:
            self._opener.connection_lost(error)  # The connector waits for it when it is closed.
        if self.answer is not None:
            self.answer.closed(error)

    def close(self) -> None:
        if self.answer is not None:
            self.answer.fail(ConnectionAbortedError("the connection was closed"))
        self.transport.abort()


class Origin:
    """A server that one account calls with `POST`."""

    def __init__(
        self,
        connector: egress.Connector,
        base_url: str,
        headers: Mapping[str, str],
        *,
        proxy: str | None,
        connect_seconds: float,
        most_bytes: int,
    ) -> None:
        """Args:
        headers: of every request.
        most_bytes: limit on the body of an answer.
        """
        self.loop = asyncio.get_running_loop()
        self.most_bytes = most_bytes
        self.connections: set[_Connection] = set()
        self._connector = connector
        self._timeout = aiohttp.ClientTimeout(sock_connect=connect_seconds)
        self._base_url = base_url
        self._headers = headers
        self._proxy = None if proxy is None else URL(proxy)
        self._fields = b""
        self._heads: dict[str, bytes] = {}
        self._idle: deque[_Connection] = deque()
        self._sweeper: asyncio.TimerHandle | None = None

    async def send(
        self, path: str, body: bytes, headers: Mapping[str, str], *, seconds: float, silence: float | None = None
    ) -> Answer:
        """Send a request, and return the answer that is to come.

        Args:
            path: what follows the base URL.
            headers: beside those of every request.
            seconds: time limit of the connection and the answer; where `silence` is given, of its head.
            silence: time limit of each pause after the head.

        Raises:
            aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError: no connection could be made.
            InvalidAnswer: the server spoke before it was asked.
            TimeoutError: the time was over before there was a connection.
            ValueError: a header would end its line.
        """
        fields = _fields(headers) if headers else b""
        expires = self.loop.time() + seconds
        connection = self._take() or await self._connect(expires)
        head = self._heads.get(path) or self._head(path)
        answer = connection.answer = Answer(connection, expires, silence)
        connection.transport.writelines((b"%b%bContent-Length: %d\r\n\r\n" % (head, fields, len(body)), body))
        return answer

    def keep(self, connection: _Connection) -> None:
        """Keep a connection for the next request."""
        connection.idle_since = self.loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(IDLE_SECONDS, self._sweep)

    def close(self) -> None:
        """Close all connections. Answers that are not complete fail."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self.connections):
            connection.close()

    def _take(self) -> _Connection | None:
        """Return the connection that was used last, if one is left that can be used."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                if connection.idle_since + IDLE_SECONDS > self.loop.time():
                    return connection
                connection.close()
        return None

    def _sweep(self) -> None:
        while self._idle and self._idle[0].idle_since + IDLE_SECONDS <= self.loop.time():
            self._idle.popleft().close()
        self._sweeper = self.loop.call_later(IDLE_SECONDS, self._sweep) if self._idle else None

    async def _connect(self, expires: float) -> _Connection:
        _fields(self._headers)  # Raises before there is a connection.
        # Never sent: it says where to connect to, and which fields a request has.
        request = aiohttp.ClientRequest("POST", self._url(), headers=self._headers, proxy=self._proxy, loop=self.loop)
        async with asyncio.timeout_at(expires):
            try:
                opened = await self._connector.connect(request, [], self._timeout)
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError("the connection was not made in time") from error
        transport = opened.transport
        if transport is None or opened.protocol is None or opened.protocol.should_close:
            opened.close()
            raise InvalidAnswer("the server spoke before it was asked")
        connection = _Connection(self, opened, transport)
        transport.set_protocol(connection)
        self.connections.add(connection)
        request.headers.popall("Content-Length", None)
        self._fields = _fields(request.headers)
        return connection

    def _head(self, path: str) -> bytes:
        """Return what the heads of all requests to a path begin with, and keep it. There has been a connection."""
        url = self._url(path)
        target = str(url) if self._proxy is not None and url.scheme == "http" else url.raw_path_qs
        self._heads[path] = f"POST {target} HTTP/1.1\r\n".encode() + self._fields
        return self._heads[path]

    def _url(self, path: str = "") -> URL:
        try:
            return URL(self._base_url + path)
        except ValueError as error:
            raise aiohttp.InvalidURL(self._base_url) from error


def _fields(headers: Mapping[str, str]) -> bytes:
    """Return header fields as they are sent.

    Raises:
        ValueError: one would end its line.
    """
    for text in (*headers.keys(), *headers.values()):
        if _CONTROL.search(text):
            raise ValueError("A header field must not contain a line break or NUL.")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()

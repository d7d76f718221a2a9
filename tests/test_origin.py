"""Connections to a provider, against servers that break every rule of HTTP."""

import asyncio
import base64
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from cryptography import x509

from app.http import egress, origin
from app.http.origin import Answer, Origin, TooLarge
from app.provider.client import Provider, ProviderError
from app.provider.permit import Permit
from tests.certificates import self_signed

OK = b"HTTP/1.1 200 OK\r\n"
PLAIN = OK + b"Content-Length: 2\r\n\r\nok"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
MOST = 100_000

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Server that reads requests whole and answers each with the next of `answers`; after the last one it waits.

    Attributes:
        requests: the connection's number and the request, for each.
    """

    def __init__(self, *answers: bytes, closes: bool = False) -> None:
        self._answers = list(answers)
        self._closes = closes
        self.requests: list[tuple[int, bytes]] = []
        self.connections = self.left = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append((number, head + await reader.readexactly(length)))
                if self._answers:
                    writer.write(self._answers.pop(0))
                    await writer.drain()
                    if self._closes and not self._answers:
                        return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left += 1
        finally:
            writer.close()


@asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def calling(
    base_url: str, *, proxy: str | None = None, public_only: bool = False, connect_seconds: float = 5
) -> AsyncIterator[Origin]:
    connector = egress.Connector(public_only=public_only, answer_bytes=MOST, limit=0)
    called = Origin(
        connector, base_url, {"Authorization": "Bearer k"}, proxy=proxy, connect_seconds=connect_seconds,
        most_bytes=MOST,
    )  # fmt: skip
    try:
        yield called
    finally:
        called.close()
        await connector.close()


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[Origin]:
    async with serving(handler) as port, calling(f"http://127.0.0.1:{port}/v1") as called:
        yield called


async def whole(
    called: Origin, body: bytes = b"{}", *, seconds: float = 5, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    answer = await called.send("/responses", body, headers or {}, seconds=seconds)
    try:
        content = await answer.whole()
    finally:
        answer.end()
    return answer.status, content


@asynccontextmanager
async def stream(called: Origin, *, silence: float = 5) -> AsyncIterator[Answer]:
    answer = await called.send("/responses", b"{}", {}, seconds=silence, silence=silence)
    try:
        await answer.head()
        yield answer
    finally:
        answer.end()


async def test_a_request_is_sent_as_aiohttp_sends_it_and_its_connection_used_again() -> None:
    server = Server(PLAIN, PLAIN, PLAIN)
    async with serving(server) as port:
        url = f"http://127.0.0.1:{port}/v1"
        fields = {"Authorization": "Bearer k"}
        async with (
            aiohttp.ClientSession(headers=fields, skip_auto_headers=["Content-Type"]) as session,
            session.post(url + "/responses", data=b'{"a": 1}', headers={"x-a": "b"}) as answer,
        ):
            assert await answer.read() == b"ok"
        async with calling(url) as called:
            assert await whole(called, b'{"a": 1}', headers={"x-a": "b"}) == (200, b"ok")
            assert await whole(called, b'{"b": 1}') == (200, b"ok")
    theirs, ours = (request.lower().split(b"\r\n") for _, request in server.requests[:2])
    assert (ours[0], sorted(ours)) == (theirs[0], sorted(theirs))
    assert [number for number, _ in server.requests] == [1, 2, 2]
    assert server.requests[2][1].endswith(b'Content-Length: 8\r\n\r\n{"b": 1}')


WHOLE = {
    "with a length": PLAIN,
    "in chunks": CHUNKED + b"1\r\no\r\n1;name=value\r\nk\r\n0\r\n\r\n",
    "in chunks with trailers": CHUNKED + b"2\r\nok\r\n0\r\nX-Checksum: 5\r\n\r\n",
    "after interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\n" + PLAIN,
    "after an interim answer with a body": b"HTTP/1.1 150 So far\r\nContent-Length: 3\r\n\r\nnot" + PLAIN,
    "packed": OK + b"Content-Encoding: GZIP\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(b"ok"))
    + gzip.compress(b"ok"),
    "in lines without carriage returns": PLAIN.replace(b"\r\n", b"\n"),
}  # fmt: skip


@pytest.mark.parametrize("how", WHOLE)
@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_an_answer_is_read_whole_wherever_it_is_cut(how: str, step: int) -> None:
    data = WHOLE[how]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"{}")
            for start in range(0, len(data), step):
                writer.write(data[start : start + step])
                await asyncio.sleep(0)
        writer.close()

    async with answering(handle) as called:
        assert await whole(called) == (200, b"ok")
        assert len(called.connections) == 1
        async with stream(called) as answer:
            read = b""
            while chunk := await answer.read():
                read += chunk
        assert read == b"ok"


@pytest.mark.parametrize(
    "version",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        OK + b"\r\n",
        OK + b"Connection: close\r\n\r\n",
        OK + b"Transfer-Encoding: identity\r\n\r\n",
    ],
)
async def test_a_body_without_a_length_ends_with_its_connection(version: bytes) -> None:
    server = Server(version + b"ok", closes=True)
    async with answering(server) as called:
        assert await whole(called) == (200, b"ok")
        assert not called.connections


INVALID = {
    "both a length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "a negative length": OK + b"Content-Length: -2\r\n\r\nok",
    "a length after chunks": CHUNKED + b"2\r\nok\r\n0\r\nContent-Length: 5\r\n\r\n",
    "a wrong chunk": CHUNKED + b"zz\r\nok\r\n",
    "another protocol": b"220 mail.example.com ESMTP\r\n",
    "another protocol on request": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + PLAIN,
    "too many fields": OK + b"".join(b"X-%d: a\r\n" % number for number in range(200)) + b"\r\n",
    "no gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
    "half of a gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: 12\r\n\r\n" + gzip.compress(b"ok")[:12],
}


@pytest.mark.parametrize("how", INVALID)
async def test_an_answer_that_is_not_http_fails_and_its_connection_is_closed(how: str) -> None:
    server = Server(INVALID[how])
    async with answering(server) as called:
        with pytest.raises(egress.InvalidAnswer):
            await whole(called)
        await gone(called)
    assert len(server.requests) == 1


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def gone(called: Origin) -> None:
    await until(lambda: not called.connections)


SURPLUS = {
    "a second answer": PLAIN,
    "the beginning of one": OK + b"Content-",
    "no answer": b"garbage",
    "a refusal of the second request": b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("how", SURPLUS)
@pytest.mark.parametrize("apart", [False, True])
async def test_what_follows_an_answer_never_reaches_the_next_request(how: str, apart: bool) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(PLAIN)
        if apart:
            await asyncio.sleep(0.05)
        writer.write(SURPLUS[how])
        await reader.read()
        writer.close()

    async with answering(handle) as called:
        assert await whole(called) == (200, b"ok")
        if apart:
            assert len(called.connections) == 1
            await gone(called)
        assert await whole(called) == (200, b"ok")


async def test_a_server_that_speaks_before_it_is_asked_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    connect = egress.Connector.connect

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN)
        await server(reader, writer)

    async def slowly(*arguments: Any) -> Any:
        connection = await connect(*arguments)
        await asyncio.sleep(0.1)
        return connection

    monkeypatch.setattr(egress.Connector, "connect", slowly)
    async with answering(handle) as called:
        with pytest.raises(egress.InvalidAnswer):
            await called.send("/responses", b"{}", {}, seconds=5)
        await until(lambda: server.left == 1)
    assert not server.requests


async def test_an_answer_before_the_request_was_sent_whole_counts_and_its_connection_is_not_used_again() -> None:
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too large\r\nContent-Length: 2\r\n\r\nno")
        await asyncio.sleep(0.3)
        writer.close()

    async with answering(handle) as called:
        for count in (1, 2):
            assert await whole(called, b"a" * 20_000_000) == (413, b"no")
            assert connections == count


async def test_a_server_that_reads_no_request_keeps_no_connection_open() -> None:
    """Neither after an early answer, nor for the end of the service."""
    asked = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        cast(asyncio.ReadTransport, writer.transport).pause_reading()
        asked += 1
        if asked == 1:
            writer.write(b"HTTP/1.1 413 Too large\r\nContent-Length: 2\r\n\r\nno")
        await over.wait()
        writer.close()

    over = asyncio.Event()
    async with answering(handle) as called:
        try:
            assert await whole(called, b"a" * 20_000_000) == (413, b"no")
            await gone(called)
            task = asyncio.ensure_future(whole(called, b"a" * 20_000_000))
            await until(lambda: asked == 2)
            called.close()
            with pytest.raises(ConnectionAbortedError):
                await task
            await gone(called)
        finally:
            over.set()


async def test_the_body_of_an_error_is_read_whole_and_within_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it fills the buffer of a stream before it is known that it is none."""
    monkeypatch.setattr(origin, "UNREAD_BYTES", 1000)
    head = b"HTTP/1.1 500 No\r\nContent-Length: 20000\r\n\r\n"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(head + b"a" * 10_000)
        await asyncio.sleep(0.1)
        writer.write(b"a" * 10_000)
        await reader.readuntil(b"{}")
        writer.write(head)
        while not writer.transport.is_closing():
            writer.write(b"a")
            await asyncio.sleep(0.02)

    async with answering(handle) as called, asyncio.timeout(5):
        async with stream(called, silence=2) as answer:
            assert (answer.status, len(await answer.whole())) == (500, 20_000)
        async with stream(called, silence=0.3) as answer:
            with pytest.raises(TimeoutError):
                await answer.whole()
        await gone(called)


async def test_what_follows_packed_content_is_not_kept() -> None:
    """zlib would copy all of it again with each piece: minutes for 30 MB."""
    packed = gzip.compress(b"ok")
    async with answering(Server(OK + b"Content-Encoding: gzip\r\n\r\n" + packed)) as called, stream(called) as answer:
        assert await answer.read() == b"ok"
        for _ in range(10):
            answer.received(b"a" * 1000)
        assert answer._unpacked is not None
        assert not answer._unpacked.unused_data


FLOODS = {
    "fields": (OK, b"X-A: b\r\n" * 100),
    "one field": (OK + b"X-A: ", b"b" * 1000),
    "interim answers": (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 30),
    "an extension of a chunk": (CHUNKED + b"5;", b"a" * 1000),
    "trailers": (CHUNKED + b"0\r\n", b"X-A: b\r\n" * 100),
    "empty space": (b"", b"\r\n" * 500),
    "a body": (CHUNKED, b"3e8\r\n" + b"a" * 1000 + b"\r\n"),
    "a body of small chunks": (CHUNKED, b"1\r\na\r\n" * 200),
    "a packed body": (OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"a" * 100_000_000), b"a"),
}


async def read_all(called: Origin) -> None:
    size = 0
    async with stream(called) as answer:
        while chunk := await answer.read():
            size += len(chunk)
            assert size <= MOST


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_without_an_end_is_left(flood: str, streamed: bool) -> None:
    first, again = FLOODS[flood]
    sent = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"{}")
        writer.write(first)
        while not writer.transport.is_closing():
            writer.write(again)
            sent += len(again)
            await asyncio.sleep(0)

    async with answering(handle) as called:
        with pytest.raises((TooLarge, egress.InvalidAnswer, ConnectionAbortedError)):
            await (read_all(called) if streamed else whole(called))
        await gone(called)
    assert sent < 8 << 20


async def test_a_slow_answer_is_left_when_its_time_is_over_and_interim_answers_are_no_sign_of_life() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(OK + b"Content-Length: 1000\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b"a")
            await asyncio.sleep(0.02)

    async def interim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        while not writer.transport.is_closing():
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            await asyncio.sleep(0.02)

    async with answering(drip) as called:
        with pytest.raises(TimeoutError):
            await whole(called, seconds=0.3)
        async with stream(called, silence=0.3) as answer:  # It is never silent for so long.
            async with asyncio.timeout(5):
                size = 0
                while size < 30:
                    size += len(await answer.read())
        await gone(called)
    async with answering(interim) as called:
        for asked in (whole(called, seconds=0.3), stream(called, silence=0.3).__aenter__()):
            with pytest.raises(TimeoutError):
                await asked
        await gone(called)


async def test_a_silent_stream_gives_what_has_come_and_then_fails() -> None:
    async with answering(Server(CHUNKED + b"2\r\nok\r\n")) as called:
        async with stream(called, silence=0.2) as answer:
            assert await answer.read() == b"ok"
            answer.pause()
            await asyncio.sleep(0.5)  # Not the provider's silence.
            answer.resume()
            began = asyncio.get_running_loop().time()
            with pytest.raises(TimeoutError):
                await answer.read()
            assert asyncio.get_running_loop().time() - began > 0.15
        await gone(called)


async def test_a_request_on_a_connection_that_has_died_is_not_sent_twice() -> None:
    """The server closes as the second request arrives. Closed before, the connection is not used at all."""
    requests: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"{}"))
        writer.write(PLAIN)
        requests.append(await reader.readuntil(b"{}"))
        writer.transport.abort()

    async with answering(handle) as called:
        assert await whole(called) == (200, b"ok")
        with pytest.raises(ConnectionError):
            await whole(called)
        assert len(requests) == 2
    async with answering(Server(PLAIN, closes=True)) as called:
        assert await whole(called) == (200, b"ok")
        await gone(called)
    server = Server(PLAIN, PLAIN)
    async with answering(server) as called:
        assert await whole(called) == (200, b"ok")
        (connection,) = called.connections
        connection.transport.close()
        assert await whole(called) == (200, b"ok")
    assert server.connections == 2


async def test_a_cancelled_request_closes_its_connection() -> None:
    server = Server()
    async with answering(server) as called:
        for asked in (whole(called), stream(called).__aenter__()):
            task = asyncio.ensure_future(asked)
            await until(lambda: len(server.requests) > server.left)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await gone(called)
            await until(lambda: server.left == len(server.requests))


async def test_an_idle_connection_is_closed_in_time_and_a_closed_origin_fails_what_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(origin, "IDLE_SECONDS", 0.2)
    async with answering(Server(PLAIN)) as called:
        assert await whole(called) == (200, b"ok")
        assert len(called.connections) == 1
        await gone(called)
    until_close = OK + b"\r\nhalf"
    async with answering(Server(until_close)) as called:
        task = asyncio.ensure_future(whole(called))
        await until(lambda: bool(called.connections))
        await asyncio.sleep(0.1)
        called.close()
        with pytest.raises(ConnectionAbortedError):
            await task


async def test_a_stream_that_nobody_reads_is_not_received_without_end() -> None:
    sent = 0
    chunk = b"ff\r\n" + b"a" * 255 + b"\r\n"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"{}")
        writer.write(CHUNKED)
        while sent < 40_000:
            writer.write(chunk * 100)
            sent += 100
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with serving(handle) as port:
        connector = egress.Connector(public_only=False, answer_bytes=MOST)
        called = Origin(
            connector, f"http://127.0.0.1:{port}", {}, proxy=None, connect_seconds=5, most_bytes=100_000_000
        )
        async with stream(called, silence=5) as answer:
            await asyncio.sleep(0.5)
            assert sent < 40_000
            size = 0
            while read := await answer.read():
                size += len(read)
                assert len(read) < 2 * origin.UNREAD_BYTES
        assert size == 255 * 40_000
        called.close()
        await connector.close()


@pytest.mark.parametrize("value", ["a\r\nX-B: c", "a\nb", "a\0b"])
async def test_a_header_field_cannot_end_its_line(value: str) -> None:
    server = Server(PLAIN)
    async with answering(server) as called:
        with pytest.raises(ValueError, match="line break"):
            await whole(called, headers={"x-a": value})
    assert not server.requests
    connector = egress.Connector(public_only=False, answer_bytes=MOST)
    async with serving(server) as port:
        url = f"http://127.0.0.1:{port}"
        called = Origin(connector, url, {"x-a": value}, proxy=None, connect_seconds=5, most_bytes=MOST)
        with pytest.raises(ValueError, match="line break"):
            await whole(called)
        assert not called.connections
        called.close()
    await connector.close()


async def test_a_private_address_is_refused_and_a_name_that_is_none_too() -> None:
    server = Server(PLAIN)
    async with serving(server) as port:
        for host in ("127.0.0.1", "localhost"):
            async with calling(f"http://{host}:{port}", public_only=True) as called:
                with pytest.raises(aiohttp.ClientConnectorError):
                    await whole(called)
    assert server.connections == 0
    async with calling("http://nobody.invalid") as called:
        with pytest.raises(aiohttp.ClientConnectorError):
            await whole(called)


async def test_an_answer_that_is_late_is_a_timeout_of_the_provider() -> None:
    async with serving(Server()) as port:
        options = {"connect_timeout_seconds": 5, "stall_seconds": 0.2, "max_answer_bytes": MOST}
        provider = Provider(f"http://127.0.0.1:{port}", "sk-tests", timeout_seconds=0.2, **options)  # type: ignore[arg-type]
        for asked in (provider.respond(Permit(), b"{}", {}), provider.stream(Permit(), b"{}", {}).__aenter__()):
            with pytest.raises(ProviderError) as failed:
                await asked
            assert failed.value.failure.code == "provider_timeout"
        await provider.close()


def served(path: Path) -> ssl.SSLContext:
    self_signed(path, x509.DNSName("localhost"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a proxy that connects to where it is asked to."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"CONNECT localhost:")
    port = int(head.split(b" ")[1].split(b":")[1])
    onward, out = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    await asyncio.gather(copy(reader, out), copy(onward, writer), return_exceptions=True)


@pytest.mark.parametrize("proxied", [False, True])
async def test_tls_is_verified_with_and_without_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxied: bool
) -> None:
    server = Server(PLAIN, PLAIN)
    context = served(tmp_path / "pem")
    async with serving(server, context) as port, serving(tunnel) as proxy_port:
        url, proxy = f"https://localhost:{port}", f"http://127.0.0.1:{proxy_port}" if proxied else None
        async with calling(url, proxy=proxy) as called:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await whole(called)
        assert not server.requests
        trusting = ssl.create_default_context(cafile=str(tmp_path / "pem"))
        monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)
        async with calling(url, proxy=proxy) as called:
            assert await whole(called) == (200, b"ok")
            assert await whole(called) == (200, b"ok")
    assert len({number for number, _ in server.requests}) == 1
    assert server.requests[0][1].startswith(b"POST /responses HTTP/1.1\r\n")


async def test_a_proxy_is_asked_for_the_whole_url_with_its_password() -> None:
    server = Server(PLAIN, PLAIN)
    async with (
        serving(server) as port,
        calling("http://provider.example.com/v1", proxy=f"http://ann:secret@127.0.0.1:{port}") as called,
    ):
        for _ in range(2):
            assert await whole(called) == (200, b"ok")
    for number, request in server.requests:
        assert number == 1
        assert request.startswith(b"POST http://provider.example.com/v1/responses HTTP/1.1\r\n")
        assert b"\r\nHost: provider.example.com\r\n" in request
        assert b"Proxy-Authorization: Basic " + base64.b64encode(b"ann:secret") in request

"""HTTP/1.1 as RFC 9112 has it: a request that breaks its rules gets an error, and no rights, memory or time."""

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx2
import psutil
import pytest
import uvicorn
from openai import BadRequestError
from uvicorn.server import ServerState
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from app.http.door import LARGEST_HEAD_BYTES, LONGEST_PATH_BYTES, MOST_FIELDS, MOST_PIPELINED, HttpDoor
from app.http.errors import BadRequest
from app.http.request_target import MOST_PARAMETERS, check_target
from tests.service import Service
from tests.test_bounds import converse

CLOSE = b"Connection: close\r\n"

NOWHERE = "0" * 32

UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def authorized(service: Service) -> bytes:
    return f"Authorization: Bearer {service.key}\r\n".encode()


def chunked(*fields: bytes, path: bytes = b"/v1/threads") -> bytes:
    """The head of a POST with a chunked body."""
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" % path
    return head + b"".join(fields) + b"\r\n"


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


class TestTrailers:
    def test_no_trailer_becomes_a_header(self, service: Service) -> None:
        body = b"2\r\n{}\r\n0\r\n"
        answer = converse(service, chunked(CLOSE) + body + authorized(service) + b"\r\n")
        assert statuses(answer) == [401]
        # Nor does one that says the same twice: both requests make a response of their own.
        made = set()
        for _ in range(2):
            head = chunked(CLOSE, authorized(service), path=b"/v1/responses")
            body = b'f\r\n{"input": "Hi"}\r\n0\r\nIdempotency-Key: of-a-trailer\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n'
            answer = converse(service, head + body)
            assert statuses(answer) == [200]
            made.update(re.findall(rb'"id":"(resp_\w+)"', answer))
        assert len(made) == 2

    def test_some_trailers_are_read_and_the_connection_goes_on(self, service: Service) -> None:
        trailers = b"".join(b"X-Checksum-%d: abc\r\n" % number for number in range(20))
        request = chunked(authorized(service)) + b"2;ext=1\r\n{}\r\n0\r\n" + trailers + b"\r\n"
        last = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n"
        assert statuses(converse(service, request * 3 + last)) == [201, 201, 201, 200]

    @pytest.mark.parametrize("with_key", [False, True])
    @pytest.mark.parametrize(
        ("begin", "piece"),
        [
            (b"2\r\n{}\r\n0\r\n", b"X-Many: 1234567890\r\n" * 3000),
            (b"2\r\n{}\r\n0\r\nX-Long: ", b"x" * 60_000),
            (b"2\r\n{}\r\n0\r\nX-Blank: ", b" " * 60_000),
            (b"2;", b"x" * 60_000),
            (b"", b"0" * 60_000),
        ],
        ids=["many", "one", "blanks", "a chunk's extension", "a chunk's size"],
    )
    def test_132_megabytes_outside_a_body_are_refused_at_the_heads_bound(
        self, service: Service, begin: bytes, piece: bytes, *, with_key: bool
    ) -> None:
        process = psutil.Process(service.process.process.pid)
        before = process.memory_info().rss
        sent, answer = 0, b""
        fields = (authorized(service),) if with_key else ()
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
            connection.sendall(chunked(*fields) + begin)
            try:
                while sent < 132_000_000:
                    connection.sendall(piece)
                    sent += len(piece)
            except (BrokenPipeError, ConnectionResetError):
                pass
            else:
                pytest.fail("All of it was read.")
            try:
                while data := connection.recv(65536):
                    answer += data
            except ConnectionResetError:
                pass
        assert sent < 20_000_000  # What the system's own buffers hold.
        assert process.memory_info().rss - before < 20_000_000
        assert statuses(answer) in ([], [431], [401])  # A reset connection may lose its answer.

    @pytest.mark.parametrize("with_key", [False, True])
    def test_head_and_trailers_have_one_bound_and_its_error_is_431(self, service: Service, *, with_key: bool) -> None:
        """Without a key, the request has had its answer: no second one may follow, the next request would get it."""
        fields = (authorized(service),) if with_key else ()
        for size, code in ((60_000, 201 if with_key else 401), (66_000, 431 if with_key else 401)):
            in_head, in_trailer = b"X-Long: " + b"x" * (size // 2) + b"\r\n", b"X-Long: " + b"x" * (size // 2) + b"\r\n"
            pieces = [chunked(*fields, in_head), b"2\r\n{}\r\n0\r\n", in_trailer + b"\r\n"]
            last = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n"
            followed = [code, 200] if size == 60_000 else [code]
            assert statuses(converse(service, *pieces, last, pause=0.2)) == followed

    def test_who_is_slow_with_trailers_is_not_waited_for(self, service_env: dict[str, str]) -> None:
        service = Service(env={**service_env, "EVERTHREAD_HEAD_SECONDS": "1", "EVERTHREAD_BODY_PAUSE_SECONDS": "1"})
        for fields in ((), (authorized(service),)):
            begun = time.monotonic()
            with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
                connection.sendall(chunked(*fields) + b"2\r\n{}\r\n0\r\n")
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    for _ in range(150):
                        connection.sendall(b"X: 1\r\n")
                        time.sleep(0.2)
            assert time.monotonic() - begun < 25
        service.stop()


class TestHead:
    @pytest.mark.parametrize(
        ("line", "hosts", "status"),
        [
            (b"GET /healthz HTTP/1.1", [], 400),
            (b"GET /healthz HTTP/1.1", [b"a.example", b"b.example"], 400),
            (b"GET /healthz HTTP/1.1", [b"a.example", b"a.example"], 400),
            (b"GET /healthz HTTP/1.1", [b"a b"], 400),
            (b"GET /healthz HTTP/1.1", [b"a.example/path"], 400),
            (b"GET /healthz HTTP/1.1", [b"user@a.example"], 400),
            (b"GET /healthz HTTP/1.1", [b"a.example, b.example"], 400),
            (b"GET /healthz HTTP/1.1", [b"\xff"], 400),
            (b"GET http://a.example/healthz HTTP/1.1", [], 400),
            (b"GET /healthz HTTP/1.0", [b"a.example", b"b.example"], 400),
            (b"GET /healthz HTTP/1.0", [], 200),
            (b"GET /healthz HTTP/1.0", [b"a.example"], 200),
            (b"GET /healthz HTTP/1.1", [b""], 200),
            (b"GET /healthz HTTP/1.1", [b"a_b.example:8080"], 200),
            (b"GET /healthz HTTP/1.1", [b"[::1]:8080"], 200),
            (b"GET http://a.example/healthz HTTP/1.1", [b"a.example"], 200),
            (b"GET /healthz HTTP/2.0", [b"a.example"], 505),
            (b"GET /healthz", [], 505),
        ],
    )
    def test_a_request_names_one_host(self, service: Service, line: bytes, hosts: list[bytes], status: int) -> None:
        head = line + b"\r\n" + b"".join(b"Host: %b\r\n" % host for host in hosts)
        again = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n"
        answer = converse(service, head + (CLOSE if status == 200 else b"") + b"\r\n" + again)
        assert statuses(answer) == [status]  # An error closes the connection, too.
        if status == 400:
            assert b'"code":"invalid_http"' in answer

    def test_a_websocket_names_one_host_too(self, service: Service) -> None:
        fields = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        head = b"GET /v1/responses HTTP/1.1\r\n" + fields.encode() + authorized(service) + b"\r\n"
        assert statuses(converse(service, head)) == [400]

    @pytest.mark.parametrize("pause", [0, 0.3])
    def test_its_limit_is_what_the_docs_say(self, service: Service, pause: float) -> None:
        begin = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + CLOSE
        for size, status in ((65_536, 200), (65_537, 431), (70_000, 431)):
            for filled in (b"X-Long: ", b"X-Blank: a"):
                letter = b"x" if filled == b"X-Long: " else b" "
                head = begin + filled
                head += letter * (size - len(head) - 4) + b"\r\n\r\n"
                assert len(head) == size
                answer = converse(service, head[:30_000], head[30_000:60_000], head[60_000:], pause=pause)
                assert statuses(answer) == [status], (size, filled)
        assert LARGEST_HEAD_BYTES == 64 * 1024

    def test_its_limit_holds_for_a_request_behind_another(self, service: Service) -> None:
        first = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        second = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 66_000 + b"\r\n\r\n"
        assert statuses(converse(service, first + second)) in ([200], [200, 431])

    def test_it_has_so_many_fields(self, service: Service) -> None:
        begin = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + CLOSE
        assert statuses(converse(service, begin + b"X: 1\r\n" * (MOST_FIELDS - 2) + b"\r\n")) == [200]
        assert statuses(converse(service, begin + b"X: 1\r\n" * (MOST_FIELDS - 1) + b"\r\n")) == [431]

    def test_a_path_has_a_limit_of_its_own(self, service: Service) -> None:
        for length, status in ((LONGEST_PATH_BYTES, 404), (LONGEST_PATH_BYTES + 1, 414)):
            for query in (b"", b"?" + b"q" * 20_000):
                line = b"GET /" + b"%41" * 2 + b"x" * (length - 7) + query + b" HTTP/1.1\r\nHost: x\r\n"
                assert statuses(converse(service, line + CLOSE + b"\r\n")) == [status]

    @pytest.mark.parametrize(
        ("fields", "body", "status"),
        [
            (b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n", 400),
            (b"Content-Length: 2\r\nContent-Length: 2\r\n", b"{}", 400),
            (b"Content-Length: 2\r\nContent-Length: 30\r\n", b"{}", 400),
            (b"Content-Length: 2, 2\r\n", b"{}", 400),
            (b"Content-Length: +2\r\n", b"{}", 400),
            (b"Content-Length: 0x2\r\n", b"{}", 400),
            (b"Content-Length : 2\r\n", b"{}", 400),
            (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n", 400),
            (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n", 501),
            (b"Transfer-Encoding: gzip, chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n", 501),
            (b"Transfer-Encoding: xchunked\r\n", b"2\r\n{}\r\n0\r\n\r\n", 501),
            (b"Transfer-Encoding: chunked\r\n", b"2\n{}\n0\n\n", 400),
            (b"Transfer-Encoding: chunked\r\n", b"2 \r\n{}\r\n0\r\n\r\n", 400),
            (b"Transfer-Encoding: chunked\r\n", b"-2\r\n{}\r\n0\r\n\r\n", 400),
            (b"X-Folded: a\r\n b\r\n", b"", 400),
            (b"X-Bad: a\0b\r\n", b"", 400),
        ],
    )
    def test_no_request_is_hidden_in_another(self, service: Service, fields: bytes, body: bytes, status: int) -> None:
        head = b"POST /v1/threads HTTP/1.1\r\nHost: x\r\n" + authorized(service) + fields + b"\r\n"
        hidden = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n"
        assert statuses(converse(service, head + body + hidden)) == [status]

    @pytest.mark.parametrize("path", [b"/healthz", b"/v1/threads", b"/console/sign-in"])
    def test_a_cookie_of_any_form_costs_no_time(self, service: Service, path: bytes) -> None:
        for value in (b"\\" * 40_000, b"\\" * 39_999, b"a" + b"\\'" * 20_000):
            cookie = b'Cookie: b=c; a="' + value + b'"; d=e\r\n'
            begun = time.monotonic()
            answer = converse(service, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n" + CLOSE + cookie + b"\r\n")
            assert statuses(answer) in ([200], [401])
            assert time.monotonic() - begun < 2

    def test_http_1_0_has_no_chunks(self, service: Service) -> None:
        head = b"POST /v1/threads HTTP/1.0\r\n" + authorized(service) + b"Transfer-Encoding: chunked\r\n\r\n"
        assert statuses(converse(service, head + b"2\r\n{}\r\n0\r\n\r\n")) == [400]

    def test_requests_in_a_pipeline_are_answered_in_order_and_have_a_limit(self, service: Service) -> None:
        asked = [b"GET /v1/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5000)]
        answer = converse(service, b"".join(asked[:20]) + b"nonsense\r\n\r\n")
        # What is wrong behind them is dropped: an error in between would be taken for the answer to one of them.
        assert re.findall(rb"GET (/v1/\d+)\.", answer) == [b"/v1/%d" % number for number in range(20)]
        answer = converse(service, b"".join(asked))
        assert 1 <= len(statuses(answer)) <= MOST_PIPELINED + 1
        assert set(statuses(answer)) == {404}

    @pytest.mark.parametrize("value", [b"\xff\xfe", b"\xed\xa0\x80", b"a\tb", b"%00", b"x" * 60_000, b"", b'=;,"'])
    def test_no_bytes_in_a_header_make_the_service_fail(self, service: Service, value: bytes) -> None:
        thread = service.thread()
        turn = service.turn(thread, "Hi")["id"]
        names = (
            b"Idempotency-Key", b"Last-Event-ID", b"Authorization", b"Origin", b"Cookie", b"Content-Type", b"Accept",
            b"Content-Encoding", b"X-Request-ID", b"X-Forwarded-For", b"User-Agent", b"Traceparent", b"Expect",
            b"X-Stainless-Retry-Count", b"If-None-Match", b"Range",
        )  # fmt: skip
        for name in names:
            key = b"" if name == b"Authorization" else authorized(service)
            fields = b"Host: x\r\n" + CLOSE + key + name + b": " + value + b"\r\n"
            for line, body in (
                (b"POST /v1/responses", b'{"input": "Hi"}'),
                (b"POST /v1/threads", b'{"user": "ann"}'),
                (b"GET /v1/threads/%b/turns/%b/events" % (thread.encode(), turn.encode()), b""),
                (b"GET /console", b""),
            ):
                length = b"Content-Length: %d\r\n" % len(body)
                answer = converse(service, line + b" HTTP/1.1\r\n" + fields + length + b"\r\n" + body)
                assert len(statuses(answer)) == 1, (name, line, answer)
                assert statuses(answer)[0] < 500, (name, line, answer)


class TestCharacters:
    @pytest.mark.parametrize(
        "written", ["%00", "a%00b", "%ff", "%fe", "%c3%28", "%ed%a0%80", "%c0%80", "%f5%80%80%80", "a%", "%u0041"]
    )
    def test_no_path_or_query_of_any_route_takes_what_is_not_text(self, service: Service, written: str) -> None:
        document = httpx2.get(f"{service.url}/openapi.json").json()
        asked = 0
        for path, item in document["paths"].items():
            for method, operation in item.items():
                for parameter in operation["parameters"]:
                    name = parameter["name"]
                    filled = re.sub(r"{\w+}", "x", path.replace(f"{{{name}}}", written))
                    if parameter["in"] == "query":
                        filled += f"?limit=1&{quote(name)}={written}"
                    elif parameter["in"] != "path":
                        continue
                    body: dict[str, Any] | None = None if method in ("get", "delete") else {}
                    answer = service.http.request(method, service.url + filled, json=body)
                    error = answer.json()["error"]
                    assert (answer.status_code, error["code"]) == (400, "invalid_character"), (method, filled, error)
                    assert ("The path" if parameter["in"] == "path" else f"parameter '{name}'") in error["message"]
                    assert error["param"] == (name if parameter["in"] == "query" else None)
                    asked += 1
        assert asked > 200

    @pytest.mark.parametrize(
        ("query", "param"),
        [
            ("metadata[a%00]=b", "metadata[a\\u0000]"),
            ("metadata[a]=%00", "metadata[a]"),
            ("unknown%00", "unknown\\u0000"),
            ("a%ff=1", "a\ufffd"),
            ("user=ann&metadata%5Bk%5D=%ff", "metadata[k]"),
            ("user=%00&name=%ff", "user"),
            ("q=100%", "q"),
            ("q=%zz&a", "q"),
        ],
    )
    def test_the_parameter_at_fault_is_named(self, service: Service, query: str, param: str) -> None:
        for answer in (service.http.get(f"/threads?{query}"), service.http.get(f"{service.url}/healthz?{query}")):
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)

    def test_two_names_never_become_one(self, service: Service) -> None:
        for name in ("x%ff", "x%fe"):
            refused = service.http.put(f"/threads/by-name/{name}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_character")
        assert service.http.put("/threads/by-name/x").status_code in (200, 201)
        # A slash of the name's own is none at the end of the path, and leads nowhere else.
        for name in ("x%2f", "x%2F/", "x%2f%2f"):
            answer = service.http.get(f"/threads/by-name/{name}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
        assert service.http.get("/threads/by-name/x//").json()["name"] == "x"

    def test_text_of_every_script_is_taken(self, service: Service) -> None:
        for name in ("Grüße", "会话", "🧵", "a b", "50%", "%", "%zz", "%00", "\x7f", "\u2028"):
            made = service.http.put(f"/threads/by-name/{quote(name)}")
            if made.status_code == 400:
                assert made.json()["error"]["param"] == "name"
                continue
            assert made.json()["name"] == name
            assert service.http.get("/threads", params={"name": name}).json()["data"][0]["name"] == name

    def test_a_query_has_so_many_parameters(self, service: Service) -> None:
        assert service.http.get("/threads?" + "&".join(["limit=1"] * MOST_PARAMETERS)).status_code == 200
        refused = service.http.get("/threads?" + "&".join(["limit=1"] * (MOST_PARAMETERS + 1)))
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")

    def test_a_web_page_can_read_why(self, service: Service) -> None:
        answer = service.http.get("/threads?a=%00", headers={"Origin": "https://app.example"})
        assert (answer.status_code, answer.headers["vary"]) == (400, "Origin")


class TestConversationIds:
    @pytest.mark.parametrize("value", ["nope", "", "resp_" + NOWHERE, NOWHERE, "CONV_" + NOWHERE, "conv"])
    async def test_an_id_begins_with_conv(self, service: Service, value: str) -> None:
        forms: list[Any] = [value, {"id": value}]
        for conversation in forms:
            with pytest.raises(BadRequestError) as refused:
                await service.openai.responses.create(model="qwen3.5-plus", input="Hi", conversation=conversation)
            assert (refused.value.code, refused.value.param) == ("invalid_value", "conversation")
            assert "begins with 'conv_'" in refused.value.message
        counted = service.http.post("/responses/input_tokens", json={"input": "Hi", "conversation": value})
        assert (counted.status_code, counted.json()["error"]["param"]) == (400, "conversation")
        if value:
            with pytest.raises(BadRequestError) as refused:
                await service.openai.conversations.retrieve(value)
            assert (refused.value.code, refused.value.param) == ("invalid_value", "conversation_id")

    def test_one_that_is_not_there_is_a_404(self, service: Service) -> None:
        for value in ("conv_" + NOWHERE, "conv_nope"):
            answer = service.http.post("/responses", json={"input": "Hi", "conversation": value})
            assert answer.status_code == 404
            answer = service.http.get(f"/conversations/{value}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "conversation_not_found")


class TestSockets:
    @pytest.fixture
    def own(self, service_env: dict[str, str]) -> Iterator[Service]:
        """A service whose log nobody else writes to."""
        service = Service(env={**service_env, "EVERTHREAD_CONNECTIONS_PER_ADDRESS": "12"})
        yield service
        service.stop()
        assert not [line for line in service.process.lines if '"level":"error"' in line or "Traceback" in line]

    def denied(self, service: Service, path: str, **fields: str) -> tuple[int, Any]:
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{service.url.replace('http', 'ws')}{path}", additional_headers=fields).close()
        return refused.value.response.status_code, json.loads(refused.value.response.body or b"null")

    def test_a_handshake_that_is_denied_is_told_why_and_is_no_error_of_the_service(self, own: Service) -> None:
        key = {"Authorization": f"Bearer {own.key}"}
        for path in ("/v1/nothing", "/", "/v1/threads", "/docs/assets/x", "/console", f"/v1/responses/resp_{NOWHERE}"):
            status, body = self.denied(own, path, **key)
            assert (status, body["error"]["code"]) == (404, "unknown_url"), path
        for path in ("/v1/responses%00", "/v1/responses?a=%00", "/v1/x%ff"):
            status, body = self.denied(own, path, **key)
            assert (status, body["error"]["code"]) == (400, "invalid_character"), path
        assert self.denied(own, "/v1/responses")[0] == 401
        status, body = self.denied(own, "/v1/responses", **key, **{"X-Long": "x" * 9000})
        assert (status, body["error"]["code"]) == (400, "invalid_http")

    def test_a_slash_at_the_end_leads_to_the_same(self, own: Service) -> None:
        for prefix in ("/v1", "/compatible-mode/v1"):
            address = f"{own.url.replace('http', 'ws')}{prefix}/responses/"
            with connect(address, additional_headers={"Authorization": f"Bearer {own.key}"}) as opened:
                opened.send("{}")
                assert '"type":"error"' in str(opened.recv(timeout=10))

    def test_sockets_count_for_their_address(self, own: Service) -> None:
        address, key = f"{own.url.replace('http', 'ws')}/v1/responses", {"Authorization": f"Bearer {own.key}"}
        opened = [connect(address, additional_headers=key) for _ in range(12)]
        assert statuses(converse(own, b"")) == [429]
        for each in opened:
            each.close()
        time.sleep(0.3)
        with connect(address, additional_headers=key):
            pass

    def test_a_client_that_leaves_amid_its_body_is_no_error_of_the_service(self, own: Service) -> None:
        for cut in (
            b"Content-Length: 100\r\n\r\n{",
            b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
            b"Transfer-Encoding: chunked\r\n\r\nzz",
        ):
            with socket.create_connection(("127.0.0.1", own.port)) as connection:
                connection.sendall(b"POST /v1/threads HTTP/1.1\r\nHost: x\r\n" + authorized(own) + cut)
                time.sleep(0.3)
        assert own.http.get("/threads").status_code == 200


async def fed(pieces: list[bytes]) -> float:
    """The CPU seconds that the parser takes for these pieces."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    made: list[HttpDoor] = []

    def protocol() -> HttpDoor:
        made.append(HttpDoor(uvicorn.Config(app, lifespan="off"), ServerState(), {}))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await asyncio.sleep(0.01)
        begun = time.process_time()
        for piece in pieces:
            made[0].data_received(piece)
        took = time.process_time() - begun
        writer.close()
        made[0].transport.abort()
        await asyncio.sleep(0)
    return took


def target(query: bytes) -> Callable[[int], float]:
    def cost(size: int) -> float:
        begun = time.process_time()
        for _ in range(5):
            with contextlib.suppress(BadRequest):
                check_target(b"/v1/threads/by-name/" + query * (size // len(query)), query * (size // len(query)))
        return time.process_time() - begun

    return cost


def read(head: bytes, filled: bytes, piece: int) -> Callable[[int], float]:
    def cost(size: int) -> float:
        data = head + filled * (size // len(filled))
        pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
        return asyncio.run(fed(pieces))

    return cost


GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
BODY = chunked() + b"2\r\n{}\r\n0\r\n"


@pytest.mark.parametrize(
    ("cost", "size"),
    [
        (read(GET + b"X: ", b"x", 100), 15_000),
        (read(GET, b"X: " + b"x" * 300 + b"\r\n", 1), 7_500),
        (read(b"GET /", b"x", 100), 15_000),
        (read(BODY + b"X: ", b"x", 100), 15_000),
        (read(BODY + b"X: ", b"x", 65_536), 4_000_000),
        (read(BODY, b"X: 1\r\n", 65_536), 4_000_000),
        (read(chunked() + b"2;", b"x", 65_536), 4_000_000),
        (read(chunked(), b"1\r\nx\r\n", 65_536), 60_000),
        (read(GET + b"\r\n", GET + b"\r\n", 65_536), 100_000),
        (target(b"%C3%A9"), 15_000),
        (target(b"a=%C3%A9&"), 15_000),
        (target(b"a&"), 15_000),
        (target(b"%"), 15_000),
        (target(b"a%00=b&"), 15_000),
    ],
    ids=[
        "one header", "headers by the byte", "a path", "one trailer", "a trailer beyond the bound",
        "trailers beyond the bound", "an extension", "chunks", "a pipeline", "percent", "a query", "names", "signs",
        "faults",
    ],
)  # fmt: skip
def test_what_is_read_before_a_key_costs_no_more_than_its_size(cost: Callable[[int], float], size: int) -> None:
    cost(size)
    least = {times: min(cost(times * size) for _ in range(5)) for times in (1, 2, 4)}
    assert least[2] < 3.5 * least[1] + 0.002, least
    assert least[4] < 7 * least[1] + 0.002, least  # A quadratic cost is 16 times as high.

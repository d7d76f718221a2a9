"""Outgoing requests: tenants' URLs reach public addresses only, in whatever form a private one is written."""

import ast
import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from app.http import egress
from app.provider.client import Provider, ProviderError
from app.provider.permit import Permit
from app.webhooks.store import MOST_WEBHOOKS
from tests.databases import migrated_database, query
from tests.projects import new_key
from tests.service import Emulator, Service, eventually, free_port
from tests.tenants import Tenant

ROOT = Path(__file__).parent.parent / "app"

REFUSED = """
127.0.0.1 127.1 127.0.1 2130706433 0 0.0.0.0 0177.0.0.1 017700000001 0x7f.1 0x7f000001 0X7F.0.0.0x1 127.0.0.1. 127.1.
127.0.0.01 127%2e0%2e0%2e1 %31%32%37.1 \uff11\uff12\uff17.0.0.1 127\u30020\u30020\u30021 \u2460\u2461\u2466.1
10.0.0.1 172.16.0.1 192.168.0.1 100.64.0.1 100.100.100.200 169.254.169.254 168.63.129.16 192.0.0.192 192.0.2.1
198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 255.255.255.255
[::1] [0:0:0:0:0:0:0:1] [::] [::7f00:1] [::127.0.0.1] [::ffff:127.0.0.1] [::FFFF:7F00:1] [::ffff:0:127.0.0.1]
[::ffff:0:7f00:1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2002:7f00:1::1] [2001:0:4136:e378:8000:63bf:80ff:fffe]
[2a01:4f8::5efe:127.0.0.1] [2a01:4f8::200:5efe:7f00:1] [fec0::1] [fe80::1] [fe80::1%25lo] [::1%25lo] [fd00::1]
[ff02::1] [2001:db8::1] [3fff::1] [2001:2::1] [v1.a]
localhost. a..example.com .example.com -a.example.com
""".split()  # noqa: SIM905
"""Hosts that creating a webhook or an account refuses."""

NAMES = ["localhost", "LOCALHOST"]
"""Hosts that are found to be private when they are looked up."""


class Listener:
    """A private server, at every address of this machine; it counts who connects."""

    def __init__(self) -> None:
        if socket.has_dualstack_ipv6():
            self._socket = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            self._socket = socket.create_server(("", 0))
        self.port = self._socket.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def stop(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    with socket.create_connection(("127.0.0.1", listener.port)):
        eventually(lambda: listener.connections == 1)
    listener.connections = 0
    yield listener
    listener.stop()


@pytest.fixture(scope="module")
def own_database_url(server_urls: tuple[str, str]) -> str:
    """Return a database whose rows the tests change behind the service's back."""
    return migrated_database(server_urls[0])


@pytest.fixture(scope="module")
def own_service(own_database_url: str, service_env: dict[str, str]) -> Iterator[Service]:
    service = Service(env={**service_env, "DATABASE_URL": own_database_url, "EVERTHREAD_AUDIT_KEY": "22" * 32})
    yield service
    assert service.stop() == 0


@pytest.fixture
def project(own_service: Service, own_database_url: str, emulator: Emulator) -> Iterator[httpx2.Client]:
    key = new_key(own_database_url, uuid4().hex)
    headers = {"Authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=f"{own_service.url}/v1", headers=headers, timeout=60) as client:
        yield client
        for webhook in client.get("/webhooks").json()["data"]:
            client.delete(f"/webhooks/{webhook['id']}")


def test_no_form_of_a_private_address_is_taken_as_the_url_of_a_webhook_or_an_account(
    project: httpx2.Client, own_service: Service
) -> None:
    tenant = Tenant(own_service)
    accounts = f"/admin/projects/{tenant.id}/accounts"
    hook = project.post("/webhooks", json={"url": "https://example.com/hook"}).json()
    for host in REFUSED:
        url = f"https://{host}:8443/x"
        answers = (
            project.post("/webhooks", json={"url": url}),
            project.patch(f"/webhooks/{hook['id']}", json={"url": url}),
            tenant.http.post(accounts, json={"name": "in", "base_url": url, "api_key": "sk-x"}),
        )
        for answer in answers:
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_url"), (host, answer.text)
    assert [each["url"] for each in project.get("/webhooks").json()["data"]] == ["https://example.com/hook"]
    assert tenant.http.get(accounts).json()["data"] == []


def test_a_webhook_that_leads_to_a_private_address_in_the_database_is_not_sent(
    project: httpx2.Client, own_database_url: str, listener: Listener
) -> None:
    hooks = [
        project.post("/webhooks", json={"url": "https://example.com/", "events": ["thread.created"]}).json()["id"]
        for _ in range(MOST_WEBHOOKS)
    ]
    for hook in hooks:
        project.patch(f"/webhooks/{hook}", json={"paused": True})
    project.post("/threads", json={})
    eventually(lambda: all(project.get(f"/webhooks/{hook}/deliveries").json()["data"] for hook in hooks))
    hosts = [*REFUSED, *NAMES]
    for first in range(0, len(hosts), MOST_WEBHOOKS):
        tried = dict(zip(hosts[first:], hooks, strict=False))
        for host, hook in tried.items():
            mine = f"'{hook.removeprefix('webhook_')}'"
            query(
                own_database_url,
                f"UPDATE webhook_deliveries SET last_error = NULL, next_at = now() WHERE webhook_id = {mine}",
                f"UPDATE webhooks SET url = 'https://{host}:{listener.port}/', paused = false WHERE id = {mine}",
            )
        for host, hook in tried.items():
            eventually(lambda hook=hook: delivery(project, hook)["last_error"] is not None)  # type: ignore[misc]
            attempt = delivery(project, hook)
            assert (attempt["status"], attempt["last_status"]) == ("pending", None), host
            assert project.patch(f"/webhooks/{hook}", json={"paused": True}).status_code == 200
    assert listener.connections == 0


def delivery(project: httpx2.Client, webhook: str) -> dict[str, Any]:
    (found,) = project.get(f"/webhooks/{webhook}/deliveries").json()["data"]
    return dict(found)


def test_an_account_that_leads_to_a_private_address_in_the_database_is_not_asked(
    own_service: Service, own_database_url: str, emulator: Emulator, listener: Listener
) -> None:
    tenant = Tenant(own_service)
    account = tenant.account("in", "https://example.com/v1", "sk-x")
    place = f"/admin/projects/{tenant.id}/accounts/{account['id']}/check"
    id_ = account["id"].removeprefix("acct_")
    for host in [*REFUSED, *NAMES]:
        query(
            own_database_url, f"UPDATE accounts SET base_url = 'https://{host}:{listener.port}/v1' WHERE id = '{id_}'"
        )
        checked = tenant.http.post(place)  # Looks its row up again.
        assert checked.status_code == 409 or checked.json()["ok"] is False, (host, checked.text)
        assert tenant.http.post("/responses", json={"input": "Hi"}).status_code in (400, 502), host
        assert listener.connections == 0, host


@pytest.mark.parametrize("host", [*REFUSED, *NAMES])
async def test_the_connector_reaches_no_private_address_whatever_was_checked_before(
    listener: Listener, host: str
) -> None:
    async with aiohttp.ClientSession(
        connector=egress.Connector(public_only=True, answer_bytes=1000), timeout=aiohttp.ClientTimeout(total=5)
    ) as session:
        with pytest.raises((aiohttp.ClientError, OSError, ValueError)):
            await session.post(f"http://{host}:{listener.port}/", data=b"x")
    assert listener.connections == 0


@pytest.mark.parametrize("host", ["dashscope.aliyuncs.com", "vpc.oss-internal.aliyuncs.com", "public.example.com"])
async def test_a_name_that_resolves_privately_is_not_connected_to_be_it_the_providers_own(
    listener: Listener, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolved(*_: Any, **__: Any) -> list[Any]:
        """Stands for a name server, as the tests have none."""
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", listener.port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    provider = Provider(
        f"https://{host}:{listener.port}/v1", "sk-x", connect_timeout_seconds=5, timeout_seconds=5, stall_seconds=5,
        max_answer_bytes=1000, public_only=True,
    )  # fmt: skip
    with pytest.raises(ProviderError) as refused:
        await provider.respond(Permit(), b"{}", {})
    assert refused.value.failure.code == "provider_unreachable"
    assert not await provider.delete("resp_1")
    await provider.close()
    assert listener.connections == 0


async def test_a_name_with_a_public_and_a_private_address_never_reaches_the_private_one(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolved(*_: Any, **__: Any) -> list[Any]:
        """Stands for a name server; the public address is one that this machine has no route to."""
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, listener.port))
            for address in ("127.0.0.1", "1.1.1.1")
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    async with aiohttp.ClientSession(
        connector=egress.Connector(public_only=True, answer_bytes=1000), timeout=aiohttp.ClientTimeout(total=2)
    ) as session:
        with pytest.raises((aiohttp.ClientError, OSError)):
            await session.get(f"http://rebound.example.com:{listener.port}/")
    assert listener.connections == 0


def test_every_client_that_calls_out_is_known() -> None:
    """A module that calls out for tenants has its connections from `egress.Connector`; the others are named here."""
    clients = {"aiohttp", "httpx", "httpx2", "openai", "requests", "urllib3", "urllib.request", "http.client"}
    found: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names = ["aiohttp" if name.startswith("aiohttp.") else name for name in names]
            if used := {
                name for name in names if name in clients or name.split(".")[0] in clients - {"urllib.request"}
            }:
                found.setdefault(path.relative_to(ROOT).as_posix(), set()).update(used)
        if path.name != "egress.py":
            assert "TCPConnector" not in path.read_text(), path
    commands = {"httpx2"}  # Run by the operator, who names the service's own URL.
    assert found == {
        "http/egress.py": {"aiohttp"},
        "http/origin.py": {"aiohttp"},  # Its connections are opened by the connector that it is given.
        "provider/client.py": {"aiohttp", "urllib.request"},  # getproxies.
        "provider_check/runner.py": {"aiohttp"},
        "webhooks/deliveries.py": {"aiohttp"},
        "audit/cosigning.py": {"aiohttp"},  # Calls the witnesses that the operator has configured.
        "console/identity_provider.py": {"aiohttp"},
        "projects/key_sets.py": {"aiohttp"},
        "console/api.py": {"httpx2"},  # Calls the service itself, within the process.
        "serve.py": {"urllib.request"},  # Asks its own workers whether they are ready.
        "commands/support.py": {"urllib.request"},  # The operator names the service's own URL.
        "cli.py": commands,
        "commands/audit.py": commands,
        "console/demo.py": commands,
        "transfer/client.py": commands,
        "transfer/watch.py": commands,
    }
    for name in (
        "provider/client.py",
        "webhooks/deliveries.py",
        "projects/key_sets.py",
        "console/identity_provider.py",
    ):
        text = (ROOT / name).read_text()
        assert text.count("ClientSession(") + text.count("egress.one_shot_session(") == 1
        assert text.count("ClientSession(") == text.count("egress.Connector(")


SPECIAL_V4 = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
    "240.0.0.0/4",
]  # fmt: skip
SPECIAL_V6 = [
    "::/128", "::1/128", "::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:2::/48",
    "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
]  # fmt: skip


def within(network: IPv4Network | IPv6Network) -> st.SearchStrategy[int]:
    return st.integers(int(network.network_address), int(network.broadcast_address))


private_v4 = st.sampled_from(SPECIAL_V4).flatmap(lambda each: within(IPv4Network(each)))
public_v4 = st.integers(0, 2**32 - 1).filter(
    lambda each: (
        IPv4Address(each).is_global
        and not IPv4Address(each).is_multicast
        and IPv4Address(each) not in IPv4Network("192.88.99.0/24")
        and IPv4Address(each) not in IPv4Network("192.0.0.0/24")
        and each != int(IPv4Address("168.63.129.16"))
    )
)


@st.composite
def v4_text(draw: st.DrawFn, addresses: st.SearchStrategy[int]) -> str:
    """An IPv4 address as the C library reads it: one to four numbers, each decimal, octal or hexadecimal."""
    address = draw(addresses)
    parts = draw(st.integers(1, 4))
    numbers = [address >> 8 * (3 - place) & 0xFF for place in range(parts - 1)]
    numbers.append(address & (1 << 8 * (5 - parts)) - 1)
    written = [
        draw(st.sampled_from([str(each), f"0{each:o}", f"0x{each:x}", f"0X{each:X}", f"0x0{each:x}"]))
        for each in numbers
    ]
    text = ".".join(written)
    assert int.from_bytes(socket.inet_aton(text)) == address
    how = draw(st.sampled_from(["plain", "dot", "percent", "wide"]))
    if how == "percent":
        return "".join(f"%{ord(sign):02x}" if draw(st.booleans()) else sign for sign in text)
    if how == "wide":
        return "".join(chr(ord(sign) + 0xFEE0) for sign in text)
    return text + "." if how == "dot" else text


@st.composite
def v6_text(draw: st.DrawFn) -> str:
    """A private IPv6 address, or one that embeds a private IPv4 address, in one of its forms."""
    v4 = draw(private_v4)
    random = draw(st.integers(0, 2**32 - 1))
    address = IPv6Address(
        draw(
            st.one_of(
                st.sampled_from(SPECIAL_V6).flatmap(lambda each: within(IPv6Network(each))),
                st.sampled_from(
                    [
                        v4,
                        int(IPv6Address("::ffff:0:0")) | v4,
                        int(IPv6Address("::ffff:0:0:0")) | v4,
                        int(IPv6Address("64:ff9b::")) | v4,
                        0x2002 << 112 | v4 << 80 | random,
                        0x20010000 << 96 | random << 64 | (v4 ^ 0xFFFFFFFF),
                        0x2A0104F8 << 96 | random << 64 | 0x5EFE << 32 | v4,
                        0x2A0104F8 << 96 | random << 64 | 0x02005EFE << 32 | v4,
                    ]
                ),
            )
        )
    )
    dotted = f"{':'.join(address.exploded.split(':')[:6])}:{IPv4Address(int(address) & 0xFFFFFFFF)}"
    text = draw(st.sampled_from([str(address), address.exploded, dotted, str(address).upper()]))
    return f"[{text}{draw(st.sampled_from(['', '%25lo', '%eth0']))}]"


@given(st.one_of(v4_text(private_v4), v6_text()))
def test_every_form_of_a_private_address_is_refused(host: str) -> None:
    assert egress.url_fault(f"https://{host}:8080/v1", private=False) is not None


@given(
    st.one_of(
        public_v4.map(lambda each: str(IPv4Address(each))),
        public_v4.map(lambda each: f"[::ffff:{IPv4Address(each)}]"),
        st.integers(int(IPv6Address("2400::")), int(IPv6Address("2fff::"))).map(lambda each: f"[{IPv6Address(each)}]"),
    )
)
def test_a_public_address_is_accepted(host: str) -> None:
    assert egress.url_fault(f"https://{host}:8080/v1", private=False) is None


@given(st.text("0123456789abcdefxABF.:[]%@\\/-_ \t\u3002\uff11\u2460", max_size=40))
def test_whatever_is_accepted_is_a_name_or_a_public_address_to_the_c_library_too(host: str) -> None:
    url = f"https://{host}/v1"
    if egress.url_fault(url, private=False) is not None:
        return
    seen = URL(url).host  # What will be looked up.
    assert seen is not None
    try:
        found = socket.getaddrinfo(seen, 443, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return
    for _, _, _, _, where in found:
        assert egress.is_public(ip_address(where[0]))


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
MOST_SENT = 8 << 20
"""The most that a server can send: the bound, and the kernel's buffers."""

FLOODS = {
    "lines of the head": (OK, b"X-A: b\r\n" * 1000),
    "a line without an end": (OK + b"X-A: ", b"b" * 65536),
    "interim answers": (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000),
    "an extension of a chunk": (CHUNKED + b"5;", b"a" * 65536),
    "trailers": (CHUNKED + b"0\r\n", b"X-A: b\r\n" * 1000),
    "a body": (CHUNKED, b"10000\r\n" + b"a" * 65536 + b"\r\n"),
}


class Raw:
    """Server that answers each request with `first`, and all later ones with `again`; or closes, if there is none."""

    def __init__(self, first: bytes, again: bytes = b"", *, pause: float = 0.0) -> None:
        self._first, self._again, self._pause = first, again, pause
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self.sent = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(30)
                connection.recv(65536)
                connection.sendall(self._first)
                while self._again and self.sent < 20 * MOST_SENT:
                    connection.sendall(self._again)
                    self.sent += len(self._again)
                    time.sleep(self._pause)

    def stop(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def open_service(own_database_url: str, service_env: dict[str, str]) -> Iterator[Service]:
    """One whose tenants may call this machine."""
    url = migrated_database(own_database_url)
    service = Service(
        env={
            **service_env,
            "DATABASE_URL": url,
            "EVERTHREAD_AUDIT_KEY": "22" * 32,
            "EVERTHREAD_WEBHOOKS_INSIDE": "true",
            "EVERTHREAD_ACCOUNTS_INSIDE": "true",
            "EVERTHREAD_PROVIDER_ATTEMPTS": "1",
            "EVERTHREAD_MAX_ANSWER_BYTES": "100000",
        }
    )
    yield service
    assert service.stop() == 0


def test_a_receiver_of_webhooks_that_answers_without_end_is_left(open_service: Service, emulator: Emulator) -> None:
    tenant = Tenant(open_service)
    receivers = {name: Raw(*flood) for name, flood in FLOODS.items()}
    receivers["a line each second"] = Raw(OK, b"X-A: b\r\n", pause=1.0)
    hooks = {
        name: tenant.http.post("/webhooks", json={"url": receiver.base_url, "events": ["thread.created"]}).json()["id"]
        for name, receiver in receivers.items()
    }
    tenant.thread()
    for name, hook in hooks.items():

        def is_over(hook: str = hook) -> bool:
            (found,) = tenant.http.get(f"/webhooks/{hook}/deliveries").json()["data"]
            return found["last_error"] is not None or found["status"] == "delivered"

        eventually(lambda hook=hook: bool(tenant.http.get(f"/webhooks/{hook}/deliveries").json()["data"]))  # type: ignore[misc]
        eventually(is_over, 30)
        assert receivers[name].sent < MOST_SENT, name
        tenant.http.delete(f"/webhooks/{hook}")
        receivers[name].stop()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("flood", FLOODS)
def test_a_provider_that_answers_without_end_is_left(
    open_service: Service, emulator: Emulator, flood: str, stream: bool
) -> None:
    tenant, provider = Tenant(open_service), Raw(*FLOODS[flood])
    tenant.account("floods", provider.base_url, "sk-x")
    answer = tenant.http.post("/responses", json={"input": "Hi", "stream": stream})
    assert "provider" in answer.text or "answer_too_large" in answer.text
    assert provider.sent < MOST_SENT
    provider.stop()


BROKEN = {
    "closes": Raw(b""),
    "closes in the head": Raw(OK + b"Content-Ty"),
    "closes in a chunk": Raw(CHUNKED + b'10\r\n{"id"'),
    "closes before the last chunk": Raw(CHUNKED + b'5\r\n{"id"\r\n'),
    "closes in the body": Raw(OK + b'Content-Length: 100\r\n\r\n{"id"'),
    "sends a wrong chunk": Raw(CHUNKED + b"zz\r\nzz"),
    "sends a wrong length": Raw(OK + b"Content-Length: many\r\n\r\n"),
    "sends another protocol": Raw(b"220 mail.example.com ESMTP\r\n"),
    "sends wrong gzip": Raw(OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nzzzz"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", [*BROKEN, "is not there"])
def test_what_a_client_reads_of_a_broken_connection_are_our_own_words(
    open_service: Service, emulator: Emulator, how: str, stream: bool
) -> None:
    tenant = Tenant(open_service)
    base_url = BROKEN[how].base_url if how in BROKEN else f"http://127.0.0.1:{free_port()}/v1"
    tenant.account("breaks", base_url, "sk-x")
    answer = tenant.http.post("/responses", json={"input": "Hi", "stream": stream})
    assert re.search("The provider('s answer broke off| could not be reached): [^<>:']+[.]\"", answer.text), answer.text
    for theirs in ("Error", "127.0.0.1", "aiohttp", "<", "HTTP/", "zz", "b'"):
        assert theirs not in answer.text.replace("server_error", ""), answer.text


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_the_provider_cuts_is_explained_to_the_openai_client(
    service: Service, emulator: Emulator, stream: bool
) -> None:
    emulator.fault("cut", times=1)
    try:
        answer = await service.openai.responses.create(model="qwen3.5-plus", input="Hi", stream=stream)
        told = str([event async for event in answer]) if stream else str(answer)  # type: ignore[union-attr]
    except openai.APIError as error:
        told = str(error.body)
    # Of a stream a part was said: it is kept, and says no more than that.
    words = "interrupted" if stream else "broke off: the connection was closed before the answer was complete."
    assert words in told
    assert "TransferEncodingError" not in told

"""Redis in every form that teams have it: one server, sentinels, a cluster, TLS; every answer reaches its asker."""

import asyncio
import ipaddress
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from cryptography import x509
from redis.asyncio.cluster import ClusterPipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.cache.client import Cache
from app.cache.connect import connect
from tests.certificates import self_signed
from tests.redis_server import redis_server
from tests.service import Emulator, Process, Service, free_port


def cache_at(url: str, timeout_seconds: float = 2) -> Cache:
    return Cache(url, timeout_seconds=timeout_seconds)


def port_of_a_cluster() -> int:
    """A free port whose bus, 10,000 above, is free too."""
    while True:
        port = free_port()
        if port > 55_000:
            continue
        with socket.socket() as bus, suppress(OSError):
            bus.bind(("127.0.0.1", port + 10_000))
            return port


def eventually(check: Callable[[], Any], seconds: float = 30) -> Any:
    """Return the first true result of `check`; a RedisError counts as false."""
    until = time.monotonic() + seconds
    while True:
        with suppress(RedisError):
            if found := check():
                return found
        assert time.monotonic() < until, "it has not come"
        time.sleep(0.02)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """A Redis on TCP, with a password."""
    port = free_port()
    with redis_server(tmp_path / "guarded", port, "--requirepass", "s3cret") as process:
        eventually(redis.Redis(port=port, password="s3cret").ping)
        yield port, process


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[Cache]:
    cache = cache_at(redis_url)
    yield cache
    await cache.close()


async def test_a_thousand_askers_at_once_each_get_their_own_answer(cache: Cache) -> None:
    async def ask(number: int) -> bytes:
        key = f"cache:{number}"
        await cache.execute(("SET", key, number, "PX", 60_000))
        answer: bytes = await cache.execute(("GET", key))
        return answer

    answers = await asyncio.gather(*(ask(number) for number in range(1000)))
    assert answers == [b"%d" % number for number in range(1000)]


async def test_what_is_asked_in_one_moment_goes_out_together(cache: Cache, redis_url: str) -> None:
    await cache.execute(("PING",))
    with redis.Redis.from_url(redis_url) as other:
        before = other.info("stats")
        await asyncio.gather(*(cache.execute(("GET", f"cache:{number}")) for number in range(100)))
        after = other.info("stats")
    assert after["total_commands_processed"] - before["total_commands_processed"] >= 100
    assert after["total_connections_received"] == before["total_connections_received"]


async def test_several_commands_give_the_last_answer_and_a_refusal_is_the_askers_own(cache: Cache) -> None:
    await cache.execute(("DEL", "cache:list"))
    refused = asyncio.create_task(cache.execute(("LPUSH", "cache:list", "a"), ("INCR", "cache:list")))
    other = asyncio.create_task(cache.execute(("LLEN", "cache:list")))
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await refused
    assert await other == 1


async def test_what_is_told_is_there_for_whoever_asks_next(cache: Cache) -> None:
    assert cache.send(("SET", "cache:told", "yes", "PX", 60_000))
    assert await cache.execute(("GET", "cache:told")) == b"yes"
    assert cache.send(("SET", "cache:told", "later", "PX", 60_000))
    await asyncio.sleep(0.1)
    asked = cache.ask(("GET", "cache:told"))
    assert asked is not None
    assert await asked == b"later"


async def test_what_is_told_last_is_done_before_the_service_stops(redis_url: str) -> None:
    cache = cache_at(redis_url)
    assert cache.send(("SET", "cache:last", "word", "PX", 60_000))
    await cache.close()
    with redis.Redis.from_url(redis_url) as other:
        assert other.get("cache:last") == b"word"


async def test_an_asker_that_goes_away_leaves_the_others_their_answers(cache: Cache) -> None:
    await cache.execute(("SET", "cache:kept", "here", "PX", 60_000))
    gone = asyncio.create_task(cache.execute(("GET", "cache:nothing")))
    kept = asyncio.create_task(cache.execute(("GET", "cache:kept")))
    await asyncio.sleep(0)
    gone.cancel()
    assert await kept == b"here"


async def test_password_database_and_restarts(tmp_path: Path, guarded: tuple[int, "subprocess.Popen[bytes]"]) -> None:
    port, process = guarded
    cache = cache_at(f"redis://:s3cret@127.0.0.1:{port}/3", 1)
    await cache.execute(("SET", "in", "three"))
    assert redis.Redis(port=port, password="s3cret", db=3).get("in") == b"three"
    with pytest.raises(RedisError, match=r"WRONGPASS|invalid"):
        await cache_at(f"redis://:wrong@127.0.0.1:{port}/0", 1).execute(("PING",))
    process.kill()
    process.wait()
    for _ in range(3):
        with pytest.raises(RedisConnectionError):
            await cache.execute(("PING",))
    with redis_server(tmp_path / "again", port, "--requirepass", "s3cret"):
        eventually(redis.Redis(port=port, password="s3cret").ping)
        assert await cache.execute(("PING",))
        await cache.close()


async def test_a_user_of_an_acl_signs_in_with_its_name(guarded: tuple[int, "subprocess.Popen[bytes]"]) -> None:
    port, _ = guarded
    admin = redis.Redis(port=port, password="s3cret")
    admin.acl_setuser("app", enabled=True, passwords=["+p@ss/word"], keys=["everthread:*"], categories=["+@all"])
    cache = cache_at(f"valkey://app:p%40ss%2Fword@127.0.0.1:{port}/0")
    assert await cache.execute(("SET", "everthread:x", "1"))
    with pytest.raises(RedisError):
        await cache.execute(("SET", "others:x", "1"))
    await cache.close()


async def test_a_redis_that_is_silent_is_given_up_in_time() -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100_000)
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    cache = cache_at(f"redis://127.0.0.1:{port}/0", 0.2)
    began = time.monotonic()
    asked = [asyncio.create_task(cache.execute(("PING",)))]
    await asyncio.sleep(0.05)
    asked += [asyncio.create_task(cache.execute(("GET", "x"))) for _ in range(20)]
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, RedisTimeoutError)
    assert time.monotonic() - began < 1
    assert cache.ask(("PING",)) is None
    assert cache.send(("PING",)) is None
    await cache.close()
    server.close()
    gone.set()


async def test_something_that_is_no_redis_is_an_error() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    cache = cache_at(f"redis://127.0.0.1:{port}/0", 1)
    with pytest.raises(RedisError):
        await cache.execute(("PING",))
    await cache.close()
    server.close()


async def test_a_server_that_greets_in_another_way_leaves_nobody_waiting() -> None:
    """redis-py takes the answer to HELLO for a mapping, and fails on any other with an error not its own."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.read(10_000):
            writer.write(b"+OK\r\n" * said.count(b"*"))
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    cache = cache_at(f"redis://:s3cret@127.0.0.1:{server.sockets[0].getsockname()[1]}/0", 1)
    async with asyncio.timeout(10):
        for _ in range(2):
            answers = await asyncio.gather(*(cache.execute(("PING",)) for _ in range(3)), return_exceptions=True)
            assert [type(answer) for answer in answers] == [RedisConnectionError] * 3
        await cache.close()
    server.close()


async def test_a_cluster_that_its_library_fails_on_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def failing(pipeline: Any, **_: Any) -> Any:
        begun.set()
        await asyncio.sleep(0.05)
        raise AttributeError("'bytes' object has no attribute 'get'")

    monkeypatch.setattr(ClusterPipeline, "execute", failing)
    cache = cache_at(f"redis+cluster://127.0.0.1:{free_port()}", 1)
    async with asyncio.timeout(10):
        first = asyncio.create_task(cache.execute(("PING",)))
        await begun.wait()
        answers = await asyncio.gather(first, cache.execute(("PING",)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [RedisConnectionError] * 2
        with pytest.raises(RedisConnectionError):
            await cache.execute(("PING",))
        await cache.close()


@pytest.mark.parametrize(
    "url",
    [
        "", "hello", "http://host:6379/0", "redis://", "redis+sentinel://a:1,b:2/0", "redis+cluster://,", "redis://a:port/0",
        "memcached://a", "unix+cluster:///x", "redis://user:s3cret@:6379", "redis://user:s3cret@h\u2100st", "redis://[::1",
    ],
)  # fmt: skip
def test_a_url_that_leads_nowhere_is_refused_in_a_sentence_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        connect(url, timeout_seconds=1)
    assert "s3cret" not in str(refused.value)


class TurnExecution:
    """A way to a Redis whose end can be changed, as a name's address can; with TLS if wanted."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.to = port
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0, ssl=self._context)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.to)
        for source, target in ((reader, to_writer), (to_reader, writer)):
            task = asyncio.create_task(self._pass_on(source, target))
            self._tasks.add(task)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
        target.close()

    def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()


class Meddler:
    """A way to a Redis that changes what the server says, or closes the connection instead if that is None."""

    def __init__(self, port: int, meddle: Callable[[bytes], bytes | None]) -> None:
        self._to = port
        self._meddle = meddle
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def cache(self) -> Cache:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return cache_at(f"redis://:s3cret@127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0", 1)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._tasks.add(asyncio.create_task(self._pass_on(reader, to_writer, lambda data: data)))
        self._tasks.add(asyncio.create_task(self._pass_on(to_reader, writer, self._meddle)))

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, meddle: Callable[[bytes], bytes | None]
    ) -> None:
        with suppress(OSError):
            while (data := await source.read(65_536)) and (said := meddle(data)) is not None:
                target.write(said)
                await target.drain()
        target.close()

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()


@pytest.mark.parametrize("breaks", [1, 2])
async def test_a_connection_that_breaks_amid_answers_is_replaced_once(
    guarded: tuple[int, "subprocess.Popen[bytes]"], breaks: int
) -> None:
    left = breaks

    def breaking(said: bytes) -> bytes | None:
        nonlocal left
        if b"+OK\r\n$5\r\nfirst\r\n" not in said:
            return said
        left -= 1
        return said if left < 0 else None

    way = Meddler(guarded[0], breaking)
    cache = await way.cache()
    await cache.execute(("DEL", "cache:broken"))
    asked = [
        asyncio.create_task(cache.execute(*commands))
        for commands in (
            [("SET", "cache:broken", "first"), ("GET", "cache:broken")],
            [("GET", "cache:broken"), ("GET", "cache:nothing")],
            [("ECHO", "last")],
        )
    ]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    if breaks == 1:
        assert answers == [b"first", None, b"last"]
    else:
        assert all(isinstance(answer, RedisConnectionError) for answer in answers)
        assert await cache.execute(("ECHO", "again")) == b"again"
    assert way.connections == breaks + 1
    await cache.close()
    await way.close()


async def test_an_answer_to_nothing_is_never_taken_for_that_to_something_else(
    guarded: tuple[int, "subprocess.Popen[bytes]"],
) -> None:
    way = Meddler(guarded[0], lambda said: said.replace(b"$3\r\none\r\n", b"$3\r\none\r\n$5\r\nstray\r\n"))
    cache = await way.cache()
    assert await cache.execute(("ECHO", "one")) == b"one"
    assert await cache.execute(("ECHO", "two")) == b"two"
    assert way.connections == 2
    await cache.close()
    await way.close()


async def test_what_a_server_says_of_itself_is_no_answer(guarded: tuple[int, "subprocess.Popen[bytes]"]) -> None:
    """Servers push messages to connections of RESP3 at any time."""
    pushed = b">2\r\n+invalidate\r\n*0\r\n"
    way = Meddler(guarded[0], lambda said: pushed + said + pushed if b"echoed" in said else said)
    cache = await way.cache()
    assert [await cache.execute(("ECHO", f"echoed {number}")) for number in range(3)] == [
        b"echoed %d" % number for number in range(3)
    ]
    assert way.connections == 1
    await cache.close()
    await way.close()


async def test_a_command_that_cannot_be_sent_is_its_askers_own_error(cache: Cache) -> None:
    other = asyncio.create_task(cache.execute(("ECHO", "other")))
    for words in (("SET", "cache:bad", object()), ("SET", "cache:bad", "\ud800")):
        with pytest.raises((TypeError, ValueError)):
            await cache.execute(words)
    assert await other == b"other"


async def test_a_refused_batch_leaves_a_connection_that_answers_the_next(cache: Cache) -> None:
    asked = [cache.execute(("EVALSHA", "0" * 40, 0)), cache.execute(("NO", "such")), cache.execute(("ECHO", "here"))]
    missing, unknown, here = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(missing, NoScriptError)
    assert isinstance(unknown, ResponseError)
    assert here == b"here"


async def test_a_master_that_was_demoted_is_left_for_the_one_its_name_leads_to(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    with redis_server(tmp_path / "1", first), redis_server(tmp_path / "2", second):
        for port in (first, second):
            eventually(redis.Redis(port=port).ping)
        way = TurnExecution(first)
        cache = cache_at(f"redis://127.0.0.1:{await way.open()}/0")
        await cache.execute(("SET", "x", "1"))
        redis.Redis(port=first).replicaof("127.0.0.1", second)
        way.to = second
        with pytest.raises(RedisError):
            await cache.execute(("SET", "x", "2"))
        await cache.execute(("SET", "x", "3"))
        assert redis.Redis(port=second).get("x") == b"3"
        await cache.close()
        way.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key."""
    path = tmp_path_factory.mktemp("tls") / "redis.pem"
    self_signed(path, x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    return path


async def test_tls_asks_for_the_certificate_that_the_url_names(
    guarded: tuple[int, "subprocess.Popen[bytes]"], certificate: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    way = TurnExecution(guarded[0], context)
    where = f"rediss://:s3cret@127.0.0.1:{await way.open()}/0"
    cache = cache_at(f"{where}?ssl_ca_certs={certificate}")
    assert await cache.execute(("SET", "x", "1"))
    await cache.close()
    with pytest.raises(RedisError):
        await cache_at(where).execute(("PING",))  # Signed by nobody who is trusted.
    trusting = cache_at(f"{where}?ssl_cert_reqs=none")
    assert await trusting.execute(("PING",))
    await trusting.close()
    way.close()


@contextmanager
def sentinels(directory: Path) -> Iterator[tuple[int, "subprocess.Popen[bytes]", str]]:
    """A master, a replica of it, and two sentinels that watch them: the master's port and process, and the URL."""
    master, replica, *watching = (free_port() for _ in range(4))
    replication = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
    with (
        redis_server(directory / "master", master, *replication) as process,
        redis_server(directory / "replica", replica, "--replicaof", "127.0.0.1", str(master), *replication),
    ):
        eventually(lambda: redis.Redis(port=master).info("replication")["connected_slaves"] == 1)
        servers = []
        for port in watching:
            home = directory / str(port)
            home.mkdir()
            config = home / "sentinel.conf"
            config.write_text(
                f"sentinel monitor chat 127.0.0.1 {master} 2\nsentinel down-after-milliseconds chat 500\n"
                "sentinel failover-timeout chat 2000\n"
            )
            server = redis_server(home, port, str(config), "--sentinel")
            server.__enter__()
            servers.append(server)
        try:
            for port in watching:
                eventually(partial(_sees_the_others, redis.Redis(port=port)))
            hosts = ",".join(f"127.0.0.1:{port}" for port in watching)
            yield master, process, f"redis+sentinel://{hosts}/0?service=chat"
        finally:
            for server in servers:
                server.__exit__(None, None, None)


def _sees_the_others(sentinel: "redis.Redis") -> bool:
    watched: Any = sentinel.sentinel_master("chat")
    others = watched["num-other-sentinels"]
    return others == 1 and bool(sentinel.sentinel_slaves("chat"))


async def test_behind_sentinels_the_next_master_is_found(tmp_path: Path) -> None:
    with sentinels(tmp_path) as (_, process, url):
        cache = cache_at(url)
        await cache.execute(("SET", "x", "1"))
        process.kill()
        process.wait()
        until = time.monotonic() + 30
        while True:
            try:
                await cache.execute(("SET", "x", "2"))
                break
            except RedisError:
                assert time.monotonic() < until
                await asyncio.sleep(0.1)
        assert await cache.execute(("GET", "x")) == b"2"
        await cache.close()


@contextmanager
def cluster(directory: Path) -> Iterator[tuple[list[int], str]]:
    """Three masters, each with a third of the slots: their ports, and the URL."""
    ports = [port_of_a_cluster() for _ in range(3)]
    servers = [
        redis_server(directory / str(port), port, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        for port in ports
    ]
    for server in servers:
        server.__enter__()
    try:
        nodes: list[Any] = [redis.Redis(port=port) for port in ports]
        for number, node in enumerate(nodes):
            eventually(node.ping)
            start, end = number * 16384 // 3, (number + 1) * 16384 // 3
            node.execute_command("CLUSTER ADDSLOTS", *range(start, end))
        for port in ports[1:]:
            nodes[0].execute_command("CLUSTER MEET", "127.0.0.1", port)
        for node in nodes:
            eventually(partial(_is_whole, node))
        yield ports, "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)
    finally:
        for server in servers:
            server.__exit__(None, None, None)


def _is_whole(node: Any) -> bool:
    info = node.cluster("info")
    return bool(info["cluster_known_nodes"] == "3" and info["cluster_state"] == "ok")


async def test_a_cluster_takes_every_key_and_deletes_across_its_slots(tmp_path: Path) -> None:
    with cluster(tmp_path) as (ports, url):
        cache = cache_at(url)
        keys = [f"everthread:{number}" for number in range(200)]
        await asyncio.gather(*(cache.execute(("SET", key, key), ("EXPIRE", key, 60)) for key in keys))
        answers = await asyncio.gather(*(cache.execute(("GET", key)) for key in keys))
        assert answers == [key.encode() for key in keys]
        assert all(redis.Redis(port=port).dbsize() for port in ports)
        await cache.call(lambda client: client.unlink(*keys))
        assert [redis.Redis(port=port).dbsize() for port in ports] == [0, 0, 0]
        await cache.ping()
        await cache.close()


@pytest.mark.parametrize("form", [cluster, sentinels])
def test_conversations_go_on_over_any_form_of_redis(
    service_env: dict[str, str], emulator: Emulator, tmp_path: Path, form: Any
) -> None:
    with form(tmp_path) as (*_, url):
        service = Service(env={**service_env, "REDIS_URL": url, "EVERTHREAD_EVENT_LOG_FLUSH_SECONDS": "0.01"})
        assert httpx2.get(f"{service.url}/readyz").json()["redis"] == "ok"
        threads = [service.thread() for _ in range(6)]
        for thread in threads:
            service.turn(thread, "My name is Ada.")
            streamed = service.http.post(f"/threads/{thread}/turns", json={"input": "What is my name?", "stream": True})
            turn = streamed.headers["everthread-turn"]
            assert streamed.headers["everthread-continuation"] == "chained"
            again = service.http.get(f"/threads/{thread}/turns/{turn}/events")
            assert "response.completed" in again.text
        for thread in threads:
            assert service.http.delete(f"/threads/{thread}").status_code == 200
        assert "everthread_redis_errors_total 0.0" in httpx2.get(f"{service.url}/metrics").text
        service.stop()


def test_a_redis_that_is_away_at_the_start_is_a_warning(service_env: dict[str, str], emulator: Emulator) -> None:
    service = Service(env={**service_env, "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"})
    thread = service.thread()
    assert service.turn(thread, "My name is Ada.")["status"] == "completed"
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    service.process.wait_for("Redis does not answer at REDIS_URL")
    service.stop()


def test_a_redis_url_that_leads_nowhere_is_said_in_a_sentence(service_env: dict[str, str]) -> None:
    process = Process("serve", env={**service_env, "REDIS_URL": "mysql://user:s3cret@host"})
    process.wait_for("everthread: Cannot use REDIS_URL: it must begin with redis://")
    assert process.ended() == 1
    assert not any("Traceback" in line or "s3cret" in line for line in process.lines)

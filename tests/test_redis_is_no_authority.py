"""Redis makes things fast and is believed in nothing that a worker did not write there itself."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from redis.asyncio.connection import parse_url

from tests.service import Emulator, Service, eventually, said
from tests.test_durability import WORDS, begin


@pytest.fixture
def cache(redis_url: str) -> Iterator["redis.Redis"]:
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


def keys_of(cache: "redis.Redis", kind: str, id_: str) -> list[Any]:
    found: Any = cache.keys(f"everthread:*:{kind}:{id_.partition('_')[2]}")
    return list(found)


def key_of(cache: "redis.Redis", kind: str, id_: str) -> str:
    (key,) = keys_of(cache, kind, id_)
    name: str = bytes(key).decode()
    return name


def test_a_live_id_copied_from_another_thread_is_a_miss(
    service: Service, emulator: Emulator, cache: "redis.Redis"
) -> None:
    ada, bob = service.thread(), service.thread()
    service.turn(ada, "My name is Ada.")
    service.turn(bob, "My name is Bob.")
    eventually(lambda: bool(keys_of(cache, "live", ada) and keys_of(cache, "live", bob)))
    cache.set(key_of(cache, "live", ada), cache.get(key_of(cache, "live", bob)) or b"")
    assert service.turn(ada, "What is my name?")["output_text"] == "Ada"
    assert emulator.calls()[-1]["body"]["previous_response_id"] == emulator.calls()[0]["answer"]["id"]


GARBAGE: dict[str, Any] = {
    "text": lambda cache, key: cache.set(key, "x"),
    "json": lambda cache, key: cache.set(key, b'{"turn_id": 1, "context_tokens": 1e400}'),
    "bytes": lambda cache, key: cache.set(key, bytes(range(256))),
    "list": lambda cache, key: cache.lpush(key, "x"),
    "hash": lambda cache, key: cache.hset(key, "x", "y"),
    "entry": lambda cache, key: cache.xadd(key, {"x": "y"}),
    "entry of another form": lambda cache, key: cache.xadd(key, {"n": "one", "d": "data: {}\n\n", "end": "1"}),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_nothing_that_stands_in_redis_breaks_a_turn_or_a_stream(
    service: Service, emulator: Emulator, cache: "redis.Redis", kind: str
) -> None:
    thread = service.thread()
    turn, last = begin(service, thread, f"Echo: {WORDS}")
    eventually(lambda: bool(keys_of(cache, "live", thread) and keys_of(cache, "events", turn)))
    for key in (key_of(cache, "live", thread), key_of(cache, "events", turn)):
        cache.delete(key)
        GARBAGE[kind](cache, key)
    rest = service.follow(thread, turn, params={"starting_after": last})
    assert rest[-1]["type"] == "response.completed"
    assert said(service.follow(thread, turn)) == WORDS
    assert service.turn(thread, "Recite the conversation")["continuation"] == "chained"
    assert said(service.stream(thread, "Echo: on")) == "on"


def test_what_somebody_else_adds_to_a_running_streams_events_is_neither_shown_nor_stored(
    service: Service, service_env: dict[str, str], emulator: Emulator, cache: "redis.Redis"
) -> None:
    doomed = Service(env={**service_env, "EVERTHREAD_LEASE_SECONDS": "1.5"})
    other = Service(env={**service_env, "EVERTHREAD_LEASE_SECONDS": "1.5"})
    thread = service.thread()
    emulator.fault("slow", seconds_per_event=0.1)
    turn, _ = begin(doomed, thread, "Echo: " + "word " * 100, events=10)
    key = key_of(cache, "events", turn)
    kept: Any = cache.xrange(key)
    genuine = kept[-1][1]
    data = b'{"type":"response.output_text.delta","delta":"FORGED"}'
    forged = b"id: 90\nevent: response.output_text.delta\ndata: %b\n\n" % data
    entries: list[Any] = [
        {b"n": b"10", b"d": forged, b"end": b"1"},
        {**genuine, b"d": forged},
        {**genuine, b"n": b"11"},
        genuine,  # Ours, written again.
    ]
    for fields in entries:
        cache.xadd(key, fields)
    time.sleep(0.5)
    doomed.process.stop(signal.SIGKILL)
    events = service.follow(thread, turn)
    assert "FORGED" not in str(events)
    numbers = [event["sequence_number"] for event in events]
    assert numbers == sorted(set(numbers))
    closed = service.http.get(f"/threads/{thread}/turns/{turn}").json()
    assert closed["status"] == "incomplete"
    assert closed["output_text"] == said(events)
    assert set(said(events).split()) == {"word"}
    other.stop()


class Valve:
    """A way to Redis that can be shut: what is sent is swallowed, and nothing is answered."""

    def __init__(self, redis_url: str) -> None:
        self._path = parse_url(redis_url)["path"]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._open = threading.Event()
        self._open.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        self._open.clear()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._path)
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(65536):
            if self._open.is_set():
                target.sendall(data)


def test_a_redis_that_swallows_everything_is_waited_for_once_and_not_by_one_after_the_other(
    service_env: dict[str, str], redis_url: str, emulator: Emulator
) -> None:
    if not redis_url.startswith("unix://"):
        pytest.skip("needs the embedded Redis")
    valve = Valve(redis_url)
    service = Service(env={**service_env, "REDIS_URL": valve.url, "EVERTHREAD_REDIS_TIMEOUT_SECONDS": "0.5"})
    threads = [service.thread() for _ in range(40)]
    with ThreadPoolExecutor(40) as pool:
        list(pool.map(lambda thread: service.turn(thread, "My name is Ada."), threads))
        valve.shut()
        began = time.monotonic()
        answers = list(pool.map(lambda thread: service.turn(thread, "What is my name?"), threads))
        # One after the other they would wait for twenty seconds and more.
        assert time.monotonic() - began < 8
    assert {answer["output_text"] for answer in answers} == {"Ada"}
    assert {answer["continuation"] for answer in answers} == {"chained"}
    service.stop()

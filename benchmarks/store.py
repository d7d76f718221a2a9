"""Cost of the store: as a multiple of its floor, in the first minute of a new database, in bytes, and to purge."""

import asyncio
import random
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from sqlalchemy import make_url

from app import schema
from benchmarks import targets
from benchmarks.data import Filler
from benchmarks.floor import Floor, backends, content, milliseconds
from benchmarks.load import Load, median
from benchmarks.targets import KEY, MODEL
from benchmarks.words import text

Row = dict[str, Any]

ROUNDS = 5
TURNS = {1: 300, 16: 1600}
NEW_ROUNDS = 8
CONTENT_TABLES = ("items", "calls", "pieces", "turns", "audit_records", "threads", "thread_activity")
PER_THREAD = 50


def run(work: Path, others: int, say: Any) -> dict[str, Any]:
    """Args: others: how many other threads there are when some are deleted."""
    results: dict[str, Any] = {}
    work.mkdir()
    with ExitStack() as stack:
        upstream, _ = stack.enter_context(targets.stub(work))
        server_url, redis_url, _ = stack.enter_context(targets.servers(work))
        place = Place(work, upstream, server_url, redis_url, say)
        results["new database"] = uvloop.run(place.in_new_database(_first_minute))
        results["floor"] = uvloop.run(place.in_new_database(_floor))
        results["bytes"] = uvloop.run(place.in_new_database(_bytes))
        results["forgetting"] = uvloop.run(place.in_new_database(lambda p, url, db: _forgetting(p, url, db, others)))
    return results


class Place:
    def __init__(self, work: Path, upstream: str, server_url: str, redis_url: str, say: Any) -> None:
        self._work = work
        self._upstream = upstream
        self._server_url = server_url
        self._redis_url = redis_url
        self._count = 0
        self.say = say

    async def in_new_database(self, work: Any) -> list[Row]:
        """Run a workload on a service with a database of its own, that nobody has spoken to yet."""
        self._count += 1
        name = f"store_{self._count}"
        connection = await asyncpg.connect(self._server_url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        database_url = make_url(self._server_url).set(database=name).render_as_string(hide_password=False)
        await schema.migrate(database_url)
        place = self._work / name
        place.mkdir()
        with targets.everthread(place, self._upstream, database_url, self._redis_url) as (url, _):
            rows: list[Row] = await work(self, url, database_url)
        for row in rows:
            self.say("  ".join(f"{field} {value}" for field, value in row.items()))
        return rows

    async def spent(self, work: Any, turns: int) -> float:
        """Milliseconds of the CPU of Postgres's clients' processes a turn."""
        before = milliseconds(backends())
        await work
        return (milliseconds(backends()) - before) / turns


async def _threads(load: Load, count: int) -> list[str]:
    return [f"/v1/threads/{(await load.ask('POST', '/v1/threads', {}))['id']}/turns" for _ in range(count)]


async def _floor(place: Place, url: str, database_url: str) -> list[Row]:
    """A plain chained turn beside two bare commits; a thousand threads, analyzed."""
    rows: list[Row] = []
    turn = content("Hello", "lorem " * 20)
    for at_once, count in TURNS.items():
        floor = await Floor.connect(database_url, at_once)
        async with Load(url, KEY, at_once) as load:
            paths = await _threads(load, 1000 if not rows else at_once)
            asked: list[int] = []
            done = partial(len, asked)

            def ask(number: int, paths: list[str] = paths, asked: list[int] = asked) -> tuple[str, str, Row]:
                asked.append(number)
                return "POST", paths[number % len(paths)], {"model": MODEL, "input": "Hello"}

            await floor.beside(load.run(ask, 2 * len(paths)), 500, done, turn)
            await _horizon(database_url)
            bare, ours = [], []
            for _ in range(ROUNDS):
                asked.clear()
                before = milliseconds(floor.pids), milliseconds(backends() - floor.pids)
                await floor.beside(load.run(ask, count), count, done, turn)
                bare.append((milliseconds(floor.pids) - before[0]) / count)
                ours.append((milliseconds(backends() - floor.pids) - before[1]) / count)
        await floor.close()
        multiple = median([mine / least for mine, least in zip(ours, bare, strict=True)])
        rows.append(
            {
                "at once": at_once,
                "floor_ms": round(median(bare), 3),
                "turn_ms": round(median(ours), 3),
                "multiple": round(multiple, 2),
            }
        )
    return rows


async def _horizon(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def _first_minute(place: Place, url: str, database_url: str) -> list[Row]:
    """16 threads of 50 turns, again and again, from the very first; then the same once it has settled."""
    rows: list[Row] = []

    async def round_(label: str) -> None:
        async with Load(url, KEY, 16) as load:
            paths = await _threads(load, 16)
            count = 16 * PER_THREAD

            def ask(number: int) -> tuple[str, str, Row]:
                return "POST", paths[number % 16], {"model": MODEL, "input": "Hello"}

            began = time.perf_counter()
            spent = await place.spent(load.run(ask, count), count)
            seconds = time.perf_counter() - began
        rows.append({"round": label, "postgres_ms": round(spent, 3), "turns_per_second": round(count / seconds)})

    for number in range(1, NEW_ROUNDS + 1):
        await round_(str(number))
    await _horizon(database_url)
    for number in range(1, 4):
        await round_(f"settled {number}")
    return rows


async def _bytes(place: Place, url: str, database_url: str) -> list[Row]:
    """Return the bytes that a turn of 2,000 characters in and 2,800 out takes, by table, with its indexes."""
    rng, turns = random.Random(1), 4000  # noqa: S311
    async with Load(url, KEY, 8) as load:
        paths = await _threads(load, 80)

        def ask(number: int) -> tuple[str, str, Row]:
            said = f"say=2800 {text(2000, rng)}"[:2000]
            return "POST", paths[number % 80], {"model": MODEL, "input": said}

        await load.run(ask, turns)
    connection = await asyncpg.connect(database_url)
    await connection.execute("VACUUM ANALYZE")
    lexemes = await connection.fetchval("SELECT pg_relation_size('items_lexemes_idx')")
    rows: list[Row] = []
    for table in CONTENT_TABLES:
        size = await connection.fetchval("SELECT pg_total_relation_size($1::regclass)", table)
        if table == "items":
            size -= lexemes
        rows.append({"table": table, "bytes_a_turn": round(size / turns)})
    await connection.close()
    rows.append({"table": "search", "bytes_a_turn": round(lexemes / turns)})
    return [*rows, {"table": "all", "bytes_a_turn": sum(row["bytes_a_turn"] for row in rows)}]


async def _forgetting(place: Place, url: str, database_url: str, others: int) -> list[Row]:
    """Deleting a thread of 50 turns, and purging a user of 5,000, among few other threads and among many."""
    rows: list[Row] = []
    connection = await asyncpg.connect(database_url)
    project_id = await connection.fetchval("SELECT project_id FROM projects")
    filler = Filler(connection, project_id)
    filled = 0
    async with Load(url, KEY, 16) as load:
        for count in (200, others):
            await filler.threads(filled + 1, count)
            filled = count
            user = f"leaves-{count}"
            made = [await load.ask("POST", "/v1/threads", {"user": user}) for _ in range(100)]
            kept = [await load.ask("POST", "/v1/threads", {}) for _ in range(5)]
            paths = [f"/v1/threads/{thread['id']}/turns" for thread in [*made, *kept]]

            def ask(number: int, paths: list[str] = paths) -> tuple[str, str, Row]:
                return "POST", paths[number % len(paths)], {"model": MODEL, "input": "Hello"}

            await load.run(ask, PER_THREAD * len(paths))
            waited = []
            for thread in kept:
                began = time.perf_counter()
                await load.ask("DELETE", f"/v1/threads/{thread['id']}")
                waited.append((time.perf_counter() - began) * 1000)
            # The same task deletes the provider's copies of what was forgotten before.
            while await connection.fetchval("SELECT count(*) FROM provider_deletions WHERE tries = 0"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            began = time.perf_counter()
            purge = await load.ask("DELETE", f"/v1/users/{user}/data")
            while (await load.ask("GET", f"/v1/purges/{purge['id']}"))["status"] != "completed":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            seconds = time.perf_counter() - began
            rows.append(
                {
                    "other threads": count,
                    "delete_of_50_turns_ms": round(median(waited), 1),
                    "purged_turns_per_second": round(100 * PER_THREAD / seconds),
                }
            )
    await connection.close()
    return rows

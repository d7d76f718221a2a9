"""The cost of an operation against the size of the data. What grows where it should not is a defect."""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import uvloop

from app import schema
from app.audit.checkpoints import Checkpoints
from app.audit.signing import signing_key
from app.audit.verify import verify_project
from app.db.engine import Database
from app.trail.users import new_trail_key
from benchmarks import targets
from benchmarks.data import Filler
from benchmarks.load import Load, median
from benchmarks.processes import Tree, answers, free_port, running
from benchmarks.targets import KEY, MODEL

Row = dict[str, Any]

REPEATED = 60
PER_THREAD = 100
WORDS = (
    ("a rare word", "word19990"),
    ("a common word", "word0"),
    ("two words", "word40 word77"),
    ("a phrase", '"word1 word2"'),
)


def run(work: Path, largest: int, say: Any) -> dict[str, Any]:
    """Every workload of size, up to `largest` threads, turns and audit records."""
    sizes = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= largest]
    results: dict[str, Any] = {}
    work.mkdir()
    with ExitStack() as stack:
        upstream, _ = stack.enter_context(targets.stub(work))
        database_url, redis_url, _ = stack.enter_context(targets.servers(work))
        asyncio.run(schema.migrate(database_url))
        url, tree = stack.enter_context(
            targets.everthread(
                work, upstream, database_url, redis_url, env={"EVERTHREAD_CONTEXT_WINDOW_TOKENS": "100000000"}
            )
        )
        place = Place(database_url, url, tree, work / "everthread", say)
        results["threads"] = uvloop.run(_threads(place, sizes))
        results["long threads"] = uvloop.run(_long_threads(place))
        results["search"] = uvloop.run(_search(place, [size for size in sizes if size >= 10_000]))
        results["audit"] = uvloop.run(_audit(place, [size for size in sizes if size >= 10_000]))
    results["cold start"] = _cold_start(work, say)
    return results


class Place:
    """The service under measurement, and the database below it."""

    def __init__(self, database_url: str, url: str, tree: Tree, data_dir: Path, say: Any) -> None:
        self.database_url = database_url
        self.url = url
        self.tree = tree
        self.data_dir = data_dir
        self.say = say

    async def filler(self) -> tuple[Filler, asyncpg.Connection, UUID]:
        connection = await asyncpg.connect(self.database_url)
        project_id = await connection.fetchval("SELECT project_id FROM projects")
        return Filler(connection, project_id), connection, project_id

    def tell(self, row: Row) -> Row:
        figures = "  ".join(f"{name} {value}" for name, value in row.items())
        self.say(figures)
        return row


async def _timed(work: Callable[[int], Awaitable[Any]], times: int = REPEATED) -> float:
    """The median of some runs, in milliseconds, after two that do not count."""
    waited = []
    for number in range(-2, times):
        began = time.perf_counter()
        await work(number + 2)
        if number >= 0:
            waited.append((time.perf_counter() - began) * 1000)
    return round(statistics.median(waited), 3)


async def _threads(place: Place, sizes: list[int]) -> list[Row]:
    """Listing, pages, by-name reads and get-or-create among ever more threads."""
    rows: list[Row] = []
    filler, connection, _ = await place.filler()
    filled = 0
    async with Load(place.url, KEY, 1) as load:
        for size in sizes:
            await filler.threads(filled + 1, size)
            filled = size
            page = await load.ask("GET", "/v1/threads?limit=20")
            middle = page["last_id"]
            some = (size * 7919) % 1_000_003

            async def by_name(n: int, size: int = size, some: int = some) -> Any:
                return await load.ask("GET", f"/v1/threads/by-name/bench-{(some + n * 31) % size + 1}")

            async def existing(n: int, size: int = size, some: int = some) -> Any:
                return await load.ask("PUT", f"/v1/threads/by-name/bench-{(some + n * 37) % size + 1}", {})

            async def new(n: int, size: int = size) -> Any:
                return await load.ask("PUT", f"/v1/threads/by-name/new-{size}-{n}", {})

            async def listed(n: int) -> Any:
                return await load.ask("GET", "/v1/threads?limit=20")

            async def paged(n: int, middle: str = middle) -> Any:
                return await load.ask("GET", f"/v1/threads?limit=20&after={middle}")

            async def of_user(n: int) -> Any:
                return await load.ask("GET", f"/v1/threads?limit=20&user=user-{n}")

            rows.append(
                place.tell(
                    {
                        "threads": size,
                        "list_ms": await _timed(listed),
                        "page_ms": await _timed(paged),
                        "list_of_user_ms": await _timed(of_user),
                        "get_by_name_ms": await _timed(by_name),
                        "get_or_create_existing_ms": await _timed(existing),
                        "get_or_create_new_ms": await _timed(new),
                    }
                )
            )
    await connection.close()
    return rows


async def _long_threads(place: Place) -> list[Row]:
    """Rebuilding, reading back and replaying threads of ever more turns."""
    rows: list[Row] = []
    filler, connection, _project_id = await place.filler()
    async with Load(place.url, KEY, 1) as load:
        for turns in (10, 100, 1_000, 10_000):
            names = [f"long-{turns}-{n}" for n in range(3)]
            for name in names:
                await load.ask("PUT", f"/v1/threads/by-name/{name}", {})
            # Thread `n` of this length has the turns from n * turns on: each name ends in its number.
            await filler.turns(0, 3 * turns - 1, turns, f"long-{turns}-")
            before = place.tree.cpu()
            began = time.perf_counter()
            for name in names:
                answer = await load.ask("POST", f"/v1/threads/by-name/{name}/turns", {"model": MODEL, "input": "Hello"})
                if answer["continuation"] != "rebuilt":
                    raise RuntimeError(f"{name} was {answer['continuation']}, not rebuilt")
            waited = (time.perf_counter() - began) * 1000 / len(names)
            used = (place.tree.cpu() - before).total * 1000 / len(names)

            async def messages(n: int, names: list[str] = names) -> Any:
                return await load.ask("GET", f"/v1/threads/by-name/{names[n % 3]}/messages?limit=100")

            async def latest(n: int, names: list[str] = names) -> Any:
                return await load.ask("GET", f"/v1/threads/by-name/{names[n % 3]}/messages?turns=20")

            async def replayed(n: int, names: list[str] = names) -> Any:
                return await load.read(f"/v1/threads/by-name/{names[n % 3]}/replay?speed=0")

            async def chained(n: int, names: list[str] = names) -> Any:
                return await load.ask(
                    "POST", f"/v1/threads/by-name/{names[n % 3]}/turns", {"model": MODEL, "input": "Hello"}
                )

            rows.append(
                place.tell(
                    {
                        "turns": turns,
                        "rebuild_cpu_ms": round(used, 1),
                        "rebuild_ms": round(waited, 1),
                        "chained_turn_ms": await _timed(chained, 30),
                        "messages_ms": await _timed(messages, 5),
                        "latest_20_turns_ms": await _timed(latest, 15),
                        "replay_ms": await _timed(replayed, 3),
                    }
                )
            )
    await connection.close()
    return rows


async def _search(place: Place, sizes: list[int]) -> list[Row]:
    """Full text among ever more turns."""
    rows: list[Row] = []
    filler, connection, _project_id = await place.filler()
    filled = 0
    async with Load(place.url, KEY, 1) as load:
        for size in sizes:
            needed = size // PER_THREAD
            have = await connection.fetchval("SELECT count(*) FROM threads WHERE name LIKE 'bench-%'")
            if have < needed + 1:
                await filler.threads(have + 1, needed + 1)
            began = time.perf_counter()
            await filler.turns(filled + PER_THREAD, size + PER_THREAD - 1, PER_THREAD)
            await connection.execute("VACUUM items", timeout=600)
            place.say(f"{size} turns are there after {time.perf_counter() - began:.0f} s")
            filled = size
            row: Row = {"turns": size}
            for label, words in WORDS:
                quoted = words.replace(" ", "+").replace('"', "%22")

                async def search(n: int, quoted: str = quoted) -> Any:
                    return await load.ask("GET", f"/v1/search?q={quoted}&limit=20")

                row[label] = await _timed(search, 15)
            rows.append(place.tell(row))
    await connection.close()
    return rows


async def _audit(place: Place, sizes: list[int]) -> list[Row]:
    """Verifying ever more audit records: chains, leaves and signatures."""
    rows: list[Row] = []
    for size in sizes:
        _filler, connection, _ = await place.filler()
        name = f"audit-{size}"
        project_id: UUID = await connection.fetchval(
            "INSERT INTO projects (project_id, name, trail_key) VALUES (uuidv7(), $1, $2) RETURNING project_id",
            name,
            new_trail_key(),
        )
        began = time.perf_counter()
        await Filler(connection, project_id).records(size // PER_THREAD, PER_THREAD)
        appended = time.perf_counter() - began
        await connection.close()
        database = Database(place.database_url, pool_size=2, timeout_seconds=120)
        key = signing_key(None, place.data_dir)
        began = time.perf_counter()
        await Checkpoints(database, key, every_seconds=1).write(project_id)
        signed = time.perf_counter() - began
        runs = []
        for _ in range(3 if size < 1_000_000 else 1):
            began = time.perf_counter()
            verdict = await verify_project(database, project_id, trusted=[key.public_key()])
            runs.append(time.perf_counter() - began)
            if verdict.problems or verdict.records != size:
                raise RuntimeError(f"{verdict.records} records, {verdict.problems[:3]}")
        await database.close()
        rows.append(
            place.tell(
                {
                    "records": size,
                    "append_us_per_record": round(appended / size * 1e6, 1),
                    "checkpoint_s": round(signed, 2),
                    "verify_s": round(statistics.median(runs), 2),
                    "verify_us_per_record": round(statistics.median(runs) / size * 1e6, 1),
                }
            )
        )
    return rows


def _cold_start(work: Path, say: Any) -> list[Row]:
    """`serve` on an empty data directory, and on one that has been used."""
    rows = []
    directory = work / "cold"
    for label, times in (("an empty data directory", 1), ("an existing data directory", 3)):
        waited = []
        for _ in range(times):
            port = free_port()
            command = [
                sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--data-dir", str(directory),
                "--emulator-port", str(free_port()),
            ]  # fmt: skip
            began = time.perf_counter()
            ready = answers(f"http://127.0.0.1:{port}/readyz")
            with running(command, ready=ready, log=work / "cold.log"):
                waited.append(time.perf_counter() - began)
        rows.append({"cold start": label, "seconds": round(median(waited), 2)})
        say(f"cold start on {label}: {rows[-1]['seconds']} s")
    return rows

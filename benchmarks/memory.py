"""Cost of memory: counting, rebuilding with and without a compaction; the input of the model as a thread grows; and
when the provider's cache pays."""

import asyncio
import random
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import uvloop

from app import schema
from app.chain.context import Context
from app.items import vocabulary, weights
from app.provider.prices import CACHED_SHARE, WRITTEN_SHARE
from app.turns.context import LATEST_SHARE, wants_cache
from benchmarks import targets
from benchmarks.data import Filler
from benchmarks.load import Load
from benchmarks.processes import answers, free_port, listens, running
from benchmarks.targets import KEY, MODEL
from benchmarks.words import text

Row = dict[str, Any]

COUNTED_CHARACTERS = 4_800
REBUILDS = 20

SMALL_WINDOW = 8_000
"""Context window of the conversation that is drawn."""
DRAWN_TURNS = 160

THREADS = 400
TURNS_OF_A_THREAD = 40
TURN_TOKENS = 500
BURST_STAYS = 0.85


def run(work: Path, say: Any) -> dict[str, Any]:
    """Every figure of memory."""
    work.mkdir()
    today = datetime.now(UTC).date().isoformat()
    results: dict[str, Any] = {"made on": today, "counting": _counting(say), "cache": _cache(say)}
    with ExitStack() as stack:
        upstream, _ = stack.enter_context(targets.stub(work))
        database_url, redis_url, _ = stack.enter_context(targets.servers(work))
        asyncio.run(schema.migrate(database_url))
        # The conversations of this part fit the window: what is measured is the rebuild, and not the dropping.
        env = {"EVERTHREAD_CONTEXT_WINDOW_TOKENS": "100000000", "EVERTHREAD_COMPACTION_SHARE": "0"}
        url, tree = stack.enter_context(targets.everthread(work, upstream, database_url, redis_url, env=env))
        results["rebuilding"] = uvloop.run(_rebuilding(database_url, url, tree, say))
    results["growing"] = _growing(work, say)
    return results


def _counting(say: Any) -> list[Row]:
    """The estimate of an item against its count by Qwen's vocabulary."""
    item = {"type": "message", "role": "user", "content": text(COUNTED_CHARACTERS, random.Random(1))}  # noqa: S311
    rows = []
    began = time.process_time()
    vocabulary.text_tokens("")
    rows.append({"what": "loading the vocabulary, once", "cpu_ms": round((time.process_time() - began) * 1000, 1)})
    for what, work in (("the estimate", weights.tokens), ("the count", vocabulary.tokens)):
        began = time.process_time()
        for _ in range(200):
            work(item)
        rows.append({"what": what, "cpu_ms": round((time.process_time() - began) * 1000 / 200, 4)})
    say(f"counting {COUNTED_CHARACTERS} characters: {rows}")
    return rows


async def _rebuilding(database_url: str, url: str, tree: Any, say: Any) -> list[Row]:
    """The CPU of a turn whose history is rebuilt: whole, and from a compaction on."""
    rows: list[Row] = []
    connection = await asyncpg.connect(database_url)
    filler = Filler(connection, await connection.fetchval("SELECT project_id FROM projects"))
    # A system message is never chained on.
    body = {"model": MODEL, "input": [{"role": "system", "content": "On."}, {"role": "user", "content": "Hi"}]}
    async with Load(url, KEY, 1) as load:
        for turns in (100, 1_000, 10_000):
            name = f"long-{turns}-0"
            await load.ask("PUT", f"/v1/threads/by-name/{name}", {})
            await filler.turns(0, turns - 1, turns, f"long-{turns}-")
            row: Row = {"turns": turns}
            for label in ("whole", "compacted"):
                if label == "compacted":
                    await load.ask("POST", f"/v1/threads/by-name/{name}/compact", {"keep_turns": 20})
                before, began = tree.cpu(), time.perf_counter()
                for _ in range(REBUILDS):
                    answer = await load.ask("POST", f"/v1/threads/by-name/{name}/turns", body)
                    if answer["continuation"] != "rebuilt":
                        raise RuntimeError(f"{name} was {answer['continuation']}, not rebuilt")
                row[f"{label}_cpu_ms"] = round((tree.cpu() - before).total * 1000 / REBUILDS, 1)
                row[f"{label}_ms"] = round((time.perf_counter() - began) * 1000 / REBUILDS, 1)
            say(f"rebuilding: {row}")
            rows.append(row)
    await connection.close()
    return rows


def _growing(work: Path, say: Any) -> dict[str, list[Row]]:
    """Return the model's count of its input, turn by turn, with compaction and without."""
    found: dict[str, list[Row]] = {}
    for label, share in (("compaction", "0.7"), ("none", "0")):
        with ExitStack() as stack:
            place = work / label
            place.mkdir()
            port, emulator_port = free_port(), free_port()
            command = [sys.executable, "-m", "app.cli", "emulator", "--port", str(emulator_port)]
            small = {"EVERTHREAD_EMULATOR_WINDOW_TOKENS": str(SMALL_WINDOW)}
            stack.enter_context(running(command, env=small, ready=listens(emulator_port), log=place / "emulator.log"))
            env = {
                "EVERTHREAD_CONTEXT_WINDOW_TOKENS": str(SMALL_WINDOW),
                "EVERTHREAD_COMPACTION_SHARE": share,
                "EVERTHREAD_BOOTSTRAP_KEY": KEY,
                "DASHSCOPE_API_KEY": "sk-benchmark",
                "DASHSCOPE_BASE_URL": f"http://127.0.0.1:{emulator_port}/compatible-mode/v1",
            }
            command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--data-dir", str(place / "data")]
            url = f"http://127.0.0.1:{port}"
            stack.enter_context(running(command, env=env, ready=answers(f"{url}/readyz"), log=place / "service.log"))
            words = random.Random(2)  # noqa: S311
            rows: list[Row] = []
            headers = {"Authorization": f"Bearer {KEY}"}
            with httpx2.Client(base_url=f"{url}/v1", headers=headers, timeout=60) as http:
                http.put("/threads/by-name/grows")
                for number in range(1, DRAWN_TURNS + 1):
                    turn = http.post("/threads/by-name/grows/turns", json={"input": text(700, words)}).json()
                    context = turn["context"]
                    rows.append(
                        {
                            "turn": number,
                            "input_tokens": turn["usage"]["input_tokens"],
                            "dropped_items": context["dropped_items"],
                            "compaction": context["compaction"],
                        }
                    )
                    time.sleep(0.02)  # Somebody reads the answer.
            found[label] = rows
            say(f"a growing thread, {label}: at most {max(row['input_tokens'] for row in rows)} tokens")
    return found


def _cache(say: Any) -> list[Row]:
    """Return the cost of conversations at different paces, with the cache off, on and automatic; off is 1.

    In bursts: people come back, say some things soon after each other, and go. At random: each turn by itself.
    """
    rows: list[Row] = []
    for percent in range(0, 101, 10):
        row: Row = {"soon": percent / 100}
        for how, stays in (("in bursts", BURST_STAYS), ("at random", 0.0)):
            costs = {
                mode: sum(_cost(mode, percent / 100, stays, random.Random(n)) for n in range(THREADS))  # noqa: S311
                for mode in ("off", "on", "auto")
            }
            row |= {f"{mode}, {how}": round(costs[mode] / costs["off"], 3) for mode in ("on", "auto")}
        rows.append(row)
        say(f"the provider's cache: {row}")
    return rows


def _cost(mode: str, soon: float, stays: float, draw: random.Random) -> float:
    """Return the input of one conversation, in tokens at their full price.

    Args:
        soon: the share of its turns that come within the life of a cached context.
        stays: the probability that the next is like the one before, and not drawn again.
    """
    is_soon = draw.random() < soon
    context, cached, cost = Context(), 0, 0.0
    for number in range(TURNS_OF_A_THREAD):
        weight = (number + 1) * TURN_TOKENS
        if draw.random() >= stays:
            is_soon = draw.random() < soon
        if number:
            pace = context.quick + LATEST_SHARE * (is_soon - context.quick)
            cached = cached if is_soon else 0
            context = replace(context, quick=pace)
        if wants_cache(mode, context, weight):
            cost += CACHED_SHARE * cached + WRITTEN_SHARE * (weight - cached)
            cached = weight
        else:
            cost += weight
            cached = 0
    return cost

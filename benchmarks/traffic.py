"""Requests side by side: what each target adds to the same calls to the same provider."""

import asyncio
import os
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from app import schema
from benchmarks import targets
from benchmarks.load import Load, Measured, Request, median
from benchmarks.processes import Tree
from benchmarks.targets import KEY, MODEL, Api, Skipped, Target

ROUNDS = 5

PLAIN = {1: 600, 16: 1600, 64: 1920}
"""Requests a round, by how many are under way at once."""

YARDSTICK = "aiohttp"
"""Target whose CPU the others' is divided by, round by round."""

Start = Callable[[Path, str, Path], AbstractContextManager[tuple[str, Tree]]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server beside Everthread."""

    start: Start
    share: float = 1.0
    """Share of the requests that it gets: a slow one is measured long enough all the same."""
    api: Api = "responses"
    model: str = MODEL
    streams: bool = True


PEERS = {
    YARDSTICK: Peer(targets.passthrough_aiohttp),
    "httpx": Peer(targets.passthrough_httpx),
    "litellm": Peer(targets.litellm, share=0.1),
    "langgraph": Peer(targets.langgraph, share=0.01, api="runs", streams=False),
    "ogx": Peer(targets.ogx, share=0.05, model=targets.OGX_MODEL, streams=False),
}

RATE = 250
"""Turns a second on which workers are compared: a third or so of what one carries."""

WORDS = "lorem " * 20
"""The stand-in's plain answer."""

Row = dict[str, Any]


def run(work: Path, venvs: Path, *, skip: frozenset[str], say: Any) -> dict[str, Any]:
    """Every workload of requests. Targets take turns within each, so that they see the same machine."""
    results: dict[str, Any] = {"skipped": {}}
    work.mkdir()
    with ExitStack() as stack:
        upstream, stub_tree = stack.enter_context(targets.stub(work))
        database_url, redis_url, stores = stack.enter_context(targets.servers(work))
        asyncio.run(schema.migrate(database_url))
        url, tree = stack.enter_context(targets.everthread(work, upstream, database_url, redis_url))
        compared = [Target("direct", upstream, stub_tree), Target("everthread", url, tree, stores, "threads")]
        for name, peer in PEERS.items():
            if name in skip:
                results["skipped"][name] = "left out on the command line"
                continue
            try:
                url, tree = stack.enter_context(peer.start(work, upstream, venvs))
                target = Target(name, url, tree, None, peer.api, peer.model, peer.streams)
                compared.append(target)
            except (Skipped, RuntimeError) as error:
                results["skipped"][name] = str(error)
        results["plain"] = uvloop.run(_plain(compared, say))
        compared = [target for target in compared if target.streams]
        results["stream"] = uvloop.run(_streams(compared, say))
        results["conversation"] = uvloop.run(_conversations(compared, say))
        results["open streams"] = uvloop.run(_open_streams(compared, say))
    results["workers"] = _workers(work, say)
    return results


async def _plain(compared: list[Target], say: Any) -> list[Row]:
    rows = []
    for at_once, count in PLAIN.items():
        rows += await _compare(compared, f"plain turn, {at_once} at once", at_once, count, {"input": "Hello"}, say)
    return rows


async def _streams(compared: list[Target], say: Any) -> list[Row]:
    rows = []
    for deltas, pause, count in ((100, 0, 160), (100, 2, 96), (2000, 1, 16)):
        body = {"input": f"deltas={deltas} pause={pause}", "stream": True}
        spaced = f"{pause} ms apart" if pause else "as fast as they come"
        label = f"stream of {deltas} deltas, {spaced}, 16 at once"
        rows += await _compare(compared, label, 16, count, body, say, apart=deltas * pause / 1000 / 16)
    return rows


async def _compare(
    compared: list[Target], label: str, at_once: int, count: int, body: Row, say: Any, *, apart: float = 0.0
) -> list[Row]:
    """One workload at each target, in turns."""
    measured: dict[str, list[Row]] = {target.name: [] for target in compared}
    for number in range(ROUNDS):
        for target in compared if number % 2 == 0 else reversed(compared):
            peer = PEERS.get(target.name)
            some = max(at_once, int(count * (peer.share if peer else 1)))
            async with Load(target.url, KEY, at_once) as load:
                request = await requests(load, target, at_once, body)
                await _check_words(load, target, request)
                await load.run(request, at_once * (2 if number else 4), apart=apart)
                row = await _measure(load, target, request, some, apart)
            measured[target.name].append(row)
    rows = []
    for name, runs in measured.items():
        row = {"workload": label, "target": name}
        row |= {field: statistics.median(run[field] for run in runs) for field in runs[0]}
        if yardstick := measured.get(YARDSTICK):
            ratios = [run["cpu_ms"] / of["cpu_ms"] for run, of in zip(runs, yardstick, strict=True)]
            row["of_yardstick"] = statistics.median(ratios)
        if "deltas" in row and row["deltas"] != _deltas_of(body):
            raise RuntimeError(f"{name}: {row['deltas']} deltas were heard, and {_deltas_of(body)} sent")
        rows.append(row)
        say(_line(row))
    return rows


def _deltas_of(body: Row) -> int:
    """The deltas that a stream's input asks for."""
    return int(str(body["input"]).split()[0].removeprefix("deltas="))


async def _check_words(load: Load, target: Target, request: Request) -> None:
    """Raise if a target's plain answer does not have the provider's words."""
    method, path, body = request(0)
    if target.api == "runs" or body is None or body.get("stream"):
        return
    output = (await load.ask(method, path, body))["output"]
    said = [part["text"] for item in output for part in item["content"]]
    if said != [WORDS]:
        raise RuntimeError(f"{target.name}: it answered {said}")


async def requests(load: Load, target: Target, at_once: int, body: Row) -> Request:
    """Return a function that sends the requests of a target's clients, on its own threads where it has any."""
    sent = {"model": target.model, **body}
    match target.api:
        case "responses":
            return lambda number: ("POST", "/v1/responses", sent)
        case "threads":
            paths = [f"/v1/threads/{(await load.ask('POST', '/v1/threads', {}))['id']}/turns" for _ in range(at_once)]
            return lambda number: ("POST", paths[number % at_once], sent)
        case "runs":
            runs = [
                f"/threads/{(await load.ask('POST', '/threads', {}))['thread_id']}/runs/wait" for _ in range(at_once)
            ]
            run = {"assistant_id": "agent", "input": sent}
            # A run that fails is answered with 200 as well.
            if "output_text" not in (tried := await load.ask("POST", runs[0], run)):
                raise RuntimeError(f"langgraph: {tried}")
            return lambda number: ("POST", runs[number % at_once], run)


async def _measure(
    load: Load, target: Target, request: Request, count: int, apart: float, rate: float | None = None
) -> Row:
    before, stores_before = target.service.cpu(), target.stores.cpu() if target.stores else None
    measured = await load.run(request, count, apart=apart, rate=rate)
    used = (target.service.cpu() - before).total
    of_stores = (target.stores.cpu() - stores_before).total if target.stores and stores_before else 0.0
    if measured.failed:
        raise RuntimeError(f"{target.name}: {measured.failed} of {count} requests failed")
    row = {
        "cpu_ms": used / count * 1000,
        "stores_cpu_ms": of_stores / count * 1000,
        "p50_ms": measured.percentile(50),
        "p99_ms": measured.percentile(99),
        "per_second": count / measured.seconds,
    }
    if measured.deltas:
        row |= {
            "deltas": measured.deltas / count,
            "cpu_us_per_delta": used / measured.deltas * 1e6,
            "first_delta_ms": median(measured.first_delta),
        }
    return row


async def _conversations(compared: list[Target], say: Any) -> list[Row]:
    """50 turns each: on a thread, or with the whole history in every request where there are none."""
    rows = []
    turns, at_once = 50, 8
    for target in compared:
        if target.name not in ("everthread", YARDSTICK, "httpx"):
            continue
        async with Load(target.url, KEY, at_once) as load:
            place = await requests(load, target, at_once, {})
            before = target.service.cpu()
            sent = 0
            history: list[Row] = []
            parts: list[Measured] = []
            for number in range(turns):
                new = {"role": "user", "content": f"Turn number {number}, and what I have to say in it."}
                history = [*history, new, {"role": "assistant", "content": "lorem " * 20}]
                input_: Any = [new] if target.api == "threads" else history[:-1]
                body = {"model": MODEL, "input": input_}
                sent += len(str(body)) * at_once

                def ask(n: int, body: Row = body, place: Request = place) -> tuple[str, str, Row]:
                    return "POST", place(n)[1], body

                parts.append(await load.run(ask, at_once))
            used = (target.service.cpu() - before).total
        rows.append(
            {
                "workload": f"{turns}-turn conversation, {at_once} at once",
                "target": target.name,
                "cpu_ms_per_turn": used / turns / at_once * 1000,
                "client_sends_kb": sent / at_once / 1000,
                "p50_first_ten_ms": median([w for part in parts[:10] for w in part.waited]),
                "p50_last_ten_ms": median([w for part in parts[-10:] for w in part.waited]),
            }
        )
        say(_line(rows[-1]))
    return rows


async def _open_streams(compared: list[Target], say: Any) -> list[Row]:
    """A thousand streams that say little: what each holds in memory, and whether any delta is missed."""
    rows = []
    count, deltas = 1000, 15
    for target in compared:
        if target.name not in ("everthread", YARDSTICK, "httpx"):
            continue
        async with Load(target.url, KEY, count) as load:
            request = await requests(load, target, count, {"input": f"deltas={deltas} pause=1000", "stream": True})
            before = target.service.memory()
            running = asyncio.create_task(load.run(request, count, apart=0.005))
            await asyncio.sleep(12)
            held = target.service.memory() - before
            measured = await running
        rows.append(
            {
                "workload": f"{count} open streams, a delta a second",
                "target": target.name,
                "kib_per_stream": held / count / 1024,
                "missed_deltas": count * deltas - measured.deltas,
                "failed": measured.failed,
            }
        )
        say(_line(rows[-1]))
    return rows


def _workers(work: Path, say: Any) -> list[Row]:
    """The same load at a fixed rate on one worker and on two, the load and the stand-in on a core of their own.

    Two cores cannot hold a load and two busy workers. So the rate is one that a worker carries with ease, and
    `busiest_cpu_ms` says how much the busiest worker uses for each turn of the whole load: what it uses decides how
    many turns a second there can be where every worker has a core.
    """
    rows = []
    cores = sorted(os.sched_getaffinity(0))
    of_load, of_service = cores[:1], cores[1:] or cores
    for workers in (1, 2):
        place = work / f"workers{workers}"
        place.mkdir()
        with ExitStack() as stack:
            upstream, stub = stack.enter_context(targets.stub(place))
            database_url, redis_url, stores = stack.enter_context(targets.servers(place))
            asyncio.run(schema.migrate(database_url))
            url, tree = stack.enter_context(
                targets.everthread(place, upstream, database_url, redis_url, workers=workers)
            )
            tree.pin(of_service)
            stores.pin(of_service)
            stub.pin(of_load)
            os.sched_setaffinity(0, of_load)
            stack.callback(os.sched_setaffinity, 0, cores)
            rows.append(
                {"workload": f"plain turn, {RATE} a second, --workers {workers}", "target": "everthread"}
                | uvloop.run(_at_a_rate(Target("everthread", url, tree, stores, "threads")))
            )
            say(_line(rows[-1]))
    return rows


async def _at_a_rate(target: Target) -> Row:
    clients, count = 64, RATE * 8
    async with Load(target.url, KEY, clients) as load:
        request = await requests(load, target, clients, {"input": "Hello"})
        await load.run(request, 5 * clients)
        await asyncio.sleep(2)
        runs = []
        for _ in range(ROUNDS):
            before = target.service.each_cpu()
            row = await _measure(load, target, request, count, 0.0, RATE)
            used = target.service.each_cpu()
            row["busiest_cpu_ms"] = max(used[pid] - before[pid] for pid in before) / count * 1000
            runs.append(row)
    return {field: statistics.median(run[field] for run in runs) for field in runs[0]}


def _line(row: Row) -> str:
    figures = "  ".join(f"{name} {value:.2f}" for name, value in row.items() if isinstance(value, int | float))
    return f"{row['workload']}: {row['target']}: {figures}"

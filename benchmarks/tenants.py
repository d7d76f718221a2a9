"""The cost that limits, a project's own account, a user token and encryption at rest add to a plain turn: CPU of the
service and of its stores, as a multiple of the same turn without them in the same run."""

import asyncio
import secrets
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from app import schema
from benchmarks import targets
from benchmarks.load import Load
from benchmarks.targets import KEY, MODEL
from benchmarks.traffic import Row

ROUNDS = 10
AT_ONCE = 16
TURNS = 640

EVERY_LIMIT = {
    "requests_per_minute": 10**9, "tokens_per_minute": 10**12, "turns_at_once": 10**6, "tokens_per_month": 10**14,
}  # fmt: skip


def run(work: Path, say: Any) -> list[Row]:
    work.mkdir()
    with ExitStack() as stack:
        upstream, _ = stack.enter_context(targets.stub(work))
        database_url, redis_url, stores = stack.enter_context(targets.servers(work))
        asyncio.run(schema.migrate(database_url))
        started = stack.enter_context(
            targets.everthread(work, upstream, database_url, redis_url, env={"EVERTHREAD_ACCOUNTS_INSIDE": "true"})
        )
        return uvloop.run(_run(started, stores, upstream, say))


async def _run(started: Any, stores: Any, upstream: str, say: Any) -> list[Row]:
    url, processes = started
    compared = {
        "as it is": await _tenant(url),
        "with one limit": await _tenant(url, limits={"requests_per_minute": 10**9}),
        "with four limits": await _tenant(url, limits=EVERY_LIMIT),
        "at an account of its own": await _tenant(url, account=f"{upstream}/compatible-mode/v1"),
        "with a user's token": await _token(url),
        "encrypted at rest": await _tenant(url, encrypted=True),
    }
    measured: dict[str, list[Row]] = {name: [] for name in compared}
    for number in range(ROUNDS):
        # Each goes first as often as any other.
        order = list(compared.items())
        for name, key in [*order[number % len(order) :], *order[: number % len(order)]]:
            async with Load(url, key, AT_ONCE) as load:
                made = [await load.ask("POST", "/v1/threads", {}) for _ in range(AT_ONCE)]
                paths = [f"/v1/threads/{thread['id']}/turns" for thread in made]

                def ask(n: int, paths: list[str] = paths) -> tuple[str, str, Row]:
                    return "POST", paths[n % AT_ONCE], {"model": MODEL, "input": "Hello"}

                await load.run(ask, AT_ONCE * (2 if number else 20))
                before, stores_before = processes.cpu(), stores.cpu()
                found = await load.run(ask, TURNS)
                if found.failed:
                    raise RuntimeError(f"{name}: {found.failed} of {TURNS} requests failed")
                measured[name].append(
                    {
                        "cpu_ms": (processes.cpu() - before).total / TURNS * 1000,
                        "stores_cpu_ms": (stores.cpu() - stores_before).total / TURNS * 1000,
                        "p50_ms": found.percentile(50),
                    }
                )
    rows = []
    for name, runs in measured.items():
        row: Row = {"turn": name} | {field: statistics.median(run[field] for run in runs) for field in runs[0]}
        # Rounds are compared with the same round of the turn as it is: the machine is as busy then.
        for field in ("cpu_ms", "stores_cpu_ms"):
            pairs = zip(runs, measured["as it is"], strict=True)
            row[f"{field} ratio"] = statistics.median(mine[field] / plain[field] for mine, plain in pairs)
        rows.append(row)
        say(
            f"a plain turn {name}: {row['cpu_ms ratio']:.2f} of the service's CPU, {row['stores_cpu_ms ratio']:.2f} of "
            f"the stores' ({row['cpu_ms']:.2f} + {row['stores_cpu_ms']:.2f} ms)"
        )
    return rows


async def _tenant(url: str, *, limits: Row | None = None, account: str | None = None, encrypted: bool = False) -> str:
    """The key of a new project."""
    async with Load(url, KEY, 1) as load:
        made = {"name": secrets.token_hex(8), "encrypted": encrypted}
        project = await load.ask("POST", "/v1/admin/projects", made)
        place = f"/v1/admin/projects/{project['id']}"
        if limits is not None:
            await load.ask("PATCH", place, {"limits": limits})
        if account is not None:
            await load.ask("POST", f"{place}/accounts", {"name": "own", "base_url": account, "api_key": "sk-own"})
        key: str = (await load.ask("POST", f"{place}/keys", {"name": "load"}))["key"]
        return key


async def _token(url: str) -> str:
    async with Load(url, KEY, 1) as load:
        token: str = (await load.ask("POST", "/v1/user_tokens", {"user": "somebody", "expires_in": 86_400}))["token"]
        return token

"""The benchmarks measure what they say: data as the service leaves it, a provider that speaks as the real one."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from openai import OpenAI

from benchmarks.data import Filler
from benchmarks.load import Load, Measured
from benchmarks.report import report
from benchmarks.routes import served, table
from benchmarks.slopes import Growth, exceeds
from benchmarks.targets import everthread, stub
from tests.service import Service


def test_the_stand_in_of_the_provider_answers_and_streams(tmp_path: Path) -> None:
    with stub(tmp_path) as (url, tree):
        client = OpenAI(base_url=f"{url}/v1", api_key="sk-any")
        assert client.responses.create(model="m", input="Hello").output_text.startswith("lorem")
        events = list(client.responses.create(model="m", input="deltas=7", stream=True))
        assert [event.type for event in events].count("response.output_text.delta") == 7
        assert events[-1].type == "response.completed"

        async def load() -> Measured:
            async with Load(url, "key", 4) as clients:
                body = {"input": "deltas=5 pause=1", "stream": True}
                return await clients.run(lambda number: ("POST", "/v1/responses", body), 8)

        measured = asyncio.run(load())
        assert (measured.count, measured.deltas, measured.failed, len(measured.first_delta)) == (8, 40, 0, 8)
        assert tree.cpu().total > 0


def test_written_data_is_read_searched_and_rebuilt_as_if_it_had_been_said(
    service: Service, database_url: str, fresh_database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with (
        stub(tmp_path) as (upstream, _),
        everthread(tmp_path, upstream, fresh_database_url, redis_url) as (url, _),
    ):

        async def fill() -> None:
            connection = await asyncpg.connect(fresh_database_url)
            filler = Filler(connection, await connection.fetchval("SELECT project_id FROM projects"))
            await filler.threads(1, 5)
            await filler.turns(10, 39, 10)
            await filler.records(4, 3)
            await connection.close()

        asyncio.run(fill())

        async def look() -> None:
            async with Load(url, "et_the_key_of_the_benchmarks_0123456789", 1) as load:
                threads = (await load.ask("GET", "/v1/threads"))["data"]
                assert [thread["name"] for thread in threads] == [f"bench-{n}" for n in (5, 4, 3, 2, 1)]
                assert [thread["turn_count"] for thread in threads] == [0, 0, 10, 10, 10]
                messages = (await load.ask("GET", "/v1/threads/by-name/bench-2/messages"))["data"]
                assert [message["role"] for message in messages] == ["user", "assistant"] * 10
                word = messages[0]["content"].split()[0]
                hits = (await load.ask("GET", f"/v1/search?q={word}&limit=100"))["data"]
                assert messages[0]["turn_id"] in {hit["turn_id"] for hit in hits}
                turn = await load.ask("POST", "/v1/threads/by-name/bench-2/turns", {"input": "Hello"})
                assert turn["continuation"] == "rebuilt"
                assert len((await load.ask("GET", "/v1/audit?action=thread.changed"))["data"]) == 12

        asyncio.run(look())


def test_the_report_says_which_targets_are_met() -> None:
    turn = {"cpu_ms": 1.0, "stores_cpu_ms": 1.0, "p50_ms": 2.0, "p99_ms": 4.0, "per_second": 100.0}
    stream = "stream of 100 deltas, 2 ms apart, 16 at once"
    rows = [
        {"workload": f"plain turn, {n} at once", "target": target, **turn}
        for n in (1, 16, 64)
        for target in ("direct", "everthread", "httpx")
    ]
    rows[1] |= {"of_yardstick": 3.5}
    rows[4] |= {"of_yardstick": 3.6}
    streams = [{"workload": stream, "target": row["target"], **turn, "first_delta_ms": 3.0} for row in rows[:3]]
    text = report(
        {
            "machine": {"date": "2026-01-01", "cpus": 2, "model": "x", "python": "3.11"},
            "traffic": {
                "plain": rows,
                "stream": streams,
                "conversation": [],
                "open streams": [{"workload": "open", "target": "everthread", "kib_per_stream": 120.0}],
                "workers": [{"workload": "w", **turn, "busiest_cpu_ms": used} for used in (1.0, 0.5)],
                "skipped": {"litellm": "no room"},
            },
            "scale": {
                "threads": [{"threads": n, "list_ms": 1.0, "page_ms": 1.0, "get_by_name_ms": float(n)} for n in (1, 2)],
                "long threads": [{"turns": n, "rebuild_cpu_ms": n / 100} for n in (1000, 10000)],
                "search": [{"turns": 1}],
                "audit": [{"records": 1}],
                "cold start": [{"cold start": "used", "seconds": 1.0}],
            },
        }
    )
    assert "| CPU of a plain turn, 1 at once, of the aiohttp pass-through's: at most 3.5 | 3.50 | yes |" in text
    assert "| CPU of a plain turn, 16 at once, of the aiohttp pass-through's: at most 3.5 | 3.60 | **no** |" in text
    assert "| CPU of a plain turn, 16 at once, of httpx's: at most 1 | 1.00 | yes |" in text
    assert f"| CPU of a {stream}, of httpx's: at most 0.5 | 1.00 | **no** |" in text
    assert "two workers for one: at least 1.5 times | 2.00 | yes |" in text
    assert "| memory per open stream: under 100 KiB | 120.00 KiB | **no** |" in text
    assert "| get by name, 1 to 2 threads: p50 within 1.5 times | 2.00 | **no** |" in text
    assert "*litellm* was skipped: no room" in text


def test_every_route_has_a_class_of_cost_and_nothing_else_has() -> None:
    assert served() == set(table())
    for name, asked in table().items():
        assert asked, name
        if not isinstance(asked, str):
            assert all(each.why for each in asked if each.growth is Growth.LINEAR), name


SIZES = (100, 1_000, 10_000)


@pytest.mark.parametrize(
    ("growth", "cost", "above"),
    [
        (Growth.CONSTANT, lambda size: 2.0, False),
        (Growth.CONSTANT, lambda size: 2.0 * {100: 1.1, 1_000: 0.85, 10_000: 1.2}[size], False),
        (Growth.CONSTANT, lambda size: 2.0 + size / 5_000, True),
        (Growth.LOGARITHMIC, lambda size: 2.0 * len(str(size)), False),
        (Growth.LOGARITHMIC, lambda size: 0.1 * size**0.5, True),
        (Growth.LINEAR, lambda size: 2.0 + size / 100, False),
        (Growth.LINEAR, lambda size: size * {100: 1.2, 1_000: 0.9, 10_000: 1.1}[size] / 100, False),
        (Growth.LINEAR, lambda size: 2.0 + (size / 1_000) ** 2, True),
    ],
)
def test_a_cost_above_its_class_is_told_from_noise(growth: Growth, cost: Callable[[int], float], above: bool) -> None:
    assert exceeds(growth, SIZES, [cost(size) for size in SIZES]) is above


def test_a_slope_needs_three_sizes() -> None:
    with pytest.raises(ValueError, match="three sizes"):
        exceeds(Growth.CONSTANT, (1, 10), (1.0, 1.0))

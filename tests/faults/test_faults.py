"""Load, and a hand that breaks things, from a seed that is printed; then nothing is lost, doubled or mixed up.

A longer run: `pytest tests/faults --fault-minutes 30`, and `--fault-seed N` to repeat one.
"""

import asyncio
import time
from pathlib import Path

import pytest

from tests.faults.checker import check, rows, summary
from tests.faults.load import Conversation, ask, converse
from tests.faults.world import World
from tests.service import eventually

TALKS = 8


def test_nothing_is_lost_doubled_or_mixed_up(tmp_path: Path, pytestconfig: pytest.Config, seed: int) -> None:
    seconds = float(pytestconfig.getoption("fault_minutes")) * 60
    world = World(tmp_path, seed)
    talks = [Conversation(mark=f"talk{number}x") for number in range(TALKS)]
    try:
        asyncio.run(_load(world, talks, seconds))
        # The leases of the dead run out.
        eventually(lambda: all(row["status"] != "in_progress" for row in rows(world)), 60)
        for talk in talks:
            asyncio.run(_next_turn(world, talk))
        check(world, talks)
        assert all(talk.acknowledged for talk in talks)
    finally:
        print(f"seed {seed}: {summary(world, talks)}")  # noqa: T201
        world.close()


async def _load(world: World, talks: list[Conversation], seconds: float) -> None:
    stop = asyncio.Event()
    running = [asyncio.create_task(converse(world, talk, stop)) for talk in talks]
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not any(task.done() for task in running):
        await asyncio.sleep(world.random.uniform(0.2, 0.8))
        await asyncio.to_thread(world.break_something)
    world.emulator.control("faults", [])
    stop.set()
    await asyncio.wait_for(asyncio.gather(*running), timeout=90)


async def _next_turn(world: World, talk: Conversation) -> None:
    """Every thread accepts a next turn."""
    asked = f"{talk.mark}-last"
    response = await ask(world, talk, asked, stream=False)
    assert response.status == "completed"
    talk.acknowledged.append((response.id, asked, "completed"))

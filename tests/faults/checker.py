"""Checks after a run with faults, from Postgres and from the provider's own log."""

import asyncio
from collections import Counter
from typing import Any

import asyncpg
import orjson

from app.audit import store
from app.audit.verify import verify_project
from app.db import ids
from app.db.engine import Database
from tests.faults.load import Conversation
from tests.faults.world import World

ROWS = """
SELECT t.id, t.thread_id, t.parent_id, t.status, t.response_id, t.error, th.head_turn_id,
    (SELECT string_agg(i.data->>'content', '') FROM items i
        WHERE i.project_id = t.project_id AND i.turn_id = t.id AND i.origin = 'input') AS asked,
    (SELECT count(*) FROM items i
        WHERE i.project_id = t.project_id AND i.turn_id = t.id AND i.origin = 'output') AS outputs,
    (SELECT count(*) FROM calls c WHERE c.project_id = t.project_id AND c.turn_id = t.id) AS calls
FROM turns t JOIN threads th ON th.project_id = t.project_id AND th.id = t.thread_id
ORDER BY t.id
"""


def rows(world: World) -> list[asyncpg.Record]:
    async def read() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(world.servers.database_url)
        try:
            return await connection.fetch(ROWS)
        finally:
            await connection.close()

    return asyncio.run(read())


def check(world: World, talks: list[Conversation]) -> None:
    """Raises AssertionError, naming what does not hold."""
    turns = rows(world)
    by_id = {row["id"]: row for row in turns}
    by_response_id = {row["response_id"]: row for row in turns if row["response_id"]}
    _every_turn_is_closed_with_its_record(turns)
    for talk in talks:
        _acknowledged_turns_are_there_once_and_in_order(talk, by_id)
    _no_call_was_doubled_and_no_context_mixed(world.emulator.calls(), turns, by_response_id)
    asyncio.run(_the_audit_trail_verifies(world, turns))


async def _the_audit_trail_verifies(world: World, turns: list[asyncpg.Record]) -> None:
    database = Database(world.servers.database_url, pool_size=1, timeout_seconds=30)
    try:
        (project,) = await store.projects(database)
        verdict = await verify_project(database, project["project_id"])
    finally:
        await database.close()
    assert verdict.problems == []
    assert verdict.records > 2 * len(turns)


def _every_turn_is_closed_with_its_record(turns: list[asyncpg.Record]) -> None:
    for row in turns:
        assert row["status"] != "in_progress", row
        if row["status"] == "completed":
            assert row["outputs"] == 1, row
            assert row["calls"] >= 1, row
        if row["status"] == "failed":
            assert row["error"], row


def _acknowledged_turns_are_there_once_and_in_order(talk: Conversation, by_id: dict[Any, asyncpg.Record]) -> None:
    told = [id_ for id_, _, _ in talk.acknowledged]
    assert len(set(told)) == len(told), f"{talk.mark}: a turn was acknowledged twice"
    thread = ids.parse(talk.id, ids.THREAD_PREFIXES)
    branch: list[Any] = []
    for id_, asked, status in talk.acknowledged:
        row = by_id[ids.parse(id_, ids.TURN_PREFIXES)]
        assert row["thread_id"] == thread
        assert row["asked"] == f"Echo: {asked}"
        assert row["status"] == status
        branch.append(row["id"])
    if not branch:
        return
    # From the head back, every acknowledged turn is met, the last one first.
    chain: list[Any] = []
    at = by_id[branch[-1]]["head_turn_id"]
    while at is not None:
        chain.append(at)
        at = by_id[at]["parent_id"]
    answered = {id_ for id_ in branch if by_id[id_]["status"] != "failed"}
    assert [id_ for id_ in reversed(chain) if id_ in answered] == [id_ for id_ in branch if id_ in answered], talk.mark


def _no_call_was_doubled_and_no_context_mixed(
    calls: list[dict[str, Any]], turns: list[asyncpg.Record], by_response_id: dict[str, asyncpg.Record]
) -> None:
    opened = Counter(row["asked"] for row in turns)
    answered: Counter[str] = Counter()
    for call in calls:
        asked = call["body"]["input"][-1]["content"]
        mark = asked.removeprefix("Echo: ").partition("-")[0]
        for item in call["body"]["input"]:
            text = item["content"].removeprefix("Echo: ")
            assert text.startswith(mark) or mark.startswith(text), f"another thread's words: {text} in {asked}"
        previous = call["body"].get("previous_response_id")
        if previous in by_response_id:
            assert f"Echo: {mark}-" in by_response_id[previous]["asked"], f"another thread's chain for {asked}"
        if call["status"] == 200 and call["answer"] and call["answer"].get("status") == "completed":
            answered[asked] += 1
    for asked, count in answered.items():
        assert count <= opened[asked], f"{asked}: {count} model calls for {opened[asked]} turns"


def summary(world: World, talks: list[Conversation]) -> str:
    statuses = Counter(status for talk in talks for _, _, status in talk.acknowledged)
    tries = sum(talk.tries for talk in talks)
    return orjson.dumps({"acknowledged": statuses, "tries": tries, "survived": world.broken}).decode()

"""Lists of items cost what they return: they read the items of a page, and of turns those up to it."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from app.db import ids
from app.turns import statements
from tests.projects import Project

TURNS, OF_A_TURN = 6, 50


def message(text: str) -> dict[str, str]:
    return {"type": "message", "role": "user", "content": text}


@pytest.fixture
def conversation(project: Project) -> str:
    """A conversation of several turns, each with many items."""
    id_: str = project.call("POST", "/conversations", json={})["id"]
    for turn in range(TURNS):
        for part in range(0, OF_A_TURN, 10):
            items = [message(f"{turn} {part + place}") for place in range(10)]
            added = project.call("POST", f"/conversations/{id_}/items", json={"items": items})
            assert len(added["data"]) == 10
    return id_


def pages(project: Project, path: str, **params: Any) -> list[str]:
    """The ids of a list, page by page."""
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = project.call("GET", path, params={"limit": 70, **params, **after})
        found += [item["id"] for item in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            return found
        assert len(page["data"]) == params.get("limit", 70)
        after = {"after": page["last_id"]}


def test_pages_in_both_orders_hold_every_item_once(project: Project, conversation: str) -> None:
    path = f"/conversations/{conversation}/items"
    upwards = pages(project, path, order="asc")
    assert len(set(upwards)) == len(upwards) == TURNS * OF_A_TURN
    assert pages(project, path, order="desc") == upwards[::-1]
    assert pages(project, path, order="asc", limit=100) == upwards
    for order, last in (("asc", upwards[-1]), ("desc", upwards[0])):
        page = project.call("GET", path, params={"order": order, "after": last})
        assert (page["data"], page["has_more"]) == ([], False)


def test_an_item_of_another_branch_is_in_no_page(project: Project) -> None:
    thread = project.call("POST", "/threads", json={})["id"]
    first, left, right = (
        project.call("POST", f"/threads/{thread}/turns", json={"input": f"Echo: {text}", **parent})
        for text, parent in (("one", {}), ("two", {}), ("three", {}))
    )
    other = project.call("POST", f"/threads/{thread}/turns", json={"input": "Echo: four", "parent_id": first["id"]})
    path = f"/conversations/{thread.replace('thread_', 'conv_')}/items"
    for gone in (left, right):
        item = gone["output"][0]["id"]
        refused = project.call("GET", path, params={"after": item})
        assert (refused["error"]["code"], refused["error"]["param"]) == ("invalid_cursor", "after")
        assert project.call("GET", f"{path}/{item}")["error"]["code"] == "item_not_found"
    for there in (first, other):
        assert project.call("GET", f"{path}/{there['output'][0]['id']}")["id"] == there["output"][0]["id"]
    assert len(pages(project, path, order="asc")) == 4


def test_the_input_items_of_a_response_page_without_its_output(project: Project) -> None:
    sent = [message(f"Echo: {number}") for number in range(30)]
    response = project.call("POST", "/responses", json={"input": sent, "model": "qwen3.5-plus"})
    path = f"/responses/{response['id']}/input_items"
    upwards = pages(project, path, order="asc", limit=20)
    assert len(upwards) == 30
    assert pages(project, path, order="desc", limit=20) == upwards[::-1]
    refused = project.call("GET", path, params={"after": response["output"][0]["id"]})
    assert refused["error"]["code"] == "invalid_cursor"


@pytest.mark.parametrize("latest_first", [True, False])
def test_a_page_reads_the_items_that_it_returns(project: Project, conversation: str, latest_first: bool) -> None:
    upwards = pages(project, f"/conversations/{conversation}/items", order="asc")
    for cursor in (None, upwards[5], upwards[len(upwards) // 2], upwards[-5]):
        read = asyncio.run(rows_read(project, conversation, cursor, 20, latest_first=latest_first))
        assert read["items"] <= 22, (cursor, read)  # And the cursor's, looked up by its id, once more.
    newest = asyncio.run(rows_read(project, conversation, upwards[-1], 1, latest_first=True))
    assert newest["turns"] <= 2


async def rows_read(
    project: Project, conversation: str, cursor: str | None, limit: int, *, latest_first: bool
) -> dict[str, float]:
    """How many rows of each table a page reads, as Postgres counts them."""
    connection = await asyncpg.connect(project.env["DATABASE_URL"])
    thread = ids.parse(conversation.replace("conv_", "thread_"), ids.THREAD_PREFIXES)
    row = await connection.fetchrow("SELECT project_id, bucket, head_turn_id FROM threads WHERE id = $1", thread)
    assert row is not None
    statement = statements.LATEST_ITEMS if latest_first else statements.EARLIEST_ITEMS
    project_id: UUID = row["project_id"]
    sql, *arguments = statement(
        project_id=project_id, bucket=row["bucket"], turn_id=row["head_turn_id"], cursor=cursor, input_only=False,
        limit=limit,
    )  # fmt: skip
    plan = orjson.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *arguments))
    await connection.close()
    read: dict[str, float] = {"items": 0, "turns": 0}
    nodes = [plan[0]["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if "Relation Name" in node:
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            read[node["Relation Name"]] += rows * node["Actual Loops"]
    return read

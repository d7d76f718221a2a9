"""Lists of items cost what they return: they read the items of a page, and of turns those up to it."""

import asyncio
from typing import Any

import asyncpg
import orjson
import pytest

from app.db import ids
from app.db.sql import Statement
from app.http.pages import PAGE_BYTES
from app.turns.store import SQL
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
        project.call("POST", f"/threads/{thread}/turns", json={"input": f"Echo: {text}"})
        for text in ("one", "two", "three")
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


@pytest.mark.parametrize("latest_first", [True, False])
def test_a_page_behind_a_cursor_walks_the_turns_up_to_it(
    project: Project, conversation: str, latest_first: bool
) -> None:
    upwards = pages(project, f"/conversations/{conversation}/items", order="asc")
    limit = 1 if latest_first else 20
    read = asyncio.run(rows_read(project, conversation, upwards[-1], limit, latest_first=latest_first))
    assert read["turns"] <= 2
    whole = asyncio.run(rows_read(project, conversation, upwards[0], 20, latest_first=latest_first))
    assert whole["turns"] > len(upwards) // OF_A_TURN


@pytest.fixture
def thread(project: Project) -> tuple[str, list[str]]:
    """A thread of 25 turns with a side branch, and the turns of its branch."""
    id_ = project.call("POST", "/threads", json={"messages": [message("turn 0")]})["id"]
    path = f"/conversations/{id_.replace('thread_', 'conv_')}/items"
    for number in range(1, 25):
        project.call("POST", path, json={"items": [message(f"turn {number}"), message("more")]})
    turns = [turn["id"] for turn in project.call("GET", f"/threads/{id_}/turns", params={"limit": 100})["data"]]
    side = project.call("POST", f"/threads/{id_}/turns", json={"input": "Echo: side", "parent_id": turns[-3]})
    assert project.call("PATCH", f"/threads/{id_}", json={"head_id": turns[0]})["head_id"] == turns[0]
    assert side["status"] == "completed"
    return id_, turns[::-1]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [4, 20, 25, 100])
def test_the_chain_and_the_messages_page_like_every_list(
    project: Project, thread: tuple[str, list[str]], order: str, limit: int
) -> None:
    id_, turns = thread
    expected = turns if order == "asc" else turns[::-1]
    chain, said = f"/threads/{id_}/chain", f"/threads/{id_}/messages"
    assert pages(project, chain, order=order, limit=limit) == expected
    after: dict[str, str] = {}
    shown: list[str] = []
    while True:
        page = project.call("GET", said, params={"order": order, "limit": limit, **after})
        of_page = list(dict.fromkeys(item["turn_id"] for item in page["data"]))
        assert (of_page[0], of_page[-1]) == (page["first_id"], page["last_id"])
        shown += [item["content"] for item in page["data"]]
        if not page["has_more"]:
            break
        assert len(of_page) == limit
        after = {"after": page["last_id"]}
    whole = ["turn 0", *(text for number in range(1, 25) for text in (f"turn {number}", "more"))]
    assert shown == (whole if order == "asc" else whole[::-1])
    back = project.call("GET", chain, params={"order": order, "limit": 3, "before": expected[5]})
    assert ([link["id"] for link in back["data"]], back["has_more"]) == (expected[2:5], True)


def test_the_chain_and_the_messages_have_twenty_turns_by_default_and_refuse_foreign_cursors(
    project: Project, thread: tuple[str, list[str]]
) -> None:
    id_, turns = thread
    for path in (f"/threads/{id_}/chain", f"/threads/{id_}/messages"):
        page = project.call("GET", path)
        assert (page["first_id"], page["last_id"], page["has_more"]) == (turns[0], turns[19], True)
        side = project.call("GET", f"/threads/{id_}/turns", params={"limit": 1})["data"][0]["id"]
        assert project.call("GET", path, params={"after": side})["error"]["code"] == "invalid_cursor"
        assert project.call("GET", path, params={"limit": 101})["error"]["param"] == "limit"
        beyond = project.call("GET", path, params={"after": turns[-1]})
        assert (beyond["data"], beyond["first_id"], beyond["has_more"]) == ([], None, False)
    newest = project.call("GET", f"/threads/{id_}/messages", params={"turns": 2})
    assert [newest["first_id"], newest["last_id"]] == turns[-2:]
    refused = project.call("GET", f"/threads/{id_}/messages", params={"order": "desc", "format": "chat"})
    assert refused["error"]["param"] == "order"


def test_a_page_of_turns_behind_a_cursor_walks_the_branch_up_to_it(
    project: Project, thread: tuple[str, list[str]]
) -> None:
    turns = thread[1]
    head, cursor, foreign = (ids.parse(turn, ids.TURN_PREFIXES) for turn in (turns[-1], turns[-3], "turn_" + "0" * 32))
    assert head is not None
    asked = {"bucket": ids.bucket_of(head), "turn_id": head, "limit": 2}
    for at, walked in ((cursor, 3), (None, len(turns)), (foreign, len(turns))):
        plan = asyncio.run(plan_of(project, SQL.earliest_turns, cursor=at, **asked))
        assert (rows_of(plan)["turns"], plan["Actual Rows"]) == (walked, 0 if at is foreign else 2)


def test_a_page_of_markdown_names_the_next_one(project: Project, thread: tuple[str, list[str]]) -> None:
    path, texts = f"/threads/{thread[0]}/messages?format=markdown&limit=10", []
    while True:
        answer = project.http.get(path)
        texts += [line for line in answer.text.splitlines() if line.startswith("turn ")]
        if "Link" not in answer.headers:
            break
        assert answer.links["next"]["url"].startswith("/v1/threads/")
        path = answer.links["next"]["url"].removeprefix("/v1")
    assert texts == [f"turn {number}" for number in range(25)]


async def rows_read(
    project: Project, conversation: str, cursor: str | None, limit: int, *, latest_first: bool
) -> dict[str, float]:
    """Return the rows of each table that a page of items reads, as Postgres counts them."""
    thread = conversation.replace("conv_", "thread_")
    head = ids.parse(project.call("GET", f"/threads/{thread}")["head_id"], ids.TURN_PREFIXES)
    assert head is not None
    asked = {"bucket": ids.bucket_of(head), "turn_id": head, "cursor": cursor, "input_only": False, "limit": limit}
    statement = SQL.latest_items if latest_first else SQL.earliest_items
    return rows_of(await plan_of(project, statement, most_bytes=PAGE_BYTES, **asked))


async def plan_of(project: Project, statement: Statement, **arguments: Any) -> dict[str, Any]:
    """Return the plan of a statement that has run."""
    connection = await asyncpg.connect(project.env["DATABASE_URL"])
    project_id = await connection.fetchval(
        "SELECT project_id FROM turns WHERE bucket = $1 AND id = $2", arguments["bucket"], arguments["turn_id"]
    )
    sql, *values = statement(project_id=project_id, **arguments)
    await connection.execute("ANALYZE items, turns")
    # Once the rows are counted, a table as small as this one is read or sorted as a whole. Large ones go by index.
    for method in ("seqscan", "bitmapscan", "sort"):
        await connection.execute(f"SET enable_{method} = off")
    plan = orjson.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *values))
    await connection.close()
    found: dict[str, Any] = plan[0]["Plan"]
    return found


def rows_of(plan: dict[str, Any]) -> dict[str, float]:
    """Return the rows of each table that a plan has read."""
    read: dict[str, float] = {"items": 0, "turns": 0, "item_media": 0, "media": 0}
    nodes = [plan]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if "Relation Name" in node:
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            read[node["Relation Name"]] += rows * node["Actual Loops"]
    return read

"""Failures: the list and the counts equal what the turns themselves say, within bounds and within the project."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.failures.service import MOST_BUCKETS, TOP, bucket_seconds
from app.failures.store import MOST_LOOKED_AT
from tests.service import Emulator, Service
from tests.tenants import Tenant
from tests.test_user_tokens import token_of

MODELS = ("qwen3.5-plus", "qwen-flash")
CODES = ("DataInspectionFailed", "InvalidParameter", "ModelNotFound")

OTHER_ACCOUNT = """
    UPDATE turns SET binding = 'https://user@other.example:8443/v1#0123456789abcdef'
    WHERE project_id = $1 AND seq % 2 = 1
"""

MANY = """
    INSERT INTO turns (project_id, bucket, id, thread_id, seq, status, model, params, created_at, completed_at, error)
    SELECT th.project_id, th.bucket,
        (lpad(to_hex(n), 12, '0') || '80008' || lpad(to_hex(n), 11, '0') || right(th.id::text, 4))::uuid, th.id,
        1000 + n, 'failed', 'model-' || n % 2, '{}', at, at,
        json_build_object('code', 'code-' || CASE WHEN n = 1 THEN 'rare' ELSE (n % 30)::text END, 'message', 'No.')
    FROM threads th, generate_series(1, $2::int) n,
        LATERAL (SELECT to_timestamp(1700000000) + n * interval '10 seconds' AS at) moment
    WHERE th.project_id = $1"""


@pytest.fixture
def tenant(service: Service) -> Tenant:
    return Tenant(service)


def turns_of(tenant: Tenant) -> list[dict[str, Any]]:
    """Return all turns of the project with the user of their thread, as its threads show them."""
    found: list[dict[str, Any]] = []
    for thread in tenant.http.get("/threads").json()["data"]:
        turns = tenant.http.get(f"/threads/{thread['id']}/turns", params={"limit": 100}).json()["data"]
        of_thread = {
            "user": thread["user"],
            "thread_title": thread["title"],
            "last_id": turns[0]["id"] if turns else None,
        }
        found += [{**turn, **of_thread} for turn in turns]
    return found


def code_of(turn: dict[str, Any]) -> Any:
    return turn["error"]["code"] if turn["error"] else turn["incomplete_details"]["reason"]


def pages(tenant: Tenant, **params: Any) -> list[dict[str, Any]]:
    """Return the failures of all pages."""
    found: list[dict[str, Any]] = []
    while True:
        answer = tenant.http.get("/failures", params={"limit": 4, **params})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["data"]
        if not page["has_more"]:
            return found
        params["after"] = page["last_id"]


def summary(tenant: Tenant, **params: Any) -> dict[str, Any]:
    answer = tenant.http.get("/failures/summary", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def fail(tenant: Tenant, emulator: Emulator, seed: int) -> None:
    """Have turns of several users, models and accounts fail in several ways, and others complete."""
    chance = random.Random(seed)
    threads = [
        tenant.http.post("/threads", json={"user": user, "title": f"Of {user}"}).json()["id"]
        for user in ("ann", "bob", "ann", None)
    ]
    for number in range(28):
        body: dict[str, Any] = {"input": f"Echo: {number}", "model": chance.choice(MODELS)}
        match chance.choice(("completed", "incomplete", "failed", "failed")):
            case "incomplete":
                body = {**body, "input": "Tell me a long story. " * 10, "max_output_tokens": 16}
            case "failed":
                emulator.fault("status", status=400, code=chance.choice(CODES), message=f"<b>{number}</b>", times=9)
        tenant.http.post(f"/threads/{chance.choice(threads)}/turns", json=body)
        emulator.reset()


def test_every_filter_finds_what_the_turns_say_on_pages_without_gaps(
    tenant: Tenant, emulator: Emulator, seed: int, database_url: str
) -> None:
    fail(tenant, emulator, seed)
    run(database_url, tenant, OTHER_ACCOUNT)
    turns = turns_of(tenant)
    failed = [turn for turn in turns if turn["status"] in ("failed", "incomplete")]
    assert 0 < len(failed) < len(turns)
    listed = pages(tenant)
    assert [row["completed_at"] for row in listed] == sorted((row["completed_at"] for row in listed), reverse=True)
    by_id = {turn["id"]: turn for turn in failed}
    assert len(listed) == len(by_id)
    for row in listed:
        turn = by_id[row["id"]]
        for field in ("thread_id", "thread_title", "user", "model", "account", "status", "created_at", "continuation"):
            assert row[field] == turn[field], field
        assert (row["code"], row["completed_at"]) == (code_of(turn), turn["completed_at"])
        assert row["message"] == (turn["error"] or {}).get("message")
        calls = tenant.calls(row["thread_id"], row["id"])
        assert (row["attempts"], row["provider_status"]) == (len(calls), calls[-1]["status"])
        assert row["is_last"] == (turn["id"] == turn["last_id"])
        assert row["error_status"] == (400 if row["status"] == "failed" else None)

    moments = sorted(turn["completed_at"] for turn in failed)
    middle = moments[len(moments) // 2]
    tests: dict[str, Callable[[dict[str, Any], Any], bool]] = {
        "code": lambda turn, value: bool(code_of(turn) == value),
        "thread": lambda turn, value: bool(turn["thread_id"] == value),
        "since": lambda turn, value: bool(turn["completed_at"] >= value),
        "until": lambda turn, value: bool(turn["completed_at"] < value),
        **{name: lambda turn, value, name=name: turn[name] == value for name in ("model", "account", "user", "status")},  # type: ignore[misc]
    }
    asked: list[dict[str, Any]] = [{"since": middle}, {"until": middle}, {"code": "none such"}]
    for name in ("model", "account", "user", "status"):
        asked += [{name: value} for value in {turn[name] for turn in failed} - {None}]
    asked += [{"code": code} for code in {code_of(turn) for turn in failed}]
    asked += [{"thread": failed[0]["thread_id"]}, {"user": "ann", "model": MODELS[0], "since": middle}]
    assert len({turn["account"] for turn in failed}) == 2
    for params in asked:
        expected = {turn["id"] for turn in failed if all(tests[name](turn, value) for name, value in params.items())}
        found = pages(tenant, **params)
        assert (len(found), {row["id"] for row in found}) == (len(expected), expected), params
        counted = summary(tenant, **{"since": moments[0], "until": moments[-1] + 1, **params})
        assert counted["failures"] == len(expected)
        assert sum(bucket["failures"] for bucket in counted["series"]) == len(expected)
        for field, of in (("by_model", "model"), ("by_account", "account"), ("by_user", "user"), ("by_code", "code")):
            assert {entry["value"]: entry["failures"] for entry in counted[field]["data"]} == Counter(
                row[of] for row in found
            )


def test_a_deleted_thread_takes_its_failures_with_it(tenant: Tenant, emulator: Emulator) -> None:
    emulator.fault("status", status=400, code="InvalidParameter", times=9)
    thread = tenant.thread()
    tenant.http.post(f"/threads/{thread}/turns", json={"input": "Hello."})
    assert len(pages(tenant)) == summary(tenant)["failures"] == 1
    tenant.http.delete(f"/threads/{thread}")
    assert len(pages(tenant)) == summary(tenant)["failures"] == 0


def test_neither_strangers_nor_end_users_nor_writing_keys_see_failures(
    service: Service, tenant: Tenant, emulator: Emulator
) -> None:
    thread = tenant.http.post("/threads", json={"user": "ann", "title": "Secret"}).json()["id"]
    emulator.fault("status", status=400, code="InvalidParameter", message="A secret.", times=9)
    tenant.http.post(f"/threads/{thread}/turns", json={"input": "Hello."})
    (failure,) = pages(tenant)
    stranger = Tenant(service)
    assert pages(stranger) == pages(stranger, thread=thread) == []
    assert summary(stranger, user="ann")["failures"] == 0
    answer = stranger.http.get("/failures", params={"after": failure["id"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")
    made = tenant.http.post(f"/admin/projects/{tenant.id}/keys", json={"name": "writer", "scopes": ["write"]}).json()
    for path in ("/failures", "/failures/summary"):
        for key, code in ((made["key"], "missing_scope"), (token_of(tenant, "ann"), "not_for_users")):
            refused = tenant.http.get(path, headers={"Authorization": f"Bearer {key}"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, code)
            assert "ecret" not in refused.text


def test_what_is_no_cursor_or_no_range_is_refused(tenant: Tenant) -> None:
    completed = tenant.turn(tenant.thread(), "Echo: fine")["id"]
    for path, params, param in (
        ("/failures", {"after": "turn_1"}, "after"),
        ("/failures", {"after": completed}, "after"),
        ("/failures", {"after": "x" * 101}, "after"),
        ("/failures", {"limit": 101}, "limit"),
        ("/failures", {"status": "completed"}, "status"),
        ("/failures", {"thread": "thread_1"}, "thread"),
        ("/failures", {"code": "x" * 201}, "code"),
        ("/failures/summary", {"since": 5, "until": 5}, "until"),
    ):
        answer = tenant.http.get(path, params=params)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_a_request_looks_at_a_bounded_number_of_failures_and_says_so(tenant: Tenant, database_url: str) -> None:
    tenant.thread()
    number = MOST_LOOKED_AT + 5
    run(database_url, tenant, MANY, number)
    begin, end = 1700000000, 1700000001 + 10 * number
    counted = summary(tenant, since=begin, until=end)
    assert (counted["failures"], counted["truncated"]) == (MOST_LOOKED_AT, True)
    assert counted["counted_since"] == begin + 10 * 6
    assert len(counted["series"]) <= MOST_BUCKETS
    assert sum(bucket["failures"] for bucket in counted["series"]) == MOST_LOOKED_AT
    assert len(counted["by_code"]["data"]) == TOP
    named = sum(entry["failures"] for entry in counted["by_code"]["data"])
    assert named + counted["by_code"]["other"] == MOST_LOOKED_AT
    all_of_it = summary(tenant, since=begin + 100, until=end)
    assert (all_of_it["failures"], all_of_it["truncated"]) == (number - 9, False)
    # The only failure that is asked for lies behind those that one page looks at.
    first = tenant.http.get("/failures", params={"code": "code-rare"}).json()
    assert (first["data"], first["has_more"]) == ([], True)
    (found,) = pages(tenant, code="code-rare")
    assert found["completed_at"] == begin + 10
    half = pages(tenant, model="model-1", limit=100)
    assert len({row["id"] for row in half}) == len(half) == number // 2 + number % 2


def run(database_url: str, tenant: Tenant, statement: str, *arguments: Any) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute(statement, UUID(tenant.id.removeprefix("proj_")), *arguments)
        await connection.close()

    asyncio.run(execute())


@pytest.mark.parametrize("span", [1, 60, 3600, 3601, 86_400, 7 * 86_400, 30 * 86_400, 366 * 86_400, 253_402_300_799])
def test_every_range_has_few_buckets_that_cover_it(span: int) -> None:
    for since in (0, 1, 59, 1_700_000_123):
        seconds = bucket_seconds(since, since + span)
        starts = range(since // seconds * seconds, since + span, seconds)
        assert 1 <= len(starts) <= MOST_BUCKETS
        assert starts[0] <= since < since + span <= starts[-1] + seconds

"""Finding threads and turns: filters that combine, hits by thread, and ids of every kind."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.databases import query
from tests.service import Emulator, Service
from tests.tenants import Tenant

MODELS = ("qwen-plus", "qwen-flash")
PLANS = ("free", "pro")
USERS = ("ann", "anna", "bo%b")


@pytest.fixture(scope="module")
def tenant(running_service: Service) -> Tenant:
    return Tenant(running_service)


@pytest.fixture(scope="module")
def known(running_service: Service, running_emulator: Emulator, tenant: Tenant) -> list[dict[str, Any]]:
    """Threads of many kinds, as the test knows them."""
    made: list[dict[str, Any]] = []
    for number in range(12):
        kind = {
            "user": None if number == 11 else USERS[number % 3],
            "name": None if number % 4 == 3 else f"case_{number % 2}:{number}",
            "metadata": {} if number % 5 == 4 else {"plan": PLANS[number % 2], "number": str(number % 3)},
        }
        thread = tenant.http.post("/threads", json=kind).json()["id"]
        model = MODELS[number // 2 % 2]
        tenant.turn(thread, "Echo: a heron", model=MODELS[0])
        failed = number % 3 == 1
        if failed:
            running_emulator.fault("status", status=400, code="DataInspectionFailed", times=9)
        tenant.http.post(f"/threads/{thread}/turns", json={"input": "Echo: the heron flies", "model": model})
        turn = tenant.http.get(f"/threads/{thread}/turns").json()["data"][0]
        running_emulator.reset()
        assert (turn["model"], turn["status"]) == (model, "failed" if failed else "completed")
        if archived := number % 4 == 0:
            tenant.http.patch(f"/threads/{thread}", json={"archived": True})
        made.append({**kind, "id": thread, "model": model, "last_turn": turn["status"], "archived": archived})
    return made


def matches(thread: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Return True if a thread is one that filters ask for."""
    for name, value in asked.items():
        if name == "user_prefix":
            wrong = not (thread["user"] or "").startswith(value) or thread["user"] is None
        elif name == "name":
            wrong = not (thread["name"] or "").startswith(value) or thread["name"] is None
        elif name.startswith("metadata"):
            wrong = thread["metadata"].get(name[9:-1]) != value
        elif name == "status":
            wrong = value == "busy"
        else:
            wrong = thread[name] != value
        if wrong:
            return False
    return True


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "user": st.sampled_from(USERS),
        "user_prefix": st.sampled_from(["an", "ann", "bo%", "bo_", "", "x"]),
        "name": st.sampled_from(["case_", "case_1", "case%", "c", "cases"]),
        "metadata[plan]": st.sampled_from(PLANS),
        "metadata[number]": st.sampled_from("012"),
        "archived": st.booleans(),
        "status": st.sampled_from(["idle", "busy"]),
        "last_turn": st.sampled_from(["failed", "completed", "incomplete", "cancelled", "in_progress"]),
        "model": st.sampled_from([*MODELS, "qwen"]),
    },
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILTERS, st.sampled_from(["created", "activity"]))
def test_any_combination_of_filters_finds_what_has_all_of_them(
    tenant: Tenant, known: list[dict[str, Any]], asked: dict[str, Any], order_by: str
) -> None:
    expected = [thread["id"] for thread in known if matches(thread, asked)]
    listed = tenant.http.get("/threads", params={**asked, "order_by": order_by, "limit": 100}).json()
    assert [thread["id"] for thread in listed["data"]][::-1] == expected
    assert listed["has_more"] is False
    counted = tenant.http.get("/threads/count", params=asked).json()
    assert (counted["count"], counted["more"]) == (len(expected), False)
    found = tenant.http.get("/search", params={"q": "heron", "group_by": "thread", "limit": 100, **asked}).json()
    assert sorted(group["thread"]["id"] for group in found["data"]) == sorted(expected)
    hits = tenant.http.get("/search", params={"q": "heron", "role": "user", "limit": 100, **asked}).json()["data"]
    assert sorted(hit["thread_id"] for hit in hits) == sorted(2 * expected)


def test_hits_come_by_thread_in_pages_that_repeat_none_while_turns_are_made(service: Service) -> None:
    tenant = Tenant(service)
    threads = [tenant.thread() for _ in range(5)]
    for number, thread in enumerate(threads):
        for _ in range(number + 1):
            tenant.turn(thread, "Echo: a kingfisher")
    tenant.http.patch(f"/threads/{threads[2]}", json={"title": "Kingfishers"})
    groups: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        asked: dict[str, Any] = {"q": "kingfisher", "group_by": "thread", "limit": 2, **after}
        page = tenant.http.get("/search", params=asked).json()
        groups += page["data"]
        tenant.turn(groups[0]["thread"]["id"], "Echo: kingfisher kingfisher kingfisher")
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert sorted(group["thread"]["id"] for group in groups) == sorted(threads)
    assert [group["score"] for group in groups] == sorted((group["score"] for group in groups), reverse=True)
    counts = {group["thread"]["id"]: group["hit_count"] for group in groups}
    assert [counts[thread] for thread in threads] == [2, 4, 7, 8, 10]
    (titled,) = (group for group in groups if group["thread"]["id"] == threads[2])
    assert titled["thread"]["title"] == "Kingfishers"
    assert titled["hits"][0]["role"] == "title"
    assert all(len(group["hits"]) == min(3, group["hit_count"]) for group in groups)
    assert all(hit["thread_id"] == group["thread"]["id"] for group in groups for hit in group["hits"])


def test_an_id_of_any_kind_finds_its_thread_and_turn_and_no_other_project_does(
    service: Service, service_env: dict[str, str]
) -> None:
    tenant, stranger = Tenant(service), Tenant(service)
    thread = tenant.thread()
    turn = tenant.turn(thread, "Hello")
    call = tenant.calls(thread, turn["id"])[0]
    response = tenant.http.get(f"/threads/{thread}/chain").json()["data"][0]["response_id"]
    asked = {
        thread: ("thread", None),
        thread.replace("thread_", "conv_"): ("thread", None),
        turn["id"]: ("turn", turn["id"]),
        turn["id"].replace("turn_", "resp_"): ("turn", turn["id"]),
        call["id"]: ("call", turn["id"]),
        turn["output"][0]["id"]: ("item", turn["id"]),
        response: ("response", turn["id"]),
    }
    for text, (kind, turn_id) in asked.items():
        found = tenant.http.get("/find", params={"id": text}).json()
        assert found == {"id": text, "object": "place", "kind": kind, "thread_id": thread, "turn_id": turn_id}
        refused, unknown = (stranger.http.get("/find", params={"id": each}) for each in (text, f"{text}0"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        assert refused.json()["error"]["message"] == unknown.json()["error"]["message"].replace(f"{text}0", text)
    # Response ids are looked up day by day, from the project's first turn on.
    earlier = f"UPDATE turns SET arrived_at = arrived_at - interval '40 days' WHERE id = '{UUID(turn['id'][5:])}'"
    query(service_env["DATABASE_URL"], "SET session_replication_role = replica", earlier)
    assert tenant.http.get("/find", params={"id": response}).json()["turn_id"] == turn["id"]
    # A fork has a copy of the turn: its response id leads to the original. What is deleted is found no more.
    assert tenant.http.post(f"/threads/{thread}/fork", json={}).status_code == 201
    assert tenant.http.get("/find", params={"id": response}).json()["thread_id"] == thread
    tenant.http.delete(f"/responses/{turn['id'].replace('turn_', 'resp_')}")
    for text in (turn["id"], call["id"], turn["output"][0]["id"], response):
        assert tenant.http.get("/find", params={"id": text}).status_code == 404, text


@pytest.mark.parametrize(
    ("path", "asked", "param"),
    [
        ("/find", {"id": ""}, "id"),
        ("/find", {"id": "x" * 257}, "id"),
        ("/find", {}, "id"),
        ("/search", {"q": "a", "group_by": "user"}, "group_by"),
        ("/search", {"q": "a", "group_by": "thread", "after": "hit_x"}, "after"),
        ("/search", {"q": "a", "last_turn": "good"}, "last_turn"),
        ("/search", {"q": "a", "model": "m" * 257}, "model"),
        ("/threads", {"user_prefix": "u" * 257}, "user_prefix"),
        ("/threads", {"active_after": "yesterday"}, "active_after"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_its_parameter(
    tenant: Tenant, path: str, asked: dict[str, str], param: str
) -> None:
    refused = tenant.http.get(path, params=asked)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_hostile_filters_find_nothing_and_break_nothing(tenant: Tenant, known: list[dict[str, Any]]) -> None:
    for text in (
        "'; DROP TABLE threads; --",
        "%",
        "_",
        "\\",
        "$1",
        "{}",
        "\U0001f600",
        '"',
        "\ud800".encode("utf-8", "replace").decode(),
    ):
        for asked in (
            {"user_prefix": text},
            {"name": text},
            {"model": text},
            {"user": text},
            {f"metadata[{text}]": text},
        ):
            for path in ("/threads", "/threads/count"):
                answer = tenant.http.get(path, params=asked)
                assert (answer.status_code, answer.json().get("data", []), answer.json().get("count", 0)) == (
                    200,
                    [],
                    0,
                )
            assert tenant.http.get("/search", params={"q": "heron", **asked}).json()["data"] == []
        assert tenant.http.get("/find", params={"id": text}).status_code == 404
    assert len(tenant.http.get("/threads").json()["data"]) == len(known)


def test_a_user_token_finds_by_no_id_and_with_no_filter_of_the_support(service: Service) -> None:
    tenant = Tenant(service)
    thread = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
    tenant.turn(thread, "Echo: an egret")
    token = tenant.http.post("/user_tokens", json={"user": "ann"}).json()["token"]
    as_user = {"Authorization": f"Bearer {token}"}
    assert len(tenant.http.get("/search", params={"q": "egret"}, headers=as_user).json()["data"]) == 2
    for path, asked in (
        ("/find", {"id": thread}),
        ("/search", {"q": "egret", "group_by": "thread"}),
        ("/search", {"q": "egret", "model": "qwen-plus"}),
        ("/search", {"q": "egret", "user_prefix": ""}),
        ("/search", {"q": "egret", "metadata[a]": "b"}),
    ):
        assert tenant.http.get(path, params=asked, headers=as_user).status_code == 403, (path, asked)


MANY = """
WITH made AS (
    INSERT INTO threads (project_id, bucket, id, trail_key, arrived_at)
        SELECT '{project}', bucket_of(id), id, '', clock_timestamp() FROM (
            SELECT ('{digits}' || lpad(to_hex(number), 12, '0'))::uuid AS id FROM generate_series(1, 10050) number
        ) numbered
        RETURNING project_id, bucket, id, arrived_at
) INSERT INTO thread_activity (project_id, bucket, thread_id, active_at)
    SELECT project_id, bucket, id, arrived_at FROM made
"""


@pytest.mark.parametrize("order_by", ["created", "activity"])
def test_a_page_ends_after_as_many_threads_as_one_request_looks_at(
    service: Service, service_env: dict[str, str], order_by: str
) -> None:
    tenant = Tenant(service)
    oldest = tenant.thread()
    tenant.turn(oldest, "Hello", model="qwen-plus")
    made = MANY.format(project=UUID(tenant.id[5:]), digits=uuid4().hex[:20])
    # The statistics are of a time at which the project had hardly any threads.
    query(service_env["DATABASE_URL"], "ANALYZE threads", "ANALYZE thread_activity", made)
    asked = {"last_turn": "completed", "model": "qwen-plus", "order_by": order_by}
    first = tenant.http.get("/threads", params=asked).json()
    assert (first["data"], first["has_more"]) == ([], True)
    then = tenant.http.get("/threads", params={**asked, "after": first["last_id"]}).json()
    assert ([thread["id"] for thread in then["data"]], then["has_more"]) == ([oldest], False)
    back = tenant.http.get("/threads", params={**asked, "before": first["last_id"]}).json()
    assert (back["data"], back["has_more"]) == ([], False)
    assert tenant.http.get("/threads/count", params=asked).json()["more"] is True

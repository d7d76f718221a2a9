"""GET /v1/now: what a project is doing, as an answer and as a stream, for each caller what it may see."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from tests.service import Emulator, Service, eventually
from tests.streams import Stream
from tests.tenants import Tenant
from tests.wire import Proxy

THROTTLED = {"kind": "status", "status": 429, "times": 10}


@pytest.fixture
def tenant(service: Service, emulator: Emulator) -> Tenant:
    return Tenant(service)


@pytest.fixture(scope="module")
def proxy(database_url: str) -> Proxy:
    return Proxy(database_url)


@pytest.fixture(scope="module")
def beside(service_env: dict[str, str], proxy: Proxy) -> Iterator[Service]:
    """Another worker of the same database, whose statements are heard."""
    service = Service(env={**service_env, "DATABASE_URL": proxy.url, "EVERTHREAD_ACCOUNTS_INSIDE": "true"})
    yield service
    assert service.stop() == 0


def now_of(http: httpx2.Client) -> dict[str, Any]:
    answer = http.get("/now")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def client(service: Service, key: str) -> httpx2.Client:
    return httpx2.Client(base_url=f"{service.url}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60)


def key_of(tenant: Tenant, *scopes: str, **fields: Any) -> dict[str, Any]:
    sent = {"name": "other", "scopes": scopes, **fields}
    made: dict[str, Any] = tenant.http.post(f"/admin/projects/{tenant.id}/keys", json=sent).raise_for_status().json()
    return made


@contextmanager
def slow_turn(tenant: Tenant, emulator: Emulator, thread: str) -> Iterator[str]:
    """A background turn that streams as long as this context lasts."""
    emulator.fault("slow", seconds_per_event=0.2)
    body = {"input": "Echo: " + "word " * 200, "background": True}
    turn: str = tenant.http.post(f"/threads/{thread}/turns", json=body).raise_for_status().json()["id"]
    try:
        yield turn
    finally:
        tenant.http.post(f"/threads/{thread}/turns/{turn}/cancel").raise_for_status()


@contextmanager
def following(service: Service, *keys: str) -> Iterator[list[Stream]]:
    streams = [Stream(service, "/now/events", key) for key in keys]
    try:
        for stream in streams:
            assert stream.status == 200, stream.error
            stream.is_told("snapshot")
        yield streams
    finally:
        for stream in streams:
            stream.leave()


def last(stream: Stream) -> dict[str, Any]:
    return stream.events[-1]


def test_a_running_turn_is_shown_by_every_worker_with_what_only_its_own_knows_and_goes(
    tenant: Tenant, emulator: Emulator, beside: Service
) -> None:
    thread = tenant.http.post("/threads", json={"user": "ann", "title": "A long answer"}).json()["id"]
    with following(beside, tenant.key) as (stream,):
        assert (last(stream)["turns"], last(stream)["unknown"]) == ({"count": 0, "more": False, "data": []}, [])
        with slow_turn(tenant, emulator, thread) as turn:

            def answers() -> bool:
                return any(each["state"] == "answering" for each in last(stream)["turns"]["data"])

            eventually(answers)
            (shown,) = last(stream)["turns"]["data"]
            assert (shown["id"], shown["thread_id"], shown["thread_title"]) == (turn, thread, "A long answer")
            assert (shown["user"], shown["background"], shown["waiting"]) == ("ann", True, 0)
            assert shown["account"].startswith(f"127.0.0.1:{emulator.port}#")
            assert shown["first_word_ms"] >= 0
            assert shown["streamed_chars"] > 0
            assert abs(shown["since"] - time.time()) < 30
            eventually(lambda: last(stream)["turns"]["data"][0]["streamed_chars"] > shown["streamed_chars"])
            (here,) = now_of(tenant.http)["turns"]["data"]
            assert {**here, "streamed_chars": 0} == {**shown, "streamed_chars": 0}
        eventually(lambda: last(stream)["turns"]["count"] == 0)
        quiet = len(stream.events)
        time.sleep(2)
        assert len(stream.events) <= quiet + 1  # Nothing has changed since.


def test_requests_that_wait_for_a_busy_thread_are_counted(tenant: Tenant, emulator: Emulator) -> None:
    thread = tenant.thread()
    body = {"input": "Echo: next", "if_busy": "wait", "background": True}
    with slow_turn(tenant, emulator, thread), client(tenant.service, tenant.key) as impatient:
        with pytest.raises(httpx2.TimeoutException):
            impatient.post(f"/threads/{thread}/turns", json=body, timeout=0.5)
        found = now_of(tenant.http)
    assert found["turns"]["data"][0]["waiting"] == 1
    (queue,) = (each for each in found["queues"] if each["name"] == "threads")
    assert queue["waiting"] == 1


def test_a_throttled_account_is_shown_to_admins_with_its_model_and_reason(
    service: Service, beside: Service, emulator: Emulator
) -> None:
    own, tenant = Tenant(beside), Tenant(beside)
    own.account("Mine", emulator.base_url, "sk-of-the-tenant")
    for each, model in ((tenant, "qwen3.5-plus"), (tenant, "secret-model-of-mine"), (own, "qwen3.5-plus")):
        emulator.control("faults", [THROTTLED])
        answer = each.http.post(f"/threads/{each.thread()}/turns", json={"input": "Hi", "model": model})
        assert answer.status_code == 429
        emulator.reset()
    (mine,) = now_of(own.http)["throttled"]
    assert (mine["account"], mine["model"], mine["reason"], mine["state"]) == (
        "Mine", "qwen3.5-plus", "throttled", "open",
    )  # fmt: skip
    assert mine["account_id"].startswith("acct_")
    assert mine["retry_at"] > time.time() - 60
    # The account of the environment, which no list of accounts has. Models that other projects have named are theirs.
    (of_settings,) = now_of(tenant.http)["throttled"]
    assert (of_settings["account_id"], of_settings["account"], of_settings["model"]) == (
        None, "settings", "qwen3.5-plus",
    )  # fmt: skip
    seen = {each["model"] for each in now_of(service.http)["throttled"]}
    assert {"qwen3.5-plus", "secret-model-of-mine"} <= seen
    assert "Mine" not in str(now_of(service.http)["throttled"])
    reader = client(service, key_of(own, "read")["key"])
    assert now_of(reader)["throttled"] is None
    tenant.turn(tenant.thread(), "Hi", model="qwen3.5-plus")
    eventually(lambda: now_of(tenant.http)["throttled"] == [])


def test_limits_near_their_bound_are_shown_by_project_key_and_user(service: Service, tenant: Tenant) -> None:
    other = key_of(tenant, "read", "write", limits={"requests_per_minute": 5})
    tenant.settings(
        limits={"requests_per_minute": 100, "tokens_per_month": 10**6, "threads": 5, "turns_at_once": 7},
        user_limits={"requests_per_minute": 5, "threads": 50},
    )
    http = client(service, other["key"])
    threads = [http.post("/threads", json={"user": "ann"}).json()["id"] for _ in range(3)]
    for number in range(4):
        body = {"input": "Echo: hi"}
        http.post(f"/threads/{threads[number % 3]}/turns", json=body).raise_for_status()
    limits = now_of(tenant.http)["limits"]
    project = {each["name"]: each for each in limits if each["whose"] == "project"}
    assert set(project) == {"requests_per_minute", "tokens_per_month", "threads", "turns_at_once"}
    assert (project["requests_per_minute"]["limit"], project["requests_per_minute"]["near"]) == (100, False)
    assert 0 < project["tokens_per_month"]["used"] < 10**6
    assert project["tokens_per_month"]["resets_at"] > time.time()
    assert (project["threads"]["used"], project["threads"]["near"]) == (3, False)
    assert project["turns_at_once"]["used"] == 0
    (of_key,) = (each for each in limits if each["whose"] == "key")
    assert (of_key["key_id"], of_key["key_name"], of_key["name"]) == (other["id"], "other", "requests_per_minute")
    assert 0.8 <= of_key["share"] <= 1
    assert 0 < of_key["resets_at"] - time.time() < 60
    # A key without the scope `admin` learns nothing of the others.
    reader = client(service, key_of(tenant, "read")["key"])
    assert [each for each in now_of(reader)["limits"] if each["whose"] == "key"] == []
    assert [each["key_id"] for each in now_of(http)["limits"] if each["whose"] == "key"] == [other["id"]]


def test_a_user_near_a_limit_is_named(tenant: Tenant) -> None:
    tenant.settings(user_limits={"requests_per_minute": 5})
    threads = {user: tenant.http.post("/threads", json={"user": user}).json()["id"] for user in ("ann", "bob")}
    for user in ("ann", "ann", "ann", "ann", "bob"):
        tenant.turn(threads[user], "Echo: hi", user=user)
    near = [each for each in now_of(tenant.http)["limits"] if each["whose"] == "user"]
    assert [(each["user"], each["name"], each["limit"]) for each in near] == [("ann", "requests_per_minute", 5)]


def test_each_caller_sees_the_own_project_and_user_tokens_see_nothing(
    service: Service, tenant: Tenant, emulator: Emulator
) -> None:
    other = Tenant(service)
    thread = tenant.http.post("/threads", json={"user": "ann", "title": "Secret"}).json()["id"]
    with following(service, other.key) as (theirs,), slow_turn(tenant, emulator, thread):
        (shown,) = now_of(tenant.http)["turns"]["data"]
        assert shown["key_id"].startswith("key_")
        (shown,) = now_of(client(service, key_of(tenant, "read")["key"]))["turns"]["data"]
        assert (shown["user"], shown["key_id"]) == ("ann", None)
        assert now_of(other.http)["turns"]["count"] == 0
        time.sleep(2)
        said = str(theirs.events)
        assert "Secret" not in said
        assert thread not in said
        assert "ann" not in str([event["turns"] for event in theirs.events])
    token = tenant.http.post("/user_tokens", json={"user": "ann"}).json()["token"]
    writer = key_of(tenant, "write")["key"]
    for path in ("/now", "/now/events"):
        assert client(service, token).get(path).status_code == 403
        refused = client(service, writer).get(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
        assert client(service, "et_unknown").get(path).status_code == 401


def test_many_viewers_ask_postgres_as_often_as_one_and_nobody_asks_when_nobody_looks(
    tenant: Tenant, beside: Service, proxy: Proxy
) -> None:
    def asked(seconds: float) -> int:
        before = len(proxy.executed)
        time.sleep(seconds)
        return sum("thread_activity" in each and "waiters" in each for each in proxy.executed[before:])

    with following(beside, tenant.key):
        alone = asked(3)
    with following(beside, *[tenant.key] * 20):
        together = asked(3)
    assert 1 <= alone <= 4
    assert 1 <= together <= 4
    assert asked(1.5) == 0


def test_without_redis_the_rest_is_shown_and_what_is_unknown_is_named(
    tenant: Tenant, emulator: Emulator, service_env: dict[str, str]
) -> None:
    alone = Service(env={**service_env, "REDIS_URL": "redis://127.0.0.1:1"})
    tenant.settings(limits={"requests_per_minute": 100, "turns_at_once": 7})
    thread = tenant.thread()
    with slow_turn(tenant, emulator, thread):
        found = now_of(client(alone, tenant.key))
    alone.stop()
    (turn,) = found["turns"]["data"]
    assert (turn["thread_id"], turn["state"], turn["account"]) == (thread, "running", None)
    assert (found["unknown"], found["workers"]) == (["workers", "limits"], 1)
    used = {each["name"]: each["used"] for each in found["limits"]}
    assert used == {"requests_per_minute": None, "turns_at_once": 1}

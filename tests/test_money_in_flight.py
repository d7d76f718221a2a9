"""Limits of a month hold for requests that run at the same time, on all workers; and usage by day in a time zone."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx2
import pytest
import redis

from tests.breakable import Servers
from tests.databases import query
from tests.service import Emulator, Service, eventually
from tests.tenants import Tenant
from tests.test_limits import refused

MODEL = "qwen3.5-plus"
LONG = "word " * 1600
OF_A_MONTH = "project.tokens_per_month"


@pytest.fixture(scope="module")
def second(service_env: dict[str, str]) -> Iterator[Service]:
    """A second process on the same Postgres and Redis."""
    service = Service(env=service_env)
    yield service
    service.stop()


@pytest.fixture
def tenant(service: Service, emulator: Emulator) -> Tenant:
    return Tenant(service)


def at(service: Service, tenant: Tenant) -> httpx2.Client:
    return httpx2.Client(base_url=f"{service.url}/v1", headers=tenant.http.headers, timeout=60)


def ask(http: httpx2.Client, **fields: Any) -> httpx2.Response:
    return http.post("/responses", json={"model": MODEL, "input": "Hi", **fields})


def chat(http: httpx2.Client, **fields: Any) -> httpx2.Response:
    text = fields.pop("input", "Hi")
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
    return http.post("/chat/completions", json=body)


def spent(tenant: Tenant) -> int:
    rows = tenant.http.get("/usage").json()["data"]
    return sum(int(row["input_tokens"] + row["output_tokens"]) for row in rows)


def running(emulator: Emulator, request: Callable[[], Any], seconds: float = 2) -> threading.Thread:
    """Start a request that the model answers slowly, and wait until the model has it."""
    emulator.reset()
    emulator.fault("slow", seconds=seconds, times=1)
    thread = threading.Thread(target=request)
    thread.start()
    emulator.is_asked()
    return thread


def held(redis_url: str, tenant: Tenant) -> int:
    """Return the number of requests that have reserved something of the project's month."""
    cache: Any = redis.Redis.from_url(redis_url)
    keys = cache.keys(f"everthread:limits:{{{tenant.id.removeprefix('proj_')}}}:project:*:tokens:until")
    return sum(int(cache.zcard(key)) for key in keys)


@pytest.mark.parametrize("request_of", [ask, chat])
def test_twenty_requests_at_once_on_two_processes_go_over_by_one_estimate_at_most(
    tenant: Tenant, second: Service, emulator: Emulator, request_of: Callable[..., httpx2.Response]
) -> None:
    tenant.settings(limits={"tokens_per_month": 3000})
    emulator.fault("slow", seconds=0.5, times=20)
    clients = [at(tenant.service, tenant), at(second, tenant)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: request_of(clients[n % 2], input=LONG), range(20)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) >= 1
    assert statuses.count(200) + statuses.count(429) == 20
    eventually(lambda: spent(tenant) > 0)
    assert spent(tenant) < 3000 + 2700 + 1000  # An estimate of the input, and one of the answer.
    for answer in answers:
        if answer.status_code == 429:
            refused(answer, OF_A_MONTH, "insufficient_quota")


def test_what_is_reserved_is_given_back_and_a_budget_can_be_used_up(
    tenant: Tenant, emulator: Emulator, redis_url: str
) -> None:
    tenant.settings(limits={"tokens_per_month": 1500})
    first = running(emulator, lambda: ask(tenant.http, max_output_tokens=1000))
    answer = ask(tenant.http, max_output_tokens=1000)
    refused(answer, OF_A_MONTH, "insufficient_quota")
    assert int(answer.headers["retry-after"]) < 60
    assert "x-should-retry" not in answer.headers
    assert "max_output_tokens" in answer.json()["error"]["message"]
    assert ask(tenant.http, max_output_tokens=16).status_code == 200  # This one fits beside it.
    first.join()
    eventually(lambda: held(redis_url, tenant) == 0)
    while spent(tenant) < 1500:
        # Nothing else runs and something is left: it is admitted, though it may use more than that.
        answer = ask(tenant.http, input="word " * 200, max_output_tokens=8000)
        assert answer.status_code == 200, answer.text
        eventually(lambda: held(redis_url, tenant) == 0)
    answer = ask(tenant.http, max_output_tokens=16)
    refused(answer, OF_A_MONTH, "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
    assert int(answer.headers["retry-after"]) <= 31 * 86_400


def test_no_project_waits_for_what_another_has_reserved(tenant: Tenant, emulator: Emulator) -> None:
    other = Tenant(tenant.service)
    for each in (tenant, other):
        each.settings(limits={"tokens_per_month": 1500})
    first = running(emulator, lambda: ask(tenant.http, max_output_tokens=1400))
    assert ask(tenant.http, max_output_tokens=1400).status_code == 429
    assert ask(other.http, max_output_tokens=1400).status_code == 200
    first.join()


def test_the_history_of_a_thread_is_reserved_on_every_process(
    tenant: Tenant, second: Service, emulator: Emulator, redis_url: str
) -> None:
    thread = tenant.thread()
    turn = tenant.turn(thread, LONG * 3, model=MODEL)
    tenant.settings(limits={"tokens_per_month": spent(tenant) + 2000})
    first = running(emulator, lambda: ask(tenant.http, max_output_tokens=16), seconds=4)
    for http in (tenant.http, at(second, tenant)):
        body = {"input": "Hi", "model": MODEL, "max_output_tokens": 16}
        refused(http.post(f"/threads/{thread}/turns", json=body), OF_A_MONTH, "insufficient_quota")
        previous = turn["id"].replace("turn_", "resp_")
        refused(ask(http, previous_response_id=previous, max_output_tokens=16), OF_A_MONTH, "insufficient_quota")
        assert ask(http, max_output_tokens=16).status_code == 200
    first.join()


def test_every_outcome_gives_the_reservation_back(tenant: Tenant, emulator: Emulator, redis_url: str) -> None:
    tenant.settings(limits={"tokens_per_month": 10**6})

    def fails() -> None:
        emulator.fault("status", status=400, code="InvalidParameter", message="no", times=1)
        assert ask(tenant.http).status_code == 400
        assert chat(tenant.http, model="no-such-model").status_code >= 400

    def cancelled() -> None:
        emulator.reset()
        emulator.fault("slow", seconds_per_event=0.2, times=1)
        id_ = ask(tenant.http, background=True).json()["id"]
        emulator.is_asked()
        assert held(redis_url, tenant) == 1
        assert tenant.http.post(f"/responses/{id_}/cancel").status_code == 200

    def left() -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"Echo: {LONG}"}], "stream": True}
        with tenant.http.stream("POST", "/chat/completions", json=body) as answer:
            next(answer.iter_bytes())

    def in_background() -> None:
        id_ = ask(tenant.http, background=True).json()["id"]
        eventually(lambda: tenant.http.get(f"/responses/{id_}").json()["status"] == "completed")

    def compacted() -> None:
        answer = tenant.http.post("/responses/compact", json={"model": MODEL, "input": f"A story. {LONG}"})
        assert answer.status_code == 200

    for outcome in (fails, cancelled, left, in_background, compacted):
        outcome()
        eventually(lambda: held(redis_url, tenant) == 0)


def test_the_reservation_of_a_killed_process_lapses(
    tenant: Tenant, service_env: dict[str, str], emulator: Emulator, redis_url: str
) -> None:
    tenant.settings(limits={"tokens_per_month": 1500})
    killed = Service(env=service_env)
    http = at(killed, tenant)

    def until_it_is_killed() -> None:
        with pytest.raises(httpx2.HTTPError):
            ask(http, max_output_tokens=1400)

    first = running(emulator, until_it_is_killed, seconds=20)
    killed.process.stop(signal.SIGKILL)
    first.join()
    refused(ask(tenant.http, max_output_tokens=1400, input=LONG), OF_A_MONTH, "insufficient_quota")
    cache: Any = redis.Redis.from_url(redis_url)
    (key,) = cache.keys(f"everthread:limits:{{{tenant.id.removeprefix('proj_')}}}:project:*:tokens:until")
    ((member, until),) = cache.zrange(key, 0, -1, withscores=True)
    seconds, _ = cache.time()
    assert until / 1000 - seconds <= 61
    cache.zadd(key, {member: until - 60_000})  # A minute later.
    assert ask(tenant.http, max_output_tokens=1400).status_code == 200


def test_a_repeated_request_reserves_nothing(tenant: Tenant, emulator: Emulator) -> None:
    tenant.settings(limits={"tokens_per_month": 1500})
    key = {"Idempotency-Key": uuid4().hex}
    body = {"model": MODEL, "input": "Hi", "max_output_tokens": 1400}
    ids: list[str] = []

    def send() -> None:
        ids.append(tenant.http.post("/responses", json=body, headers=key).json()["id"])

    first = running(emulator, send)
    send()
    first.join()
    assert len(set(ids)) == 1
    tenant.settings(limits={"tokens_per_month": 1})
    refused(ask(tenant.http), OF_A_MONTH, "insufficient_quota")
    send()
    assert len(set(ids)) == 1
    assert len(emulator.calls()) == 1


def test_without_redis_each_worker_admits_its_share_and_what_was_used_counts_later(
    own_env: dict[str, str], own_servers: Servers, emulator: Emulator
) -> None:
    service = Service(env=own_env)
    try:
        tenant = Tenant(service)
        tenant.settings(limits={"tokens_per_month": 3000})
        own_servers.stop_redis()
        emulator.fault("slow", seconds=0.5, times=20)
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: ask(tenant.http, input=LONG), range(20)))
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(200) >= 1
        assert spent(tenant) < 3000 + 2700 + 1000
        tenant.settings(limits={"tokens_per_month": spent(tenant)})
        own_servers.start_redis()
        eventually(lambda: ask(tenant.http).headers.get("x-should-retry") == "false")
    finally:
        service.stop()


def days(tenant: Tenant, **params: Any) -> list[str]:
    answer = tenant.http.get("/usage", params=params)
    assert answer.status_code == 200, answer.text
    return [row["day"] for row in answer.json()["data"]]


@pytest.mark.parametrize(
    ("moment", "zone", "day"),
    [
        ("2026-03-04T15:59:59Z", "Asia/Shanghai", "2026-03-04"),
        ("2026-03-04T16:00:00Z", "Asia/Shanghai", "2026-03-05"),
        ("2026-03-04T18:29:59Z", "Asia/Kolkata", "2026-03-04"),
        ("2026-03-04T18:30:00Z", "Asia/Kolkata", "2026-03-05"),
        # The days on which summer time begins and ends.
        ("2026-03-08T04:59:59Z", "America/New_York", "2026-03-07"),
        ("2026-03-09T03:59:59Z", "America/New_York", "2026-03-08"),
        ("2026-11-01T04:00:00Z", "America/New_York", "2026-11-01"),
        ("2026-11-02T04:59:59Z", "America/New_York", "2026-11-01"),
        ("2026-03-04T16:00:00Z", "UTC", "2026-03-04"),
    ],
)
def test_usage_by_day_in_a_time_zone(tenant: Tenant, database_url: str, moment: str, zone: str, day: str) -> None:
    assert ask(tenant.http).status_code == 200
    assert chat(tenant.http).status_code == 200
    eventually(lambda: tenant.http.get("/usage").json()["data"][0]["chat_completions"] == 1)
    project = tenant.id.removeprefix("proj_")
    query(
        database_url,
        f"UPDATE turns SET created_at = '{moment}', arrived_at = '{moment}' WHERE project_id = '{project}'",
        f"UPDATE threads SET counted_seq = 0 WHERE project_id = '{project}'",
        f"DELETE FROM usage_sums WHERE project_id = '{project}'",
    )
    query(database_url, f"UPDATE charges SET at = '{moment}' WHERE project_id = '{project}'")
    assert days(tenant, tz=zone) == [day]
    assert days(tenant, tz=zone, after=day) == []
    (row,) = tenant.http.get("/usage", params={"tz": zone}).json()["data"]
    assert (row["turns"], row["chat_completions"]) == (1, 1)
    assert days(tenant) == [moment[:10]]


@pytest.mark.parametrize(
    ("path", "params", "param"),
    [
        ("/usage", {"tz": "Asia/Nowhere"}, "tz"),
        ("/usage", {"tz": "asia/shanghai"}, "tz"),
        ("/usage", {"tz": "FOO+3"}, "tz"),
        ("/usage", {"tz": "UTC', 'x') --"}, "tz"),
        ("/usage", {"tz": ""}, "tz"),
        ("/usage", {"tz": "Asia/Shanghai", "group_by": "model"}, "tz"),
        ("/usage", {"timezone": "Asia/Shanghai"}, "timezone"),
        ("/usage/hours", {"tz": "Asia/Shanghai"}, "tz"),
    ],
)
def test_a_parameter_that_would_do_nothing_is_refused(
    tenant: Tenant, path: str, params: dict[str, str], param: str
) -> None:
    answer = tenant.http.get(path, params=params)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param

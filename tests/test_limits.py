"""Limits of a project, a key and an end user: who is over one is told which, and nobody else notices."""

import random
import string
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import redis

from tests.breakable import Servers
from tests.service import Emulator, Service, eventually
from tests.tenants import Tenant
from tests.test_cache import cluster, sentinels


@pytest.fixture
def tenant(service: Service) -> Tenant:
    return Tenant(service)


def refused(answer: httpx2.Response, which: str, code: str = "rate_limit_exceeded") -> None:
    assert answer.status_code == 429, answer.text
    assert (answer.headers["everthread-limit"], answer.json()["error"]["code"]) == (which, code)
    assert answer.json()["error"]["type"] == "rate_limit_error"


def ask(http: httpx2.Client, **fields: Any) -> httpx2.Response:
    return http.post("/responses", json={"input": "Hi", **fields})


def test_requests_a_minute_are_counted_and_said_and_a_refusal_makes_nothing(tenant: Tenant, emulator: Emulator) -> None:
    tenant.settings(limits={"requests_per_minute": 3})
    answers = [ask(tenant.http) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0"]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
    assert answers[0].headers["x-ratelimit-reset-requests"].endswith("s")
    answer = ask(tenant.http)
    refused(answer, "project.requests_per_minute")
    assert 1 <= int(answer.headers["retry-after"]) <= 20
    assert "3 requests a minute" in answer.json()["error"]["message"]
    assert len(emulator.calls()) == len(tenant.http.get("/threads").json()["data"]) == 3
    other = Tenant(tenant.service)
    assert ask(other.http).status_code == 200
    assert "x-ratelimit-limit-requests" not in ask(other.http).headers


def test_openai_client_knows_a_refusal_and_comes_again_when_it_was_told_to(tenant: Tenant) -> None:
    tenant.settings(limits={"requests_per_minute": 60})
    client = openai.OpenAI(base_url=f"{tenant.service.url}/v1", api_key=tenant.key, max_retries=0)
    with pytest.raises(openai.RateLimitError):  # noqa: PT012
        for _ in range(100):
            client.responses.create(model="qwen3.5-plus", input="Hi")
    patient = client.with_options(max_retries=3)
    assert patient.responses.create(model="qwen3.5-plus", input="Hi").status == "completed"


def test_limit_is_one_for_all_workers(own_env: dict[str, str]) -> None:
    workers = [Service(env=own_env), Service(env=own_env)]
    try:
        tenant = Tenant(workers[0])
        tenant.settings(limits={"requests_per_minute": 10})  # Before either worker knows its key.

        def one(number: int) -> int:
            sent = {"input": "Hi"}
            return workers[number % 2].http.post("/responses", json=sent, headers=tenant.http.headers).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(one, range(30)))
        assert statuses.count(200) in (10, 11)  # One more, where a tenth of a minute has passed.
        assert statuses.count(429) == 30 - statuses.count(200)
    finally:
        for worker in workers:
            worker.stop()


def test_tokens_a_minute_are_set_right_by_what_was_used(tenant: Tenant) -> None:
    tenant.settings(limits={"tokens_per_minute": 1000})
    first = ask(tenant.http, input="word " * 100)
    used = first.json()["usage"]["total_tokens"]
    time.sleep(0.5)
    left = int(ask(tenant.http).headers["x-ratelimit-remaining-tokens"])
    assert abs(1000 - used - left) < 40  # What has come back meanwhile, and the second one's estimate.
    long = ask(tenant.http, input="word " * 3000)
    refused(long, "project.tokens_per_minute")


def test_request_that_is_larger_than_a_minutes_tokens_waits_for_all_of_them_and_no_longer(tenant: Tenant) -> None:
    tenant.settings(limits={"tokens_per_minute": 100})
    assert ask(tenant.http, input="word " * 3000).status_code == 200
    refused(ask(tenant.http), "project.tokens_per_minute")


def running(tenant: Tenant, number: int, seconds: float, emulator: Emulator) -> list[threading.Thread]:
    emulator.fault("slow", seconds=seconds, times=number)
    threads = [threading.Thread(target=lambda: ask(tenant.http)) for _ in range(number)]
    for thread in threads:
        thread.start()
    emulator.is_asked(number)
    return threads


def test_turns_at_once(tenant: Tenant, emulator: Emulator) -> None:
    tenant.settings(limits={"turns_at_once": 2})
    threads = running(tenant, 2, 2, emulator)
    refused(ask(tenant.http), "project.turns_at_once")
    for thread in threads:
        thread.join()
    assert ask(tenant.http).status_code == 200


def test_what_failed_or_was_refused_later_runs_no_more(tenant: Tenant, emulator: Emulator) -> None:
    tenant.settings(limits={"turns_at_once": 1})
    for _ in range(3):
        emulator.fault("status", status=400, code="InvalidParameter", message="no", times=1)
        assert ask(tenant.http).status_code == 400
        assert ask(tenant.http, previous_response_id=f"resp_{'0' * 32}").status_code == 400
    assert ask(tenant.http).status_code == 200


def test_turn_whose_worker_has_died_does_not_count_for_ever(
    tenant: Tenant, service_env: dict[str, str], redis_url: str
) -> None:
    tenant.settings(limits={"turns_at_once": 1})
    key = f"everthread:limits:{{{tenant.id.removeprefix('proj_')}}}:project:running"
    cache = redis.Redis.from_url(redis_url)
    cache.zadd(key, {"of a dead worker": (time.time() + 2) * 1000})
    refused(ask(tenant.http), "project.turns_at_once")
    eventually(lambda: ask(tenant.http).status_code == 200, seconds=5)


def test_keys_and_users_have_limits_of_their_own(tenant: Tenant) -> None:
    tenant.settings(key_limits={"requests_per_minute": 2}, user_limits={"requests_per_minute": 1})
    place = f"/admin/projects/{tenant.id}/keys"
    made = [tenant.http.post(place, json={"name": "k"}).json()["key"] for _ in range(2)]
    own = tenant.http.post(place, json={"name": "k", "limits": {"requests_per_minute": 4}}).json()["key"]
    first, second, third = (
        httpx2.Client(base_url=f"{tenant.service.url}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60)
        for key in (*made, own)
    )
    assert [ask(first).status_code for _ in range(2)] == [200, 200]
    refused(ask(first), "key.requests_per_minute")
    assert ask(second, user="ann").status_code == 200
    refused(ask(second, user="ann"), "user.requests_per_minute")
    assert ask(second, user="bob").status_code == 200  # The refused one has taken nothing of the key's.
    assert [ask(third).status_code for _ in range(5)] == [200] * 4 + [429]


def test_user_with_a_token_is_limited_whatever_name_is_sent(tenant: Tenant) -> None:
    tenant.settings(user_limits={"requests_per_minute": 1})
    token = tenant.http.post("/user_tokens", json={"user": "ann"}).json()["token"]
    with httpx2.Client(base_url=tenant.http.base_url, headers={"Authorization": f"Bearer {token}"}) as ann:
        assert ask(ann, user="x").status_code == 200
        refused(ask(ann, user="y"), "user.requests_per_minute")


def test_tokens_of_a_month_are_postgres_to_say(tenant: Tenant, redis_url: str) -> None:
    tenant.settings(limits={"tokens_per_month": 50})
    used = 0
    while used < 50:
        answer = ask(tenant.http)
        used += answer.json()["usage"]["total_tokens"]
    eventually(lambda: ask(tenant.http).status_code == 429)
    answer = ask(tenant.http)
    refused(answer, "project.tokens_per_month", "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
    redis.Redis.from_url(redis_url).flushall()
    refused(ask(tenant.http), "project.tokens_per_month", "insufficient_quota")
    tenant.settings(limits={"tokens_per_month": 10**6})
    assert ask(tenant.http).status_code == 200


def test_money_of_a_month_by_the_price_table(own_env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[families."qwen3.5-plus"]\nprice = { input = 1000, output = 1000 }\n')
    service = Service(env={**own_env, "EVERTHREAD_MODELS_FILE": str(file)})
    try:
        tenant = Tenant(service)
        first = ask(tenant.http).json()["usage"]["total_tokens"]
        tenant.settings(limits={"cost_per_month": (first + 1) / 1000})
        assert ask(tenant.http).status_code == 200  # What was spent before the limit was set counts.
        eventually(lambda: ask(tenant.http).status_code == 429)
        answer = ask(tenant.http)
        refused(answer, "project.cost_per_month", "insufficient_quota")
        assert ask(tenant.http, model="qwen9-next").status_code == 403  # It has no price.
    finally:
        service.stop()


MAKERS: list[tuple[str, Callable[[httpx2.Client], httpx2.Response]]] = [
    ("threads", lambda http: http.post("/threads", json={})),
    ("by name", lambda http: http.put("/threads/by-name/one-more")),
    ("responses", ask),
    ("conversations", lambda http: http.post("/conversations", json={})),
    ("fork", lambda http: http.post(f"/threads/{http.get('/threads').json()['data'][0]['id']}/fork")),
    ("import", lambda http: http.post("/threads/import", json=_exported(http))),
]


def _exported(http: httpx2.Client) -> Any:
    record = http.get(f"/threads/{http.get('/threads').json()['data'][0]['id']}/export").json()
    return {**record, "id": f"thread_{'0' * 31}1"}


@pytest.mark.parametrize(("name", "make"), MAKERS)
def test_no_way_leads_past_the_most_threads(
    tenant: Tenant, name: str, make: Callable[[httpx2.Client], httpx2.Response]
) -> None:
    tenant.settings(limits={"threads": 2})
    assert ask(tenant.http).status_code == 200
    assert tenant.http.put("/threads/by-name/known").status_code == 201
    refused(make(tenant.http), "project.threads", "insufficient_quota")
    assert len(tenant.http.get("/threads").json()["data"]) == 2
    assert tenant.http.put("/threads/by-name/known").status_code == 200
    assert tenant.turn(tenant.http.get("/threads/by-name/known").json()["id"], "Hi")["status"] == "completed"


def test_threads_of_one_user(tenant: Tenant) -> None:
    tenant.settings(user_limits={"threads": 1})
    assert ask(tenant.http, user="ann").status_code == 200
    refused(ask(tenant.http, user="ann"), "user.threads", "insufficient_quota")
    assert ask(tenant.http, user="bob").status_code == 200


def test_bytes_stored(tenant: Tenant) -> None:
    thread = tenant.thread()
    for _ in range(4):
        tenant.turn(thread, "".join(random.choices(string.printable, k=1000)))
    tenant.settings(limits={"stored_bytes": 3000})  # A count far from a limit is taken again after ten seconds.
    place = f"/threads/{thread}/turns"
    eventually(lambda: tenant.http.post(place, json={"input": "Hi"}).status_code == 429)
    refused(tenant.http.post(place, json={"input": "Hi"}), "project.stored_bytes", "insufficient_quota")
    refused(tenant.http.post("/threads", json={}), "project.stored_bytes", "insufficient_quota")
    tenant.http.delete(f"/threads/{thread}")
    eventually(lambda: ask(tenant.http).status_code == 200)


def test_body_and_input_are_bounded_by_name(tenant: Tenant) -> None:
    tenant.settings(limits={"body_bytes": 2000, "input_items": 2})
    answer = ask(tenant.http, input="x" * 3000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert "2000 bytes" in answer.json()["error"]["message"]
    items = [{"role": "user", "content": "Hi"}] * 3
    answer = ask(tenant.http, input=items)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_items")
    assert answer.json()["error"]["param"] == "input"
    assert ask(tenant.http, input=items[:2]).status_code == 200


def test_chat_and_summaries_are_counted_too(tenant: Tenant) -> None:
    tenant.settings(limits={"requests_per_minute": 2, "turns_at_once": 1})
    body = {"model": "qwen3.5-plus", "messages": [{"role": "user", "content": "Hi"}]}
    assert tenant.http.post("/chat/completions", json=body).status_code == 200
    with tenant.http.stream("POST", "/chat/completions", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        answer.read()
    refused(tenant.http.post("/chat/completions", json=body), "project.requests_per_minute")
    answer = tenant.http.post("/responses/compact", json={"model": "qwen3.5-plus", "input": "A story"})
    refused(answer, "project.requests_per_minute")


def test_limits_hold_while_redis_is_away(own_env: dict[str, str], own_servers: Servers) -> None:
    service = Service(env=own_env)
    try:
        tenant = Tenant(service)
        tenant.settings(limits={"requests_per_minute": 5})
        own_servers.stop_redis()
        statuses = [ask(tenant.http).status_code for _ in range(8)]
        assert statuses == [200] * 5 + [429] * 3
        own_servers.start_redis()
    finally:
        service.stop()


@pytest.mark.parametrize("form", [cluster, sentinels])
def test_limits_are_counted_in_any_form_of_redis(
    service_env: dict[str, str], emulator: Emulator, tmp_path: Path, form: Any
) -> None:
    with form(tmp_path) as (*_, url):
        service = Service(env={**service_env, "REDIS_URL": url})
        tenant = Tenant(service)
        tenant.settings(
            limits={"requests_per_minute": 3, "turns_at_once": 5, "tokens_per_month": 10**6},
            user_limits={"tokens_per_minute": 10**6},
        )
        answers = [ask(tenant.http, user="ann") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        left = [int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in answers[:3]]
        assert left == sorted(left, reverse=True)
        service.stop()


def test_one_projects_slow_turns_do_not_slow_anothers(own_env: dict[str, str]) -> None:
    emulator = Emulator()
    patient = {"EVERTHREAD_MAX_TURNS": "200", "EVERTHREAD_PROVIDER_STALL_SECONDS": "60"}
    service = Service(env={**own_env, "DASHSCOPE_BASE_URL": emulator.base_url, **patient})
    try:
        greedy, other = Tenant(service), Tenant(service)

        def seconds(turns: int) -> float:
            thread = other.thread()  # The emulator reads the whole of it each time.
            began = time.monotonic()
            for _ in range(turns):
                other.turn(thread, "Hi")
            return time.monotonic() - began

        seconds(20)
        alone = min(seconds(20) for _ in range(3))
        emulator.fault("slow", seconds=30, times=1000)

        def one(_: int) -> int:
            return ask(greedy.http, background=True).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(one, range(200)))
        assert statuses.count(200) == 150  # Three quarters of the places: the rest is left to the others.
        assert statuses.count(429) == 50
        emulator.is_asked(150)
        emulator.control("faults", [])
        assert min(seconds(20) for _ in range(3)) < 1.5 * alone
    finally:
        service.stop()
        emulator.stop()

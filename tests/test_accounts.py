"""Provider accounts: whose they are, which of them is asked, and what happens when one does not answer."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx2
import openai
import pytest

from app.settings import REGION_CODES, region_base_url
from tests.postgres_pair import run_sql
from tests.service import Emulator, Process, Service, eventually, read_events, said
from tests.tenants import Tenant

KEY_OF_A = "sk-account-a-of-the-tests"
KEY_OF_B = "sk-account-b-of-the-tests"
THROTTLED = {"kind": "status", "status": 429}


class Pair:
    """A service, and two providers that are none of its own."""

    def __init__(self, env: dict[str, str]) -> None:
        self.a, self.b = Emulator(), Emulator()
        self.service = Service(env=env)

    def stop(self) -> None:
        assert self.service.stop() == 0
        self.a.stop()
        self.b.stop()


@pytest.fixture(scope="module")
def running_pair(service_env: dict[str, str]) -> Iterator[Pair]:
    pair = Pair(
        {
            **service_env,
            "EVERTHREAD_ACCOUNTS_INSIDE": "true",
            "EVERTHREAD_PROVIDER_ATTEMPTS": "2",
            "EVERTHREAD_PROVIDER_STALL_SECONDS": "2",
            "EVERTHREAD_CLEANING_SECONDS": "1",
            "EVERTHREAD_PROVIDER_TIMEOUT_SECONDS": "3",
        }
    )
    yield pair
    pair.stop()


@pytest.fixture
def pair(running_pair: Pair, emulator: Emulator) -> Pair:
    running_pair.a.reset()
    running_pair.b.reset()
    return running_pair


@pytest.fixture
def tenant(pair: Pair) -> Tenant:
    tenant = Tenant(pair.service)
    tenant.account("a", pair.a.base_url, KEY_OF_A)
    tenant.account("b", pair.b.base_url, KEY_OF_B)
    return tenant


def no_id_has_crossed(pair: Pair) -> None:
    """Every id that an account was sent is one that it has given."""
    for provider in (pair.a, pair.b):
        given = {(call["answer"] or {}).get("id") for call in provider.calls()}
        sent = {call["body"].get("previous_response_id") for call in provider.calls()} - {None}
        assert sent <= given


def test_turns_go_to_the_projects_own_account_and_never_to_the_services(
    pair: Pair, tenant: Tenant, emulator: Emulator
) -> None:
    thread = tenant.thread()
    turn = tenant.turn(thread, "My name is Ada.")
    assert tenant.turn(thread, "What is my name?")["output_text"] == "Ada"
    assert [call["body"].get("previous_response_id") is None for call in pair.a.calls()] == [True, False]
    assert pair.b.calls() == emulator.calls() == []
    (call,) = tenant.calls(thread, turn["id"])
    assert call["account"] == turn["account"]
    assert turn["account"].startswith(f"127.0.0.1:{pair.a.port}#")
    chain = tenant.http.get(f"/threads/{thread}/chain").json()["data"]
    assert [(link["account"], link["live"]) for link in chain] == [(turn["account"], True)] * 2


def test_project_without_accounts_has_the_services(pair: Pair, tenant: Tenant, emulator: Emulator) -> None:
    other = Tenant(pair.service)
    other.turn(other.thread(), "Hello!")
    assert len(emulator.calls()) == 1
    assert pair.a.calls() == pair.b.calls() == []


@pytest.mark.parametrize(
    ("fault", "asked"),
    [
        (THROTTLED, 2),
        ({"kind": "status", "status": 503}, 2),
        ({"kind": "rate_limit_200"}, 2),
        ({"kind": "status", "status": 402, "code": "", "message": "Payment Required"}, 1),
        ({"kind": "status", "status": 400, "code": "Arrearage", "message": "Access denied."}, 1),
        ({"kind": "status", "status": 403, "code": "Arrearage", "message": "Overdue payment."}, 1),
        ({"kind": "status", "status": 429, "code": "PrepaidBillOverdue", "message": "The prepaid bill is overdue."}, 1),
        ({"kind": "status", "status": 401, "code": "InvalidApiKey", "message": "Invalid API-key provided."}, 1),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_turn_goes_on_at_the_next_account_in_the_same_request(
    pair: Pair, tenant: Tenant, fault: dict[str, Any], asked: int, stream: bool
) -> None:
    thread = tenant.thread()
    first = tenant.turn(thread, "My name is Ada.")
    pair.a.control("faults", [{**fault, "times": 10}])
    before = len(pair.a.calls())
    if stream:
        body = {"input": "What is my name?", "stream": True}
        with tenant.http.stream("POST", f"/threads/{thread}/turns", json=body) as answer:
            events = read_events(answer.iter_lines())
        assert said(events) == "Ada"
        assert [event["type"] for event in events].count("response.created") == 1
        turn = tenant.http.get(f"/threads/{thread}/turns").json()["data"][0]
    else:
        turn = tenant.turn(thread, "What is my name?")
    assert (turn["status"], turn["output_text"], turn["continuation"]) == ("completed", "Ada", "rebuilt")
    assert turn["account"].startswith(f"127.0.0.1:{pair.b.port}#")
    calls = tenant.calls(thread, turn["id"])
    assert [call["account"] for call in calls] == [first["account"]] * asked + [turn["account"]]
    assert len(pair.a.calls()) - before == asked
    records = tenant.http.get("/audit", params={"turn": turn["id"], "action": "turn.called", "order": "asc"}).json()
    assert [record["detail"].split()[-1] for record in records["data"]] == [call["account"] for call in calls]
    # It stays where its chain lives now: to go back would be to send the history again.
    pair.a.reset()
    again = tenant.turn(thread, "What is my name?")
    assert (again["account"], again["continuation"]) == (turn["account"], "chained")
    no_id_has_crossed(pair)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "stall"},
        {"kind": "cut", "after": 3},
        {"kind": "malformed"},
        {"kind": "status", "status": 400, "code": "InvalidParameter", "message": "temperature is wrong"},
        {"kind": "status", "status": 500, "code": "InternalError"},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_whatever_an_account_does_no_turn_is_lost_or_answered_twice(
    pair: Pair, tenant: Tenant, fault: dict[str, Any], stream: bool
) -> None:
    thread = tenant.thread()
    pair.a.control("faults", [{**fault, "times": 5}])
    with tenant.http.stream("POST", f"/threads/{thread}/turns", json={"input": "Hi", "stream": stream}) as answer:
        answer.read()
    (turn,) = tenant.http.get(f"/threads/{thread}/turns").json()["data"]
    assert turn["status"] in ("completed", "incomplete", "failed")
    answered = [call for call in pair.b.calls() if (call["answer"] or {}).get("status") == "completed"]
    # The model of the one may have been asked: then that of the other is not.
    assert len(answered) == (1 if turn["status"] == "completed" else 0)
    pair.a.reset()
    assert tenant.turn(thread, "My name is Ada.")["status"] == "completed"
    no_id_has_crossed(pair)


@pytest.mark.parametrize("form", ["status", "failed", "error_event", "flat"])
@pytest.mark.parametrize(
    "message",
    [
        "Invalid schema for function 'set_throttle': rate limit exceeded is not a property.",
        "The tool check rate limit has no parameters.",
        "<400> InternalError.Algo.InvalidParameter: function check_access_denied is not valid.",
        "The model qwen3.5-plus could not load the image at https://example.com/a.png: 404 not found",
    ],
)
def test_refusal_with_the_clients_own_words_is_made_once_and_opens_no_breaker(
    pair: Pair, tenant: Tenant, message: str, form: str
) -> None:
    fault = {"kind": form, "status": 400, "code": "InvalidParameter", "message": message, "after_events": 0, "times": 3}
    pair.a.control("faults", [fault])
    for asked in (1, 2, 3):
        body = {"input": "Hi", "stream": form != "status"}
        answer = tenant.http.post(f"/threads/{tenant.thread()}/turns", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidParameter")
        assert answer.json()["error"]["message"] == message
        assert len(pair.a.calls()) == asked
    assert pair.b.calls() == []
    accounts = tenant.http.get(f"/admin/projects/{tenant.id}/accounts").json()["data"]
    assert not {"open", "half_open"} & {tenant.state(account) for account in accounts}


def test_account_that_is_away_is_left_alone_and_comes_back(pair: Pair, service_env: dict[str, str]) -> None:
    tenant, first = Tenant(pair.service), Emulator()
    account = tenant.account("first", first.base_url, KEY_OF_A)
    tenant.account("second", pair.b.base_url, KEY_OF_B)
    thread = tenant.thread()
    at_first = tenant.turn(thread, "My name is Ada.")["account"]
    first.process.process.kill()
    first.process.process.wait()
    moved = tenant.turn(thread, "What is my name?")
    assert moved["output_text"] == "Ada"
    assert moved["account"] != at_first
    assert tenant.state(account) == "open"
    began = time.monotonic()
    other = tenant.thread()
    assert len(tenant.calls(other, tenant.turn(other, "Hi")["id"])) == 1
    assert time.monotonic() - began < 2  # No turn waits for the account that does not answer.
    back = Process("emulator", "--port", str(first.port))
    try:
        back.wait_for("ready")
        eventually(lambda: tenant.turn(tenant.thread(), "Hi")["account"] == at_first, seconds=30)
        assert tenant.state(account) == "closed"
        assert tenant.turn(thread, "What is my name?")["account"] == moved["account"]
    finally:
        back.stop()


def test_accounts_are_asked_for_their_models_alone(pair: Pair) -> None:
    tenant = Tenant(pair.service)
    tenant.account("a", pair.a.base_url, KEY_OF_A, models=["qwen3.5-*"])
    tenant.account("b", pair.b.base_url, KEY_OF_B, models=["qwen3.7-max"])
    thread = tenant.thread()
    tenant.turn(thread, "My name is Ada.", model="qwen3.5-plus")
    assert tenant.turn(thread, "What is my name?", model="qwen3.7-max")["output_text"] == "Ada"
    assert [call["body"]["model"] for call in pair.a.calls()] == ["qwen3.5-plus"]
    assert [call["body"]["model"] for call in pair.b.calls()] == ["qwen3.7-max"]
    answer = tenant.http.post(f"/threads/{thread}/turns", json={"input": "Hi", "model": "qwen3.7-plus"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_found")
    no_id_has_crossed(pair)


def test_model_that_one_region_does_not_have_is_asked_for_in_the_next(pair: Pair, tenant: Tenant) -> None:
    pair.a.fault("status", status=400, code="InvalidParameter", message="Unsupported model: qwen3.5-plus", times=1)
    turn = tenant.turn(tenant.thread(), "Hello!")
    assert turn["account"].startswith(f"127.0.0.1:{pair.b.port}#")
    assert tenant.turn(tenant.thread(), "Hello!")["account"].startswith(f"127.0.0.1:{pair.a.port}#")


def test_accounts_of_one_position_share_by_weight(pair: Pair) -> None:
    tenant = Tenant(pair.service)
    tenant.account("a", pair.a.base_url, KEY_OF_A, position=1, weight=3)
    tenant.account("b", pair.b.base_url, KEY_OF_B, position=1, weight=1)
    for _ in range(60):
        tenant.turn(tenant.thread(), "Hi")
    # Far outside of what chance would do once in a million runs.
    assert 25 < len(pair.a.calls()) < 59
    assert len(pair.a.calls()) + len(pair.b.calls()) == 60


def test_disabled_and_deleted_accounts_are_not_asked(pair: Pair, tenant: Tenant) -> None:
    place = f"/admin/projects/{tenant.id}/accounts"
    first, second = tenant.http.get(place).json()["data"]
    assert tenant.http.patch(f"{place}/{first['id']}", json={"disabled": True}).json()["disabled"] is True
    tenant.turn(tenant.thread(), "Hi")
    assert (len(pair.a.calls()), len(pair.b.calls())) == (0, 1)
    assert tenant.http.patch(f"{place}/{first['id']}", json={"disabled": False}).status_code == 200
    assert tenant.http.delete(f"{place}/{second['id']}").json()["deleted"] is True
    assert tenant.http.delete(f"{place}/{second['id']}").status_code == 404
    tenant.turn(tenant.thread(), "Hi")
    assert (len(pair.a.calls()), len(pair.b.calls())) == (1, 1)


def test_project_whose_accounts_are_all_disabled_does_not_spend_the_services(
    pair: Pair, tenant: Tenant, emulator: Emulator
) -> None:
    place = f"/admin/projects/{tenant.id}/accounts"
    for account in tenant.http.get(place).json()["data"]:
        tenant.http.patch(f"{place}/{account['id']}", json={"disabled": True})
    answer = tenant.http.post("/responses", json={"input": "Hi"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_found")
    assert tenant.http.get("/models").status_code == 200
    assert emulator.calls() == []


def test_new_key_of_an_account_is_another_account_and_its_threads_are_rebuilt(pair: Pair, tenant: Tenant) -> None:
    place = f"/admin/projects/{tenant.id}/accounts"
    first = tenant.http.get(place).json()["data"][0]
    thread = tenant.thread()
    tenant.turn(thread, "My name is Ada.")
    assert tenant.http.patch(f"{place}/{first['id']}", json={"api_key": "sk-another-key-of-a"}).status_code == 200
    turn = tenant.turn(thread, "What is my name?")
    assert (turn["output_text"], turn["continuation"]) == ("Ada", "rebuilt")
    assert len({call["account"] for call in pair.a.calls()}) == 2


def test_copies_are_deleted_at_the_account_that_has_them(pair: Pair, tenant: Tenant) -> None:
    thread = tenant.thread()
    tenant.turn(thread, "Hi")
    (given,) = [call["answer"]["id"] for call in pair.a.calls()]
    assert tenant.http.delete(f"/threads/{thread}").status_code == 200
    look = httpx2.Client(base_url=pair.a.base_url, headers={"Authorization": f"Bearer {KEY_OF_A}"})
    eventually(lambda: look.get(f"/responses/{given}").status_code == 404)


def test_chat_and_summaries_go_to_the_projects_own_account(pair: Pair, tenant: Tenant, emulator: Emulator) -> None:
    client = openai.OpenAI(base_url=f"{pair.service.url}/v1", api_key=tenant.key, max_retries=0)
    client.chat.completions.create(model="qwen3.5-plus", messages=[{"role": "user", "content": "Hi"}])
    client.responses.compact(model="qwen3.5-plus", input="A long story.")
    assert emulator.calls() == []


def test_provider_says_what_it_makes_of_a_key(pair: Pair, tenant: Tenant) -> None:
    bad = tenant.account("bad", pair.b.base_url, "sk-invalid")
    place = f"/admin/projects/{tenant.id}/accounts"
    found = {
        each["name"]: tenant.http.post(f"{place}/{each['id']}/check").json()
        for each in tenant.http.get(place).json()["data"]
    }
    assert (found["a"]["ok"], found["bad"]["ok"]) == (True, False)
    assert "sk-invalid" not in found["bad"]["message"]
    tenant.http.delete(f"{place}/{bad['id']}")


def test_key_goes_in_and_never_out(pair: Pair, tenant: Tenant, service_env: dict[str, str]) -> None:
    shown = tenant.http.get(f"/admin/projects/{tenant.id}/accounts").text
    trail = tenant.http.get("/audit", params={"limit": 100}).text
    assert KEY_OF_A not in shown + trail + "\n".join(pair.service.process.lines)

    async def kept() -> str:
        connection = await asyncpg.connect(service_env["DATABASE_URL"])
        try:
            return str([dict(row) for row in await connection.fetch("SELECT * FROM accounts")])
        finally:
            await connection.close()

    assert KEY_OF_A not in asyncio.run(kept())
    assert KEY_OF_A.encode().hex() not in asyncio.run(kept())


@pytest.mark.parametrize("of", ["another project", "the project", "the account itself"])
def test_sealed_key_opens_for_its_own_account_and_url_alone(
    pair: Pair, tenant: Tenant, service_env: dict[str, str], of: str
) -> None:
    """Someone who can write to the database has no key sent elsewhere."""
    thief = Tenant(pair.service) if of == "another project" else tenant
    mine = thief.account("mine", pair.b.base_url, KEY_OF_B)
    stolen = tenant.http.get(f"/admin/projects/{tenant.id}/accounts").json()["data"][0]
    if of == "the account itself":
        moved = "UPDATE accounts SET base_url = (SELECT base_url FROM accounts WHERE id = '{0}') WHERE id = '{1}'"
    else:
        moved = "UPDATE accounts SET api_key = (SELECT api_key FROM accounts WHERE id = '{0}') WHERE id = '{1}'"
    ids = [UUID(each["id"].removeprefix("acct_")) for each in (stolen, mine)]
    run_sql(service_env["DATABASE_URL"], moved.format(*ids))
    answer = thief.http.post(f"/admin/projects/{thief.id}/accounts/{mine['id']}/check")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "account_not_used")


def test_shared_account_serves_projects_that_have_none_and_is_shared_by_the_operator_alone(
    pair: Pair, tenant: Tenant, emulator: Emulator
) -> None:
    answer = tenant.http.post(
        f"/admin/projects/{tenant.id}/accounts",
        json={"name": "s", "base_url": pair.a.base_url, "api_key": "sk-s", "shared": True},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "operators_only")
    operator = pair.service.http
    place = f"/admin/projects/{operator.get('/project').json()['id']}/accounts"
    shared = operator.post(
        place, json={"name": uuid4().hex, "base_url": pair.b.base_url, "api_key": KEY_OF_B, "shared": True}
    ).json()
    try:
        other = Tenant(pair.service)
        emulator.control("faults", [{**THROTTLED, "times": 10}])
        turn = other.turn(other.thread(), "Hi")
        assert turn["account"] == shared["account"]
        pair.a.control("faults", [{**THROTTLED, "times": 10}])
        pair.b.control("faults", [{**THROTTLED, "times": 10}])
        answer = tenant.http.post("/responses", json={"input": "Hi"})
        assert answer.status_code == 429  # Its own are throttled: it does not spend the service's.
        assert len(pair.b.calls()) == 3
    finally:
        operator.delete(f"{place}/{shared['id']}")


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:8090/v1", "https://127.0.0.1/v1", "https://10.1.2.3/v1", "https://169.254.169.254/latest",
        "https://[::1]/v1", "https://[::ffff:10.0.0.1]/v1", "https://user:pass@example.com/v1", "ftp://example.com",
        "https://example.com/v1?x=1", "https://example.com/v1#x", "//example.com", "https://",
    ],
)  # fmt: skip
def test_base_url_of_a_tenant_leads_outside(service: Service, base_url: str) -> None:
    tenant = Tenant(service)
    answer = tenant.http.post(
        f"/admin/projects/{tenant.id}/accounts", json={"name": "in", "base_url": base_url, "api_key": "sk-x"}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "base_url")
    assert tenant.http.get(f"/admin/projects/{tenant.id}/accounts").json()["data"] == []


def test_name_that_leads_inside_is_not_connected_to(service: Service) -> None:
    tenant = Tenant(service)
    with socket.create_server(("127.0.0.1", 0)) as inside:
        inside.settimeout(0.1)
        tenant.account("in", f"https://localhost:{inside.getsockname()[1]}/compatible-mode/v1", "sk-x")
        assert tenant.http.post("/responses", json={"input": "Hi"}).status_code == 502
        with pytest.raises(TimeoutError):
            inside.accept()


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("qwencloud", "maas.qwencloudapi.com"),
        ("qwencloud-singapore", "ap-southeast-1.maas.qwencloudapi.com"),
        ("qwencloud-token-plan", "token-plan.maas.qwencloudapi.com"),
    ],
)
def test_qwencloud_hosts_are_regions(service: Service, region: str, host: str) -> None:
    tenant = Tenant(service)
    body = {"name": "qwencloud", "api_key": "sk-x", "region": region}
    made = tenant.http.post(f"/admin/projects/{tenant.id}/accounts", json=body)
    assert made.json()["base_url"] == f"https://{host}/compatible-mode/v1"
    refused = tenant.http.post(f"/admin/projects/{tenant.id}/accounts", json={**body, "workspace": "llm-1"})
    assert refused.status_code == 400


def test_every_region_has_a_place_and_workspaces_have_their_own() -> None:
    assert set(REGION_CODES) == {"singapore", "beijing", "virginia", "tokyo", "frankfurt", "hongkong"}
    for region, code in REGION_CODES.items():
        host = f"llm-1.{code}.maas.aliyuncs.com"
        assert region_base_url(region, "llm-1") == f"https://{host}/compatible-mode/v1"
        assert (region_base_url(region, None) is None) == (region in ("tokyo", "frankfurt"))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"region": "tokyo"}, "workspace"),
        ({"region": "tokyo", "workspace": "a.evil.example/"}, "workspace"),
        ({"region": "mars"}, "region"),
        ({}, None),
        ({"region": "beijing", "base_url": "https://x.example/v1"}, None),
        ({"region": "beijing", "weight": 0}, "weight"),
        ({"region": "beijing", "api_key": "two\nlines"}, "api_key"),
    ],
)
def test_wrong_account_names_its_field(service: Service, body: dict[str, Any], param: str | None) -> None:
    tenant = Tenant(service)
    place = f"/admin/projects/{tenant.id}/accounts"
    answer = tenant.http.post(place, json={"name": "x", "api_key": "sk-x", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert tenant.http.get(place).json()["data"] == []


def test_master_key_is_changed_without_a_pause(fresh_env: dict[str, str], emulator: Emulator, tmp_path: Path) -> None:
    env = {**fresh_env, "EVERTHREAD_ACCOUNTS_INSIDE": "true"}
    former, current = {"EVERTHREAD_MASTER_KEY": "11" * 32}, tmp_path / "key"
    current.write_text("22" * 32)
    both = {"EVERTHREAD_MASTER_KEY_FILE": str(current), "EVERTHREAD_FORMER_MASTER_KEYS": "11" * 32}
    new = {"EVERTHREAD_MASTER_KEY_COMMAND": f"cat {current}"}

    def run(*arguments: str, more: dict[str, str], code: int = 0) -> str:
        process = Process("master-key", *arguments, env={**env, **more})
        assert process.ended() == code, process.lines
        return "\n".join(process.lines)

    before = Service(env={**env, **former})
    try:
        tenant = Tenant(before)
        tenant.account("a", emulator.base_url, KEY_OF_A)
        assert "opens 1 of 1" in run("check", more=former)
        assert "opens 0 of 1" in run("check", code=1, more=new)
        refused = Process("serve", "--port", "0", env={**env, **new})
        assert refused.ended() == 1
        assert "opens 0 of 1 projects' keys" in refused.lines[-1]
        between = Service(env={**env, **both})
        try:
            assert "1 keys were sealed again" in run("rotate", more=both)
            assert "0 keys were sealed again" in run("rotate", more=both)
            after = Service(env={**env, **new})
            try:
                for service in (before, between, after):
                    with httpx2.Client(base_url=service.url, headers=tenant.http.headers, timeout=60) as http:
                        assert http.post("/v1/responses", json={"input": "Hi"}).json()["status"] == "completed"
            finally:
                after.stop()
        finally:
            between.stop()
    finally:
        before.stop()
    assert len(emulator.calls()) == 3
    assert "64 hex digits" in run("check", code=1, more={"EVERTHREAD_MASTER_KEY": "short"})
    assert "exclude each other" in run("check", code=1, more={**former, **new})
    assert len(run("new", more={})) == 64

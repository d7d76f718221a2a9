"""Usage: sums that equal the turns, and money by the prices of its day."""

import asyncio
import csv
import io
import json
import random
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
import redis

from tests.databases import query
from tests.odd import RESPONSE, message
from tests.service import Emulator, Service, eventually
from tests.tenants import Tenant
from tests.test_limits import refused

USD, CNY, TIERED, THINKS, UNPRICED = "qwen3.5-plus", "qwen3.7-plus", "qwen3.7-max", "qwen3.8-max", "qwen3.5-flash"

PRICES = """
[families."qwen3.5-plus"]
price = { currency = "USD", as_of = 2026-11-01, input = 2, output = 10, tools = { web_search = 0.5 } }
[families."qwen3.7-plus"]
price = { currency = "CNY", as_of = 2026-11-02, input = 4, output = 20 }
[families."qwen3.7-max"]
[families."qwen3.7-max".price]
currency = "USD"
as_of = 2026-11-03
tiers = [{ up_to = 500, input = 1, output = 2, cached = 0.05 }, { input = 100, output = 200, cached = 50 }]
[families."qwen3.8-max"]
price = { currency = "USD", as_of = 2026-11-04, input = 1, output = 1, thinking_output = 1000 }
[families."qwen3.5-flash"]
prices = []
"""

COUNTS = ("turns", "failed_turns", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "tool_calls",
          "rebuilt_turns", "rebuilt_input_tokens")  # fmt: skip


@pytest.fixture(scope="module")
def priced_env(service_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    file = tmp_path_factory.mktemp("prices") / "models.toml"
    file.write_text(PRICES)
    return {**service_env, "EVERTHREAD_MODELS_FILE": str(file), "EVERTHREAD_CHARGES_SECONDS": "0.1"}


@pytest.fixture(scope="module")
def priced(priced_env: dict[str, str]) -> Iterator[Service]:
    service = Service(env=priced_env)
    yield service
    service.stop()


@pytest.fixture
def tenant(priced: Service, emulator: Emulator) -> Tenant:
    return Tenant(priced)


def rows(database_url: str, statement: str, *arguments: Any) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(database_url)
        found = await connection.fetch(statement, *arguments)
        await connection.close()
        return [dict(row) for row in found]

    return asyncio.run(run())


def report(tenant: Tenant, group_by: str = "day", **params: Any) -> dict[Any, dict[str, Any]]:
    answer = tenant.http.get("/usage", params={"group_by": group_by, "limit": 1000, **params})
    assert answer.status_code == 200, answer.text
    return {row[group_by]: row for row in answer.json()["data"]}


def summed(database_url: str, tenant: Tenant) -> bool:
    """Return True once all turns of the project are in sums."""
    wanted = "SELECT 1 FROM threads WHERE project_id = $1 AND last_seq > counted_seq"
    return rows(database_url, wanted, tenant.id.removeprefix("proj_")) == []


def sums(database_url: str, tenant: Tenant) -> list[dict[str, Any]]:
    return rows(database_url, "SELECT * FROM usage_sums WHERE project_id = $1", tenant.id.removeprefix("proj_"))


def expected(
    database_url: str,
    tenant: Tenant,
    group_by: str,
    since: int = 0,
    until: int = 2**33,
    user: str | None = None,
    model: str | None = None,
) -> dict[Any, dict[str, Any]]:
    """Return the report that follows from the rows of turns alone."""
    found: dict[Any, dict[str, Any]] = defaultdict(lambda: {**dict.fromkeys(COUNTS, 0), "costs": defaultdict(float)})
    turns = rows(
        database_url,
        """SELECT t.*, t.usage::text AS usage, t.cost::text AS cost, th.user_id FROM turns t
        JOIN threads th ON th.project_id = t.project_id AND th.id = t.thread_id
        WHERE t.project_id = $1 AND t.status <> 'in_progress' AND t.model <> '' AND t.copied_from_id IS NULL""",
        tenant.id.removeprefix("proj_"),
    )
    for turn in turns:
        if not since <= turn["created_at"].timestamp() < until:
            continue
        account = None if turn["binding"] is None else turn["binding"].partition("://")[2].partition("/")[0]
        key = {
            "hour": f"{turn['created_at'].astimezone(UTC):%Y-%m-%dT%H}:00Z",
            "day": f"{turn['created_at'].astimezone(UTC):%Y-%m-%d}",
            "model": turn["model"],
            "user": turn["user_id"],
            "thread": f"thread_{turn['thread_id'].hex}",
            "account": account and f"{account}#{turn['binding'].rpartition('#')[2][:8]}",
        }[group_by]
        if not (user in (None, turn["user_id"]) and model in (None, turn["model"])):
            continue
        row, used = found[key], json.loads(turn["usage"] or "{}") or {}
        rebuilt = turn["continuation"] == "rebuilt"
        for name, number in {
            "turns": 1,
            "failed_turns": turn["status"] == "failed",
            "input_tokens": used.get("input_tokens", 0),
            "cached_tokens": used.get("input_tokens_details", {}).get("cached_tokens", 0),
            "output_tokens": used.get("output_tokens", 0),
            "reasoning_tokens": used.get("output_tokens_details", {}).get("reasoning_tokens", 0),
            "tool_calls": sum(each["count"] for each in used.get("x_tools", {}).values()),
            "rebuilt_turns": rebuilt,
            "rebuilt_input_tokens": used.get("input_tokens", 0) if rebuilt else 0,
        }.items():
            row[name] += number
        if turn["cost"]:
            cost = json.loads(turn["cost"])
            row["costs"][cost["currency"]] += cost["amount"]
    return found


def check(database_url: str, tenant: Tenant, **span: Any) -> None:
    """Compare each report with the sum of turns, and its totals with the sum of its rows."""
    for group_by in ("hour", "day", "model", "user", "thread", "account"):
        found, wanted = report(tenant, group_by, **span), expected(database_url, tenant, group_by, **span)
        assert {key: {name: row[name] for name in COUNTS} for key, row in found.items()} == {
            key: {name: row[name] for name in COUNTS} for key, row in wanted.items()
        }, group_by
        for key, row in found.items():
            assert row["costs"] == pytest.approx(dict(wanted[key]["costs"]), abs=2e-6)
    answer = tenant.http.get("/usage", params={"group_by": "user", "sort": "cost", "limit": 1, **span}).json()
    costs: dict[str, float] = defaultdict(float)
    for row in expected(database_url, tenant, "user", **span).values():
        for currency, amount in row["costs"].items():
            costs[currency] += amount
    assert answer["totals"]["costs"] == pytest.approx(dict(costs), abs=2e-6)
    assert answer["totals"]["turns"] == sum(row["turns"] for row in report(tenant, "user", **span).values())


class Life:
    """Random clients of a project."""

    def __init__(self, tenant: Tenant, emulator: Emulator, database_url: str, seed: int) -> None:
        self.tenant, self.emulator, self.database_url = tenant, emulator, database_url
        self.random = random.Random(seed)
        self.threads: list[str] = []
        self.project = tenant.id.removeprefix("proj_")

    def step(self) -> None:
        steps: list[Callable[[], object]] = [
            self.begin, self.talk, self.talk, self.talk, self.talk, self.fail, self.fork, self.delete_turn,
            self.delete_thread, self.import_one, self.move, self.purge_user,
        ]  # fmt: skip
        self.random.choice(steps)()

    def some(self) -> str:
        if not self.threads:
            self.begin()
        return self.random.choice(self.threads)

    def begin(self) -> None:
        user = self.random.choice([None, "ann", "bob"])
        self.threads.append(self.tenant.http.post("/threads", json={"user": user} if user else {}).json()["id"])
        self.talk()

    def talk(self) -> None:
        model = self.random.choice([USD, CNY, TIERED, UNPRICED])
        tools = self.random.choice([[], [{"type": "web_search"}]])
        body = {"input": "word " * self.random.randint(1, 300), "model": model, "tools": tools}
        answer = self.tenant.http.post(f"/threads/{self.some()}/turns", json=body)
        assert answer.status_code == 200, answer.text

    def fail(self) -> None:
        place = f"/threads/{self.some()}/turns"
        self.emulator.fault("status", status=400, code="DataInspectionFailed", times=9)
        assert self.tenant.http.post(place, json={"input": "Hi"}).status_code == 400
        self.emulator.reset()

    def fork(self) -> None:
        user = self.random.choice([{}, {"user": "bob"}])
        made = self.tenant.http.post(f"/threads/{self.some()}/fork", json=user).json()
        self.threads.append(made["id"])

    def delete_turn(self) -> None:
        turns = self.tenant.http.get(f"/threads/{self.some()}/turns").json()["data"]
        if turns:
            id_ = self.random.choice(turns)["id"].replace("turn_", "resp_")
            assert self.tenant.http.delete(f"/responses/{id_}").status_code == 200

    def delete_thread(self) -> None:
        if len(self.threads) > 2:
            thread = self.threads.pop(self.random.randrange(len(self.threads)))
            assert self.tenant.http.delete(f"/threads/{thread}").status_code == 200

    def purge_user(self) -> None:
        purge = self.tenant.http.delete("/users/ann/data").json()["id"]
        eventually(lambda: self.tenant.http.get(f"/purges/{purge}").json()["status"] == "completed")
        self.threads = [each for each in self.threads if self.tenant.http.get(f"/threads/{each}").status_code == 200]

    def import_one(self) -> None:
        """Move a thread away and back: by its export."""
        thread = self.some()
        record = self.tenant.http.get(f"/threads/{thread}/export").json()
        if record["forked_turn_id"] is not None or self.tenant.http.get(f"/threads/{thread}").status_code != 200:
            return
        self.tenant.http.delete(f"/threads/{thread}")
        answer = self.tenant.http.post("/threads/import", json=record)
        if answer.status_code != 201:  # A fork has its turns now.
            assert answer.json()["error"]["code"] == "id_taken"
            self.threads.remove(thread)

    def move(self) -> None:
        """Let the turns that no sum has be some days or minutes older."""
        seconds = self.random.choice([0, 60, 899, 900, 7200, 86_400 * 3])
        query(
            self.database_url,
            f"""WITH held AS (
                SELECT project_id, id, counted_seq FROM threads
                WHERE project_id = '{self.project}' AND last_seq > counted_seq FOR UPDATE
            ) UPDATE turns t SET created_at = t.created_at - interval '{seconds} seconds' FROM held
            WHERE t.project_id = held.project_id AND t.thread_id = held.id AND t.seq > held.counted_seq""",
        )


@pytest.mark.parametrize("seed", [1, 3])
def test_reports_equal_the_sum_of_turns_whatever_happens_to_them(
    tenant: Tenant, emulator: Emulator, database_url: str, seed: int
) -> None:
    life = Life(tenant, emulator, database_url, seed)
    now = int(datetime.now(UTC).timestamp())
    for _ in range(5):
        for _ in range(8):
            life.step()
        check(database_url, tenant)
        eventually(lambda: summed(database_url, tenant))
        for _ in range(3):
            since = now - life.random.randint(-100, 86_400 * 4)
            check(database_url, tenant, since=since, until=since + life.random.randint(1, 86_400 * 4))
    check(database_url, tenant, user="bob")
    check(database_url, tenant, model=USD, since=now - 90_000)
    assert sums(database_url, tenant)


def test_reports_read_sums_and_no_other_projects(tenant: Tenant, database_url: str) -> None:
    other = Tenant(tenant.service)
    for each in (tenant, other):
        each.turn(each.thread(), "Hi", model=USD)
        report(each)
        eventually(lambda each=each: summed(database_url, each))  # type: ignore[misc]
    before = report(tenant, "model")[USD]["input_tokens"]
    query(
        database_url, f"UPDATE usage_sums SET input_tokens = input_tokens + 1000 WHERE project_id = '{tenant.id[5:]}'"
    )
    assert report(tenant, "model")[USD]["input_tokens"] == before + 1000
    assert report(other, "model")[USD]["input_tokens"] == before


def ordered(tenant: Tenant, sort: str, group_by: str = "user", **params: Any) -> list[str | None]:
    """Return the keys of a report in its order, read row by row."""
    found: list[str | None] = []
    after: dict[str, str] = {}
    while True:
        query = {"group_by": group_by, "sort": sort, "limit": 1, **params, **after}
        page = tenant.http.get("/usage", params=query).json()
        found += [row[group_by] for row in page["data"]]
        if not page["has_more"]:
            return found
        after = {"after": page["last_id"]}


def test_the_highest_costs_and_the_most_turns_come_first_and_pages_go_on_behind_any_row(tenant: Tenant) -> None:
    for user, texts in (
        ("=1+1", ["word " * 900]), (None, ["Hi", "Hi", "Hi"]), ("bob", ["word " * 200] * 2),
        ("ann", ["word " * 200] * 2), ("a:=b", ["Hi"]),
    ):  # fmt: skip
        thread = tenant.http.post("/threads", json={} if user is None else {"user": user}).json()["id"]
        for text in texts:
            tenant.turn(thread, text, model=USD)
    costs = {user: row["cost"] for user, row in report(tenant, "user").items()}
    assert ordered(tenant, "cost") == sorted(costs, key=lambda user: (-costs[user], user or ""))
    assert ordered(tenant, "turns") == [None, "ann", "bob", "=1+1", "a:=b"]
    assert ordered(tenant, "turns", user="bob") == ["bob"]
    by_thread = report(tenant, "thread")
    assert ordered(tenant, "cost", "thread")[0] == max(by_thread, key=lambda each: by_thread[each]["cost"])
    for after in ("ann", "1", "x:=ann", "1e9:=ann", "", "-1:-"):
        refusal = tenant.http.get("/usage", params={"group_by": "user", "sort": "turns", "after": after})
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "invalid_cursor"), after
    # Nothing of it shows to another project, whatever it asks for.
    other = Tenant(tenant.service)
    for params in ({}, {"user": "bob"}, {"model": USD}, {"sort": "cost"}):
        page = other.http.get("/usage", params={"group_by": "user", **params}).json()
        assert (page["data"], page["totals"]["turns"], page["totals"]["costs"]) == ([], 0, {})


def test_a_report_names_the_models_without_a_price(tenant: Tenant) -> None:
    thread = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
    for model in (UNPRICED, USD, UNPRICED, CNY):
        tenant.turn(thread, "Hi", model=model)
    page = tenant.http.get("/usage", params={"group_by": "user"}).json()
    for row in (page["data"][0], page["totals"]):
        assert (row["cost"], row["unpriced_turns"]) == (None, 2)
        assert row["unpriced"] == [{"model": UNPRICED, "turns": 2}]
        assert set(row["costs"]) == {"USD", "CNY"}
    for model, unpriced in ((USD, []), (UNPRICED, [{"model": UNPRICED, "turns": 2}])):
        assert report(tenant, "model")[model]["unpriced"] == unpriced


def test_no_cell_of_a_csv_file_is_a_formula(tenant: Tenant) -> None:
    users = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\uff1d1", 'a",=1', "x;=1+1", "plain", "李"]
    for user in users:
        thread = tenant.http.post("/threads", json={"user": user})
        if thread.status_code == 201:
            tenant.turn(thread.json()["id"], "Hi", model=UNPRICED)
    text = tenant.http.get("/usage", params={"group_by": "user", "format": "csv", "limit": 10_000}).text
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    found = {line["user"] for line in lines}
    assert {"'=1+1", "'+1", "'-1", "'@x", "'\uff1d1", 'a",=1', "plain", "李"} <= found
    assert '\n"x;=1+1",' in text
    assert [user for user in found if user.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
    assert (lines[0]["unpriced_turns"], lines[0]["unpriced"]) == ("1", f"{UNPRICED} (1)")
    assert tenant.http.get("/usage", params={"limit": 1001}).json()["error"]["param"] == "limit"


def test_outcomes_are_added_up_by_hour_and_by_day(tenant: Tenant, database_url: str) -> None:
    histogram = [0, 2, 1, *[0] * 24]
    project = tenant.id.removeprefix("proj_")
    for hour, model, outcome, turns in (
        (10, USD, "completed", 3), (10, CNY, "rate_limit", 3), (11, USD, "incomplete", 3), (34, USD, "completed", 3),
    ):  # fmt: skip
        query(
            database_url,
            f"INSERT INTO turn_hours VALUES ('{project}', to_timestamp({hour * 3600}), '{model}', '{outcome}',"
            f" {turns}, '{{{str(histogram)[1:-1]}}}', '{{{str(histogram)[1:-1]}}}')",
        )

    def summed(**params: Any) -> list[tuple[int, ...]]:
        rows = tenant.http.get("/usage/hours", params={"until": 10**6, **params}).json()["data"]
        return [
            (row["hour"] // 3600, row["turns"], row["failed_turns"], row["p50_ms"], sum(row["durations"]))
            for row in rows
        ]

    assert summed(group_by="hour") == [(10, 6, 3, 70, 6), (11, 3, 0, 70, 3), (34, 3, 0, 70, 3)]
    assert summed(group_by="day") == [(0, 9, 3, 70, 9), (24, 3, 0, 70, 3)]
    assert summed(group_by="day", model=CNY) == [(0, 3, 3, 70, 3)]
    assert summed(group_by="hour", since=11 * 3600, limit=1) == [(11, 3, 0, 70, 3)]
    assert len(summed()) == 4
    other = Tenant(tenant.service)
    assert other.http.get("/usage/hours", params={"group_by": "hour", "until": 10**6}).json()["data"] == []


def test_a_turn_that_is_closed_late_is_counted_once_when_it_is(
    tenant: Tenant, emulator: Emulator, database_url: str
) -> None:
    thread = tenant.thread()
    first = tenant.turn(thread, "Hi", model=USD)["id"]
    emulator.fault("slow", seconds=4, times=1)
    place = f"/threads/{thread}/turns"
    running = tenant.http.post(place, json={"input": "Hi", "model": USD, "background": True}).json()["id"]
    emulator.is_asked(2)
    tenant.turn(thread, "Hi", model=USD, parent_id=first, if_busy="beside")
    assert report(tenant, "model")[USD]["turns"] == 2
    eventually(lambda: len(sums(database_url, tenant)) == 1)
    assert not summed(database_url, tenant)
    assert report(tenant, "model")[USD]["turns"] == 2
    eventually(lambda: tenant.http.get(f"{place}/{running}").json()["status"] != "in_progress", 40)
    check(database_url, tenant)
    eventually(lambda: summed(database_url, tenant))
    assert report(tenant, "model")[USD]["turns"] == 3
    check(database_url, tenant)


def test_a_killed_process_leaves_right_sums(
    tenant: Tenant, priced_env: dict[str, str], emulator: Emulator, database_url: str
) -> None:
    threads = [tenant.thread() for _ in range(10)]
    for thread in threads * 3:
        tenant.turn(thread, "Hi", model=USD)
    killed = Service(env=priced_env)
    http = httpx2.Client(base_url=f"{killed.url}/v1", headers=tenant.http.headers, timeout=60)
    assert http.get("/usage").json()["data"][0]["turns"] == 30
    killed.process.stop(signal.SIGKILL)
    check(database_url, tenant)
    eventually(lambda: summed(database_url, tenant))
    check(database_url, tenant)


# Money


def paid(usage: dict[str, Any], price: Mapping[str, float]) -> float:
    """Return the cost of one call by prices of a million tokens."""
    cached = usage["input_tokens_details"]["cached_tokens"]
    plain = usage["input_tokens"] - cached
    tools = sum(each["count"] for each in usage.get("x_tools", {}).values())
    amount = plain * price["input"] + cached * price.get("cached", 0) + usage["output_tokens"] * price["output"]
    return float(amount / 1e6 + tools * price.get("tool", 0))


def test_each_turn_has_the_cost_of_its_calls_by_tier_thinking_and_tools(tenant: Tenant, database_url: str) -> None:
    thread = tenant.thread()
    short = [tenant.turn(tenant.thread(), "word " * 300, model=TIERED) for _ in range(2)]
    for turn in short:
        assert turn["usage"]["input_tokens"] < 500  # Together they are longer than the first tier.
        assert turn["cost"]["amount"] == pytest.approx(paid(turn["usage"], {"input": 1, "output": 2}))
    assert (short[0]["cost"]["currency"], short[0]["cost"]["as_of"]) == ("USD", "2026-11-03")
    long = tenant.turn(thread, "word " * 900, model=TIERED)
    assert long["usage"]["input_tokens"] > 500
    assert long["cost"]["amount"] == pytest.approx(paid(long["usage"], {"input": 100, "output": 200, "cached": 50}))
    thought = tenant.turn(thread, "Hi", model=THINKS, enable_thinking=True)
    assert thought["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert thought["cost"]["amount"] == pytest.approx(paid(thought["usage"], {"input": 1, "output": 1000}))
    searched = tenant.turn(thread, "Hi", model=USD, tools=[{"type": "web_search"}])
    assert searched["cost"]["amount"] == pytest.approx(
        paid(searched["usage"], {"input": 2, "output": 10, "tool": 0.5}), abs=1e-6
    )
    assert tenant.turn(thread, "Hi", model=UNPRICED)["cost"] is None
    turns = [*short, long, thought, searched]
    assert report(tenant)[next(iter(report(tenant)))]["cost"] is None  # One price is not known.
    by_model = report(tenant, "model")
    for model in (TIERED, THINKS, USD):
        total = sum(turn["cost"]["amount"] for turn in turns if turn["model"].startswith(model))
        assert by_model[model]["cost"] == pytest.approx(total, abs=1e-6)
    assert by_model[UNPRICED]["cost"] is None
    read = tenant.http.get(f"/threads/{thread}/turns/{long['id']}").json()
    assert read["cost"] == long["cost"]


def answering(text: str, **usage: Any) -> str:
    """Return a body of the provider with this text and usage."""
    return json.dumps({**RESPONSE, "output": [message(text)], "usage": usage})


def test_caches_have_their_prices(tenant: Tenant, emulator: Emulator) -> None:
    usage = {
        "input_tokens": 1000, "output_tokens": 50, "total_tokens": 1050, "input_tokens_details": {"cached_tokens": 600},
        "x_details": [{"prompt_tokens_details": {"cache_creation_input_tokens": 200}}],
    }  # fmt: skip
    emulator.fault("answer", body=answering("Hi", **usage))
    turn = tenant.turn(tenant.thread(), "Hi", model=USD)
    assert turn["cost"]["amount"] == pytest.approx((200 * 2 + 600 * 0.2 + 200 * 2.5 + 50 * 10) / 1e6)
    (row,) = report(tenant).values()
    assert row["saved_by_cache"] == pytest.approx((600 * 1.8 - 200 * 0.5) / 1e6, abs=1e-6)


ASKED = {"model": TIERED, "text": {"format": {"type": "json_schema", "name": "city", "schema": {"type": "object"}}}}


def test_a_second_answer_is_paid_by_its_own_tier(tenant: Tenant, emulator: Emulator) -> None:
    emulator.fault("answer", body=answering("no", input_tokens=490, output_tokens=5, total_tokens=495))
    turn = tenant.http.post(f"/threads/{tenant.thread()}/turns", json={"input": "Oslo", **ASKED}).json()
    second = emulator.calls()[1]["answer"]["usage"]
    assert turn["usage"]["input_tokens"] == 490 + second["input_tokens"] > 500
    first = (490 * 1 + 5 * 2) / 1e6
    assert turn["cost"]["amount"] == pytest.approx(first + paid(second, {"input": 1, "output": 2}))


def test_an_answer_that_no_turn_has_kept_is_paid_all_the_same(tenant: Tenant, emulator: Emulator) -> None:
    spoken = {"kind": "answer", "times": 1, "body": answering("no", input_tokens=490, output_tokens=5)}
    emulator.control("faults", [spoken, {"kind": "slow", "seconds": 30, "times": 1}])
    place = f"/threads/{tenant.thread()}/turns"
    asking = threading.Thread(target=lambda: tenant.http.post(place, json={"input": "Oslo", **ASKED}))
    asking.start()
    emulator.is_asked(2)
    (turn,) = tenant.http.get(place).json()["data"]
    assert tenant.http.post(f"{place}/{turn['id']}/cancel").json()["status"] == "cancelled"
    asking.join()
    eventually(lambda: report(tenant, "model")[TIERED]["input_tokens"] > 490)
    row = report(tenant, "model")[TIERED]
    assert row["turns"] == 1
    assert row["cost"] >= (490 * 1 + 5 * 2) / 1e6


def test_a_later_price_change_does_not_rewrite_history(
    tenant: Tenant, priced_env: dict[str, str], tmp_path: Path, database_url: str
) -> None:
    thread = tenant.thread()
    turn = tenant.turn(thread, "Hi", model=USD)
    chat = {"model": USD, "messages": [{"role": "user", "content": "Hi"}]}
    assert tenant.http.post("/chat/completions", json=chat).status_code == 200
    eventually(lambda: report(tenant, "model")[USD]["chat_completions"] == 1)
    before = report(tenant, "model")[USD]
    assert before["cost"] > turn["cost"]["amount"] > 0
    file = tmp_path / "dearer.toml"
    file.write_text(PRICES.replace("input = 2, output = 10", "input = 2000, output = 10000"))
    env = {**priced_env, "EVERTHREAD_MODELS_FILE": str(file), "EVERTHREAD_COMPACTION_MODEL": UNPRICED}
    dearer = Service(env=env)
    try:
        later = Tenant.__new__(Tenant)
        later.service, later.id, later.key = dearer, tenant.id, tenant.key
        later.http = httpx2.Client(base_url=f"{dearer.url}/v1", headers=tenant.http.headers, timeout=60)
        assert report(later, "model")[USD] == before
        assert later.http.get(f"/threads/{thread}/turns/{turn['id']}").json()["cost"] == turn["cost"]
        # A limit counts what was paid, and the reservation of a new request its new price.
        later.settings(limits={"cost_per_month": before["cost"] * 3})
        again = later.turn(thread, "Hi", model=USD)
        # Nor does the service's own model make a compaction at no price.
        refusal = later.http.post(f"/threads/{thread}/compact", json={"keep_turns": 0})
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (403, "model_without_price")
        assert again["cost"]["amount"] > 100 * turn["cost"]["amount"]
        assert report(later, "model")[USD]["cost"] == pytest.approx(before["cost"] + again["cost"]["amount"], abs=2e-6)
        eventually(lambda: later.http.post("/responses", json={"input": "Hi", "model": USD}).status_code == 429)
    finally:
        dearer.stop()


def test_currencies_are_not_added_up_and_each_has_the_limit(tenant: Tenant, redis_url: str) -> None:
    tenant.settings(limits={"cost_per_month": 0.004})
    thread = tenant.thread()
    dollars = tenant.turn(thread, "word " * 3000, model=USD)["cost"]
    yuan = tenant.turn(tenant.thread(), "word " * 10, model=CNY)["cost"]
    assert (dollars["currency"], yuan["currency"]) == ("USD", "CNY")
    (row,) = report(tenant).values()
    assert (row["cost"], row["currency"], row["rebuilt_input_cost"]) == (None, None, None)
    assert row["costs"] == pytest.approx({"USD": dollars["amount"], "CNY": yuan["amount"]}, abs=1e-6)
    assert report(tenant, "model")[CNY]["currency"] == "CNY"

    def both() -> None:
        answer = tenant.http.post("/responses", json={"input": "Hi", "model": USD})
        refused(answer, "project.cost_per_month", "insufficient_quota")
        assert "0.004 USD of cost a month" in answer.json()["error"]["message"]
        assert tenant.http.post("/responses", json={"input": "Hi", "model": CNY}).status_code == 200

    eventually(lambda: tenant.http.post("/responses", json={"input": "Hi", "model": USD}).status_code == 429)
    both()
    cache = redis.Redis.from_url(redis_url)
    cache.delete(*cache.keys(f"everthread:limits:{{{tenant.id[5:]}}}*"))
    both()  # Postgres knows it too.


def test_no_way_leads_to_a_model_without_a_price_under_a_limit_of_money(tenant: Tenant, emulator: Emulator) -> None:
    thread = tenant.thread()
    for _ in range(3):
        tenant.turn(thread, "Room 7 is blue. " * 12, model=UNPRICED)
    tenant.settings(user_limits={"cost_per_month": 1000})
    assert tenant.http.post("/responses", json={"input": "Hi", "model": UNPRICED}).status_code == 200  # No user's.
    tenant.settings(limits={"cost_per_month": 1000})
    asked = len(emulator.calls())
    said = {"input": "Hi", "model": UNPRICED}
    ways: list[tuple[str, dict[str, Any]]] = [
        (f"/threads/{thread}/turns", said),
        ("/responses", said),
        ("/responses", {**said, "stream": True}),
        ("/responses", {**said, "store": False}),
        ("/responses", {**said, "background": True}),
        ("/responses/compact", said),
        (f"/threads/{thread}/compact", {"model": UNPRICED}),
        ("/chat/completions", {"model": UNPRICED, "messages": [{"role": "user", "content": "Hi"}]}),
    ]
    for path, body in ways:
        answer = tenant.http.post(path, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (403, "model_without_price", "model"), path
        assert UNPRICED in error["message"]
        assert "EVERTHREAD_MODELS_FILE" in error["message"]
    assert len(emulator.calls()) == asked
    assert tenant.turn(thread, "Hi", model=USD)["status"] == "completed"
    tenant.settings(limits={"tokens_per_month": 10**9})
    tenant.settings(user_limits={})
    tenant.settings(limits={})
    assert tenant.turn(thread, "Hi", model=UNPRICED)["status"] == "completed"


def test_a_fallback_price_admits_and_charges_models_without_one(
    tenant: Tenant, priced_env: dict[str, str], tmp_path: Path
) -> None:
    tenant.settings(limits={"cost_per_month": 1000})
    file = tmp_path / "fallback.toml"
    file.write_text(f'{PRICES}\n[default]\nprices = [{{ currency = "USD", input = 7, output = 70 }}]\n')
    service = Service(env={**priced_env, "EVERTHREAD_MODELS_FILE": str(file)})
    try:
        http = httpx2.Client(base_url=f"{service.url}/v1", headers=tenant.http.headers, timeout=60)
        thread = tenant.thread()
        for model, price in ((UNPRICED, {"input": 7, "output": 70}), (USD, {"input": 2, "output": 10})):
            turn = http.post(f"/threads/{thread}/turns", json={"input": "Hi", "model": model}).json()
            assert turn["cost"]["amount"] == pytest.approx(paid(turn["usage"], price), abs=1e-6)
    finally:
        service.stop()


def test_an_import_keeps_what_was_paid_and_takes_no_other_amounts(tenant: Tenant) -> None:
    thread = tenant.thread()
    turn = tenant.turn(thread, "Hi", model=USD)
    record = tenant.http.get(f"/threads/{thread}/export").json()
    other = Tenant(tenant.service)
    for wrong in ({"amount": -1}, {"amount": 1e300}, {"currency": "$"}, {"input": None}, {"as_of": "today"}):
        spoilt = json.loads(json.dumps(record))
        spoilt["turns"][0]["cost"] |= wrong
        answer = other.http.post("/threads/import", json=spoilt)
        assert (answer.status_code, answer.json()["error"]["param"]) == (
            400, f"turns.0.cost.{next(iter(wrong))}"
        )  # fmt: skip
    tenant.http.delete(f"/threads/{thread}")
    assert other.http.post("/threads/import", json=record).status_code == 201
    assert report(other, "model")[USD]["cost"] == pytest.approx(turn["cost"]["amount"], abs=1e-6)

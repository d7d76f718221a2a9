"""Every route meets the limits that the table says, no route spends without being admitted, and each limit can be taken
back through the API."""

import ast
import inspect
import json
import random
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import openai
import pytest
import redis
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount, WebSocketRoute
from websockets.sync.client import connect

import app
from app.limits.rules import MOST_ADMIN_REQUESTS
from app.main import PROVIDER_PATHS, build
from app.projects.settings import LEAST_BODY, LEAST_COST
from app.provider.client import Provider
from app.settings import Connected
from tests.databases import query
from tests.route_limits import ADMIN, SOCKET, SPENDS, Limit, table
from tests.service import Emulator, Service, eventually
from tests.tenants import Tenant
from tests.test_structured_output import said

MODEL = "qwen3.5-plus"
TABLE = table(PROVIDER_PATHS)

LEAST: dict[str, float] = {
    "requests_per_minute": 1,
    "tokens_per_minute": 1,
    "turns_at_once": 1,
    "tokens_per_month": 1,
    "cost_per_month": LEAST_COST,
    "threads": 1,
    "stored_bytes": 1,
    "body_bytes": LEAST_BODY,
    "input_items": 1,
}
"""Each limit of a project at the least that it can be set to."""

OF_KEYS = [name for name in LEAST if name not in ("threads", "stored_bytes")]
OF_USERS = [name for name in LEAST if name not in ("body_bytes", "input_items")]


@pytest.fixture(scope="module")
def priced(service_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A service that knows what its models cost, and gives titles."""
    file = tmp_path_factory.mktemp("models") / "models.toml"
    file.write_text(f'[families."{MODEL}"]\nwindow = 1000\nprice = {{ input = 1000, output = 1000 }}\n')
    service = Service(env={**service_env, "EVERTHREAD_MODELS_FILE": str(file), "EVERTHREAD_TITLES": "true"})
    yield service
    assert service.stop() == 0


@pytest.fixture
def tenant(priced: Service, emulator: Emulator) -> Tenant:
    return Tenant(priced)


def refused(answer: httpx2.Response, which: str, code: str = "rate_limit_exceeded") -> None:
    assert answer.status_code == 429, (answer.request.url, answer.text)
    assert (answer.headers["everthread-limit"], answer.json()["error"]["code"]) == (which, code), answer.request.url


# The table


def routes() -> set[tuple[str, str]]:
    """Every route of the service, by its method and path."""
    service = build(Connected(database_url="postgresql://nowhere/none", redis_url="redis://nowhere"))
    found: set[tuple[str, str]] = set()
    for context in iter_route_contexts(service.routes):
        path = str(context.path).replace(":path}", "}")
        if isinstance(context.methods, set):
            found |= {(method, path) for method in context.methods - {"HEAD", "OPTIONS"}}
        else:
            kind = type(getattr(context, "route", None) or context)
            names = {type(route).__name__ for route in service.routes if getattr(route, "path", None) == context.path}
            assert names & {Mount.__name__, WebSocketRoute.__name__}, (path, kind)
            found |= {(SOCKET if name == WebSocketRoute.__name__ else "MOUNT", path) for name in names - {"Route"}}
    return found


def test_every_route_is_in_the_table_and_nothing_else() -> None:
    assert routes() == set(TABLE)


def test_only_the_limits_make_permits_and_no_call_that_costs_goes_without_one() -> None:
    makers: set[str] = set()
    for path in Path(app.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("Permit", "Admission")
            ):
                makers.add(path.relative_to(Path(app.__file__).parent).as_posix())
    assert makers == {"limits/service.py"}
    source = inspect.getsource(Provider)
    assert source.count("self._origin.send(") == source.count("permit.check()") == 2
    for name in ("respond", "stream", "chat", "open_chat_stream"):
        assert list(inspect.signature(getattr(Provider, name)).parameters)[1] == "permit"


# What it says holds


class Made:
    """The objects of a tenant that the routes are asked about."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.thread = tenant.thread()
        self.turn = tenant.turn(self.thread, "My name is Ada.")["id"]
        eventually(lambda: tenant.http.get(f"/threads/{self.thread}").json()["title"] is not None)
        tenant.turn(self.thread, "And now?")
        tenant.http.patch(f"/threads/{self.thread}", json={"name": "known", "title": "A talk", "metadata": {"a": "b"}})
        self.record = tenant.http.get(f"/threads/{self.thread}/export").json()

    def ask(self, method: str, path: str, *, items: int = 1, padding: int = 0) -> httpx2.Response:
        """Return the answer to a request that would be admitted without limits."""
        body = {**self._body(method, path, items), **({"padding": "x" * padding} if padding else {})}
        where = path.replace("{name}", f"new-{uuid4().hex}" if method == "PUT" else "known")
        where = where.replace("{thread_id}", self.thread).replace("{turn_id}", self.turn)
        where = where.replace("{conversation_id}", self.thread.replace("thread_", "conv_"))
        where = where.replace("{project_id}", self.tenant.id)
        for name, prefix in (
            ("key_id", "key"),
            ("account_id", "acct"),
            ("webhook_id", "wh"),
            ("event_id", "evt"),
            ("hold_id", "hold"),
        ):
            where = where.replace(f"{{{name}}}", f"{prefix}_{'0' * 32}")
        if method == SOCKET:
            return self._over_a_socket(where, body)
        url = self.tenant.service.url + where
        return self.tenant.http.request(method, url, json=None if method in ("GET", "DELETE") else body)

    def _over_a_socket(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        """An error event as the HTTP answer that it stands for."""
        url = self.tenant.service.url.replace("http", "ws") + path
        with connect(url, additional_headers={"Authorization": f"Bearer {self.tenant.key}"}, close_timeout=1) as socket:
            socket.send(json.dumps({"type": "response.create", **body}))
            event = json.loads(socket.recv(timeout=30))
        while event["type"] != "error":
            return httpx2.Response(200, json=event, request=httpx2.Request("GET", url))
        limit = event["error"]["message"]
        named = {f"{whose}.{name}" for whose in ("project",) for name, said in SAID.items() if said in limit}
        headers = {"everthread-limit": next(iter(named), "")}
        request = httpx2.Request("GET", url)
        return httpx2.Response(event["status"], json={"error": event["error"]}, headers=headers, request=request)

    def _body(self, method: str, path: str, items: int) -> dict[str, Any]:
        said = [{"role": "user", "content": "Hi"}] * items
        match path.rpartition("/v1")[2].replace("/threads/by-name/{name}", "/threads/{thread_id}"):
            case "/responses" | "/threads/{thread_id}/turns":
                return {"input": said, "model": MODEL}
            case "/responses/compact":
                return {"model": MODEL, "input": [*said[1:], {"role": "user", "content": "A story"}]}
            case "/responses/input_tokens":
                return {"input": said}
            case "/chat/completions":
                return {"model": MODEL, "messages": said}
            case "/threads":
                return {"messages": said}
            case "/conversations" | "/conversations/{conversation_id}/items":
                return {"items": said}
            case "/conversations/{conversation_id}":
                return {"metadata": {"longer": "than before"}}
            case "/threads/{thread_id}" if method == "PATCH":
                return {"title": "A title that is longer than before"}
            case "/threads/{thread_id}/turns/{turn_id}/feedback":
                return {"comment": "Good."}
            case "/threads/import":
                return {**self.record, "id": f"thread_{'0' * 31}1", "name": None}
            case "/user_tokens" | "/user_tokens/revoke":
                return {"user": "ann"}
            case _:
                return {}


SAID = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "turns_at_once": "turns at once",
    "tokens_per_month": "tokens a month",
    "cost_per_month": "of cost a month",
    "threads": " threads is",
    "stored_bytes": "bytes stored",
}


def meeting(limit: Limit) -> list[tuple[str, str]]:
    return [route for route, held in TABLE.items() if limit in held]


def key_of(tenant: Tenant, *names: str) -> str:
    return ":".join((f"everthread:limits:{{{tenant.id.removeprefix('proj_')}}}", *names))


@pytest.mark.parametrize("limit", sorted(SPENDS))
def test_no_route_that_spends_leads_past_a_reached_limit(
    tenant: Tenant, emulator: Emulator, redis_url: str, limit: Limit
) -> None:
    made = Made(tenant)
    eventually(lambda: tenant.http.get("/usage").json()["data"][0]["titles"] == 1)
    tenant.settings(limits={limit: LEAST[limit]})
    if limit == "turns_at_once":
        redis.Redis.from_url(redis_url).zadd(key_of(tenant, "project", "running"), {"one": (time.time() + 60) * 1000})
    elif limit in ("requests_per_minute", "tokens_per_minute"):
        eventually(lambda: made.ask("POST", "/v1/responses").status_code == 429)
    asked = len(emulator.calls())
    code = "insufficient_quota" if limit.endswith("month") else "rate_limit_exceeded"
    for route in meeting(limit):
        refused(made.ask(*route), f"project.{limit}", code)
    assert len(emulator.calls()) == asked


@pytest.mark.parametrize("limit", ["threads", "stored_bytes"])
def test_no_route_that_stores_leads_past_a_reached_limit(tenant: Tenant, limit: Limit) -> None:
    made = Made(tenant)
    tenant.settings(limits={limit: 1})
    time.sleep(0.1)
    for method, path in meeting(limit):
        refused(made.ask(method, path), f"project.{limit}", "insufficient_quota")


def test_no_route_takes_a_longer_body_than_it_may_have(tenant: Tenant) -> None:
    made = Made(tenant)
    tenant.settings(limits={"body_bytes": LEAST_BODY})
    for route in meeting("body_bytes"):
        answer = made.ask(*route, padding=2 * LEAST_BODY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large"), route


def test_no_route_takes_more_items_than_it_may(tenant: Tenant) -> None:
    made = Made(tenant)
    tenant.settings(limits={"input_items": 2})
    for route in meeting("input_items"):
        assert made.ask(*route, items=2).status_code in (200, 201), route
        answer = made.ask(*route, items=3)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_items"), route


def test_tenants_admins_have_a_rate_of_their_own_and_the_services_have_none(tenant: Tenant, redis_url: str) -> None:
    made, cache = Made(tenant), redis.Redis.from_url(redis_url)
    for route in meeting("admin_requests_per_minute"):
        cache.hset(key_of(tenant, "admin"), mapping={"left": -1000, "at": int(time.time() * 1000)})
        refused(made.ask(*route), "project.admin_requests_per_minute")
    cache.delete(key_of(tenant, "admin"))
    assert made.ask("GET", "/v1/admin/projects").status_code == 200
    assert int(cache.hget(key_of(tenant, "admin"), "left")) == MOST_ADMIN_REQUESTS - 1  # type: ignore[arg-type]
    operating = tenant.service.http.get("/project").json()["id"]
    assert tenant.service.http.get("/admin/projects").status_code == 200
    assert not cache.exists(key_of(tenant, "admin").replace(tenant.id[5:], operating[5:]))
    assert all(any(word in path for word in ("admin", "webhooks", "holds", "/v1/project")) for path in dict.fromkeys(
        path for (_, path), held in TABLE.items() if held == ADMIN
    ))  # fmt: skip


def test_nothing_that_reads_deletes_exports_shortens_or_ends_is_refused(tenant: Tenant, emulator: Emulator) -> None:
    http, made = tenant.http, Made(tenant)
    thread, turn = made.thread, made.turn
    response = http.post("/responses", json={"input": "Hi", "model": MODEL}).json()["id"]
    other = http.post("/responses", json={"input": "Hi", "model": MODEL, "user": "ann"}).json()["id"]
    deleted = [tenant.thread() for _ in range(60)]
    feedback = http.post(f"/threads/{thread}/turns/{turn}/feedback", json={"score": 1}).json()["id"]
    share = http.post(f"/threads/{thread}/shares").json()
    emulator.fault("slow", seconds=30, times=2)
    slow = [
        http.post("/responses", json={"input": "Hi", "model": MODEL, "background": True}).json()["id"] for _ in range(2)
    ]
    emulator.is_asked(2)
    tenant.settings(
        limits=LEAST, key_limits={n: LEAST[n] for n in OF_KEYS}, user_limits={n: LEAST[n] for n in OF_USERS}
    )
    refused(http.post("/threads", json={}), "project.threads", "insufficient_quota")
    item = http.get(f"/conversations/{thread.replace('thread_', 'conv_')}/items").json()["data"][0]["id"]
    asked: list[tuple[str, str, Any]] = [
        ("POST", f"/responses/{slow[0]}/cancel", None),
        ("POST", f"/threads/{http.get(f'/responses/{slow[1]}').headers.get('x', thread)}/turns/{turn}/cancel", None),
        ("POST", f"/responses/{slow[1]}/cancel", None),
        ("GET", f"/threads/{thread}/messages", None),
        ("GET", f"/responses/{response}", None),
        ("GET", f"/threads/{thread}/export", None),
        ("GET", "/users/ann/data", None),
        ("GET", "/feedback/export", None),
        ("GET", "/audit/export", None),
        ("GET", "/usage", None),
        ("PATCH", f"/threads/{thread}", {"title": "short", "metadata": {}}),
        ("PATCH", f"/threads/{thread}", {"archived": True}),
        ("POST", f"/conversations/{thread.replace('thread_', 'conv_')}", {"metadata": {}}),
        ("POST", "/threads/bulk", {"action": "delete", "ids": deleted}),
        ("DELETE", f"/feedback/{feedback}", None),
        ("DELETE", f"/shares/{share['id']}", None),
        ("DELETE", f"/conversations/{thread.replace('thread_', 'conv_')}/items/{item}", None),
        ("DELETE", f"/responses/{response}", None),
        ("DELETE", "/users/ann/data", None),
        ("DELETE", f"/threads/{thread}", None),
    ]
    for method, path, body in asked:
        answer = http.request(method, path, json=body)
        assert answer.status_code < 300, (method, path, answer.text)
    assert http.get(f"/responses/{slow[0]}").json()["status"] == "cancelled"
    assert other


# Money and tokens


def chat(tenant: Tenant) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{tenant.service.url}/v1", api_key=tenant.key, max_retries=0)


def used(tenant: Tenant, **params: Any) -> dict[str, Any]:
    """The project's usage of today."""
    rows = tenant.http.get("/usage", params=params).json()["data"]
    found: dict[str, Any] = rows[0] if rows else {}
    return found


def ask_chat(tenant: Tenant, **fields: Any) -> Any:
    return chat(tenant).chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Tell me something."}], **fields
    )


def stream_chat(tenant: Tenant, **fields: Any) -> Any:
    return [*ask_chat(tenant, stream=True, **fields)]


def ask_compact(tenant: Tenant) -> Any:
    return chat(tenant).responses.compact(model=MODEL, input="A long story about a room that is blue.")


def ask_unstored(tenant: Tenant) -> Any:
    return chat(tenant).responses.create(model=MODEL, input="Hi", store=False)


@pytest.mark.parametrize("ask", [ask_chat, stream_chat, ask_compact, ask_unstored])
@pytest.mark.parametrize("limits", [{"cost_per_month": 0.001}, {"tokens_per_month": 1}])
def test_what_is_not_kept_is_charged_all_the_same(
    tenant: Tenant, redis_url: str, ask: Callable[[Tenant], Any], limits: dict[str, float]
) -> None:
    tenant.settings(limits=limits)
    ask(tenant)
    time.sleep(0.2)
    with pytest.raises(openai.RateLimitError) as caught:
        ask(tenant)
    assert caught.value.code == "insufficient_quota"
    eventually(lambda: used(tenant).get("cost", 0) > 0)
    redis.Redis.from_url(redis_url).delete(*redis.Redis.from_url(redis_url).keys(key_of(tenant, "*")) or ["none"])
    with pytest.raises(openai.RateLimitError):  # Postgres knows it too.
        ask(tenant)


def test_chat_is_counted_by_what_the_provider_has_counted(tenant: Tenant) -> None:
    first = ask_chat(tenant).usage
    chunks = stream_chat(tenant)
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)  # Nobody has asked for it.
    assert all("usage" not in chunk.model_extra for chunk in chunks if chunk.model_extra)
    shown = stream_chat(tenant, stream_options={"include_usage": True})
    assert (shown[-1].choices, shown[-1].usage) == ([], first)
    eventually(lambda: used(tenant).get("chat_completions") == 3)
    row = used(tenant)
    assert row["input_tokens"] == 3 * first.prompt_tokens
    assert row["output_tokens"] == 3 * first.completion_tokens
    assert row["cost"] == pytest.approx(3 * first.total_tokens / 1000)
    tenant.settings(limits={"tokens_per_month": 5 * first.total_tokens})
    ask_chat(tenant)
    time.sleep(0.2)
    ask_chat(tenant)
    time.sleep(0.2)
    with pytest.raises(openai.RateLimitError):
        ask_chat(tenant)


def test_streams_bytes_hold_no_usage_that_was_not_asked_for(tenant: Tenant) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    raw = tenant.http.post("/chat/completions", json=body).text
    assert "usage" not in raw
    assert raw.endswith("data: [DONE]\n\n")
    asked = tenant.http.post("/chat/completions", json={**body, "stream_options": {"include_usage": True}}).text
    assert asked.count('"usage":null') > 0
    assert '"total_tokens"' in asked
    assert tenant.http.post("/chat/completions", json={**body, "stream_options": {"include_usage": False}}).text.count(
        "usage"
    ) == 0  # fmt: skip


def test_a_chat_stream_that_is_left_before_its_end_is_charged(tenant: Tenant) -> None:
    tenant.settings(limits={"tokens_per_month": 1})
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"Echo: {'word ' * 3000}"}], "stream": True}
    with tenant.http.stream("POST", "/chat/completions", json=body) as answer:
        next(answer.iter_bytes())
    eventually(lambda: used(tenant).get("chat_completions") == 1)
    assert used(tenant)["input_tokens"] > 1000
    with pytest.raises(openai.RateLimitError):
        ask_chat(tenant)


def test_a_turn_that_is_cancelled_while_it_speaks_is_charged(tenant: Tenant, emulator: Emulator) -> None:
    tenant.settings(limits={"tokens_per_month": 1})
    emulator.fault("slow", seconds_per_event=0.2, times=1)
    body = {"model": MODEL, "input": "Tell me something.", "background": True}
    id_ = tenant.http.post("/responses", json=body).json()["id"]
    with tenant.http.stream("GET", f"/responses/{id_}", params={"stream": "true"}) as answer:
        next(line for line in answer.iter_lines() if ".delta" in line)
    assert tenant.http.post(f"/responses/{id_}/cancel").json()["status"] == "cancelled"
    time.sleep(0.2)
    refused(tenant.http.post("/responses", json=body), "project.tokens_per_month", "insufficient_quota")
    eventually(lambda: used(tenant).get("input_tokens", 0) > 0)


@pytest.mark.parametrize("name", ["user", "safety_identifier"])
def test_the_user_that_chat_names_has_limits(tenant: Tenant, name: str) -> None:
    tenant.settings(user_limits={"requests_per_minute": 2})
    assert [len(ask_chat(tenant, **{name: "ann"}).choices) for _ in range(2)] == [1, 1]
    with pytest.raises(openai.RateLimitError) as caught:
        ask_chat(tenant, **{name: "ann"})
    assert caught.value.response.headers["everthread-limit"] == "user.requests_per_minute"
    assert ask_chat(tenant, **{name: "bob"}).choices
    eventually(
        lambda: {row["user"] for row in tenant.http.get("/usage?group_by=user").json()["data"]} == {"ann", "bob"}
    )
    deleted = tenant.http.delete("/users/ann/data")
    assert deleted.status_code == 202
    eventually(lambda: {row["user"] for row in tenant.http.get("/usage?group_by=user").json()["data"]} == {None, "bob"})


def test_titles_and_compactions_are_charged_to_who_caused_them(tenant: Tenant, emulator: Emulator) -> None:
    thread = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
    never = [{"type": "compaction", "compact_threshold": 10**9}]
    soon = [{"type": "compaction", "compact_threshold": 1}]
    for _ in range(3):
        tenant.turn(thread, "Room 7 is blue. " * 12, user="ann", context_management=never)
    tenant.turn(thread, "Room 8 is red. " * 12, user="ann", context_management=soon)
    eventually(lambda: tenant.http.get(f"/threads/{thread}/compactions").json()["data"] != [])
    eventually(lambda: used(tenant, group_by="user").get("compactions") == 1)
    (row,) = tenant.http.get("/usage?group_by=user").json()["data"]
    assert (row["user"], row["titles"], row["turns"]) == ("ann", 1, 4)
    assert row["compaction_cost"] > 0
    (of_thread,) = tenant.http.get("/usage?group_by=thread").json()["data"]
    assert of_thread["thread"] == thread
    tenant.settings(user_limits={"tokens_per_month": row["input_tokens"] + row["output_tokens"] + 1})
    answer = tenant.http.post("/responses", json={"input": "Hi", "model": MODEL, "user": "ann"})
    refused(answer, "user.tokens_per_month", "insufficient_quota")  # The compaction has used the last of it.


def test_a_reached_budget_means_no_compaction_and_no_error(tenant: Tenant, emulator: Emulator) -> None:
    never = [{"type": "compaction", "compact_threshold": 10**9}]
    soon = [{"type": "compaction", "compact_threshold": 1}]
    thread = tenant.thread()
    for number in range(3):
        tenant.turn(thread, f"Room {number} is blue. " * 12, context_management=never)
    eventually(lambda: used(tenant).get("titles") == 1)
    row = used(tenant)
    tenant.settings(limits={"tokens_per_month": row["input_tokens"] + row["output_tokens"] + 1})
    asked = len(emulator.calls())
    turn = tenant.turn(thread, "Recite the conversation", context_management=soon)
    assert turn["status"] == "completed"
    time.sleep(1)
    assert len(emulator.calls()) == asked + 1
    assert tenant.http.get(f"/threads/{thread}/compactions").json()["data"] == []
    answer = tenant.http.post(f"/threads/{thread}/compact")
    refused(answer, "project.tokens_per_month", "insufficient_quota")
    assert len(tenant.http.get(f"/threads/{thread}/messages").json()["data"]) == 8
    tenant.settings(limits={})
    again = tenant.turn(thread, "Recite the conversation", context_management=soon)
    assert "Room 0 is blue." in json.dumps(again["output"])
    eventually(lambda: [each["status"] for each in compactions(tenant, thread)] == ["ready"])


def test_a_compaction_that_a_dead_worker_has_left_waits_for_the_budget_and_holds_up_nobody(
    tenant: Tenant, database_url: str
) -> None:
    thread, other = tenant.thread(), Tenant(tenant.service)
    turn = UUID(tenant.turn(thread, "Room 7 is blue. " * 12)["id"].removeprefix("turn_"))
    theirs = other.thread()
    their_turn = UUID(other.turn(theirs, "Room 8 is red. " * 12)["id"].removeprefix("turn_"))
    tenant.settings(limits={"tokens_per_month": 1})
    leave = """INSERT INTO compactions (project_id, bucket, id, turn_id, status, worker_id, lease_expires_at, model,
            covered_turns, covered_tokens)
        SELECT project_id, bucket, gen_random_uuid(), id, 'running', gen_random_uuid(), now() - interval '1 hour',
            model, 1, 1 FROM turns WHERE id = '{}'"""
    for left in (turn, their_turn):
        query(database_url, leave.format(left))
    eventually(lambda: [each["status"] for each in compactions(other, theirs)] == ["ready"], seconds=30)
    eventually(lambda: [each["status"] for each in compactions(tenant, thread)] == ["failed"], seconds=30)
    assert compactions(tenant, thread)[0]["error"]["code"] == "limit_reached"
    eventually(lambda: used(other).get("compactions") == 1)


def compactions(tenant: Tenant, thread: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tenant.http.get(f"/threads/{thread}/compactions").json()["data"]
    return found


def test_structured_retries_are_charged(tenant: Tenant, emulator: Emulator) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    emulator.fault("answer", body=said("no JSON"), times=1)
    answer = tenant.http.post(
        "/responses",
        json={
            "input": "Hi",
            "model": MODEL,
            "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}},
        },
    ).json()
    second = emulator.calls()[1]["answer"]["usage"]["total_tokens"]
    first = json.loads(said(""))["usage"]["total_tokens"]
    assert answer["usage"]["total_tokens"] == first + second
    tenant.settings(limits={"tokens_per_month": first + second})
    refused(ask_plain(tenant), "project.tokens_per_month", "insufficient_quota")


def ask_plain(tenant: Tenant) -> httpx2.Response:
    return tenant.http.post("/responses", json={"input": "Hi", "model": MODEL})


def test_feedback_titles_and_metadata_fill_the_store(tenant: Tenant) -> None:
    made = Made(tenant)
    place = f"/threads/{made.thread}/turns/{made.turn}/feedback"

    def add() -> httpx2.Response:
        return tenant.http.post(place, json={"comment": "".join(random.choices(string.printable, k=3000))})

    assert {add().status_code for _ in range(10)} == {201}
    tenant.settings(limits={"stored_bytes": 20_000})  # A count far from a limit is taken again after ten seconds.
    refused(add(), "project.stored_bytes", "insufficient_quota")
    refused(tenant.http.patch(f"/threads/{made.thread}", json={"title": "x" * 900}), "project.stored_bytes",
            "insufficient_quota")  # fmt: skip
    assert tenant.http.patch(f"/threads/{made.thread}", json={"title": None}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"), [("/threads", {"user": "ann"}), ("/threads/{thread}/fork", {}), ("/threads/{thread}/fork",
                       {"user": "ann"})],
)  # fmt: skip
def test_the_user_that_a_thread_is_made_for_has_a_limit_of_them(tenant: Tenant, path: str, body: Any) -> None:
    thread = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
    tenant.turn(thread, "Hi", user="ann")
    tenant.settings(user_limits={"threads": 1})
    refused(tenant.http.post(path.format(thread=thread), json=body), "user.threads", "insufficient_quota")
    assert tenant.http.post(path.format(thread=thread), json={**body, "user": "bob"}).status_code == 201


# Taking it back


def test_a_limit_has_a_floor_that_is_said(tenant: Tenant) -> None:
    place, http = f"/admin/projects/{tenant.id}", tenant.service.http
    for kind, names in (("limits", list(LEAST)), ("key_limits", OF_KEYS), ("user_limits", OF_USERS)):
        for name in names:
            least = LEAST[name]
            low = http.patch(place, json={kind: {name: least / 2 if isinstance(least, float) else least - 1}})
            assert (low.status_code, low.json()["error"]["param"]) == (400, f"{kind}.{name}"), low.text
            assert http.patch(place, json={kind: {name: least}}).status_code == 200
    key = tenant.http.post(f"{place}/keys", json={"name": "k", "limits": {"body_bytes": 999}})
    assert (key.status_code, key.json()["error"]["param"]) == (400, "limits.body_bytes")


@pytest.mark.parametrize("name", LEAST)
def test_every_limit_at_its_least_is_taken_back_through_the_api(tenant: Tenant, name: str) -> None:
    """By the operator for a tenant, and by the tenant's admin for a key."""
    place, operator = f"/admin/projects/{tenant.id}", tenant.service.http
    for _ in range(2):
        ask_plain(tenant)
    kinds = ["limits", *(["key_limits"] if name in OF_KEYS else []), *(["user_limits"] if name in OF_USERS else [])]
    for kind in kinds:
        tenant.settings(**{kind: {name: LEAST[name]}})
        ask_plain(tenant)
        # Longer than the least body: it is no tenant's limit here.
        long = {"aliases": {f"alias-{number}": MODEL for number in range(100)}}
        assert tenant.http.patch(place, json=long).status_code == 200
        assert operator.patch(place, json={**long, kind: {}}).status_code == 200
    assert ask_plain(tenant).status_code == 200
    assert tenant.http.get(place).json()["limits"] == {}


def test_every_limit_of_the_project_that_operates_is_taken_back_with_its_own_key(fresh_env: dict[str, str]) -> None:
    service = Service(env=fresh_env)
    try:
        place = f"/admin/projects/{service.http.get('/project').json()['id']}"
        for name, least in LEAST.items():
            kinds = [
                "limits",
                *(["key_limits"] if name in OF_KEYS else []),
                *(["user_limits"] if name in OF_USERS else []),
            ]
            assert service.http.patch(place, json={kind: {name: least} for kind in kinds}).status_code == 200
            for _ in range(3):
                service.http.post("/responses", json={"input": "Hi " * 600, "user": "ann"})
            long = {"aliases": {f"alias-{number}": MODEL for number in range(100)}}
            taken = service.http.patch(place, json={**long, **{kind: {} for kind in kinds}})
            assert taken.status_code == 200, (name, taken.text)
            assert taken.json()["limits"] == {}
        assert service.http.post("/responses", json={"input": "Hi"}).status_code == 200
    finally:
        service.stop()

"""Tokens of end users: a browser speaks to the service itself, and reaches what is its user's, and nothing else."""

import base64
import json
import re
import time
from typing import Any
from uuid import uuid4

import httpx2
import jwt
import openai
import pytest
from websockets.sync.client import connect

from app.db.buckets import Buckets
from app.db.engine import Database
from app.projects import cutoffs
from app.projects.keys import ensure_project
from app.trail.records import SERVICE
from app.trail.users import UserKeys
from tests.service import Service, eventually
from tests.tenants import Tenant

PAGE = "https://app.example"

OPEN = {
    "threads_list_threads", "threads_get_or_create", "threads_get", "threads_patch", "history_create", "history_delete",
    "history_read_back", "history_give_feedback", "history_fork", "history_branches", "history_share",
    "history_list_shares", "history_take_back", "search_search", "memory_compact", "memory_compactions",
    "models_listed", "models_one", "responses_compact", "responses_input_tokens", "conversations_create",
    "conversations_listed", "conversations_update", "conversations_add_items", "conversations_retrieve_item",
    "conversations_delete_item", "turns_create", "turns_cancel", "turns_events", "turns_life",
    "turns_list_turns", "turns_get", "responses_create", "responses_retrieve", "responses_delete", "responses_cancel",
    "responses_input_items", "conversations_retrieve", "conversations_delete", "conversations_list_items",
    "events_follow", "events_create_ticket", "threads_claim",
}  # fmt: skip
"""Operations that accept a user's token, by their id in the OpenAPI document, by id and by name."""


@pytest.fixture
def tenant(service: Service) -> Tenant:
    return Tenant(service)


def token_of(tenant: Tenant, user: str, **fields: Any) -> str:
    answer = tenant.http.post("/user_tokens", json={"user": user, **fields})
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


def browser(tenant: Tenant, user: str, **fields: Any) -> httpx2.Client:
    headers = {"Authorization": f"Bearer {token_of(tenant, user, **fields)}"}
    return httpx2.Client(base_url=f"{tenant.service.url}/v1", headers=headers, timeout=60)


def code_of(answer: httpx2.Response) -> Any:
    return answer.json()["error"]["code"]


def test_openai_client_holds_a_conversation_with_a_users_token(tenant: Tenant) -> None:
    client = openai.OpenAI(base_url=f"{tenant.service.url}/v1", api_key=token_of(tenant, "ann"), max_retries=0)
    first = client.responses.create(model="qwen3.5-plus", input="My name is Ada.", user="somebody else")
    second = client.responses.create(
        model="qwen3.5-plus", input="What is my name?", previous_response_id=first.id, stream=True
    )
    assert [event.response.output_text for event in second if event.type == "response.completed"] == ["Ada"]
    threads = tenant.http.get("/threads").json()["data"]
    assert [thread["user"] for thread in threads] == ["ann"]
    assert client.responses.retrieve(first.id).output_text


def test_user_reaches_nothing_of_another_user_as_if_it_were_not_there(tenant: Tenant) -> None:
    theirs = tenant.http.post("/threads", json={"user": "bob", "name": "notes"}).json()["id"]
    turn = tenant.turn(theirs, "A secret of Bob's.")
    item, share = turn["output"][0]["id"], tenant.http.post(f"/threads/{theirs}/shares").json()["id"]
    ann = browser(tenant, "ann")
    mine = ann.post("/threads", json={}).json()["id"]
    none = "0" * 32
    response, conversation = turn["id"].replace("turn_", "resp_"), theirs.replace("thread_", "conv_")
    for method, path, body in (
        ("GET", "/threads/{thread}", None),
        ("PATCH", "/threads/{thread}", {"title": "Mine now"}),
        ("DELETE", "/threads/{thread}", None),
        ("GET", "/threads/{thread}/messages", None),
        ("GET", "/threads/{thread}/turns", None),
        ("GET", "/threads/{thread}/turns/{turn}", None),
        ("GET", "/threads/{thread}/turns/{turn}/events", None),
        ("GET", "/threads/{thread}/events", None),
        ("POST", "/threads/{thread}/turns", {"input": "Hi"}),
        ("POST", "/threads/{thread}/turns/{turn}/cancel", None),
        ("POST", "/threads/{thread}/turns/{turn}/feedback", {"score": 1}),
        ("GET", "/threads/by-name/{name}", None),
        ("POST", "/threads/by-name/{name}/turns", {"input": "Hi"}),
        ("GET", "/responses/{response}", None),
        ("DELETE", "/responses/{response}", None),
        ("POST", "/responses/{response}/cancel", None),
        ("GET", "/responses/{response}/input_items", None),
        ("GET", "/conversations/{conversation}", None),
        ("DELETE", "/conversations/{conversation}", None),
        ("GET", "/conversations/{conversation}/items", None),
        ("POST", "/threads/{thread}/fork", {}),
        ("POST", "/threads/{thread}/compact", {}),
        ("GET", "/threads/{thread}/compactions", None),
        ("GET", "/threads/{thread}/branches", None),
        ("POST", "/threads/{thread}/shares", {}),
        ("GET", "/threads/{thread}/shares", None),
        ("DELETE", "/shares/{share}", None),
        ("POST", "/conversations/{conversation}", {"metadata": {}}),
        ("POST", "/conversations/{conversation}/items", {"items": [{"role": "user", "content": "Hi"}]}),
        ("GET", "/conversations/{conversation}/items/{item}", None),
        ("DELETE", "/conversations/{conversation}/items/{item}", None),
        ("POST", "/responses/compact", {"model": "qwen3.5-plus", "previous_response_id": "{response}"}),
        ("POST", "/responses/input_tokens", {"previous_response_id": "{response}"}),
        ("POST", "/responses/input_tokens", {"conversation": "{conversation}"}),
        ("POST", "/responses", {"input": "Hi", "previous_response_id": "{response}"}),
        ("POST", "/responses", {"input": "Hi", "conversation": "{conversation}"}),
        ("POST", f"/threads/{mine}/turns", {"input": "Hi", "parent_id": "{turn}"}),
        ("POST", f"/threads/{mine}/turns", {"input": [{"type": "item_reference", "id": "{item}"}]}),
    ):

        def asked(given: dict[str, str], method: str = method, path: str = path, body: Any = body) -> tuple[int, str]:
            filled = None if body is None else json.loads(re.sub(r"{(\w+)}", lambda m: given[m[1]], json.dumps(body)))
            answer = ann.request(method, path.format(**given), json=filled)
            said = answer.text
            for value in given.values():
                said = said.replace(value, "ID")
            return answer.status_code, said

        there = {"thread": theirs, "turn": turn["id"], "name": "notes", "response": response, "item": item,
                 "conversation": conversation, "share": share}  # fmt: skip
        absent = {"thread": f"thread_{none}", "turn": f"turn_{none}", "name": "nothing", "response": f"resp_{none}",
                  "item": f"msg_{none}", "conversation": f"conv_{none}", "share": f"share_{none}"}  # fmt: skip
        assert asked(there) == asked(absent), (method, path)
        assert asked(there)[0] in (400, 404), (method, path)
    assert [thread["id"] for thread in ann.get("/threads").json()["data"]] == [mine]
    assert tenant.http.get(f"/threads/{theirs}").json()["turn_count"] == 1
    assert [found["id"] for found in tenant.http.get(f"/threads/{theirs}/shares").json()["data"]] == [share]
    for path in ("/search?q=secret", "/search?q=Bob&role=user", f"/search?q=secret&thread={theirs}"):
        assert ann.get(path).json()["data"] == [], path
    refused = ann.get("/search", params={"q": "secret", "user": "bob"})
    assert (refused.status_code, code_of(refused)) == (403, "not_for_users")
    assert [found["id"] for found in ann.get("/conversations").json()["data"]] == [mine.replace("thread_", "conv_")]


def test_user_has_what_own_threads_need(tenant: Tenant) -> None:
    ann = browser(tenant, "ann")
    made = ann.post("/conversations", json={"items": [{"role": "user", "content": "A word of Ann's."}]}).json()["id"]
    thread = made.replace("conv_", "thread_")
    assert tenant.http.get(f"/threads/{thread}").json()["user"] == "ann"
    added = {"items": [{"role": "user", "content": "Another."}]}
    item = ann.post(f"/conversations/{made}/items", json=added).json()["data"][0]["id"]
    assert ann.get(f"/conversations/{made}/items/{item}").json()["content"][0]["text"] == "Another."
    assert ann.delete(f"/conversations/{made}/items/{item}").json()["id"] == made
    assert ann.post(f"/conversations/{made}", json={"metadata": {"a": "b"}}).json()["metadata"] == {"a": "b"}
    ann.patch(f"/threads/{thread}", json={"name": "words"})
    assert ann.post(f"/threads/{thread}/turns", json={"input": "Hi"}).status_code == 200
    (hit,) = ann.get("/search", params={"q": "word"}).json()["data"]
    assert (hit["thread_id"], hit["thread_name"]) == (thread, "words")
    assert ann.get(f"/threads/{thread}/branches").json()["data"][0]["head"] is True
    fork = ann.post(f"/threads/{thread}/fork", json={"name": "fork"}).json()
    assert (fork["user"], fork["name"]) == ("ann", "fork")
    assert tenant.http.get(f"/threads/{fork['id']}").json()["name"] == "ann:fork"
    link = ann.post(f"/threads/{thread}/shares").json()
    assert "A word of Ann's." in httpx2.get(f"{tenant.service.url}{link['path']}").text
    assert ann.delete(f"/shares/{link['id']}").status_code == 200
    assert ann.post(f"/threads/{thread}/compact", json={"keep_turns": 0}).json()["status"] == "ready"
    assert ann.get(f"/threads/{thread}/compactions").json()["data"][0]["covered_turns"] > 0
    assert ann.get("/models").json()["data"]
    assert ann.post("/responses/input_tokens", json={"conversation": made}).json()["input_tokens"] > 0


def test_token_for_one_thread_reaches_no_other_by_the_new_routes(tenant: Tenant) -> None:
    other = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
    thread = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
    for each in (other, thread):
        tenant.turn(each, "A secret word.")
    share = tenant.http.post(f"/threads/{other}/shares").json()["id"]
    bound = browser(tenant, "ann", thread=thread)
    for method, path, body in (
        ("POST", "/conversations", {}), ("GET", "/conversations", None), ("POST", f"/threads/{thread}/fork", {}),
        ("GET", f"/search?q=secret&thread={other}", None),
    ):  # fmt: skip
        answer = bound.request(method, path, json=body)
        assert (answer.status_code, code_of(answer)) == (403, "not_for_users"), path
    assert {hit["thread_id"] for hit in bound.get("/search", params={"q": "secret"}).json()["data"]} == {thread}
    assert bound.delete(f"/shares/{share}").status_code == 404


def test_limits_of_a_user_hold_on_every_route_that_makes_or_asks_something(tenant: Tenant) -> None:
    ann = browser(tenant, "ann")
    thread = ann.post("/threads", json={}).json()["id"]
    ann.post(f"/threads/{thread}/turns", json={"input": "Hi"})
    tenant.settings(user_limits={"threads": 1})
    conversation = thread.replace("thread_", "conv_")

    def limited(method: str, path: str, body: Any) -> bool:
        return ann.request(method, path, json=body).status_code == 429

    for path in ("/threads", "/conversations", f"/threads/{thread}/fork", "/responses"):
        eventually(lambda path=path: limited("POST", path, {"input": "Hi"} if path == "/responses" else {}))  # type: ignore[misc]
    of_limits: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("stored_bytes", f"/conversations/{conversation}/items", {"items": [{"role": "user", "content": "Hi"}]}),
        ("stored_bytes", f"/conversations/{conversation}", {"metadata": {"long": "er"}}),
        ("stored_bytes", f"/threads/{thread}/shares", {}),
        ("tokens_per_month", "/responses/compact", {"model": "qwen3.5-plus", "input": "Hi"}),
        ("tokens_per_month", f"/threads/{thread}/compact", {"keep_turns": 0}),
    )
    for name, path, body in of_limits:
        tenant.settings(user_limits={name: 1})
        eventually(lambda path=path, body=body: limited("POST", path, body))  # type: ignore[misc]
    headers = {"Authorization": str(ann.headers["authorization"])}
    with connect(f"{tenant.service.url.replace('http', 'ws')}/v1/responses", additional_headers=headers) as socket:
        socket.send(json.dumps({"type": "response.create", "input": "Hi"}))
        assert json.loads(socket.recv(timeout=30))["status"] == 429


def test_token_opens_these_routes_and_no_others(tenant: Tenant) -> None:
    ann = browser(tenant, "ann")
    document = httpx2.get(f"{tenant.service.url}/openapi.json").json()
    opened = set()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if operation.get("security") == [] or not path.startswith("/v1/"):
                continue
            place = re.sub(r"{(\w+)}", "nobody", path).removeprefix("/v1")
            with ann.stream(method, place) as answer:
                closed = answer.status_code == 403 and json.loads(answer.read())["error"]["code"] == "not_for_users"
            if not closed:
                opened.add(operation["operationId"].removesuffix("_by_name"))
    assert opened == OPEN


def test_names_of_users_are_apart(tenant: Tenant) -> None:
    ann, bob = browser(tenant, "ann"), browser(tenant, "bob")
    made = [each.put("/threads/by-name/notes").json() for each in (ann, bob)]
    assert made[0]["id"] != made[1]["id"]
    assert [thread["name"] for thread in made] == ["notes", "notes"]
    assert ann.put("/threads/by-name/notes").json()["id"] == made[0]["id"]
    assert ann.post("/threads/by-name/notes/turns", json={"input": "Hi"}).status_code == 200
    assert ann.get("/threads", params={"name": "no"}).json()["data"][0]["name"] == "notes"
    # The backend knows both, each by its user.
    assert tenant.http.get("/threads/by-name/ann:notes").json()["id"] == made[0]["id"]
    tricky = browser(tenant, "ann:notes")
    assert tricky.get("/threads/by-name/x").status_code == 404
    tenant.http.put("/threads/by-name/ann:x", json={"user": "ann"})
    assert browser(tenant, "ann:").put("/threads/by-name/x").status_code == 201
    # A name in the user's own part that the backend has given to somebody else is not the user's.
    tenant.http.put("/threads/by-name/ann:other", json={"user": "bob"})
    for answer in (ann.get("/threads/by-name/other"), ann.put("/threads/by-name/other")):
        assert answer.status_code == 404


def test_user_makes_threads_of_its_own_alone(tenant: Tenant) -> None:
    ann = browser(tenant, "ann")
    assert ann.post("/threads", json={}).json()["user"] == "ann"
    for body in ({"user": "bob"}, {"user": None}):
        answer = ann.post("/threads", json=body)
        assert (answer.status_code, code_of(answer), answer.json()["error"]["param"]) == (403, "not_for_users", "user")
    thread = ann.post("/threads", json={"user": "ann"}).json()["id"]
    assert ann.patch(f"/threads/{thread}", json={"user": "bob"}).status_code == 403
    assert ann.patch(f"/threads/{thread}", json={"title": "A talk", "name": "t"}).json()["name"] == "t"
    assert ann.get("/threads", params={"user": "bob"}).status_code == 403


def test_same_idempotency_key_of_two_users_is_two_turns(tenant: Tenant) -> None:
    ann, bob = browser(tenant, "ann"), browser(tenant, "bob")
    key = {"Idempotency-Key": "1"}
    made = [each.post("/responses", json={"input": "Hi"}, headers=key).json()["id"] for each in (ann, bob, ann)]
    assert made[0] == made[2]
    assert made[0] != made[1]
    assert tenant.http.post("/responses", json={"input": "Hi"}, headers=key).json()["id"] not in made


def test_token_for_one_thread_opens_that_one(tenant: Tenant) -> None:
    threads = [tenant.http.post("/threads", json={"user": "ann"}).json()["id"] for _ in range(2)]
    bound = browser(tenant, "ann", thread=threads[0])
    assert bound.post(f"/threads/{threads[0]}/turns", json={"input": "Hi"}).status_code == 200
    assert bound.get(f"/threads/{threads[1]}").status_code == 404
    for method, path, body in (
        ("POST", "/threads", {}), ("PUT", "/threads/by-name/n", {}), ("GET", "/threads", None),
        ("POST", "/responses", {"input": "Hi"}),
    ):  # fmt: skip
        answer = bound.request(method, path, json=body)
        assert (answer.status_code, code_of(answer)) == (403, "not_for_users"), path
    # Of another user, it opens nothing at all.
    assert browser(tenant, "bob", thread=threads[0]).get(f"/threads/{threads[0]}").status_code == 404


def test_token_that_reads_does_not_write(tenant: Tenant) -> None:
    reader = browser(tenant, "ann", actions=["read"])
    assert reader.get("/threads").status_code == 200
    answer = reader.post("/threads", json={})
    assert (answer.status_code, code_of(answer)) == (403, "missing_scope")


def test_key_mints_nothing_that_it_may_not_do_itself(tenant: Tenant) -> None:
    key = tenant.http.post(f"/admin/projects/{tenant.id}/keys", json={"name": "w", "scopes": ["write"]}).json()["key"]
    with httpx2.Client(base_url=tenant.http.base_url, headers={"Authorization": f"Bearer {key}"}) as http:
        answer = http.post("/user_tokens", json={"user": "ann", "actions": ["read", "write"]})
        assert (answer.status_code, code_of(answer)) == (403, "missing_scope")
        assert http.post("/user_tokens", json={"user": "ann"}).json()["actions"] == ["write"]


def test_token_ends_by_itself_and_with_its_key(tenant: Tenant) -> None:
    brief = browser(tenant, "ann", expires_in=3)
    assert brief.get("/threads").status_code == 200
    eventually(lambda: brief.get("/threads").status_code == 401, seconds=8)
    place = f"/admin/projects/{tenant.id}/keys"
    made = tenant.http.post(place, json={"name": "mints", "scopes": ["read", "write"]}).json()
    with httpx2.Client(base_url=tenant.http.base_url, headers={"Authorization": f"Bearer {made['key']}"}) as http:
        token = http.post("/user_tokens", json={"user": "ann"}).json()["token"]
    ann = httpx2.Client(base_url=tenant.http.base_url, headers={"Authorization": f"Bearer {token}"})
    assert ann.get("/threads").status_code == 200
    tenant.http.delete(f"{place}/{made['id']}")
    eventually(lambda: ann.get("/threads").status_code == 401, seconds=5)


def test_all_tokens_of_one_user_end_at_once_and_no_others(tenant: Tenant) -> None:
    """Not to end: tokens of other users, of a user of the same name in another project, and those from afterwards."""
    place = f"/admin/projects/{tenant.id}/keys"
    key = tenant.http.post(place, json={"name": "other", "scopes": ["read", "write"]}).json()["key"]
    with httpx2.Client(base_url=tenant.http.base_url, headers={"Authorization": f"Bearer {key}"}) as http:
        token = http.post("/user_tokens", json={"user": "ann"}).json()["token"]
    of_other_key = httpx2.Client(base_url=tenant.http.base_url, headers={"Authorization": f"Bearer {token}"})
    ended = [browser(tenant, "ann"), browser(tenant, "ann", actions=["read"]), of_other_key]
    kept = [browser(tenant, "bob"), browser(tenant, "Ann"), browser(Tenant(tenant.service), "ann")]
    assert all(each.get("/threads").status_code == 200 for each in [*ended, *kept])
    revoked = tenant.http.post("/user_tokens/revoke", json={"user": "ann"}).json()
    assert (revoked["object"], revoked["user"]) == ("user_token.revocation", "ann")
    kept.append(browser(tenant, "ann"))
    for _ in range(3):
        assert [each.get("/threads").status_code for each in ended] == [401] * 3
        assert [each.get("/threads").status_code for each in kept] == [200] * 4
        tenant.http.post("/user_tokens/revoke", json={"user": "somebody"})
    for each in kept:
        answer = each.post("/user_tokens/revoke", json={"user": "bob"})
        assert (answer.status_code, code_of(answer)) == (403, "not_for_users")
    (record,) = [
        each
        for each in tenant.http.get("/audit", params={"limit": 100}).json()["data"]
        if each["action"] == "user.tokens_revoked" and each["seq"] == min(_revocations(tenant))
    ]
    assert record["actor"]["user"] is not None
    assert "ann" not in str(record)


def _revocations(tenant: Tenant) -> list[int]:
    records = tenant.http.get("/audit", params={"limit": 100}).json()["data"]
    return [each["seq"] for each in records if each["action"] == "user.tokens_revoked"]


def test_reading_key_revokes_nobodys_tokens(tenant: Tenant) -> None:
    key = tenant.http.post(f"/admin/projects/{tenant.id}/keys", json={"name": "r", "scopes": ["read"]}).json()["key"]
    with httpx2.Client(base_url=tenant.http.base_url, headers={"Authorization": f"Bearer {key}"}) as http:
        answer = http.post("/user_tokens/revoke", json={"user": "ann"})
    assert (answer.status_code, code_of(answer)) == (403, "missing_scope")


async def test_cut_offs_that_do_not_fit_in_memory_are_in_force_too(
    fresh_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutoffs, "MOST_OF_PROJECT", 3)
    monkeypatch.setattr(cutoffs, "MOST_KEPT", 4)
    database = Database(fresh_database_url, pool_size=2, timeout_seconds=30)
    ends = cutoffs.Cutoffs(database, UserKeys(database, Buckets(b"")), b"")
    projects = [await ensure_project(database, name) for name in ("one", "another")]
    users = [f"user-{number}" for number in range(8)]
    for project in projects:
        before = {user: await ends.issue_time(project, user) for user in users}
        latest = 0
        for number, user in enumerate(users[:7]):
            latest = await ends.revoke(SERVICE, project, user)
            after = await ends.issue_time(project, user)
            cut = [await ends.is_cut(project, latest, each, before[each]) for each in users]
            assert cut == [each <= number for each in range(8)]
            assert not await ends.is_cut(project, latest, user, after)
        # A worker that comes later reads only the latest ones.
        late = cutoffs.Cutoffs(database, UserKeys(database, Buckets(b"")), b"")
        assert [await late.is_cut(project, latest, user, before[user]) for user in users] == [True] * 7 + [False]
    await database.close()


def test_token_that_was_not_minted_here_opens_nothing(tenant: Tenant) -> None:
    token = token_of(tenant, "ann")
    head, said, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(said + "=="))
    changed = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "bob"}).encode()).rstrip(b"=").decode()
    unsigned = jwt.encode({**claims, "sub": "bob"}, "", "none")
    own = jwt.encode({**claims, "sub": "bob"}, "another key, which is long enough", "HS256")
    other = {**claims, "project": uuid4().hex}
    deep = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 40_000).rstrip(b"=").decode()
    for given in (
        f"{deep}.{said}.{signature}", f"{head}.{deep}.{signature}",
        f"{head}.{changed}.{signature}", unsigned, own, jwt.encode(other, "x" * 32, "HS256"), "a.b.c", "..", token[:-2],
    ):  # fmt: skip
        with httpx2.Client(base_url=tenant.http.base_url, headers={"Authorization": f"Bearer {given}"}) as http:
            assert http.get("/threads").status_code == 401, given


def test_token_says_nothing_secret(tenant: Tenant) -> None:
    said = jwt.decode(token_of(tenant, "ann"), options={"verify_signature": False})
    assert set(said) == {"iss", "sub", "project", "key", "thread", "actions", "iat", "issued", "anonymous", "exp"}
    assert said["exp"] <= time.time() + 3600
    assert tenant.key not in str(said)


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "user"), ({"user": ""}, "user"), ({"user": "ann", "expires_in": 86_401}, "expires_in"),
     ({"user": "ann", "thread": "x"}, "thread"), ({"user": "ann", "actions": ["admin"]}, "actions.0")],
)  # fmt: skip
def test_wrong_field_of_a_token_is_named(tenant: Tenant, body: dict[str, Any], param: str) -> None:
    answer = tenant.http.post("/user_tokens", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_page_of_a_project_streams_from_its_browser_and_pages_of_others_see_nothing(tenant: Tenant) -> None:
    tenant.http.patch(f"/admin/projects/{tenant.id}", json={"origins": [PAGE]})
    other = Tenant(tenant.service)
    other.http.patch(f"/admin/projects/{other.id}", json={"origins": ["https://other.example"]})
    url = f"{tenant.service.url}/v1/threads"
    wants = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}

    def preflight() -> httpx2.Response:
        return httpx2.request("OPTIONS", url, headers={"Origin": PAGE, **wants})

    eventually(lambda: "access-control-allow-origin" in preflight().headers, 5)
    allowed = preflight()
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert allowed.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in allowed.headers
    for stranger in ("https://evil.example", f"{PAGE}.evil.example", "https://sub.app.example", "http://app.example",
                     f"{PAGE}:8443", "null", PAGE.upper()):  # fmt: skip
        refused = httpx2.request("OPTIONS", url, headers={"Origin": stranger, **wants})
        assert "access-control-allow-origin" not in refused.headers, stranger
        assert refused.headers["vary"] == "Origin"
    ann = browser(tenant, "ann")
    body = {"input": "Hi", "stream": True}
    with ann.stream("POST", "/responses", json=body, headers={"Origin": PAGE}) as answer:
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert b"response.completed" in answer.read()
    assert ann.get("/threads/x", headers={"Origin": PAGE}).headers["access-control-allow-origin"] == PAGE
    # One that another project lists gets past the preflight, and sees nothing of this one.
    shown = ann.get("/threads", headers={"Origin": "https://other.example"})
    assert "access-control-allow-origin" not in shown.headers
    # A page is told that its token has ended.
    ended = httpx2.get(url, headers={"Authorization": "Bearer a.b.c", "Origin": PAGE})
    assert (ended.status_code, ended.headers["access-control-allow-origin"]) == (401, PAGE)
    assert "access-control-allow-origin" not in ann.get("/threads").headers


def test_preflight_without_an_origin_is_an_ordinary_request(service: Service) -> None:
    answer = httpx2.request("OPTIONS", f"{service.url}/v1/threads")
    assert "POST" in answer.headers["allow"]

"""The reason why a turn is new, chained or rebuilt: decided once, stored, and shown to keys."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
import redis

import app
from app.chain.continuation import Continuation, ContinuationReason
from tests.databases import query
from tests.service import Emulator, Service, eventually
from tests.tenants import Tenant
from tests.test_user_tokens import token_of

TOOL = [{"type": "function", "name": "mul", "parameters": {}}]
LONG = "word " * 3000
SOON = [{"type": "compaction", "compact_threshold": 1}]


@pytest.fixture(scope="module")
def reasons(service_env: dict[str, str]) -> Iterator[Service]:
    """A service with a window of 16,000 tokens, which may call accounts in its own network."""
    service = Service(
        env={
            **service_env,
            "EVERTHREAD_ACCOUNTS_INSIDE": "true",
            "EVERTHREAD_CONTEXT_WINDOW_TOKENS": "16000",
            "EVERTHREAD_PROVIDER_ATTEMPTS": "2",
        }
    )
    yield service
    assert service.stop() == 0


@pytest.fixture
def tenant(reasons: Service, emulator: Emulator) -> Tenant:
    """A project with an account of its own, of which nothing has been observed."""
    tenant = Tenant(reasons)
    tenant.account("a", emulator.base_url, f"sk-{uuid4().hex}")
    return tenant


def why(tenant: Tenant, thread: str, last: int = 0) -> list[str | None]:
    """Return the reasons of a thread's turns; each is that of its continuation, and its last call has the same."""
    links = tenant.http.get(f"/threads/{thread}/chain", params={"limit": 100}).json()["data"]
    for link in links[-last:]:
        reason, turn = link["continuation_reason"], tenant.http.get(f"/threads/{thread}/turns/{link['id']}").json()
        assert (turn["continuation"], turn["continuation_reason"]) == (link["continuation"], reason)
        calls = tenant.calls(thread, link["id"])
        assert [call["continuation_reason"] for call in calls][-1:] == ([] if reason is None else [reason])
        for each in (turn, *calls):
            if each["continuation_reason"] is not None:
                assert ContinuationReason(each["continuation_reason"]).continuation == each["continuation"]
    return [link["continuation_reason"] for link in links]


def calls_of(tenant: Tenant, thread: str) -> list[tuple[str, str]]:
    """Return the continuation and the reason of each call of a thread's last turn."""
    last = tenant.http.get(f"/threads/{thread}/turns", params={"limit": 1}).json()["data"][0]
    return [(call["continuation"], call["continuation_reason"]) for call in tenant.calls(thread, last["id"])]


def said(tenant: Tenant, thread: str, items: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """Return a turn with these input items."""
    return answered(tenant.http.post(f"/threads/{thread}/turns", json={"input": items, **fields}))


def answered(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.status_code in (200, 201), answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def test_a_first_turn_a_live_id_and_what_the_request_itself_rules_out(tenant: Tenant, emulator: Emulator) -> None:
    thread = tenant.thread()
    first = tenant.http.post(f"/threads/{thread}/turns", json={"input": "My name is Ada."})
    assert first.headers["Everthread-Continuation-Reason"] == "first_turn"
    assert answered(first)["continuation_reason"] == "first_turn"
    with tenant.http.stream("POST", f"/threads/{thread}/turns", json={"input": "Hi", "stream": True}) as streamed:
        assert streamed.headers["Everthread-Continuation-Reason"] == "live_response_id"
        streamed.read()
    tenant.turn(thread, "Hi", model="qwen-plus")
    system = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    said(tenant, thread, system, model="qwen-plus")
    tenant.turn(thread, "Use mul", tools=TOOL, model="qwen-plus")
    tenant.turn(thread, "Never mind.", model="qwen-plus", tools=TOOL)
    call = tenant.turn(thread, "Use mul", tools=TOOL, model="qwen-plus")["output"][0]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
    said(tenant, thread, [output], tools=TOOL, model="qwen-plus")  # It calls the tool again.
    emulator.fault("output", output=[], times=1)
    tenant.turn(thread, "Say nothing", model="qwen-plus")
    where = {"conversation": thread.replace("thread_", "conv_"), "model": "qwen-plus"}
    empty = tenant.http.post("/responses", json=where)
    assert empty.status_code == 200, empty.text
    assert empty.headers["Everthread-Continuation-Reason"] == "no_input"
    assert "continuation_reason" not in answered(empty)
    assert why(tenant, thread) == [
        "first_turn", "live_response_id", "other_model", "system_message", "live_response_id",
        "tool_outputs_unmatched", "live_response_id", "tool_outputs_unsupported", "tool_outputs_unmatched", "no_input",
    ]  # fmt: skip
    edited = answered(
        tenant.http.post(f"/threads/{thread}/turns", json={"input": "Me?", "replaces": answered(first)["id"]})
    )
    assert (edited["continuation"], edited["continuation_reason"]) == ("new", "first_turn")


def test_a_turn_before_that_the_provider_has_no_response_of(tenant: Tenant, emulator: Emulator) -> None:
    thread = answered(tenant.http.post("/threads", json={"messages": [{"role": "user", "content": "My name is Ada."}]}))
    added = thread["id"]
    tenant.turn(added, "What is my name?", store=False)
    kept = tenant.turn(added, "Hi")
    emulator.fault("status", status=400, code="InvalidParameter", message="temperature is wrong", times=1)
    failed = tenant.http.post(f"/threads/{added}/turns", json={"input": "Hi"})
    assert failed.headers["Everthread-Continuation-Reason"] == "live_response_id"
    tenant.turn(added, "Hi", parent_id=failed.headers["Everthread-Turn"])
    assert why(tenant, added) == [None, "items_added", "no_response_id", "live_response_id", "parent_unfinished"]
    assert tenant.turn(added, "Hi", parent_id=kept["id"])["continuation_reason"] == "live_response_id"
    # Imported turns keep their reasons, and have no live id.
    record = answered(tenant.http.get(f"/threads/{added}/export"))
    tenant.http.delete(f"/threads/{added}").raise_for_status()
    wrong = {**record, "turns": [*record["turns"][:-1], {**record["turns"][-1], "continuation_reason": "failover"}]}
    assert tenant.http.post("/threads/import", json=wrong).status_code == 400
    answered(tenant.http.post("/threads/import", json=record))
    tenant.turn(added, "Hi")
    assert why(tenant, added, 1) == [None, "items_added", "no_response_id", "live_response_id", "no_response_id"]


def test_an_id_that_is_given_up_says_for_what(tenant: Tenant, emulator: Emulator, database_url: str) -> None:
    threads = {name: tenant.thread() for name in ("unknown", "item", "turn", "compacted", "dropped", "later")}
    firsts = {name: tenant.turn(thread, "My name is Ada.") for name, thread in threads.items()}
    seconds = {name: tenant.turn(thread, "Hello") for name, thread in threads.items()}
    fork = answered(tenant.http.post(f"/threads/{threads['item']}/fork"))["id"]
    item = firsts["item"]["output"][0]["id"]
    tenant.http.delete(f"/conversations/{threads['item'].replace('thread_', 'conv_')}/items/{item}").raise_for_status()
    deleted = firsts["turn"]["id"].replace("turn_", "resp_")
    tenant.http.delete(f"/responses/{deleted}").raise_for_status()
    answered(tenant.http.post(f"/threads/{threads['compacted']}/compact", json={"keep_turns": 0}))
    for name, reason in (("dropped", "NULL"), ("later", "'a_reason_of_a_later_release'")):
        of_turn = f"id = '{seconds[name]['id'].removeprefix('turn_')}'"
        query(
            database_url,
            f"UPDATE turns SET response_unknown_at = now(), response_unknown_reason = {reason} WHERE {of_turn}",
        )
    emulator.forget()
    for thread in (*threads.values(), fork):
        tenant.turn(thread, "What is my name?")
    assert {name: why(tenant, thread, 1)[-1] for name, thread in threads.items()} == {
        "unknown": "response_id_unknown", "item": "history_changed", "turn": "history_changed",
        "compacted": "compacted", "dropped": "response_id_dropped", "later": "response_id_dropped",
    }  # fmt: skip
    assert why(tenant, fork)[-1] == "history_changed"
    assert calls_of(tenant, threads["unknown"]) == [("chained", "live_response_id"), ("rebuilt", "response_id_unknown")]
    # On another branch it is known before any call.
    tenant.turn(threads["unknown"], "And now?", parent_id=seconds["unknown"]["id"])
    assert calls_of(tenant, threads["unknown"]) == [("rebuilt", "response_id_unknown")]


def test_an_id_that_expires_and_one_that_a_summary_replaces(
    tenant: Tenant, emulator: Emulator, database_url: str, redis_url: str
) -> None:
    thread = tenant.thread()
    turn = tenant.turn(thread, "My name is Ada.")
    soon = "UPDATE turns SET response_expires_at = now() + interval '1 minute'"
    query(database_url, f"{soon} WHERE id = '{turn['id'].removeprefix('turn_')}'")
    with redis.Redis.from_url(redis_url) as cache:
        eventually(lambda: bool(list(cache.scan_iter(f"everthread:*:live:{thread.removeprefix('thread_')}"))))
        cache.delete(*cache.scan_iter(f"everthread:*:live:{thread.removeprefix('thread_')}"))
    tenant.turn(thread, "Hello")
    tenant.turn(thread, LONG, context_management=SOON)
    path = f"/threads/{thread}/compactions"
    eventually(lambda: [each["status"] for each in tenant.http.get(path).json()["data"]] == ["ready"])
    tenant.turn(thread, "What is my name?", context_management=SOON)
    assert why(tenant, thread) == ["first_turn", "response_id_expired", "live_response_id", "compacted"]


def test_a_chain_that_is_too_long_or_that_the_provider_cuts_or_refuses(tenant: Tenant, emulator: Emulator) -> None:
    full = tenant.thread()
    for _ in range(5):
        tenant.turn(full, LONG)
    assert why(tenant, full)[:3] == ["first_turn", "live_response_id", "live_response_id"]
    assert "window_full" in why(tenant, full)

    cut = tenant.thread()
    tenant.turn(cut, 3 * LONG)
    body = {
        "id": f"resp_{uuid4()}", "object": "response", "status": "completed", "model": "qwen3.5-plus",
        "output": [{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": "Hi", "annotations": []}]}],
        "usage": {"input_tokens": 7000, "output_tokens": 1, "total_tokens": 7001},
    }  # fmt: skip
    emulator.fault("answer", body=json.dumps(body), times=1)
    assert tenant.turn(cut, "Hi")["context"]["cut_by_provider"] is True
    tenant.turn(cut, "Hi")
    assert why(tenant, cut) == ["first_turn", "live_response_id", "provider_cut_history"]

    refused = tenant.thread()
    tenant.turn(refused, "My name is Ada.")
    emulator.fault("status", status=400, code="InvalidParameter", message="Invalid input: an image is broken.", times=2)
    tenant.turn(refused, "Hi")
    assert calls_of(tenant, refused)[:2] == [("chained", "live_response_id"), ("rebuilt", "chain_refused")]
    # Less of the history is sent for the same reason.
    assert set(calls_of(tenant, refused)[1:]) == {("rebuilt", "chain_refused")}

    long = tenant.thread()
    for number in range(4):
        tenant.turn(long, f"Echo: {number} " + "word " * 200)
    message = "Range of input length should be [1, 700]"
    emulator.fault("status", status=400, code="InvalidParameter", message=message, times=1)
    tenant.turn(long, "Hi")
    assert calls_of(tenant, long) == [("chained", "live_response_id"), ("rebuilt", "chain_too_long")]


def test_an_account_that_is_gone_or_fails(tenant: Tenant, emulator: Emulator) -> None:
    thread = tenant.thread()
    tenant.turn(thread, "My name is Ada.")
    accounts = f"/admin/projects/{tenant.id}/accounts"
    (first,) = tenant.http.get(accounts).json()["data"]
    tenant.account("b", emulator.base_url, f"sk-{uuid4().hex}")
    tenant.account("c", emulator.base_url, f"sk-{uuid4().hex}")
    tenant.http.delete(f"{accounts}/{first['id']}").raise_for_status()
    eventually(lambda: tenant.turn(tenant.thread(), "Hi")["account"] != first["name"])
    tenant.turn(thread, "Hi")
    emulator.fault("status", status=429, times=2)
    tenant.turn(thread, "What is my name?")
    assert why(tenant, thread) == ["first_turn", "other_account", "failover"]
    assert calls_of(tenant, thread) == [("chained", "live_response_id")] * 2 + [("rebuilt", "failover")]
    # A turn that is new, or rebuilt for another reason, stays so at the other account.
    emulator.fault("status", status=429, times=2)
    new = tenant.thread()
    tenant.turn(new, "Hi", model="qwen-flash")
    assert calls_of(tenant, new) == [("new", "first_turn")] * 3


def test_a_user_token_does_not_learn_the_reason(tenant: Tenant) -> None:
    token = token_of(tenant, "ann")
    thread = answered(tenant.http.post("/threads", json={"user": "ann"}))["id"]
    headers = {"Authorization": f"Bearer {token}"}
    made = tenant.http.post(f"/threads/{thread}/turns", json={"input": "Hi"}, headers=headers)
    assert made.headers["Everthread-Continuation"] == answered(made)["continuation"] == "new"
    for answer in (made, tenant.http.get(f"/threads/{thread}/turns", headers=headers)):
        assert "reason" not in " ".join(answer.headers)
        assert "first_turn" not in answer.text
    assert answered(made)["continuation_reason"] is None
    assert tenant.http.get(f"/threads/{thread}/chain", headers=headers).status_code == 403
    assert why(tenant, thread) == ["first_turn"]


def test_the_links_of_all_branches_have_no_contents_but_a_preview(tenant: Tenant) -> None:
    thread = tenant.thread()
    first = tenant.turn(thread, "x" * 500)
    for text in ("y" * 30_000, "Left"):
        tenant.turn(thread, text, parent_id=first["id"])
    path, other = f"/threads/{thread}/chain", Tenant(tenant.service)
    page = answered(tenant.http.get(path, params={"all_branches": True, "limit": 2}))
    assert [(link["number"], link["preview"]) for link in page["data"]] == [(1, "x" * 100), (2, None)]
    rest = answered(tenant.http.get(path, params={"all_branches": True, "after": page["last_id"]}))
    assert [(link["number"], link["parent_id"], link["preview"]) for link in rest["data"]] == [(3, first["id"], "Left")]
    assert not rest["has_more"]
    branch = answered(tenant.http.get(path))
    assert [link["number"] for link in branch["data"]] == [1, 3]
    assert "preview" not in branch["data"][0]
    both = tenant.http.get(path, params={"all_branches": True, "until": first["id"]})
    assert (both.status_code, both.json()["error"]["param"]) == (400, "until")
    assert other.http.get(path, params={"all_branches": True}).status_code == 404
    wrong = tenant.http.get(path, params={"all_branches": True, "after": "turn_x"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_cursor")


def test_the_documentation_explains_each_reason(reasons: Service) -> None:
    docs = (Path(app.__file__).parents[1] / "docs" / "history.md").read_text()
    assert [reason for reason in ContinuationReason if f"| `{reason}` |" not in docs] == []
    schemas = reasons.http.get(f"{reasons.url}/openapi.json").json()["components"]["schemas"]
    assert schemas["ContinuationReason"]["enum"] == [reason.value for reason in ContinuationReason]
    assert {reason.continuation for reason in ContinuationReason} == set(Continuation)

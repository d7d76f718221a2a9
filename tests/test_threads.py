"""Named threads: made, found, listed, changed and deleted."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.projects import keys
from tests.service import Emulator, Process, Service, eventually


def unique() -> str:
    return uuid4().hex


def all_ids(service: Service, **query: Any) -> list[str]:
    """Every id that paging through a list gives."""
    found: list[str] = []
    while True:
        page = service.http.get("/threads", params=query).raise_for_status().json()
        found += [thread["id"] for thread in page["data"]]
        if not page["has_more"]:
            return found
        query["after"] = page["last_id"]


def test_a_thread_is_found_by_its_id_and_by_its_name(service: Service) -> None:
    name = unique()
    made = service.http.post("/threads", json={"name": name, "title": "A talk", "user": "u1", "metadata": {"k": "v"}})
    assert made.status_code == 201
    thread = made.json()
    assert thread | {"name": name, "title": "A talk", "user": "u1", "metadata": {"k": "v"}, "turn_count": 0} == thread
    assert service.http.get(f"/threads/{thread['id']}").json() == thread
    assert service.http.get(f"/threads/by-name/{name}").json() == thread
    assert service.http.get(f"/threads/{thread['id'].replace('thread_', 'conv_')}").json() == thread


def test_a_name_may_hold_any_script_and_signs(service: Service) -> None:
    for name in (f"客服 {unique()}", f"a?b#c%d&{unique()}", f"é+ {unique()}"):
        assert service.http.put(f"/threads/by-name/{_quoted(name)}").json()["name"] == name
        assert service.http.get(f"/threads/by-name/{_quoted(name)}").json()["name"] == name


def test_two_at_once_who_get_or_create_a_name_get_the_same_thread(service: Service) -> None:
    for _ in range(5):
        name = unique()
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: service.http.put(f"/threads/by-name/{name}"), range(16)))  # noqa: B023
        assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
        assert len({answer.json()["id"] for answer in answers}) == 1


def test_a_name_belongs_to_one_thread(service: Service) -> None:
    name = unique()
    service.thread(name=name)
    for answer in (
        service.http.post("/threads", json={"name": name}),
        service.http.patch(f"/threads/{service.thread()}", json={"name": name}),
    ):
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "name_taken"
        assert answer.json()["error"]["param"] == "name"


def test_patch_changes_what_it_names_and_null_clears(service: Service) -> None:
    thread = service.thread(name=unique(), title="old", user="u", metadata={"a": "1", "b": "2"})
    patched = service.http.patch(f"/threads/{thread}", json={"title": "new", "metadata": {"c": "3"}}).json()
    assert (patched["title"], patched["metadata"], patched["user"]) == ("new", {"c": "3"}, "u")
    patched = service.http.patch(f"/threads/{thread}", json={"title": None, "name": None, "metadata": None}).json()
    assert (patched["title"], patched["name"], patched["metadata"]) == (None, None, {})


def test_an_archived_thread_is_listed_apart_and_can_come_back(service: Service) -> None:
    user = unique()
    thread, other = service.thread(user=user), service.thread(user=user)
    assert service.http.patch(f"/threads/{thread}", json={"archived": True}).json()["archived"] is True
    assert all_ids(service, user=user, archived="true") == [thread]
    assert all_ids(service, user=user, archived="false") == [other]
    service.http.patch(f"/threads/{thread}", json={"archived": False})
    assert all_ids(service, user=user, archived="true") == []


def test_a_deleted_thread_is_gone_with_its_turns(service: Service) -> None:
    thread = service.thread(name=(name := unique()))
    service.turn(thread, "Hello")
    assert service.http.delete(f"/threads/{thread}").json() == {
        "id": thread, "object": "thread.deleted", "deleted": True,
    }  # fmt: skip
    for path in ("", "/turns", "/messages", "/chain"):
        assert service.http.get(f"/threads/{thread}{path}").status_code == 404
    assert service.http.delete(f"/threads/{thread}").status_code == 404
    assert service.http.put(f"/threads/by-name/{name}").status_code == 201


def test_lists_are_filtered_by_user_name_metadata_and_time(service: Service) -> None:
    mark = unique()
    one = service.thread(user=mark, name=f"{mark}-a", metadata={"tier": "gold", "m": mark})
    two = service.thread(user=mark, name=f"{mark}-b_", metadata={"tier": "basic", "m": mark})
    assert all_ids(service, user=mark) == [two, one]
    assert all_ids(service, user=mark, order="asc") == [one, two]
    assert all_ids(service, name=f"{mark}-a") == [one]
    assert all_ids(service, name=f"{mark}-_") == []
    assert all_ids(service, **{"metadata[m]": mark, "metadata[tier]": "gold"}) == [one]
    now = service.http.get(f"/threads/{one}").json()["updated_at"]
    assert all_ids(service, user=mark, updated_after=now - 60, created_before=now + 60) == [two, one]
    assert all_ids(service, user=mark, updated_before=now - 60) == []
    assert all_ids(service, user=mark, created_after=now + 60) == []


def test_lists_and_counts_are_filtered_by_whether_a_turn_is_in_progress(service: Service, emulator: Emulator) -> None:
    user = unique()
    idle, busy = service.thread(user=user), service.thread(user=user)
    emulator.fault("slow", seconds=0.3)
    body = {"input": f"Echo: {'so ' * 200}", "background": True}
    turn = service.http.post(f"/threads/{busy}/turns", json=body).json()["id"]
    assert all_ids(service, user=user, status="busy") == [busy]
    assert all_ids(service, user=user, status="busy", order_by="activity") == [busy]
    assert all_ids(service, user=user, status="idle") == [idle]
    assert service.http.get("/threads/count", params={"user": user, "status": "busy"}).json()["count"] == 1
    service.http.post(f"/threads/{busy}/turns/{turn}/cancel")
    eventually(lambda: all_ids(service, user=user, status="busy") == [])
    refused = service.http.get("/threads", params={"status": "running"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "status"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 12), st.integers(1, 5), st.sampled_from(["asc", "desc"]), st.data())
def test_pages_neither_skip_nor_repeat_while_threads_are_touched_and_deleted(
    service: Service, count: int, limit: int, order: str, data: st.DataObject
) -> None:
    user = unique()
    made = [service.thread(user=user) for _ in range(count)]
    expected = made if order == "asc" else made[::-1]
    found: list[str] = []
    deleted: set[str] = set()
    after: dict[str, str] = {}
    while True:
        page = service.http.get("/threads", params={"user": user, "limit": limit, "order": order, **after}).json()
        found += [thread["id"] for thread in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
        touched = data.draw(st.sampled_from(made))
        service.http.patch(f"/threads/{touched}", json={"title": "touched"})
        if data.draw(st.booleans()):
            service.http.delete(f"/threads/{page['last_id']}")
            deleted.add(page["last_id"])
    assert found == expected
    left = [id_ for id_ in expected if id_ not in deleted]
    if len(left) > 1:
        before = service.http.get("/threads", params={"user": user, "order": order, "before": left[-1]}).json()
        assert [thread["id"] for thread in before["data"]] == left[:-1][-20:]


def test_another_project_sees_nothing_of_a_thread(service: Service, service_env: dict[str, str]) -> None:
    name = unique()
    thread = service.thread(name=name)
    turn = service.turn(thread, "A secret")["id"]
    made = Process("keys", "create", "--project", unique(), env=service_env).wait_for("API key: ")
    stranger = {"Authorization": f"Bearer {made.rpartition(' ')[2]}"}
    for method, path in (
        ("GET", f"/threads/{thread}"), ("PATCH", f"/threads/{thread}"), ("DELETE", f"/threads/{thread}"),
        ("GET", f"/threads/by-name/{name}"), ("GET", f"/threads/{thread}/turns"), ("POST", f"/threads/{thread}/turns"),
        ("GET", f"/threads/{thread}/turns/{turn}"), ("GET", f"/threads/{thread}/messages"),
        ("GET", f"/threads/{thread}/chain"),
    ):  # fmt: skip
        body = {"input": "Hello"} if method == "POST" else {"title": "mine"} if method == "PATCH" else None
        answer = service.http.request(method, path, headers=stranger, json=body)
        assert answer.status_code == 404, (method, path)
    assert service.http.get("/threads", headers=stranger).json()["data"] == []
    assert service.http.put(f"/threads/by-name/{name}", headers=stranger).json()["id"] != thread


@pytest.mark.parametrize("authorization", [None, "Bearer", "Bearer et_wrong", "Basic abc", "et_wrong"])
def test_no_route_answers_without_a_good_key(service: Service, authorization: str | None) -> None:
    headers = {"Authorization": authorization or ""}
    for method, path in (("GET", "/threads"), ("POST", "/threads"), ("POST", "/threads/thread_x/turns")):
        answer = service.http.request(method, path, headers=headers, json={})
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"


def test_a_revoked_key_is_refused(service_env: dict[str, str], service: Service) -> None:
    made = Process("keys", "create", "--name", "short", env=service_env).wait_for("API key: ").rpartition(" ")[2]
    headers = {"Authorization": f"Bearer {made}"}
    listed = Process("keys", "list", env={**service_env, "COLUMNS": "250"})
    line = listed.wait_for(keys.hint(made))
    assert made not in "\n".join(listed.lines)
    key_id = next(word for word in line.split() if word.startswith("key_"))
    assert "revoked" in Process("keys", "revoke", key_id, env=service_env).wait_for("revoked")
    assert service.http.get("/threads", headers=headers).status_code == 401


def _quoted(name: str) -> str:
    return quote(name, safe="")

"""Reading what holds have kept: everything that was deleted or overwritten, in its order, for the scope audit alone."""

import base64
import json
from typing import Any

import httpx2
import pytest

from app.items.shapes import text_of
from tests.service import Service
from tests.tenants import Tenant
from tests.test_user_tokens import browser, code_of

IMAGE = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 200).decode()


class Held:
    """A project under a hold, changed with a key that does not notice it, and read with one of the scope audit."""

    def __init__(self, service: Service) -> None:
        self.tenant = Tenant(service)
        self.ordinary = self.client(["read", "write"])
        self.hold = self.placed(project=True)

    def client(self, scopes: list[str]) -> httpx2.Client:
        place = f"/admin/projects/{self.tenant.id}/keys"
        key = self.tenant.service.http.post(place, json={"name": "one", "scopes": scopes}).json()["key"]
        headers = {"Authorization": f"Bearer {key}"}
        return httpx2.Client(base_url=f"{self.tenant.service.url}/v1", headers=headers, timeout=60)

    def placed(self, **target: Any) -> str:
        answer = self.tenant.http.post("/holds", json={**target, "reason": "A case"})
        assert answer.status_code == 201, answer.text
        made: str = answer.json()["id"]
        return made

    def contents(self, thread: str, **params: Any) -> list[dict[str, Any]]:
        """Return all of a thread's kept contents, read in pages."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.tenant.http.get(f"/threads/{thread}/held", params=params)
            assert page.status_code == 200, page.text
            found += page.json()["data"]
            if not page.json()["has_more"]:
                return found
            params = {**params, "after": page.json()["last_id"]}


@pytest.fixture
def held(service: Service) -> Held:
    return Held(service)


def texts(contents: list[dict[str, Any]]) -> list[str]:
    """Return the texts of the messages among kept contents."""
    return [text_of(each["content"]["item"]) for each in contents if each["kind"] == "item"]


def test_a_deleted_thread_is_read_whole_and_in_its_order(held: Held) -> None:
    fields = {"user": "ann", "title": "First", "metadata": {"case": "7"}}
    thread = held.ordinary.post("/threads", json=fields).json()["id"]
    for text in ("Echo: one", "Echo: two", "Echo: three"):
        assert held.ordinary.post(f"/threads/{thread}/turns", json={"input": text}).status_code == 200
    held.ordinary.patch(f"/threads/{thread}", json={"title": "Second"})
    turns = [
        turn["id"] for turn in held.ordinary.get(f"/threads/{thread}/turns", params={"order": "asc"}).json()["data"]
    ]
    held.ordinary.post(f"/threads/{thread}/turns/{turns[0]}/feedback", json={"score": 1, "comment": "Good"})
    assert held.ordinary.delete(f"/threads/{thread}").status_code == 200
    assert held.ordinary.get(f"/threads/{thread}").status_code == 404
    kept = held.contents(thread)
    titles = [(each["content"]["title"], each["content"]["metadata"]) for each in kept if each["kind"] == "thread"]
    assert titles == [("First", {"case": "7"}), ("Second", {"case": "7"})]
    assert texts(kept) == ["Echo: one", "one", "Echo: two", "two", "Echo: three", "three"]
    assert [each["turn_id"] for each in kept if each["kind"] == "turn"] == turns
    assert [each["content"]["model"] for each in kept if each["kind"] == "turn"] == ["qwen3.5-plus"] * 3
    assert [each["content"]["comment"] for each in kept if each["kind"] == "feedback"] == ["Good"]
    assert [each["kind"] for each in kept[:3]] == ["thread", "thread", "turn"]
    assert [each["content"]["attempt"] for each in kept if each["kind"] == "call"] == [1, 1, 1]
    assert {each["user"] for each in kept} == {"ann"}
    assert {each["thread_id"] for each in kept} == {thread}
    assert {each["kept_until"] for each in kept} == {None}
    one_by_one = held.contents(thread, limit=1)
    assert one_by_one == kept


def test_what_is_not_deleted_is_read_by_the_ordinary_routes(held: Held) -> None:
    thread = held.ordinary.post("/threads", json={"name": held.hold}).json()["id"]
    assert held.contents(thread) == []
    assert held.tenant.http.get(f"/threads/by-name/{held.hold}/held").json()["data"] == []
    turn = held.ordinary.post(f"/threads/{thread}/turns", json={"input": "Echo: one"}).json()
    conversation, item = thread.replace("thread_", "conv_"), turn["output"][0]["id"]
    assert held.ordinary.delete(f"/conversations/{conversation}/items/{item}").status_code == 200
    assert texts(held.contents(thread)) == ["one"]
    assert held.ordinary.delete(f"/responses/{turn['id'].replace('turn_', 'resp_')}").status_code == 200
    assert texts(held.contents(thread)) == ["one", "Echo: one"]
    assert held.tenant.http.get(f"/threads/by-name/{held.hold}/held").json()["data"] == held.contents(thread)


def test_kept_items_have_their_media(held: Held) -> None:
    thread = held.ordinary.post("/threads").json()["id"]
    said = [{"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]}]
    assert held.ordinary.post(f"/threads/{thread}/turns", json={"input": said}).status_code == 200
    shown = held.ordinary.get(f"/threads/{thread}/messages").json()["data"][0]["content"]
    assert shown[0]["image_url"] == IMAGE
    held.ordinary.delete(f"/threads/{thread}")
    (item, _) = [each for each in held.contents(thread) if each["kind"] == "item"]
    assert item["content"]["item"]["content"] == shown


def test_a_page_is_bounded_in_bytes(held: Held) -> None:
    thread = held.ordinary.post("/threads").json()["id"]
    conversation = thread.replace("thread_", "conv_")
    for number in range(18):
        picture = {"type": "input_image", "image_url": "data:image/png;base64," + f"{number:04}" * 247_000}
        said = [{"role": "user", "content": [picture]}]
        assert held.ordinary.post(f"/conversations/{conversation}/items", json={"items": said}).status_code == 200
    held.ordinary.delete(f"/threads/{thread}")
    page = held.tenant.http.get(f"/threads/{thread}/held", params={"limit": 100})
    assert len(page.content) < 17_000_000
    assert page.json()["has_more"]
    assert len([each for each in held.contents(thread, limit=100) if each["kind"] == "item"]) == 18


def test_threads_and_contents_of_a_hold_are_listed_and_exported(held: Held) -> None:
    of_ann = held.placed(user="ann")
    threads = [
        held.ordinary.post("/threads", json={"user": user, "messages": [{"role": "user", "content": user}]}).json()[
            "id"
        ]
        for user in ("ann", "bob", "ann", "bob")
    ]
    of_thread = held.placed(thread_id=threads[1])
    for thread in threads[:3]:
        held.ordinary.delete(f"/threads/{thread}")
    held.ordinary.patch(f"/threads/{threads[3]}", json={"title": "Changed"})

    def listed(hold: str) -> set[tuple[str, str, bool]]:
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {"limit": 1}
        while True:
            page = held.tenant.http.get(f"/holds/{hold}/contents", params=params).json()
            found += page["data"]
            if not page["has_more"]:
                return {(each["id"], each["user"], each["exists"]) for each in found}
            params = {"limit": 1, "after": page["last_id"]}

    mine = [
        (threads[0], "ann", False),
        (threads[1], "bob", False),
        (threads[2], "ann", False),
        (threads[3], "bob", True),
    ]
    assert listed(held.hold) == set(mine)
    assert listed(of_ann) == {mine[0], mine[2]}
    assert listed(of_thread) == {mine[1]}
    lines = held.tenant.http.get(f"/holds/{held.hold}/export")
    assert lines.headers["content-type"] == "application/x-ndjson"
    exported = [json.loads(line) for line in lines.text.splitlines()]
    assert sorted(texts(exported)) == ["ann", "ann", "bob"]
    one = held.tenant.http.get(f"/holds/{of_thread}/export").text.splitlines()
    assert [json.loads(line) for line in one] == held.contents(threads[1])


def test_nobody_else_reads_what_is_held(held: Held, service: Service) -> None:
    thread = held.ordinary.post("/threads", json={"user": "ann"}).json()["id"]
    held.ordinary.delete(f"/threads/{thread}")
    paths = [f"/threads/{thread}/held", f"/holds/{held.hold}/contents", f"/holds/{held.hold}/export"]
    for path in paths:
        refused = held.client(["read", "write", "admin"]).get(path)
        assert (refused.status_code, code_of(refused)) == (403, "missing_scope")
        refused = browser(held.tenant, "ann").get(path)
        assert (refused.status_code, code_of(refused)) == (403, "not_for_users")
        assert held.tenant.http.get(path).status_code == 200
        assert Tenant(service).http.get(path).status_code == 404
    refused = held.tenant.http.get(paths[0], params={"after": "held_" + "0" * 32})
    assert (refused.status_code, code_of(refused)) == (400, "invalid_cursor")

"""Features for chat apps beside turns: a stream for several devices, lists, titles, feedback, links."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.databases import query
from tests.projects import Project
from tests.service import Emulator, Service, eventually


class Device:
    """Somebody who follows a thread."""

    def __init__(self, service: Service, thread: str, after: str | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.ended = threading.Event()
        self._headers = {"Authorization": f"Bearer {service.key}", **({"Last-Event-ID": after} if after else {})}
        self._url = f"{service.url}/v1/threads/{thread}/events"
        self._left = False
        self.open = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        assert self.open.wait(10)

    def _follow(self) -> None:
        with httpx2.Client(timeout=60) as client, client.stream("GET", self._url, headers=self._headers) as answer:
            assert answer.status_code == 200
            self.open.set()
            id_ = ""
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    id_ = line[4:]
                elif line.startswith("data: "):
                    self.events.append(json.loads(line[6:]))
                    self.ids.append(id_)
                    if self._left:
                        return
        self.ended.set()

    def leave(self) -> None:
        self._left = True

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def titles(self) -> list[str | None]:
        return [event["thread"]["title"] for event in self.events if event["type"] == "thread.updated"]

    def said(self) -> dict[str, str]:
        """Return the text of each turn, put together from its deltas."""
        found: dict[str, str] = {}
        for event in self.events:
            if event["type"] == "response.output_text.delta":
                found[event["turn_id"]] = found.get(event["turn_id"], "") + event["delta"]
        return found


@contextmanager
def two_services(env: dict[str, str]) -> Iterator[Service]:
    other = Service(env=env)
    try:
        yield other
    finally:
        other.stop()


def test_every_device_sees_every_turn_as_it_speaks_whichever_worker_it_is_asked_of(
    service: Service, service_env: dict[str, str], emulator: Emulator
) -> None:
    thread = service.thread()
    with two_services(service_env) as other:
        here, there = Device(service, thread), Device(other, thread)
        streamed = service.stream(thread, "Echo: one two three")[-1]["response"]["id"].replace("resp_", "turn_")
        plain = other.turn(thread, "Echo: plain")["id"]
        service.http.patch(f"/threads/{thread}", json={"title": "A talk"})
        for device in (here, there):
            eventually(lambda device=device: device.kinds().count("response.completed") == 2)  # type: ignore[misc]
            eventually(lambda device=device: device.titles()[-1:] == ["A talk"])  # type: ignore[misc]
            assert device.said() == {streamed: "one two three", plain: "plain"}
            created = [event["turn"] for event in device.events if event["type"] == "thread.turn.created"]
            assert [turn["id"] for turn in created] == [streamed, plain]
            assert created[0]["input"][0]["content"] == "Echo: one two three"
        service.http.delete(f"/threads/{thread}")
        for device in (here, there):
            assert device.ended.wait(10)
            assert device.kinds()[-1] == "thread.deleted"


def test_a_device_that_comes_back_goes_on_where_it_was_in_every_turn(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    first = service.turn(thread, "Echo: before")["id"]
    device = Device(service, thread)
    emulator.fault("slow", seconds_per_event=0.15, times=2)
    left = threading.Thread(target=service.stream, args=(thread, "Echo: left and more and more words"))
    beside = threading.Thread(
        target=service.stream,
        args=(thread, "Echo: right and more and more"),
        kwargs={"parent_id": first, "if_busy": "beside"},
    )
    left.start()
    emulator.is_asked()
    beside.start()
    eventually(lambda: len(device.said()) == 2)
    device.leave()
    for each in (left, beside):
        each.join()
    seen, place = device.events, device.ids[-1]
    again = Device(service, thread, after=place)
    eventually(lambda: (device.kinds() + again.kinds()).count("response.completed") == 2)
    whole: dict[str, str] = {}
    for event in [*seen, *again.events]:
        if event["type"] == "response.output_text.delta":
            whole[event["turn_id"]] = whole.get(event["turn_id"], "") + event["delta"]
    assert sorted(whole.values()) == ["left and more and more words", "right and more and more"]
    assert "before" not in str(again.events)
    later = Device(service, thread, after=again.ids[-1])
    third = service.turn(thread, "Echo: and then")["id"]
    eventually(lambda: later.said() == {third: "and then"})
    assert later.kinds().count("response.completed") <= 1
    for each_device in (again, later):
        each_device.leave()


def test_who_follows_names_a_place_of_the_stream_and_no_strangers_thread(service: Service, project: Project) -> None:
    thread = service.thread()
    for place in ("x", "1;2", "-1", "1;2.3;", "1" * 20):
        refused = service.http.get(f"/threads/{thread}/events", headers={"Last-Event-ID": place})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Last-Event-ID")
    assert project.http.get(f"/threads/{thread}/events").status_code == 404


@pytest.mark.parametrize("path", ["/v1/threads/{thread}/turns", "/v1/responses"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_turn_ends_with_its_client_where_that_is_asked_for(
    service: Service, emulator: Emulator, path: str, stream: bool
) -> None:
    for asked, status in (("cancel", "cancelled"), ("continue", "completed")):
        thread = service.thread()
        emulator.fault("slow", seconds_per_event=0.15, seconds=1.5)
        body = {"input": "Tell me a story", "stream": stream, "on_disconnect": asked}
        if path == "/v1/responses":
            body["conversation"] = thread.replace("thread_", "conv_")
        with httpx2.Client(timeout=60 if stream else 0.7) as client:
            headers = {"Authorization": f"Bearer {service.key}"}
            url = service.url + path.replace("{thread}", thread)
            try:
                with client.stream("POST", url, json=body, headers=headers) as answer:
                    for line in answer.iter_lines():
                        if "output_text.delta" in line:
                            break
            except httpx2.TimeoutException:
                assert not stream
        assert service.ended_turn(thread)["status"] == status
        assert "on_disconnect" not in str(emulator.calls()[-1]["body"])


def test_a_list_tells_what_was_said_last_and_what_is_busy(
    service: Service, project: Project, emulator: Emulator
) -> None:
    quiet, busy = (project.call("POST", "/threads", json={})["id"] for _ in range(2))
    project.call("POST", f"/threads/{quiet}/turns", json={"input": "Echo: good day"})
    emulator.fault("slow", seconds=1.5)
    asking = threading.Thread(
        target=project.call, args=("POST", f"/threads/{busy}/turns"), kwargs={"json": {"input": "x"}}
    )
    asking.start()
    emulator.is_asked(2)
    listed = {thread["id"]: thread for thread in project.call("GET", "/threads")["data"]}
    asking.join()
    assert (listed[quiet]["status"], listed[busy]["status"]) == ("idle", "busy")
    assert listed[quiet]["last_message"]["text"] == "good day"
    assert listed[quiet]["last_message"]["role"] == "assistant"
    assert listed[busy]["last_message"] is None
    assert project.call("GET", f"/threads/{busy}")["status"] == "idle"


def test_threads_are_archived_and_deleted_in_bulk_each_by_itself(service: Service, project: Project) -> None:
    mine = [project.call("POST", "/threads", json={})["id"] for _ in range(3)]
    strange = service.thread()
    done = project.call("POST", "/threads/bulk", json={"action": "archive", "ids": [*mine, strange, "thread_x"]})[
        "data"
    ]
    assert [each["done"] for each in done] == [True] * 3 + [False] * 2
    assert {each["error"]["code"] for each in done[3:]} == {"thread_not_found"}
    assert all(project.call("GET", f"/threads/{id_}")["archived"] for id_ in mine)
    project.call("POST", "/threads/bulk", json={"action": "unarchive", "ids": mine[:1]})
    assert project.call("GET", f"/threads/{mine[0]}")["archived"] is False
    project.call("POST", "/threads/bulk", json={"action": "delete", "ids": [*mine[1:], strange]})
    assert [thread["id"] for thread in project.call("GET", "/threads")["data"]] == mine[:1]
    assert service.http.get(f"/threads/{strange}").status_code == 200
    for wrong in ({"action": "burn", "ids": mine}, {"action": "delete", "ids": []}, {"action": "delete"}):
        assert project.http.post("/threads/bulk", json=wrong).status_code == 400


def test_a_thread_with_a_time_to_live_is_purged_when_nobody_has_touched_it(fresh_env: dict[str, str]) -> None:
    service = Service(env={**fresh_env, "EVERTHREAD_CLEANING_SECONDS": "0.3"})
    try:
        old, touched, forever = service.thread(ttl_seconds=3600), service.thread(ttl_seconds=3600), service.thread()
        service.turn(old, "Echo: to be forgotten")
        past = "now() - interval '2 hours'"
        query(
            fresh_env["DATABASE_URL"],
            f"UPDATE threads SET expires_at = {past} WHERE ttl_seconds IS NOT NULL",
            f"UPDATE threads SET updated_at = {past} WHERE id = '{old.removeprefix('thread_')}'",
        )
        eventually(lambda: service.http.get(f"/threads/{old}").status_code == 404)
        assert service.http.get(f"/threads/{touched}").json()["ttl_seconds"] == 3600
        assert service.http.get(f"/threads/{forever}").json()["ttl_seconds"] is None
        trail = service.http.get(f"/threads/{old}/audit").json()["data"]
        assert trail[0]["action"] == "thread.purged"
        assert service.http.patch(f"/threads/{touched}", json={"ttl_seconds": None}).json()["ttl_seconds"] is None
        assert service.http.post("/threads", json={"ttl_seconds": 5}).status_code == 400
    finally:
        service.stop()


def test_a_model_gives_a_thread_its_title_once_and_never_over_somebodys_own(
    fresh_env: dict[str, str], emulator: Emulator
) -> None:
    service = Service(env={**fresh_env, "EVERTHREAD_TITLES": "true", "EVERTHREAD_TITLE_MODEL": "qwen-flash"})
    try:
        thread, named = service.thread(), service.thread(title="Mine")
        service.turn(thread, "My name is Ada.")
        service.turn(named, "My name is Ada.")
        eventually(lambda: service.http.get(f"/threads/{thread}").json()["title"] is not None)
        title = service.http.get(f"/threads/{thread}").json()["title"]
        assert 0 < len(title) <= 80
        assert "\n" not in title
        service.turn(thread, "And now?")
        time.sleep(0.5)
        asked = [call["body"] for call in emulator.calls() if call["body"]["model"] == "qwen-flash"]
        assert len(asked) == 1
        assert asked[0]["store"] is False
        assert "My name is Ada." in asked[0]["input"]
        assert service.http.get(f"/threads/{named}").json()["title"] == "Mine"
    finally:
        service.stop()


def test_feedback_is_given_listed_exported_with_the_conversation_and_goes_with_its_turn(
    service: Service, project: Project
) -> None:
    thread = project.call("POST", "/threads", json={})["id"]
    turn = project.call("POST", f"/threads/{thread}/turns", json={"input": "Echo: good day"})["id"]
    path = f"/threads/{thread}/turns/{turn}/feedback"
    good = project.call("POST", path, json={"score": 1, "label": "helpful", "user": "ada"})
    bad = project.call("POST", path, json={"score": -0.5, "comment": "Too short."})
    assert [each["id"] for each in project.call("GET", path)["data"]] == [good["id"], bad["id"]]
    assert [each["id"] for each in project.call("GET", "/feedback")["data"]] == [bad["id"], good["id"]]
    assert [each["id"] for each in project.call("GET", "/feedback", params={"label": "helpful"})["data"]] == [
        good["id"]
    ]
    page = project.call("GET", "/feedback", params={"limit": 1})
    assert page["has_more"] is True
    rest = project.call("GET", "/feedback", params={"limit": 1, "after": page["last_id"]})
    assert [each["id"] for each in rest["data"]] == [good["id"]]
    lines = [json.loads(line) for line in project.http.get("/feedback/export").text.splitlines()]
    assert [line["id"] for line in lines] == [good["id"], bad["id"]]
    assert lines[0]["messages"] == [
        {"role": "user", "content": "Echo: good day"},
        {"role": "assistant", "content": "good day"},
    ]
    for wrong in ({}, {"score": 2}, {"label": ""}, {"score": "x"}, {"stars": 5}):
        assert project.http.post(path, json=wrong).status_code == 400
    for strange in (path, f"/threads/{service.thread()}/turns/{turn}/feedback"):
        assert service.http.post(strange, json={"score": 1}).status_code == 404
        assert service.http.get(strange).status_code == 404
    assert service.http.delete(f"/feedback/{good['id']}").status_code == 404
    assert project.call("DELETE", f"/feedback/{good['id']}")["deleted"] is True
    project.call("DELETE", f"/threads/{thread}")
    assert project.call("GET", "/feedback")["data"] == []
    assert project.sql("SELECT 1 FROM feedback WHERE project_id = $1") == []


def test_a_link_shows_a_conversation_up_to_its_turn_until_it_is_taken_back(
    service: Service, project: Project, database_url: str
) -> None:
    thread = project.call("POST", "/threads", json={"title": "A talk"})["id"]
    project.call("POST", f"/threads/{thread}/turns", json={"input": "Echo: shown", "instructions": "Be secret."})
    link = project.call("POST", f"/threads/{thread}/shares", json={"expires_in": 3600})
    project.call("POST", f"/threads/{thread}/turns", json={"input": "Echo: not shown any more"})
    shown = httpx2.get(service.url + link["path"])
    assert (shown.status_code, shown.headers["cache-control"]) == (200, "no-store")
    assert shown.json()["title"] == "A talk"
    assert [message["role"] for message in shown.json()["messages"]] == ["user", "assistant"]
    for word in ("not shown", "secret", thread, "msg_", "turn_"):
        assert word not in shown.text
    assert "**Assistant**\n\nshown" in httpx2.get(service.url + link["path"], params={"format": "markdown"}).text
    (listed,) = project.call("GET", f"/threads/{thread}/shares")["data"]
    assert listed["id"] == link["id"]
    assert "path" not in listed
    secret = link["path"].rpartition(".")[2]
    kept = project.sql("SELECT * FROM shares WHERE project_id = $1")
    assert secret not in str(kept)
    for wrong in (
        link["path"][:-1],
        link["path"].replace(".", ""),
        f"/v1/shared/{'0' * 32}.{secret}",
        link["path"] + "é",
    ):
        assert httpx2.get(service.url + wrong).status_code == 404
    assert service.http.delete(f"/shares/{link['id']}").status_code == 404
    assert service.http.get(f"/threads/{thread}/shares").status_code == 404
    assert service.http.post(f"/threads/{thread}/shares", json={}).status_code == 404
    other = project.call("POST", f"/threads/{thread}/shares", json={})
    project.call("DELETE", f"/shares/{link['id']}")
    assert httpx2.get(service.url + link["path"]).status_code == 404
    assert "not shown" in httpx2.get(service.url + other["path"]).text
    query(database_url, f"UPDATE shares SET expires_at = now() WHERE id = '{other['id'].removeprefix('share_')}'")
    assert httpx2.get(service.url + other["path"]).status_code == 404
    last = project.call("POST", f"/threads/{thread}/shares", json={})
    project.call("DELETE", f"/threads/{thread}")
    assert httpx2.get(service.url + last["path"]).status_code == 404
    actions = [record["action"] for record in project.records()]
    assert actions.count("thread.shared") == 3
    assert actions.count("thread.unshared") == 1


def test_the_links_of_a_thread_are_listed_in_pages(project: Project) -> None:
    thread = project.call("POST", "/threads")["id"]
    project.call("POST", f"/threads/{thread}/turns", json={"input": "Hello"})
    path = f"/threads/{thread}/shares"
    links = [project.call("POST", path, json={})["id"] for _ in range(5)][::-1]
    first = project.call("GET", path, params={"limit": 2})
    assert ([link["id"] for link in first["data"]], first["has_more"]) == (links[:2], True)
    project.call("DELETE", f"/shares/{links[1]}")  # The id of a link that is revoked is a good cursor.
    last = project.call("GET", path, params={"limit": 3, "after": first["last_id"]})
    assert ([link["id"] for link in last["data"]], last["has_more"]) == (links[2:], False)
    back = project.call("GET", path, params={"limit": 1, "before": last["first_id"]})
    assert ([link["id"] for link in back["data"]], back["has_more"]) == (links[:1], False)
    upwards = project.call("GET", path, params={"order": "asc", "limit": 3})
    assert ([link["id"] for link in upwards["data"]], upwards["has_more"]) == (links[:1:-1], True)
    refused = project.call("GET", path, params={"after": thread})
    assert (refused["error"]["code"], refused["error"]["param"]) == ("invalid_cursor", "after")


def test_nothing_is_shared_of_a_thread_in_which_nothing_was_said(service: Service) -> None:
    refused = service.http.post(f"/threads/{service.thread(name=uuid4().hex)}/shares", json={})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "turn_id")

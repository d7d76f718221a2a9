"""Two projects that do the same, one of them under a hold: nobody without the scope audit can tell which one it is."""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from random import Random
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from app.webhooks.events import APPENDED, EVENT_TYPES
from tests.databases import query
from tests.service import Service, eventually
from tests.tenants import Tenant
from tests.test_isolation import _example
from tests.test_user_tokens import browser
from tests.test_user_view import SOCKET, filled, open_routes, requests

ENDLESS = {"GET /threads/{thread_id}/events", "GET /threads/by-name/{name}/events", "GET /events", "GET /now/events"}
"""Streams without an end: see test_live_events_are_the_same."""

CHANGING = {"date", "x-request-id", "content-length", "openai-processing-ms"}
"""Headers whose values change with the time, or with random ids."""

ORDINARY = ["read", "write", "admin"]
"""The scopes of a key that is not to notice a hold."""

ID = re.compile(r"[0-9a-f]{32,64}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\b\d{10}(?:\.\d+)?\b")
SECRET = re.compile(
    r'(?<=[_.])[\w-]{43}\b|(?<="hint":")[^"]+|(?<="token":")[^"]+|(?<="secret":")[^"]+|(?<="key":")[^"]+|(?<="encrypted_content":")[^"]+'
)
RANK = re.compile(r'hit_[\w-]+|(?<="score":)0\.\d+')
DELIVERY = re.compile(r'"attempts":\d+,"next_attempt_at":\w+,"delivered_at":null,"last_status":null,"last_error":[^}]+')
DURATION = re.compile(r'("\w+_(?:ms|seconds)":|"durations":|"first_words":)(?:[\d.]+|null|\[[\d,]*\])')


PICTURE = "data:image/png;base64," + b64encode(Random(1).randbytes(15_000)).decode()
"""One that no compression makes smaller."""


class Twin:
    """One of two projects. Its ids are shown by numbers, in the order in which they appear."""

    def __init__(self, service: Service) -> None:
        self.tenant = Tenant(service)
        place = f"/admin/projects/{self.tenant.id}/keys"
        key = service.http.post(place, json={"name": "ordinary", "scopes": ORDINARY}).json()["key"]
        headers = {"Authorization": f"Bearer {key}"}
        self.ordinary = httpx2.Client(base_url=f"{service.url}/v1", headers=headers, timeout=60)
        self.ann = browser(self.tenant, "ann")
        self._names: dict[str, str] = {}

    def shown(self, text: str) -> str:
        """Return a text without what differs between any two projects."""
        text = RANK.sub("RANK", text)
        text = DURATION.sub(r"\1DURATION", SECRET.sub("SECRET", TIME.sub("TIME", text)))
        text = DELIVERY.sub("DELIVERY", text)
        return ID.sub(lambda found: self._names.setdefault(found[0], f"#{len(self._names)}#"), text)

    def answer(self, answer: httpx2.Response) -> tuple[int, Any, str]:
        headers = [
            (name, "" if name in CHANGING else self.shown(value)) for name, value in sorted(answer.headers.items())
        ]
        return answer.status_code, headers, self.shown(answer.text)


Twins = tuple[Twin, Twin]


@pytest.fixture
def twins(service: Service) -> Twins:
    held, free = Twin(service), Twin(service)
    hold(held.tenant)
    return held, free


def hold(tenant: Tenant) -> None:
    """Hold all of a project."""
    assert tenant.http.post("/holds", json={"project": True, "reason": "A case"}).status_code == 201


COUNTED_LATER = {"GET /usage/hours"}
"""Routes whose numbers a worker counts from time to time: only their status is compared."""


def things(tenant: Tenant) -> dict[str, str]:
    """A thread of Ann's, and one of each kind in it that a path can name."""
    http = tenant.http
    name = f"notes-{len(http.get('/threads').json()['data'])}"
    said = [{"role": "user", "content": "Hello"}]
    fields = {"user": "ann", "name": f"ann:{name}", "title": "A talk", "messages": said}
    thread = http.post("/threads", json=fields).json()["id"]
    tenant.turn(thread, "Echo: one")
    turn = tenant.turn(thread, "Echo: two")
    feedback = http.post(f"/threads/{thread}/turns/{turn['id']}/feedback", json={"score": 1, "comment": "Good"})
    share = http.post(f"/threads/{thread}/shares").json()
    return {
        "thread_id": thread,
        "name": name,
        "turn_id": turn["id"],
        "response_id": turn["id"].replace("turn_", "resp_"),
        "conversation_id": thread.replace("thread_", "conv_"),
        "item_id": turn["output"][0]["id"],
        "call_id": tenant.calls(thread, turn["id"])[0]["id"],
        "feedback_id": feedback.json()["id"],
        "share_id": share["id"],
        "token": share["path"].rpartition("/")[2],
        "project_id": tenant.id,
        "user": "ann",
        "model": "qwen3.5-plus",
    }


def things_of_the_project(twin: Twin) -> dict[str, str]:
    """The same, and one of each kind that is in no thread."""
    tenant, http = twin.tenant, twin.tenant.http
    fields = {"url": "https://nobody.example/x", "events": ["thread.created"]}
    webhook = http.post("/webhooks", json=fields).json()["id"]
    made = things(tenant)
    deliveries = f"/webhooks/{webhook}/deliveries"
    eventually(lambda: bool(http.get(deliveries).json()["data"]))
    return {
        **made,
        "hold_id": f"hold_{uuid4().hex}",  # One that is not there: the id of one is not to be had.
        "webhook_id": webhook,
        "event_id": http.get(deliveries).json()["data"][0]["id"],
        "purge_id": twin.ordinary.delete("/users/nobody/data").json()["id"],
        "key_id": http.post(f"/admin/projects/{tenant.id}/keys", json={"name": "another"}).json()["id"],
        "anonymous": http.post("/user_tokens", json={"anonymous": True}).json()["token"],
    }


def account(tenant: Tenant) -> str:
    made: str = tenant.account(uuid4().hex, "https://nobody.example/v1", "sk-x")["id"]
    return made


def walk(
    twins: Twins,
    routes: list[tuple[str, str]],
    client: Callable[[Twin], httpx2.Client],
    sent: Callable[[str, str], Iterator[dict[str, Any]]],
    prefix: str = "",
) -> set[tuple[str, str]]:
    """Send the same requests to both, and compare the answers. Return the routes that have answered with success.

    Args:
        prefix: of the names of Ann's threads, which she does not see.
    """
    given = [things_of_the_project(twin) for twin in twins]
    worked = set()
    # Deletions come late, and each has a thread of its own. Last come changes of settings, and of accounts for turns.
    for method, path in sorted(
        routes, key=lambda route: (route[1].startswith(("/admin/", "/holds")), route[0] == "DELETE", *route)
    ):
        if f"{method} {path}" in ENDLESS:
            continue
        mine = given
        if "/accounts" in path:
            mine = [{**each, "account_id": account(twin.tenant)} for twin, each in zip(twins, given, strict=True)]
        elif method == "DELETE" and not path.startswith("/admin/"):
            mine = [{**each, **things(twin.tenant)} for twin, each in zip(twins, given, strict=True)]
        mine = [{**each, "name": prefix + each["name"]} for each in mine]
        for request in sent(method, path):
            request = json.loads(json.dumps(request).replace('"input": "', '"input": "Echo: '))
            answers = [
                twin.answer(client(twin).request(method, path.format(**named), **filled(request, named)))
                for twin, named in zip(twins, mine, strict=True)
            ]
            if f"{method} {path}" in COUNTED_LATER:
                answers = [(status, [], "") for status, _, _ in answers]
            assert answers[0] == answers[1], (method, path, request)
            assert answers[0][0] < 500, (method, path, request, answers[0])
            if answers[0][0] < 400:
                worked.add((method, path))
    return worked


def test_a_user_token_gets_the_same_answer_on_every_route(twins: Twins) -> None:
    for twin in twins:
        twin.tenant.settings(user_preset={"tools": []})
    # The provider's paths lead to the same routes.
    routes = [
        (method, path.removeprefix("/v1"))
        for method, path in open_routes()
        if method != SOCKET and path.startswith("/v1/")
    ]
    worked = walk(twins, routes, lambda twin: twin.ann, requests)
    assert {f"{method} {path}" for method, path in set(routes) - worked} <= ENDLESS


def test_a_key_without_the_scope_audit_gets_the_same_answer_on_every_route(service: Service, twins: Twins) -> None:
    document = httpx2.get(f"{service.url}/openapi.json").json()
    operations = {
        (method.upper(), path.removeprefix("/v1")): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if path.startswith("/v1/")
    }

    def sent(method: str, path: str) -> Iterator[dict[str, Any]]:
        body = _example(document, operations[method, path])
        yield {} if body is None else {"json": body}

    worked = walk(twins, list(operations), lambda twin: twin.ordinary, sent, "ann:")
    assert {route for route in operations if route[0] == "DELETE"} - worked == set()


class Story:
    """Requests of a user and of the app's server, and all answers to them."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.told: list[tuple[Any, ...]] = []

    def did(self, client: httpx2.Client, method: str, path: str, **how: Any) -> httpx2.Response:
        answer = client.request(method, path, **how)
        self.told.append((method, self.twin.shown(path), *self.twin.answer(answer)))
        return answer

    def everything_is_read(self, thread: str, token: str) -> None:
        """Read all that shows contents, with both credentials."""
        for client in (self.twin.ann, self.twin.ordinary):
            for path in (
                "/threads", "/conversations", "/search?q=apple", "/search?q=secret", "/responses", f"/threads/{thread}",
                f"/threads/{thread}/turns", f"/threads/{thread}/messages", f"/threads/{thread}/branches",
                f"/threads/{thread}/export", f"/threads/{thread}/shares", f"/threads/{thread}/compactions",
                f"/threads/{thread}/chain", f"/threads/{thread}/held", f"/conversations/conv_{thread[7:]}/items",
                "/holds", "/users/ann/data", "/feedback", "/feedback/export", "/usage", "/project", "/threads/count",
                "/audit",
            ):  # fmt: skip
                self.did(client, "GET", path)
        self.did(httpx2.Client(base_url=self.twin.ann.base_url), "GET", f"/shared/{token}")


def told(twin: Twin, database_url: str) -> list[tuple[Any, ...]]:
    """Live through every way in which contents are lost. Return what a user and a server were told."""
    ann, key, story = twin.ann, twin.ordinary, Story(twin)
    did = story.did
    webhook = did(key, "POST", "/webhooks", json={"url": "https://nobody.example/x", "events": list(EVENT_TYPES)})
    thread = did(ann, "POST", "/threads", json={"title": "First", "metadata": {"a": "b"}}).json()["id"]
    place, conversation = f"/threads/{thread}", thread.replace("thread_", "conv_")
    picture = {"type": "input_image", "image_url": PICTURE}
    said = [{"role": "user", "content": [picture, {"type": "input_text", "text": "Echo: apple"}]}]
    first = did(ann, "POST", f"{place}/turns", json={"input": said}).json()
    # There is no room for more, until the picture is gone.
    twin.tenant.settings(limits={"stored_bytes": 5000})
    did(ann, "POST", f"{place}/turns", json={"input": "Echo: too much"})
    item = ann.get(f"{place}/turns/{first['id']}").json()["input"][0]["id"]
    story.everything_is_read(thread, "")
    did(ann, "DELETE", f"/conversations/{conversation}/items/{item}")
    eventually(lambda: ann.post("/threads", json={"title": "Room"}).status_code == 201)
    twin.tenant.settings(limits={"stored_bytes": None})
    did(ann, "POST", f"{place}/turns", json={"input": "Echo: apple secret", "stream": True})
    link = did(ann, "POST", f"{place}/shares").json()["path"].rpartition("/")[2]
    did(ann, "POST", f"{place}/turns/{first['id']}/feedback", json={"score": 1, "comment": "apple"})
    did(ann, "PATCH", place, json={"title": "Second"})
    did(key, "PATCH", place, json={"title": "Third", "metadata": {"c": "d"}, "user": "ann"})
    turns = ann.get(f"{place}/turns", params={"order": "asc"}).json()["data"]
    did(ann, "POST", f"{place}/turns", json={"input": "Echo: edited apple", "replaces": turns[1]["id"]})
    fork = did(ann, "POST", f"{place}/fork", json={"title": "Fork"}).json()["id"]
    story.everything_is_read(thread, link)
    did(ann, "DELETE", f"/responses/{turns[1]['id'].replace('turn_', 'resp_')}")
    did(key, "DELETE", f"/feedback/{key.get('/feedback').json()['data'][0]['id']}")
    story.everything_is_read(thread, link)
    did(ann, "DELETE", place)
    did(ann, "DELETE", place)
    story.everything_is_read(thread, link)
    story.everything_is_read(fork, link)
    # A thread whose time to live is over, and all threads of a user.
    short = did(ann, "POST", "/threads", json={"title": "Short", "ttl_seconds": 3600}).json()["id"]
    ended = "ttl_seconds = 0, expires_at = now() - interval '2 hours'"
    query(database_url, f"UPDATE threads SET {ended} WHERE id = '{short[7:]}'")
    did(key, "PATCH", "/project", json={"retention_days": None})
    eventually(lambda: ann.get(f"/threads/{short}").status_code == 404, seconds=120)
    did(key, "POST", "/threads", json={"user": "bob", "title": "apple"})
    purge = f"/purges/{did(key, 'DELETE', '/users/ann/data').json()['id']}"
    eventually(lambda: key.get(purge).json()["status"] == "completed", seconds=120)
    did(key, "GET", purge)
    story.everything_is_read(fork, link)
    # Whoever comes under the same name begins again.
    again = did(ann, "POST", "/threads", json={"title": "Again"}).json()["id"]
    did(ann, "POST", f"/threads/{again}/turns", json={"input": "Recite the conversation"})
    story.everything_is_read(again, link)
    hook = f"/webhooks/{webhook.json()['id']}"
    deliveries = f"{hook}/deliveries?limit=100"

    def events() -> list[tuple[str, dict[str, Any]]]:
        return [(each["event"]["type"], each["event"]["data"]) for each in key.get(deliveries).json()["data"]]

    last = {("user.purged", None), ("response.completed", again)}
    eventually(lambda: last <= {(type_, data.get("thread_id")) for type_, data in events()}, seconds=120)
    # The number of events that tell of a grown trail, and their moments, depend on the time.
    shown = (twin.shown(json.dumps(event)) for event in events() if event[0] != APPENDED)
    story.told.append(("webhooks", *sorted(shown)))
    return story.told


def test_whatever_is_deleted_or_changed_the_same_is_told_and_left(
    service: Service, twins: Twins, database_url: str
) -> None:
    keeping = Twin(service)
    assert keeping.tenant.http.patch("/project", json={"minimum_retention_days": 365}).status_code == 200
    kept, held, free = (told(twin, database_url) for twin in (keeping, *twins))
    for one, other in zip(held, free, strict=True):
        assert one == other
    assert {each[2] for each in held if len(each) == 5} == {200, 201, 202, 403, 404, 429}
    # A minimum retention changes nothing but the project's settings, which show it.
    for one, other in zip(kept, free, strict=True):
        assert one == other or one[1] == "/project"


def test_live_events_are_the_same(twins: Twins) -> None:
    """Compare which events come of which thread. How many changes an event tells of depends on the time."""

    def heard(twin: Twin) -> list[tuple[str, str]]:
        found: set[tuple[str, str]] = set()
        with twin.ann.stream("GET", "/events") as stream:
            for number, line in enumerate(stream.iter_lines()):
                if number == 0:
                    place = f"/threads/{twin.ann.post('/threads', json={'title': 'One'}).json()['id']}"
                    turn = twin.ann.post(f"{place}/turns", json={"input": "Echo: apple"}).json()["id"]
                    twin.ann.delete(f"/responses/{turn.replace('turn_', 'resp_')}")
                    twin.ann.patch(place, json={"title": "Two"})
                    twin.ann.delete(place)
                    twin.ann.post("/threads", json={"title": "The end"})
                if line.startswith("event: "):
                    event = line
                elif line.startswith("data: "):
                    data = json.loads(line.removeprefix("data: "))
                    found.add((event, twin.shown(str(data.get("thread_id", data.get("id"))))))
                    if "The end" in line:
                        return sorted(found)
        raise AssertionError("the stream has ended")

    held, free = map(heard, twins)
    assert held == free
    assert any("deleted" in event for event, _ in held)

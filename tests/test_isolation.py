"""Nothing of a project is seen, changed or known of from another: every route of the document, with another's ids."""

import re
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.service import Service, eventually
from tests.tenants import Tenant


def things(tenant: Tenant) -> dict[str, str]:
    """One of each kind that a path can name."""
    http, name = tenant.http, f"talk-{uuid4().hex}"
    thread = http.put(f"/threads/by-name/{name}", json={"user": "ann"}).json()["id"]
    turn = tenant.turn(thread, "A secret.")
    webhook = http.post("/webhooks", json={"url": "https://nobody.example/x", "events": ["thread.created"]}).json()[
        "id"
    ]
    http.post("/threads", json={"user": "bob"})
    place = f"/webhooks/{webhook}/deliveries"
    eventually(lambda: bool(http.get(place).json()["data"]))
    conversation = thread.replace("thread_", "conv_")
    return {
        "thread_id": thread,
        "name": name,
        "turn_id": turn["id"],
        "response_id": turn["id"].replace("turn_", "resp_"),
        "conversation_id": conversation,
        "item_id": turn["output"][0]["id"],
        "call_id": tenant.calls(thread, turn["id"])[0]["id"],
        "feedback_id": http.post(f"/threads/{thread}/turns/{turn['id']}/feedback", json={"score": 1}).json()["id"],
        "share_id": http.post(f"/threads/{thread}/shares").json()["id"],
        "webhook_id": webhook,
        "event_id": http.get(place).json()["data"][0]["id"],
        "hold_id": http.post("/holds", json={"user": "held", "reason": "x"}).json()["id"],
        "purge_id": http.delete("/users/nobody/data").json()["id"],
        "project_id": tenant.id,
        "key_id": http.get(f"/admin/projects/{tenant.id}/keys").json()["data"][0]["id"],
        "account_id": tenant.account("a", "https://nobody.example/v1", "sk-x")["id"],
        "record_id": http.get("/audit").json()["data"][0]["id"],
        "user": "ann",
        "model": "qwen3.5-plus",
    }


def none_like(thing: str) -> str:
    """An id of the same kind that nobody has."""
    return re.sub(r"[0-9a-f]{32}", lambda found: uuid4().hex[:28] + found[0][28:], thing)


@pytest.fixture(scope="module")
def stranger_and_things(running_service: Service) -> tuple[Tenant, dict[str, str]]:
    owner = Tenant(running_service)
    made = things(owner)
    return Tenant(running_service), made


def test_every_route_answers_for_anothers_ids_as_for_none(
    service: Service, stranger_and_things: tuple[Tenant, dict[str, str]]
) -> None:
    stranger, theirs = stranger_and_things
    owner = service.http.get(f"/admin/projects/{theirs['project_id']}").json()
    document = httpx2.get(f"{service.url}/openapi.json").json()
    looked_at = 0
    for path, item in document["paths"].items():
        named = re.findall(r"{(\w+)}", path)
        if not named or path.startswith("/v1/shared/"):
            continue
        assert set(named) <= set(theirs), path  # A new kind of thing is to be made above.
        for method, operation in item.items():
            if method == "put":
                continue  # It makes a thread of the name, in the stranger's own project.
            body = _example(document, operation)
            absent = {name: none_like(value) for name, value in theirs.items()}
            found, missing = (_asked(stranger, method, path, given, body) for given in (theirs, absent))
            assert found == missing, (method, path)
            if not set(named) <= {"user", "model"}:
                assert found[0] in (400, 403, 404) or (found[0] == 200 and '"data":[]' in found[1]), (
                    method,
                    path,
                    found,
                )
            looked_at += 1
    assert looked_at > 60
    assert service.http.get(f"/admin/projects/{theirs['project_id']}").json() == owner


def test_what_a_stranger_has_tried_has_changed_nothing(
    service: Service, stranger_and_things: tuple[Tenant, dict[str, str]]
) -> None:
    stranger, theirs = stranger_and_things
    assert stranger.http.put(f"/threads/by-name/{theirs['name']}").json()["id"] != theirs["thread_id"]
    stranger = Tenant(service)
    assert stranger.http.get("/threads").json()["data"] == []
    assert stranger.http.get("/audit", params={"action": "turn.opened"}).json()["data"] == []
    assert stranger.http.get("/search", params={"q": "secret"}).json()["data"] == []
    for path in ("/responses", "/conversations", "/feedback", "/webhooks"):
        assert stranger.http.get(path).json()["data"] == [], path
    sent = {"input": [{"type": "item_reference", "id": theirs["item_id"]}]}
    answer = stranger.http.post("/responses", json=sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "item_not_found")
    for field in ("previous_response_id", "conversation"):
        value = theirs["response_id" if field == "previous_response_id" else "conversation_id"]
        assert stranger.http.post("/responses", json={"input": "Hi", field: value}).status_code in (400, 404)


def _asked(stranger: Tenant, method: str, path: str, given: dict[str, str], body: Any) -> tuple[int, str]:
    """Return the status and the body, without the ids in it."""
    answer = stranger.http.request(method, path.removeprefix("/v1").format(**given), json=body)
    said = answer.text
    for value in sorted(given.values(), key=len, reverse=True):
        said = said.replace(value, "IT")
    return answer.status_code, re.sub(r"[0-9a-f]{32}|\d{10}", "N", said)


def _example(document: dict[str, Any], operation: dict[str, Any]) -> Any:
    """A body that the operation takes; None where it takes none."""
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if schema is None:
        return None
    found = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return (found.get("examples") or [{}])[-1]

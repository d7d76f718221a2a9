"""Preview of a user's purge: it counts what the purge deletes, and shows holds only to keys with the scope audit."""

from base64 import b64encode
from random import Random
from typing import Any
from urllib.parse import quote

import httpx2
import orjson

from tests.projects import Project, new_key
from tests.service import Emulator, Service, eventually
from tests.tenants import Tenant
from tests.test_user_tokens import browser

USER = "ann/of the hill@example.com"
PLACE = f"/users/{quote(USER, safe='')}/data"
PICTURE = "data:image/png;base64," + b64encode(Random(1).randbytes(15_000)).decode()


def talk(project: Project, *texts: Any, **fields: Any) -> str:
    thread = project.call("POST", "/threads", json=fields)["id"]
    for said in texts:
        project.call("POST", f"/threads/{thread}/turns", json={"input": said})
    return str(thread)


def statement(project: Project, purge: str) -> dict[str, Any]:
    eventually(lambda: project.call("GET", f"/purges/{purge}")["status"] == "completed")
    signed = project.http.get(f"/purges/{purge}/certificate").text
    found: dict[str, Any] = orjson.loads(signed.splitlines()[1])
    return found


def test_a_preview_counts_what_the_purge_then_deletes(project: Project, emulator: Emulator) -> None:
    image = {"role": "user", "content": [{"type": "input_image", "image_url": PICTURE}]}
    long = talk(project, *[f"Echo: {number}" for number in range(4)], [image], user=USER)
    turns = [turn["id"] for turn in project.call("GET", f"/threads/{long}/turns")["data"]][::-1]
    # Another user shares three of them, a third one, and a fork of the user's own all.
    for user, turn in (("bob", turns[2]), (USER, turns[4]), ("cleo", turns[0])):
        made = project.call("POST", f"/threads/{long}/fork", json={"user": user, "turn_id": turn})["id"]
        project.call("POST", f"/threads/{made}/turns", json={"input": "Echo: onwards"})
    project.call("POST", f"/threads/{long}/turns/{turns[3]}/feedback", json={"score": 1})
    project.call("POST", f"/threads/{long}/shares")
    talk(project, "Echo: other", user="bob")
    emulator.fault("slow", seconds=1)
    busy = talk(project, user=USER)
    project.call("POST", f"/threads/{busy}/turns", json={"input": f"Echo: {'so ' * 200}", "background": True})
    preview = project.call("GET", f"{PLACE}/preview")
    counts = preview["counts"]
    assert (preview["exact"], preview["forks"], preview["running_turns"]) == (True, 2, 1)
    assert (preview["feedback"], preview["shares"], preview["refused"]) == (1, 1, None)
    assert len(PICTURE) < preview["bytes"]
    assert preview["provider_copies"] >= 6
    purge = project.call("DELETE", PLACE)["id"]
    said = statement(project, purge)
    assert said["counts"] == counts
    listed = [{key: each[key] for key in ("what", "why")} for each in preview["remains"]]
    assert listed == [{key: each[key] for key in ("what", "why")} for each in said["remains"]]
    after = project.call("GET", f"{PLACE}/preview")
    assert (set(after["counts"].values()), after["bytes"], after["forks"]) == ({0}, 0, 0)
    assert project.verify().problems == []


def test_only_keys_that_may_know_of_holds_learn_from_a_preview_that_there_is_one(
    project: Project, service: Service, service_env: dict[str, str]
) -> None:
    talk(project, "Echo: one", user=USER)
    scopes = ["read", "write", "admin"]
    headers = {"Authorization": f"Bearer {new_key(service_env['DATABASE_URL'], project.name, scopes=scopes)}"}
    ordinary = httpx2.Client(base_url=f"{service.url}/v1", headers=headers)

    def seen() -> dict[str, Any]:
        answer: dict[str, Any] = ordinary.get(f"{PLACE}/preview").json()
        return {key: value for key, value in answer.items() if key not in ("at", "remains")} | {
            "remains": [{**each, "until": None} for each in answer["remains"]]
        }

    before = seen()
    hold = project.call("POST", "/holds", json={"user": USER, "reason": "A case"})["id"]
    assert seen() == before
    preview = project.call("GET", f"{PLACE}/preview")
    assert preview["refused"] == project.call("DELETE", PLACE)["error"]["code"] == "user_held"
    assert [each["hold"] for each in preview["remains"] if each["hold"]] == [hold]
    project.call("POST", f"/holds/{hold}/release", json={"reason": "Closed"})
    project.call("PATCH", "/project", json={"minimum_retention_days": 3})
    preview = project.call("GET", f"{PLACE}/preview")
    assert preview["refused"] == project.call("DELETE", PLACE)["error"]["code"] == "minimum_retention"
    (kept,) = [each for each in preview["remains"] if each["what"] == "kept_rows"]
    assert kept["until"] > preview["at"]
    assert seen()["refused"] is None
    project.call("PATCH", "/project", json={"minimum_retention_days": None})


def test_a_preview_counts_nothing_of_other_projects_and_is_not_for_end_users(
    project: Project, service: Service
) -> None:
    talk(project, "Echo: one", user="ann")
    other = Tenant(service)
    seen = other.http.get("/users/ann/data/preview").json()
    assert (set(seen["counts"].values()), seen["bytes"], seen["provider_copies"]) == ({0}, 0, 0)
    refused = browser(other, "ann").get("/users/ann/data/preview")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_for_users")
    assert httpx2.get(f"{service.url}/v1/users/ann/data/preview").status_code == 401

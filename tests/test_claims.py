"""Claims: a user who signs in keeps the threads of the anonymous user that the same browser was before."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.projects import Project
from tests.service import Emulator, Service, eventually
from tests.tenants import Tenant


def token_of(http: httpx2.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/user_tokens", json=fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def with_token(http: httpx2.Client, token: str) -> httpx2.Client:
    return httpx2.Client(base_url=http.base_url, headers={"Authorization": f"Bearer {token}"}, timeout=60)


def signed_in(http: httpx2.Client, user: str) -> httpx2.Client:
    return with_token(http, token_of(http, user=user)["token"])


def claim(user: httpx2.Client, token: str) -> httpx2.Response:
    return user.post("/threads/claim", json={"token": token})


def code_of(answer: httpx2.Response) -> Any:
    return answer.json()["error"]["code"]


@pytest.fixture
def tenant(service: Service) -> Iterator[Tenant]:
    tenant = Tenant(service)
    yield tenant
    tenant.http.close()


def test_signed_in_user_claims_the_threads_of_an_anonymous_one_once(project: Project) -> None:
    http = project.http
    made = token_of(http, anonymous=True)
    assert made["user"].startswith("anon_")
    assert made["anonymous"] is True
    nobody = with_token(http, made["token"])
    first = nobody.post("/threads", json={"name": "notes", "title": "Before"}).json()["id"]
    second = nobody.put("/threads/by-name/ideas").json()["id"]
    third = nobody.post("/responses", json={"model": "qwen3.5-plus", "input": "My name is Ada."}).json()
    named_by_the_key = http.post("/threads", json={"user": made["user"], "name": "case 7"}).json()["id"]
    ann, bob = signed_in(http, "ann"), signed_in(http, "bob")
    mine = ann.put("/threads/by-name/notes").json()["id"]
    theirs = bob.put("/threads/by-name/notes").json()["id"]

    answer = claim(ann, made["token"])
    assert answer.status_code == 200, answer.text
    claimed = answer.json()
    assert (claimed["object"], claimed["user"]) == ("thread.claim", "ann")
    (conversation,) = set(claimed["threads"]) - {first, second, named_by_the_key}
    listed = {each["id"]: each for each in ann.get("/threads").json()["data"]}
    assert set(listed) == {first, second, named_by_the_key, conversation, mine}
    # A name that the user has already goes; every other one stays.
    assert (listed[first]["name"], listed[first]["title"]) == (None, "Before")
    assert ann.get("/threads/by-name/notes").json()["id"] == mine
    assert ann.get("/threads/by-name/ideas").json()["id"] == second
    assert http.get(f"/threads/{named_by_the_key}").json()["name"] == "case 7"
    said = ann.post(
        "/responses",
        json={"model": "qwen3.5-plus", "input": "What is my name?", "previous_response_id": third["id"]},
    )
    assert said.json()["output"][0]["content"][0]["text"] == "Ada"
    # The anonymous user has ended, and has no second heir.
    assert nobody.get("/threads").status_code == 401
    again = claim(ann, made["token"])
    assert (again.status_code, again.json()["threads"]) == (200, [])
    refused = claim(bob, made["token"])
    assert (refused.status_code, code_of(refused)) == (409, "already_claimed")
    assert [each["id"] for each in bob.get("/threads").json()["data"]] == [theirs]
    actions = [record["action"] for record in project.records()]
    assert actions.count("user.claimed") == 1
    (record,) = [record for record in project.records() if record["action"] == "user.claimed"]
    assert record["detail"] == "4 threads"
    assert record["actor"]["user"] is not None
    by_user = {
        each["user"]: each["turns"] for each in project.call("GET", "/usage", params={"group_by": "user"})["data"]
    }
    assert by_user == {"ann": 2}
    assert project.verify().problems == []


def test_stolen_token_takes_over_no_threads(tenant: Tenant) -> None:
    """Not to be claimed: threads of ordinary users, and of anonymous ones by whoever has no full token of theirs."""
    http, other = tenant.http, Tenant(tenant.service)
    ann = signed_in(http, "ann")
    nobody = token_of(http, anonymous=True)
    thread = with_token(http, nobody["token"]).post("/threads", json={}).json()["id"]
    bobs = signed_in(http, "bob").post("/threads", json={}).json()["id"]
    revoked = token_of(http, anonymous=True)
    http.post("/user_tokens/revoke", json={"user": revoked["user"]})
    brief = token_of(http, anonymous=True, expires_in=1)
    place = f"/admin/projects/{tenant.id}/keys"
    key = http.post(place, json={"name": "ends", "scopes": ["read", "write"]}).json()
    with with_token(http, key["key"]) as ending:
        of_ended_key = token_of(ending, anonymous=True)
    http.delete(f"{place}/{key['id']}")
    time.sleep(max(0.0, brief["expires_at"] - time.time()))
    wrong = {
        "an ordinary token": token_of(http, user="bob")["token"],
        "an ordinary token for the anonymous name": token_of(http, user=nobody["user"])["token"],
        "a token for one thread": token_of(http, anonymous=True, user=nobody["user"], thread=thread)["token"],
        "a token that reads": token_of(http, anonymous=True, user=nobody["user"], actions=["read"])["token"],
        "a token of another project": token_of(other.http, anonymous=True)["token"],
        "a revoked token": revoked["token"],
        "an expired token": brief["token"],
        "a token of a revoked key": of_ended_key["token"],
        "a key": tenant.key,
        "a changed token": nobody["token"][:-2],
        "no token": "a.b.c",
    }
    answers = {name: claim(ann, token) for name, token in wrong.items()}
    assert {name: (answer.status_code, code_of(answer)) for name, answer in answers.items()} == dict.fromkeys(
        wrong, (400, "invalid_anonymous_token")
    )
    # Nor by a key, by another anonymous user, or with a token for one thread.
    for caller in (
        http,
        with_token(http, token_of(http, anonymous=True)["token"]),
        with_token(http, token_of(http, user="ann", thread=bobs)["token"]),
    ):
        answer = claim(caller, nobody["token"])
        assert (answer.status_code, code_of(answer)) == (403, "users_only")
    assert with_token(http, nobody["token"]).get(f"/threads/{thread}").status_code == 200
    assert http.get(f"/threads/{bobs}").json()["user"] == "bob"
    answer = http.post("/user_tokens", json={"anonymous": True, "user": "bob"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "user")


def test_of_many_claims_at_once_one_succeeds(tenant: Tenant) -> None:
    nobody = token_of(tenant.http, anonymous=True)
    with with_token(tenant.http, nobody["token"]) as http:
        threads = {http.post("/threads", json={"name": str(number)}).json()["id"] for number in range(5)}
    users = [signed_in(tenant.http, f"user-{number}") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda user: claim(user, nobody["token"]), users))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
    owners = [{each["id"] for each in user.get("/threads").json()["data"]} for user in users]
    assert sorted(map(len, owners)) == [0] * 5 + [5]
    (winner,) = [number for number, answer in enumerate(answers) if answer.status_code == 200]
    assert owners[winner] == threads


def test_running_turn_goes_on_for_the_user_who_claims_it(tenant: Tenant, emulator: Emulator) -> None:
    nobody = token_of(tenant.http, anonymous=True)
    ann = signed_in(tenant.http, "ann")
    with with_token(tenant.http, nobody["token"]) as http:
        thread = http.post("/threads", json={}).json()["id"]
        emulator.fault("slow", seconds_per_event=0.2)
        body = {"input": "Echo: one two three four five six", "background": True, "stream": False}
        turn = http.post(f"/threads/{thread}/turns", json=body).json()["id"]
        with http.stream("GET", f"/threads/{thread}/events") as stream:
            assert stream.status_code == 200
            assert claim(ann, nobody["token"]).json()["threads"] == [thread]
            last = [line.removeprefix("data: ") for line in stream.iter_lines() if line.startswith("data: ")][-1]
    assert json.loads(last)["code"] in ("credential_revoked", "thread_not_found")
    path = f"/threads/{thread}/turns/{turn}"
    eventually(lambda: ann.get(path).json()["status"] == "completed", seconds=60)


def test_anonymous_user_gets_another_token(tenant: Tenant) -> None:
    first = token_of(tenant.http, anonymous=True)
    second = token_of(tenant.http, anonymous=True, user=first["user"])
    thread = with_token(tenant.http, first["token"]).post("/threads", json={}).json()["id"]
    assert claim(signed_in(tenant.http, "ann"), second["token"]).json()["threads"] == [thread]
    assert with_token(tenant.http, first["token"]).get("/threads").status_code == 401


@pytest.mark.long
def test_claim_takes_all_threads_or_none(tenant: Tenant) -> None:
    nobody = token_of(tenant.http, anonymous=True)
    with with_token(tenant.http, nobody["token"]) as http, ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: http.post("/threads", json={}).status_code, range(501)))
        assert made == [201] * 501
        ann = signed_in(tenant.http, "ann")
        answer = claim(ann, nobody["token"])
        assert (answer.status_code, code_of(answer)) == (409, "too_many_threads")
        assert ann.get("/threads").json()["data"] == []
        last = http.get("/threads", params={"limit": 1}).json()["data"][0]["id"]
        assert http.delete(f"/threads/{last}").status_code == 200
    assert len(claim(ann, nobody["token"]).json()["threads"]) == 500

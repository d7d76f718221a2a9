"""Projects and keys: what a key may do, until when, and what it may not."""

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import openai
import pytest

from tests.projects import Project, new_key
from tests.service import Process, Service, eventually

SCOPES = ("read", "write", "audit", "admin")
FIVE_SECONDS = 5.0


def client(service: Service, key: str) -> httpx2.Client:
    return httpx2.Client(base_url=f"{service.url}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60)


def code_of(answer: httpx2.Response) -> Any:
    return answer.json()["error"]["code"]


@pytest.fixture
def operator(service: Service) -> httpx2.Client:
    """Return a client with a key of the operating project."""
    return service.http


def made(operator: httpx2.Client) -> dict[str, Any]:
    answer = operator.post("/admin/projects", json={"name": uuid4().hex})
    assert answer.status_code == 201, answer.text
    project: dict[str, Any] = answer.json()
    return project


def key_of(http: httpx2.Client, project: str, **fields: Any) -> dict[str, Any]:
    answer = http.post(f"/admin/projects/{project}/keys", json={"name": "app", **fields})
    assert answer.status_code == 201, answer.text
    key: dict[str, Any] = answer.json()
    return key


def scope_of(method: str, path: str) -> str:
    """Return the scope that an operation requires, independently of the code."""
    if path.startswith(("/v1/admin/", "/v1/webhooks")) or (method, path) == ("patch", "/v1/project"):
        return "admin"
    if path.startswith("/v1/holds") and method == "post":
        return "admin"
    if "/audit" in path or path.startswith("/v1/holds") or path.endswith(("/held", "/certificate", "/proof")):
        return "audit"
    return "read" if method == "get" or path in ("/v1/responses/input_tokens", "/v1/stream_tickets") else "write"


def test_every_route_takes_one_scope_and_no_other_opens_it(service: Service, service_env: dict[str, str]) -> None:
    name = uuid4().hex
    clients = {scope: client(service, new_key(service_env["DATABASE_URL"], name, scopes=[scope])) for scope in SCOPES}
    document = httpx2.get(f"{service.url}/openapi.json").json()
    looked_at = 0
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if operation.get("security") == [] or not path.startswith("/v1/"):
                continue
            place = re.sub(r"{(\w+)}", "nobody", path).removeprefix("/v1")
            for scope, http in clients.items():
                with http.stream(method, place) as answer:
                    refused = answer.status_code == 403 and b"missing_scope" in answer.read()
                # The proof of a turn has its contents: it needs `audit` and `read` at once.
                opens = scope == scope_of(method, path) and not path.endswith("/proof")
                assert refused != opens, (method, path, scope)
            looked_at += 1
    assert looked_at > 90


@pytest.fixture
def reading_key(service_env: dict[str, str]) -> str:
    return new_key(service_env["DATABASE_URL"], uuid4().hex, scopes=["read"])


async def test_openai_client_is_told_which_scope_its_key_lacks(service: Service, reading_key: str) -> None:
    reader = openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=reading_key, max_retries=0)
    with pytest.raises(openai.PermissionDeniedError, match="'write'"):
        await reader.responses.create(model="qwen3.5-plus", input="Hello!")
    assert [model.id async for model in reader.models.list()]


def test_operator_makes_a_project_and_its_key_and_the_key_opens_that_project_alone(
    service: Service, operator: httpx2.Client
) -> None:
    project = made(operator)
    key = key_of(operator, project["id"])
    assert key["scopes"] == ["read", "write", "audit"]
    http = client(service, key["key"])
    thread = http.post("/threads", json={}).json()["id"]
    assert operator.get(f"/threads/{thread}").status_code == 404
    assert http.get("/project").json()["id"] == project["id"]
    listed = operator.get(f"/admin/projects/{project['id']}/keys").json()["data"]
    assert [each["id"] for each in listed] == [key["id"]]
    assert key["key"] not in str(listed)


def test_name_of_a_project_is_one_projects_alone(operator: httpx2.Client) -> None:
    project = made(operator)
    answer = operator.post("/admin/projects", json={"name": project["name"]})
    assert (answer.status_code, code_of(answer)) == (409, "name_taken")


def test_admin_of_a_tenant_manages_that_project_and_sees_no_other(
    service: Service, service_env: dict[str, str], project: Project
) -> None:
    other = Project(service, service_env, project.data_dir)
    own, others = (each.call("GET", "/admin/projects")["data"] for each in (project, other))
    assert len(own) == len(others) == 1
    body: Any
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"aliases": {}}),
        ("GET", "/keys", None),
        ("POST", "/keys", {"name": "theirs"}),
        ("POST", f"/keys/key_{'0' * 32}/rotate", {}),
        ("DELETE", f"/keys/key_{'0' * 32}", None),
    ):
        for given in (others[0]["id"], f"proj_{'0' * 32}"):
            answer = project.http.request(method, f"/admin/projects/{given}{path}", json=body)
            assert answer.status_code == 404, (method, path, answer.text)
            assert answer.json()["error"]["message"].replace(given, "") == (
                "There is no project '' that this key manages."
            )
    answer = project.http.post("/admin/projects", json={"name": uuid4().hex})
    assert (answer.status_code, code_of(answer)) == (403, "operators_only")


@pytest.mark.parametrize(
    "wanted",
    [
        {"limits": {"requests_per_minute": 10**9}},
        {"user_limits": {}},
        {"key_limits": {}},
        {"models": None},
        {"archived": False},
    ],
)
def test_tenant_does_not_lift_what_bounds_it(project: Project, wanted: dict[str, Any]) -> None:
    own = project.call("GET", "/admin/projects")["data"][0]
    answer = project.http.patch(f"/admin/projects/{own['id']}", json=wanted)
    assert (answer.status_code, code_of(answer)) == (403, "operators_only")
    assert project.call("GET", f"/admin/projects/{own['id']}") == own


def test_key_makes_none_that_can_do_more(service: Service, operator: httpx2.Client) -> None:
    project = made(operator)
    admin = client(service, key_of(operator, project["id"], scopes=["admin", "read"])["key"])
    answer = admin.post(f"/admin/projects/{project['id']}/keys", json={"name": "more", "scopes": ["read", "write"]})
    assert (answer.status_code, code_of(answer)) == (403, "missing_scope")
    assert key_of(admin, project["id"])["scopes"] == ["read"]
    writing = key_of(operator, project["id"], scopes=["write"])
    answer = admin.post(f"/admin/projects/{project['id']}/keys/{writing['id']}/rotate")
    assert (answer.status_code, code_of(answer)) == (403, "missing_scope")


def test_revoked_key_is_refused_within_five_seconds_by_every_worker(own_env: dict[str, str]) -> None:
    workers = service, _ = Service(env=own_env), Service(env=own_env)
    try:
        project = made(service.http)
        key = key_of(service.http, project["id"], scopes=["read"])
        revoked = {"Authorization": f"Bearer {key['key']}"}

        def statuses(worker: Service) -> set[int]:
            return {worker.http.get("/threads", headers=revoked).status_code for _ in range(3)}

        # Both have the key cached.
        assert [statuses(worker) for worker in workers] == [{200}, {200}]
        assert service.http.delete(f"/admin/projects/{project['id']}/keys/{key['id']}").status_code == 200
        eventually(lambda: [statuses(worker) for worker in workers] == [{401}, {401}], FIVE_SECONDS)
    finally:
        for worker in workers:
            worker.stop()


def test_key_in_constant_use_is_refused_within_five_seconds_too(service: Service, operator: httpx2.Client) -> None:
    project = made(operator)
    key = key_of(operator, project["id"], scopes=["read"])
    http = client(service, key["key"])
    assert http.get("/threads").status_code == 200
    assert operator.delete(f"/admin/projects/{project['id']}/keys/{key['id']}").status_code == 200
    eventually(lambda: http.get("/threads").status_code == 401, FIVE_SECONDS)
    assert {http.get("/threads").status_code for _ in range(5)} == {401}


def test_rotated_key_and_the_one_before_are_both_taken_for_the_overlap(
    service: Service, operator: httpx2.Client
) -> None:
    project = made(operator)
    former = key_of(operator, project["id"], scopes=["read"], limits={"requests_per_minute": 100})
    place = f"/admin/projects/{project['id']}/keys/{former['id']}/rotate"
    answer = operator.post(place, json={"overlap_seconds": 2})
    assert answer.status_code == 201, answer.text
    made_key = answer.json()
    assert (made_key["scopes"], made_key["limits"]) == (former["scopes"], former["limits"])
    assert made_key["expires_at"] is None
    old, new = client(service, former["key"]), client(service, made_key["key"])
    assert old.get("/threads").status_code == new.get("/threads").status_code == 200
    eventually(lambda: old.get("/threads").status_code == 401)
    assert new.get("/threads").status_code == 200
    assert operator.post(place).status_code == 404


def test_rotation_does_not_outlive_what_was_given_for_a_while(operator: httpx2.Client) -> None:
    project = made(operator)
    former = key_of(operator, project["id"], expires_in=3600)
    answer = operator.post(f"/admin/projects/{project['id']}/keys/{former['id']}/rotate")
    assert answer.json()["expires_at"] == former["expires_at"]


def test_key_ends_when_it_was_said_to(service: Service, operator: httpx2.Client) -> None:
    project = made(operator)
    http = client(service, key_of(operator, project["id"], expires_in=2)["key"])
    assert http.get("/threads").status_code == 200
    eventually(lambda: http.get("/threads").status_code == 401)


def test_archived_project_takes_no_key_until_it_is_restored(service: Service, operator: httpx2.Client) -> None:
    project = made(operator)
    http = client(service, key_of(operator, project["id"])["key"])
    thread = http.post("/threads", json={}).json()["id"]
    place = f"/admin/projects/{project['id']}"
    assert operator.patch(place, json={"archived": True}).json()["archived_at"] is not None
    eventually(lambda: http.get("/threads").status_code == 401)
    assert operator.patch(place, json={"archived": False}).json()["archived_at"] is None
    assert http.get(f"/threads/{thread}").status_code == 200
    own = operator.get("/project").json()["id"]
    answer = operator.patch(f"/admin/projects/{own}", json={"archived": True})
    assert (answer.status_code, code_of(answer)) == (409, "operates")


def test_what_is_done_to_projects_and_keys_is_in_the_audit_trail(service: Service, operator: httpx2.Client) -> None:
    project = made(operator)
    place = f"/admin/projects/{project['id']}"
    key = key_of(operator, project["id"])
    rotated = operator.post(f"{place}/keys/{key['id']}/rotate").json()
    operator.patch(place, json={"aliases": {"chat": "qwen4-max"}})
    operator.delete(f"{place}/keys/{key['id']}")
    records = client(service, rotated["key"]).get("/audit", params={"order": "asc"}).json()["data"]
    actions = [record["action"] for record in records]
    assert actions == [
        "project.created", "key.created", "key.created", "key.rotated", "project.changed", "key.revoked", "key.used",
    ]  # fmt: skip
    by_operator = {record["actor"]["key"] for record in records[:-1]}
    assert len(by_operator) == 1
    assert None not in by_operator
    assert rotated["key"] not in str(records)


def test_key_that_asks_does_not_revoke_itself(project: Project) -> None:
    own = project.call("GET", "/admin/projects")["data"][0]
    keys = project.call("GET", f"/admin/projects/{own['id']}/keys")["data"]
    answer = project.http.delete(f"/admin/projects/{own['id']}/keys/{keys[0]['id']}")
    assert (answer.status_code, code_of(answer)) == (409, "own_key")


def test_pages_of_projects_have_each_project_once(operator: httpx2.Client) -> None:
    wanted = {made(operator)["id"] for _ in range(5)}
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = operator.get("/admin/projects", params={"limit": 2, **after}).json()
        seen += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert len(seen) == len(set(seen))
    assert wanted <= set(seen)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"aliases": {"chat": ""}}, "aliases.chat"),
        ({"origins": ["https://app.example/"]}, "origins.0"),
        ({"origins": ["https://*.example"]}, "origins.0"),
        ({"origins": ["null"]}, "origins.0"),
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"limits": {"requests_per_hour": 1}}, "limits.requests_per_hour"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_wrong_setting_is_named_and_changes_nothing(operator: httpx2.Client, body: dict[str, Any], param: str) -> None:
    project = made(operator)
    place = f"/admin/projects/{project['id']}"
    answer = operator.patch(place, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert operator.get(place).json() == project


def test_commands_make_rotate_and_archive(service_env: dict[str, str], service: Service, tmp_path: Path) -> None:
    name = uuid4().hex

    def run(*arguments: str) -> list[str]:
        process = Process(*arguments, env=service_env)
        assert process.ended() == 0, process.lines
        return process.lines

    def secret(lines: list[str]) -> str:
        return next(line for line in lines if "et_" in line).rpartition(" ")[2]

    assert name in run("projects", "create", name)[0]
    key = secret(run("keys", "create", "--project", name, "--name", f"k{name}", "--scope", "read"))
    line = next(line for line in run("keys", "list") if f"k{name}" in line)
    assert " read " in line
    rotated = secret(run("keys", "rotate", f"k{name}", "--overlap-seconds", "0"))
    assert client(service, rotated).get("/threads").status_code == 200
    assert client(service, key).get("/threads").status_code == 401
    again = secret(run("projects", "rotate", name, "--overlap-seconds", "0"))
    assert client(service, again).get("/threads").status_code == 200
    run("projects", "revoke", name)
    assert any(name in line for line in run("projects", "list"))
    eventually(lambda: client(service, again).get("/threads").status_code == 401)
    run("projects", "restore", name)
    assert client(service, again).get("/threads").status_code == 200
    process = Process("keys", "create", "--scope", "everything", env=service_env)
    assert process.ended() == 1
    assert "There is no scope 'everything'" in process.lines[-1]

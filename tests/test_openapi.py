"""The OpenAPI document says what the service does: held against the routes, by schemathesis, by its own examples."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import iter_route_contexts
from jsonschema import Draft202012Validator

from app.main import PROVIDER_PATHS, build
from app.public import openapi
from app.settings import Connected
from tests.projects import new_key
from tests.service import Service

HERE = Path(__file__).parent

CASES = 1
"""The number of cases for each operation and phase of schemathesis. `make test-all` runs more."""

SEED = 1


@pytest.fixture(scope="module")
def document(running_service: Service) -> dict[str, Any]:
    found: dict[str, Any] = httpx2.get(f"{running_service.url}/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, operation) for path, item in document["paths"].items() for method, operation in item.items()]


def test_document_and_routes_have_the_same_operations(document: dict[str, Any]) -> None:
    app = build(Connected(database_url="postgresql://nowhere/none", redis_url="redis://nowhere"))
    own = (openapi.DOCUMENT, openapi.PAGE, "/console")  # tests/test_console.py walks those.
    there = {
        (method.lower(), re.sub(r":\w+}", "}", str(route.path)))
        for route in iter_route_contexts(app.routes)
        if isinstance(route.methods, set) and not str(route.path).startswith((*own, *PROVIDER_PATHS))
        for method in route.methods - {"HEAD", "OPTIONS"}
    }
    assert {(method, path) for method, path, _ in operations(document)} == there


def test_every_operation_says_what_it_does_and_what_can_go_wrong(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    for _, path, operation in operations(document):
        assert operation["summary"].endswith("."), operation
        assert operation["responses"].keys() & {"200", "201", "202"}, operation
        assert {part["name"] for part in operation["parameters"] if part["in"] == "path"} == set(
            re.findall(r"{(\w+)}", path)
        )
        assert path in openapi.PUBLIC or {"400", "401", "500", "default"} <= operation["responses"].keys()


def test_no_two_types_of_a_generated_client_have_one_name(document: dict[str, Any]) -> None:
    """A type written within a field is named for its schema and the field; some names are the generators' own."""
    schemas = document["components"]["schemas"]
    taken = {"Response", "Unset", "File", "Client", "AuthenticatedClient"}
    for name, schema in schemas.items():
        for field, said in schema.get("properties", {}).items():
            shapes = [said, said.get("items", {}), *said.get("anyOf", ())]
            if any("enum" in shape or shape.get("type") == "object" for shape in shapes):
                taken.add(name + "".join(part.capitalize() for part in field.split("_")))
    assert not taken & schemas.keys()


def test_no_operation_is_reached_without_a_key_but_those_that_say_so(
    document: dict[str, Any], running_service: Service
) -> None:
    for method, path, operation in operations(document):
        # The body is no JSON: nothing of it is read before the key is known.
        answer = httpx2.request(method, running_service.url + re.sub(r"{\w+}", "x", path), content=b"{")
        if operation.get("security") == []:
            assert answer.status_code == (404 if "{token}" in path else 200), path
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), path


def test_its_examples_work_and_fit_its_schemas(document: dict[str, Any], service: Service) -> None:
    thread, shown = service.thread(name="by-example"), 0
    turn = service.turn(thread, "Hello!")["id"]
    project = service.http.post("/admin/projects", json={"name": "of examples"}).json()["id"]
    key = service.http.post(f"/admin/projects/{project}/keys", json={"name": "of examples"}).json()["id"]
    hold = service.http.post("/holds", json={"user": "of examples", "reason": "x"}).json()["id"]
    place = f"/admin/projects/{project}/accounts"
    account = service.http.post(place, json={"name": "a", "api_key": "sk-a", "region": "beijing"}).json()["id"]
    for method, path, operation in operations(document):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        schema = document["components"]["schemas"].get(body.get("$ref", "").rpartition("/")[2], {})
        for example in schema.get("examples", ()):
            Draft202012Validator({**schema, "components": document["components"]}).validate(example)
            where = path.replace("{thread_id}", thread).replace("{name}", "by-example").removeprefix("/v1")
            where = where.replace("{conversation_id}", thread.replace("thread_", "conv_")).replace("{turn_id}", turn)
            where = where.replace("{project_id}", project).replace("{key_id}", key).replace("{account_id}", account)
            where = where.replace("{hold_id}", hold)
            answer = service.http.request(method, where, json=example)
            assert answer.status_code in (200, 201), (path, example, answer.text)
            shown += 1
    assert shown > 20
    for held in service.http.get("/holds", params={"active": "true"}).json()["data"]:
        service.http.post(f"/holds/{held['id']}/release", json={"reason": "x"})
    for webhook in service.http.get("/webhooks").json()["data"]:
        service.http.delete(f"/webhooks/{webhook['id']}")  # Nobody is told of what other tests do.


def test_schemathesis_finds_nothing(
    service: Service, database_url: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    key = new_key(database_url, "schemathesis")
    long = pytestconfig.getoption("--long")
    extent = ["--max-examples", "200"] if long else ["--max-examples", str(CASES), "--phases", "examples,fuzzing"]
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "--config-file", str(HERE / "schemathesis.toml"), "run", f"{service.url}/openapi.json",
        "--header", f"Authorization: Bearer {key}", *extent, "--seed", str(SEED),
        "--request-timeout", "120", "--warnings", "off",
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1500)
    with httpx2.Client(base_url=f"{service.url}/v1", headers={"Authorization": f"Bearer {key}"}) as client:
        # Nobody is told of what other tests do.
        for webhook in client.get("/webhooks").json()["data"]:
            assert client.delete(f"/webhooks/{webhook['id']}").status_code == 200
    assert ran.returncode == 0, ran.stdout
    counted = re.search(r"Selected: (\d+)/(\d+)\n", ran.stdout)
    assert counted is not None
    assert int(counted[2]) - int(counted[1]) == 5, ran.stdout  # Streams without an end, and its own key.


def test_the_page_shows_it_and_loads_nothing_from_elsewhere(running_service: Service) -> None:
    page = httpx2.get(f"{running_service.url}/docs")
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(loaded) >= 3
    for path in loaded:
        assert path.startswith("/docs/assets/"), path
        assert httpx2.get(running_service.url + path).status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    assert "http" not in policy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tool_calls", "x"), ("truncation", "bogus"), ("text", {"format": {"type": "json_schema", "name": "x"}}),
        ("reasoning", "high"), ("reasoning", {"effort": 3}), ("include", "all"), ("user", 7), ("seed", "x"),
        ("stop", 5), ("stream_options", []), ("frequency_penalty", "x"), ("tool_choice", "sometimes"),
        ("tools", [{}]), ("tools", [{"type": "function"}]), ("tools", "f"), ("enable_thinking", "yes"),
        ("service_tier", 1), ("prompt_cache_key", {}), ("safety_identifier", 1), ("max_output_tokens", 16.5),
    ],
)  # fmt: skip
def test_create_parameters_that_are_wrong_name_their_field_and_change_nothing(
    service: Service, field: str, value: Any
) -> None:
    for path in ("/responses", f"/threads/{service.thread()}/turns"):
        answer = service.http.post(path, json={"input": "Hello!", field: value})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"].split(".")[0] == field
    assert service.http.post("/responses", json={"input": "Hello!", "max_output_tokens": 100.0}).status_code == 200
    assert json.loads(service.http.post("/responses", json={"input": "Echo: hi", "brand_new": 1}).content)["output"]

"""Reads of contents are recorded before the answer is sent: whose, on which routes, and whose are not."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
import pytest
from fastapi.routing import iter_route_contexts

from app.db.engine import Database
from app.main import PROVIDER_PATHS, build
from app.projects import keys
from app.projects.reads import Mark, RecordedRoute, mark_of
from app.settings import Connected
from app.trail.records import SERVICE
from tests.projects import Project
from tests.service import Service

OF_THE_APP = "settings, keys, counts or ids, no contents of threads"
OWN = "shows what the request itself has sent or made"
TRAIL = "records of the trail have no contents"
GONE = "deletes, and shows an id"
EXPORT = "has a record of its own for each export: thread.exported, user.exported or audit.exported"
PUBLIC = "no key or token is needed: thread.shared tells who has opened it to whom has the link"
CHANGE = "thread.forked, thread.changed or item.deleted tells who has got to see title and metadata"

NOT_READING: dict[str, str] = {
    "POST /threads/{thread_id}/turns": OWN,
    "POST /threads": OWN,
    "GET /threads/count": OF_THE_APP,
    "GET /find": OF_THE_APP,
    "POST /threads/claim": OF_THE_APP,
    "POST /threads/bulk": OF_THE_APP,
    "DELETE /threads/{thread_id}": GONE,
    "POST /threads/{thread_id}/fork": CHANGE,
    "PATCH /threads/{thread_id}": CHANGE,
    "GET /threads/{thread_id}/branches": OF_THE_APP,
    "GET /threads/{thread_id}/turns/{turn_id}/siblings": OF_THE_APP,
    "POST /threads/{thread_id}/turns/{turn_id}/feedback": OWN,
    "DELETE /feedback/{feedback_id}": GONE,
    "POST /threads/{thread_id}/shares": OWN,
    "GET /threads/{thread_id}/shares": OF_THE_APP,
    "DELETE /shares/{share_id}": GONE,
    "GET /shared/{token}": PUBLIC,
    "GET /threads/{thread_id}/export": EXPORT,
    "GET /threads/{thread_id}/audit": TRAIL,
    "GET /threads/{thread_id}/audit/export": EXPORT,
    "GET /audit": TRAIL,
    "GET /audit/checkpoints": TRAIL,
    "GET /audit/export": EXPORT,
    "GET /audit/checkpoint": TRAIL,
    "GET /audit/consistency": TRAIL,
    "GET /audit/witnesses": TRAIL,
    "GET /audit/stream": TRAIL,
    "POST /holds": OF_THE_APP,
    "GET /holds": OF_THE_APP,
    "GET /holds/{hold_id}": OF_THE_APP,
    "POST /holds/{hold_id}/release": OF_THE_APP,
    "GET /purges/{purge_id}/certificate": TRAIL,
    "GET /project": OF_THE_APP,
    "PATCH /project": OF_THE_APP,
    "GET /users/{user}/data": EXPORT,
    "DELETE /users/{user}/data": OF_THE_APP,
    "GET /users/{user}/data/preview": OF_THE_APP,
    "GET /purges": OF_THE_APP,
    "GET /purges/{purge_id}": OF_THE_APP,
    "GET /usage": OF_THE_APP,
    "GET /usage/hours": OF_THE_APP,
    "GET /failures/summary": OF_THE_APP,
    "POST /user_tokens/revoke": OF_THE_APP,
    "POST /stream_tickets": OF_THE_APP,
    "POST /webhooks": OF_THE_APP,
    "GET /webhooks": OF_THE_APP,
    "GET /webhooks/{webhook_id}": OF_THE_APP,
    "PATCH /webhooks/{webhook_id}": OF_THE_APP,
    "DELETE /webhooks/{webhook_id}": GONE,
    "POST /webhooks/{webhook_id}/rotate": OF_THE_APP,
    "GET /webhooks/{webhook_id}/deliveries": OF_THE_APP,
    "POST /webhooks/{webhook_id}/deliveries/{event_id}/replay": OF_THE_APP,
    "POST /admin/projects": OF_THE_APP,
    "GET /admin/projects": OF_THE_APP,
    "GET /admin/projects/{project_id}": OF_THE_APP,
    "PATCH /admin/projects/{project_id}": OF_THE_APP,
    "POST /admin/projects/{project_id}/keys": OF_THE_APP,
    "GET /admin/projects/{project_id}/keys": OF_THE_APP,
    "POST /admin/projects/{project_id}/keys/{key_id}/rotate": OF_THE_APP,
    "DELETE /admin/projects/{project_id}/keys/{key_id}": GONE,
    "POST /admin/projects/{project_id}/accounts": OF_THE_APP,
    "GET /admin/projects/{project_id}/accounts": OF_THE_APP,
    "GET /admin/projects/{project_id}/accounts/{account_id}": OF_THE_APP,
    "PATCH /admin/projects/{project_id}/accounts/{account_id}": OF_THE_APP,
    "DELETE /admin/projects/{project_id}/accounts/{account_id}": GONE,
    "POST /admin/projects/{project_id}/accounts/{account_id}/check": OF_THE_APP,
    "POST /responses": OWN,
    "WEBSOCKET /responses": OWN,
    "DELETE /responses/{response_id}": GONE,
    "POST /responses/input_tokens": OF_THE_APP,
    "POST /chat/completions": OWN,
    "GET /models": OF_THE_APP,
    "GET /models/{model}": OF_THE_APP,
    "POST /conversations": OWN,
    "POST /conversations/{conversation_id}": OWN,
    "DELETE /conversations/{conversation_id}": GONE,
    "POST /conversations/{conversation_id}/items": OWN,
    "DELETE /conversations/{conversation_id}/items/{item_id}": CHANGE,
    "GET /healthz": OF_THE_APP,
    "GET /readyz": OF_THE_APP,
    "GET /metrics": OF_THE_APP,
    "GET /openapi.json": OF_THE_APP,
    "GET /docs": OF_THE_APP,
    "MOUNT /docs/assets": OF_THE_APP,
    "WEBSOCKET /{path}": "refuses",
}
"""Routes whose answers show no contents, with the reason. The console's pages ask these routes, too."""

MODEL = "qwen3.5-plus"


def routes() -> Iterator[tuple[str, str, Any, Any]]:
    """Each route with its method, path, endpoint and class."""
    service = build(Connected(database_url="postgresql://nowhere/none", redis_url="redis://nowhere"))
    for context in iter_route_contexts(service.routes):
        route = getattr(context, "original_route", None) or getattr(context, "route", None) or context
        endpoint = getattr(context, "endpoint", None) or getattr(route, "endpoint", None)
        path = str(context.path).replace(":path}", "}")
        if isinstance(context.methods, set):
            for method in context.methods - {"HEAD", "OPTIONS"}:
                yield method, path, endpoint, route
        else:
            yield ("WEBSOCKET" if "Socket" in type(route).__name__ else "MOUNT"), path, endpoint, route


def known_as(method: str, path: str) -> str:
    """Return a route as `NOT_READING` names it."""
    for prefix in ("/v1", *PROVIDER_PATHS):
        path = path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path
    return f"{method} {path.replace('/by-name/{name}', '/{thread_id}')}"


def test_every_route_is_marked_as_showing_contents_or_named_here_with_the_reason() -> None:
    marked, named = set[str](), set[str]()
    for method, path, endpoint, route in routes():
        if path.startswith("/console"):
            continue
        if mark_of(endpoint) is None:
            named.add(known_as(method, path))
        else:
            assert isinstance(route, RecordedRoute), path
            marked.add(known_as(method, path))
    assert named - marked == set(NOT_READING)
    assert marked & set(NOT_READING) == set()


def reading() -> list[tuple[str, str, Mark]]:
    """The routes that show contents."""
    return [(method, path, mark) for method, path, endpoint, _ in routes() if (mark := mark_of(endpoint))]


class Reader:
    """An API key of a project."""

    def __init__(self, project: Project, id_: UUID, key: str) -> None:
        self.id = f"key_{id_.hex}"
        self.headers = {"Authorization": f"Bearer {key}"}
        self._project = project

    def ask(self, method: str, path: str, **sent: Any) -> httpx2.Response:
        """Return the head of an answer, and its body if it is no stream."""
        place = self._project.http
        url = str(place.base_url.copy_with(path="/")).rstrip("/") + path
        headers = {**self.headers, **sent.pop("headers", {})}
        with place.stream(method, url, headers=headers, **sent) as answer:
            if "event-stream" not in answer.headers.get("content-type", ""):
                answer.read()
        return answer

    def status(self, path: str) -> int:
        return self.ask("GET", f"/v1{path}").status_code


def readers(project: Project, number: int, scopes: Sequence[keys.Scope] = keys.SCOPES) -> list[Reader]:
    """Make keys of a project."""

    async def make(database: Database, project_id: UUID) -> list[Reader]:
        made = []
        async with database.session() as session:
            for _ in range(number):
                key = keys.new_key()
                row = await keys.add_key(session, SERVICE, project_id, key, name="reader", scopes=scopes)
                assert row is not None
                made.append(Reader(project, row.id, key))
        return made

    return project.run(make)


def recorded(project: Project) -> dict[str, list[tuple[str | None, str]]]:
    """Return the thread and the detail of each read in the trail, by the key that is its reader."""
    found: dict[str, list[tuple[str | None, str]]] = {}
    asked = {"action": "thread.read", "order": "asc", "limit": 100}
    while True:
        page = project.call("GET", "/audit", params=asked)
        for record in page["data"]:
            found.setdefault(record["actor"]["key"], []).append((record["thread"], record["detail"]))
        if not page["has_more"]:
            return found
        asked["after"] = page["last_id"]


def reads_of(project: Project, reader: Reader) -> list[tuple[str | None, str]]:
    return recorded(project).get(reader.id, [])


class Told:
    """A thread with everything that can be read of it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.title = f"Secret title of {project.name}"
        sent = {"name": f"n-{project.name}", "title": self.title, "metadata": {"a": "secret value"}, "user": "ann"}
        self.thread = project.call("POST", "/threads", json=sent)["id"]
        self.turns = [self.say(text) for text in ("Echo: secret words", "Echo: more", "Echo: and more")]
        hidden = {"comment": "secret comment"}
        project.call("POST", f"/threads/{self.thread}/turns/{self.turns[0]}/feedback", json=hidden)
        self.record = project.call("GET", f"/threads/{self.thread}/export")
        conversation = self.thread.replace("thread_", "conv_")
        items = project.call("GET", f"/conversations/{conversation}/items")["data"]
        self.ids = {
            "thread_id": self.thread,
            "name": f"n-{project.name}",
            "turn_id": self.turns[0],
            "response_id": self.turns[0].replace("turn_", "resp_"),
            "conversation_id": conversation,
            "item_id": items[-1]["id"],
            "call_id": f"call_{self.turns[0].removeprefix('turn_')}_1",
            "hold_id": project.call("POST", "/holds", json={"user": "bob", "reason": "A case."})["id"],
        }

    def say(self, text: str) -> str:
        turn: str = self.project.call("POST", f"/threads/{self.thread}/turns", json={"input": text, "model": MODEL})[
            "id"
        ]
        return turn

    def at(self, path: str) -> str:
        return re.sub(r"{(\w+)}", lambda found: self.ids[found[1]], path)

    def sent(self, method: str, path: str) -> dict[str, Any]:
        """Return what a route is sent."""
        match known_as(method, path):
            case "PUT /threads/{thread_id}":
                return {"json": {}}
            case "POST /threads/import":
                return {"json": self.record}
            case "POST /threads/{thread_id}/compact":
                self.say("Echo: to be compacted")
                return {"json": {"keep_turns": 0}}
            case "POST /responses/compact":
                return {"json": {"model": MODEL, "previous_response_id": self.ids["response_id"]}}
            case "POST /user_tokens":
                return {"json": {"user": "ann"}}
            case "GET /search":
                return {"params": {"q": "secret"}}
            case "GET /threads/{thread_id}/replay":
                return {"params": {"speed": 0}}
            case _:
                return {}


@pytest.fixture
def told(project: Project) -> Told:
    return Told(project)


def test_whatever_route_an_admin_key_reads_by_the_trail_tells_it(project: Project, told: Told) -> None:
    marked = reading()
    asked = [(verb, *each) for each in marked for verb in ((each[0], "HEAD") if each[0] == "GET" else (each[0],))]
    expected: dict[str, tuple[str | None, Mark]] = {}
    for (verb, method, path, mark), reader in zip(asked, readers(project, len(asked)), strict=True):
        sent = told.sent(method, path)
        answer = reader.ask(verb, told.at(path), **sent)
        assert answer.status_code in (200, 201), (verb, path, answer.status_code)
        expected[reader.id] = (told.thread if mark.of == "thread" else None, mark)
    found = recorded(project)
    for key, (thread, mark) in expected.items():
        ((of, detail),) = found[key]
        assert of == thread, mark
        of_project = rf"{mark.kind}( of (thread|hold)_[0-9a-f]{{32}})?(: [0-9]+)?"
        assert re.fullmatch(of_project if mark.of == "project" else mark.kind, detail), (detail, mark)
    assert project.verify().problems == []


def test_no_contents_and_no_words_of_a_search_are_recorded(project: Project, told: Told) -> None:
    (reader,) = readers(project, 1)
    for path in (f"/threads/{told.thread}", f"/threads/{told.thread}/messages", "/threads", "/search?q=secret"):
        assert reader.status(path) == 200
    hits = len(project.call("GET", "/search", params={"q": "secret"})["data"])
    assert hits > 0
    assert "secret" not in str(project.call("GET", "/audit", params={"action": "thread.read"})).lower()
    assert reads_of(project, reader) == [
        (told.thread, "thread"), (told.thread, "conversation"), (None, "threads: 1"),
        (None, f"results of a search: {hits}"),
    ]  # fmt: skip


def test_keys_are_recorded_where_the_project_says_so_and_user_tokens_never(project: Project, told: Told) -> None:
    app, auditor = readers(project, 2, ["read", "write", "audit"])
    sent = project.call("POST", "/user_tokens", json={"user": "ann"})
    token = {"Authorization": f"Bearer {sent['token']}"}
    here = f"/threads/{told.thread}"

    def all_read() -> None:
        for path in (here, f"{here}/messages", "/threads", "/search?q=secret"):
            assert app.status(path) == 200
            assert app.ask("GET", f"/v1{path}", headers=token).status_code == 200

    before = sum(map(len, recorded(project).values()))
    all_read()
    assert sum(map(len, recorded(project).values())) == before
    assert auditor.status("/feedback/export") == 200
    assert reads_of(project, auditor) == [(None, "export of feedback")]
    project.call("PATCH", "/project", json={"record_reads": "all"})
    all_read()
    assert len(reads_of(project, app)) == 4
    assert sum(map(len, recorded(project).values())) == before + 5


def test_reads_of_what_holds_keep_are_recorded_whatever_the_project_says_and_not_where_users_see_them(
    project: Project, told: Told
) -> None:
    project.call("PATCH", "/project", json={"record_reads": "off"})
    (auditor,) = readers(project, 1, ["read", "write", "audit"])
    hold = told.ids["hold_id"]
    for path in (f"/threads/{told.thread}/held", f"/holds/{hold}/contents", f"/holds/{hold}/export"):
        assert auditor.status(path) == 200
    assert reads_of(project, auditor) == [
        (None, f"held contents of {told.thread}: 0"), (None, f"threads under a hold of {hold}: 0"),
        (None, f"export of held contents of {hold}"),
    ]  # fmt: skip


def test_the_switch_is_an_admins_and_is_in_the_trail_itself(project: Project, told: Told) -> None:
    (app,), (admin,) = readers(project, 1, ["read", "write", "audit"]), readers(project, 1)
    refused = app.ask("PATCH", "/v1/project", json={"record_reads": "off"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
    for wrong in (None, "none", True, ["off"]):
        assert project.http.patch("/project", json={"record_reads": wrong}).status_code == 400
    assert project.call("GET", "/project")["record_reads"] == "staff"
    off = admin.ask("PATCH", "/v1/project", json={"record_reads": "off", "session_cache": "auto"})
    assert off.json()["record_reads"] == "off"
    assert admin.status(f"/threads/{told.thread}") == 200
    assert reads_of(project, admin) == []
    (record,) = project.records(action="project.changed")
    assert (record["detail"], record["actor"]["key"]) == ("session_cache, record_reads=off", admin.id)
    project.call("PATCH", "/project", json={"record_reads": "staff"})
    assert admin.status(f"/threads/{told.thread}") == 200
    assert reads_of(project, admin) == [(told.thread, "thread")]
    assert project.records(action="project.changed")[-1]["detail"] == "record_reads=staff"
    assert project.verify().problems == []
    project.sql("UPDATE projects SET record_reads = 'off' WHERE project_id = $1")
    assert [problem.what for problem in project.verify().problems] == [
        "whose reads are recorded: it is not what was recorded"
    ]


@contextmanager
def refusing(project: Project) -> Iterator[None]:
    """Let Postgres refuse the project's records of reads, as it does when its disk is full."""
    name = f"refuse_{project.name}"

    async def run(*statements: str) -> None:
        connection = await asyncpg.connect(project.env["DATABASE_URL"])
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    project_id = project.run(_same)
    asyncio.run(
        run(
            f"""CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = 'disk_full'; END $$""",
            f"""CREATE TRIGGER {name} BEFORE INSERT ON audit_records FOR EACH ROW
            WHEN (new.project_id = '{project_id}' AND new.action = 'thread.read') EXECUTE FUNCTION {name}()""",
        )
    )
    try:
        yield
    finally:
        asyncio.run(run(f"DROP TRIGGER {name} ON audit_records", f"DROP FUNCTION {name}"))


async def _same(_: Database, project_id: UUID) -> UUID:
    return project_id


def test_what_cannot_be_recorded_is_not_read(project: Project, told: Told) -> None:
    marked = [each for each in reading() if each[1].startswith("/v1/") and "by-name" not in each[1]]
    asked = [(method, told.at(path), told.sent(method, path)) for method, path, _ in marked]
    (reader,), (app,) = readers(project, 1), readers(project, 1, ["read", "write"])
    with refusing(project):
        for method, path, sent in asked:
            answer = reader.ask(method, path, **sent)
            assert answer.status_code == 503, (method, path)
            assert set(answer.json()) == {"error"}
            assert "secret" not in answer.text.lower()
        assert reader.status(f"/threads/{told.thread}") == 503
        # Nobody else is concerned: not the app, and not the turns.
        assert app.status(f"/threads/{told.thread}") == 200
        told.say("Echo: goes on")
    assert reads_of(project, reader) == []
    assert reader.status(f"/threads/{told.thread}") == 200
    assert reads_of(project, reader) == [(told.thread, "thread")]


def test_a_reader_is_recorded_once_a_minute_however_often_and_by_whatever_address(project: Project, told: Told) -> None:
    reader, other = readers(project, 2)
    conversation = told.ids["conversation_id"]
    ways = (
        f"/threads/{told.thread}/messages", f"/threads/{told.thread}/turns",
        f"/threads/by-name/{told.ids['name']}/turns", f"/conversations/{conversation}/items",
        f"/responses/{told.ids['response_id']}",
        f"/threads/{told.thread}/turns/{told.turns[1]}",
    )  # fmt: skip
    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(reader.status, ways * 4)) == {200}
    assert reads_of(project, reader) == [(told.thread, "conversation")]
    assert other.status(ways[0]) == 200
    assert reads_of(project, other) == [(told.thread, "conversation")]
    # The pages of a list are readings of their own: a page of one is no cover for the next.
    for path in ("/threads?limit=1", "/threads?limit=1", "/threads?limit=100"):
        assert reader.status(path) == 200
    assert reads_of(project, reader)[1:] == [(None, "threads: 1"), (None, "threads: 1")]


def test_no_detour_avoids_the_record(project: Project, told: Told) -> None:
    here, conversation = f"/v1/threads/{told.thread}", told.ids["conversation_id"]
    detours: list[tuple[str, str, dict[str, Any]]] = [
        ("HEAD", f"{here}/messages", {}),
        ("GET", f"{here}/messages/", {}),
        ("GET", f"{here}/messages", {"headers": {"Range": "bytes=0-9", "If-None-Match": "*"}}),
        ("GET", f"{here}/messages", {"params": {"format": "markdown"}}),
        ("GET", f"/v1/threads/by-name/{told.ids['name']}/messages", {}),
        ("GET", f"{PROVIDER_PATHS[0]}/conversations/{conversation}/items", {}),
        ("GET", f"/v1/responses/{told.ids['response_id']}", {"params": {"stream": "true"}}),
        ("POST", f"{here}/turns/{told.turns[0]}/cancel", {}),
        ("POST", "/v1/responses/compact", {"json": {"model": MODEL, "previous_response_id": told.ids["response_id"]}}),
    ]
    for (method, path, sent), reader in zip(detours, readers(project, len(detours)), strict=True):
        assert reader.ask(method, path, **sent).status_code == 200, path
        assert reads_of(project, reader) == [(told.thread, "conversation")], path


def test_a_refused_read_and_what_a_request_has_made_itself_leave_no_record(project: Project, told: Told) -> None:
    (reader,) = readers(project, 1)
    none = "0" * 32
    for path in (
        f"/threads/thread_{none}", f"/threads/{told.thread}/turns/turn_{none}", f"/responses/resp_{none}",
        f"/calls/call_{none}_1", f"/threads/{told.thread}/turns?limit=0", "/search",
        f"/threads/thread_{none}/compactions",
    ):  # fmt: skip
        assert reader.status(path) in (400, 404), path
    assert reader.ask("PUT", "/v1/threads/by-name/new", json={"title": "Mine"}).status_code == 201
    compacted = reader.ask("POST", "/v1/responses/compact", json={"model": MODEL, "input": "A story."})
    assert compacted.status_code == 200
    assert reads_of(project, reader) == []


def test_a_stranger_leaves_nothing_in_anothers_trail(
    project: Project,
    told: Told,
    service: Service,
    service_env: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    stranger = Project(service, service_env, tmp_path_factory.mktemp("stranger"))
    before = len(project.records())
    for method, path, _ in reading():
        if path.startswith("/v1/") and "{" in path and method != "PUT":
            url = told.at(path).removeprefix("/v1")
            assert stranger.http.request(method, url, **told.sent(method, path)).status_code in (400, 404), path
    assert stranger.records(action="thread.read") == []
    assert [record["action"] for record in project.records()[before:] if record["action"] == "thread.read"] == []
    stranger.http.close()


def test_a_read_changes_nothing_and_wakes_no_stream(project: Project, told: Told) -> None:
    (reader,) = readers(project, 1)
    thread = project.call("GET", f"/threads/{told.thread}")
    place = f"/threads/{told.thread}/events"
    with project.http.stream("GET", place) as of_thread, project.http.stream("GET", "/events") as of_project:
        streams = [answer.iter_lines() for answer in (of_thread, of_project)]
        for lines in streams:
            assert next(line for line in lines if line.startswith("event:")) == "event: snapshot"
        for path in ("", "/messages", "/chain"):
            assert reader.status(f"/threads/{told.thread}{path}") == 200
        assert reader.status("/threads") == 200
        assert len(reads_of(project, reader)) == 4
        assert project.call("GET", f"/threads/{told.thread}") == thread
        project.call("PATCH", f"/threads/{told.thread}", json={"title": "Changed"})
        for lines in streams:
            assert next(line for line in lines if line.startswith("event:")) == "event: thread.updated"
    sent = {"url": "https://example.com/", "events": ["thread.read"]}
    assert project.http.post("/webhooks", json=sent).status_code == 400


def test_a_deleted_threads_readers_stay_in_the_trail(project: Project, told: Told) -> None:
    (reader,) = readers(project, 1)
    assert reader.status(f"/threads/{told.thread}/messages") == 200
    project.call("DELETE", f"/threads/{told.thread}")
    found = project.call("GET", f"/threads/{told.thread}/audit", params={"action": "thread.read"})
    assert reader.id in [record["actor"]["key"] for record in found["data"]]
    assert found["names"][reader.id] == "reader"
    assert project.verify().problems == []

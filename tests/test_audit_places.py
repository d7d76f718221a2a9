"""Audit records cover more than contents: every column that a reader of the API sees, and where each row stands."""

import re
import threading
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import asyncpg
import httpx2
import pytest

import app
from app import schema
from app.audit.verify import Problem, verify_project
from app.db.engine import Database
from app.history.tables import Feedback, Share
from app.memory.tables import Compaction
from app.projects.tables import ApiKey
from app.projects.tables import Project as ProjectRow
from app.threads.tables import Thread
from app.trail.contents import FIELDS
from app.trail.records import Action
from app.turns.tables import Call, Item, Turn
from tests.projects import Project
from tests.service import Service

AUDITED = (Thread, Turn, Item, Call, Compaction, Feedback, Share, ApiKey, ProjectRow)

DOCS = Path(app.__file__).parents[1] / "docs" / "audit.md"

NOT_COVERED = set(re.findall(r"`(\w+\.\w+)`", DOCS.read_text().partition("## What it does not prove")[2]))

OTHER_VALUE = {
    "uuid": "gen_random_uuid()",
    "text": "'x' || coalesce({0}, '')",
    "json": """'{{"changed": "x"}}'""",
    "jsonb": """'{{"changed": "x"}}'""",
    "bytea": "sha256('x')",
    "timestamp with time zone": "coalesce({0}, now()) - interval '1 day'",
    "integer": "coalesce({0}, 0) + 1000",
    "bigint": "coalesce({0}, 0) + 1000",
    "smallint": "(coalesce({0}, 0) + 1) % 1024",
    "boolean": "NOT {0}",
    "double precision": "coalesce({0}, 0) / 2 + 0.1",
    "ARRAY": "array_append(coalesce({0}, '{{}}'), 'x')",
}

OWN_OTHER_VALUE = {
    "items.origin": "CASE origin WHEN 'input' THEN 'output' ELSE 'input' END",
    "calls.continuation": "CASE continuation WHEN 'new' THEN 'chained' ELSE 'new' END",
    "calls.refs": "ARRAY[1, 0] || refs",
    "api_keys.scopes": "ARRAY['read']",
    "projects.session_cache": "'off'",
    "projects.record_reads": "'off'",
    "projects.minimum_retention_days": "7",
    # The database refuses a destroyed key alone.
    "projects.key_destroyed_at": "now(), encrypted_at = now(), archived_at = now()",
    # The database refuses a ready compaction that has no text.
    "compactions.status": "'failed', text = NULL, error = '{}'",
}


@pytest.fixture
def told(project: Project) -> dict[str, Any]:
    """A project with something in every audited table, which verifies. Ids of one row each."""
    thread = project.call(
        "POST",
        "/threads",
        json={
            "user": "ann",
            "name": f"n-{project.name}",
            "title": "A talk",
            "metadata": {"a": "1"},
            "ttl_seconds": 9000,
        },
    )["id"]
    asked = {"input": "Echo: one", "metadata": {"b": "2"}, "temperature": 0.5}
    turns = [project.call("POST", f"/threads/{thread}/turns", json=asked)["id"] for _ in range(3)]
    project.call("POST", f"/threads/{thread}/compact", json={"keep_turns": 1}, timeout=60)
    fork = project.call("POST", f"/threads/{thread}/fork", json={"turn_id": turns[1]})["id"]
    project.call("POST", f"/threads/{fork}/turns", json={"input": "Echo: in the fork"})
    said = {"score": 0.5, "label": "good", "comment": "quite", "user": "ann"}
    project.call("POST", f"/threads/{thread}/turns/{turns[0]}/feedback", json=said)
    project.call("POST", f"/threads/{thread}/shares", json={"expires_in": 3600})
    project.call("PATCH", "/project", json={"session_cache": "auto", "retention_days": 400})
    assert project.verify().problems == []
    return {"project": project, "thread": thread, "turns": turns, "fork": fork}


class Changes:
    """A superuser who changes rows, and somebody who verifies then."""

    def __init__(self, connection: asyncpg.Connection, database: Database, project_id: UUID) -> None:
        self._connection = connection
        self._database = database
        self._project_id = project_id

    async def columns(self, table: str) -> dict[str, str]:
        wanted = """
            SELECT column_name, data_type FROM information_schema.columns
            WHERE table_name = $1 AND is_generated = 'NEVER'
        """
        return {row["column_name"]: row["data_type"] for row in await self._connection.fetch(wanted, table)}

    async def problems_of(self, table: str, column: str, type_: str, where: str) -> list[Problem]:
        """Change a column of a row, verify, and change it back."""
        columns = ", ".join(await self.columns(table))
        await self._connection.execute(f"CREATE TEMP TABLE kept AS SELECT {columns} FROM {table} WHERE {where}")
        assert await self._connection.fetchval("SELECT count(*) FROM kept") == 1, table
        value = OWN_OTHER_VALUE.get(f"{table}.{column}", OTHER_VALUE[type_].format(column))
        try:
            changed = await self._connection.fetchval(
                f"UPDATE {table} SET {column} = {value} WHERE {where} RETURNING ctid"
            )
        except asyncpg.CheckViolationError:
            assert f"{table}.{column}" == "compactions.lease_expires_at"  # A ready one has none, says the database.
            await self._connection.execute("DROP TABLE kept")
            return []
        verdict = await verify_project(self._database, self._project_id)
        await self._connection.execute(f"DELETE FROM {table} WHERE ctid = $1", changed)
        await self._connection.execute(f"INSERT INTO {table} ({columns}) SELECT * FROM kept; DROP TABLE kept")
        return verdict.problems


def changing(project: Project, work: Any) -> None:
    """Do something with every trigger off."""

    async def run(database: Database, project_id: UUID) -> None:
        connection = await asyncpg.connect(project.env["DATABASE_URL"])
        try:
            await connection.execute("SET session_replication_role = replica")
            await work(Changes(connection, database, project_id), project_id)
        finally:
            await connection.close()

    project.run(run)


def digits(shown: str) -> str:
    return shown.partition("_")[2]


@pytest.mark.parametrize("table", [model.__tablename__ for model in AUDITED])
def test_a_change_of_any_column_is_reported_or_named_in_the_docs_as_not_covered(
    told: dict[str, Any], table: str
) -> None:
    thread, turn = digits(told["thread"]), digits(told["turns"][0])

    async def work(changes: Changes, project_id: UUID) -> None:
        ours = f"project_id = '{project_id}'"
        rows = {
            "threads": f"id = '{thread}'",
            "turns": f"id = '{turn}'",
            "items": f"turn_id = '{turn}' AND position = 0",
            "calls": f"turn_id = '{turn}'",
        }
        where = f"{ours} AND {rows[table]}" if table in rows else ours
        wrong = []
        for column, type_ in (await changes.columns(table)).items():
            problems = await changes.problems_of(table, column, type_, where)
            if bool(problems) == (f"{table}.{column}" in NOT_COVERED):
                wrong.append((column, problems))
        assert wrong == []

    changing(told["project"], work)


PLACE = (
    "thread_id", "seq", "beside", "parent_id", "copied_from_id", "created_at", "arrived_at", "completed_at",
    "deleted_at", "api_key_id", "status", "model", "response_id", "left_salt",
)  # fmt: skip


def test_the_place_of_a_deleted_turn_is_proved_without_its_content(told: dict[str, Any]) -> None:
    project, turn = told["project"], told["turns"][1]
    project.call("DELETE", f"/responses/resp_{digits(turn)}")
    kept = project.sql(f"SELECT salt, left_salt FROM turns WHERE id = '{digits(turn)}'")
    assert kept[0]["salt"] is None
    assert len(kept[0]["left_salt"]) == 16
    assert project.verify().problems == []

    async def work(changes: Changes, project_id: UUID) -> None:
        types = await changes.columns("turns")
        for column in PLACE:
            assert await changes.problems_of("turns", column, types[column], f"id = '{digits(turn)}'"), column

    changing(project, work)


@pytest.mark.parametrize(
    "written",
    [
        "UPDATE turns SET parent_id = NULL WHERE id = $last",
        "UPDATE threads SET head_turn_id = $turn WHERE id = $thread",
        "UPDATE threads SET head_turn_id = NULL WHERE id = $thread",
        "UPDATE turns SET deleted_at = now() WHERE id = $turn",
        # A turn goes to another thread, and its number is free there.
        "UPDATE turns SET thread_id = $fork, seq = 99 WHERE id = $turn",
        # Two turns change places.
        """UPDATE turns SET seq = -seq WHERE thread_id = $thread AND seq < 3;
        UPDATE turns SET seq = 3 + seq WHERE thread_id = $thread AND seq < 0""",
        """UPDATE items SET position = 101 - position WHERE turn_id = $turn;
        UPDATE items SET position = position - 100 WHERE turn_id = $turn""",
        "DELETE FROM feedback WHERE project_id = $1",
        "DELETE FROM shares WHERE project_id = $1",
        "DELETE FROM api_keys WHERE project_id = $1",
        "DELETE FROM compactions WHERE project_id = $1",
        "INSERT INTO items SELECT project_id, bucket, turn_id, 7, origin, type, 'more', data FROM items "
        "WHERE turn_id = $turn AND position = 0",
        "INSERT INTO threads (project_id, bucket, id, title, trail_key, salt) "
        "SELECT project_id, bucket_of($last), $last, 'More', trail_key, salt FROM threads WHERE id = $thread",
        "INSERT INTO calls SELECT project_id, bucket, turn_id, 2, continuation, url, frames, refs, dropped_items, "
        "status, response_id, error, started_at, finished_at FROM calls WHERE turn_id = $turn",
        "INSERT INTO feedback SELECT project_id, bucket, gen_random_uuid(), turn_id, score, label, comment, user_id, "
        "created_at, salt FROM feedback WHERE project_id = $1",
        "INSERT INTO shares SELECT project_id, bucket, gen_random_uuid(), thread_id, turn_id, token_hash, expires_at, "
        "created_at, salt FROM shares WHERE project_id = $1",
        "INSERT INTO api_keys (project_id, id, name, key_hash, hint, scopes, salt) VALUES ($1, gen_random_uuid(), "
        "'more', sha256($1::text::bytea), 'et_', '{admin}', sha256('x'))",
        "INSERT INTO api_keys (project_id, id, name, key_hash, hint) VALUES ($1, gen_random_uuid(), 'more', "
        "sha256($1::text::bytea), 'et_')",
    ],
)
def test_rows_that_are_moved_taken_away_or_put_in_are_reported(told: dict[str, Any], written: str) -> None:
    project = told["project"]
    places = {"$turn": told["turns"][0], "$last": told["turns"][2], "$thread": told["thread"], "$fork": told["fork"]}
    for name, value in places.items():
        written = written.replace(name, f"'{digits(value)}'")
    project.sql(written)
    assert project.verify().problems


def test_what_stands_beside_a_deleted_turn_is_still_proved(told: dict[str, Any]) -> None:
    project, turn = told["project"], told["turns"][2]  # The one that the link shows.
    project.call("DELETE", f"/responses/resp_{digits(turn)}")
    assert project.verify().problems == []
    ours = f"id = '{digits(turn)}'"
    for table, column, value, where in (
        ("shares", "title", "'Other'", "true"), ("shares", "expires_at", "NULL", "true"),
        ("shares", "token_hash", "sha256('x')", "true"), ("shares", "salt", "NULL", "true"),
        ("turns", "params", """'{"a": 1}'""", ours), ("turns", "metadata", """'{"a": "b"}'""", ours),
        ("turns", "response", "'{}'", ours), ("turns", "pace", "'{}'", ours), ("turns", "context", "'{}'", ours),
    ):  # fmt: skip
        where = f"project_id = $1 AND {where}"
        project.sql(f"CREATE TABLE kept AS SELECT * FROM {table} WHERE {where}")
        try:
            project.sql(f"UPDATE {table} SET {column} = {value} WHERE {where}")
            assert project.verify().problems, (table, column)
            project.sql(f"UPDATE {table} t SET {column} = kept.{column} FROM kept WHERE t.id = kept.id")
        finally:
            project.sql("DROP TABLE kept")
    assert project.verify().problems == []


def test_a_compaction_of_a_thread_that_was_imported_again_is_not_missing_unnoticed(told: dict[str, Any]) -> None:
    project, thread = told["project"], told["thread"]
    project.call("DELETE", f"/threads/{told['fork']}")
    exported = project.call("GET", f"/threads/{thread}/export")
    project.call("DELETE", f"/threads/{thread}")
    assert project.http.post("/threads/import", json=exported).status_code == 201
    assert project.verify().problems == []
    project.sql("DELETE FROM compactions WHERE project_id = $1")
    assert project.verify().problems


def test_a_verdict_names_what_was_changed(told: dict[str, Any]) -> None:
    project, thread, turn = told["project"], told["thread"], told["turns"][0]
    for statement, where, what in (
        ("UPDATE turns SET parent_id = gen_random_uuid() WHERE id = $turn", thread, turn),
        (f"UPDATE threads SET head_turn_id = '{digits(turn)}' WHERE id = $2", thread, "head"),
        ("UPDATE feedback SET score = -1 WHERE project_id = $1", thread, "feedback_"),
        ("UPDATE shares SET turn_id = gen_random_uuid() WHERE project_id = $1", thread, "share_"),
        ("UPDATE api_keys SET scopes = '{admin}' WHERE project_id = $1", "the project's own record", "key_"),
        (
            "UPDATE projects SET settings = '{\"models\": []}' WHERE project_id = $1",
            "the project's own record",
            "limits",
        ),
    ):
        project.sql(statement.replace("$turn", f"'{digits(turn)}'"), thread)
        found = project.verify().problems
        assert any(problem.where.startswith(where) and what in problem.what for problem in found), (statement, found)


def test_nothing_that_is_said_or_set_is_in_a_record(project: Project, service: Service) -> None:
    word = "Quetzalcoatlus"
    made = {"user": word, "name": word, "title": word, "metadata": {word: word}}
    thread = project.call("POST", "/threads", json=made)["id"]
    turn = project.call("POST", f"/threads/{thread}/turns", json={"input": word, "metadata": {word: word}})["id"]
    project.call(
        "POST", f"/threads/{thread}/turns/{turn}/feedback", json={"label": word, "comment": word, "user": word}
    )
    project.call("PATCH", f"/threads/{thread}", json={"title": word * 2})
    project.call("POST", f"/threads/{thread}/shares", json={})
    proj = project.call("GET", "/project")["id"]
    changed = {"aliases": {word: word}, "origins": [f"https://{word.lower()}.example"]}
    assert project.http.patch(f"/admin/projects/{proj}", json=changed).status_code == 200
    project.call("PATCH", "/project", json={"retention_days": 12345})
    said = str(project.sql("SELECT * FROM audit_records WHERE project_id = $1"))
    assert word.lower() not in said.lower()
    assert "12345" not in said
    assert project.verify().problems == []


SALTED = ("projects", "api_keys", "threads", "turns", "compactions", "feedback", "shares")


def salts(project: Project) -> set[bytes]:
    """Every salt that lies in the database."""
    every = " UNION ALL ".join(f"SELECT salt FROM {table} WHERE project_id = $1" for table in SALTED)
    return {row["salt"] for row in project.sql(every)}


def test_no_salt_is_left_of_what_was_deleted_or_changed(project: Project, service: Service) -> None:
    """With the salt, whoever reads the database could guess what a record's digest is of."""

    def salt_of(table: str, where: str = "true") -> bytes:
        (row,) = project.sql(f"SELECT salt FROM {table} WHERE project_id = $1 AND {where}")
        assert row["salt"] in salts(project)
        return bytes(row["salt"])

    response = project.call("POST", "/responses", json={"input": "My PIN is 1234."})
    thread, turn = response["conversation"]["id"], response["id"]
    item = project.call("GET", f"/responses/{turn}/input_items")["data"][0]["id"]
    before = salt_of("turns")
    assert project.http.delete(f"/conversations/{thread}/items/{item}").status_code == 200
    assert before not in salts(project)
    before = salt_of("turns")
    assert project.http.delete(f"/responses/{turn}").status_code == 200
    assert before not in salts(project)
    path = f"/threads/thread_{digits(thread)}"
    for change in ({"title": "A secret"}, {"title": None}, {"metadata": {"a": "b"}}):
        before = salt_of("threads")
        assert project.http.patch(path, json=change).status_code == 200
        assert before not in salts(project)
    before = salt_of("projects")
    assert project.call("PATCH", "/project", json={"retention_days": 400})["retention_days"] == 400
    assert before not in salts(project)
    proj = project.call("GET", "/project")["id"]
    made = project.http.post(f"/admin/projects/{proj}/keys", json={"name": "one"}).json()
    before = salt_of("api_keys", f"id = '{digits(made['id'])}'")
    assert project.http.delete(f"/admin/projects/{proj}/keys/{made['id']}").status_code == 200
    assert before not in salts(project)
    assert project.verify().problems == []


def test_what_the_service_does_itself_verifies_at_every_step(project: Project, service: Service) -> None:
    def verified() -> None:
        assert project.verify().problems == []

    def turn(thread: str, words: str, **more: Any) -> str:
        answered = project.call("POST", f"/threads/{thread}/turns", json={"input": f"Echo: {words}", **more})
        return str(answered["id"])

    thread = project.call("POST", "/threads", json={"created_at": 1_000_000_000.5})["id"]
    first, second, third = (turn(thread, words) for words in ("one", "two", "three"))
    beside = turn(thread, "beside", parent_id=first, if_busy="beside")
    verified()
    other = turn(thread, "a branch", parent_id=first)
    assert project.call("GET", f"/threads/{thread}")["head_id"] == other
    verified()
    project.call("PATCH", f"/threads/{thread}", json={"head_id": third, "title": "A talk"})
    verified()
    project.call("POST", f"/threads/{thread}/shares", json={})
    verified()
    project.call("DELETE", f"/responses/resp_{digits(third)}")  # The share's title and salt go with the turn.
    assert project.call("GET", f"/threads/{thread}")["head_id"] == second
    verified()
    conversation = f"conv_{digits(thread)}"
    items = [{"type": "message", "role": "user", "content": words} for words in ("By the way", "and also")]
    added = project.call("POST", f"/conversations/{conversation}/items", json={"items": items})["data"]
    verified()
    project.call("DELETE", f"/conversations/{conversation}/items/{added[0]['id']}")
    verified()
    # The rest of that turn is still proved.
    project.sql(f"UPDATE items SET item_id = 'x' WHERE item_id = '{added[1]['id']}'")
    assert project.verify().problems
    project.sql(f"UPDATE items SET item_id = '{added[1]['id']}' WHERE item_id = 'x' AND project_id = $1")
    verified()
    given = project.call("POST", f"/threads/{thread}/turns/{second}/feedback", json={"score": 1})
    project.call("POST", f"/threads/{thread}/turns/{second}/feedback", json={"comment": "it stays"})
    project.call("DELETE", f"/feedback/{given['id']}")
    link = project.call("POST", f"/threads/{thread}/shares", json={})
    project.call("DELETE", f"/shares/{link['id']}")
    verified()
    fork = project.call("POST", f"/threads/{thread}/fork", json={})["id"]
    turn(fork, "in the fork")
    exported = project.call("GET", f"/threads/{thread}/export")
    verified()
    project.call("DELETE", f"/threads/{thread}")
    verified()
    # The fork has taken the turns over: they are proved to be its own, with the content that they had.
    for column, value in (("thread_id", "gen_random_uuid()"), ("params", "'{\"a\": 1}'"), ("salt", "NULL")):
        (kept,) = project.sql(f"SELECT {column}::text AS was FROM turns WHERE id = '{digits(first)}'")
        project.sql(f"UPDATE turns SET {column} = {value} WHERE id = '{digits(first)}'")
        assert project.verify().problems, column
        project.sql(f"UPDATE turns SET {column} = '{kept['was']}' WHERE id = '{digits(first)}'")
    project.call("DELETE", f"/responses/resp_{digits(beside)}")
    project.call("DELETE", f"/responses/resp_{digits(first)}")
    verified()
    project.call("DELETE", f"/threads/{fork}")
    verified()
    assert project.call("POST", "/threads/import", json=exported)["id"] == thread
    turn(thread, "after the import")
    verified()
    key = project.http.post(f"/admin/projects/{project.call('GET', '/project')['id']}/keys", json={"name": "one"})
    assert key.status_code == 201, key.text
    path = f"/admin/projects/{key.json()['project']}/keys/{key.json()['id']}"
    rotated = project.http.post(f"{path}/rotate", json={})
    assert rotated.status_code == 201, rotated.text
    assert project.http.delete(path).status_code == 200
    verified()
    project.call("DELETE", f"/threads/{thread}")
    verified()


def test_a_trail_that_is_verified_while_turns_run_has_no_false_alarm(project: Project, service: Service) -> None:
    threads = [project.call("POST", "/threads", json={})["id"] for _ in range(3)]
    stop = threading.Event()
    failed: list[str] = []

    def talk(thread: str) -> None:
        with httpx2.Client(base_url=f"{service.url}/v1", headers=project.http.headers, timeout=60) as http:
            for number in range(1000):
                if stop.is_set():
                    return
                answer = http.post(f"/threads/{thread}/turns", json={"input": f"Echo: {number}"})
                if answer.status_code != 200:
                    failed.append(answer.text)
                if number % 3 == 2:
                    http.delete(f"/responses/resp_{digits(answer.json()['id'])}")
                if number % 4 == 3:
                    said = http.post(f"/threads/{thread}/turns/{answer.json()['id']}/feedback", json={"score": 1})
                    http.delete(f"/feedback/{said.json()['id']}") if said.status_code == 201 else None

    talks = [threading.Thread(target=talk, args=(thread,)) for thread in threads]
    for each in talks:
        each.start()
    try:
        found = [project.verify().problems for _ in range(15)]
    finally:
        stop.set()
        for each in talks:
            each.join()
    assert failed == []
    assert found == [[]] * 15
    assert project.verify().problems == []


PROVED_BESIDE = {
    "pieces",
    "media",
    "item_media",
    "audit_records",
    "audit_leaves",
    "audit_checkpoints",
    "audit_cosignatures",
    "audit_origins",
}
"""Parts of items and of calls' bodies, and the trail itself."""

OF_NO_PROJECT = {"cache_keys", "master_nodes", "audit_keys", "learnt_models", "served_revisions"}


def test_every_table_is_audited_or_named_in_the_docs_with_a_reason() -> None:
    named = set(re.findall(r"`(\w+)`", DOCS.read_text().partition("| table | why")[2].partition("| column |")[0]))
    audited = {model.__tablename__ for model in AUDITED}
    assert named | audited | PROVED_BESIDE | OF_NO_PROJECT == set(schema.metadata.tables)
    assert named & (audited | PROVED_BESIDE) == set()


def test_the_docs_name_every_action() -> None:
    table = DOCS.read_text().partition("| action | when |")[2].partition("\n\n")[0]
    named, last = set[str](), ""
    for words in re.findall(r"`([a-z_]*\.[a-z_]+)`", table):
        subject, _, done = words.partition(".")
        last = subject or last
        named.add(f"{last}.{done}")
    assert named == set(get_args(Action))


def test_the_docs_name_columns_that_there_are() -> None:
    names = {f"{model.__tablename__}.{column.name}" for model in AUDITED for column in model.__table__.columns}
    assert NOT_COVERED - names == set()
    assert all(version == 2 for _, version in FIELDS)

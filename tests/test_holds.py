"""Legal holds: what they cover is kept whoever deletes or changes it, and erased when they are released."""

import asyncio
import random
import signal
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx2
import pytest

from app.db.engine import Database
from tests.projects import Project, new_key
from tests.service import Emulator, Service, eventually

CONTENTS = {
    "threads": "id, name, title, user_id, metadata, preset::text, salt, trail_key, created_at",
    "turns": "id, model, params::text, metadata, response::text, error::text, usage::text, salt",
    "items": "turn_id, position, origin, type, item_id, data::text",
    "item_media": "turn_id, position, place, media_id",
    "media": "id, digest, data",
    "calls": "turn_id, attempt, url, frames",
    "pieces": "digest, sources, data, media_id",
    "compactions": "id, turn_id, text, kept_items",
    "feedback": "id, turn_id, score, label, comment, user_id, salt",
    "shares": "id, turn_id, title, token_hash",
    "user_keys": "user_id, key",
}
"""The columns that a deletion or change could lose, by table."""


_LIVE = "SELECT '{table}' AS source, ROW({columns})::text AS said FROM {table} WHERE project_id = $1"
_HELD = """SELECT '{table}' AS source, ROW({columns})::text AS said FROM (
    SELECT (json_populate_record(NULL::{table}, data)).* FROM held_rows
    WHERE project_id = $1 AND source = '{table}' AND ('$2' = '' OR thread_id::text = '$2')
) AS r"""


def contents(project: Project, form: str, thread: str = "") -> dict[str, set[str]]:
    """The contents of all tables, as text."""
    of_thread = str(UUID(thread.partition("_")[2])) if thread else ""
    parts = [form.format(table=table, columns=columns).replace("$2", of_thread) for table, columns in CONTENTS.items()]
    found: dict[str, set[str]] = {table: set() for table in CONTENTS}
    for row in project.sql(" UNION ALL ".join(parts)):
        found[row["source"]].add(row["said"])
    return found


def live(project: Project) -> dict[str, set[str]]:
    return contents(project, _LIVE)


def held(project: Project, thread: str = "") -> dict[str, set[str]]:
    """The contents that are kept; for one thread, if it is given."""
    return contents(project, _HELD, thread)


class Memory:
    """Remembers what was once in a project, and finds what is nowhere any more."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.seen: dict[str, set[str]] = defaultdict(set)
        self.look()

    def look(self) -> dict[str, set[str]]:
        now = live(self.project)
        for table, rows in now.items():
            self.seen[table] |= rows
        return now

    def lost(self) -> dict[str, set[str]]:
        """Look, and return what is lost."""
        now, kept = self.look(), held(self.project)
        found = {table: rows - now[table] - kept[table] for table, rows in self.seen.items()}
        return {table: rows for table, rows in found.items() if rows}


class Held:
    """A project with a client for each kind of caller."""

    def __init__(self, project: Project, emulator: Emulator) -> None:
        self.project, self.emulator = project, emulator
        self.admin = project.http
        self.usual, self.ordinary = (self._client(scopes) for scopes in (["read", "write", "audit"], ["read", "write"]))

    def _client(self, scopes: list[str]) -> httpx2.Client:
        key = new_key(self.project.env["DATABASE_URL"], self.project.name, scopes=scopes)
        return httpx2.Client(
            base_url=self.project.http.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60
        )

    def place(self, **target: Any) -> Any:
        answer = self.admin.post("/holds", json={**target, "reason": "Case 17"})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def release(self, hold: Any) -> None:
        answer = self.admin.post(f"/holds/{hold['id']}/release", json={"reason": "closed"})
        assert answer.status_code == 200, answer.text

    def wait_for_erasure(self, hold: Any) -> None:
        eventually(lambda: self.admin.get(f"/holds/{hold['id']}").json()["erased_at"] is not None)

    def thread(self, **fields: Any) -> str:
        answer = self.ordinary.post("/threads", json=fields)
        assert answer.status_code == 201, answer.text
        found: str = answer.json()["id"]
        return found

    def turn(self, thread: str, text: Any = "Echo: marmalade", **fields: Any) -> str:
        answer = self.ordinary.post(f"/threads/{thread}/turns", json={"input": text, **fields})
        assert answer.status_code == 200, answer.text
        found: str = answer.json()["id"]
        return found

    def conversation(self, **fields: Any) -> tuple[str, str]:
        """A thread with everything that can be in one, and its first turn."""
        thread = self.thread(title="A title", metadata={"topic": "jam"}, **fields)
        turn = self.turn(thread, instructions="Be brief.", metadata={"about": "jam"})
        self.emulator.forget()  # The next one is rebuilt, in pieces.
        self.turn(thread, [{"role": "user", "content": [IMAGE, {"type": "input_text", "text": "What is it?"}]}])
        assert self.ordinary.post(f"/threads/{thread}/turns/{turn}/feedback", json={"comment": "Good"}).is_success
        assert self.ordinary.post(f"/threads/{thread}/shares", json={}).is_success
        return thread, turn


ADA = "ada@example.com"
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64," + "iVBORw0KGgo" * 600}


@pytest.fixture
def case(project: Project, emulator: Emulator) -> Held:
    return Held(project, emulator)


def test_a_deleted_thread_under_a_hold_is_gone_for_all_and_kept_whole(case: Held) -> None:
    thread, turn = case.conversation(user="ada")
    memory = Memory(case.project)
    hold = case.place(thread_id=thread)
    assert case.ordinary.delete(f"/threads/{thread}").json()["deleted"] is True
    for path in (f"/threads/{thread}", f"/threads/{thread}/turns/{turn}", f"/responses/{turn}"):
        assert case.admin.get(path).status_code == 404
    assert memory.lost() == {}
    assert held(case.project, thread)["media"] == memory.seen["media"] != set()
    assert {row["source"] for row in case.project.sql("SELECT source FROM held_rows WHERE project_id = $1")} >= {
        "threads", "turns", "items", "item_media", "media", "calls", "pieces", "feedback", "shares"
    }  # fmt: skip
    case.release(hold)
    eventually(lambda: case.project.sql("SELECT 1 FROM held_rows WHERE project_id = $1") == [])
    shown = case.admin.get(f"/holds/{hold['id']}").json()
    case.wait_for_erasure(hold)
    assert shown["active"] is False
    actions = [record["action"] for record in case.project.records(action="hold.erased")]
    assert actions == ["hold.erased"]
    assert case.project.verify().problems == []


def test_callers_with_audit_scope_are_refused_before_anything_changes(case: Held) -> None:
    thread, turn = case.conversation(user="ada", name=uuid4().hex)
    feedback = case.admin.get(f"/threads/{thread}/turns/{turn}/feedback").json()["data"][0]["id"]
    item = case.admin.get(f"/threads/{thread}/messages").json()["data"][0]["id"]
    conversation = thread.replace("thread_", "conv_")
    hold = case.place(thread_id=thread)
    before = {**live(case.project), "user_keys": set()}
    changes = [{"title": "Other"}, {"title": None}, {"metadata": {}}, {"name": None}, {"user": "bob"}, {"user": None}]
    refused = [
        case.usual.delete(f"/threads/{thread}"),
        case.usual.delete(f"/conversations/{conversation}"),
        case.usual.delete(f"/conversations/{conversation}/items/{item}"),
        case.usual.delete(f"/responses/{turn.replace('turn_', 'resp_')}"),
        case.usual.post(f"/conversations/{conversation}", json={"metadata": {"topic": "other"}}),
        case.usual.delete(f"/feedback/{feedback}"),
        *(case.usual.patch(f"/threads/{thread}", json=change) for change in changes),
        *(case.admin.patch(f"/threads/{thread}", json=change) for change in changes),
    ]
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {(409, "thread_held")}
    assert all(hold["id"] in answer.json()["error"]["message"] for answer in refused)
    many = case.usual.post("/threads/bulk", json={"action": "delete", "ids": [thread]}).json()["data"]
    assert [result["error"]["code"] for result in many] == ["thread_held"]
    purge = case.usual.delete("/users/ada/data")
    assert (purge.status_code, purge.json()["error"]["code"]) == (409, "user_held")
    assert case.admin.get("/purges").json()["data"] == []
    assert {**live(case.project), "user_keys": set()} == before
    assert case.project.sql("SELECT 1 FROM held_rows WHERE project_id = $1") == []
    # Requests without a loss work as usual.
    assert case.usual.patch(f"/threads/{thread}", json={"title": "A title", "archived": True}).is_success
    assert case.usual.post(f"/threads/{thread}/turns", json={"input": "Go on"}).is_success
    assert case.usual.delete("/users/bob/data").status_code == 202
    case.release(hold)
    assert case.usual.delete(f"/threads/{thread}").is_success


def test_others_change_and_delete_as_always_and_everything_is_kept(case: Held) -> None:
    thread, turn = case.conversation(user=ADA, name=uuid4().hex)
    hold = case.place(user=ADA)
    memory = Memory(case.project)
    conversation = thread.replace("thread_", "conv_")
    items = [item["id"] for item in case.ordinary.get(f"/conversations/{conversation}/items").json()["data"]]
    feedback = case.admin.get(f"/threads/{thread}/turns/{turn}/feedback").json()["data"][0]["id"]
    share = case.admin.get(f"/threads/{thread}/shares").json()["data"][0]["id"]
    done = [
        case.ordinary.patch(f"/threads/{thread}", json={"title": "Other", "metadata": {}, "name": None}),
        case.ordinary.delete(f"/feedback/{feedback}"),
        case.ordinary.delete(f"/shares/{share}"),
        *(case.ordinary.delete(f"/conversations/{conversation}/items/{item}") for item in items[:3]),
        case.ordinary.delete(f"/responses/{turn}"),
    ]
    assert [answer.status_code for answer in done] == [200] * len(done)
    assert memory.lost() == {}
    later = case.thread(user=ADA, title="Later")
    case.turn(later)
    memory.look()
    purge = case.ordinary.delete(f"/users/{ADA}/data").json()
    eventually(lambda: case.ordinary.get(f"/purges/{purge['id']}").json()["status"] == "completed")
    assert case.ordinary.get("/threads").json()["data"] == []
    assert live(case.project)["user_keys"] == set()
    assert memory.lost() == {}
    case.release(hold)
    case.wait_for_erasure(hold)
    assert case.project.sql("SELECT 1 FROM held_rows WHERE project_id = $1") == []
    assert case.admin.get(f"/holds/{hold['id']}").json()["user"] is None
    assert ADA not in str(case.project.records())
    assert case.project.verify().problems == []


def test_turns_that_a_held_fork_shares_are_kept_when_their_own_thread_changes(case: Held) -> None:
    source, turn = case.conversation(user="ada")
    last = case.turn(source, "Echo: not in the fork")
    fork = case.ordinary.post(f"/threads/{source}/fork", json={"turn_id": turn, "user": "bob"}).json()["id"]
    case.turn(fork, "Echo: only in the fork")
    case.place(thread_id=fork)
    of_turn = case.project.sql(f"SELECT ROW({CONTENTS['items']})::text AS said FROM items t WHERE turn_id = $2", turn)
    refused = case.usual.delete(f"/responses/{turn}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "thread_held")
    assert case.ordinary.delete(f"/responses/{turn}").is_success
    assert case.ordinary.delete(f"/responses/{last}").is_success
    assert {row["said"] for row in of_turn} <= held(case.project, fork)["items"]
    kept = {
        row["turn_id"].hex
        for row in case.project.sql("SELECT turn_id FROM held_rows WHERE source = 'items' AND project_id = $1")
    }
    assert kept == {turn.partition("_")[2]}


def test_turns_that_a_fork_inherits_from_a_held_thread_are_kept(case: Held) -> None:
    source, _ = case.conversation(user="ada")
    fork = case.ordinary.post(f"/threads/{source}/fork", json={"user": "bob"}).json()["id"]
    case.place(thread_id=source)
    memory = Memory(case.project)
    assert case.ordinary.delete(f"/threads/{source}").is_success
    assert case.ordinary.delete(f"/threads/{fork}").is_success
    assert live(case.project)["turns"] == set()
    lost = memory.lost()
    fork_row = {row for row in lost.pop("threads") if fork.partition("_")[2] in row.replace("-", "")}
    assert (len(fork_row), lost) == (1, {})


def test_a_thread_that_leaves_a_held_user_stays_kept_for_what_it_had(case: Held) -> None:
    thread, _ = case.conversation(user="ada")
    case.place(user="ada")
    memory = Memory(case.project)
    assert case.ordinary.patch(f"/threads/{thread}", json={"user": "bob"}).is_success
    case.turn(thread, "Echo: of bob alone")
    assert case.ordinary.delete(f"/threads/{thread}").is_success
    assert memory.lost() == {}
    assert not any("of bob alone" in row for row in held(case.project)["items"])


def test_expired_and_old_contents_are_purged_as_always_and_kept(case: Held) -> None:
    expiring, old = case.conversation(ttl_seconds=3600)[0], case.conversation()[0]
    mixed, turn = case.conversation()
    case.place(project=True)
    memory = Memory(case.project)
    case.project.sql(
        "UPDATE threads SET updated_at = now() - interval '2 hours', expires_at = now() WHERE id = $2", expiring
    )
    for_old = "UPDATE thread_activity SET active_at = now() - interval '40 days' WHERE thread_id = $2"
    case.project.sql(for_old, old)
    case.project.sql("UPDATE turns SET arrived_at = now() - interval '40 days' WHERE id = $2", turn)
    case.admin.patch("/project", json={"retention_days": 30})
    eventually(lambda: case.ordinary.get(f"/threads/{expiring}").status_code == 404)
    eventually(lambda: case.ordinary.get(f"/threads/{old}").status_code == 404)
    eventually(lambda: case.ordinary.get(f"/threads/{mixed}/turns/{turn}").status_code == 404)
    assert memory.lost() == {}


def test_who_may_not_place_a_hold_and_on_what(case: Held, service: Service) -> None:
    foreign = service.thread()
    refused = case.admin.post("/holds", json={"thread_id": foreign, "reason": "theirs"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "thread_not_found")
    thread = case.thread(user="ada")
    for client in (case.usual, case.ordinary):
        refused = client.post("/holds", json={"thread_id": thread, "reason": "mine"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
    assert case.ordinary.get("/holds").status_code == 403
    bodies: list[dict[str, Any]] = [
        {"reason": "x"}, {"thread_id": thread, "user": "ada", "reason": "x"}, {"project": False, "reason": "x"},
        {"thread_id": thread}, {"thread_id": thread, "reason": ""}, {"user": "ada", "reason": "x" * 2001},
    ]  # fmt: skip
    assert {case.admin.post("/holds", json=body).status_code for body in bodies} == {400}
    assert case.ordinary.delete(f"/threads/{thread}").is_success
    gone = case.admin.post("/holds", json={"thread_id": thread, "reason": "late"})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "thread_not_found")
    unknown = case.admin.post(f"/holds/hold_{'0' * 32}/release", json={"reason": "x"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "hold_not_found")


def raw(project: Project, *statements: str) -> str:
    """Run statements as the service's role, with every trigger on. Return the constraint that refuses one, if any."""

    async def work(database: Database, project_id: UUID) -> str:
        connection = await asyncpg.connect(project.env["DATABASE_URL"])
        try:
            for statement in statements:
                await connection.execute(statement.replace("$1", f"'{project_id}'"))
        except asyncpg.PostgresError as error:
            return str(getattr(error, "constraint_name", None) or error)
        finally:
            await connection.close()
        return ""

    return project.run(work)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM threads WHERE project_id = $1",
        "DELETE FROM items WHERE project_id = $1",
        "DELETE FROM calls WHERE project_id = $1",
        "DELETE FROM feedback WHERE project_id = $1",
        "DELETE FROM shares WHERE project_id = $1",
        "DELETE FROM pieces WHERE project_id = $1",
        "DELETE FROM item_media WHERE project_id = $1; DELETE FROM media WHERE project_id = $1",
        "DELETE FROM user_keys WHERE project_id = $1",
        "UPDATE threads SET title = 'x', user_id = NULL WHERE project_id = $1",
        "UPDATE turns SET response = NULL WHERE project_id = $1",
        "UPDATE turns SET params = '{}', metadata = '{}', salt = NULL WHERE project_id = $1",
        """UPDATE items SET data = '["sealed?"]' WHERE project_id = $1""",
        "UPDATE calls SET frames = NULL WHERE project_id = $1",
        "UPDATE pieces SET data = NULL, sources = '{}', digest = '' WHERE project_id = $1",
        "UPDATE pieces SET data = 'x' WHERE project_id = $1",
        "UPDATE threads SET chain_seq = 0 WHERE project_id = $1; DELETE FROM threads WHERE project_id = $1",
        "UPDATE feedback SET comment = 'x' WHERE project_id = $1",
        "UPDATE media SET data = '' WHERE project_id = $1",
        # Nothing of a session can make the triggers look away.
        "CREATE TEMP TABLE holds (LIKE public.holds); DELETE FROM threads WHERE project_id = $1",
        "SELECT set_config('everthread.function', 'close_turn_v3', false); DELETE FROM items WHERE project_id = $1",
        """CREATE TEMP TABLE t (i int); CREATE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
            DELETE FROM public.items WHERE project_id = $1; RETURN NULL; END $f$;
        CREATE TRIGGER t AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION pg_temp.f(); INSERT INTO t VALUES (1)""",
    ],
)
def test_whatever_statement_deletes_or_overwrites_contents_leaves_a_copy(case: Held, statement: str) -> None:
    case.conversation(user="ada")
    case.place(project=True)
    memory = Memory(case.project)
    assert raw(case.project, statement) == ""
    assert memory.lost() == {}
    assert case.project.sql("SELECT 1 FROM held_rows WHERE project_id = $1 LIMIT 1") != []


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("DELETE FROM holds WHERE project_id = $1", "holds_keep_check"),
        ("UPDATE holds SET scope = 'user', user_id = 'x' WHERE project_id = $1", "holds_keep_check"),
        ("UPDATE holds SET reason = 'other' WHERE project_id = $1", "holds_keep_check"),
        ("UPDATE holds SET created_at = now() WHERE project_id = $1", "holds_keep_check"),
        ("UPDATE holds SET erased_at = now() WHERE project_id = $1", "holds_keep_check"),
        ("DELETE FROM held_rows WHERE project_id = $1", "held_rows_keep_check"),
        ("UPDATE held_rows SET data = '{}' WHERE project_id = $1", "held_rows_keep_check"),
        ("UPDATE held_rows SET user_id = 'x' WHERE project_id = $1", "held_rows_keep_check"),
        (
            "UPDATE projects SET archived_at = now(), encrypted_at = now(), key_destroyed_at = now() "
            "WHERE project_id = $1",
            "holds_key_check",
        ),
        ("DELETE FROM projects WHERE project_id = $1", "holds_project_id_fkey"),
        (
            """CREATE TEMP TABLE t (i int); CREATE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
                DELETE FROM public.shares WHERE project_id = $1; DELETE FROM public.turns WHERE project_id = $1;
                RETURN NULL; END $f$;
            CREATE TRIGGER t AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION pg_temp.f(); INSERT INTO t VALUES (1)""",
            "turns_keep_check",
        ),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ; DELETE FROM items WHERE project_id = $1", "holds_isolation_check"),
        *((f"TRUNCATE {table} CASCADE", "holds_truncate_check") for table in (*CONTENTS, "holds", "held_rows")),
    ],
)  # fmt: skip
def test_the_database_guards_holds_and_what_they_keep(case: Held, statement: str, constraint: str) -> None:
    case.conversation(user="ada")
    case.place(project=True)
    assert raw(case.project, "DELETE FROM feedback WHERE project_id = $1") == ""
    assert raw(case.project, statement) == constraint


def test_a_hold_is_released_once(case: Held) -> None:
    hold = case.place(project=True)
    case.release(hold)
    again = case.admin.post(f"/holds/{hold['id']}/release", json={"reason": "again"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "hold_released")
    changed = "UPDATE holds SET release_reason = 'other' WHERE project_id = $1"
    assert raw(case.project, changed) == "holds_keep_check"
    answer = case.usual.get("/holds", params={"active": "false"})
    assert answer.status_code == 200, answer.text
    listed = answer.json()["data"]
    assert [(each["id"], each["release_reason"], each["reason"]) for each in listed] == [
        (hold["id"], "closed", "Case 17")
    ]
    assert case.usual.get("/holds", params={"active": "true"}).json()["data"] == []


def test_what_two_holds_keep_is_erased_with_the_last_of_them(case: Held) -> None:
    thread, _ = case.conversation(user="ada")
    first, second = case.place(thread_id=thread), case.place(user="ada")
    assert case.ordinary.delete(f"/threads/{thread}").is_success
    third = case.place(thread_id=thread)  # It is gone, but what is kept of it can be held again.
    kept = held(case.project)["items"]
    for hold in (first, second):
        case.release(hold)
        case.wait_for_erasure(hold)
        assert held(case.project)["items"] == kept != set()
    case.release(third)
    eventually(lambda: case.project.sql("SELECT 1 FROM held_rows WHERE project_id = $1") == [])
    late = case.admin.post("/holds", json={"thread_id": thread, "reason": "late"})
    assert late.status_code == 404


def test_a_held_document_is_kept_to_the_byte_whatever_is_in_it(case: Held) -> None:
    thread = case.thread()
    case.turn(thread)
    odd = r"""{"b": "\u0000", "a":  1e400, "a": 1.00, "n": 10e2, "s": "\ud800"}"""
    case.project.sql(f"UPDATE items SET type = 'other', data = '{odd}' WHERE project_id = $1 AND position = 0")
    case.place(thread_id=thread)
    assert case.ordinary.delete(f"/threads/{thread}").is_success
    kept = case.project.sql("SELECT data::text AS said FROM held_rows WHERE project_id = $1 AND source = 'items'")
    assert any(odd in row["said"] for row in kept)


def test_nothing_is_lost_while_a_hold_is_placed_beside_deletions(case: Held) -> None:
    """A hold's creation waits for deletions under way, and later ones see the hold."""
    threads = [case.conversation()[0] for _ in range(2)]

    async def race(database: Database, project_id: UUID) -> tuple[int, int]:
        url, http = case.project.env["DATABASE_URL"], case.project.http
        first, second, watch = [await asyncpg.connect(url) for _ in range(3)]

        async def waits(kind: str) -> None:
            """Return when somebody waits for the project's lock."""
            waiting = """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND mode = $1
                AND (classid::bigint << 32 | objid::bigint) = uuid_hash_extended($2, 2)"""
            while not await watch.fetchval(waiting, kind, project_id):  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)

        # This deletion has looked for holds, and its transaction is still open.
        await first.execute("BEGIN")
        await first.execute(f"DELETE FROM threads WHERE id = '{threads[0].partition('_')[2]}'")
        placed = asyncio.create_task(asyncio.to_thread(http.post, "/holds", json={"project": True, "reason": "race"}))
        await asyncio.wait_for(waits("ExclusiveLock"), 60)
        assert not placed.done()
        await first.execute("COMMIT")
        answer = await placed
        # This one meets a hold whose transaction is still open.
        await second.execute("BEGIN")
        await second.execute("SELECT pg_advisory_xact_lock(uuid_hash_extended($1, 2))".replace("$1", f"'{project_id}'"))
        gone = asyncio.create_task(first.execute(f"DELETE FROM threads WHERE id = '{threads[1].partition('_')[2]}'"))
        await asyncio.wait_for(waits("ShareLock"), 60)
        assert not gone.done()
        await second.execute("COMMIT")
        await gone
        kept = await watch.fetchval(
            "SELECT count(*) FROM held_rows WHERE project_id = $1 AND source = 'threads'", project_id
        )
        for connection in (first, second, watch):
            await connection.close()
        return answer.status_code, kept

    assert case.project.run(race) == (201, 1)  # The first was deleted before the hold was placed.


@pytest.mark.parametrize("seed", range(2))
def test_nothing_that_was_once_under_a_hold_is_ever_lost(case: Held, seed: int) -> None:
    """Random turns, changes and deletions under a hold on the project, by a key that is told nothing."""
    chosen, http = random.Random(seed), case.ordinary
    case.conversation(user="ada")
    case.place(project=True)
    memory = Memory(case.project)

    def threads() -> list[str]:
        return [each["id"] for each in http.get("/threads").json()["data"]]

    def items(thread: str) -> list[str]:
        found = http.get(f"/conversations/{thread.replace('thread_', 'conv_')}/items", params={"limit": 100})
        return [each["id"] for each in found.json()["data"]]

    def delete_item(thread: str) -> Any:
        found = items(thread)
        if not found:
            return None
        return http.delete(f"/conversations/{thread.replace('thread_', 'conv_')}/items/{chosen.choice(found)}")

    def delete_turn(thread: str) -> Any:
        turns = [each["id"] for each in http.get(f"/threads/{thread}/turns").json()["data"]]
        return http.delete(f"/responses/{chosen.choice(turns)}") if turns else None

    def purge(thread: str) -> Any:
        user = http.get(f"/threads/{thread}").json()["user"]
        answer = http.delete(f"/users/{user}/data")
        path = f"/purges/{answer.json()['id']}"
        eventually(lambda: http.get(path).json()["status"] == "completed")
        return answer

    acts: list[Callable[[str], Any]] = [
        lambda thread: http.post(f"/threads/{thread}/turns", json={"input": f"Echo: {chosen.random()}"}),
        lambda thread: http.post(f"/threads/{thread}/turns", json={"input": [{"role": "user", "content": [IMAGE]}]}),
        lambda thread: http.post(f"/threads/{thread}/fork", json={"user": chosen.choice(["ada", "bob"])}),
        lambda thread: http.patch(f"/threads/{thread}", json={"title": str(chosen.random())}),
        lambda thread: http.patch(f"/threads/{thread}", json={"user": chosen.choice(["ada", "bob"])}),
        lambda thread: http.patch(f"/threads/{thread}", json={"metadata": {"n": str(chosen.random())}}),
        delete_item, delete_item, delete_turn,
        lambda thread: http.delete(f"/threads/{thread}"),
        purge,
    ]  # fmt: skip
    for _ in range(20):
        known = threads()
        if not known:
            case.conversation(user=chosen.choice(["ada", "bob"]))
            continue
        case.emulator.forget()
        answer = chosen.choice(acts)(chosen.choice(known))
        assert answer is None or answer.status_code < 500, answer.text
        assert memory.lost() == {}
    assert case.project.verify().problems == []


def test_nothing_of_a_hold_is_in_a_threads_own_trail_or_its_events(case: Held) -> None:
    thread, _ = case.conversation(user="ada")
    before = case.project.records(thread=thread)
    holds = [case.place(thread_id=thread), case.place(user="ada"), case.place(project=True)]
    assert case.project.records(thread=thread) == before
    for hold in holds:
        case.release(hold)
        case.wait_for_erasure(hold)
    assert case.project.records(thread=thread) == before
    records = [record for record in case.project.records() if record["action"].startswith("hold.")]
    assert [record["thread"] for record in records] == [None] * 9
    details = {record["detail"] for record in records if record["action"] == "hold.placed"}
    assert details == {
        f"{hold['id']} on {target}" for hold, target in zip(holds, (thread, "user", "project"), strict=True)
    }
    assert "Case 17" not in str(records)
    assert case.project.verify().problems == []


def test_many_kept_rows_are_erased_in_batches_and_counted_in_one_record(case: Held) -> None:
    thread = case.thread(user="ada")
    hold = case.place(thread_id=thread)
    case.project.sql(
        """INSERT INTO held_rows (project_id, bucket, thread_id, source, row_key, data)
        SELECT $1, bucket_of('$2'), '$2', 'items', n::text, '{}' FROM generate_series(1, 1200) AS n""".replace(
            "$2", str(UUID(thread.partition("_")[2]))
        )
    )
    case.release(hold)
    case.wait_for_erasure(hold)
    assert case.admin.get(f"/holds/{hold['id']}").json()["erased_rows"] == 1200
    assert [record["detail"] for record in case.project.records(action="hold.erased")] == [f"{hold['id']}: 1200 rows"]
    assert case.project.sql("SELECT 1 FROM held_rows WHERE project_id = $1") == []


def test_an_erasure_whose_worker_is_killed_is_ended_and_counted_by_another(fresh_env: dict[str, str]) -> None:
    doomed = Service(env=fresh_env)
    thread = doomed.thread()
    bare = str(UUID(thread.partition("_")[2]))
    hold = doomed.http.post("/holds", json={"thread_id": thread, "reason": "Case 17"}).json()["id"]

    async def run() -> None:
        first, second = [await asyncpg.connect(fresh_env["DATABASE_URL"]) for _ in range(2)]
        try:
            await first.execute(
                """INSERT INTO held_rows (project_id, bucket, thread_id, source, row_key, data)
                SELECT project_id, bucket, id, 'items', n::text, '{}' FROM threads, generate_series(1, 1200) AS n
                WHERE id = $1""",
                bare,
            )
            await second.execute("BEGIN")
            # The worker waits here, in a batch that it has begun.
            await second.execute("SELECT FROM held_rows WHERE thread_id = $1 AND row_key = '1200' FOR UPDATE", bare)
            answer = await asyncio.to_thread(doomed.http.post, f"/holds/{hold}/release", json={"reason": "closed"})
            assert answer.status_code == 200
            waits = """SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                AND datname = current_database() AND query LIKE '%DELETE FROM held_rows%'"""
            async with asyncio.timeout(60):
                while not await first.fetchval(waits):  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(0.01)
            doomed.process.stop(signal.SIGKILL)
            await first.fetch(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid NOT IN (pg_backend_pid(), $1)""",
                await second.fetchval("SELECT pg_backend_pid()"),
            )
            row = await first.fetchrow("SELECT erased_at, erased_rows FROM holds")
            left = await first.fetchval("SELECT count(*) FROM held_rows")
            assert row is not None
            assert row["erased_at"] is None
            # A batch is counted in the transaction that erases it.
            assert (row["erased_rows"] + left, left > 0) == (1200, True)
            await second.execute("ROLLBACK")
        finally:
            await first.close()
            await second.close()

    asyncio.run(run())
    other = Service(env={**fresh_env, "EVERTHREAD_CLEANING_SECONDS": "1"}, key=doomed.key)
    eventually(lambda: other.http.get(f"/holds/{hold}").json()["erased_at"] is not None, 60)
    assert other.http.get(f"/holds/{hold}").json()["erased_rows"] == 1200
    records = other.http.get("/audit", params={"action": "hold.erased"}).json()["data"]
    assert [record["detail"] for record in records] == [f"{hold}: 1200 rows"]
    assert other.http.get(f"/threads/{thread}/held").json()["data"] == []
    certificate = f"/purges/{hold.replace('hold_', 'purge_')}/certificate"
    eventually(lambda: other.http.get(certificate).status_code == 200, 60)
    assert '"rows":1200' in other.http.get(certificate).text
    other.stop()

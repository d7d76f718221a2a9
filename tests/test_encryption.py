"""Contents encrypted at rest: what lies in Postgres, Redis and files, who can read it, and what still works."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx2
import pytest
import redis as redis_py
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import ARRAY, JSON, LargeBinary, Text

from app import schema
from app.db.engine import Database
from app.items import lexemes
from app.projects.encryption import encrypt_from_now
from app.projects.tables import Project
from app.retention.certificate_file import verify as verify_certificate
from app.sealing import encrypting
from app.sealing.columns import Sealable
from app.sealing.content_keys import ContentKeys
from app.sealing.master import BadMasterKey, Master, Masters, new_master_key
from app.sealing.project_cipher import ProjectCipher
from app.trail.records import SERVICE
from tests.databases import migrated_database
from tests.encrypted import CANARY, MASTER, Encrypted, talk
from tests.postgres_pair import run_sql
from tests.service import Emulator, Process, Service, eventually

PLAIN_COLUMNS = {
    "accounts.api_key": "sealed by itself, for what it is used for",
    "accounts.base_url": "how the project is set up",
    "accounts.binding": "how the project is set up",
    "accounts.hint": "how the project is set up",
    "accounts.models": "how the project is set up",
    "accounts.name": "how the project is set up",
    "api_keys.hint": "how the project is set up",
    "api_keys.key_hash": "a digest of random bits",
    "api_keys.limits": "how the project is set up",
    "api_keys.name": "how the project is set up",
    "api_keys.salt": "of digests of how the project is set up",
    "api_keys.scopes": "how the project is set up",
    "api_keys.subject": "who signs in to the console",
    "audit_checkpoints.note": "the proof",
    "audit_checkpoints.public_key": "the proof",
    "audit_checkpoints.root": "the proof",
    "audit_checkpoints.signature": "the proof",
    "audit_cosignatures.name": "the proof",
    "audit_cosignatures.origin": "the proof",
    "audit_cosignatures.public_key": "the proof",
    "audit_cosignatures.signature": "the proof",
    "audit_keys.public_key": "the proof",
    "audit_leaves.hash": "the proof",
    "audit_origins.origin": "the name of a project's log: a base and the project's id",
    "audit_records.action": "the proof: it verifies without any key",
    "audit_records.address_digest": "names nobody without the key beside the user",
    "audit_records.content": "salted: without the salt, which is sealed, it tells nothing",
    "audit_records.detail": "the proof: ids, states, names of fields",
    "audit_records.hash": "the proof",
    "audit_records.previous": "the proof",
    "audit_records.user_digest": "names nobody without the key beside the user",
    "audit_witnesses.error": "one of a few words",
    "audit_witnesses.public_key": "the proof",
    "cache_keys.key": "of the database, not of a project",
    "calls.continuation": "how a turn came to the model",
    "calls.continuation_reason": "why, in a word of a list",
    "calls.response_id": "the provider's id",
    "calls.url": "the provider's address",
    "charges.binding": "the provider's account",
    "charges.kind": "what was paid for",
    "charges.model": "which model",
    "charges.currency": "which currency",
    "charges.user_id": "who: what is looked up and purged by",
    "claimed_audiences.audience": "how the project is set up",
    "claimed_audiences.issuer": "how the project is set up",
    "compactions.kept_items": "ids",
    "compactions.model": "which model",
    "compactions.status": "a state",
    "compactions.usage": "numbers: the database sums them",
    "console_sessions.token_hash": "a digest of random bits",
    "data_keys.master_id": "which master key",
    "data_keys.wrapped": "sealed by the master key",
    "master_nodes.nodes": "sealed by the secret in the environment",
    "master_nodes.secret_id": "a digest of random bits",
    "feedback.label": "what feedback is listed by",
    "feedback.user_id": "who: what is looked up and purged by",
    "held_rows.data": "rows of other tables, sealed as they were",
    "held_rows.row_key": "ids",
    "held_rows.source": "which table",
    "held_rows.user_id": "who: what is looked up and purged by",
    "holds.scope": "a state",
    "holds.user_id": "who: what is looked up and purged by",
    "items.item_id": "an id",
    "items.origin": "a state",
    "items.type": "which kind of item",
    "learnt_models.binding": "of no project",
    "learnt_models.model": "of no project",
    "pieces.sources": "ids",
    "projects.minimum_retention_former": "numbers and times",
    "projects.name": "how the project is set up",
    "projects.salt": "of digests of how the project is set up",
    "projects.record_reads": "how the project is set up",
    "projects.session_cache": "how the project is set up",
    "projects.settings": "how the project is set up",
    "projects.trail_key": "names addresses in the trail; no contents",
    "provider_deletions.binding": "the provider's account",
    "provider_deletions.response_id": "the provider's id",
    "purge_certificates.note": "the proof of a purge; no contents",
    "purge_records.leaves": "the proof of a purge; no contents",
    "served_revisions.revision": "of no project",
    "shares.token_hash": "a digest of random bits",
    "stream_tickets.credential": "sealed with a key that only the ticket gives",
    "stream_tickets.owner_hash": "a digest, for seconds",
    "stream_tickets.path_hash": "a digest, for seconds",
    "stream_tickets.token_hash": "a digest of random bits",
    "thread_names.name": "what a thread is looked up by, and by its beginning",
    "threads.chain_hash": "the proof",
    "threads.name": "what a thread is looked up by, and by its beginning",
    "threads.trail_key": "names the user in the trail; no contents",
    "threads.user_id": "who: what is looked up and purged by",
    "turn_hours.durations": "numbers",
    "turn_hours.first_words": "numbers",
    "turn_hours.model": "which model",
    "turn_hours.outcome": "a state, or which kind of error",
    "turns.binding": "the provider's account",
    "turns.context": "numbers and ids",
    "turns.continuation": "how a turn came to the model",
    "turns.continuation_reason": "why, in a word of a list",
    "turns.cost": "numbers: the database sums them",
    "turns.idempotency_key": "what a repeated request is told by",
    "turns.ignored": "names of fields",
    "turns.left_salt": "of digests that no contents are in",
    "turns.model": "which model",
    "turns.pace": "numbers: when how many characters came",
    "turns.response_id": "the provider's id",
    "turns.response_unknown_reason": "why, in a word of a list",
    "turns.status": "a state",
    "turns.usage": "numbers: the database sums them",
    "usage_sums.binding": "the provider's account",
    "usage_sums.currency": "which currency",
    "usage_sums.model": "which model",
    "user_cutoffs.claimed_by": "a keyed digest of who",
    "user_cutoffs.user_hash": "a keyed digest of who",
    "user_keys.key": "names the user in the trail; no contents",
    "user_keys.user_id": "who: what is looked up and purged by",
    "user_purges.address": "who asked for it",
    "user_purges.user_id": "who: what is looked up and purged by",
    "webhook_deliveries.data": "ids and states",
    "webhook_deliveries.last_error": "which kind of error",
    "webhook_deliveries.status": "a state",
    "webhook_deliveries.type": "which event",
    "webhooks.description": "how the project is set up",
    "webhooks.events": "how the project is set up",
    "webhooks.former_secret": "sealed by itself, for what it is used for",
    "webhooks.secret": "sealed by itself, for what it is used for",
    "webhooks.url": "how the project is set up",
}
"""Columns that could hold content, and are not encrypted in an encrypted project either; with the reason."""


def test_every_column_that_could_hold_what_was_said_is_sealed_or_plain_for_a_reason() -> None:
    holding: set[str] = set()
    sealed_: set[str] = set()
    for table in schema.metadata.tables.values():
        for column in table.columns:
            type_: Any = column.type
            name = f"{table.name}.{column.name}"
            if isinstance(type_, Sealable):
                sealed_.add(name)
            elif isinstance(getattr(type_, "data_type", type_), Text | JSON | LargeBinary | ARRAY):
                holding.add(name)
    assert holding - {"calls.refs"} == set(PLAIN_COLUMNS)
    assert sealed_ == {
        "calls.error", "calls.frames", "compactions.calls", "compactions.error", "compactions.salt", "compactions.text",
        "media.data", "media.digest",
        "feedback.comment", "feedback.salt", "holds.reason", "holds.release_reason",
        "items.data", "pieces.data", "pieces.digest", "shares.salt",
        "shares.title", "threads.metadata", "threads.preset", "threads.salt", "threads.title", "turns.body_hash",
        "turns.error", "turns.incomplete_details", "turns.metadata", "turns.params", "turns.response", "turns.salt",
        "user_presets.preset",
    }  # fmt: skip


def test_the_list_of_columns_is_that_of_the_database(database_url: str) -> None:
    """Check the list against the database, since a migration could add a column that no model has."""
    rows = run_sql(
        database_url,
        """SELECT c.table_name || '.' || c.column_name AS name FROM information_schema.columns c
        JOIN information_schema.tables t USING (table_schema, table_name)
        WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE' AND c.table_name <> 'alembic_version'
            AND c.data_type IN ('text', 'json', 'jsonb', 'bytea', 'character varying', 'ARRAY')""",
    )
    modelled = {
        f"{table.name}.{column.name}"
        for table in schema.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, Sealable)
    }
    assert {row["name"] for row in rows} - {"calls.refs"} == modelled | set(PLAIN_COLUMNS)


@pytest.fixture(scope="module")
def running_encrypted(
    server_urls: tuple[str, str], service_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Encrypted]:
    url = migrated_database(server_urls[0])
    env = {**service_env, "DATABASE_URL": url, "EVERTHREAD_AUDIT_KEY": "22" * 32}
    encrypted = Encrypted(env, tmp_path_factory.mktemp("encrypted"))
    yield encrypted
    assert encrypted.service.stop() == 0


@pytest.fixture
def encrypted(running_encrypted: Encrypted, emulator: Emulator) -> Encrypted:
    return running_encrypted


def test_nothing_that_was_said_lies_open(encrypted: Encrypted, emulator: Emulator) -> None:
    thread, turn = talk(encrypted, emulator)
    assert encrypted.lying_open() == set()
    assert not encrypted.in_redis()
    # And the test would see it.
    shown = encrypted.get(f"/threads/{thread}")
    assert (shown["title"], shown["metadata"]) == (f"About {CANARY}", {"topic": CANARY})
    assert encrypted.get(f"/threads/{thread}/turns/{turn}/feedback")["data"][0]["comment"] == f"I like {CANARY}."
    assert encrypted.get(f"/threads/{thread}/turns/{turn}")["metadata"] == {"about": CANARY}


def test_presets_are_sealed_and_sent(encrypted: Encrypted, emulator: Emulator) -> None:
    preset = {"instructions": f"Speak of {CANARY}."}
    place = f"/admin/projects/{encrypted.id}"

    def instructions(**fields: Any) -> Any:
        token = encrypted.post("/user_tokens", user="ann", **fields)["token"]
        with httpx2.Client(base_url=encrypted.http.base_url, headers={"Authorization": f"Bearer {token}"}) as ann:
            answer = ann.post(f"/threads/{thread}/turns", json={"input": "Hello"}, timeout=60)
        assert (answer.status_code, CANARY in answer.text) == (200, False), answer.text
        return emulator.calls()[-1]["body"].get("instructions")

    thread = encrypted.post("/threads", user="ann", preset=preset)["id"]
    assert instructions() == preset["instructions"]
    assert encrypted.get(f"/threads/{thread}")["preset"] == preset
    thread = encrypted.post("/threads", user="ann")["id"]
    assert instructions(preset=preset) == preset["instructions"]
    # The service's admins set it, with a key of another project.
    assert encrypted.service.http.patch(place, json={"user_preset": preset}).json()["user_preset"] == preset
    assert instructions() == preset["instructions"]
    assert encrypted.lying_open() == set()
    assert encrypted.http.patch(place, json={"user_preset": None}).json()["user_preset"] is None


def test_an_open_project_beside_it_lies_open_where_it_should_and_nowhere_else(
    encrypted: Encrypted, emulator: Emulator
) -> None:
    """The same conversation, not encrypted: what the test above looks for is there."""
    other = Encrypted.__new__(Encrypted)
    other.env, other.service, other.name = encrypted.env, encrypted.service, uuid4().hex
    other.id = other.service.http.post("/admin/projects", json={"name": other.name}).json()["id"]
    other.http = other.client(["read", "write"])
    talk(other, emulator)
    assert other.lying_open() == {"threads", "turns", "items", "calls", "pieces", "feedback"}
    assert other.in_redis()


def test_everything_reads_as_it_does_for_an_open_project(encrypted: Encrypted, emulator: Emulator) -> None:
    thread, turn = talk(encrypted, emulator)
    messages = encrypted.get(f"/threads/{thread}/messages")["data"]
    assert all(CANARY in json.dumps(message) for message in messages if message.get("role") == "user")
    assert len(messages) > 5
    calls = encrypted.get(f"/threads/{thread}/turns/{turn}/calls")["data"]
    assert calls[0]["body"]["instructions"] == f"Speak of {CANARY}."
    rebuilt = next(
        link for link in encrypted.get(f"/threads/{thread}/chain")["data"] if link["continuation"] == "rebuilt"
    )
    sent = encrypted.get(f"/threads/{thread}/turns/{rebuilt['id']}/calls")["data"][-1]["body"]
    assert sent["input"][0]["content"] == f"{CANARY} is my name."
    fork = encrypted.post(f"/threads/{thread}/fork")
    assert (fork["title"], fork["metadata"]) == (f"About {CANARY}", {"topic": CANARY})
    exported = encrypted.get(f"/threads/{thread}/export")
    assert exported["turns"][1]["params"]["instructions"] == f"Speak of {CANARY}."
    link = encrypted.post(f"/threads/{thread}/shares")["path"]
    shared = httpx2.get(f"{encrypted.service.url}{link}").json()
    assert shared["title"] == f"About {CANARY}"
    assert encrypted.lying_open() == set()


def test_an_import_and_a_copied_fork_are_sealed_too(encrypted: Encrypted, emulator: Emulator) -> None:
    thread, _ = talk(encrypted, emulator)
    exported = encrypted.get(f"/threads/{thread}/export")
    assert encrypted.http.delete(f"/threads/{thread}").status_code == 200
    assert encrypted.http.post("/threads/import", json=exported).status_code == 201
    assert encrypted.get(f"/threads/{thread}/export")["turns"] == exported["turns"]
    assert encrypted.lying_open() == set()


def test_a_search_finds_whole_words_and_phrases_and_no_beginnings(encrypted: Encrypted) -> None:
    thread = encrypted.post("/threads", title="The Étude in C", messages=[
        {"role": "user", "content": "Chopin wrote a nocturne. Naïve café!"},
        {"role": "user", "content": "北京烤鸭很好吃"},
    ])["id"]  # fmt: skip

    def found(asked: str, **params: Any) -> set[str]:
        return {hit["thread_id"] for hit in encrypted.get("/search", q=asked, **params)["data"]}

    for asked in ("nocturne", "NOCTURNE chopin", '"wrote a nocturne"', "naive cafe", "烤鸭", "京", "etude"):
        assert thread in found(asked), asked
    for asked in ("noct", '"a wrote nocturne"', "鸭烤", "nocturne -chopin", "mazurka"):
        assert thread not in found(asked), asked
    hit = encrypted.get("/search", q="nocturne")["data"][0]
    assert "<mark>nocturne</mark>" in hit["fragments"][0]["html"]


def test_metadata_is_found_by_whole_pairs(encrypted: Encrypted) -> None:
    mine = encrypted.post("/threads", metadata={"plan": "pro", "team": "red"})["id"]
    encrypted.post("/threads", metadata={"plan": "free", "team": "red"})

    def found(**pairs: str) -> list[str]:
        params = {f"metadata[{name}]": value for name, value in pairs.items()}
        return [thread["id"] for thread in encrypted.get("/threads", **params)["data"]]

    assert found(plan="pro") == [mine]
    assert found(plan="pro", team="red") == [mine]
    assert found(plan="pro", team="blue") == []
    changed = encrypted.http.patch(f"/threads/{mine}", json={"metadata": {"plan": "basic"}})
    assert changed.json()["metadata"] == {"plan": "basic"}
    assert found(plan="pro") == []


def test_a_tool_call_is_answered_along_the_chain(encrypted: Encrypted, emulator: Emulator) -> None:
    thread = encrypted.post("/threads")["id"]
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
    first = encrypted.turn(thread, "call weather", tools=[tool])
    call = next(item for item in first["output"] if item["type"] == "function_call")
    redis_py.Redis.from_url(encrypted.env["REDIS_URL"]).flushdb()  # What is open is asked of Postgres.
    answered = {"type": "function_call_output", "call_id": call["call_id"], "output": CANARY}
    turn = encrypted.post(f"/threads/{thread}/turns", input=[answered], tools=[tool])
    assert (turn["status"], turn["continuation"]) == ("completed", "chained")
    assert encrypted.lying_open() == set()


def test_a_repeated_request_is_told_by_its_key_and_body(encrypted: Encrypted) -> None:
    thread = encrypted.post("/threads")["id"]
    headers = {"Idempotency-Key": uuid4().hex}
    turns = [
        encrypted.http.post(f"/threads/{thread}/turns", json={"input": "Hello."}, headers=headers).json()["id"]
        for _ in range(2)
    ]
    assert turns[0] == turns[1]
    other = encrypted.http.post(f"/threads/{thread}/turns", json={"input": "Goodbye."}, headers=headers)
    assert other.json()["error"]["code"] == "idempotency_key_reused"


def test_the_trail_of_sealed_contents_verifies_and_tells_a_change(encrypted: Encrypted, emulator: Emulator) -> None:
    thread, turn = talk(encrypted, emulator)
    verify = ("audit", "verify", "--project", encrypted.name)
    assert encrypted.command(*verify)[-1] == "The audit trail verifies."
    # Another ciphertext of the project in its place: it can be decrypted, but is another message.
    of_turn = f"turn_id = '{UUID(turn.removeprefix('turn_'))}'"
    run_sql(
        encrypted.env["DATABASE_URL"],
        f"""UPDATE items SET data = (SELECT data FROM items WHERE project_id = '{encrypted.uuid}' AND NOT {of_turn}
            ORDER BY turn_id DESC LIMIT 1) WHERE {of_turn} AND position = 0""",
    )
    assert encrypted.command(*verify, code=1)[-1] == "The audit trail does NOT verify."
    encrypted.http.delete(f"/threads/{thread}")


def test_what_was_changed_in_the_database_is_not_shown_as_it_is(encrypted: Encrypted) -> None:
    thread = encrypted.post("/threads", title=CANARY)["id"]
    at = f"id = '{UUID(thread.removeprefix('thread_'))}'"
    (row,) = run_sql(encrypted.env["DATABASE_URL"], f"SELECT title FROM threads WHERE {at}")
    changed = row["title"][:60] + ("A" if row["title"][60] != "A" else "B") + row["title"][61:]
    run_sql(encrypted.env["DATABASE_URL"], f"UPDATE threads SET title = E'\\x01{changed[1:]}' WHERE {at}")
    shown = encrypted.get(f"/threads/{thread}")
    assert (shown["title"], shown["unreadable"]) == (None, ["title"])
    assert encrypted.http.delete(f"/threads/{thread}").status_code == 200


def test_another_worker_shows_a_running_stream_and_closes_a_dead_ones_turn(
    encrypted: Encrypted, emulator: Emulator
) -> None:
    second = Service(env={**encrypted.env, "EVERTHREAD_LEASE_SECONDS": "2"})
    dying = Service(env={**encrypted.env, "EVERTHREAD_LEASE_SECONDS": "2"})
    key = encrypted.http.headers["authorization"]
    thread = encrypted.post("/threads")["id"]
    emulator.fault("slow", seconds=0.2)
    body = {"input": f"Echo: {f'{CANARY} ' * 50}", "stream": True}
    with httpx2.stream(
        "POST", f"{dying.url}/v1/threads/{thread}/turns", json=body, headers={"Authorization": key}, timeout=60
    ) as answer:
        lines = answer.iter_lines()
        while "Quetz" not in next(lines):
            pass
        for _ in range(2):
            next(line for line in lines if "Quetz" in line)  # The one before is in Redis by now.
        assert not encrypted.in_redis("Quetz")
        dying.process.stop(9)
    turn = encrypted.get(f"/threads/{thread}/turns")["data"][0]["id"]
    place = f"{second.url}/v1/threads/{thread}/turns/{turn}"
    eventually(lambda: httpx2.get(place, headers={"Authorization": key}).json()["status"] == "incomplete", seconds=20)
    assert CANARY in httpx2.get(place, headers={"Authorization": key}).text
    assert encrypted.lying_open() == set()
    assert second.stop() == 0


def test_a_project_that_has_talked_is_encrypted_where_it_lies(
    fresh_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    project = Encrypted(fresh_env, tmp_path, encrypted=False)
    thread, turn = talk(project, emulator)
    before = project.get(f"/threads/{thread}/export"), project.get(f"/threads/{thread}/turns/{turn}/calls")
    assert project.lying_open() != set()
    said = project.command("projects", "encrypt", project.name)
    assert said[-1].startswith(f"{project.name} is encrypted."), said
    assert project.lying_open() == set()
    assert (project.get(f"/threads/{thread}/export"), project.get(f"/threads/{thread}/turns/{turn}/calls")) == before
    assert [hit["thread_id"] for hit in project.get("/search", q=CANARY, role="title")["data"]] == [thread]
    project.turn(thread, f"And now, {CANARY}?")
    assert project.lying_open() == set()
    assert project.command("audit", "verify", "--project", project.name)[-1] == "The audit trail verifies."
    assert project.command("projects", "encrypt", project.name)[-1].endswith(" 0 rows that lay open are sealed.")
    with pytest.raises(asyncpg.PostgresError, match="projects_encrypted_check"):
        run_sql(project.env["DATABASE_URL"], f"UPDATE projects SET encrypted_at = NULL WHERE name = '{project.name}'")
    assert project.service.stop() == 0


def test_with_its_key_destroyed_nobody_reads_a_project_in_a_backup_either_and_the_trail_verifies(
    fresh_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    env = {**fresh_env, "EVERTHREAD_DATA_DIR": str(tmp_path)}
    service = Service(env=env)
    names = ["doomed", "other"]
    texts = {}
    projects = {}
    for name in names:
        project = projects[name] = Encrypted.__new__(Encrypted)
        project.env, project.service, project.name = env, service, name
        project.id = service.http.post("/admin/projects", json={"name": name, "encrypted": True}).json()["id"]
        project.http = project.client(["read", "write"])
        texts[name] = talk(project, emulator)[0]
    doomed, other = (projects[name] for name in names)
    backup = run_sql(env["DATABASE_URL"], "SELECT * FROM data_keys")
    assert (
        "must be encrypted and archived first"
        in doomed.command("projects", "destroy-key", "doomed", "--yes", code=1)[-1]
    )
    doomed.command("projects", "revoke", "doomed")
    before = (tmp_path / "master.key").read_text()
    said = doomed.command("projects", "destroy-key", "doomed", "--yes")
    assert said[0] == "The key of doomed is destroyed."
    file = tmp_path / "doomed.certificate"
    file.write_text("\n".join(doomed.command("audit", "certificate", f"purge_{doomed.uuid.hex}")) + "\n")
    certified = verify_certificate(file, [bytes.fromhex(doomed.command("audit", "public-key")[0])])
    assert (certified.statement["kind"], certified.statement["counts"]) == ("key", {})
    assert "doomed" not in file.read_text()
    left = Master.of((tmp_path / "master.key").read_text())
    assert left.cipher_of(doomed.uuid) is None
    assert "" not in left.nodes  # Not the root either.
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "master.key").read_text() != before
    # The keys as a backup has them, back in the database: this one is of no use, and the other's is.
    (row,) = [row for row in backup if row["project_id"] == doomed.uuid]
    assert (
        run_sql(
            env["DATABASE_URL"],
            f"""INSERT INTO data_keys (project_id, number, master_id, wrapped) VALUES (
                '{row["project_id"]}', 1, '\\x{row["master_id"].hex()}', '\\x{row["wrapped"].hex()}'
            ) RETURNING number""",
        )[0]["number"]
        == 1
    )
    assert doomed.command("master-key", "check", code=1)[-1].endswith(
        "1 keys are sealed by a master key that is not here."
    )
    run_sql(env["DATABASE_URL"], f"DELETE FROM data_keys WHERE project_id = '{doomed.uuid}'")
    assert service.stop() == 0

    service = Service(env=env)
    assert (
        service.http.patch(f"/admin/projects/{doomed.id}", json={"archived": False}).json()["error"]["code"]
        == "key_destroyed"
    )
    assert doomed.command("projects", "restore", "doomed", code=1)[-1].endswith("it stays archived.")
    with httpx2.Client(base_url=f"{service.url}/v1", headers=other.http.headers, timeout=60) as http:
        assert http.get(f"/threads/{texts['other']}").json()["title"] == f"About {CANARY}"
        assert http.post(f"/threads/{texts['other']}/turns", json={"input": "Hello."}).status_code == 200
    said = other.command("audit", "verify")
    assert "  The key of its contents was destroyed: they were not compared." in said
    assert said[-1] == "The audit trail verifies."
    assert service.stop() == 0


def test_what_was_broken_off_is_done_by_the_next_call(
    fresh_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    project = Encrypted(fresh_env, tmp_path, encrypted=False)
    talk(project, emulator)
    assert project.command("projects", "encrypt", project.name)
    # As if it had died before: some rows lie open still.
    opened = Encrypted.__new__(Encrypted)
    opened.env, opened.service, opened.name = project.env, project.service, uuid4().hex
    opened.id = opened.service.http.post("/admin/projects", json={"name": opened.name}).json()["id"]
    opened.http = opened.client(["read", "write"])
    talk(opened, emulator)

    def die(count: int) -> None:
        raise KeyboardInterrupt

    async def half() -> None:
        database = Database(project.env["DATABASE_URL"], pool_size=1, timeout_seconds=30)
        cipher = ProjectCipher(database, Masters(Master.of(MASTER)))
        async with database.session() as session:
            row = await session.get_one(Project, opened.uuid)
            await encrypt_from_now(session, cipher, SERVICE, row)
        sealer = await ContentKeys(database, cipher).sealer(opened.uuid)
        with pytest.raises(KeyboardInterrupt):
            await encrypting.encrypt(database, opened.uuid, sealer, die)
        await database.close()

    asyncio.run(half())
    assert opened.lying_open() != set()
    assert opened.command("projects", "encrypt", opened.name)[-1].startswith(f"{opened.name} is encrypted.")
    assert opened.lying_open() == set()
    # And a key whose destruction died behind the change of the master key.
    opened.command("projects", "revoke", opened.name)
    left = Master.of(MASTER).without(opened.uuid).written
    opened.env = {**opened.env, "EVERTHREAD_MASTER_KEY": left}
    said = opened.command("projects", "destroy-key", opened.name, "--yes")
    assert said[0] == f"The key of {opened.name} is destroyed."
    # The service is given a short secret in its place, and the same master key is sealed with it.
    assert Master.of(said[-1]).id == Master.of(left).id
    assert len(said[-1]) < 100
    with pytest.raises(asyncpg.PostgresError, match="projects_key_destroyed_check"):
        run_sql(opened.env["DATABASE_URL"], f"UPDATE projects SET key_destroyed_at = NULL WHERE name = '{opened.name}'")
    assert project.service.stop() == 0


def test_a_worker_that_cannot_open_a_projects_key_refuses_its_requests_and_serves_others(encrypted: Encrypted) -> None:
    second = Service(env=encrypted.env)
    made = second.http.post("/admin/projects", json={"name": uuid4().hex, "encrypted": True}).json()["id"]
    key = second.http.post(f"/admin/projects/{made}/keys", json={"name": "app"}).json()["key"]
    run_sql(
        encrypted.env["DATABASE_URL"],
        f"UPDATE data_keys SET wrapped = wrapped || 'x' WHERE project_id = '{UUID(made.removeprefix('proj_'))}'",
    )
    refused = httpx2.get(
        f"{encrypted.service.url}/v1/threads", headers={"Authorization": f"Bearer {key}"}, timeout=60
    )  # fmt: skip
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "contents_sealed")
    assert encrypted.http.get("/threads").status_code == 200
    run_sql(
        encrypted.env["DATABASE_URL"],
        f"DELETE FROM data_keys WHERE project_id = '{UUID(made.removeprefix('proj_'))}'",
    )
    assert second.stop() == 0


def test_without_the_master_key_a_service_says_so_and_does_not_start(encrypted: Encrypted, tmp_path: Path) -> None:
    env = {**encrypted.env, "EVERTHREAD_DATA_DIR": str(tmp_path), "EVERTHREAD_MASTER_KEY": "66" * 32}
    process = Process("serve", "--port", "0", env=env)
    assert process.ended() == 1
    assert "The master key of this host opens" in process.lines[-1]
    said = Process(
        "audit", "verify", "--project", encrypted.name, env={**encrypted.env, "EVERTHREAD_MASTER_KEY": "66" * 32}
    )
    assert said.ended() == 1
    assert "are sealed, and cannot be compared with the trail here" in said.lines[-1]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(texts, texts)
def test_a_sealed_text_is_asked_for_by_the_words_that_it_is_found_by(text: str, more: str) -> None:
    """Every term that a text matches whole, it has the lexemes of."""
    has = set(lexemes.whole(f"{text} {more}"))
    for term in lexemes.terms(f'"{lexemes.folded(text)}"'):
        for run in term.runs:
            assert set(lexemes.asked(run)) <= has


@given(st.lists(st.uuids(), min_size=2, max_size=6, unique=True))
def test_a_master_key_without_a_project_opens_all_others_as_before(projects: list[UUID]) -> None:
    whole = Master.of(new_master_key())
    ciphers = {id_: whole.cipher_of(id_) for id_ in projects}
    left, gone = whole, set[UUID]()
    for id_ in projects[:-1]:
        left, gone = Master.of(left.without(id_).written), gone | {id_}
        for each in projects:
            cipher, known = left.cipher_of(each), ciphers[each]
            assert known is not None
            if each in gone:
                assert cipher is None
            else:
                assert cipher is not None
                assert cipher.decrypt(b"0" * 12, known.encrypt(b"0" * 12, b"key", b""), b"") == b"key"
        assert "" not in left.nodes
        assert left.id == whole.id


@pytest.mark.parametrize(
    "written", ["", "x", "11" * 31, "aa:", "aa:0", "aa:0=11", f"aa:2={'11' * 32}", f"zz:0={'11' * 32}"]
)
def test_what_is_no_master_key_is_refused(written: str) -> None:
    with pytest.raises(BadMasterKey):
        Master.of(written)


HELD = ("threads", "turns", "items", "media", "item_media", "calls", "pieces", "compactions", "feedback", "shares")


@pytest.mark.parametrize("sealed_at_first", [False, True])
def test_what_a_hold_keeps_is_sealed_with_its_project_and_opens_as_before(
    encrypted: Encrypted, emulator: Emulator, sealed_at_first: bool
) -> None:
    project = encrypted.beside(encrypted=sealed_at_first)
    url, ordinary = encrypted.env["DATABASE_URL"], project.client(["read", "write"])
    gone, left = talk(project, emulator)[0], talk(project, emulator)[0]
    shown = ("", "/turns", "/messages", "/messages?format=chat")
    before = [project.get(f"/threads/{gone}{path}") for path in shown]
    turns = [turn["id"] for turn in project.get(f"/threads/{gone}/turns")["data"]]
    calls = [project.get(f"/threads/{gone}/turns/{turn}/calls") for turn in turns]
    hold = project.post("/holds", project=True, reason=f"About {CANARY}")
    assert ordinary.delete(f"/threads/{gone}").is_success
    count = f"SELECT count(*) FROM held_rows WHERE project_id = '{project.uuid}'"
    kept = run_sql(url, count)
    if not sealed_at_first:
        assert {"held_rows", "holds"} <= project.lying_open()
        project.command("projects", "encrypt", project.name)
        # Sealing what is left has lost nothing, and keeps nothing.
        assert run_sql(url, count) == kept
    assert project.lying_open() == set()
    assert project.get(f"/holds/{hold['id']}")["reason"] == f"About {CANARY}"
    run_sql(
        url,
        "SET session_replication_role = replica",
        *(
            f"""INSERT INTO {table} ({columns_of(table)}) SELECT {columns_of(table, "r.")} FROM held_rows h
            CROSS JOIN LATERAL json_populate_record(NULL::{table}, h.data) AS r
            WHERE h.project_id = '{project.uuid}' AND h.source = '{table}'"""
            for table in HELD
        ),
    )
    assert [project.get(f"/threads/{gone}{path}") for path in shown] == before
    assert [project.get(f"/threads/{gone}/turns/{turn}/calls") for turn in turns] == calls
    assert project.get(f"/threads/{left}")["title"] == f"About {CANARY}"
    # And its key outlives an attempt to destroy it.
    project.command("projects", "revoke", project.name)
    refused = project.command("projects", "destroy-key", project.name, "--yes", code=1)[-1]
    assert hold["id"] in refused
    assert refused.endswith("Nothing was destroyed.")
    with pytest.raises(asyncpg.PostgresError, match="holds_key_check"):
        run_sql(url, f"DELETE FROM data_keys WHERE project_id = '{project.uuid}'")
    assert any(hold["id"] in line for line in project.command("holds", "list"))
    project.command("holds", "release", hold["id"], "--reason", "closed")
    assert project.command("holds", "release", hold["id"], "--reason", "x", code=1)[-1].endswith("is already released.")
    encrypted.http.patch("/project", json={"retention_days": None})  # Wakes the cleaner.
    eventually(lambda: run_sql(url, count)[0]["count"] == 0)


def test_what_is_kept_of_an_encrypted_project_is_read_and_its_key_is_not_destroyed(
    encrypted: Encrypted, emulator: Emulator
) -> None:
    project = encrypted.beside(encrypted=True)
    project.http.patch("/project", json={"minimum_retention_days": 30})
    thread = talk(project, emulator)[0]
    said = project.get(f"/threads/{thread}/messages")["data"]
    assert project.client(["read", "write"]).delete(f"/threads/{thread}").is_success
    kept = project.get(f"/threads/{thread}/held", limit=100)["data"]
    items = [{**each["content"]["item"], "turn_id": each["turn_id"]} for each in kept if each["kind"] == "item"]
    assert [item for item in items if item in said] == said
    assert kept[0]["content"]["title"] == f"About {CANARY}"
    assert [each for each in kept if "unreadable" in each] == []
    # A ciphertext that was moved is marked, and the others are read.
    first, second = [each["id"][5:] for each in kept if each["kind"] == "item"][:2]
    run_sql(
        encrypted.env["DATABASE_URL"],
        "SET session_replication_role = replica",
        f"""UPDATE held_rows SET data = (data::jsonb || jsonb_build_object('data', (
            SELECT data::jsonb->'data' FROM held_rows WHERE id = '{second}'
        )))::json WHERE id = '{first}'""",
    )
    marked = project.get(f"/threads/{thread}/held", limit=100)["data"]
    assert {each["id"]: each["unreadable"] for each in marked if "unreadable" in each} == {f"held_{first}": ["data"]}
    project.command("projects", "revoke", project.name)
    refused = project.command("projects", "destroy-key", project.name, "--yes", code=1)[-1]
    assert "minimum_retention_days" in refused


def columns_of(table: str, prefix: str = "") -> str:
    columns = schema.metadata.tables[table].columns
    return ", ".join(f"{prefix}{column.name}" for column in columns if column.computed is None)

"""Audit trail: records of each change, the proof, and the detection of every tampering."""

import asyncio
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text as sql

from app.audit.checkpoints import Checkpoints
from app.audit.exported import BadFile, verify_file
from app.audit.merkle import Proofs, Tree, is_consistent, root_of
from app.audit.signing import public_key, signing_key
from app.db import ids
from app.db.engine import Database
from tests.projects import Project
from tests.service import Emulator, Process, Service


def test_every_change_to_a_thread_leaves_a_record(project: Project, emulator: Emulator) -> None:
    thread = project.call("POST", "/threads", json={"user": "ann", "name": f"n-{project.name}"})["id"]
    project.call("PATCH", f"/threads/{thread}", json={"title": "A talk"})
    answered = project.call("POST", f"/threads/{thread}/turns", json={"input": "My name is Ada."})
    turn, account = answered["id"], answered["account"]
    emulator.forget()
    again = project.call("POST", f"/threads/{thread}/turns", json={"input": "What is my name?"})
    assert again["output_text"] == "Ada"
    conversation = thread.replace("thread_", "conv_")
    items = [{"type": "message", "role": "user", "content": "By the way"}]
    added = project.call("POST", f"/conversations/{conversation}/items", json={"items": items})["data"][0]["id"]
    project.call("DELETE", f"/conversations/{conversation}/items/{added}")
    project.call("DELETE", f"/responses/{turn.replace('turn_', 'resp_')}")
    project.call("GET", f"/threads/{thread}/export")
    project.call("DELETE", f"/threads/{thread}")
    records = project.call("GET", f"/threads/{thread}/audit", params={"order": "asc", "limit": 50})["data"]
    assert [(record["action"], record["detail"]) for record in records] == [
        ("thread.created", None),
        ("thread.changed", "title"),
        ("turn.opened", None),
        ("turn.called", f"1 new 200 {account}"),
        ("turn.closed", "completed"),
        ("turn.opened", None),
        ("turn.called", f"1 chained 400 {account}"),
        ("turn.called", f"2 rebuilt 200 {account}"),
        ("turn.closed", "completed"),
        ("items.added", None),
        ("item.deleted", added),
        ("turn.deleted", None),
        ("thread.exported", None),
        ("thread.deleted", "3 turns, 2 items, 2 calls, 0 media"),
    ]
    assert [record["seq"] for record in records] == list(range(1, 15))
    (key,) = {record["actor"]["key"] for record in records}
    assert key.startswith("key_")
    # By digests that only the project's keys can be asked about.
    for field in ("user", "address"):
        (named,) = {record["actor"][field] for record in records}
        assert re.fullmatch(f"{field}_[0-9a-f]{{32}}", named)
    assert project.records(user="ann") == records
    assert project.records(user="bob") == []
    assert records[2]["turn"] == turn
    verdict = project.verify()
    assert (verdict.problems, verdict.records) == ([], 14 + 3)


def test_a_record_is_the_sha_256_of_its_canonical_json_and_names_the_one_before(project: Project) -> None:
    thread = project.call("POST", "/threads", json={"user": 'a "quoted" ünïcode 用户\u2028\x7f'})["id"]
    project.call("POST", f"/threads/{thread}/turns", json={"input": "Hi"})
    previous = "00" * 32
    for record in project.records(thread=thread):
        assert record.pop("previous") == previous
        record["previous"] = previous
        previous = record.pop("hash")
        assert hashlib.sha256(rfc8785.dumps(record)).hexdigest() == previous


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(action=TEXT, detail=st.none() | TEXT, user=st.none() | st.binary(), content=st.none() | st.binary())
def test_the_database_writes_the_same_canonical_json_as_any_rfc_8785_library(
    project: Project, action: str, detail: str | None, user: bytes | None, content: bytes | None
) -> None:
    async def work(database: Database, project_id: UUID) -> asyncpg.Record | None:
        chain = ids.new_id(7)
        async with database.session() as session:
            await session.execute(
                sql(
                    """SELECT append_records_v2(:project, CAST(7 AS smallint), :chain, CAST(:user AS bytea), NULL, NULL,
                    ARRAY[CAST(:action AS text)], ARRAY[CAST(NULL AS uuid)], ARRAY[CAST(:detail AS text)],
                    ARRAY[CAST(:content AS bytea)])"""
                ),
                {
                    "project": project_id,
                    "chain": chain,
                    "user": user,
                    "action": action,
                    "detail": detail,
                    "content": content,
                },
            )
        return await database.fetchrow("SELECT * FROM audit_records WHERE chain_id = $1", chain)

    row = project.run(work)
    assert row is not None
    said = {
        "object": "audit.record",
        "id": f"audit_{row['chain_id'].hex}_1",
        "action": action,
        "actor": {
            "address": None,
            "key": None,
            "project": row["project_id"].hex,
            "user": None if user is None else f"user_{user.hex()}",
        },
        "at": row["at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "content": None if content is None else content.hex(),
        "detail": detail,
        "previous": "00" * 32,
        "seq": 1,
        "thread": f"thread_{row['chain_id'].hex}",
        "turn": None,
        "version": 2,
    }
    assert row["hash"] == hashlib.sha256(rfc8785.dumps(said)).digest()
    (shown,) = project.records(thread=said["thread"])
    assert shown == {**said, "hash": row["hash"].hex()}


@pytest.mark.parametrize(
    "table",
    ["audit_records", "audit_leaves", "audit_checkpoints", "audit_cosignatures", "audit_origins", "audit_positions"],
)
@pytest.mark.parametrize("statement", ["UPDATE {} SET project_id = project_id", "DELETE FROM {}", "TRUNCATE {}"])
def test_the_trail_takes_no_update_delete_or_truncate(database_url: str, table: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(database_url)
        try:
            with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
                await connection.execute(statement.format(table))
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture
def talked(project: Project) -> tuple[Project, str]:
    """A project with a conversation that a checkpoint covers, and verifies."""
    thread = project.call("POST", "/threads", json={"user": "ann", "title": "A talk"})["id"]
    for text in ("My name is Ada.", "What is my name?"):
        project.call("POST", f"/threads/{thread}/turns", json={"input": text})
    project.checkpoint()
    verdict = project.verify()
    assert (verdict.problems, verdict.unsigned) == ([], 0)
    assert verdict.records == 1 + 2 * 3 + 3
    return project, thread


RECORD = "project_id = $1 AND chain_id = $2"

CHANGES = {
    "chain_id": "gen_random_uuid()",
    "seq": "seq + 100",
    "bucket": "bucket + 1",
    "at": "at - interval '1 microsecond'",
    "action": "'turn.called'",
    "turn_id": "gen_random_uuid()",
    "key_id": "NULL",
    "user_digest": "sha256('x')",
    "address_digest": "NULL",
    "detail": "'failed'",
    "content": "sha256('x')",
    "previous": "sha256('x')",
    "hash": "sha256('x')",
    "version": "1",
}


def test_a_change_of_any_column_of_a_record_is_found(talked: tuple[Project, str], database_url: str) -> None:
    project, thread = talked
    columns = project.sql("SELECT column_name FROM information_schema.columns WHERE table_name = 'audit_records'")
    assert {row["column_name"] for row in columns} == {"project_id", *CHANGES}
    for column, value in CHANGES.items():
        project.sql("CREATE TABLE IF NOT EXISTS kept AS SELECT * FROM audit_records WHERE project_id = $1")
        project.sql(f"UPDATE audit_records SET {column} = {value} WHERE {RECORD} AND seq = 4", thread)
        problems = project.verify().problems
        assert problems, column
        if column not in ("chain_id", "seq", "bucket"):
            assert any(p.where in (f"{thread} record 4", f"{thread} record 5") for p in problems), column
        project.sql("DELETE FROM audit_records WHERE project_id = $1")
        project.sql("INSERT INTO audit_records SELECT * FROM kept WHERE project_id = $1")
        project.sql("DROP TABLE kept")
    assert project.verify().problems == []


@pytest.mark.parametrize(
    "tampering",
    [
        "DELETE FROM audit_records WHERE project_id = $1 AND chain_id = $2 AND seq = 3",
        "DELETE FROM audit_records WHERE project_id = $1 AND chain_id = $2 AND seq = 7",
        "DELETE FROM audit_records WHERE project_id = $1 AND chain_id = $2",
        # Two records change places.
        """UPDATE audit_records r SET seq = -seq WHERE project_id = $1 AND chain_id = $2 AND seq IN (2, 3);
        UPDATE audit_records r SET seq = 5 + seq WHERE project_id = $1 AND chain_id = $2 AND seq < 0""",
        # One is put in between.
        """UPDATE audit_records SET seq = -seq - 1 WHERE project_id = $1 AND chain_id = $2 AND seq >= 3;
        INSERT INTO audit_records SELECT project_id, bucket, chain_id, 3, at, action, turn_id, key_id,
            user_digest, address_digest, detail, content, previous, hash
        FROM audit_records WHERE project_id = $1 AND chain_id = $2 AND seq = 2;
        UPDATE audit_records SET seq = -seq WHERE project_id = $1 AND chain_id = $2 AND seq < 0""",
        "UPDATE audit_leaves SET hash = sha256('x') WHERE project_id = $1 AND chain_id = $2",
        "UPDATE audit_leaves SET seq = seq - 1 WHERE project_id = $1 AND chain_id = $2",
        "DELETE FROM audit_leaves WHERE project_id = $1 AND chain_id = $2",
        "UPDATE audit_checkpoints SET root = sha256('x') WHERE project_id = $1",
        "UPDATE audit_checkpoints SET at = now() WHERE project_id = $1",
        "UPDATE audit_checkpoints SET signature = sha256('x') || sha256('y') WHERE project_id = $1",
        "UPDATE audit_checkpoints SET public_key = sha256('x') WHERE project_id = $1",
        "UPDATE audit_checkpoints SET size = size + 1 WHERE project_id = $1",
        # The message itself, not its record.
        "UPDATE threads SET title = 'Another talk' WHERE project_id = $1 AND id = $2",
        "UPDATE threads SET salt = NULL WHERE project_id = $1 AND id = $2",
        "DELETE FROM threads WHERE project_id = $1 AND id = $2",
        "UPDATE turns SET params = '{\"temperature\":0}' WHERE project_id = $1 AND thread_id = $2",
        "UPDATE turns SET model = 'another' WHERE project_id = $1 AND thread_id = $2",
        "UPDATE turns SET salt = NULL WHERE project_id = $1 AND thread_id = $2",
        "UPDATE turns SET usage = NULL WHERE project_id = $1 AND thread_id = $2",
        "DELETE FROM turns WHERE project_id = $1 AND thread_id = $2",
        """UPDATE items SET data = replace(data::text, 'Ada', 'Eve')::json
        WHERE project_id = $1 AND position = 0""",
        "DELETE FROM items WHERE project_id = $1 AND origin = 'output'",
        "UPDATE calls SET frames[1] = replace(frames[1], 'model', 'mode') WHERE project_id = $1",
        "UPDATE calls SET frames = NULL WHERE project_id = $1",
        "DELETE FROM calls WHERE project_id = $1",
        """INSERT INTO turns (project_id, bucket, id, thread_id, seq, status, model, params, completed_at, salt,
            response_id)
        SELECT project_id, bucket, gen_random_uuid(), id, 99, 'completed', 'm', '{}', now(), '\\x00', 'r'
        FROM threads WHERE project_id = $1 AND id = $2""",
    ],
)  # fmt: skip
def test_every_tampering_is_found(talked: tuple[Project, str], tampering: str) -> None:
    project, thread = talked
    project.sql(tampering, thread)
    assert project.verify().problems


def test_a_chain_that_is_written_anew_with_all_its_hashes_does_not_fit_the_signature(
    talked: tuple[Project, str],
) -> None:
    project, thread = talked
    chain = UUID(thread.removeprefix("thread_"))

    async def forge(database: Database, project_id: UUID) -> None:
        connection = await asyncpg.connect(project.env["DATABASE_URL"])
        try:
            async with connection.transaction():
                rows = await connection.fetch(
                    "SELECT * FROM audit_records WHERE project_id = $1 AND chain_id = $2 ORDER BY seq",
                    project_id,
                    chain,
                )
                await connection.execute("SET LOCAL session_replication_role = replica")
                await connection.execute("DELETE FROM audit_records WHERE chain_id = $1", chain)
                await connection.execute("SET LOCAL session_replication_role = origin")
                # A thread whose last record was cut off has nothing to continue from.
                await connection.execute("UPDATE threads SET chain_seq = 0 WHERE id = $1", chain)
                columns = [[row[name] for row in rows] for name in ("action", "turn_id", "detail", "content")]
                await connection.execute(
                    "SELECT append_records_v2($1, $2, $3, NULL, $4, '10.0.0.1', $5, $6, $7, $8)",
                    project_id, rows[0]["bucket"], chain, rows[0]["key_id"], *columns,
                )  # fmt: skip
        finally:
            await connection.close()

    project.run(forge)
    # Nor do the moments of its turns fit the new records.
    (problem,) = (each for each in project.verify().problems if each.where == f"{thread} record 7")
    assert "was rewritten" in problem.what


def test_checkpoints_of_several_services_at_once_make_one_tree(project: Project) -> None:
    keys = [signing_key(None, project.data_dir)] * 4

    async def at_once(database: Database, project_id: UUID) -> list[int]:
        services = [Checkpoints(database, key, every_seconds=1) for key in keys]
        twice = [service.write(project_id) for service in services for _ in range(2)]
        return await asyncio.gather(*twice)

    for _ in range(3):
        for _ in range(3):
            project.call("POST", "/threads")
        assert len(set(project.run(at_once))) == 1
    verdict = project.verify()
    assert (verdict.problems, verdict.unsigned) == ([], 0)


def test_a_deleted_thread_leaves_no_content_and_its_trail_still_verifies(talked: tuple[Project, str]) -> None:
    project, thread = talked
    assert project.http.delete(f"/threads/{thread}").status_code == 200
    for table in ("items", "calls", "turns", "threads"):
        assert project.sql(f"SELECT 1 FROM {table} WHERE project_id = $1") == [], table
    assert project.verify().problems == []
    records = project.call("GET", f"/threads/{thread}/audit")["data"]
    assert records[0]["action"] == "thread.deleted"
    assert "Ada" not in json.dumps(records)
    unknown = project.http.get("/threads/thread_" + "0" * 32 + "/audit")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "thread_not_found")


def test_an_exported_trail_is_verified_offline_with_the_public_key_alone(
    service: Service, project: Project, tmp_path: Path
) -> None:
    thread = project.call("POST", "/threads", json={"user": "ann"})["id"]
    project.call("POST", f"/threads/{thread}/turns", json={"input": "My name is Ada."})
    file = tmp_path / "trail.ndjson"
    Process("audit", "export", str(file), "--url", service.url, env={"EVERTHREAD_KEY": project.key}).wait_for("is in")
    (checkpoint,) = project.call("GET", "/audit/checkpoints")["data"]
    lines = file.read_text().splitlines()

    def verified(lines: list[str], key: str = checkpoint["public_key"]) -> tuple[int, list[str]]:
        file.write_text("".join(line + "\n" for line in lines))
        process = Process("audit", "verify", str(file), "--key", key, env={"PATH": ""}, cwd=tmp_path)
        return process.ended(), process.lines

    code, said = verified(lines)
    assert code == 0, said
    assert said[-1] == "The audit trail verifies."
    assert "8 records in 2 chains, 1 checkpoints; 0 records are newer" in said[0]
    place = next(n for n, line in enumerate(lines) if '"turn.called"' in line)
    changed = [line.replace("1 new 200", "1 new 500") for line in lines]
    code, now = verified(changed)
    record = json.loads(lines[place])["id"]
    assert (code, now[1:]) == (
        1,
        [
            f"  {thread} record 3: {record} was changed: its hash does not match its content",
            "The audit trail does NOT verify.",
        ],
    )
    for wrong in (
        lines[:place] + lines[place + 1 :],
        lines[:-1],
        [*lines[: place - 1], lines[place], lines[place - 1], *lines[place + 1 :]],
        [line for line in lines if "audit.leaf" not in line],
        [line for line in lines if "audit.checkpoint" not in line],
    ):
        file.write_text("".join(line + "\n" for line in wrong))
        assert verify_file(file, [public_key(checkpoint["public_key"])]).problems
    file.write_text("".join(line + "\n" for line in lines))
    assert verify_file(file, [signing_key(None, tmp_path).public_key()]).problems
    code, said = verified(["{}"])
    assert (code, "is not an audit trail" in said[0]) == (1, True)


def test_one_threads_trail_is_proved_offline_and_tells_nothing_of_the_others(
    service: Service, project: Project, tmp_path: Path
) -> None:
    threads = [project.call("POST", "/threads", json={"user": user})["id"] for user in ("ann", "bob", "cyd")]
    for words in ("first", "second"):
        for thread in threads:
            project.call("POST", f"/threads/{thread}/turns", json={"input": words})
        assert project.http.get("/audit/export").status_code == 200
    thread = threads[1]
    project.call("DELETE", f"/threads/{thread}")
    file = tmp_path / "one.ndjson"
    command = ("audit", "export", str(file), "--url", service.url, "--thread", thread)
    Process(*command, env={"EVERTHREAD_KEY": project.key}).wait_for("is in")
    lines = file.read_text().splitlines()
    key = public_key(project.call("GET", "/audit/checkpoints")["data"][0]["public_key"])
    assert not any(other[7:] in line for line in lines for other in (threads[0], threads[2]))
    assert not any(name in line for line in lines for name in ("ann", "cyd"))

    def problems(lines: list[str]) -> list[str]:
        file.write_text("".join(line + "\n" for line in lines))
        return [str(problem) for problem in verify_file(file, [key]).problems]

    assert problems(lines) == []
    verdict = verify_file(file, [key])
    assert (verdict.records, verdict.chains, verdict.checkpoints, verdict.unsigned) == (8, 1, 1, 0)
    leaves = [n for n, line in enumerate(lines) if "audit.leaf" in line]
    assert len(leaves) == 3
    said = json.loads(lines[leaves[1]])
    moved = json.dumps({**said, "position": said["position"] + 1})
    longer = json.dumps({**said, "proof": [*said["proof"], "00" * 32]})
    shorter = json.dumps({**said, "proof": said["proof"][:-1]})
    for wrong in (moved, longer, shorter, lines[leaves[1]].replace(said["hash"], "00" * 32)):
        assert problems([*lines[: leaves[1]], wrong, *lines[leaves[1] + 1 :]]), wrong
    without = [json.dumps({k: v for k, v in json.loads(line).items() if k != "proof"}) for line in lines]
    for wrong_lines in (
        without,
        [line for line in lines if "audit.leaf" not in line],
        [line for line in lines if "audit.checkpoint" not in line],
        [line.replace('"user":"user_', '"user":"user_00') for line in lines],
        lines[:-1],
    ):
        assert problems(wrong_lines)
    file.write_text("".join(line + "\n" for line in lines))
    assert verify_file(file, [signing_key(None, tmp_path).public_key()]).problems
    records = project.records(action="audit.exported")
    assert [record["detail"] for record in records] == [None, None, thread]
    unknown = project.http.get(f"/threads/thread_{'0' * 32}/audit/export")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "thread_not_found")


def test_the_command_verifies_the_database_and_names_what_is_wrong(talked: tuple[Project, str]) -> None:
    project, thread = talked
    env = {**project.env, "EVERTHREAD_DATA_DIR": str(project.data_dir)}

    def verified(*options: str) -> tuple[int, list[str]]:
        process = Process("audit", "verify", *options, env=env)
        return process.ended(), process.lines

    code, said = verified("--project", project.name)
    assert (code, said[-1]) == (0, "The audit trail verifies."), said
    assert (
        said[0]
        == f"{project.name}: 10 records in 2 chains, 1 checkpoints; 0 records are newer than the last checkpoint."
    )
    code, said = verified("--project", project.name, "--thread", thread)
    assert (code, said[0].partition(": ")[2][:23]) == (0, "7 records in 1 chains, ")
    project.sql("UPDATE items SET data = replace(data::text, 'Ada', 'Eve')::json WHERE project_id = $1")
    code, said = verified("--project", project.name, "--thread", thread)
    assert (code, said[-1]) == (1, "The audit trail does NOT verify.")
    assert f"  {thread} record 2: " in said[1]
    assert "what it holds is not what was recorded" in said[1]
    for options, reason in (
        (("--project", "nobody"), "There is no project 'nobody'"),
        (("--thread", "nobodys-thread"), "is not the id of a thread"),
        (("--thread", f"thread_{'0' * 32}"), "knows no thread"),
        (("--key", "x"), "--key is wrong"),
    ):
        code, said = verified(*options)
        assert (code, reason in said[-1]) == (1, True), said
    shown = Process("audit", "public-key", env=env)
    assert shown.ended() == 0
    assert shown.lines == [signing_key(None, project.data_dir).public_key().public_bytes_raw().hex()]


def test_the_commands_take_a_thread_by_its_name(project: Project, service: Service) -> None:
    project.call("PUT", "/threads/by-name/ada lovelace")
    project.checkpoint()
    env = {**project.env, "EVERTHREAD_DATA_DIR": str(project.data_dir)}
    verified = Process("audit", "verify", "--project", project.name, "--thread", "ada lovelace", env=env)
    assert verified.ended() == 0, verified.lines
    assert verified.lines[0].startswith(f"{project.name}: 1 records in 1 chains, ")
    file = project.data_dir / "ada.ndjson"
    there = {**env, "EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": project.key}
    taken = Process("audit", "export", str(file), "--thread", "ada lovelace", env=there)
    assert taken.ended() == 0, taken.lines
    assert '"thread.created"' in file.read_text()


def test_records_are_found_by_time_actor_action_and_thread_on_cursor_pages(project: Project) -> None:
    threads = [project.call("POST", "/threads", json={"user": user})["id"] for user in ("ann", "bob")]
    for thread in threads:
        project.call("POST", f"/threads/{thread}/turns", json={"input": "Hi"})
    everything = project.records()
    assert [record["action"] for record in everything[:3]] == ["project.created", "key.created", "key.used"]
    assert len({r["actor"]["user"] for r in project.records(action="thread.created")}) == 2
    assert {r["thread"] for r in project.records(user="bob")} == {threads[1]}
    assert len(project.records(thread=threads[0])) == 4
    key = everything[2]["actor"]["key"]
    assert project.records(key=key) == everything[2:]
    turn = project.records(action="turn.closed")[0]["turn"]
    assert [r["action"] for r in project.records(turn=turn)] == ["turn.opened", "turn.called", "turn.closed"]
    assert project.records(since=4_000_000_000) == []
    assert project.records(until=1000) == []
    paged: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = project.call("GET", "/audit", params={"order": "asc", "limit": 3, **after})
        paged += page["data"]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert paged == everything
    for name, value in (("action", "x"), ("thread", "x"), ("key", "key_1"), ("since", -1), ("after", "x")):
        refused = project.http.get("/audit", params={name: value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)


def test_a_project_sees_no_record_of_another(service: Service, project: Project) -> None:
    thread = service.thread()
    assert project.http.get(f"/threads/{thread}/audit").status_code == 404
    assert project.records(thread=thread) == []
    assert service.http.get("/audit", headers={"Authorization": ""}).status_code == 401


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_the_tree_has_the_root_that_rfc_6962_defines(leaves: list[bytes]) -> None:
    def root(some: list[bytes]) -> bytes:
        if not some:
            return hashlib.sha256(b"").digest()
        if len(some) == 1:
            return hashlib.sha256(b"\0" + some[0]).digest()
        half = 1
        while half * 2 < len(some):
            half *= 2
        return hashlib.sha256(b"\1" + root(some[:half]) + root(some[half:])).digest()

    tree = Tree()
    for count, leaf in enumerate(leaves):
        assert tree.root() == root(leaves[:count])
        tree.add(leaf)
    assert tree.root() == root(leaves)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=40), st.data())
def test_a_leafs_proof_leads_to_the_root_from_its_own_place_alone(leaves: list[bytes], data: st.DataObject) -> None:
    tree, proofs = Tree(), Proofs()
    paths: list[list[bytes]] = [[] for _ in leaves]
    for leaf, path in zip(leaves, paths, strict=True):
        tree.add(leaf)
        proofs.add(leaf, path)
    proofs.end()
    size = len(leaves)
    place = data.draw(st.integers(0, size - 1))
    assert root_of(leaves[place], place, size, paths[place]) == tree.root()
    assert len(paths[place]) <= (size - 1).bit_length()
    assert root_of(leaves[place] + b"!", place, size, paths[place]) != tree.root()
    assert root_of(leaves[place], place, size, [*paths[place], b"0" * 32]) != tree.root()
    for other in range(size):
        if leaves[other] != leaves[place]:
            assert root_of(leaves[place], other, size, paths[other]) != tree.root()


def test_a_consistency_proof_leads_from_every_size_to_every_later_one_and_proves_no_other_tree() -> None:
    leaves = [bytes([number]) for number in range(70)]
    trees = [Tree()]
    for leaf in leaves:
        trees.append(trees[-1].copy())
        trees[-1].add(leaf)
    roots = [tree.root() for tree in trees]
    for size in range(1, len(leaves)):
        for larger in range(size + 1, len(leaves) + 1):
            proofs = Proofs(trees[size])
            path = proofs.begin()
            for leaf in leaves[size:larger]:
                proofs.add(leaf)
            proofs.end()
            assert path == of_section_2_1_2(size, leaves[:larger])
            assert is_consistent(size, roots[size], larger, roots[larger], path)
            assert not is_consistent(size, roots[size - 1], larger, roots[larger], path)
            assert not is_consistent(size, roots[size], larger, roots[larger - 1], path)
            assert not is_consistent(size, roots[size], larger, roots[larger], path[:-1])
            assert not is_consistent(size, roots[size], larger, roots[larger], [*path, path[-1]])
    assert is_consistent(0, roots[0], 5, roots[5], [])
    assert is_consistent(5, roots[5], 5, roots[5], [])
    assert not is_consistent(5, roots[5], 5, roots[6], [])
    assert not is_consistent(6, roots[6], 5, roots[5], [])


@given(st.lists(st.binary(max_size=4), min_size=2, max_size=60), st.data())
def test_a_fork_has_no_consistency_proof(leaves: list[bytes], data: st.DataObject) -> None:
    """One leaf of the former tree is another: neither tree's proof leads from the former root to the later one."""
    size = data.draw(st.integers(1, len(leaves) - 1))
    place = data.draw(st.integers(0, size - 1))
    forked = [*leaves[:place], leaves[place] + b"!", *leaves[place + 1 :]]
    former, later, other = Tree(), Tree(), Tree()
    for leaf in leaves[:size]:
        former.add(leaf)
    for leaf, another in zip(leaves, forked, strict=True):
        later.add(leaf)
        other.add(another)
    for given_ in (leaves, forked):
        path = of_section_2_1_2(size, given_)
        assert not is_consistent(size, former.root(), len(leaves), other.root(), path)
    assert is_consistent(size, former.root(), len(leaves), later.root(), of_section_2_1_2(size, leaves))


def of_section_2_1_2(size: int, leaves: list[bytes], *, whole: bool = True) -> list[bytes]:
    """The proof as RFC 6962 defines it: SUBPROOF(m, D[n], b)."""
    if size == len(leaves):
        return [] if whole else [root_of_all(leaves)]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if size <= half:
        return [*of_section_2_1_2(size, leaves[:half], whole=whole), root_of_all(leaves[half:])]
    return [*of_section_2_1_2(size - half, leaves[half:], whole=False), root_of_all(leaves[:half])]


def root_of_all(leaves: list[bytes]) -> bytes:
    tree = Tree()
    for leaf in leaves:
        tree.add(leaf)
    return tree.root()


def test_a_host_signs_only_with_a_key_that_the_database_lists(
    service_env: dict[str, str], emulator: Emulator, fresh_database_url: str
) -> None:
    private = [Ed25519PrivateKey.generate() for _ in range(2)]
    first, second = (
        {**service_env, "DATABASE_URL": fresh_database_url, "EVERTHREAD_AUDIT_KEY": key.private_bytes_raw().hex()}
        for key in private
    )
    public = [key.public_key().public_bytes_raw().hex() for key in private]

    def command(*words: str) -> tuple[int, list[str]]:
        process = Process("audit", *words, env=first)
        return process.ended(), process.lines

    service = Service(env=first)
    service.turn(service.thread(), "Hello")
    assert command("checkpoint")[0] == 0
    other = Process("serve", "--port", "0", env=second)
    other.wait_for(f"'everthread audit keys add {public[1]}'")
    assert other.ended() == 1
    assert command("keys", "add", "nonsense")[0] == 1
    assert command("keys", "add", public[1])[0] == 0
    with_other = Service(env=second)
    with_other.turn(with_other.thread(), "Hello")
    signed = Process("audit", "checkpoint", env=second)
    assert signed.ended() == 0
    assert command("verify", "--key", public[0])[0] == 1
    assert command("verify", "--key", public[0], "--key", public[1])[0] == 0
    assert command("keys", "retire", public[0])[0] == 0
    assert command("keys", "retire", public[0])[0] == 1
    code, lines = command("keys", "list")
    assert code == 0
    assert [line.split()[0] for line in lines] == public
    assert "retired" in lines[0]
    assert service.stop() == 0
    again = Process("serve", "--port", "0", env=first)
    again.wait_for("does not list the key")
    assert again.ended() == 1
    records = with_other.http.get("/audit", params={"limit": 100}).json()["data"]
    told = {(record["action"], record["detail"]) for record in records if record["action"].startswith("audit.key")}
    assert told == {
        ("audit.key_added", public[0]), ("audit.key_added", public[1]), ("audit.key_retired", public[0]),
    }  # fmt: skip
    assert with_other.stop() == 0


def test_a_project_whose_leaves_were_changed_is_signed_no_more_and_holds_nobody_up(
    project: Project, service: Service
) -> None:
    """Check that a project whose leaves were changed is no longer signed, and delays no other project."""
    thread = project.call("POST", "/threads", json={})["id"]
    size = project.checkpoint()
    project.sql("DELETE FROM audit_leaves WHERE project_id = $1 AND position = 0")
    project.call("POST", f"/threads/{thread}/turns", json={"input": "Hello."})
    assert project.checkpoint() == size
    exported = project.http.get("/audit/export", timeout=20)
    assert exported.status_code == 200
    assert any("leaves" in str(problem) or "leaf" in str(problem) for problem in project.verify().problems)
    assert service.http.get("/audit/export", timeout=60).status_code == 200


@pytest.mark.parametrize("number", [-1, 2**63, 1.5, "1"])
@pytest.mark.parametrize("field", ["position", "seq"])
def test_a_file_with_a_leaf_that_has_no_number_is_no_trail(tmp_path: Path, field: str, number: Any) -> None:
    leaf = {"object": "audit.leaf", "position": 0, "thread": None, "seq": 1, "hash": "00", field: number}
    record = {"object": "audit.record", "actor": {"project": "0" * 32}, "thread": None, "seq": 1, "id": "x",
              "previous": "", "hash": ""}  # fmt: skip
    file = tmp_path / "trail.ndjson"
    file.write_text(f"{json.dumps(leaf)}\n{json.dumps(record)}\n")
    with pytest.raises(BadFile, match="line 1"):
        verify_file(file, [])

"""Erasure certificates: each purge ends with a signed document that verifies offline, and tells nothing of contents."""

import asyncio
import base64
import hashlib
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import httpx2
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, insert

from app.audit.notes import COSIGNATURE, ED25519, Checkpoint, Note, VerifierKey, cosign, sign
from app.audit.policy import Policy
from app.audit.signing import signing_key
from app.db.engine import Database
from app.retention.certificate_file import BadCertificate, Certified, signed, verify
from app.retention.tables import UserPurge
from app.trail.append import append_record
from app.trail.records import SERVICE
from tests.projects import Project, new_key
from tests.service import Process, Service, eventually

USER = "ann/of the hill@example.com"


def certificate(project: Project, purge: str) -> bytes:
    answer = project.http.get(f"/purges/{purge}/certificate")
    assert answer.status_code == 200, answer.text
    return answer.content


def verified(project: Project, content: bytes) -> Certified:
    path = project.data_dir / f"{uuid4().hex}.certificate"
    path.write_bytes(content)
    return verify(path, [key.public_bytes_raw() for key in project.public_keys()])


def purged_user(project: Project, user: str = USER) -> str:
    purge = project.call("DELETE", f"/users/{quote(user, safe='')}/data")["id"]
    eventually(lambda: project.call("GET", f"/purges/{purge}")["status"] == "completed")
    return str(purge)


def talk(project: Project, **fields: Any) -> str:
    thread = project.call("POST", "/threads", json=fields)["id"]
    project.call("POST", f"/threads/{thread}/turns", json={"input": "Echo: marmalade"})
    return str(thread)


def purge_of(thread: str) -> str:
    return thread.replace("thread_", "purge_")


def test_a_deleted_thread_has_a_certificate_that_verifies_and_stays_the_same(project: Project) -> None:
    thread = talk(project, user=USER)
    assert project.http.get(f"/purges/{purge_of(thread)}/certificate").json()["error"]["code"] == "purge_not_found"
    project.call("DELETE", f"/threads/{thread}")
    shown = project.call("GET", f"/purges/{purge_of(thread)}")
    assert (shown["kind"], shown["object"], shown["status"], shown["user"]) == (
        "thread", "thread.purge", "completed", None,
    )  # fmt: skip
    content = certificate(project, purge_of(thread))
    said = verified(project, content).statement
    (record,) = project.records(thread=thread, action="thread.deleted")
    assert said["record"] == record
    assert said["counts"] == {"turns": 1, "items": 2, "calls": 1, "media": 0}
    assert (said["user"], said["key"], said["address"]) == tuple(
        record["actor"][name] for name in ("user", "key", "address")
    )
    left = {each["what"]: each for each in said["remains"]}
    assert left["backups"]["until"] is None
    assert left["backups"]["why"] == "unknown, ask the operator"
    assert left["provider_copies"]["until"] > said["ended_at"]
    talk(project)
    project.checkpoint()
    assert certificate(project, purge_of(thread)) == content
    assert project.call("GET", "/purges", params={"kind": "thread"})["data"] == [shown]
    assert project.call("GET", "/purges")["data"] == []
    assert project.verify().problems == []


def test_two_requests_at_once_get_the_same_certificate_of_a_thread_whose_turns_a_fork_keeps(project: Project) -> None:
    thread = talk(project)
    project.call("POST", f"/threads/{thread}/fork", json={})
    project.call("DELETE", f"/threads/{thread}")
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda _: certificate(project, purge_of(thread)), range(2))
    assert first == second
    said = verified(project, first).statement
    assert said["counts"] == {"turns": 0, "items": 0, "calls": 0, "media": 0, "inherited": 1}
    assert [each["count"] for each in said["remains"] if each["what"] == "turns"] == [1]


def test_a_purge_that_an_earlier_release_has_completed_and_signed_has_a_certificate(project: Project) -> None:
    async def complete(database: Database, project_id: UUID) -> str:
        purge = uuid4()
        async with database.session() as session:
            values = {"project_id": project_id, "id": purge, "user_id": USER, "threads": 1, "threads_done": 1}
            await session.execute(insert(UserPurge).values(**values, completed_at=func.now()))
            await append_record(session, SERVICE, project_id, "user.purged", detail="1 threads")
            await append_record(session, SERVICE, project_id, "audit.exported")
        return f"purge_{purge.hex}"

    purge = project.run(complete)
    project.checkpoint()
    project.sql("UPDATE audit_checkpoints SET note = NULL WHERE project_id = $1")
    found = verified(project, certificate(project, purge))
    assert (found.statement["counts"], found.statement["records"], found.records) == ({"threads": 1}, None, 0)


def test_a_purged_user_has_a_certificate_with_every_record_and_the_sums(project: Project) -> None:
    threads = [talk(project, user=USER) for _ in range(3)]
    talk(project, user="bob")
    copy = project.call("POST", f"/threads/{threads[0]}/fork", json={"user": "bob"})["id"]
    purge = purged_user(project)
    content = certificate(project, purge)
    found = verified(project, content)
    said = found.statement
    assert said["counts"] == {"threads": 3, "turns": 2, "items": 4, "calls": 2, "media": 0, "turns_of_forks": 1}
    (end,) = project.records(action="user.purged")
    gone = [*project.records(action="thread.purged"), *project.records(action="turn.purged")]
    assert {record["thread"] for record in gone} == {*threads, copy}
    listed = content.decode().rpartition("\n\n")[2].splitlines()
    assert sorted(listed) == sorted(f"{record['id']} {record['hash']}" for record in gone)
    assert (found.records, end["content"]) == (4, said["records"]["root"])
    assert said["user"] == end["actor"]["user"]
    assert certificate(project, purge) == content
    assert project.verify().problems == []


def test_a_certificate_is_made_without_being_asked_for_and_cannot_be_changed_in_the_database(project: Project) -> None:
    talk(project, user=USER)
    purge = purged_user(project)
    stored = "SELECT 1 FROM purge_certificates WHERE project_id = $1"
    eventually(lambda: len(project.sql(stored)) == 1)
    project.sql(
        "UPDATE purge_certificates SET note = replace(note, '\"turns\":1', '\"turns\":0') WHERE project_id = $1"
    )
    with pytest.raises(BadCertificate, match="the certificate: the signature by"):
        verified(project, certificate(project, purge))


def test_no_contents_names_or_ids_of_users_are_in_a_certificate(project: Project) -> None:
    words: dict[str, Any] = {
        "user": USER,
        "title": "A title of the thread",
        "name": f"name-{uuid4().hex}",
        "metadata": {"mood": "a mood in the metadata"},
    }
    thread = project.call("POST", "/threads", json=words)["id"]
    said = "Echo: the words of a message"
    project.call("POST", f"/threads/{thread}/turns", json={"input": said})
    kept = project.sql(
        """SELECT i.data::text, t.response::text, t.params::text FROM turns t JOIN items i ON i.turn_id = t.id
        WHERE t.project_id = $1"""
    )
    rows = [value for row in kept for value in row if len(value or "") > 10]
    salts = project.sql(
        "SELECT salt FROM turns WHERE project_id = $1 UNION SELECT salt FROM threads WHERE project_id = $1"
    )
    other = project.call("POST", "/threads", json={"user": USER, "title": words["title"]})["id"]
    project.call("DELETE", f"/threads/{thread}")
    secrets = [words["user"], words["title"], words["name"], words["metadata"]["mood"], said, said[6:], *rows]
    purge = purged_user(project)
    for content in (certificate(project, purge), certificate(project, purge_of(thread))):
        verified(project, content)
        for secret in (*secrets, *(str(row[0]) for row in salts), project.name):
            raw = secret.encode()
            digest = hashlib.sha256(raw)
            for form in (
                raw,
                base64.b64encode(raw).rstrip(b"=")[:-1],
                raw.hex().encode(),
                digest.hexdigest().encode(),
                digest.hexdigest()[:32].encode(),
                base64.b64encode(digest.digest()),
            ):
                assert form not in content, secret
    assert other.partition("_")[2] in certificate(project, purge).decode()


@pytest.mark.parametrize("table", ["purge_records", "purge_certificates"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET project_id = project_id", "DELETE FROM {}", "TRUNCATE {}"])
def test_certificates_take_no_update_delete_or_truncate(project: Project, table: str, statement: str) -> None:
    async def run(database: Database, _: UUID) -> None:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
            await database.fetch(statement.format(table))

    project.run(run)


def changed(statement: dict[str, Any], field: str) -> None:
    value = statement[field]
    match value:
        case str() if field == "checkpoint":
            statement[field] = value.replace("\n", "\n1", 1)
        case str():
            statement[field] = ("0" if value[-1] != "0" else "1").join((value[:-1], ""))
        case int():
            statement[field] = value + 1
        case None:
            statement[field] = "user_" + "0" * 32
        case dict() if field == "record":
            value["action"] = "thread.purged"
        case dict():
            value.update(dict.fromkeys(value, 0))
        case list():
            statement[field] = value[:-1]


def resigned(content: bytes, key: Ed25519PrivateKey, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The certificate with another statement, signed again under the same name."""
    end = content.find(b"\n\n", content.find(b"\n\n") + 2) + 1
    head, rest = (content, b"") if end == 0 else (content[:end], content[end:])
    note = Note.parse(head)
    format_, text, _ = note.text.split("\n")
    statement = orjson.loads(text)
    change(statement)
    text = f"{format_}\n{orjson.dumps(statement, option=orjson.OPT_SORT_KEYS).decode()}\n"
    return bytes(Note(text, (sign(text, note.signatures[0].name, key),))) + rest


def test_a_certificate_that_was_changed_cut_or_signed_by_another_does_not_verify(project: Project) -> None:
    for _ in range(2):
        talk(project, user=USER)
    purge = purged_user(project)
    content = certificate(project, purge)
    verified(project, content)
    text = content.decode()
    statement = orjson.loads(text.split("\n")[1])
    assert set(statement) == {
        "version", "purge", "kind", "project", "user", "key", "address", "began_at", "ended_at", "counts", "record",
        "position", "proof", "checkpoint", "records", "remains",
    }  # fmt: skip

    def refused(changed_content: bytes, why: str) -> None:
        with pytest.raises(BadCertificate, match=why):
            verified(project, changed_content)

    # By somebody without the key: each field, and each byte line of what follows.
    for field in statement:
        other = orjson.loads(text.split("\n")[1])
        changed(other, field)
        assert other != statement, field
        line = orjson.dumps(other, option=orjson.OPT_SORT_KEYS).decode()
        refused(text.replace(text.split("\n")[1], line).encode(), "the certificate: the signature by|its checkpoint")
    head, _, records = text.rpartition("\n\n")
    first, second = records.splitlines(keepends=True)
    refused(f"{head}\n\n{first}".encode(), "it has 1 deletion records, but lists 2")
    refused(f"{head}\n".encode(), "it has 0 deletion records")
    refused(f"{head}\n\n{second}{first}".encode(), "changed or reordered")
    refused(f"{head}\n\n{first}{second}{second}".encode(), "more deletion records")
    refused(f"{head}\n\n{first}{second[:-2]}{'0' if second[-2] != '0' else '1'}\n".encode(), "changed or reordered")
    # By another key, under the log's own name.
    stranger = Ed25519PrivateKey.generate()
    refused(resigned(content, stranger, lambda said: None), "none of the trusted keys has signed")
    # By who has the key: the record and its checkpoint hold what the certificate may say.
    own = signing_key(None, project.data_dir)
    for field, why in (
        ("counts", "counts"),
        ("user", "user"),
        ("ended_at", "ended_at"),
        ("kind", "kind"),
        ("purge", "purge"),
        ("key", "key"),
        ("record", "was changed"),
        ("position", "is not in the tree|is outside the tree"),
        ("checkpoint", "its checkpoint"),
        ("records", "but lists 0|more deletion records"),
    ):
        refused(resigned(content, own, lambda said, field=field: changed(said, field)), why)  # type: ignore[misc]
    # Another purge's certificate, with the records of this one.
    talk(project, user="bob")
    other_purge = certificate(project, purged_user(project, "bob"))
    refused(other_purge.rpartition(b"\n\n")[0] + b"\n\n" + records.encode(), "deletion records")


def test_a_purge_that_is_not_complete_has_no_certificate(project: Project) -> None:
    talk(project, user=USER)
    project.sql(
        "INSERT INTO user_purges (project_id, id, user_id, threads, lease_expires_at) "
        f"VALUES ($1, '{(purge := uuid4())}', '{USER}', 1, now() + interval '1 hour')"
    )
    refused = project.http.get(f"/purges/purge_{purge.hex}/certificate")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "purge_not_completed")
    assert project.call("GET", f"/purges/purge_{purge.hex}")["status"] == "in_progress"


def test_only_keys_with_the_audit_scope_get_a_certificate_and_only_of_their_own_project(
    project: Project, service: Service
) -> None:
    thread = talk(project, user=USER)
    project.call("DELETE", f"/threads/{thread}")
    path = f"/purges/{purge_of(thread)}/certificate"
    certificate(project, purge_of(thread))

    def status(key: str) -> int:
        return httpx2.get(f"{service.url}/v1{path}", headers={"Authorization": f"Bearer {key}"}).status_code

    url = project.env["DATABASE_URL"]
    assert status(new_key(url, project.name, scopes=("read", "write"))) == 403
    assert status(new_key(url, uuid4().hex)) == 404
    token = project.call("POST", "/user_tokens", json={"user": USER})["token"]
    assert status(token) == 403


def test_the_command_line_makes_a_certificate_and_verifies_it_offline(project: Project, tmp_path: Path) -> None:
    thread = talk(project)
    project.call("DELETE", f"/threads/{thread}")
    signing_key(None, project.data_dir)
    env = {**project.env, "EVERTHREAD_DATA_DIR": str(project.data_dir), "EVERTHREAD_BACKUP_RETENTION_DAYS": "30"}
    made = Process("audit", "certificate", purge_of(thread), env=env)
    assert made.ended() == 0, made.lines
    content = "".join(f"{line}\n" for line in made.lines).encode()
    assert content == certificate(project, purge_of(thread))
    file = tmp_path / "one.certificate"
    file.write_bytes(content)
    key = project.call("GET", "/audit/checkpoints")["data"][0]["public_key"]
    checked = Process("audit", "verify-certificate", str(file), "--key", key)
    assert (checked.ended(), checked.lines[-1]) == (0, "The certificate verifies.")
    assert re.search(r"Remains: backups until 20\d\d-", "\n".join(checked.lines))
    file.write_bytes(content.replace(b'"turns":1', b'"turns":0'))
    checked = Process("audit", "verify-certificate", str(file), "--key", key)
    assert (checked.ended(), len(checked.lines)) == (1, 1)
    assert checked.lines[0].startswith("The certificate does NOT verify: the certificate: the signature by ")
    unknown = Process("audit", "certificate", f"purge_{uuid4().hex}", env=env)
    assert unknown.ended() == 1


def test_a_certificate_tells_what_a_hold_keeps_and_its_erasure_after_the_release_has_one_too(
    project: Project, service: Service
) -> None:
    thread = talk(project, user=USER)
    hold = project.call("POST", "/holds", json={"thread_id": thread, "reason": "Case 7 against a customer"})["id"]
    ordinary = new_key(project.env["DATABASE_URL"], project.name, scopes=("read", "write"))
    headers = {"Authorization": f"Bearer {ordinary}"}
    with httpx2.Client(base_url=f"{service.url}/v1", headers=headers) as client:
        assert client.delete(f"/threads/{thread}").status_code == 200
        shown = client.get(f"/purges/{purge_of(thread)}").json()
        assert (shown["status"], "hold" in str(shown)) == ("completed", False)
        content = certificate(project, purge_of(thread))
        (held,) = [each for each in verified(project, content).statement["remains"] if each["what"] == "held_rows"]
        assert (held["hold"], held["count"] > 3) == (hold, True)
        erasure = hold.replace("hold_", "purge_")
        assert project.http.get(f"/purges/{erasure}/certificate").status_code == 404
        project.call("POST", f"/holds/{hold}/release", json={"reason": "The case is closed"})
        eventually(lambda: project.http.get(f"/purges/{erasure}/certificate").status_code == 200)
        erased = certificate(project, erasure)
        said = verified(project, erased).statement
        assert (said["kind"], said["counts"]) == ("hold", {"rows": held["count"]})
        assert said["hold"]["released_by"] == project.records(action="hold.released")[0]["actor"]["key"]
        assert certificate(project, purge_of(thread)) == content
        assert not any(word in content + erased for word in (b"Case 7", b"The case is closed", USER.encode()))
        # Nobody without the audit scope is told of it.
        assert client.get(f"/purges/{erasure}").json()["error"]["code"] == "purge_not_found"
        assert client.get("/purges", params={"kind": "hold"}).status_code == 403
        assert [each["id"] for each in client.get("/purges", params={"kind": "thread"}).json()["data"]] == [shown["id"]]
    assert [each["id"] for each in project.call("GET", "/purges", params={"kind": "hold"})["data"]] == [erasure]
    assert project.call("GET", f"/purges/{erasure}")["object"] == "hold.purge"
    assert project.verify().problems == []


def test_a_thread_that_is_purged_after_its_time_to_live_has_a_certificate(project: Project) -> None:
    thread = talk(project, ttl_seconds=3600)
    project.sql("UPDATE threads SET expires_at = now(), updated_at = now() - interval '2 hours' WHERE project_id = $1")
    project.call("PATCH", "/project", json={"retention_days": None})  # Wakes the cleaner.
    eventually(lambda: project.http.get(f"/threads/{thread}").status_code == 404)
    said = verified(project, certificate(project, purge_of(thread))).statement
    assert (said["record"]["action"], said["key"], said["counts"]["turns"]) == ("thread.purged", None, 1)


def test_a_worker_that_is_killed_before_a_user_is_forgotten_leaves_that_and_the_certificate_to_another(
    own_env: dict[str, str],
) -> None:
    doomed = Service(env=own_env)
    doomed.turn(doomed.thread(user="ann"), "Echo: marmalade")

    async def run() -> str:
        connection = await asyncpg.connect(own_env["DATABASE_URL"])
        try:
            transaction = connection.transaction()
            await transaction.start()
            # The worker waits here, after it has ended the purge.
            await connection.execute("LOCK TABLE user_keys IN SHARE MODE")
            purge: str = doomed.http.delete("/users/ann/data").json()["id"]
            eventually(lambda: doomed.http.get(f"/purges/{purge}").json()["status"] == "completed")
            doomed.process.stop(signal.SIGKILL)
            await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
            assert await connection.fetchval("SELECT count(*) FROM user_keys WHERE user_id = 'ann'") == 1
            assert await connection.fetchval("SELECT count(*) FROM purge_certificates") == 0
            await transaction.rollback()
        finally:
            await connection.close()
        return purge

    purge = asyncio.run(run())
    other = Service(env={**own_env, "EVERTHREAD_CLEANING_SECONDS": "1"})

    async def left(table: str) -> int:
        connection = await asyncpg.connect(own_env["DATABASE_URL"])
        try:
            count: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
            return count
        finally:
            await connection.close()

    eventually(lambda: asyncio.run(left("purge_certificates")) == 1)
    assert asyncio.run(left("user_keys WHERE user_id = 'ann'")) == 0
    answer = other.http.get(f"/purges/{purge}/certificate")
    assert (answer.status_code, answer.text.rpartition("\n\n")[2].count("audit_")) == (200, 1)
    assert other.stop() == 0


def test_a_policy_accepts_a_certificate_only_if_its_witness_has_cosigned_the_checkpoint(project: Project) -> None:
    threads = [talk(project) for _ in range(2)]
    project.call("DELETE", f"/threads/{threads[0]}")
    project.checkpoint()
    note = Note.parse(project.http.get("/audit/checkpoint").content)
    checkpoint, witness = Checkpoint.parse(note.text), Ed25519PrivateKey.generate()
    witness_key = VerifierKey("witness.example/one", COSIGNATURE, witness.public_key().public_bytes_raw())
    signature = cosign(note.text, witness_key.name, witness, 1_800_000_000)
    project.sql(
        f"""INSERT INTO audit_cosignatures (project_id, public_key, size, origin, name, at, signature) VALUES (
        $1, '\\x{witness_key.public_key.hex()}', {checkpoint.size}, '{checkpoint.origin}', '{witness_key.name}',
        now(), '\\x{signature.data.hex()}')"""
    )
    keys = [key.public_bytes_raw() for key in project.public_keys()]
    logs = "".join(f"log {VerifierKey(checkpoint.origin, ED25519, key)}\n" for key in keys)
    policy = Policy.parse(f"{logs}witness one {witness_key}\nquorum one\n".encode())
    file = project.data_dir / "one.certificate"
    file.write_bytes(certificate(project, purge_of(threads[0])))
    assert verify(file, keys, policy).statement["purge"] == purge_of(threads[0])
    # The key of another log in the policy signs no certificate of this one, even beside a cosigned checkpoint.
    other, another = Ed25519PrivateKey.generate(), project.data_dir / "another.certificate"
    log = VerifierKey("b.example/log", ED25519, other.public_key().public_bytes_raw())
    both = Policy.parse(f"log {log}\n{logs}witness one {witness_key}\nquorum one\n".encode())
    verify(file, [], both)
    statement = orjson.loads(file.read_text().split("\n")[1])
    another.write_bytes(bytes(signed({**statement, "remains": []}, other)))
    with pytest.raises(BadCertificate, match="the certificate: none of the trusted keys"):
        verify(another, [other.public_key().public_bytes_raw(), *keys], both)
    project.call("DELETE", f"/threads/{threads[1]}")
    file.write_bytes(certificate(project, purge_of(threads[1])))
    verify(file, keys)
    with pytest.raises(BadCertificate, match="its checkpoint does not verify: the quorum one is not reached"):
        verify(file, keys, policy)

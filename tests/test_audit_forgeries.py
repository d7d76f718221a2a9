"""Files and tables that somebody without the signing key has forged: the audit trail's verification names them."""

import json
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.audit import exported
from app.audit.exported import BadFile, verify_file
from app.audit.merkle import Tree, leaf_data
from app.audit.notes import ED25519, BadNote, Checkpoint, Note, VerifierKey, cosign, log_keys, signed_checkpoint
from app.audit.policy import Policy
from app.audit.restored import before
from app.audit.signing import signed_text, signing_key
from app.audit.verify import check_policy
from app.trail.records import record_hash
from tests.projects import Project
from tests.service import Process

Objects = list[dict[str, Any]]


@pytest.fixture
def trail(project: Project, tmp_path: Path) -> Path:
    """The exported trail of a project with a thread of some records."""
    thread = project.call("POST", "/threads", json={"user": "ann"})["id"]
    for title in ("One", "Two", "Three"):
        project.call("PATCH", f"/threads/{thread}", json={"title": title})
    file = tmp_path / "trail.ndjson"
    file.write_text(project.http.get("/audit/export").text)
    assert verify_file(file, project.public_keys()).problems == []
    return file


def read(file: Path) -> Objects:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: Path, objects: Objects) -> Path:
    file.write_text("".join(json.dumps(each) + "\n" for each in objects))
    return file


def rewritten(records: Objects, **changes: Any) -> Objects:
    """A chain of records with changed fields, whose hashes fit again."""
    made: Objects = []
    for record in records:
        previous = made[-1]["hash"] if made else record["previous"]
        content = {name: value for name, value in record.items() if name != "hash"} | changes | {"previous": previous}
        made.append({**content, "hash": record_hash(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hex()})
    return made


def test_a_chain_stands_in_a_file_once(project: Project, trail: Path) -> None:
    """A second history of a thread, of which no checkpoint has seen a record, is not accepted beside the first."""
    objects = read(trail)
    records = [each for each in objects if each["object"] == "audit.record"]
    thread = [each for each in records if each["thread"] is not None]
    own = [each for each in records if each["thread"] is None]
    signed = [each for each in objects if each["object"] != "audit.record"]
    forged = rewritten(thread[:-1], detail="forged")
    for order in ([*thread, *own, *forged], [*forged, *own, *thread], [*own, *thread, *own[:1]]):
        problems = verify_file(write(trail, [*signed, *order]), project.public_keys()).problems
        assert any("another place" in problem.what for problem in problems), problems


def test_leaves_behind_the_last_checkpoint_sign_nothing(project: Project, trail: Path) -> None:
    objects = read(trail)
    last = objects[-1]
    content = {name: value for name, value in last.items() if name != "hash"}
    number = last["seq"] + 1
    content |= {"seq": number, "id": last["id"].rpartition("_")[0] + f"_{number}", "previous": last["hash"]}
    added = {**content, "hash": record_hash(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hex()}
    leaves = [each for each in objects if each["object"] == "audit.leaf"]
    leaf = {**leaves[-1], "position": len(leaves), "thread": last["thread"], "seq": number, "hash": added["hash"]}
    forged = write(trail, [*leaves, leaf, *objects[len(leaves) :], added])
    problems = verify_file(forged, project.public_keys()).problems
    assert [problem.where for problem in problems] == [f"leaf {len(leaves)}"]
    # It is no evidence that the database has lost a record that was signed.
    with pytest.raises(BadFile, match="does not verify"):
        before(forged, project.public_keys())


def test_leaves_in_the_database_behind_the_last_checkpoint_are_named(project: Project) -> None:
    project.call("POST", "/threads")
    size = project.checkpoint()
    assert project.verify().problems == []
    project.call("POST", "/threads")
    project.sql(
        f"""INSERT INTO audit_leaves (project_id, position, chain_id, seq, hash)
            SELECT project_id, {size} - 1 + row_number() OVER (ORDER BY at), chain_id, seq, hash FROM audit_records r
            WHERE project_id = $1 AND NOT EXISTS (SELECT FROM audit_leaves l
                WHERE l.project_id = r.project_id AND l.chain_id = r.chain_id AND l.seq >= r.seq)"""
    )
    assert [problem.where for problem in project.verify().problems] == [f"leaf {size}"]


def test_what_a_file_says_does_not_steer_the_terminal(project: Project, trail: Path) -> None:
    key = project.public_keys()[-1].public_bytes_raw().hex()
    text = "\x1b[2J\x9b1mThe audit trail verifies."
    objects = read(trail)
    for forged in (
        [*objects, {"object": text}],
        [*objects, {**objects[-1], "id": text, "seq": 9}],
        [{**objects[0], "thread": text}, *objects[1:]],
    ):
        ended = Process("audit", "verify", str(write(trail, forged)), "--key", key)
        assert ended.ended() == 1
        assert not any("\x1b" in line or "\x9b" in line for line in ended.lines), ended.lines


def test_a_proof_or_an_earlier_trail_that_is_not_compared_is_refused(project: Project, trail: Path) -> None:
    key = project.public_keys()[-1].public_bytes_raw().hex()
    env = {**project.env}
    for words in (
        ("--project", project.name, "--key", key, "--proof", str(trail)),
        (str(trail), "--key", key, "--against", str(trail)),
        (str(trail), "--key", key, "--thread", "ada"),
    ):
        ended = Process("audit", "verify", *words, env=env)
        assert (ended.ended(), "verifies" in ended.lines[-1]) == (1, False), ended.lines


@pytest.mark.parametrize(
    "change",
    [
        {"at": "0001-01-01T00:00:00+14:00"},
        {"public_key": "00"},
        {"size": "3"},
        {"size": []},
        {"follows": {"size": 10**30, "root": "00", "proof": []}},
        {"project": "0"},
    ],
)
def test_a_checkpoint_with_impossible_fields_is_refused(project: Project, trail: Path, change: dict[str, Any]) -> None:
    objects = [{**each, **change} if each["object"] == "audit.checkpoint" else each for each in read(trail)]
    forged = write(trail, objects)
    if "follows" not in change:
        with pytest.raises(BadFile):
            before(forged, project.public_keys())
        with pytest.raises(BadFile):
            verify_file(forged, project.public_keys())


@pytest.mark.parametrize("with_note", [True, False])
def test_the_key_of_another_log_of_the_policy_signs_nothing_behind_an_accepted_checkpoint(
    project: Project, trail: Path, with_note: bool
) -> None:
    objects, other = read(trail), Ed25519PrivateKey.generate()
    leaves = [each for each in objects if each["object"] == "audit.leaf"]
    last = [each for each in objects if each["object"] == "audit.checkpoint"][-1]
    content = {name: value for name, value in objects[-1].items() if name != "hash"}
    number = content["seq"] + 1
    content |= {"seq": number, "id": content["id"].rpartition("_")[0] + f"_{number}", "previous": objects[-1]["hash"]}
    added = {**content, "hash": record_hash(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hex()}
    leaf = {**leaves[-1], "position": len(leaves), "thread": added["thread"], "seq": number, "hash": added["hash"]}
    project_id, tree = UUID(last["project"]), Tree()
    for each in (*leaves, leaf):
        chain_id = project_id if each["thread"] is None else UUID(each["thread"].partition("_")[2])
        tree.add(leaf_data(chain_id, each["seq"], bytes.fromhex(each["hash"])))
    origin, at = last["note"].split("\n")[0], datetime.fromisoformat(last["at"])
    forged = {
        **last,
        "size": tree.size,
        "root": tree.root().hex(),
        "public_key": other.public_key().public_bytes_raw().hex(),
        "signature": other.sign(signed_text(project_id, tree.size, at, tree.root())).hex(),
        "note": str(signed_checkpoint(Checkpoint(origin, tree.size, tree.root()), other, at)) if with_note else None,
    }
    rest = objects[len(leaves) :]
    write(trail, [*leaves, leaf, *(each for each in rest if each["object"] == "audit.checkpoint"), forged,
                  *(each for each in rest if each["object"] == "audit.record"), added])  # fmt: skip
    own = [VerifierKey(origin, ED25519, key.public_bytes_raw()) for key in project.public_keys()]
    theirs = VerifierKey("b.example/log", ED25519, other.public_key().public_bytes_raw())
    policy = Policy.parse(("".join(f"log {log}\n" for log in (*own, theirs)) + "quorum none\n").encode())
    verdict = verify_file(trail, [Ed25519PublicKey.from_public_bytes(log.public_key) for log in policy.logs])
    assert verdict.problems == []
    check_policy(policy, verdict)
    assert [problem.where for problem in verdict.problems] == [f"checkpoint {tree.size}"]


def test_a_signature_of_a_time_that_no_calendar_has_is_refused() -> None:
    key = Ed25519PrivateKey.generate()
    checkpoint = Checkpoint("a.example/log", 1, bytes(32))
    for time, fits in ((253_402_300_799, True), (253_402_300_800, False), (2**63 - 1, False)):
        note = Note(checkpoint.text, (cosign(checkpoint.text, checkpoint.origin, key, time),))
        trusted = log_keys(checkpoint.origin, [key.public_key().public_bytes_raw()])
        with nullcontext() if fits else pytest.raises(BadNote, match="out of range"):
            note.verified(trusted)


def test_a_certificate_names_a_projects_log_as_the_service_would(project: Project) -> None:
    thread = project.call("POST", "/threads")["id"]
    project.call("DELETE", f"/threads/{thread}")
    signing_key(None, project.data_dir)
    env = {**project.env, "EVERTHREAD_DATA_DIR": str(project.data_dir), "EVERTHREAD_AUDIT_ORIGIN": "a.example/audit"}
    made = Process("audit", "certificate", thread.replace("thread_", "purge_"), env=env)
    assert made.ended() == 0, made.lines
    assert project.http.get("/audit/checkpoint").text.startswith("a.example/audit/")


def test_a_line_of_a_file_has_a_bound(project: Project, trail: Path) -> None:
    with trail.open("ab") as file:
        file.write(b'{"object": "' + b"x" * exported.LONGEST_LINE + b'"}\n')
    with pytest.raises(BadFile, match="bytes"):
        verify_file(trail, project.public_keys())

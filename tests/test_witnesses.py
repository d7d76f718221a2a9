"""Witnesses of the audit trail: checkpoints are cosigned, forks are refused, and nothing waits for a witness."""

import json
import re
import signal
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import make_url

from app.audit.exported import verify_file
from app.audit.notes import Note, VerifierKey
from app.audit.witnesses import BadWitnesses, witnesses
from tests.databases import new_database
from tests.postgres_pair import run_sql
from tests.projects import new_key
from tests.service import Emulator, Process, Service, eventually, free_port
from tests.witness import Answer, Witness, leads, serving, vkey

AUDIT_KEY = Ed25519PrivateKey.from_private_bytes(b"\x22" * 32).public_key().public_bytes_raw()
"""Public key of the trail of `fresh_env`."""

TEXT = {"Content-Type": "text/plain"}


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    """A witness that knows the log of every service of `fresh_env`."""
    witness = Witness(tmp_path / "witness")
    witness.admits = lambda origin: AUDIT_KEY
    with serving(witness):
        yield witness


def watched(env: dict[str, str], *lines: str) -> dict[str, str]:
    """A service with these witnesses, which signs and sends often."""
    return {**env, "EVERTHREAD_AUDIT_WITNESSES": "; ".join(lines), "EVERTHREAD_AUDIT_CHECKPOINT_SECONDS": "0.2"}


def audit(env: dict[str, str], *arguments: str) -> tuple[int, list[str]]:
    process = Process("audit", *arguments, env=env)
    return process.ended(), process.lines


def state(service: Service, name: str = "w1") -> dict[str, Any]:
    """A witness as the service shows it."""
    (found,) = [each for each in service.http.get("/audit/witnesses").json()["data"] if each["name"] == name]
    return dict(found)


def newest(service: Service) -> dict[str, Any]:
    return dict(service.http.get("/audit/checkpoints").json()["data"][0])


def is_cosigned(service: Service, name: str = "w1") -> bool:
    """True if the newest checkpoint is."""
    return bool(state(service, name)["size"] == newest(service)["size"])


def requests_of(service: Service, outcome: str, name: str = "w1") -> float:
    """The number of requests with this outcome, as /metrics counts them."""
    text = service.http.get(f"{service.url}/metrics").text
    match = re.search(
        rf'^everthread_witness_requests_total\{{outcome="{outcome}",witness="{name}"\}} (\S+)$', text, re.MULTILINE
    )
    return float(match[1]) if match else 0.0


def cosignatures(env: dict[str, str]) -> list[Any]:
    return [*run_sql(env["DATABASE_URL"], "SELECT * FROM audit_cosignatures ORDER BY size")]


def test_each_checkpoint_is_cosigned_shown_exported_and_verified(
    fresh_env: dict[str, str], witness: Witness, emulator: Emulator, tmp_path: Path
) -> None:
    env = watched(fresh_env, witness.line)
    service = Service("--workers", "2", env=env)
    thread = service.thread(name="a-name-of-ada", user="ada@example.com", title="A title")
    service.turn(thread, "My name is Ada.", metadata={"who": "Ada"})
    eventually(lambda: is_cosigned(service), 30)
    first = newest(service)
    service.turn(thread, "What is my name?")
    eventually(lambda: newest(service)["size"] > first["size"] and is_cosigned(service), 30)

    # The witness was led from one checkpoint to the next.
    bodies = [body.decode() for body in witness.requests]
    assert any(not body.startswith("old 0\n") for body in bodies)
    assert 422 not in witness.statuses
    # Origin, sizes, hashes and signatures: nothing else has left the service.
    base64 = "[A-Za-z0-9+/]+=*"
    origin = re.escape(Note.parse(newest(service)["note"].encode()).text.split("\n")[0])
    form = rf"old \d+\n({base64}\n)*\n{origin}\n\d+\n{base64}\n\n(— {origin} {base64}\n){{2}}"
    assert all(re.fullmatch(form, body) for body in bodies)
    for word in ("ada", "Ada", "example.com/ada", thread.partition("_")[2], "title", "default"):
        assert word not in "".join(re.sub(base64 + "(?=\n)", "", body) for body in bodies)

    # The cosignature comes with the checkpoint, in both forms, and in an export.
    note = Note.parse(service.http.get("/audit/checkpoint").content)
    (cosigned,) = note.verified([VerifierKey.parse(witness.vkey)])
    assert cosigned.time is not None
    shown = state(service)
    assert (shown["key"], shown["error"]) == (witness.vkey, None)
    assert shown["cosigned_at"] is not None
    assert "127.0.0.1" not in str(shown)
    trail = tmp_path / "trail.ndjson"
    eventually(lambda: is_cosigned(service), 30)
    there = {**env, "EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key}
    code, said = audit(there, "export", str(trail))
    assert code == 0, said
    assert f"— {witness.name} " in trail.read_text()
    assert requests_of(service, "cosigned") >= 2
    # The proof of a thread has a checkpoint that is cosigned, and that adds to the one before.
    policy, one = tmp_path / "policy", tmp_path / "one.ndjson"
    log = vkey(note.text.split("\n")[0], 1, AUDIT_KEY)
    policy.write_text(f"log {log}\nwitness w1 {witness.vkey}\nquorum w1\n")
    assert audit(there, "export", str(one), "--thread", thread)[0] == 0
    for file in (one, Path(f"{one}.tlog-proof"), trail):
        code, said = audit(env, "verify", str(file), "--policy", str(policy))
        assert code == 0, said
    trusted = [Ed25519PublicKey.from_public_bytes(AUDIT_KEY)]
    parts = [json.loads(line) for line in one.read_text().splitlines()]
    (signed,) = [each for each in parts if each["object"] == "audit.checkpoint"]
    for field, value in (("root", signed["root"]), ("proof", []), ("size", signed["size"] + 1)):
        follows = {**signed["follows"], field: value}
        altered = [{**each, "follows": follows} if each is signed else each for each in parts]
        one.write_text("".join(json.dumps(each) + "\n" for each in altered))
        (problem,) = verify_file(one, trusted).problems
        assert "does not verify" in str(problem), field

    # An auditor who has kept the first checkpoint is led to the newest one.
    last = newest(service)
    proof = service.http.get("/audit/consistency", params={"from": first["size"], "to": last["size"]}).json()
    lines = [b64encode(bytes.fromhex(each)).decode() for each in proof["proof"]]
    roots = [bytes.fromhex(each["root"]) for each in (first, last)]
    assert leads(first["size"], roots[0], last["size"], roots[1], lines)
    assert not leads(first["size"], roots[1], last["size"], roots[0], lines)
    for wrong in ({"from": 5, "to": 2}, {"from": 1, "to": last["size"] + 1000}, {"from": 0}, {"from": -1}, {}):
        assert service.http.get("/audit/consistency", params=wrong).status_code == 400, wrong
    # Another project has neither this trail nor these cosignatures.
    other = {"Authorization": f"Bearer {new_key(env['DATABASE_URL'], 'other')}"}
    assert service.http.get("/audit/consistency", params={"from": first["size"]}, headers=other).status_code == 400
    token = service.http.post("/user_tokens", json={"user": "ada@example.com"}).json()["token"]
    for path in ("/audit/consistency?from=1", "/audit/witnesses"):
        answer = service.http.get(path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 403, answer.text

    assert service.stop() == 0
    assert audit(env, "verify")[0] == 0
    # A cosignature that was changed in the database is found.
    changed = "UPDATE audit_cosignatures SET signature = set_byte(signature, 20, 255 - get_byte(signature, 20))"
    run_sql(env["DATABASE_URL"], "SET session_replication_role = replica", changed)
    code, said = audit(env, "verify")
    assert code == 1
    assert any(witness.name in line for line in said), said


def test_a_witness_that_hangs_or_is_closed_delays_nothing(
    fresh_env: dict[str, str], witness: Witness, emulator: Emulator, tmp_path: Path
) -> None:
    released = threading.Event()

    def hang(body: bytes) -> Answer:
        released.wait(600)
        return 500, "text/plain", b""

    hanging = Witness(tmp_path / "hanging", "hanging.example")
    hanging.instead = hang
    key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    closed = f"witness closed {vkey('closed.example', 4, key)} http://127.0.0.1:{free_port()}"
    with serving(hanging):
        env = watched(fresh_env, hanging.line.replace(" w1 ", " hanging "), closed, witness.line)
        service = Service(env=env)
        try:
            thread = service.thread()
            service.turn(thread, "Hello")
            eventually(lambda: bool(hanging.requests), 30)
            for _ in range(3):
                before = newest(service)["size"]
                assert service.turn(thread, "Hello")["status"] == "completed"
                eventually(lambda before=before: newest(service)["size"] > before and is_cosigned(service), 30)  # type: ignore[misc]
            assert hanging.statuses == []  # It has been asked, and hangs to this moment.
            eventually(lambda: requests_of(service, "unreachable", "closed") >= 1, 30)
            assert state(service, "closed")["error"] == "unreachable"
            assert state(service, "closed")["size"] is None
            waiting = service.http.get(f"{service.url}/metrics").text
            assert re.search(r'^everthread_witness_waiting_seconds\{witness="closed"\} \d*\.\d', waiting, re.MULTILINE)
            assert 'everthread_witness_cosigned_timestamp_seconds{witness="w1"}' in waiting
            # A worker that is killed while it waits for an answer.
            service.process.process.send_signal(signal.SIGKILL)
            service.process.ended()
            hanging.instead = None
            hanging.admits = lambda origin: AUDIT_KEY
        finally:
            released.set()
        run_sql(env["DATABASE_URL"], "UPDATE audit_witnesses SET taken_until = now()")  # Its lease is over.
        service = Service(env=env)
        eventually(lambda: is_cosigned(service, "hanging"), 30)
        assert service.stop() == 0


def test_only_valid_cosignatures_of_the_configured_key_are_stored(
    fresh_env: dict[str, str], witness: Witness, emulator: Emulator, tmp_path: Path
) -> None:
    env = watched(fresh_env, witness.line)
    another = Ed25519PrivateKey.generate()

    def text_of(body: bytes) -> str:
        return Note.parse(body.partition(b"\n\n")[2]).text

    def answer(said: str) -> Answer:
        return 200, "text/plain", said.encode()

    def other_size(body: bytes) -> str:
        origin, size, root, _ = text_of(body).split("\n")
        return f"{origin}\n{int(size) + 1}\n{root}\n"

    foreign = Witness(tmp_path / "foreign", "foreign.example")
    wrong: list[tuple[str, Callable[[bytes], Answer]]] = [
        ("bad_answer", lambda body: answer(witness.cosignature(text_of(body), another))),
        ("bad_answer", lambda body: answer(witness.cosignature(other_size(body)))),
        ("bad_answer", lambda body: answer(witness.cosignature(text_of(body), at=1_000_000_000))),
        ("bad_answer", lambda body: answer(witness.cosignature(text_of(body), at=2**63 - 1))),
        ("bad_answer", lambda body: answer(foreign.cosignature(text_of(body)))),
        ("bad_answer", lambda body: answer("")),
        ("bad_answer", lambda body: answer("— w")),
        ("bad_answer", lambda body: (200, "text/plain", b"\xff\xfe")),
        ("bad_answer", lambda body: (409, "text/x.tlog.size", b"a lot\n")),
        ("bad_answer", lambda body: (409, "text/x.tlog.size", b"9" * 30 + b"\n")),
        ("unreachable", lambda body: answer(witness.cosignature(text_of(body)) * 3000)),
        ("unknown_origin", lambda body: (404, "text/plain", b"")),
        ("untrusted_key", lambda body: (403, "text/plain", b"")),
        ("forked", lambda body: (422, "text/plain", b"")),
        ("forked", lambda body: (409, "text/x.tlog.size", b"4000000000\n")),
        ("refused", lambda body: (500, "text/plain", b"")),
        ("refused", lambda body: (302, "text/plain", b"")),
    ]
    witness.instead = wrong[0][1]
    service = Service(env=env)
    service.turn(service.thread(), "Hello")
    for outcome, instead in wrong:
        before = requests_of(service, outcome)
        asked = len(witness.requests)
        witness.instead = instead
        # Two more: the first may have begun before.
        eventually(lambda: len(witness.requests) > asked + 1 and requests_of(service, outcome) > before, 30)  # noqa: B023
        assert cosignatures(env) == [], outcome
    # Beside lines of others, its own is stored alone.
    witness.instead = lambda body: answer(foreign.cosignature(text_of(body)) + witness.cosignature(text_of(body)))
    eventually(lambda: is_cosigned(service), 30)
    assert {row["name"] for row in cosignatures(env)} == {witness.name}
    assert state(service)["error"] is None
    assert service.stop() == 0


def test_of_two_databases_from_one_backup_the_witness_refuses_the_second_until_it_says_that_it_was_restored(
    server_urls: tuple[str, str], fresh_env: dict[str, str], witness: Witness, emulator: Emulator, tmp_path: Path
) -> None:
    origins: set[str] = set()
    witness.admits = lambda origin: AUDIT_KEY if origin in origins else None
    env = watched(fresh_env, witness.line)
    service = Service(env=env)
    thread = service.thread(name="ada")
    service.turn(thread, "My name is Ada.")
    eventually(lambda: requests_of(service, "unknown_origin") >= 1, 30)  # It does not know the log yet.
    origin = newest(service)["note"].split("\n")[0]
    origins.add(origin)
    eventually(lambda: is_cosigned(service), 30)
    assert service.stop() == 0
    copy = new_database(server_urls[0], template=str(make_url(env["DATABASE_URL"]).database))

    # The first goes on.
    service = Service(env=env)
    for _ in range(2):
        service.turn(thread, "Hello again.")
    eventually(lambda: is_cosigned(service), 30)
    trail = tmp_path / "trail.ndjson"
    there = {**env, "EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key}
    assert audit(there, "export", str(trail))[0] == 0
    eventually(lambda: is_cosigned(service), 30)
    assert service.stop() == 0
    known = witness.latest[origin]

    # The second continues from the same moment, and says other things.
    env = {**env, "DATABASE_URL": copy, "EVERTHREAD_DATA_DIR": str(tmp_path / "copy")}
    cosigned = len(cosignatures(env))
    service = Service(env=env)
    thread = service.http.get("/threads/by-name/ada").json()["id"]
    service.turn(thread, "My name is Grace.")
    eventually(lambda: state(service)["error"] == "forked", 30)
    while newest(service)["size"] <= known[0]:
        service.turn(service.thread(), "More than the first one has.")
        size = newest(service)["size"]
        eventually(lambda size=size: newest(service)["size"] > size, 30)  # type: ignore[misc]
    refused = requests_of(service, "forked")
    eventually(lambda: requests_of(service, "forked") > refused + 1 and 422 in witness.statuses, 30)
    assert len(cosignatures(env)) == cosigned
    assert witness.latest[origin] == known
    page = service.http.get(
        f"{service.url}/console/audit", headers={"Cookie": signed_in(service)}, follow_redirects=False
    ).text
    assert "forked" in page
    assert any("forked" in line and "w1" in line for line in service.process.lines)
    assert service.stop() == 0
    code, said = audit(env, "verify")
    assert code == 1
    assert any("w1" in line or witness.name in line for line in said), said
    assert audit(env, "verify", "--against", str(trail))[0] == 1

    # It was a restore, and is said to be one: another log, which follows from the first.
    code, said = audit(env, "restored", str(trail))
    assert code == 0, said
    origins.add(f"{origin}/2")
    service = Service(env=env)
    eventually(lambda: newest(service)["note"].startswith(f"{origin}/2\n") and is_cosigned(service), 30)
    service.turn(thread, "Hello")
    eventually(lambda: is_cosigned(service), 30)
    assert witness.latest[origin] == known
    assert witness.latest[f"{origin}/2"][0] == newest(service)["size"]
    first = next(each for each in service.http.get("/audit/checkpoints").json()["data"][::-1]
                 if each["note"].startswith(f"{origin}/2\n"))  # fmt: skip
    assert len(Note.parse(first["note"].encode()).verified([VerifierKey(origin, 1, AUDIT_KEY)])) == 1
    after = tmp_path / "after.ndjson"
    there = {**env, "EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key}
    assert audit(there, "export", str(after))[0] == 0
    assert service.stop() == 0
    code, said = audit(env, "verify", "--against", str(trail), "--against", str(after))
    assert (code, said[-1]) == (0, "The audit trail verifies."), said
    key = AUDIT_KEY.hex()
    assert audit(env, "verify", str(after), "--key", key)[0] == 0

    # Without the cross-signature, or without the record, it is a shortened trail.
    crossed = f"— {origin} "
    for file in (trail, after):
        assert crossed in file.read_text()
    cut = tmp_path / "cut.ndjson"
    lines = [re.sub(rf"{re.escape(crossed)}[^\\]*\\n", "", line) if f'"note":"{origin}/2\\n' in line else line
             for line in after.read_text().splitlines()]  # fmt: skip
    cut.write_text("\n".join(lines) + "\n")
    code, said = audit(env, "verify", str(cut), "--key", key)
    assert code == 1, said
    run_sql(
        copy,
        "SET session_replication_role = replica",
        f"UPDATE audit_checkpoints SET note = regexp_replace(note, '— {origin} [^\n]*\n', '', 'g') "
        f"WHERE note LIKE '{origin}/2%'",
    )
    code, said = audit(env, "verify", "--against", str(trail))
    assert code == 1, said


def signed_in(service: Service) -> str:
    """The cookie of a session of the console."""
    answer = service.http.post(
        f"{service.url}/console/sign-in",
        data={"key": service.key},
        headers={"Origin": service.url, "Sec-Fetch-Site": "same-origin"},
        follow_redirects=False,
    )
    return str(answer.headers["set-cookie"]).partition(";")[0]


GOOD = vkey("witness.example/w1", 4, Ed25519PublicKey.from_public_bytes(AUDIT_KEY).public_bytes_raw())


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        ("w1", "must be 'witness NAME VKEY URL'"),
        (f"witness w1 {GOOD}", "must be 'witness NAME VKEY URL'"),
        (f"log w1 {GOOD} https://w.example", "must be 'witness NAME VKEY URL'"),
        (f'witness w"1 {GOOD} https://w.example', "the name in entry 1"),
        (f"witness {'w' * 65} {GOOD} https://w.example", "the name in entry 1"),
        ("witness w1 witness.example+00000000+BA== https://w.example", "the vkey in entry 1"),
        (f"witness w1 {GOOD.replace('witness', 'another')} https://w.example", "the vkey in entry 1"),
        (f"witness w1 {vkey('w.example', 1, AUDIT_KEY)} https://w.example", "must be a witness key (type 4)"),
        (f"witness w1 {GOOD} ftp://w.example", "the URL in entry 1"),
        (f"witness w1 {GOOD} https://user:secret@w.example", "the URL in entry 1"),
        (f"witness w1 {GOOD} https://w.example\nwitness w2 {GOOD} https://v.example",
         "two witnesses with the same key"),
        (f"witness w1 {GOOD} https://w.example; witness w1 {vkey('v.example', 4, b'k' * 32)} https://v.example",
         "two witnesses with the same name"),
        (";".join(f"witness w{n} {vkey('w.example', 4, bytes([n]) * 32)} https://w.example" for n in range(17)),
         "more than 16 witnesses"),
        ("#" * 40_000, "more than 32768 characters"),
    ],
)  # fmt: skip
def test_a_list_of_witnesses_that_cannot_be_used_is_refused_with_its_reason(listed: str, why: str) -> None:
    with pytest.raises(BadWitnesses, match=re.escape(why)) as refused:
        witnesses(listed)
    assert "secret" not in str(refused.value)


def test_a_list_of_witnesses_is_read_as_a_policy_writes_it() -> None:
    other = vkey("v.example", 4, b"k" * 32)
    text = (
        f"# those that we ask\nwitness w1 {GOOD} https://w.example/submit/\n\nwitness w2\t{other} http://10.0.0.7:8080;"
    )
    found = witnesses(text)
    assert [(each.name, each.url) for each in found] == [
        ("w1", "https://w.example/submit"),
        ("w2", "http://10.0.0.7:8080"),
    ]
    assert [str(each.key) for each in found] == [GOOD, other]
    assert witnesses(None) == witnesses("") == ()


def test_a_bad_list_of_witnesses_stops_the_start_with_one_sentence(fresh_env: dict[str, str]) -> None:
    process = Process("serve", env={**fresh_env, "EVERTHREAD_AUDIT_WITNESSES": "witness w1 key url"})
    assert process.ended() == 1
    (line,) = [line for line in process.lines if "witnesses" in line]
    assert line.startswith("everthread: Cannot use the witnesses of the audit trail: the vkey in entry 1")

"""Standard forms of the audit trail (C2SP): checkpoints, proofs and policies, verified with other people's code too."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import SignedCheckpoint, verify_checkpoint
from sigstore._internal.trust import Keyring, RekorKeyring
from sigstore._utils import KeyID
from sigstore.errors import VerificationError
from sigstore.models import TransparencyLogEntry
from sigstore_models.common.v1 import PublicKey, PublicKeyDetails
from sigstore_models.rekor import v1 as rekor

from app.audit.exported import proof_of, verify_file
from app.audit.merkle import Tree, leaf_data
from app.audit.notes import (
    COSIGNATURE,
    ED25519,
    MOST_OF_NOTE,
    BadNote,
    Checkpoint,
    Note,
    VerifierKey,
    cosign,
    log_keys,
    sign,
    signed_checkpoint,
)
from app.audit.policy import MOST_OF_POLICY, BadPolicy, Policy, written
from app.audit.proofs import Entry, TlogProof
from app.audit.signing import signed_text, signing_key
from app.audit.verify import Verdict, check_policy
from app.db.engine import Database
from tests.projects import Project, new_key
from tests.service import Process, Service

DOCS = Path(__file__).parents[1] / "docs" / "proofs.md"

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def vkey(name: str, key: Ed25519PrivateKey, kind: int = ED25519) -> VerifierKey:
    return VerifierKey(name, kind, key.public_key().public_bytes_raw())


WITNESSES = {name: Ed25519PrivateKey.generate() for name in ("w.example/1", "w.example/2", "w.example/3")}


def policy_of(log: VerifierKey, quorum: str = "none", witnesses: dict[str, Ed25519PrivateKey] | None = None) -> Policy:
    return Policy.parse(policy_text(log, quorum, witnesses).encode())


def policy_text(log: VerifierKey, quorum: str, witnesses: dict[str, Ed25519PrivateKey] | None) -> str:
    named = [f"witness {name} {vkey(name, key, COSIGNATURE)}" for name, key in (witnesses or {}).items()]
    return written([log], ";".join(named), quorum)


@dataclass
class Exported:
    """A thread's trail as a file, in a project where others talk too."""

    project: Project
    thread: str
    lines: list[str]
    key: bytes
    file: Path

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def checkpoint(self) -> dict[str, Any]:
        (found,) = (each for each in self.objects if each["object"] == "audit.checkpoint")
        return found

    @property
    def leaves(self) -> list[dict[str, Any]]:
        return [each for each in self.objects if each["object"] == "audit.leaf"]

    @property
    def note(self) -> str:
        note: str = self.checkpoint["note"]
        return note

    @property
    def log(self) -> VerifierKey:
        return VerifierKey(self.note.partition("\n")[0], ED25519, self.key)

    def verify(
        self, objects: list[dict[str, Any]], policy: Policy | None = None, proofs: list[str] | None = None
    ) -> Verdict:
        self.file.write_text("".join(json.dumps(each) + "\n" for each in objects))
        proved = [TlogProof.parse(each.encode()).entry for each in proofs or ()]
        verdict = verify_file(self.file, [Ed25519PublicKey.from_public_bytes(self.key)], proved=proved)
        if policy is not None:
            check_policy(policy, verdict)
        return verdict

    def proof(self) -> str:
        self.file.write_text("".join(line + "\n" for line in self.lines))
        return str(proof_of(self.file))


@pytest.fixture(scope="module")
def exported(
    running_service: Service, service_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    directory = tmp_path_factory.mktemp("exported")
    project = Project(running_service, service_env, directory)
    threads = [project.call("POST", "/threads", json={"user": user})["id"] for user in ("ann", "bob", "cyd")]
    for words in ("My name is Ada.", "What is my name?"):
        for thread in threads:
            project.call("POST", f"/threads/{thread}/turns", json={"input": words})
        assert project.http.get("/audit/export").status_code == 200
    lines = project.http.get(f"/threads/{threads[1]}/audit/export").text.splitlines()
    key = bytes.fromhex(json.loads(next(line for line in lines if "audit.checkpoint" in line))["public_key"])
    return Exported(project, threads[1], lines, key, directory / "one.ndjson")


# The helpers up to the next comment read the formats without code of app/, as an auditor's code and sigstore do.


def entry_of(record: dict[str, Any]) -> bytes:
    """The leaf of an exported record, as docs/proofs.md describes it."""
    without_hash = {name: value for name, value in record.items() if name != "hash"}
    record_hash = hashlib.sha256(rfc8785.dumps(without_hash)).digest()
    chain = record["actor"]["project"] if record["thread"] is None else record["thread"].removeprefix("thread_")
    number: int = record["seq"]
    return bytes.fromhex(chain) + number.to_bytes(8, "big") + record_hash


def verify_as_sigstore(note: str, key: bytes, entry: bytes, index: int, path: list[bytes]) -> None:
    """Raises VerificationError or ValueError if the checkpoint or the inclusion proof does not verify."""
    said = SignedCheckpoint.from_text(note).checkpoint
    assert said.other_content == []
    key_id = hashlib.sha256(f"{said.origin}\n".encode() + b"\x01" + key).digest()[:4]
    entry_ = TransparencyLogEntry(
        rekor.TransparencyLogEntry.from_dict(
            {
                "logIndex": str(index),
                "logId": {"keyId": base64.b64encode(key_id)},
                "kindVersion": {"kind": "audit.record", "version": "2"},
                "canonicalizedBody": base64.b64encode(entry),
                "inclusionProof": {
                    "logIndex": str(index),
                    "treeSize": str(said.log_size),
                    "rootHash": base64.b64encode(bytes.fromhex(said.log_hash)),
                    "hashes": [base64.b64encode(each) for each in path],
                    "checkpoint": {"envelope": note},
                },
            }
        )
    )
    verify_checkpoint(keyring(key), entry_)
    verify_merkle_inclusion(entry_)


def keyring(key: bytes) -> RekorKeyring:
    der = Ed25519PublicKey.from_public_bytes(key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return RekorKeyring(
        Keyring([PublicKey(raw_bytes=base64.b64encode(der), key_details=PublicKeyDetails.PKIX_ED25519)])
    )


def read_proof(proof: str) -> tuple[bytes, int, list[bytes], str]:
    """Read a .tlog-proof by the words of its specification."""
    head, _, note = proof.partition("\n\n")
    first, extra, index, *path = head.split("\n")
    assert first == "c2sp.org/tlog-proof@v1"
    return (
        base64.b64decode(extra.removeprefix("extra ")),
        int(index.removeprefix("index ")),
        [base64.b64decode(each) for each in path],
        note,
    )


def verify_proof_as_sigstore(proof: str, key: bytes) -> bytes:
    extra, index, path, note = read_proof(proof)
    verify_as_sigstore(note, key, extra, index, path)
    return extra


# Other people's code.


def test_sigstore_verifies_each_leaf_of_an_exported_thread_from_its_records(exported: Exported) -> None:
    records = {each["seq"]: each for each in exported.objects if each["object"] == "audit.record"}
    assert len(exported.leaves) == 2
    for leaf in exported.leaves:
        entry = entry_of(records[leaf["seq"]])
        assert entry[24:].hex() == leaf["hash"]
        path = [bytes.fromhex(each) for each in leaf["proof"]]
        verify_as_sigstore(exported.note, exported.key, entry, leaf["position"], path)
        for wrong in (
            entry_of({**records[leaf["seq"]], "detail": "failed"}),
            entry_of({**records[leaf["seq"]], "seq": leaf["seq"] + 1}),
            entry_of(records[leaf["seq"] - 1]),
            entry_of({**records[leaf["seq"]], "thread": "thread_" + "0" * 32}),
        ):
            with pytest.raises(VerificationError):
                verify_as_sigstore(exported.note, exported.key, wrong, leaf["position"], path)
        for index in range(exported.checkpoint["size"] + 1):
            if index != leaf["position"]:
                with pytest.raises((VerificationError, ValueError)):
                    verify_as_sigstore(exported.note, exported.key, entry, index, path)


def test_sigstore_verifies_a_tlog_proof_and_its_leaf_is_the_last_record(exported: Exported) -> None:
    entry = verify_proof_as_sigstore(exported.proof(), exported.key)
    assert entry == entry_of(exported.objects[-1])
    previous = "00" * 32
    for record in (each for each in exported.objects if each["object"] == "audit.record"):
        assert record["previous"] == previous
        previous = entry_of(record)[24:].hex()
    assert entry[24:].hex() == previous


def test_the_latest_checkpoint_is_a_signed_note_that_sigstore_verifies(service: Service, project: Project) -> None:
    none = project.http.get("/audit/checkpoint")
    assert (none.status_code, none.json()["error"]["code"]) == (404, "not_found")
    project.call("POST", "/threads", json={"user": "ann", "title": "Ann's talk", "name": "of-ann"})
    project.http.get("/audit/export")
    answer = project.http.get("/audit/checkpoint")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    (checkpoint,) = project.call("GET", "/audit/checkpoints")["data"]
    assert answer.text == checkpoint["note"]
    said = SignedCheckpoint.from_text(answer.text)
    key = bytes.fromhex(checkpoint["public_key"])
    name = said.checkpoint.origin
    said.signed_note.verify(keyring(key), KeyID(hashlib.sha256(f"{name}\n".encode() + b"\x01" + key).digest()[:4]))
    assert (said.checkpoint.log_size, said.checkpoint.log_hash) == (checkpoint["size"], checkpoint["root"])
    # Nothing of anybody: the base and the project's id.
    base, _, project_id = name.rpartition("/")
    assert project_id == checkpoint["project"]
    assert base.startswith("everthread.local/")
    bytes.fromhex(base.removeprefix("everthread.local/"))
    # The second line signs the time, too.
    (_, cosigned) = said.signed_note.signatures
    data = base64.b64decode(cosigned.signature)
    assert cosigned.sig_hash == hashlib.sha256(f"{name}\n".encode() + b"\x04" + key).digest()[:4]
    time = int.from_bytes(data[:8], "big")
    text = f"cosignature/v1\ntime {time}\n{said.signed_note.note}".encode()
    Ed25519PublicKey.from_public_bytes(key).verify(data[8:], text)
    assert time == int(datetime.fromisoformat(checkpoint["at"]).timestamp())
    # It has not changed, and then it has.
    unchanged = {"If-None-Match": answer.headers["ETag"]}
    assert project.http.get("/audit/checkpoint", headers=unchanged).status_code == 304
    project.http.get("/audit/export")
    newer = project.http.get("/audit/checkpoint", headers=unchanged)
    assert (newer.status_code, newer.text != answer.text) == (200, True)
    # Only for keys with the scope audit, and of their own project.
    reader = new_key(project.env["DATABASE_URL"], project.name, scopes=["read", "write"])
    assert project.http.get("/audit/checkpoint", headers={"Authorization": f"Bearer {reader}"}).status_code == 403
    service.http.get("/audit/export")
    assert project_id not in service.http.get("/audit/checkpoint").text


def test_a_note_of_others_verifies_and_known_keys_are_read() -> None:
    """The example of the documentation of golang.org/x/mod/sumdb/note."""
    key = VerifierKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signature = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    note = Note.parse(f"{text}\n— PeterNeumann {signature}\n".encode())
    assert note.text == text
    assert [each.key for each in note.verified([key])] == [key]
    with pytest.raises(BadNote, match="none of the trusted keys"):
        note.verified([VerifierKey("PeterNeumann", COSIGNATURE, key.public_key)])
    changed = Note(text.replace("answer", "question"), note.signatures)
    with pytest.raises(BadNote, match="is invalid"):
        changed.verified([key])


def test_the_program_in_the_docs_recomputes_a_proofs_leaf_from_the_exported_records(exported: Exported) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    proof = exported.file.with_name("one.tlog-proof")
    proof.write_text(exported.proof())

    def said(lines: list[str]) -> str:
        exported.file.write_text("".join(line + "\n" for line in lines))
        command = [sys.executable, "-c", program, str(exported.file), str(proof)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else "It fails: " + done.stderr

    entry = entry_of(exported.objects[-1])
    assert said(exported.lines).startswith(hashlib.sha256(b"\0" + entry).hexdigest())
    first = next(number for number, line in enumerate(exported.lines) if "audit.record" in line)
    for wrong in (
        [line.replace("thread.created", "thread.imported") for line in exported.lines],
        [*exported.lines[: first + 1], *exported.lines[first + 2 :]],
        exported.lines[:-1],
    ):
        assert said(wrong).startswith("It fails"), wrong


# Proofs and notes that must not verify.


PROOFS: dict[str, Callable[[Exported, str], str]] = {
    "another place": lambda _, proof: proof.replace("\nindex ", "\nindex 1"),
    "the place before": lambda _, proof: moved(proof, -1),
    "the place after": lambda _, proof: moved(proof, 1),
    "behind the tree": lambda made, proof: moved(proof, made.checkpoint["size"]),
    "another leaf": lambda made, proof: with_leaf(proof, leaf_data(UUID(int=1), 1, b"\1" * 32)),
    "a leaf of another number": lambda made, proof: with_leaf(proof, renumbered(proof)),
    "a shorter path": lambda _, proof: without_line(proof, 3),
    "a longer path": lambda _, proof: proof.replace("\n\n", f"\n{base64.b64encode(bytes(32)).decode()}\n\n", 1),
    "a path in another order": lambda _, proof: swapped(proof, 3, 4),
    "another size": lambda made, proof: proof.replace(
        f"\n{made.checkpoint['size']}\n", f"\n{made.checkpoint['size'] + 1}\n"
    ),
    "another root": lambda made, proof: proof.replace(
        base64.b64encode(bytes.fromhex(made.checkpoint["root"])).decode(), base64.b64encode(bytes(32)).decode()
    ),
    "another origin": lambda made, proof: proof.replace(
        made.log.name, made.log.name.replace("everthread", "evilthread")
    ),
    "a cut note": lambda _, proof: proof.rpartition("\n— ")[0].rpartition("\n— ")[0] + "\n",
}


def moved(proof: str, by: int) -> str:
    index = read_proof(proof)[1]
    return proof.replace(f"\nindex {index}\n", f"\nindex {index + by}\n")


def with_leaf(proof: str, leaf: bytes) -> str:
    lines = proof.split("\n")
    return "\n".join([lines[0], f"extra {base64.b64encode(leaf).decode()}", *lines[2:]])


def renumbered(proof: str) -> bytes:
    entry = read_proof(proof)[0]
    return entry[:16] + (int.from_bytes(entry[16:24], "big") - 1).to_bytes(8, "big") + entry[24:]


def without_line(proof: str, number: int) -> str:
    lines = proof.split("\n")
    return "\n".join([*lines[:number], *lines[number + 1 :]])


def swapped(proof: str, one: int, other: int) -> str:
    lines = proof.split("\n")
    lines[one], lines[other] = lines[other], lines[one]
    return "\n".join(lines)


@pytest.mark.parametrize("change", PROOFS)
def test_a_changed_proof_verifies_neither_here_nor_elsewhere(exported: Exported, change: str) -> None:
    policy, proof = policy_of(exported.log), exported.proof()
    assert TlogProof.parse(proof.encode()).verify(policy).checkpoint.size == exported.checkpoint["size"]
    verify_proof_as_sigstore(proof, exported.key)
    wrong = PROOFS[change](exported, proof)
    assert wrong != proof
    with pytest.raises(BadNote):
        TlogProof.parse(wrong.encode()).verify(policy)
    with pytest.raises((VerificationError, ValueError)):
        verify_proof_as_sigstore(wrong, exported.key)


def test_an_export_whose_record_was_changed_cut_or_moved_does_not_fit_the_proof_that_was_made_before(
    exported: Exported,
) -> None:
    proof, objects = exported.proof(), exported.objects
    assert exported.verify(objects, policy_of(exported.log), [proof]).problems == []
    last = objects[-1]
    changed = [*objects[:-1], {**last, "detail": "failed"}]
    # The record, its hash and its leaf are written again. Neither the tree nor the older proof fits.
    forged = {**last, "detail": "failed"}
    forged["hash"] = entry_of(forged)[24:].hex()
    leaf = exported.leaves[-1]
    again = [{**each, "hash": forged["hash"]} if each == leaf else each for each in [*objects[:-1], forged]]
    for wrong in (changed, objects[:-1], [*objects[:-2], last, objects[-2]], again):
        assert exported.verify(wrong, None, [proof]).problems
    where = f"{exported.thread} record {last['seq']}"
    assert where in {problem.where for problem in exported.verify(again, None, [proof]).problems}
    # A record that is cut together with its leaf is in the proof only.
    cut = [each for each in objects[:-1] if each != leaf]
    assert exported.verify(cut).problems == []
    assert [problem.where for problem in exported.verify(cut, None, [proof]).problems] == [where]


def test_a_note_of_another_project_size_root_time_or_key_is_found_in_an_export(
    exported: Exported, service: Service
) -> None:
    service.http.get("/audit/export")
    anothers: str = service.http.get("/audit/checkpoint").text
    other, first = Ed25519PrivateKey.generate(), exported.note.split("\n\n")[1].split("\n")[0]
    said = Checkpoint.parse(Note.parse(exported.note.encode()).text)
    cosignature = exported.note.splitlines()[-1]
    for wrong in (
        anothers,
        exported.note.replace(said.origin, f"{said.origin}/0"),
        exported.note.replace(said.origin, said.origin.replace("everthread", "evilthread")),
        exported.note.replace(f"\n{said.size}\n", f"\n{said.size + 1}\n"),
        exported.note.replace(base64.b64encode(said.root).decode(), base64.b64encode(bytes(32)).decode()),
        str(signed_checkpoint(said, other, NOW)),
        # The cosignature alone, or twice, or another one.
        exported.note.replace(f"{first}\n", ""),
        exported.note + cosignature + "\n",
        exported.note + cosignature[:-4] + "AAA=\n",
        # Text that no signature covers.
        exported.note.replace("\n\n", "\nan extension\n\n"),
        "\n" + exported.note,
        exported.note + "\n",
        exported.note.rstrip("\n"),
        exported.note.replace("\n", "\r\n"),
        exported.note + "— w.example/1 AAAA\n",
        "",
        "x" * (MOST_OF_NOTE + 1),
    ):
        objects = [{**each, "note": wrong} if "note" in each else each for each in exported.objects]
        (problem,) = exported.verify(objects).problems
        assert (problem.where, problem.what.startswith("its note does not verify")) == (f"checkpoint {said.size}", True)
        with pytest.raises(BadNote):
            policy_of(exported.log).accept(Note.parse(wrong.encode()))


def test_a_note_without_the_time_of_its_checkpoint_is_found(project: Project) -> None:
    project.call("POST", "/threads")
    project.checkpoint()
    (checkpoint,) = project.call("GET", "/audit/checkpoints")["data"]
    note = Note.parse(checkpoint["note"].encode())
    key = signing_key(None, project.data_dir)
    time = int(datetime.fromisoformat(checkpoint["at"]).timestamp())
    for signed_at, problems in ((time, 0), (time + 1, 1), (None, 1)):
        lines = [] if signed_at is None else [cosign(note.text, note.signatures[0].name, key, signed_at)]
        again = Note(note.text, (note.signatures[0], *lines))
        project.sql(f"UPDATE audit_checkpoints SET note = '{again}' WHERE project_id = $1")
        found = [problem.what for problem in project.verify().problems]
        assert (
            found
            == ["its note does not verify: it lacks the signature, or the cosignature at the time of the checkpoint"]
            * problems
        )


def test_lines_of_unknown_keys_are_ignored_and_prove_nothing(exported: Exported) -> None:
    note, stranger = Note.parse(exported.note.encode()), Ed25519PrivateKey.generate()
    said = Checkpoint.parse(note.text)
    foreign = [
        sign(note.text, said.origin, stranger),
        cosign(note.text, "w.example/1", stranger, 1),
        cosign(note.text, said.origin, stranger, 1),
    ]
    more = note.with_signatures(foreign)
    assert len(more.signatures) == 5
    objects = [{**each, "note": str(more)} if "note" in each else each for each in exported.objects]
    assert exported.verify(objects, policy_of(exported.log)).problems == []
    with pytest.raises(BadNote, match="quorum witnesses is not reached: no witness"):
        policy_of(exported.log, "any", WITNESSES).accept(more)
    with pytest.raises(BadNote, match="none of the trusted keys"):
        Note(note.text, tuple(foreign)).verified(log_keys(said.origin, [exported.key]))


def test_an_export_without_notes_verifies_as_before_and_no_policy_accepts_it(exported: Exported) -> None:
    before = [{name: value for name, value in each.items() if name != "note"} for each in exported.objects]
    assert exported.verify(before).problems == []
    (problem,) = exported.verify(before, policy_of(exported.log)).problems
    assert problem.what == "a policy needs a checkpoint with a signed note, and there is none"


# Bounds.


def test_notes_proofs_and_keys_have_bounds(exported: Exported) -> None:
    key = Ed25519PrivateKey.generate()
    text = Checkpoint("a.example/log", 1, bytes(32)).text
    many = [cosign(text, f"w.example/{number}", key, 1) for number in range(65)]
    assert len(Note.parse(bytes(Note(text, tuple(many[:64])))).signatures) == 64
    proof = exported.proof()
    hash_ = base64.b64encode(bytes(32)).decode()
    for wrong in (
        bytes(Note(text, tuple(many))),
        bytes(Note(text + "x" * MOST_OF_NOTE, tuple(many[:1]))),
        b"\xff" + bytes(Note(text, tuple(many[:1]))),
    ):
        with pytest.raises(BadNote):
            Note.parse(wrong)
    for longer in (
        proof.replace("\n\n", "\n" + f"{hash_}\n" * 63 + "\n", 1),
        proof.replace("\nindex", f"\nextra {hash_}\nindex"),
        proof.replace("extra ", f"extra {'A' * 4 * 64 * 1024}"),
        proof.replace("\nindex ", "\nindex 0"),
        proof.replace("\nindex ", "\nindex 99999999999999999999"),
        proof.replace("\nindex ", "\nindex -"),
        proof.replace("@v1", "@v2"),
        proof.replace("extra ", "extra !"),
        proof.replace("\nextra", "\nother"),
        "\n".join(line for line in proof.split("\n") if not line.startswith("extra")),
        proof.replace("\n\n", "\nAAAA\n\n", 1),
        proof + "x" * 300_000,
    ):
        with pytest.raises(BadNote):
            TlogProof.parse(longer.encode())
    good = str(vkey("a.example/log", key))
    assert str(VerifierKey.parse(good)) == good
    for bad in (
        good.replace("a.example", "b.example"), good + "A", good[:-4], good.replace("+", " "), "+" + good,
        good.upper(), "x" * 1000, str(VerifierKey("a log", 1, bytes(32))), str(VerifierKey("a", 6, bytes(32))),
        str(VerifierKey("a" * 256, 1, bytes(32))), "",
    ):  # fmt: skip
        with pytest.raises(BadNote):
            VerifierKey.parse(bad)
    for text in ("a\n01\n" + hash_ + "\n", "a\n-1\n" + hash_ + "\n", f"a\n{2**63}\n{hash_}\n", "a\n1\nAA==\n",
                 f"a\n1\n{hash_}", f"a b\n1\n{hash_}\n", f"\n1\n{hash_}\n", f"a\n١\n{hash_}\n"):  # fmt: skip
        with pytest.raises(BadNote):
            Checkpoint.parse(text)


@given(st.binary(max_size=60), st.integers(0, 2000), st.integers(0, 40))
def test_no_content_of_a_form_does_more_than_be_refused(part: bytes, place: int, length: int) -> None:
    """Check that whatever replaces a part of a form, reading it raises nothing but the error for a wrong one."""
    note = signed_by(WITNESSES["w.example/3"], "w.example/1")
    leaf = Entry(UUID(int=7), 1, bytes(32))
    proof = str(TlogProof(leaf, 1, (bytes(32),), note)).encode()
    witnesses = {name: WITNESSES[name] for name in ("w.example/1", "w.example/2")}
    policy = policy_text(vkey("a.example/log", WITNESSES["w.example/3"]), "any", witnesses).encode()
    for form, parse in ((bytes(note), Note.parse), (proof, TlogProof.parse), (policy, Policy.parse)):
        start = place % len(form)
        try:
            read = parse(form[:start] + part + form[start + length :])
            if isinstance(read, Note):
                Policy.parse(policy).accept(read)
            elif isinstance(read, TlogProof):
                read.verify(Policy.parse(policy))
        except (BadNote, BadPolicy) as error:
            str(error).encode()  # It can be shown.
        else:
            assert not isinstance(read, TlogProof)


# Policies.


def signed_by(log: Ed25519PrivateKey, *witnesses: str) -> Note:
    note = signed_checkpoint(Checkpoint("a.example/log", 7, bytes(32)), log, NOW)
    return note.with_signatures([cosign(note.text, name, WITNESSES[name], 9) for name in witnesses])


@pytest.mark.parametrize(
    ("quorum", "enough", "too_few"),
    [
        ("all", ["w.example/1 w.example/2 w.example/3"], ["", "w.example/1 w.example/2"]),
        ("any", ["w.example/2", "w.example/1 w.example/3"], [""]),
        ("2", ["w.example/1 w.example/3"], ["", "w.example/2"]),
        ("none", ["", "w.example/1"], []),
    ],
)
def test_a_policy_accepts_a_checkpoint_only_with_its_quorum(quorum: str, enough: list[str], too_few: list[str]) -> None:
    log = Ed25519PrivateKey.generate()
    policy = policy_of(vkey("a.example/log", log), quorum, WITNESSES)
    for names in enough:
        accepted = policy.accept(signed_by(log, *names.split()))
        assert (accepted.at, accepted.witnesses) == (int(NOW.timestamp()), names.split())
    for names in too_few:
        with pytest.raises(BadNote, match="quorum witnesses is not reached"):
            policy.accept(signed_by(log, *names.split()))
    note = signed_by(log, "w.example/1", "w.example/2", "w.example/3")
    # The log's own signature is needed in any case, and each known signature must fit.
    with pytest.raises(BadNote):
        policy.accept(Note(note.text, note.signatures[2:]))
    with pytest.raises(BadNote, match="does not name the log"):
        policy_of(vkey("b.example/log", log), quorum, WITNESSES).accept(note)
    if quorum != "none":
        wrong = cosign(note.text + "x", "w.example/1", WITNESSES["w.example/1"], 9)
        with pytest.raises(BadNote, match=r"w\.example/1 is invalid"):
            policy.accept(Note(note.text, (*note.signatures[:2], wrong, *note.signatures[3:])))
        later = cosign(note.text, "w.example/1", WITNESSES["w.example/1"], 10)
        stamped = later.data[:7] + b"\x0b" + later.data[8:]
        with pytest.raises(BadNote, match="is invalid"):
            policy.accept(signed_by(log).with_signatures([type(later)(later.name, later.key_id, stamped)]))


def test_a_witness_of_a_policy_counts_once(exported: Exported) -> None:
    """The same cosignature twice is refused, and under another name it is another key's."""
    log = Ed25519PrivateKey.generate()
    policy = policy_of(vkey("a.example/log", log), "2", WITNESSES)
    note = signed_by(log, "w.example/1")
    twice = str(note) + str(note.signatures[-1])
    with pytest.raises(BadNote, match="by one key"):
        Note.parse(twice.encode())
    renamed = cosign(note.text, "w.example/2", WITNESSES["w.example/1"], 9)
    with pytest.raises(BadNote, match=r"not reached: w\.example/1 has"):
        policy.accept(note.with_signatures([renamed]))
    with pytest.raises(BadPolicy, match="is listed twice"):
        policy_of(vkey("a.example/log", log), "2", {**WITNESSES, "w.example/4": WITNESSES["w.example/1"]})


def test_a_policy_with_groups_of_groups_is_read_as_its_specification_says() -> None:
    log = Ed25519PrivateKey.generate()
    one, two, three = (vkey(name, key, COSIGNATURE) for name, key in WITNESSES.items())
    policy = Policy.parse(
        f"""# Two organizations.
log {vkey("a.example/log", log)} https://a.example/
\twitness X1 {one} https://w.example/1
witness  X2\t{two}
witness Größe {three}

group X any X1 X2
group both all X Größe
quorum both
""".encode()
    )
    policy.accept(signed_by(log, "w.example/2", "w.example/3"))
    for names in (["w.example/1", "w.example/2"], ["w.example/3"]):
        with pytest.raises(BadNote, match="quorum both is not reached"):
            policy.accept(signed_by(log, *names))


def test_a_policy_that_is_too_large_or_contradicts_itself_is_refused() -> None:
    def keys(count: int, kind: int) -> list[str]:
        return [str(VerifierKey(f"k.example/{n}", kind, n.to_bytes(32, "big"))) for n in range(count)]

    logs, witnesses = keys(65, ED25519), keys(65, COSIGNATURE)
    names = [f"witness w{number} {key}\n" for number, key in enumerate(witnesses)]
    assert len(Policy.parse(("".join(names[:64]) + "quorum none\n").encode()).witnesses) == 64
    two = names[0] + names[1]
    for wrong, reason in (
        ("quorum none\n" + "#" * MOST_OF_POLICY, "at most 65536 bytes"),
        ("".join(names) + "quorum none\n", "at most 64 witnesses"),
        ("".join(f"log {key}\n" for key in logs) + "quorum none\n", "at most 64 logs"),
        (
            "".join(names[:64]) + "".join(f"group g{n} any {f'g{n - 1}' if n else 'w0'}\n" for n in range(65)),
            "64 groups",
        ),
        ("", "no quorum line"),
        (f"log {logs[0]}\n", "no quorum line"),
        ("quorum none\nquorum none\n", "two quorum lines"),
        ("quorum w0\n" + two, "must be defined on an earlier line"),
        (two + "quorum w2\n", "must be defined on an earlier line"),
        (two + "group none any w0\nquorum none\n", "is defined twice"),
        (two + "group w0 any w1\nquorum none\n", "is defined twice"),
        (two + "group g any w0 none\nquorum g\n", "must be defined on an earlier line"),
        (two + "group g any w0 g\nquorum g\n", "must be defined on an earlier line"),
        (two + "group g 2 w0 w0\nquorum g\n", "is a member twice"),
        (two + "group g 1 w0\ngroup h all w0 w1\nquorum h\n", "is a member twice"),
        (two + "group g 0 w0\nquorum g\n", "threshold of a group"),
        (two + "group g 3 w0 w1\nquorum g\n", "threshold of a group"),
        (two + "group g 01 w0 w1\nquorum g\n", "threshold of a group"),
        (two + "group g some w0 w1\nquorum g\n", "threshold of a group"),
        (two + "group g any\nquorum g\n", "a line must begin with"),
        (f"witness w {logs[0]}\nquorum w\n", "not a witness key"),
        (names[0] + names[0].replace("w0", "w1") + "quorum none\n", "is listed twice"),
        (f"{names[0]}log {logs[0]}\nquorum w0\n", "would witness itself"),
        (f"log {logs[0]}\nlog {logs[0]}\nquorum none\n", "is listed twice"),
        ("log nonsense\nquorum none\n", "line 1: "),
        ("trust everybody\nquorum none\n", "a line must begin with"),
        ("quorum none\r\n", "control characters"),
        ("quorum none\0\n", "control characters"),
        ("quorum none\n# \udcff\n", "UTF-8"),
        ("quorum\u00a0none\n", "a line must begin with"),
    ):
        with pytest.raises(BadPolicy, match=reason):
            Policy.parse(wrong.encode(errors="surrogateescape"))


def test_a_policy_accepts_the_newest_checkpoint_with_a_quorum_of_a_whole_trail(exported: Exported) -> None:
    """Witnesses answer later: checkpoints behind the last one that they cosigned prove less, and that is shown."""
    lines = exported.project.http.get("/audit/export").text.splitlines()
    objects = [json.loads(line) for line in lines]
    sizes = [each["size"] for each in objects if each["object"] == "audit.checkpoint"]
    assert len(sizes) > 2

    def cosigned(each: dict[str, Any], size: int) -> dict[str, Any]:
        if each.get("size") != size:
            return each
        note = Note.parse(each["note"].encode())
        name = "w.example/1"
        return {**each, "note": str(note.with_signatures([cosign(note.text, name, WITNESSES[name], 9)]))}

    policy = policy_of(exported.log, "any", WITNESSES)
    verdict = exported.verify([cosigned(each, sizes[1]) for each in objects], policy)
    assert (verdict.problems, verdict.accepted, verdict.size) == ([], sizes[1], sizes[-1])
    verdict = exported.verify(objects, policy)
    assert verdict.accepted is None
    assert [problem.where for problem in verdict.problems] == [f"checkpoint {sizes[-1]}"]
    assert "quorum witnesses is not reached" in verdict.problems[0].what


# The database, and the release before.


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit_checkpoints SET note = replace(note, 'everthread', 'evilthread') WHERE project_id = $1",
        "UPDATE audit_checkpoints SET note = regexp_replace(note, E'\\n[0-9]+\\n', E'\\n99\\n') WHERE project_id = $1",
        "UPDATE audit_checkpoints SET note = '' WHERE project_id = $1",
        "UPDATE audit_checkpoints SET note = note || note WHERE project_id = $1",
        """UPDATE audit_checkpoints SET note = (SELECT note FROM audit_checkpoints WHERE project_id <> $1
            AND note IS NOT NULL LIMIT 1) WHERE project_id = $1""",
    ],
)
def test_a_changed_note_in_the_database_is_found(exported: Exported, project: Project, tampering: str) -> None:
    project.call("POST", "/threads")
    project.checkpoint()
    assert project.verify().problems == []
    project.sql(tampering)
    assert [problem.what[:24] for problem in project.verify().problems] == ["its note does not verify"]


OLD_STATEMENT = """WITH last AS (
    SELECT coalesce(max(size), 0) AS size FROM audit_checkpoints WHERE project_id = $1
), leaf AS (
    INSERT INTO audit_leaves (project_id, position, chain_id, seq, hash)
    SELECT $1, $2 + l.place - 1, l.chain_id, l.seq, l.hash
    FROM last, unnest($3::uuid[], $4::bigint[], $5::bytea[]) WITH ORDINALITY AS l (chain_id, seq, hash, place)
    WHERE last.size = $2
    RETURNING position
)
INSERT INTO audit_checkpoints (project_id, size, at, root, public_key, signature)
SELECT $1, $6, $7, $8, $9, $10 FROM last WHERE last.size = $2
RETURNING size"""
"""Statement by which the release before writes a checkpoint."""


async def sign_as_the_release_before(database: Database, project_id: UUID, key: Ed25519PrivateKey) -> int:
    heads = await database.fetch(
        """SELECT DISTINCT ON (r.chain_id) r.chain_id, r.seq, r.hash, l.seq AS leaf FROM audit_records r
        LEFT JOIN audit_leaves l USING (project_id, chain_id, seq)
        WHERE r.project_id = $1 ORDER BY r.chain_id, r.seq DESC""",
        project_id,
    )
    leaves = await database.fetch("SELECT * FROM audit_leaves WHERE project_id = $1 ORDER BY position", project_id)
    new, tree = [head for head in heads if head["leaf"] is None], Tree()
    for row in (*leaves, *new):
        tree.add(leaf_data(row["chain_id"], row["seq"], row["hash"]))
    at, root = datetime.now(UTC), tree.root()
    columns = [[row[name] for row in new] for name in ("chain_id", "seq", "hash")]
    written_row: asyncpg.Record | None = await database.fetchrow(
        OLD_STATEMENT, project_id, len(leaves), *columns, tree.size, at, root, key.public_key().public_bytes_raw(),
        key.sign(signed_text(project_id, tree.size, at, root)),
    )  # fmt: skip
    assert written_row is not None
    return tree.size


def test_the_release_before_signs_beside_this_one_and_the_tree_stays_one(project: Project, tmp_path: Path) -> None:
    key = signing_key(None, project.data_dir)
    sizes, noted = [], []
    for turn in range(4):
        project.call("POST", "/threads")
        if turn % 2 == 0:
            sizes.append(project.run(lambda database, id_: sign_as_the_release_before(database, id_, key)))
        else:
            sizes.append(project.checkpoint())
            noted.append(sizes[-1])
        assert project.verify().problems == []
    checkpoints = project.call("GET", "/audit/checkpoints")["data"][::-1]
    assert [each["size"] for each in checkpoints] == sizes
    assert [each["size"] for each in checkpoints if each["note"] is not None] == noted
    assert project.http.get("/audit/checkpoint").text.split("\n")[1] == str(noted[-1])
    # Both kinds are in one file, which verifies with the keys that have signed it.
    file = tmp_path / "trail.ndjson"
    file.write_text(project.http.get("/audit/export").text)
    last = project.call("GET", "/audit/checkpoints")["data"][0]
    keys = [key.public_key(), Ed25519PublicKey.from_public_bytes(bytes.fromhex(last["public_key"]))]
    verdict = verify_file(file, keys)
    assert (verdict.problems, verdict.checkpoints) == ([], 5)
    # The release before verifies each checkpoint by its old signature, which is still there.
    for each in project.call("GET", "/audit/checkpoints")["data"]:
        signed = signed_text(
            UUID(each["project"]), each["size"], datetime.fromisoformat(each["at"]), bytes.fromhex(each["root"])
        )
        signer = Ed25519PublicKey.from_public_bytes(bytes.fromhex(each["public_key"]))
        signer.verify(bytes.fromhex(each["signature"]), signed)


def test_the_name_of_a_projects_log_is_fixed_when_it_is_signed_first(project: Project) -> None:
    env = {**project.env, "EVERTHREAD_DATA_DIR": str(project.data_dir), "EVERTHREAD_AUDIT_ORIGIN": "a.example/audit"}
    project.call("POST", "/threads")
    project.checkpoint()
    before = project.http.get("/audit/checkpoint").text.split("\n")[0]
    project.call("POST", "/threads")
    assert Process("audit", "checkpoint", env=env).ended() == 0
    assert project.http.get("/audit/checkpoint").text.split("\n")[0] == before
    (row,) = project.sql("SELECT generation, origin FROM audit_origins WHERE project_id = $1")
    assert tuple(row) == (1, before)
    for wrong in ("https://a.example", "a.example/ann lee", "a" * 201):
        refused = Process("audit", "checkpoint", env={**env, "EVERTHREAD_AUDIT_ORIGIN": wrong})
        assert refused.ended() == 1
        assert "EVERTHREAD_AUDIT_ORIGIN is wrong" in refused.lines[-1]


# The command line.


def test_the_commands_write_and_verify_the_standard_forms(service: Service, project: Project, tmp_path: Path) -> None:
    thread = project.call("POST", "/threads", json={"user": "ann"})["id"]
    project.call("POST", f"/threads/{thread}/turns", json={"input": "My name is Ada."})
    trail, proof, policy, note = (tmp_path / name for name in ("one.ndjson", "one.ndjson.tlog-proof", "policy", "note"))
    there = {"EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": project.key}

    def ran(*words: str, env: dict[str, str] | None = None) -> tuple[int, list[str]]:
        process = Process("audit", *words, env=env or {})
        return process.ended(), process.lines

    code, said = ran("export", str(trail), "--thread", thread, env=there)
    assert (code, said[-1]) == (0, f"The proof of its last record is in {proof}."), said
    note.write_text(project.http.get("/audit/checkpoint").text)
    key = json.loads(next(line for line in trail.read_text().splitlines() if "audit.checkpoint" in line))["public_key"]
    code, said = ran("policy", "--project", project.name, "--key", key, env={**project.env})
    assert code == 0, said
    origin = note.read_text().split("\n")[0]
    assert said == [f"log {VerifierKey(origin, ED25519, bytes.fromhex(key))}", "quorum none"]
    policy.write_text("\n".join(said))
    verify_proof_as_sigstore(proof.read_text(), bytes.fromhex(key))
    checked = ("--policy", str(policy))
    size = note.read_text().split("\n")[1]
    code, said = ran("verify", str(trail), *checked, "--proof", str(proof))
    assert (code, said[-1], said[1]) == (
        0,
        "The audit trail verifies.",
        f"  The policy accepts checkpoint {size}; the last one is {size}.",
    )
    code, said = ran("verify", str(proof), *checked)
    record = json.loads(trail.read_text().splitlines()[-1])
    assert (code, said[-1]) == (0, "It verifies.")
    assert f"{record['id']} with the hash {record['hash']} is leaf" in said[0]
    code, said = ran("verify", str(note), *checked)
    assert (code, said[0].startswith(f"note: checkpoint {size} of {origin}, signed at 20")) == (0, True), said
    code, said = ran("verify", "--project", project.name, *checked, env={**project.env})
    assert (code, said[-1]) == (0, "The audit trail verifies."), said
    # A quorum that nobody has reached.
    witness = f"witness w1 {vkey('w.example/1', WITNESSES['w.example/1'], COSIGNATURE)} https://w.example"
    code, said = ran("policy", "--project", project.name, "--key", key, "--witnesses", witness, env={**project.env})
    assert (code, said[1:]) == (0, [witness, "group witnesses all w1", "quorum witnesses"])
    policy.write_text("\n".join(said))
    for file in (trail, proof, note):
        code, said = ran("verify", str(file), *checked)
        assert (code, "quorum witnesses is not reached" in "\n".join(said)) == (1, True), said
    # Files that are too large or malformed.
    for form, content, reason in (
        (note, "x" * (MOST_OF_NOTE + 1), "at most"),
        (note, "nonsense", "does NOT verify"),
        (proof, proof.read_text() + "x" * 500_000, "at most"),
    ):
        form.write_text(content)
        code, said = ran("verify", str(form), *checked)
        assert (code, reason in said[-1]) == (1, True), said
    code, said = ran("verify", str(note))
    assert (code, "--policy" in said[-1]) == (1, True)
    policy.write_text("#" * (MOST_OF_POLICY + 1))
    code, said = ran("verify", str(trail), *checked)
    assert (code, "is not a valid policy: a policy has at most" in said[-1]) == (1, True)
    code, said = ran("policy", "--project", "nobody", "--key", key, env={**project.env})
    assert (code, "There is no project 'nobody'" in said[-1]) == (1, True)

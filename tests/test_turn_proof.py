"""The proof of one turn with its contents, recomputed here from its JSON alone."""

import hashlib
import json
from typing import Any
from uuid import UUID

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.audit import paths, store
from app.audit.merkle import Tree, is_consistent, leaf_data, root_of
from tests.projects import Project, new_key
from tests.service import Emulator, Service


def wrong(proof: dict[str, Any], trusted: str) -> list[str]:
    """Return the parts that are not what was recorded and signed."""
    records = {record["id"]: record for record in proof["records"]}
    by_seq = {record["seq"]: record for record in proof["records"]}
    leaves = {leaf["position"]: leaf for leaf in proof["leaves"]}
    checkpoint, found = proof["checkpoint"], []
    assert checkpoint["public_key"] == trusted
    signed = {name: checkpoint[name] for name in ("at", "object", "project", "root", "size")}
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(trusted)).verify(
        bytes.fromhex(checkpoint["signature"]), orjson.dumps(signed, option=orjson.OPT_SORT_KEYS)
    )
    for part in proof["parts"]:
        digest = bytes.fromhex(part["salt"])
        for text in part["texts"]:
            digest = hashlib.sha256(digest + text.encode()).digest()
        record, leaf = records[part["record"]], leaves[part["leaf"]]
        good = digest.hex() == record["content"]
        for seq in range(record["seq"], leaf["seq"] + 1):
            said = {name: value for name, value in by_seq[seq].items() if name != "hash"}
            hashed = hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()
            good = good and hashed == by_seq[seq]["hash"]
            good = good and (seq == leaf["seq"] or by_seq[seq + 1]["previous"] == hashed)
        good = good and by_seq[leaf["seq"]]["hash"] == leaf["hash"]
        data = leaf_data(UUID(leaf["thread"].partition("_")[2]), leaf["seq"], bytes.fromhex(leaf["hash"]))
        path = list(map(bytes.fromhex, leaf["proof"]))
        root = root_of(data, leaf["position"], checkpoint["size"], path)
        if not good or root is None or root.hex() != checkpoint["root"]:
            found.append(part["part"])
    return found


def test_a_turn_is_proved_with_its_contents_and_one_changed_byte_is_noticed(
    service: Service, project: Project, emulator: Emulator
) -> None:
    thread = project.call("POST", "/threads")["id"]
    place = f"/threads/{thread}/turns"
    project.call("POST", place, json={"input": "My name is Ada."})
    emulator.forget()
    body = {"input": 'What is my name? 你好 \u2028 "', "metadata": {"b": "1", "a": "2"}}
    turn = project.call("POST", place, json=body)["id"]
    here = f"{place}/{turn}/proof"
    waiting = project.call("GET", here)
    assert {part["leaf"] for part in waiting["parts"]} == {None}
    assert waiting["checkpoint_seconds"] > 0
    project.checkpoint()
    for _ in range(3):  # Leaves before and after those of the turn.
        other = project.call("POST", "/threads")["id"]
        project.call("POST", f"/threads/{other}/turns", json={"input": "Hi"})
        project.checkpoint()
    proof = project.call("GET", here)
    key = proof["checkpoint"]["public_key"]
    assert key in {public.public_bytes_raw().hex() for public in project.public_keys()}
    assert [part["part"] for part in proof["parts"]] == ["opened", "call 1", "call 2", "closed"]
    assert wrong(proof, key) == []
    opened = json.loads(proof["parts"][0]["texts"][0])
    assert json.loads(opened[-1][0])["content"] == body["input"]
    sent = project.call("GET", f"{place}/{turn}/calls")["data"]
    assert [json.loads(json.loads(part["texts"][0])[5]) for part in proof["parts"][1:3]] == [
        call["body"] for call in sent
    ]
    of_turn = f"WHERE project_id = $1 AND turn_id = '{turn.partition('_')[2]}'"
    items = "UPDATE items SET data = replace(data::text,"
    for change, part in (
        (f"{items} 'my name', 'my game')::json {of_turn}", ["opened", "call 1"]),
        (f"{items} 'my game', 'my name')::json {of_turn}", []),
        (
            f"{items} 'Ada', 'Eve')::json {of_turn} AND origin = 'output'",
            ["closed"],
        ),
        (f"UPDATE calls SET status = 201 {of_turn} AND attempt = 2", ["call 2", "closed"]),
    ):
        project.sql(change)
        assert set(part) <= set(wrong(project.call("GET", here), key)), change
        assert part or wrong(project.call("GET", here), key) == []


def test_the_proof_of_a_turn_opens_for_auditors_of_its_project_who_may_read_it(
    service: Service, project: Project, service_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    thread = project.call("POST", "/threads", json={"user": "ada"})["id"]
    turn = project.call("POST", f"/threads/{thread}/turns", json={"input": "My name is Ada."})["id"]
    here = f"/threads/{thread}/turns/{turn}/proof"
    reader = new_key(service_env["DATABASE_URL"], project.name, scopes=["read", "write", "admin"])
    token = project.call("POST", "/user_tokens", json={"user": "ada"})["token"]
    auditor = new_key(service_env["DATABASE_URL"], project.name, scopes=["audit"])
    for key in (reader, token, auditor):
        refused = project.http.get(here, headers={"Authorization": f"Bearer {key}"})
        assert refused.status_code == 403
        assert "Ada" not in refused.text
    other = Project(service, service_env, tmp_path_factory.mktemp("other"))
    elsewhere = other.call("POST", "/threads")["id"]
    for place in (here, f"/threads/{elsewhere}/turns/{turn}/proof"):
        assert other.http.get(place).status_code == 404
    assert project.http.get(f"/threads/{thread}/turns/turn_{'0' * 32}/proof").status_code == 404
    other.http.close()


def test_what_was_deleted_of_a_turn_is_said_and_the_rest_is_proved(project: Project, emulator: Emulator) -> None:
    thread = project.call("POST", "/threads")["id"]
    first = project.call("POST", f"/threads/{thread}/turns", json={"input": "My name is Ada."})["id"]
    emulator.forget()
    second = project.call("POST", f"/threads/{thread}/turns", json={"input": "What is my name?"})["id"]
    assert project.http.delete(f"/responses/resp_{first.partition('_')[2]}").status_code == 200
    project.checkpoint()
    proof = project.call("GET", f"/threads/{thread}/turns/{second}/proof")
    problems = {part["part"]: part["problem"] for part in proof["parts"]}
    assert problems == {"opened": None, "call 1": None, "call 2": "erased", "closed": None}
    rest = {**proof, "parts": [part for part in proof["parts"] if part["problem"] is None]}
    assert wrong(rest, proof["checkpoint"]["public_key"]) == []


def test_paths_come_from_remembered_subtrees(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SUBTREE_LEAVES", 4)
    for _ in range(3):
        for _ in range(5):
            project.call("POST", "/threads")
        project.checkpoint()

    async def looked_at(database: Any, project_id: UUID) -> None:
        size, root = await database.fetchrow(
            "SELECT size, root FROM audit_checkpoints WHERE project_id = $1 ORDER BY size DESC LIMIT 1", project_id
        )
        leaves = await database.fetch("SELECT * FROM audit_leaves WHERE project_id = $1 ORDER BY position", project_id)
        assert size == len(leaves) > 12
        tree = paths.TreePaths(database)
        for leaf in (*leaves, *leaves[::-1]):
            found = await tree.of(project_id, [leaf["position"], 0], size, root)
            data = leaf_data(leaf["chain_id"], leaf["seq"], leaf["hash"])
            assert root_of(data, leaf["position"], size, found[leaf["position"]]) == root
        for older in range(size):
            smaller = Tree()
            found_, root_ = await store.consistency(database, project_id, smaller, older, size)
            assert (await tree.consistency(project_id, older, size, root), root) == (found_, root_)
            assert is_consistent(older, smaller.root(), size, root, found_)

    project.run(looked_at)

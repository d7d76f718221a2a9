"""The way out of an earlier release: its export is imported with new ids, and a file tells which is which."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from app.transfer.client import connect
from tests.service import Service
from tests.test_transfer import command, new_project


def turn(id_: str, parent: str | None, at: float, asked: str, said: str) -> dict[str, Any]:
    number = id_[-6:]
    return {
        "id": id_, "parent_id": parent, "status": "completed", "continuation": "new", "model": "qwen3.5-plus",
        "params": {}, "metadata": {}, "ignored": [], "created_at": at, "completed_at": at + 1,
        "response": None, "usage": {"total_tokens": 3}, "error": None, "incomplete_details": None,
        "response_id": f"resp_of_the_provider_{number}",
        "items": [
            {"origin": "input", "item_id": f"msg_in_{number}", "data": {
                "type": "message", "role": "user", "content": [{"type": "input_text", "text": asked}]}},
            {"origin": "output", "item_id": f"msg_out_{number}", "data": {
                "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said}]}},
        ],
    }  # fmt: skip


def old_id(prefix: str, end: int) -> str:
    """An id as the first releases made them: a UUIDv7, whose end is random."""
    return f"{prefix}_{UUID(int=uuid7().int & ~1023 | end).hex}"


def old_export(name: str) -> dict[str, Any]:
    """A line of an export of the first release: no forks, compactions or shares, and no bucket in the ids."""
    first, second = old_id("turn", 5), old_id("turn", 6)
    return {
        "format": "everthread.thread.v1", "id": old_id("thread", 7), "name": name, "title": "A talk", "user": "ada",
        "metadata": {"plan": "pro"}, "archived": False, "created_at": 1_760_000_000.5, "updated_at": 1_760_000_100.0,
        "head_id": second,
        "turns": [
            turn(first, None, 1_760_000_001.25, "My name is Ada.", "Hello Ada!"),
            turn(second, first, 1_760_000_060.0, "Good.", "Fine."),
        ],
    }  # fmt: skip


@pytest.mark.usefixtures("emulator")
def test_an_export_of_an_earlier_release_is_imported_with_new_ids_and_a_file_maps_them(
    service: Service, service_env: dict[str, str], tmp_path: Path
) -> None:
    key = new_project(service_env)
    records = [old_export("ada"), old_export("bob")]
    fork = {**old_export("eve"), "forked_turn_id": records[0]["turns"][0]["id"]}
    own = turn(old_id("turn", 9), fork["forked_turn_id"], 1_760_000_200.0, "And now?", "Now too.")
    records.append({**fork, "head_id": own["id"], "turns": [records[0]["turns"][0], own]})
    file, mapping = tmp_path / "old.jsonl", tmp_path / "ids.json"
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records))

    refused = command(service, "import", str(file), key=key)
    assert refused.ended() == 1
    assert refused.lines[-1] == "everthread: 3 were not taken."
    alone = command(service, "import", str(file), "--new-ids", key=key)
    assert alone.ended() == 1
    assert "belong together" in alone.lines[-1]

    arguments = ("import", str(file), "--new-ids", "--mapping", str(mapping))
    imported = command(service, *arguments, key=key)
    assert imported.ended() == 0, imported.lines
    assert imported.lines[-1] == "3 threads imported, 0 were there already."
    new: dict[str, str] = json.loads(mapping.read_text())
    assert new.keys() == {r["id"] for r in records} | {t["id"] for r in records for t in r["turns"]}

    with connect(service.url, key) as http:
        for record in records:
            shown = http.get(f"/threads/{new[record['id']]}").json()
            assert (shown["name"], shown["created_at"]) == (record["name"], int(record["created_at"]))
            turns = http.get(f"/threads/{new[record['id']]}/messages").json()["data"]
            assert {each["turn_id"] for each in turns} == {new[each["id"]] for each in record["turns"]}
        answer = http.post(f"/threads/{new[records[2]['id']]}/turns", json={"input": "What is my name?"}).json()
        assert answer["output_text"] == "Ada"

    # Run again, it finds what it has imported, and writes the same file.
    again = command(service, *arguments, key=key)
    assert again.ended() == 0
    assert again.lines[-1] == "0 threads imported, 3 were there already."
    assert json.loads(mapping.read_text()) == new

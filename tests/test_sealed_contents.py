"""Attacks on encryption at rest: by a client of another project, and by somebody who can write to the database."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from app.db.engine import Database
from app.sealing.master import Master, Masters
from app.sealing.project_cipher import ProjectCipher
from tests.databases import migrated_database
from tests.encrypted import CANARY, MASTER, Encrypted, talk
from tests.postgres_pair import run_sql
from tests.service import Emulator, Process, Service, eventually

MARK = "\x01et1:"


@pytest.fixture(scope="module")
def running_encrypted(
    server_urls: tuple[str, str], service_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Encrypted]:
    url = migrated_database(server_urls[0])
    env = {**service_env, "DATABASE_URL": url, "EVERTHREAD_AUDIT_KEY": "22" * 32}
    encrypted = Encrypted(env, tmp_path_factory.mktemp("sealed"))
    yield encrypted
    assert encrypted.service.stop() == 0


@pytest.fixture
def victim(running_encrypted: Encrypted, emulator: Emulator) -> Encrypted:
    return running_encrypted.beside(encrypted=True)


def sql(project: Encrypted, *statements: str) -> Any:
    return run_sql(project.env["DATABASE_URL"], *statements)


def uuid_of(id_: str) -> UUID:
    return UUID(id_.rpartition("_")[2])


def stolen(victim: Encrypted) -> list[str]:
    """Ciphertexts of a project, as somebody has got them who has seen its tables: in each form that lies there."""
    where = f"project_id = '{victim.uuid}'"
    (item,) = sql(victim, f"SELECT data::text AS data FROM items WHERE {where} LIMIT 1")
    (thread,) = sql(
        victim, f"SELECT title, metadata::text AS metadata FROM threads WHERE {where} AND title IS NOT NULL LIMIT 1"
    )
    found = [json.loads(item["data"])[0], json.loads(thread["metadata"])[""][0], thread["title"].partition(" ")[0]]
    return [form for each in found for form in (each, MARK + each.removeprefix(MARK), each.removeprefix(MARK))]


GARBAGE = [
    "",
    "AAAA",
    MARK,
    f"{MARK}=",
    f"{MARK}AAEB",
    MARK + "A" * 200,
    f"{MARK}\u00e9",
    "\x01",
    "\x01\x01",
    "\x01et1",
]


def everything(project: Encrypted, text: str) -> list[str]:
    """Write a text, and values that have the form of a sealed one, wherever a client can. Returns the threads."""
    forms: list[Any] = [[text], {"": [text]}, [text, {"role": "user", "words": "a"}], [None, text]]
    call = {"": [text], "type": "function_call", "call_id": "c1", "name": "f", "arguments": json.dumps({"": [text]})}
    output = {"type": "function_call_output", "call_id": "c1", "output": text or "-", "more": forms}
    said = {"role": "user", "content": text or "-", "": [text]}
    thread = project.post(
        "/threads", title=text or "-", user="someone", metadata={"a": text[:500]}, messages=[said],
        name=f"{uuid4().hex}{text[:200].replace('/', '')}",
    )["id"]  # fmt: skip
    turn = project.post(
        f"/threads/{thread}/turns", input=[call, output, {"role": "user", "content": "Hello."}],
        instructions=text or "-", metadata={"a": text[:500]}, tools=[
            {"type": "function", "name": "f", "parameters": {"type": "object", "": [text], "forms": forms}}
        ],
    )["id"]  # fmt: skip
    project.post(f"/threads/{thread}/turns/{turn}/feedback", comment=text or "-", label="ok")
    project.post(f"/threads/{thread}/fork", title=text or "-")
    response = project.post("/responses", input=text or "-", metadata={"a": text[:500]})
    project.post("/conversations", items=[{"type": "message", **said}], metadata={"a": text[:500]})
    there = project.get(f"/threads/{thread}/export")
    (each,) = there["turns"] = there["turns"][-1:]
    each |= {"id": another(each["id"]), "parent_id": None, "params": {"": [text], "forms": forms}}
    each |= {"metadata": {"a": text[:500]}, "response": {"": [text], "forms": forms}}
    for item in each["items"]:
        item |= {"data": {"": [text], "type": "message"}, "item_id": uuid4().hex}
    there |= {"id": another(thread), "name": None, "title": text or "-", "metadata": {"a": text[:500]}}
    imported = project.http.post("/threads/import", json={**there, "head_id": each["id"], "compactions": []})
    assert imported.status_code == 201, imported.text
    return [thread, imported.json()["id"], response["conversation"]["id"].replace("conv_", "thread_")]


def another(id_: str) -> str:
    """An id that lies where this one does."""
    prefix, _, digits = id_.partition("_")
    return f"{prefix}_{uuid4().hex[:8]}{digits[8:]}"


def read_everything(project: Encrypted, threads: list[str]) -> str:
    """Read all that a project shows. Each answer must be a success."""
    paths = ["/threads", "/responses", "/feedback", "/feedback/export", "/users/someone/data", "/search?q=hello"]
    for thread in threads:
        paths += [f"/threads/{thread}{path}" for path in (
            "", "/messages", "/messages?format=chat", "/messages?format=markdown", "/turns", "/chain", "/branches",
            "/export", "/replay?speed=0", "/compactions",
        )]  # fmt: skip
        paths += [
            f"/threads/{thread}/turns/{turn['id']}/calls" for turn in project.get(f"/threads/{thread}/turns")["data"]
        ]
        paths.append(project.post(f"/threads/{thread}/shares")["path"].removeprefix("/v1"))
    said = []
    for path in paths:
        answer = project.http.get(path)
        assert answer.status_code == 200, (path, answer.text)
        said.append(answer.text)
    return "\n".join(said)


def test_a_client_reads_nothing_of_a_project_whose_ciphertexts_it_sends(victim: Encrypted, emulator: Emulator) -> None:
    talk(victim, emulator)
    attacker = victim.beside(encrypted=False)
    threads = [thread for text in stolen(victim) for thread in everything(attacker, text)]
    assert CANARY not in read_everything(attacker, threads)
    # Nor in an encrypted project, nor in the victim's own, by a user who may not see the whole of it.
    other = victim.beside(encrypted=True)
    threads = [thread for text in stolen(victim)[:3] for thread in everything(other, text)]
    assert CANARY not in read_everything(other, threads)
    assert "unreadable" not in read_everything(other, threads)


@pytest.mark.parametrize("encrypted", [False, True])
def test_garbage_in_every_place_is_shown_as_it_was_sent(victim: Encrypted, encrypted: bool) -> None:
    project = victim.beside(encrypted=encrypted)
    for text in GARBAGE:
        thread, imported, _ = everything(project, text)
        said = read_everything(project, [thread, imported])
        assert '"unreadable"' not in said
        shown = project.get(f"/threads/{thread}")
        assert (shown["title"], shown["metadata"]) == (text or "-", {"a": text[:500]})
        items = project.get(f"/threads/{thread}/messages")["data"]
        assert (items[0]["content"], items[0][""]) == (text or "-", [text])
        call = next(item for item in items if item["type"] == "function_call")
        assert call[""] == [text]
        turn = project.get(f"/threads/{thread}/turns")["data"][0]
        assert (turn["instructions"], turn["metadata"]) == (text or "-", {"a": text[:500]})
        assert project.get(f"/threads/{thread}/turns/{turn['id']}/feedback")["data"][0]["comment"] == (text or "-")
        assert project.get(f"/threads/{imported}/messages")["data"][0][""] == [text]


@pytest.mark.parametrize("value", ["x", ["x"], [], {"a": "b"}, None, 1])
def test_metadata_has_no_empty_name(victim: Encrypted, value: Any) -> None:
    """A sealed one lies under it."""
    metadata = {"": value}
    thread = victim.post("/threads")["id"]
    exported = victim.get(f"/threads/{thread}/export")
    for method, path, body in (
        ("POST", "/threads", {"metadata": metadata}),
        ("PATCH", f"/threads/{thread}", {"metadata": metadata}),
        ("POST", f"/threads/{thread}/fork", {"metadata": metadata}),
        ("POST", f"/threads/{thread}/turns", {"input": "Hello.", "metadata": metadata}),
        ("POST", "/responses", {"input": "Hello.", "metadata": metadata}),
        ("POST", "/conversations", {"metadata": metadata}),
        ("POST", f"/conversations/{thread.replace('thread_', 'conv_')}", {"metadata": metadata}),
        ("POST", "/threads/import", {**exported, "id": another(thread), "metadata": metadata}),
    ):
        answer = victim.http.request(method, path, json=body)
        assert answer.status_code == 400, (path, answer.text)


def spoil_item(project: Encrypted, thread: str) -> tuple[str, str]:
    """Change the ciphertext of a thread's second turn's input. Returns the turn and the item."""
    turn = project.get(f"/threads/{thread}/turns", order="asc")["data"][1]
    sql(
        project,
        f"""UPDATE items SET data = json_build_array('AAEB' || (data->>0), data->1)
        WHERE turn_id = '{uuid_of(turn["id"])}' AND position = 0""",
    )
    items = project.get(f"/threads/{thread}/turns/{turn['id']}")["input"]
    assert items[0]["unreadable"] is True
    assert CANARY not in json.dumps(items)
    return turn["id"], items[0]["id"]


def chat(project: Encrypted) -> str:
    thread: str = project.post("/threads", user="someone")["id"]
    for word in ("one", "two", "three"):
        project.turn(thread, f"My favourite is {CANARY} {word}.")
    return thread


def forget_chain(project: Encrypted, emulator: Emulator) -> None:
    """Have the next turn rebuilt: the provider knows none of its responses any more."""
    emulator.forget()


@pytest.mark.parametrize("streams", [False, True])
def test_a_turn_whose_branch_cannot_be_read_whole_is_refused_and_deleting_the_item_lets_it_go_on(
    victim: Encrypted, emulator: Emulator, streams: bool
) -> None:
    thread = chat(victim)
    _, item = spoil_item(victim, thread)
    forget_chain(victim, emulator)
    before = len(emulator.calls())
    refused = victim.http.post(f"/threads/{thread}/turns", json={"input": "Recite the conversation", "stream": streams})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (409, "content_unreadable")
    assert item in error["message"]
    assert "Delete the item, or fork the thread at a turn before" in error["message"]
    # The model was asked with the id that the provider had forgotten, and with nothing after that.
    assert all("previous_response_id" in call["body"] for call in emulator.calls()[before:])
    for path, body in ((f"/threads/{thread}/compact", {"keep_turns": 0}), (f"/threads/{thread}/fork", None)):
        answer = victim.http.post(path, json=body)
        assert path.endswith("fork") or answer.json()["error"]["code"] == "content_unreadable", answer.text
    conversation = thread.replace("thread_", "conv_")
    assert victim.http.delete(f"/conversations/{conversation}/items/{item}").status_code == 200
    turn = victim.turn(thread, "Recite the conversation")
    assert turn["continuation"] == "rebuilt"
    assert "one" in turn["output_text"]
    assert "two" not in turn["output_text"].partition("assistant")[0]


def test_of_a_turn_with_two_unreadable_items_one_is_deleted_after_the_other_and_then_the_trail_verifies(
    victim: Encrypted, emulator: Emulator
) -> None:
    thread = chat(victim)
    messages = [{"role": "user", "content": f"{CANARY} {word}."} for word in ("four", "five")]
    turn = victim.post(f"/threads/{thread}/turns", input=messages)["id"]
    sql(
        victim,
        f"""UPDATE items SET data = json_build_array('AAEB' || (data->>0), data->1)
        WHERE turn_id = '{uuid_of(turn)}' AND position < 2""",
    )
    conversation, verify = thread.replace("thread_", "conv_"), ("audit", "verify", "--project", victim.name)
    for code, item in zip((1, 0), victim.get(f"/threads/{thread}/turns/{turn}")["input"], strict=True):
        assert victim.http.delete(f"/conversations/{conversation}/items/{item['id']}").status_code == 200
        said = victim.command(*verify, "--thread", thread, code=code)
        assert any("items.data cannot be opened" in line for line in said) == bool(code), said
        assert not any("what it holds" in line or "no record" in line for line in said), said


def test_a_thread_is_forked_before_what_cannot_be_opened(victim: Encrypted, emulator: Emulator) -> None:
    thread = chat(victim)
    spoil_item(victim, thread)
    forget_chain(victim, emulator)
    assert victim.http.post(f"/threads/{thread}/turns", json={"input": "Hello."}).status_code == 409
    first = victim.get(f"/threads/{thread}/turns", order="asc")["data"][0]["id"]
    fork = victim.post(f"/threads/{thread}/fork", turn_id=first)
    assert victim.turn(fork["id"], "Recite the conversation")["status"] == "completed"


def test_a_copied_fork_of_what_cannot_be_opened_is_refused_and_one_before_it_is_made(
    fresh_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    project = Encrypted({**fresh_env, "EVERTHREAD_FORK_COPIES_TURNS": "10"}, tmp_path)
    thread = chat(project)
    spoil_item(project, thread)
    refused = project.http.post(f"/threads/{thread}/fork")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "content_unreadable")
    first = project.get(f"/threads/{thread}/turns", order="asc")["data"][0]["id"]
    fork = project.post(f"/threads/{thread}/fork", turn_id=first)
    assert "one" in project.turn(fork["id"], "Recite the conversation")["output_text"]
    # A copy opens in its own place, and not in another.
    assert project.get(f"/threads/{fork['id']}/messages")["data"][0]["content"].endswith("one.")
    assert project.service.stop() == 0


def test_a_compaction_that_cannot_be_opened_is_not_passed_over(victim: Encrypted, emulator: Emulator) -> None:
    thread = chat(victim)
    made = victim.post(f"/threads/{thread}/compact", keep_turns=1)
    sql(victim, f"UPDATE compactions SET text = text || 'A' WHERE id = '{uuid_of(made['id'])}'")
    assert victim.get(f"/threads/{thread}/compactions")["data"][0]["unreadable"] == ["text"]
    forget_chain(victim, emulator)
    refused = victim.http.post(f"/threads/{thread}/turns", json={"input": "Hello."})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "content_unreadable")
    item = victim.get(f"/threads/{thread}/messages")["data"][0]["id"]
    conversation = thread.replace("thread_", "conv_")
    assert victim.http.delete(f"/conversations/{conversation}/items/{item}").status_code == 200
    assert victim.turn(thread, "Recite the conversation")["status"] == "completed"


def moves(victim: Encrypted, other: Encrypted, emulator: Emulator) -> list[tuple[str, str, Callable[[], Any]]]:
    """Ciphertexts moved by SQL: what is done, and where it is read afterwards."""
    thread, turn = talk(victim, emulator)
    target = other.post("/threads", title="Mine", metadata={"a": "b"})["id"]
    mine = other.turn(target, "Hello.", metadata={"a": "b"})["id"]
    other.post(f"/threads/{target}/turns/{mine}/feedback", comment="Mine")
    own = victim.post("/threads", title="Own", metadata={"a": "b"})["id"]
    own_turn = victim.turn(own, "Hello.", metadata={"a": "b"}, instructions="Be kind.")["id"]
    at = {name: f"id = '{uuid_of(id_)}'" for name, id_ in (("thread", thread), ("turn", turn), ("own", own))}

    def item(turn: str) -> str:
        return f"turn_id = '{uuid_of(turn)}' AND position = 0"

    return [
        ("another project's title", f"UPDATE threads SET title = (SELECT title FROM threads WHERE {at['thread']}) "
         f"WHERE id = '{uuid_of(target)}'", lambda: other.get(f"/threads/{target}")),
        ("another project's metadata", "UPDATE threads SET metadata = (SELECT metadata FROM threads WHERE "
         f"{at['thread']}) WHERE id = '{uuid_of(target)}'", lambda: other.get(f"/threads/{target}")),
        ("another project's item", f"UPDATE items SET data = (SELECT data FROM items WHERE {item(turn)}) "
         f"WHERE {item(mine)}", lambda: other.get(f"/threads/{target}/turns/{mine}")),
        ("another project's params", f"UPDATE turns SET params = (SELECT params FROM turns WHERE {at['turn']}) "
         f"WHERE id = '{uuid_of(mine)}'", lambda: other.get(f"/threads/{target}/turns/{mine}")),
        ("another project's comment", "UPDATE feedback SET comment = (SELECT comment FROM feedback WHERE "
         f"turn_id = '{uuid_of(turn)}') WHERE turn_id = '{uuid_of(mine)}'",
         lambda: other.get(f"/threads/{target}/turns/{mine}/feedback")["data"][0]),
        ("another project's call", f"UPDATE calls SET frames = (SELECT frames FROM calls WHERE "
         f"turn_id = '{uuid_of(turn)}' LIMIT 1) WHERE turn_id = '{uuid_of(mine)}'",
         lambda: other.get(f"/threads/{target}/turns/{mine}/calls")["data"][0]),
        ("another row's title", f"UPDATE threads SET title = (SELECT title FROM threads WHERE {at['thread']}) "
         f"WHERE {at['own']}", lambda: victim.get(f"/threads/{own}")),
        ("another row's item", f"UPDATE items SET data = (SELECT data FROM items WHERE {item(turn)}) "
         f"WHERE {item(own_turn)}", lambda: victim.get(f"/threads/{own}/turns/{own_turn}")),
        ("another column", f"UPDATE turns SET response = params WHERE id = '{uuid_of(own_turn)}'",
         lambda: victim.get(f"/threads/{own}/turns/{own_turn}")),
        ("the row's own metadata of another turn", f"UPDATE turns SET metadata = (SELECT metadata FROM turns WHERE "
         f"{at['turn']}) WHERE id = '{uuid_of(own_turn)}'", lambda: victim.get(f"/threads/{own}/turns/{own_turn}")),
    ]  # fmt: skip


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_ciphertext_that_was_moved_is_reported_and_not_shown(
    victim: Encrypted, emulator: Emulator, encrypted: bool
) -> None:
    other = victim.beside(encrypted=encrypted)
    verify = ("audit", "verify", "--project")
    for name, statement, read in moves(victim, other, emulator):
        sql(victim, "ALTER TABLE threads DISABLE TRIGGER USER", "ALTER TABLE turns DISABLE TRIGGER USER", statement)
        shown = json.dumps(read())
        assert CANARY not in shown, name
        assert '"unreadable"' in shown, name
    sql(victim, "ALTER TABLE threads ENABLE TRIGGER USER", "ALTER TABLE turns ENABLE TRIGGER USER")
    for project in (victim, other):
        said = project.command(*verify, project.name, code=1)
        found = "\n".join(said)
        assert said[-1] == "The audit trail does NOT verify."
        for column in ("items.data", "threads.title") + (() if project is victim else ("turns.params",)):
            assert f"{column}" in found, (column, found)
        assert "cannot be opened" in found
    lists = (*(other.http.get(path) for path in ("/threads", "/responses", "/feedback", "/search?q=hello")),)
    assert [answer.status_code for answer in lists] == [200] * 4


def test_an_export_marks_what_cannot_be_opened_and_the_command_says_so(
    victim: Encrypted, emulator: Emulator, tmp_path: Path
) -> None:
    thread = chat(victim)
    spoil_item(victim, thread)
    sql(victim, f"UPDATE threads SET metadata = '{{\"\": [\"AAEB\"]}}' WHERE id = '{uuid_of(thread)}'")
    exported = victim.get(f"/threads/{thread}/export")
    assert exported["unreadable"] == ["metadata", "turns[1].items[0].data"]
    assert exported["turns"][1]["items"][0]["data"]["unreadable"] is True
    lines = victim.http.get("/users/someone/data").text.splitlines()
    assert json.loads(lines[0])["unreadable"] == exported["unreadable"]
    file = tmp_path / "all.jsonl"
    url, key = victim.service.url, victim.http.headers["authorization"].removeprefix("Bearer ")
    process = Process("export", str(file), "--url", url, "--key", key, env=victim.env)
    assert process.ended() == 1
    assert thread in process.lines[-1]
    assert json.loads(file.read_text().splitlines()[0])["unreadable"]
    # And such a file is not taken for a whole one.
    target = victim.beside(encrypted=False)
    refused = target.http.post("/threads/import", json=exported)
    assert refused.status_code == 400
    assert "not whole" in refused.json()["error"]["message"]
    # A search finds what can be opened, a chat export of the thread is refused, feedback is marked.
    assert victim.http.get("/search", params={"q": "three"}).status_code == 200
    answer = victim.http.get(f"/threads/{thread}/messages", params={"format": "chat"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "content_unreadable")
    turn = victim.get(f"/threads/{thread}/turns")["data"][0]["id"]
    victim.post(f"/threads/{thread}/turns/{turn}/feedback", comment="Good.")
    line = json.loads(victim.http.get("/feedback/export").text)
    assert (line["messages"], line["unreadable"]) == (None, ["messages"])


def test_what_is_shown_beside_a_title_or_message_says_that_it_cannot_be_opened(
    victim: Encrypted, emulator: Emulator
) -> None:
    thread = victim.post("/threads", title=CANARY)["id"]
    turn = victim.turn(thread, f"Echo: {CANARY} one.")["id"]
    link = victim.post(f"/threads/{thread}/shares")["path"].removeprefix("/v1")
    for table, where in (("threads", "id"), ("shares", "thread_id")):
        sql(victim, f"UPDATE {table} SET title = E'\\x01et1:AAEB' WHERE {where} = '{uuid_of(thread)}'")
    shared = victim.get(link)
    assert (shared["title"], shared["unreadable"]) == (None, ["title"])
    assert "cannot be opened" in victim.http.get(link, params={"format": "markdown"}).text.splitlines()[0]
    (hit,) = victim.get("/search", q="one", role="user")["data"]
    assert (hit["thread_title"], hit["unreadable"]) == (None, ["thread_title"])
    sql(victim, f"""UPDATE items SET data = '["AAEB", {{}}]' WHERE turn_id = '{uuid_of(turn)}' AND origin = 'output'""")
    (listed,) = victim.get("/threads")["data"]
    assert (listed["title"], listed["unreadable"]) == (None, ["title"])
    assert listed["last_message"] == {"turn_id": turn, "role": "", "text": "", "unreadable": True}


def test_what_cannot_be_opened_is_deleted_like_anything_else(victim: Encrypted, emulator: Emulator) -> None:
    """Also without the project's key, and by the service itself."""
    deleted, turned, expiring = (
        chat(victim),
        chat(victim),
        victim.post("/threads", title=CANARY, ttl_seconds=3600)["id"],
    )
    for thread in (deleted, turned):
        spoil_item(victim, thread)
        sql(victim, f"UPDATE threads SET title = E'\\x01et1:x' WHERE id = '{uuid_of(thread)}'")
    turn = victim.get(f"/threads/{turned}/turns", order="asc")["data"][1]["id"]
    sql(victim, f"DELETE FROM data_keys WHERE project_id = '{victim.uuid}'")
    second = Service(env={**victim.env, "EVERTHREAD_CLEANING_SECONDS": "1"})
    with httpx2.Client(base_url=f"{second.url}/v1", headers=victim.http.headers, timeout=60) as http:
        assert http.get(f"/threads/{deleted}").json()["error"]["code"] == "contents_sealed"
        assert http.delete(f"/threads/{deleted}").status_code == 200
        assert http.delete(f"/responses/{turn.replace('turn_', 'resp_')}").status_code == 200
    for id_ in (deleted, turn):
        left = sql(victim, f"SELECT count(*) AS n FROM items WHERE turn_id = '{uuid_of(id_)}'")
        assert left[0]["n"] == 0
    sql(
        victim,
        f"""UPDATE threads SET expires_at = now(), ttl_seconds = 1, updated_at = now() - interval '1 hour'
        WHERE id = '{uuid_of(expiring)}'""",
        f"""UPDATE thread_activity SET active_at = now() - interval '1 hour'
        WHERE thread_id = '{uuid_of(expiring)}'""",
    )
    eventually(lambda: not sql(victim, f"SELECT FROM threads WHERE id = '{uuid_of(expiring)}'"), seconds=60)
    assert second.stop() == 0


def test_a_fork_keeps_what_it_takes_over_of_a_deleted_thread(victim: Encrypted, emulator: Emulator) -> None:
    """Pieces of calls change their thread, and so their place."""
    thread = chat(victim)
    forget_chain(victim, emulator)
    rebuilt = victim.turn(thread, "Once more.")
    assert rebuilt["continuation"] == "rebuilt"
    before = victim.get(f"/threads/{thread}/turns/{rebuilt['id']}/calls")["data"][-1]["body"]
    fork = victim.post(f"/threads/{thread}/fork")["id"]
    assert victim.http.delete(f"/threads/{thread}").status_code == 200
    assert victim.get(f"/threads/{fork}/turns/{rebuilt['id']}/calls")["data"][-1]["body"] == before
    assert victim.lying_open() == set()


def test_clearing_encrypted_at_opens_nothing_and_is_said(
    fresh_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    project = Encrypted(fresh_env, tmp_path)
    thread, _ = talk(project, emulator)
    # Also where no process has written anything for the project since its start.
    unused = project.beside(encrypted=True)
    assert project.service.stop() == 0
    unused.service = project.service = Service(env=project.env)
    for each in (unused, project):
        each.http.base_url = f"{project.service.url}/v1"
    # Contents may still be written openly shortly after the trail says that a project is encrypted: see sealing.sql.
    youngest = "SELECT max(at) < now() - interval '15 seconds' FROM audit_records WHERE action = 'project.encrypted'"
    eventually(lambda: sql(project, youngest)[0][0], seconds=30)
    sql(
        project, "ALTER TABLE projects DISABLE TRIGGER projects_guard",
        f"UPDATE projects SET encrypted_at = NULL WHERE project_id = '{unused.uuid}'",
    )  # fmt: skip
    unused.post("/threads", title=CANARY)
    assert unused.lying_open() == set()
    assert unused.get("/threads")["data"][0]["title"] == CANARY
    for value in ("NULL", "'infinity'"):
        sql(
            project, "ALTER TABLE projects DISABLE TRIGGER projects_guard",
            f"UPDATE projects SET encrypted_at = {value} WHERE project_id = '{project.uuid}'",
            "ALTER TABLE projects ENABLE TRIGGER projects_guard",
        )  # fmt: skip
        project.http = project.client(["read", "write"])  # A key that is looked up now.
        project.turn(thread, f"Once more, {CANARY}.")
        assert project.lying_open() == set()
        assert project.service.stop() == 0
        project.service = Service(env=project.env)
        assert any(
            project.name in line and "encrypted_at was changed" in line for line in project.service.process.lines
        )
        project.http.base_url = f"{project.service.url}/v1"
        project.turn(thread, f"And once more, {CANARY}.")
        project.post("/threads", title=CANARY)
        assert project.lying_open() == set()
        said = project.command("audit", "verify", "--project", project.name, code=1)
        assert any("encrypted_at" in line for line in said)
    project.command("projects", "encrypt", project.name)
    assert project.command("audit", "verify", "--project", project.name)[-1] == "The audit trail verifies."
    assert project.service.stop() == 0


@pytest.mark.long
def test_two_hundred_destroyed_keys_leave_a_master_key_that_fits_into_the_environment(
    fresh_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    kept = Encrypted(fresh_env, tmp_path)
    doomed = kept.beside(encrypted=True)
    talk(kept, emulator)
    talk(doomed, emulator)
    keys = sql(kept, "SELECT * FROM data_keys")
    whole = Master.of(MASTER)
    for _ in range(200):
        whole = whole.without(uuid4())
    short = Masters(whole.short())

    async def keep() -> None:
        database = Database(kept.env["DATABASE_URL"], pool_size=1, timeout_seconds=30)
        await ProjectCipher(database, short).keep_nodes(short)
        await database.close()

    asyncio.run(keep())
    doomed.command("projects", "revoke", doomed.name)
    assert kept.service.stop() == 0
    env = {**kept.env, "EVERTHREAD_MASTER_KEY": short.current.written}
    assert len(env["EVERTHREAD_MASTER_KEY"]) < 1000
    kept.service = Service(env=env)
    # And one more, by the command.
    doomed.env = env
    said = doomed.command("projects", "destroy-key", doomed.name, "--yes")
    env = {**env, "EVERTHREAD_MASTER_KEY": said[-1]}
    assert len(said[-1]) < 1000
    (file,) = tmp_path.glob("master-nodes.*.txt")
    assert str(file) in "\n".join(said)
    assert kept.service.stop() == 0
    kept.service = Service(env=env)
    kept.http.base_url = f"{kept.service.url}/v1"
    assert any(CANARY in (thread["title"] or "") for thread in kept.get("/threads")["data"])
    assert kept.service.stop() == 0
    # An older backup has neither these nodes nor the deletion of the key: it is of no use for that project.
    (row,) = [row for row in keys if row["project_id"] == doomed.uuid]
    sql(
        kept, "DELETE FROM master_nodes",
        f"""INSERT INTO data_keys (project_id, number, master_id, wrapped)
        VALUES ('{doomed.uuid}', 1, '\\x{row["master_id"].hex()}', '\\x{row["wrapped"].hex()}')""",
    )  # fmt: skip
    process = Process("serve", "--port", "0", env=env)
    assert process.ended() == 1
    assert "load-nodes" in process.lines[-1]
    kept.env = env
    assert "belongs to another secret" in Encrypted.command(doomed, "master-key", "load-nodes", str(file), code=1)[-1]
    assert kept.command("master-key", "load-nodes", str(file)) == ["The nodes are in the database."]
    assert kept.command("master-key", "check", code=1)[-1].endswith(
        "1 keys are sealed by a master key that is not here."
    )
    sql(kept, f"DELETE FROM data_keys WHERE project_id = '{doomed.uuid}'")
    kept.service = Service(env=env)
    kept.http.base_url = f"{kept.service.url}/v1"
    assert any(CANARY in (thread["title"] or "") for thread in kept.get("/threads")["data"])
    # The next key that is sealed by it is opened by it.
    assert kept.beside(encrypted=True).post("/threads", title="Hello")["title"] == "Hello"
    assert kept.service.stop() == 0


def test_short_master_keys_are_read_back() -> None:
    whole = Master.of(MASTER).without(uuid4()).without(uuid4()).short()
    again = Master.of(whole.written).with_nodes(whole.sealed_nodes)
    assert again == whole
    other = Master.of(MASTER).without(uuid4()).short()
    with pytest.raises(ValueError, match="another secret"):
        other.with_nodes(whole.sealed_nodes)


def test_failures_of_an_encrypted_project_are_found_and_counted_by_their_code(
    victim: Encrypted, emulator: Emulator
) -> None:
    thread = victim.post("/threads", title=f"About a {CANARY}")["id"]
    for code in ("InvalidParameter", "ModelNotFound", "InvalidParameter"):
        emulator.fault("status", status=400, code=code, message=f"No {CANARY}.", times=9)
        victim.http.post(f"/threads/{thread}/turns", json={"input": "Hello."})
        emulator.reset()
    victim.post(f"/threads/{thread}/turns", input="Tell me a long story. " * 10, max_output_tokens=16)
    stored = sql(victim, f"SELECT error::text FROM turns WHERE project_id = '{victim.uuid}' AND status = 'failed'")
    assert len(stored) == 3
    assert not any("Parameter" in row["error"] for row in stored)
    (found,) = victim.get("/failures", code="model_not_found")["data"]
    assert (found["thread_title"], found["message"]) == (f"About a {CANARY}", f"No {CANARY}.")
    first = victim.get("/failures", code="InvalidParameter", limit=1)
    (second,) = victim.get("/failures", code="InvalidParameter", limit=1, after=first["last_id"])["data"]
    assert first["has_more"]
    assert first["data"][0]["id"] != second["id"]
    counts = {entry["value"]: entry["failures"] for entry in victim.get("/failures/summary")["by_code"]["data"]}
    assert counts == {"InvalidParameter": 2, "model_not_found": 1, "max_output_tokens": 1}

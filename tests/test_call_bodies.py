"""Bodies of calls: returned byte by byte, stored at the cost of what they add, and deleted with their turns."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.turns.pieces import Envelope, Pieces, put_together, write_body
from tests.projects import Project
from tests.service import Emulator, Service, eventually

ITEMS = st.lists(st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=3), max_size=2), max_size=8)


@given(st.lists(st.tuples(ITEMS, ITEMS), max_size=4))
def test_a_body_is_its_pieces_put_together_and_no_piece_is_kept_twice(turns: list[tuple[Any, Any]]) -> None:
    kept: dict[int, str] = {}
    known: dict[bytes, int] = {}
    for history, own in turns:
        pieces = Pieces(known)
        items = [*history, *own]
        sources = [[f"item_{n}"] for n in range(len(history))] + [[] for _ in own]
        body = write_body(Envelope(b'{"input":[', b"]}"), items, own, sources, pieces)
        assert orjson.loads(body.sent) == {"input": items}
        last = len(kept)
        for number, piece in enumerate(pieces.new, last + 1):
            assert piece.digest not in known
            kept[number], known[piece.digest] = piece.data, number
        # New ones count down from -1 until the database has given them their numbers.
        refs = [last - ref if ref < 0 else ref for ref in body.refs]
        mine = {place: orjson.dumps(item).decode() for place, item in enumerate(own)}
        assert put_together(body.literals, refs, mine, kept) == body.sent.decode()
        for number in kept:
            left = {other: data for other, data in kept.items() if other != number}
            used = any(first <= number <= last for first, last in zip(refs[::2], refs[1::2], strict=True) if first)
            assert (put_together(body.literals, refs, mine, left) is None) == used
    assert len(set(kept.values())) == len(kept)


@given(ITEMS, st.text(max_size=5), st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3))
def test_a_body_of_the_own_input_alone_is_the_one_that_is_put_together_item_by_item(
    own: list[Any], model: str, rest: dict[str, str]
) -> None:
    envelope = Envelope(b'{"model":' + orjson.dumps(model) + b',"input":[', b"]," + orjson.dumps(rest)[1:])
    sent = [dict(item) for item in own]
    assert write_body(envelope, sent, own) == write_body(envelope, sent, own, [()] * len(sent), Pieces())


def bytes_of(url: str, *tables: str) -> int:
    async def run() -> int:
        connection = await asyncpg.connect(url)
        sizes = [await connection.fetchval("SELECT pg_total_relation_size($1::regclass)", table) for table in tables]
        await connection.close()
        return sum(sizes)

    return asyncio.run(run())


def test_a_hundred_rebuilt_turns_keep_their_history_once(
    service_env: dict[str, str], emulator: Emulator, fresh_database_url: str
) -> None:
    service = Service(env={**service_env, "DATABASE_URL": fresh_database_url})
    thread = service.thread()
    words = "This text was sent before, and is sent again in every call that is made for this conversation. " * 10
    for number in range(100):
        # Another model each time: its chain is of no use.
        service.turn(thread, f"Echo: {number} {words}", model=("qwen3.7-plus", "qwen3.7-max")[number % 2])
    sent = emulator.calls()
    turns = service.http.get(f"/threads/{thread}/turns", params={"limit": 3}).json()["data"]
    for turn, call in zip(turns, sent[::-1], strict=False):
        (kept,) = service.http.get(f"/threads/{thread}/turns/{turn['id']}/calls").json()["data"]
        assert kept["continuation"] == "rebuilt"
        assert json.dumps(kept["body"]) == json.dumps(call["body"])
    told = sum(len(json.dumps(call["body"])) for call in sent), bytes_of(fresh_database_url, "calls", "pieces")
    assert told[0] > 7_000_000, told
    assert told[1] < 1_500_000, told
    service.stop()


@pytest.mark.parametrize("what", ["item", "turn"])
def test_what_is_erased_is_gone_from_every_call_that_sent_it_and_the_trail_verifies(
    project: Project, emulator: Emulator, what: str
) -> None:
    thread = project.call("POST", "/threads")["id"]
    conversation = thread.replace("thread_", "conv_")
    turns = [
        project.call("POST", f"/threads/{thread}/turns", json={"input": f"Echo: {word}", "model": model})["id"]
        for word, model in (("marmalade", "qwen3.7-plus"), ("honey", "qwen3.7-max"), ("jam", "qwen3.7-plus"))
    ]
    bodies = [project.call("GET", f"/threads/{thread}/turns/{turn}/calls")["data"][0]["body"] for turn in turns]
    assert ["marmalade" in json.dumps(body) for body in bodies] == [True, True, True]
    if what == "item":
        (first,) = project.call("GET", f"/threads/{thread}/turns/{turns[0]}")["input"]
        assert project.http.delete(f"/conversations/{conversation}/items/{first['id']}").status_code == 200
    else:
        assert project.http.delete(f"/responses/{turns[0].replace('turn_', 'resp_')}").status_code == 200
    for turn in turns[1:]:
        (call,) = project.call("GET", f"/threads/{thread}/turns/{turn}/calls")["data"]
        assert call["body"] is None
        shown = project.http.get(f"/threads/{thread}/turns/{turn}/calls", params={"format": "curl"})
        assert "cannot be sent again" in shown.text
    assert project.verify().problems == []
    left = project.sql("SELECT (p.*)::text AS row FROM pieces p WHERE project_id = $1")
    left += project.sql("SELECT (c.*)::text AS row FROM calls c WHERE project_id = $1")
    assert left
    assert not any("Echo: marmalade" in row["row"] for row in left)
    # Nor is there a digest without a salt, with which it could be guessed.
    erased = project.sql("SELECT digest FROM pieces WHERE project_id = $1 AND data IS NULL")
    assert {row["digest"] for row in erased} == {b""}
    # Calls from now on are whole.
    again = project.call("POST", f"/threads/{thread}/turns", json={"input": "Echo: tea", "model": "qwen3.7-max"})
    (call,) = project.call("GET", f"/threads/{thread}/turns/{again['id']}/calls")["data"]
    assert call["body"] == emulator.calls()[-1]["body"]


def test_a_fork_keeps_the_bodies_of_what_it_takes_over(project: Project, emulator: Emulator) -> None:
    thread = project.call("POST", "/threads")["id"]
    for word, model in (("one", "qwen3.7-plus"), ("two", "qwen3.7-max"), ("three", "qwen3.7-plus")):
        turn = project.call("POST", f"/threads/{thread}/turns", json={"input": f"Echo: {word}", "model": model})["id"]
    fork = project.call("POST", f"/threads/{thread}/fork")["id"]
    project.call("POST", f"/threads/{fork}/turns", json={"input": "Echo: four", "model": "qwen3.7-max"})
    path = f"/threads/{{}}/turns/{turn}/calls"
    before = project.call("GET", path.format(thread))["data"]
    assert len(before[0]["body"]["input"]) == 5
    project.call("DELETE", f"/threads/{thread}")
    assert project.call("GET", path.format(fork))["data"] == before


def test_a_fork_takes_over_no_text_of_turns_that_it_does_not_share(project: Project, emulator: Emulator) -> None:
    thread = project.call("POST", "/threads")["id"]

    def say(word: str, model: str) -> str:
        said: str = project.call("POST", f"/threads/{thread}/turns", json={"input": f"Echo: {word}", "model": model})[
            "id"
        ]
        return said

    say("one", "qwen3.7-plus")
    shared = say("two", "qwen3.7-max")
    fork = project.call("POST", f"/threads/{thread}/fork", json={"turn_id": shared})["id"]
    say("marmalade", "qwen3.7-plus")
    say("four", "qwen3.7-max")
    project.call("DELETE", f"/threads/{thread}")
    left = project.sql("SELECT (p.*)::text AS row FROM pieces p WHERE project_id = $1")
    assert left
    assert not any("marmalade" in row["row"] for row in left)
    (call,) = project.call("GET", f"/threads/{fork}/turns/{shared}/calls")["data"]
    assert len(call["body"]["input"]) == 3
    project.call("POST", f"/threads/{fork}/turns", json={"input": "Echo: five", "model": "qwen3.7-plus"})
    assert project.verify().problems == []


def test_the_trail_of_a_fork_tells_that_its_calls_have_lost_what_it_shared(project: Project) -> None:
    thread = project.call("POST", "/threads")["id"]
    said = [project.call("POST", f"/threads/{thread}/turns", json={"input": f"Echo: {n}"})["id"] for n in range(2)]
    fork = project.call("POST", f"/threads/{thread}/fork")["id"]
    project.call("POST", f"/threads/{fork}/turns", json={"input": "Echo: 3", "model": "qwen3.7-max"})
    (item,) = project.call("GET", f"/threads/{thread}/turns/{said[0]}")["input"]
    conversation = thread.replace("thread_", "conv_")
    assert project.http.delete(f"/conversations/{conversation}/items/{item['id']}").status_code == 200
    assert project.http.delete(f"/responses/{said[1].replace('turn_', 'resp_')}").status_code == 200
    records = project.records(thread=fork, action="history.erased")
    assert [record["detail"] for record in records] == [thread, thread]
    assert project.verify().problems == []


@pytest.mark.parametrize("what", ["turn", "thread of a purged user"])
def test_what_is_erased_while_a_fork_runs_is_gone_from_its_call(
    project: Project, emulator: Emulator, what: str
) -> None:
    thread = project.call("POST", "/threads", json={"user": "ann"})["id"]
    said = project.call("POST", f"/threads/{thread}/turns", json={"input": "Echo: marmalade"})["id"]
    fork = project.call("POST", f"/threads/{thread}/fork", json={"user": "bob"})["id"]
    emulator.fault("slow", seconds=2)
    with ThreadPoolExecutor() as pool:
        asked = {"input": "Echo: two", "model": "qwen3.7-max"}
        running = pool.submit(project.call, "POST", f"/threads/{fork}/turns", json=asked)
        emulator.is_asked(2)
        if what == "turn":
            assert project.http.delete(f"/responses/{said.replace('turn_', 'resp_')}").status_code == 200
        else:
            purge = project.call("DELETE", "/users/ann/data")["id"]
            eventually(lambda: project.call("GET", f"/purges/{purge}")["status"] == "completed")
        answer = running.result()
    assert answer["output_text"] == "two"
    left = project.sql("SELECT (p.*)::text AS row FROM pieces p WHERE project_id = $1")
    assert left
    assert not any("marmalade" in row["row"] for row in left)
    (call,) = project.call("GET", f"/threads/{fork}/turns/{answer['id']}/calls")["data"]
    assert call["body"] is None
    assert project.verify().problems == []

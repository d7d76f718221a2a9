"""An answer that the model gave is never lost: not to a failover, a time-out, a full disk, a garbage file or a kill."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from app.db.engine import may_pass
from app.items.stored import stored_output
from app.sealing.at_rest import PLAIN
from app.trail.records import Actor
from app.turns import spool
from app.turns.closing import CallRecord, Closing
from app.turns.pieces import Body, Piece
from app.turns.store import Closable
from tests.breakable import Servers
from tests.databases import query
from tests.service import Emulator, Service, eventually
from tests.test_durability import begin


def set_everywhere(servers: Servers, setting: str, value: str) -> None:
    query(servers.database_url, "SET default_transaction_read_only = off", f"ALTER SYSTEM SET {setting} = '{value}'",
          "SELECT pg_reload_conf()")  # fmt: skip


def test_a_turn_that_ends_while_postgres_is_read_only_is_closed_when_it_can_be(
    own_servers: Servers, own_env: dict[str, str], emulator: Emulator
) -> None:
    service = Service(env=own_env)
    thread = service.thread()
    emulator.fault("slow", seconds=1)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(service.turn, thread, "Echo: kept")
        emulator.is_asked()
        set_everywhere(own_servers, "default_transaction_read_only", "on")
        eventually(lambda: service.http.post("/threads", json={}).status_code == 503)
        refused = service.http.post("/threads", json={})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        service.process.wait_for("an answered turn waits to be closed")
        set_everywhere(own_servers, "default_transaction_read_only", "off")
        assert answer.result()["output_text"] == "kept"
    assert service.ended_turn(thread)["status"] == "completed"
    assert len(emulator.calls()) == 1
    service.stop()


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
def test_a_turn_whose_closing_meets_a_time_out_is_closed_when_it_can_be(
    own_servers: Servers, own_env: dict[str, str], emulator: Emulator, setting: str
) -> None:
    set_everywhere(own_servers, setting, "300ms")
    service = Service(env=own_env)
    thread = service.thread()
    emulator.fault("slow", seconds=0.7)
    id_ = UUID(thread.partition("_")[2])
    try:
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(service.turn, thread, "Echo: kept")
            emulator.is_asked()
            held = "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"
            query(own_servers.database_url, held, f"SELECT id FROM threads WHERE id = '{id_}' FOR UPDATE",
                  "SELECT pg_sleep(2)", "COMMIT")  # fmt: skip
            assert answer.result()["output_text"] == "kept"
    finally:
        set_everywhere(own_servers, setting, "0")
    assert service.ended_turn(thread)["status"] == "completed"
    assert len(emulator.calls()) == 1
    service.stop()


def test_an_answer_waits_and_says_so_when_the_spool_cannot_take_it_either(
    own_servers: Servers, own_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    service = Service(env={**own_env, "EVERTHREAD_LEASE_SECONDS": "20"})
    thread = service.thread()
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "spool").write_text("in the way, as a full disk would be")
    emulator.fault("slow", seconds_per_event=0.05)
    service.http.post(f"/threads/{thread}/turns", json={"input": "Echo: kept", "background": True})
    emulator.is_asked()
    own_servers.stop_postgres()
    service.process.wait_for("an answered turn waits to be closed")
    service.process.process.send_signal(signal.SIGTERM)
    service.process.wait_for("cannot be written to the spool")
    own_servers.start_postgres()
    assert service.process.ended() == 0
    again = Service(env=own_env)
    assert (again.ended_turn(thread)["status"], again.ended_turn(thread)["output_text"]) == ("completed", "kept")
    again.stop()


def test_garbage_in_the_spool_is_set_aside_and_a_dead_workers_turn_is_closed_all_the_same(
    own_servers: Servers, own_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "spool"
    folder.mkdir(parents=True)
    garbage = {"a.json": "{oops", "b.json": "[]", "c.json": '{"version": 99}', "d.json": '{"version": 1, "turn": {}}'}
    for name, text in garbage.items():
        (folder / name).write_text(text)
    doomed = Service(env={**own_env, "EVERTHREAD_DATA_DIR": str(tmp_path / "other")})
    service = Service(env=own_env)
    thread = service.thread()
    emulator.fault("stall", seconds=60)
    doomed.http.post(f"/threads/{thread}/turns", json={"input": "Hi", "background": True})
    emulator.is_asked()
    doomed.process.stop(signal.SIGKILL)
    assert service.ended_turn(thread)["status"] == "failed"
    assert sorted(path.name for path in folder.iterdir()) == [f"{name[0]}.unreadable" for name in sorted(garbage)]
    assert service.turn(thread, "Echo: on")["output_text"] == "on"
    service.stop()
    assert "oops" not in "\n".join(service.process.lines)


def test_the_end_of_a_stream_is_told_to_who_had_heard_more_than_was_logged(
    own_env: dict[str, str], emulator: Emulator, own_servers: Servers
) -> None:
    doomed = Service(env={**own_env, "EVERTHREAD_LEASE_SECONDS": "1.5", "EVERTHREAD_EVENT_LOG_FLUSH_SECONDS": "0.6"})
    other = Service(env={**own_env, "EVERTHREAD_LEASE_SECONDS": "1.5"})
    thread = other.thread()
    emulator.fault("slow", seconds_per_event=0.1)
    turn, last = begin(doomed, thread, "Echo: " + "word " * 50, events=12)
    doomed.process.stop(signal.SIGKILL)
    client = redis.Redis.from_url(own_servers.redis_url)
    (key,) = client.keys(f"*:events:{turn.partition('_')[2]}")
    logged: Any = client.xrange(key)
    assert sum(fields[b"d"].count(b"\n\n") for _, fields in logged) <= last
    events = other.follow(thread, turn, params={"starting_after": last})
    assert [event["type"] for event in events] == ["response.incomplete"]
    assert events[0]["sequence_number"] == last + 1
    assert events[0]["response"]["output"][0]["content"][0]["text"].startswith("word")
    other.stop()


def test_what_goes_wrong_is_logged_without_what_was_said(
    own_servers: Servers, own_env: dict[str, str], emulator: Emulator
) -> None:
    service = Service(env=own_env)
    thread = service.thread()
    broken = "ALTER TABLE items ADD CONSTRAINT broken CHECK (data::text NOT LIKE '%secret%') NOT VALID"
    query(own_servers.database_url, broken)
    try:
        answer = service.http.post(f"/threads/{thread}/turns", json={"input": "A secret of Ada's"})
        assert answer.status_code == 500
        made = service.http.post("/threads", json={"messages": [{"role": "user", "content": "A secret of Ada's"}]})
        assert made.status_code == 500
        kept = service.http.post(f"/threads/{thread}/turns", json={"input": "Echo: the sec" + "ret".upper()})
        assert kept.status_code == 200
    finally:
        query(own_servers.database_url, "ALTER TABLE items DROP CONSTRAINT broken")
    service.stop()
    logged = [json.loads(line) for line in service.process.lines if line.startswith("{")]
    assert [line for line in logged if "CheckViolation" in str(line.get("exception"))]
    printed = "\n".join(service.process.lines)
    assert "secret" not in printed
    assert "Traceback" not in printed


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)


@given(texts, st.binary(max_size=20), st.integers(0, 5), st.none() | st.dictionaries(texts, texts, max_size=2))
def test_a_file_of_the_spool_gives_back_what_it_was_given(
    text: str, body: bytes, dropped: int, details: dict[str, Any] | None
) -> None:
    now = datetime.fromisoformat("2026-11-25T12:00:00.123456+00:00")
    sent = Body(body, [text, text], [-1, -dropped])
    call = CallRecord("chained", "x#1234", "http://x", sent, dropped, None, None, details, now, now)
    turn = Closable(uuid4(), uuid4(), None, dropped, body, Actor(uuid4(), text), PLAIN)
    output = stored_output([{"type": "message", "role": "assistant", "content": text}, text, {}])
    closing = Closing("incomplete", "rebuilt", [call], output, details, details, None, {"reason": text}, text, text,
                      None, now, None, {"ms": [1], "chars": [2]}, [Piece(text, body, [text])])  # fmt: skip
    assert spool.decoded(spool.encoded(turn, closing)) == (turn, closing)


FIELDS = st.sampled_from(["version", "turn", "closing", "calls", "output"])
documents = st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(FIELDS, inner | st.just(1)), max_leaves=6)


@given(st.binary(max_size=60) | documents.map(lambda found: json.dumps(found).encode()))
def test_a_file_that_is_none_of_ours_is_refused_in_a_way_that_is_known(content: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        spool.decoded(content)


def test_postgres_errors_that_pass_are_told_from_those_that_do_not() -> None:
    passing = [asyncpg.ReadOnlySQLTransactionError, asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError,
               asyncpg.DiskFullError, asyncpg.DeadlockDetectedError, asyncpg.AdminShutdownError]  # fmt: skip
    lasting = [asyncpg.UniqueViolationError, asyncpg.UndefinedTableError, asyncpg.InvalidTextRepresentationError]
    assert all(may_pass(error.sqlstate) for error in passing)
    assert not any(may_pass(error.sqlstate) for error in lasting)

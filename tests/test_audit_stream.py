"""The audit stream: every record once, in an order that never changes, whoever is killed and whatever is late."""

import asyncio
import json
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, get_args
from uuid import UUID, uuid4

import asyncpg
import httpx2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from app.audit import ocsf, positions
from app.audit.positions import Positions
from app.audit.rows import StreamRow
from app.db import ids
from app.db.engine import Database
from app.db.read_horizon import ReadHorizon
from app.trail.records import Action
from tests.projects import Project, new_key
from tests.service import Service, eventually


def pulled(http: httpx2.Client, after: int = 0, **params: Any) -> list[dict[str, Any]]:
    """The records of one answer."""
    answer = http.get("/audit/stream", params={"after": after, **params})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def everything(http: httpx2.Client, limit: int = 1000) -> list[dict[str, Any]]:
    """All records, pulled until an answer is empty."""
    found: list[dict[str, Any]] = []
    while records := pulled(http, len(found), limit=limit):
        found += records
        assert found[-1]["position"] == len(found)
    return found


def as_listed(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Records by their ids, as `GET /v1/audit` shows them."""
    return {record["id"]: {name: record[name] for name in record if name != "position"} for record in records}


def test_every_record_comes_once_at_a_position_that_never_changes(project: Project) -> None:
    first = project.call("POST", "/threads", json={"user": "ann", "title": "A talk"})["id"]
    project.call("POST", f"/threads/{first}/turns", json={"input": "My name is Ada."})
    early = everything(project.http)
    second = project.call("POST", "/threads", json={})["id"]
    project.call("PATCH", f"/threads/{first}", json={"title": "Another"})
    project.call("DELETE", f"/threads/{second}")
    late = everything(project.http, limit=3)
    assert [record["position"] for record in late] == list(range(1, len(late) + 1))
    assert late[: len(early)] == early
    assert as_listed(late) == {record["id"]: record for record in project.records()}
    for position in (0, 1, len(early), len(late) - 1):
        assert pulled(project.http, position, limit=2) == late[position : position + 2]
    assert pulled(project.http, len(late)) == []
    # Each chain can be verified while it is read.
    last: dict[str | None, tuple[int, str]] = {}
    for record in late:
        assert last.get(record["thread"], (0, "00" * 32)) == (record["seq"] - 1, record["previous"])
        last[record["thread"]] = record["seq"], record["hash"]


def test_a_thread_that_was_forked_or_comes_back_under_its_old_id_is_in_the_stream(project: Project) -> None:
    thread = project.call("POST", "/threads", json={})["id"]
    turn = project.call("POST", f"/threads/{thread}/turns", json={"input": "Hello!"})["id"]
    exported = project.call("GET", f"/threads/{thread}/export")
    before = everything(project.http)
    project.call("DELETE", f"/threads/{thread}")
    deleted = everything(project.http)
    assert project.call("POST", "/threads/import", json=exported)["id"] == thread
    project.call("POST", f"/threads/{thread}/fork", json={"turn_id": turn})
    found = everything(project.http)
    assert found[: len(deleted)] == deleted != before
    assert as_listed(found) == {record["id"]: record for record in project.records()}
    assert [record["seq"] for record in found if record["thread"] == thread] == list(
        range(1, 1 + sum(record["thread"] == thread for record in found))
    )
    assert {record["action"] for record in found} >= {"thread.imported", "thread.forked", "thread.deleted"}


def test_a_reader_sees_that_a_record_was_removed_or_that_the_database_was_restored(project: Project) -> None:
    thread = project.call("POST", "/threads", json={})["id"]
    for title in ("a", "b", "c"):
        project.call("PATCH", f"/threads/{thread}", json={"title": title})
    before = everything(project.http)
    at = next(record["position"] for record in before if record["thread"] == thread and record["seq"] == 2)
    project.sql("DELETE FROM audit_records WHERE project_id = $1 AND chain_id = $2 AND seq = 2", thread)
    assert [record["position"] for record in pulled(project.http)] == [
        record["position"] for record in before if record["position"] != at
    ]
    last = before[-1]
    assert pulled(project.http, last["position"], after_hash=last["hash"]) == []
    for params in (
        {"after": last["position"] + 1},
        {"after": last["position"], "after_hash": "00" * 32},
        {"after": at, "after_hash": before[at - 1]["hash"]},
    ):
        refused = project.http.get("/audit/stream", params=params)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_cursor"), refused.text


@pytest.mark.parametrize(
    "params", [{"after": -1}, {"after": 2**63}, {"limit": 0}, {"limit": 1001}, {"format": "cef"}, {"after_hash": "x"}]
)
def test_a_parameter_out_of_bounds_is_refused(project: Project, params: dict[str, Any]) -> None:
    assert project.http.get("/audit/stream", params=params).status_code == 400


def test_nobody_else_pulls_a_projects_records(service: Service, service_env: dict[str, str], project: Project) -> None:
    thread = project.call("POST", "/threads", json={"user": "ann"})["id"]
    everything(project.http)
    with httpx2.Client(base_url=f"{service.url}/v1", timeout=60) as http:
        url = service_env["DATABASE_URL"]
        token = project.call("POST", "/user_tokens", json={"user": "ann"})["token"]
        without = new_key(url, project.name, scopes=["read", "write", "admin"])
        for credential, status in ((token, 403), (without, 403), ("et_none", 401)):
            answer = http.get("/audit/stream", headers={"Authorization": f"Bearer {credential}"})
            assert answer.status_code == status, answer.text
        http.headers["Authorization"] = f"Bearer {new_key(url, uuid4().hex, scopes=['audit'])}"
        others = everything(http)
        assert {record["actor"]["project"] for record in others}.isdisjoint(
            record["actor"]["project"] for record in pulled(project.http)
        )
        assert thread not in {record["thread"] for record in others}


PRIVATE = ("ann@example.com", "Ann Example", "a private title", "a private message")


def test_neither_format_contains_contents_or_personal_data(project: Project) -> None:
    user, name, title, message = PRIVATE
    thread = project.call("POST", "/threads", json={"user": user, "title": title, "metadata": {"name": name}})["id"]
    turn = project.call("POST", f"/threads/{thread}/turns", json={"input": message})["id"]
    project.call("POST", f"/threads/{thread}/turns/{turn}/feedback", json={"score": 1, "comment": message})
    project.call("DELETE", f"/users/{user}/data")
    eventually(lambda: "user.purged" in {record["action"] for record in everything(project.http)}, 30)
    addresses = {record["actor"]["address"] for record in everything(project.http)} - {None}
    assert [each for each in addresses if not re.fullmatch("address_[0-9a-f]{32}", each)] == []
    for form in ("everthread", "ocsf"):
        said = project.http.get("/audit/stream", params={"format": form, "limit": 1000}).text
        assert said.count("\n") > 8
        assert [each for each in PRIVATE if each in said] == []


# Records that become visible late.


class Trail:
    """A project's trail, written past the service: transactions stay open, and moments are chosen."""

    def __init__(self, database_url: str) -> None:
        self.project_id = uuid4()
        self.url = database_url
        self.chains = [ids.new_id(bucket) for bucket in (0, 3, 3, 1023)]
        self.committed = dict.fromkeys(self.chains, 0)
        """Number of the last record of each chain."""

    async def connect(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(self.url)
        await connection.execute("SET session_replication_role = replica")
        return connection

    async def append(self, connection: asyncpg.Connection, chain: UUID, seq: int, at: datetime) -> None:
        await connection.execute(
            """INSERT INTO audit_records (project_id, bucket, chain_id, seq, at, action, previous, hash)
            VALUES ($1, $2, $3, $4, $5, 'thread.changed', $6, $6)""",
            self.project_id, ids.bucket_of(chain), chain, seq, at, bytes(32),
        )  # fmt: skip

    async def records(self, connection: asyncpg.Connection) -> set[tuple[UUID, int]]:
        rows = await connection.fetch("SELECT chain_id, seq FROM audit_records WHERE project_id = $1", self.project_id)
        return {tuple(row) for row in rows}


class Puller:
    """A reader in this process, whose searches take small steps."""

    def __init__(self, database: Database, trail: Trail) -> None:
        self._database = database
        self._trail = trail
        self._positions = Positions(database, ReadHorizon())
        self.read: list[tuple[UUID, int]] = []

    async def pull(self, limit: int) -> None:
        await self._positions.assign(self._trail.project_id, limit)
        rows = await positions.page(self._database, self._trail.project_id, 0, 10_000)
        assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
        read = [(row["chain_id"], row["seq"]) for row in rows]
        assert read[: len(self.read)] == self.read
        self.read = read

    async def pull_all(self, records: int, limit: int) -> None:
        """Pull as often as it takes at most: until `ahead` is at the end, and the sweep has passed each key since."""
        for _ in range(records // min(limit, positions.STEP) + 2 * (records // positions.STEP + 1) + 1):
            await self.pull(limit)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "STEP", 3)
    monkeypatch.setattr(positions, "MOST_STEPS", 2)


AGES = (0.0, 0.001, 2.0, 30.0, 86400.0, -60.0)
"""Seconds before now that a record's moment is: of an open transaction, of a clock that was set, of another host."""

SCRIPT = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 3), st.integers(0, 3), st.sampled_from(AGES)),
        st.tuples(st.sampled_from(["commit", "roll back"]), st.integers(0, 3)),
        st.tuples(st.just("pull"), st.sampled_from([1, 2, 50])),
    ),
    min_size=8,
    max_size=40,
)

BEFORE_ITS_PREDECESSOR = [
    ("append", 0, 1, 0.0), ("commit", 0), ("pull", 50), ("append", 0, 0, 86400.0), ("append", 0, 0, 0.0), ("commit", 0)
]  # fmt: skip
CLOCK_SET_BACK = [("append", 0, 0, 0.0), ("append", 0, 0, 2.0), ("commit", 0)]


@pytest.mark.usefixtures("small_steps")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=SCRIPT)
@example(script=BEFORE_ITS_PREDECESSOR)
@example(script=CLOCK_SET_BACK)
def test_whatever_is_committed_when_all_pulls_together_are_the_table_without_duplicates(
    database_url: str, script: list[tuple[Any, ...]]
) -> None:
    async def run() -> None:
        trail = Trail(database_url)
        writers = [await trail.connect() for _ in range(4)]
        begun: dict[int, Any] = {}
        held: dict[UUID, tuple[int, int]] = {}
        database = Database(database_url, pool_size=1, timeout_seconds=30)
        reader = Puller(database, trail)

        async def end(writer: int, *, commit: bool) -> None:
            transaction = begun.pop(writer, None)
            if transaction is not None:
                await (transaction.commit() if commit else transaction.rollback())
            for chain, (holder, seq) in list(held.items()):
                if holder == writer:
                    del held[chain]
                    if commit:
                        trail.committed[chain] = seq

        try:
            for kind, number, *rest in script:
                if kind == "append":
                    chain = trail.chains[rest[0]]
                    holder, seq = held.get(chain, (number, trail.committed[chain]))
                    if holder != number:
                        continue  # As the lock of a thread's row has it wait.
                    if number not in begun:
                        begun[number] = writers[number].transaction()
                        await begun[number].start()
                    at = datetime.now(UTC) - timedelta(seconds=rest[1])
                    await trail.append(writers[number], chain, seq + 1, at)
                    held[chain] = number, seq + 1
                elif kind == "pull":
                    await reader.pull(number)
                else:
                    await end(number, commit=kind == "commit")
            for writer in range(4):
                await end(writer, commit=True)
            records = await trail.records(writers[0])
            await reader.pull_all(len(records), 2)
            assert len(reader.read) == len(set(reader.read))
            assert set(reader.read) == records
            for chain in trail.chains:
                assert [seq for found, seq in reader.read if found == chain] == list(
                    range(1, trail.committed[chain] + 1)
                )
        finally:
            await asyncio.gather(*(writer.close() for writer in writers), database.close())

    asyncio.run(run())


@pytest.mark.usefixtures("small_steps")
def test_a_long_history_comes_in_the_order_of_its_moments_a_few_records_at_a_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "OVERLAP", timedelta(0))

    async def run() -> None:
        trail, database = Trail(database_url), Database(database_url, pool_size=1, timeout_seconds=30)
        writer = await trail.connect()
        try:
            reader, began = Puller(database, trail), datetime.now(UTC) - timedelta(hours=1)
            written = [(chain, seq) for seq in range(1, 16) for chain in reversed(trail.chains)]
            for number, (chain, seq) in enumerate(written):
                await trail.append(writer, chain, seq, began + timedelta(seconds=number))
            pulls = 0
            while len(reader.read) < len(written):
                before, pulls = len(reader.read), pulls + 1
                await reader.pull(4)
                assert before < len(reader.read) <= before + positions.STEP * positions.MOST_STEPS
            assert (reader.read, pulls) == (written, 10)
            # A transaction that was open is found by the next pull: the sweep would need up to 20.
            for chain in trail.chains:
                transaction = writer.transaction()
                await transaction.start()
                await trail.append(writer, chain, 16, datetime.now(UTC))
                other = await trail.connect()
                await trail.append(other, ids.new_id(0), 1, datetime.now(UTC))
                await reader.pull(4)
                await other.close()
                await transaction.commit()
                await reader.pull(4)
                assert reader.read[-1] == (chain, 16)
        finally:
            await asyncio.gather(writer.close(), database.close())

    asyncio.run(run())


def test_records_of_transactions_that_stay_open_across_pulls_come_after_all_that_were_pulled(project: Project) -> None:
    """With the functions that the service appends with, and a moment from before every pull."""

    async def run(database: Database, project_id: UUID) -> None:
        append = "SELECT append_records_v2($1, $2, $3, NULL, NULL, NULL, $4::text[], '{NULL}', '{NULL}', '{NULL}')"

        async def write(connection: asyncpg.Connection, chain: UUID) -> None:
            await connection.execute(append, project_id, ids.bucket_of(chain), chain, ["thread.changed"])

        slow, slower, quick = [await asyncpg.connect(database.url) for _ in range(3)]
        chains = [ids.new_id(ids.new_bucket()) for _ in range(3)]
        try:
            await asyncio.to_thread(everything, project.http)  # The first use of the key is recorded, too.
            open_, longer = slow.transaction(), slower.transaction()
            await open_.start()
            await write(slow, chains[0])
            await longer.start()
            await write(slower, chains[1])
            seen = []
            for _ in range(3):
                await write(quick, chains[2])
                seen = await asyncio.to_thread(everything, project.http)
            assert [ids.parse(record["thread"], ("thread",)) for record in seen[-3:]] == [chains[2]] * 3
            await open_.commit()
            after = await asyncio.to_thread(everything, project.http)
            assert after[:-1] == seen
            assert after[-1]["thread"] == ids.thread_id(chains[0])
            assert after[-1]["at"] < seen[-1]["at"]
            await write(quick, chains[2])
            await write(slow, chains[0])
            await longer.commit()
            last = await asyncio.to_thread(everything, project.http)
            assert last[: len(after)] == after
            assert sorted((record["thread"], record["seq"]) for record in last[len(after) :]) == sorted(
                [(ids.thread_id(chains[0]), 2), (ids.thread_id(chains[1]), 1), (ids.thread_id(chains[2]), 4)]
            )
        finally:
            await asyncio.gather(slow.close(), slower.close(), quick.close())

    project.run(run)


def test_readers_that_wait_for_a_projects_stream_hold_up_no_other_project(
    service: Service, service_env: dict[str, str], project: Project
) -> None:
    everything(project.http)
    elsewhere = new_key(service_env["DATABASE_URL"], uuid4().hex)

    async def run(database: Database, project_id: UUID) -> None:
        holder = await asyncpg.connect(database.url)
        try:
            async with httpx2.AsyncClient(
                base_url=f"{service.url}/v1", headers={"Authorization": f"Bearer {project.key}"}, timeout=60
            ) as http:
                async with holder.transaction():
                    await holder.execute("SELECT FROM audit_streams WHERE project_id = $1 FOR UPDATE", project_id)
                    waiting = [asyncio.create_task(http.get("/audit/stream")) for _ in range(40)]
                    answers = [
                        await http.get("/audit/stream", headers={"Authorization": f"Bearer {elsewhere}"})
                        for _ in range(10)
                    ]
                    assert [answer.status_code for answer in answers] == [200] * 10
                    assert not any(each.done() for each in waiting)
                read = await asyncio.gather(*waiting)
                assert {(answer.status_code, answer.text) for answer in read} == {(200, read[0].text)}
        finally:
            await holder.close()

    project.run(run)


# A worker that is killed.


@pytest.fixture
def own_project(fresh_env: dict[str, str]) -> Iterator[tuple[Service, Service]]:
    """Two services of one database, to be killed."""
    first = Service(env=fresh_env)
    second = Service(env=fresh_env, key=first.key)
    yield first, second
    first.stop()
    second.stop()


def test_a_worker_killed_amid_pulls_and_writes_makes_nothing_skipped_or_changed(
    own_project: tuple[Service, Service], fresh_env: dict[str, str]
) -> None:
    doomed, survivor = own_project

    ended = threading.Event()
    seen: list[dict[int, str]] = [{}, {}, {}]

    def write(service: Service) -> None:
        with suppress(httpx2.HTTPError):  # It was killed.
            while not ended.is_set():
                service.http.post("/threads", json={})

    def pull(service: Service, seen: dict[int, str]) -> None:
        with suppress(httpx2.HTTPError):
            while not ended.is_set():
                for record in pulled(service.http, max(seen, default=0), limit=7):
                    seen[record["position"]] = record["hash"]

    with ThreadPoolExecutor(5) as pool:
        for service in (doomed, survivor):
            pool.submit(write, service)
        for service, each in zip((doomed, doomed, survivor), seen, strict=True):
            pool.submit(pull, service, each)
        try:
            eventually(lambda: min(map(len, seen)) > 20, 60)
            doomed.process.stop(signal.SIGKILL)
            at_kill = len(seen[2])
            eventually(lambda: len(seen[2]) > at_kill + 20, 60)
        finally:
            ended.set()
    found = everything(survivor.http)
    hashes = {record["position"]: record["hash"] for record in found}
    assert list(hashes) == list(range(1, len(found) + 1))
    for each in seen:
        assert list(each) == list(range(1, len(each) + 1))
        assert each == {position: hashes[position] for position in each}

    async def rows() -> set[str]:
        connection = await asyncpg.connect(fresh_env["DATABASE_URL"])
        try:
            project_id = await connection.fetchval("SELECT project_id FROM projects WHERE operates")
            return {
                row["hash"].hex()
                for row in await connection.fetch("SELECT hash FROM audit_records WHERE project_id = $1", project_id)
            }
        finally:
            await connection.close()

    assert set(hashes.values()) == asyncio.run(rows())


# OCSF.


def test_every_action_has_an_ocsf_class() -> None:
    missing = [action for action in get_args(Action) if action not in ocsf.KINDS]
    assert missing == [], f"Add these actions to KINDS in app/audit/ocsf.py: {missing}"


@cache
def validator(version: str, class_uid: int, *profiles: str) -> Draft202012Validator:
    """The definitions of a class, as the schema's project has published them."""
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=version))
    name = schema.lookup_class_name_from_uid(class_uid)
    return Draft202012Validator(schema.get_class_schema(name, profiles=list(profiles)))


def faults(event: dict[str, Any]) -> list[str]:
    """Faults of an event, by the version that it names and by a later one."""
    found = []
    for version in (ocsf.VERSION, "1.8.0"):
        each = validator(version, event["class_uid"], *event["metadata"]["profiles"]).iter_errors(event)
        found += [f"{version} {event['message']} {error.json_path}: {error.message}" for error in each]
    return found


KEY, PROJECT, THREAD, TURN = (ids.new_id(5) for _ in range(4))


@pytest.mark.parametrize("action", [*get_args(Action), "an action.of tomorrow"])
def test_events_of_every_action_conform_to_the_published_schema(action: Any) -> None:
    for named, thread, detail in (
        (True, THREAD, "failed"), (True, PROJECT, f"key_{KEY.hex} a name"), (False, PROJECT, None), (False, THREAD, "x")
    ):  # fmt: skip
        row: StreamRow = {
            "position": 7, "project_id": PROJECT, "bucket": 5, "chain_id": thread, "seq": 3,
            "at": datetime(2026, 11, 30, 1, 2, 3, 456789, UTC), "action": action,
            "turn_id": TURN if named and thread == THREAD else None, "key_id": KEY if named else None,
            "user_digest": bytes(16) if named else None, "address_digest": bytes(16) if named else None,
            "detail": detail, "content": bytes(32) if named else None, "previous": bytes(32), "hash": bytes(32),
            "version": 2,
        }  # fmt: skip
        event = ocsf.event(row)
        assert faults(event) == []
        assert (event["time"], event["metadata"]["sequence"]) == (1796000523456, 7)
        assert event["metadata"]["uid"] == ids.record_id(thread, 3)
        # A person's key has the person's name.
        assert not (action.startswith("key.") and "a name" in json.dumps(event))


def test_a_fault_in_an_event_is_found(project: Project) -> None:
    event = pulled(project.http, format="ocsf")[0]
    assert faults(event) == []
    for broken in (
        {name: value for name, value in event.items() if name != "type_uid"},
        {**event, "activity_id": 77},
        {**event, "nothing_of_ocsf": 1},
    ):
        assert faults(broken) != []


def test_a_projects_own_events_conform_and_name_key_turn_thread_and_user(project: Project) -> None:
    thread = project.call("POST", "/threads", json={"user": "ann"})["id"]
    turn = project.call("POST", f"/threads/{thread}/turns", json={"input": "Hello!"})["id"]
    webhook = project.call("POST", "/webhooks", json={"url": "https://nobody.example/x"})["id"]
    project.call("DELETE", f"/threads/{thread}")
    project.call("DELETE", "/users/ann/data")
    records = everything(project.http)
    events = pulled(project.http, limit=len(records), format="ocsf")
    assert [fault for event in events for fault in faults(event)] == []
    assert [event["metadata"]["sequence"] for event in events] == [record["position"] for record in records]
    by_action = {event["api"]["operation"]: event for event in events if event["class_uid"] == 6003}
    closed = by_action["turn.closed"]
    record = next(record for record in records if record["action"] == "turn.closed")
    owner = {"owner": {"uid": record["actor"]["user"]}}
    assert closed["resources"] == [
        {"uid": turn, "type": "turn", **owner}, {"uid": thread, "type": "thread", **owner}
    ]  # fmt: skip
    assert closed["actor"] == {"user": dict.fromkeys(("uid", "credential_uid"), record["actor"]["key"])}
    assert closed["src_endpoint"] == {"uid": record["actor"]["address"]}
    assert closed["unmapped"] == {name: record[name] for name in ("seq", "previous", "hash", "content", "version")}
    assert (closed["activity_name"], by_action["thread.deleted"]["activity_name"]) == ("Update", "Delete")
    made = next(event for event in events if event["message"] == "webhook.created")
    assert made["entity"] == {"uid": webhook, "type": "webhook"}

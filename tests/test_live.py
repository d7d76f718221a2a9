"""GET /v1/events: the threads of a user or a project as one stream that can always be taken up again."""

import asyncio
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import psutil
import pytest

from app.db import ids
from tests.service import Emulator, Service, eventually, free_port
from tests.streams import Stream
from tests.tenants import Tenant
from tests.wire import Proxy


@pytest.fixture
def tenant(service: Service, emulator: Emulator) -> Tenant:
    return Tenant(service)


def token_of(tenant: Tenant, user: str, **fields: Any) -> str:
    answer = tenant.http.post("/user_tokens", json={"user": user, **fields})
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


def thread_of(tenant: Tenant, user: str | None = None, **fields: Any) -> str:
    thread: str = tenant.http.post("/threads", json={"user": user, **fields}).raise_for_status().json()["id"]
    return thread


@contextmanager
def following(tenant: Tenant, *keys: str, **how: Any) -> Iterator[list[Stream]]:
    """Streams that have had their snapshot."""
    streams = [Stream(tenant.service, "/events", key, **how) for key in keys]
    try:
        for stream in streams:
            assert stream.status == 200, stream.error
            if "after" not in how:
                stream.is_told("snapshot")
        yield streams
    finally:
        for stream in streams:
            stream.leave()


def test_a_list_follows_everything_that_happens_to_its_threads(tenant: Tenant) -> None:
    old = thread_of(tenant, "ann", title="Old")
    with following(tenant, tenant.key, token_of(tenant, "ann")) as streams:
        for stream in streams:
            snapshot = stream.events[0]
            assert [thread["id"] for thread in snapshot["threads"]] == [old]
            assert (snapshot["has_more"], snapshot["running"]) == (False, [])
            assert stream.ids[0]
        new = thread_of(tenant, "ann", title="New")
        turn = tenant.turn(new, "Echo: good day")
        for change in ({"title": "Newer"}, {"archived": True}, {"metadata": {"a": "b"}}):
            tenant.http.patch(f"/threads/{new}", json=change).raise_for_status()
        for stream in streams:
            assert stream.is_told("thread.created", new)["thread"]["user"] == "ann"
            assert stream.is_told("thread.turn.created", new)["turn_id"] == turn["id"]
            assert stream.is_told("thread.turn.finished", new)["status"] == "completed"
            eventually(lambda stream=stream: stream.events[-1].get("thread", {}).get("metadata") == {"a": "b"})  # type: ignore[misc]
            shown = stream.events[-1]["thread"]
            assert (shown["title"], shown["archived"], shown["head_id"]) == ("Newer", True, turn["id"])
            assert shown["last_message"]["text"] == "good day"
        tenant.http.delete(f"/threads/{new}").raise_for_status()
        for stream in streams:
            assert stream.is_told("thread.deleted", new) == {"type": "thread.deleted", "thread_id": new}
            assert stream.told(old) == []
            assert all(stream.ids)


def test_a_snapshot_names_running_turns_and_is_bounded(tenant: Tenant, emulator: Emulator) -> None:
    for number in range(51):
        thread = thread_of(tenant, "ann", title=str(number))
    emulator.fault("slow", seconds=60)
    turn = tenant.http.post(f"/threads/{thread}/turns", json={"input": "x", "background": True}).json()["id"]
    with following(tenant, token_of(tenant, "ann"), token_of(tenant, "bob")) as (ann, bob):
        assert [each["title"] for each in ann.events[0]["threads"]] == [str(number) for number in range(50, 0, -1)]
        assert ann.events[0]["has_more"] is True
        assert ann.events[0]["running"] == [{"thread_id": thread, "turn_id": turn}]
        assert (bob.events[0]["threads"], bob.events[0]["running"]) == ([], [])
        tenant.http.post(f"/threads/{thread}/turns/{turn}/cancel").raise_for_status()
        assert ann.is_told("thread.turn.finished", thread)["status"] == "cancelled"


def test_a_stream_is_told_of_no_other_users_or_projects_threads(tenant: Tenant) -> None:
    other = Tenant(tenant.service)
    mine, beside = thread_of(tenant, "ann"), thread_of(tenant, "ann")
    only = token_of(tenant, "ann", thread=mine)
    with (
        following(tenant, token_of(tenant, "ann"), only) as (ann, bound),
        following(tenant, tenant.key, user="ann") as (filtered,),
    ):
        assert [thread["id"] for thread in bound.events[0]["threads"]] == [mine]
        theirs = [thread_of(tenant, "bob"), thread_of(tenant), thread_of(other, "ann")]
        for place, thread in zip((tenant, tenant, other), theirs, strict=True):
            place.turn(thread, "Echo: a secret")
            place.http.patch(f"/threads/{thread}", json={"title": "secret"})
            place.http.delete(f"/threads/{thread}").raise_for_status()
        tenant.http.patch(f"/threads/{beside}", json={"title": "Beside"})
        tenant.http.patch(f"/threads/{mine}", json={"title": "Mine"})
        for stream in (ann, bound, filtered):
            stream.is_told("thread.updated", mine)
        assert bound.told(beside) == []
        for stream in (ann, filtered):
            assert stream.told(beside) == ["thread.updated"]
        for stream in (ann, bound, filtered):
            said = str(stream.events)
            assert "secret" not in said
            assert not any(thread in said for thread in theirs)
    for params in ({"user": "bob"}, {"user": ""}):
        assert Stream(tenant.service, "/events", token_of(tenant, "ann"), **params).status in (400, 403)
    write_only = tenant.http.post(f"/admin/projects/{tenant.id}/keys", json={"name": "w", "scopes": ["write"]}).json()
    refused = Stream(tenant.service, "/events", write_only["key"])
    assert (refused.status, refused.error["code"]) == (403, "missing_scope")
    assert Stream(tenant.service, "/events").status == 401


def test_a_thread_that_goes_to_another_user_is_gone_for_the_first(tenant: Tenant) -> None:
    thread = thread_of(tenant, "ann")
    thread_of(tenant, "bob")
    with following(tenant, token_of(tenant, "ann"), token_of(tenant, "bob"), token_of(tenant, "cid")) as streams:
        ann, bob, cid = streams
        tenant.http.patch(f"/threads/{thread}", json={"user": "bob"}).raise_for_status()
        tenant.http.patch(f"/threads/{thread}", json={"title": "Bob's secret"}).raise_for_status()
        bob.is_told("thread.updated", thread)
        ann.is_told("thread.deleted", thread)
        tenant.http.delete(f"/threads/{thread}").raise_for_status()
        bob.is_told("thread.deleted", thread)
        mark = thread_of(tenant, "cid")
        cid.is_told("thread.created", mark)
        assert "secret" not in str(ann.events)
        assert ann.told(thread) == ["thread.deleted"]
        assert cid.told(thread) == []


def test_a_users_first_thread_that_is_gone_at_once_is_told(tenant: Tenant) -> None:
    users = [f"new-{number}" for number in range(6)]  # The trail has named none of them when they connect.
    with following(tenant, *(token_of(tenant, user) for user in users)) as streams:
        for number, (user, stream) in enumerate(zip(users, streams, strict=True)):
            thread = thread_of(tenant, user)
            if number % 2:
                tenant.http.delete(f"/threads/{thread}").raise_for_status()
            else:
                tenant.http.patch(f"/threads/{thread}", json={"user": "other"}).raise_for_status()
            stream.is_told("thread.deleted", thread)
            assert thread not in [
                event.get("thread_id") for other in streams if other is not stream for event in other.events
            ]


def test_a_stream_is_taken_up_again_where_it_was_left(tenant: Tenant, redis_url: str) -> None:
    thread, gone = thread_of(tenant, "ann"), thread_of(tenant, "ann")
    token = token_of(tenant, "ann")
    with following(tenant, token) as (first,):
        place = first.ids[0]  # An idle stream has one, too.
    turn = tenant.turn(thread, "Echo: missed")["id"]
    tenant.http.delete(f"/threads/{gone}").raise_for_status()
    thread_of(tenant, "bob")
    with following(tenant, token, after=place) as (again,):
        again.is_told("thread.deleted", gone)
        assert again.told(thread) == ["thread.turn.created", "thread.turn.finished", "thread.updated"]
        assert again.is_told("thread.turn.created")["turn_id"] == turn
        assert {event.get("thread_id") for event in again.events} == {thread, gone}
        # From each place in between, the rest follows, by the header or the parameter of an EventSource.
        for number, id_ in enumerate(again.ids[:-1]):
            with following(tenant, token, after="0", last_event_id=id_) as (zero,):
                zero.is_told("snapshot")  # The header goes before the parameter, and is too old.
            rest = Stream(tenant.service, "/events", token, last_event_id=id_)
            rest.is_told("thread.deleted", gone)
            kinds = [event["type"] for event in again.events[number + 1 :]]
            assert [event["type"] for event in rest.events][-len(kinds) :] == kinds
            rest.leave()
    for wrong in ("x", "-1", "1.2", "1" * 18, f"1.{'0' * 32}", f"1.{'g' * 32}.1", "1;2"):
        refused = Stream(tenant.service, "/events", token, after=wrong)
        assert (refused.status, refused.error["param"]) == (400, "Last-Event-ID")


def micros(moment: datetime) -> str:
    return str(round(moment.timestamp() * 1e6))


def test_a_place_that_is_too_far_back_gets_a_new_snapshot(tenant: Tenant, database_url: str) -> None:
    thread, now = thread_of(tenant, "ann"), datetime.now(UTC)
    token = token_of(tenant, "ann")
    for place in (micros(now - timedelta(hours=25)), micros(now + timedelta(hours=1))):
        with following(tenant, token, after=place) as (stream,):
            assert [each["id"] for each in stream.is_told("snapshot")["threads"]] == [thread]
    with following(tenant, token) as (stream,):
        place = stream.ids[0]
    append(database_url, tenant, thread, APPEND, 1001)
    with following(tenant, token, after=place) as (stream,):
        assert [each["id"] for each in stream.is_told("snapshot")["threads"]] == [thread]
    # A user without a key in the trail cannot be told of deletions.
    with following(tenant, token_of(tenant, "nobody"), after=micros(datetime.now(UTC))) as (stream,):
        assert stream.is_told("snapshot")["threads"] == []


APPEND = """SELECT append_records_v2(
    $1, bucket_of($2), $2, NULL, NULL, NULL, array_agg('thread.changed'::text), array_agg(NULL::uuid),
    array_agg('title'::text), array_agg(NULL::bytea)
) FROM generate_series(1, $3::int)"""


APPEND_TWO = """SELECT append_records_v2(
    $1, bucket_of($2), $2, NULL, NULL, NULL, '{thread.changed,turn.opened}', ARRAY[NULL, NULL]::uuid[],
    ARRAY['title', NULL], ARRAY[NULL, NULL]::bytea[]
)"""


def append(database_url: str, tenant: Tenant, thread: str, statement: str, *arguments: Any) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(database_url)
        of_thread = UUID(tenant.id.partition("_")[2]), ids.parse(thread, ("thread",))
        await connection.execute(statement, *of_thread, *arguments)
        await connection.close()

    asyncio.run(run())


async def test_a_commit_that_comes_late_is_neither_skipped_nor_holds_others_up(
    tenant: Tenant, database_url: str
) -> None:
    late, early = thread_of(tenant, "ann"), thread_of(tenant, "ann")
    token = token_of(tenant, "ann")
    connection = await asyncpg.connect(database_url)
    with following(tenant, token) as (stream,):
        async with connection.transaction():
            await connection.execute(APPEND, UUID(tenant.id.partition("_")[2]), ids.parse(late, ("thread",)), 1)
            await asyncio.to_thread(tenant.http.patch, f"/threads/{early}", json={"title": "Early"})
            await asyncio.to_thread(stream.is_told, "thread.updated", early)
            place = stream.ids[-1]
            assert stream.told(late) == []
        await asyncio.to_thread(stream.is_told, "thread.updated", late)
    await connection.close()
    with following(tenant, token, after=place) as (again,):
        await asyncio.to_thread(again.is_told, "thread.updated", late)


def test_changes_that_are_read_together_are_all_told(tenant: Tenant, database_url: str) -> None:
    thread = thread_of(tenant, "ann")
    with following(tenant, token_of(tenant, "ann")) as (stream,):
        append(database_url, tenant, thread, APPEND_TWO)  # In one transaction.
        stream.is_told("thread.turn.created", thread)
        assert stream.told(thread) == ["thread.updated", "thread.turn.created"]


def test_the_purge_of_a_user_is_told_by_ids_alone(tenant: Tenant) -> None:
    thread = thread_of(tenant, "ann", title="Private")
    token = token_of(tenant, "ann")
    with following(tenant, token, tenant.key) as streams:
        place = streams[0].ids[0]
        purge = tenant.http.delete("/users/ann/data").raise_for_status().json()["id"]
        for stream in streams:
            assert stream.is_told("thread.deleted", thread) == {"type": "thread.deleted", "thread_id": thread}
    eventually(lambda: tenant.http.get(f"/purges/{purge}").json()["status"] == "completed")
    # The user comes back with another name in the trail; the former leads to no user.
    new = thread_of(tenant, "ann")
    with following(tenant, token, after=place) as (again,):
        assert [each["id"] for each in again.is_told("snapshot")["threads"]] == [new]


def listed_by(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the threads that a client shows which has read nothing but these events."""
    shown: dict[str, Any] = {}
    for event in events:
        if event["type"] == "snapshot":
            shown = {thread["id"]: thread for thread in event["threads"]}
        elif event["type"] == "thread.deleted":
            shown.pop(event["thread_id"], None)
        elif "thread" in event:
            shown[event["thread_id"]] = event["thread"]
    return shown


def test_snapshot_and_events_are_the_list_while_several_change_it(tenant: Tenant) -> None:
    def change(seed: int) -> None:
        chance, mine = random.Random(seed), [thread_of(tenant, "ann")]
        for number in range(25):
            path = f"/threads/{chance.choice(mine)}"
            match chance.randrange(6):
                case 0:
                    mine.append(thread_of(tenant, chance.choice(["ann", "bob"])))
                case 1 if len(mine) > 1:
                    tenant.http.delete(path).raise_for_status()
                    mine.remove(path.removeprefix("/threads/"))
                case 2:
                    tenant.http.post(f"{path}/turns", json={"input": "Echo: hi"}).raise_for_status()
                case 3:
                    user = chance.choice(["ann", "bob"])
                    tenant.http.patch(path, json={"user": user}).raise_for_status()
                case _:
                    tenant.http.patch(path, json={"title": f"{seed}, {number}"}).raise_for_status()

    users = {token_of(tenant, "ann"): "ann", token_of(tenant, "bob"): "bob", tenant.key: None}
    told: dict[str, list[dict[str, Any]]] = {key: [] for key in users}
    places: dict[str, str | None] = dict.fromkeys(users)
    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(change, seed) for seed in range(3)]
        while not all(each.done() for each in writing):
            # Each connection begins where the one before it was left.
            for key in users:
                stream = Stream(tenant.service, "/events", key, after=places[key])
                eventually(lambda stream=stream: stream.events or all(each.done() for each in writing))  # type: ignore[misc]
                stream.leave()
                told[key] += stream.events
                places[key] = stream.ids[-1] if stream.ids else places[key]
        for each in writing:
            each.result()
    for key, user in users.items():
        last = Stream(tenant.service, "/events", key, after=places[key])
        wanted = tenant.http.get("/threads", params={"limit": 100, **({"user": user} if user else {})}).json()["data"]
        shown = {thread["id"]: thread for thread in wanted}
        eventually(lambda last=last, key=key, shown=shown: listed_by(told[key] + list(last.events)) == shown, 30)  # type: ignore[misc]
        last.leave()


def test_streams_that_all_begin_at_once_hold_up_no_other_request(tenant: Tenant) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: thread_of(tenant, "ann"), range(50)))
    head = f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token_of(tenant, 'ann')}\r\n\r\n"
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", tenant.service.port), 60)) for _ in range(300)
        ]
        for each in sockets:
            each.sendall(head.encode())
        assert {each.recv(1) for each in sockets} == {b"H"}
        assert tenant.http.get("/threads", params={"limit": 1}).status_code == 200
        begun = 0
        for each in sockets:
            each.setblocking(False)
            with suppress(BlockingIOError):
                begun += b"event: snapshot" in each.recv(65536)
        assert begun < 200, begun


def test_connection_whose_client_reads_nothing_ends_with_its_token(tenant: Tenant) -> None:
    thread = thread_of(tenant, "ann")
    turn = tenant.turn(thread, "Echo: " + "word " * 180_000)["id"]
    token = token_of(tenant, "ann")
    head = f"GET /v1/threads/{thread}/turns/{turn}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    with socket.socket() as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        unread.connect(("127.0.0.1", tenant.service.port))
        unread.sendall(head.encode())
        place = unread.getsockname()

        def is_open() -> bool:
            return any(each.raddr == place and each.status == "ESTABLISHED" for each in psutil.net_connections("tcp"))

        assert unread.recv(1) == b"H"
        assert is_open()
        tenant.http.post("/user_tokens/revoke", json={"user": "ann"}).raise_for_status()
        eventually(lambda: not is_open(), 40)


def test_a_stream_ends_with_its_key(tenant: Tenant) -> None:
    made = tenant.http.post(f"/admin/projects/{tenant.id}/keys", json={"name": "k"}).json()
    with following(tenant, made["key"]) as (stream,):
        tenant.http.delete(f"/admin/projects/{tenant.id}/keys/{made['id']}").raise_for_status()
        error = stream.is_told("error")
        assert (error["code"], error["last_event_id"]) == ("credential_revoked", stream.ids[-1])


def test_a_running_turn_is_read_with_its_output_so_far_and_resumed_behind_it(
    tenant: Tenant, emulator: Emulator, service_env: dict[str, str]
) -> None:
    thread = tenant.thread()
    path = f"/threads/{thread}/turns"
    emulator.fault("slow", seconds_per_event=0.3)
    words = "one two three four five six seven eight nine ten"
    asking = threading.Thread(
        target=tenant.http.post, args=(path,), kwargs={"json": {"input": f"Echo: {words}", "stream": True}}
    )
    asking.start()
    emulator.is_asked()
    turn = tenant.http.get(path).json()["data"][0]["id"]
    seen: dict[str, Any] = {}

    def speaks() -> bool:
        seen.update(tenant.http.get(f"{path}/{turn}").json())
        return bool(seen["output_text"])

    eventually(speaks)
    assert words.startswith(seen["output_text"])
    assert (seen["status"], seen["output"][0]["content"][0]["text"]) == ("in_progress", seen["output_text"])
    rest = Stream(tenant.service, f"{path}/{turn}/events", tenant.key, starting_after=str(seen["sequence_number"]))
    rest.is_told("response.completed")
    deltas = "".join(each["delta"] for each in rest.events if each["type"] == "response.output_text.delta")
    assert seen["output_text"] + deltas == words
    asking.join()
    ended = tenant.http.get(f"{path}/{turn}").json()
    assert "sequence_number" not in ended


def test_a_threads_stream_begins_with_a_snapshot_and_names_deleted_turns(tenant: Tenant) -> None:
    thread = thread_of(tenant, title="A talk")
    turns = [tenant.turn(thread, f"Echo: {number}")["id"] for number in range(3)]
    stream = Stream(tenant.service, f"/threads/{thread}/events", tenant.key)
    snapshot = stream.is_told("snapshot", thread)
    assert (snapshot["thread"]["title"], snapshot["running"]) == ("A talk", [])
    place = stream.ids[0]
    tenant.http.delete(f"/responses/{turns[0].replace('turn_', 'resp_')}").raise_for_status()
    assert stream.is_told("thread.turn.deleted", thread)["turn_id"] == turns[0]
    stream.leave()
    tenant.http.delete(f"/responses/{turns[1].replace('turn_', 'resp_')}").raise_for_status()
    for after, told in ((place, turns[:2]), (stream.ids[-1], turns[1:2])):
        again = Stream(tenant.service, f"/threads/{thread}/events", tenant.key, last_event_id=after)
        again.is_told("thread.turn.deleted", thread, len(told))
        deleted = [each["turn_id"] for each in again.events if each["type"] == "thread.turn.deleted"]
        assert deleted == told
        again.leave()


CONNECTIONS = (10, 1000)
ROUNDS = 6


async def test_idle_streams_cost_postgres_nothing_that_grows_with_them(fresh_env: dict[str, str]) -> None:
    """Without Redis, too: nothing of a stream is kept there."""
    proxy = Proxy(fresh_env["DATABASE_URL"])
    service = Service(env={**fresh_env, "DATABASE_URL": proxy.url, "REDIS_URL": f"redis://127.0.0.1:{free_port()}"})
    writers: list[asyncio.StreamWriter] = []
    try:
        users = [f"user-{number}" for number in range(50)]
        places: list[tuple[str, str]] = []
        for user in users:
            key = service.http.post("/user_tokens", json={"user": user}).json()["token"]
            places += [("/events", key), (f"/threads/{service.thread(user=user)}/events", key)]
        per_round: list[float] = []
        for count in CONNECTIONS:
            while len(writers) < count:
                some = [places[number % len(places)] for number in range(len(writers), min(count, len(writers) + 50))]
                writers += await asyncio.gather(*(connected(service, path, key) for path, key in some))
            before, rounds = len(proxy.executed), rounds_of(proxy)
            await asyncio.to_thread(eventually, lambda rounds=rounds: rounds_of(proxy) >= rounds + ROUNDS, 60)  # type: ignore[misc]
            per_round.append((len(proxy.executed) - before) / (rounds_of(proxy) - rounds))
        assert max(per_round) < 2 * per_round[0] + 5, per_round
        stream = Stream(service, places[0][0], places[0][1])
        stream.is_told("snapshot")
        thread = stream.events[0]["threads"][0]["id"]
        service.http.patch(f"/threads/{thread}", json={"title": "Told without Redis"}).raise_for_status()
        assert stream.is_told("thread.updated", thread)["thread"]["title"] == "Told without Redis"
        stream.leave()
    finally:
        for writer in writers:
            writer.close()
        service.stop()


def rounds_of(proxy: Proxy) -> int:
    """Return how often the trail was read for streams."""
    return sum("pg_stat_activity" in statement for statement in proxy.executed)


async def connected(service: Service, path: str, key: str) -> asyncio.StreamWriter:
    """Open a stream, and read its snapshot."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(f"GET /v1{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
    await reader.readuntil(b"event: snapshot")
    return writer

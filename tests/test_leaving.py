"""Listeners end within five seconds of the end of their credential, and say where to resume."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from app.commands.terminal import cut_off
from app.projects.credential_watch import CHECK_SECONDS
from tests.postgres_pair import run_sql
from tests.service import Emulator, Process, Service, eventually
from tests.tenants import Tenant
from tests.wire import Proxy

SECONDS = 5.0
"""The longest time that a listener outlives its credential."""

TOKEN_SECONDS = 3
WORDS = "Echo: " + " ".join(f"word{number}" for number in range(40))

STREAMS = {
    "events_follow": "/events",
    "threads_life": "/threads/{thread}/events",
    "events_follow_now": "/now/events",
    "turns_events": "/threads/{thread}/turns/{turn}/events",
    "responses_retrieve": "/responses/{response}?stream=true",
    "history_play": "/threads/{thread}/replay?speed=0.0001&longest_pause=60",
}
"""Routes that answer a GET with a stream of events."""

FOR_USERS = ("events_follow", "threads_life", "turns_events", "responses_retrieve")


class Listener:
    """Somebody who reads a stream to its end."""

    def __init__(self, url: str, bearer: str | None, *, json: Any = None, **how: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.status: int | None = None
        self.body = b""
        self.ended_at: float | None = None
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        self._asked = ("GET" if json is None else "POST", url, {"headers": headers, "json": json, **how})
        self.open = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        method, url, how = self._asked
        with httpx2.Client(timeout=60) as client, client.stream(method, url, **how) as answer:
            self.status = answer.status_code
            self.open.set()
            if answer.status_code != 200:
                self.body = answer.read()
            for line in answer.iter_lines() if answer.status_code == 200 else ():
                if line.startswith("id: "):
                    self.ids.append(line[4:])
                elif line.startswith("data: ") and line != "data: [DONE]":
                    self.events.append(json.loads(line[6:]))
        self.ended_at = time.monotonic()
        self.open.set()

    def ends_within(self, moment: float, seconds: float = SECONDS) -> None:
        self._thread.join(max(0.1, moment + seconds + 20 - time.monotonic()))
        assert self.ended_at is not None, "it is still open"
        assert self.ended_at - moment < seconds, self.ended_at - moment

    def said(self) -> str:
        return "".join(event["delta"] for event in self.events if event.get("type") == "response.output_text.delta")


@pytest.fixture(scope="module")
def two(service_env: dict[str, str]) -> Iterator[tuple[Service, Service]]:
    """Two workers of one database."""
    env = {**service_env, "EVERTHREAD_PROVIDER_STALL_SECONDS": "20"}
    workers = Service(env=env), Service(env=env)
    yield workers
    assert [worker.stop() for worker in workers] == [0, 0]


@pytest.fixture
def tenant(two: tuple[Service, Service], emulator: Emulator) -> Tenant:
    return Tenant(two[0])


def key_of(tenant: Tenant, **fields: Any) -> tuple[str, str]:
    """Another key of the project: its id, and itself."""
    made = tenant.http.post(f"/admin/projects/{tenant.id}/keys", json={"name": "another", **fields})
    assert made.status_code == 201, made.text
    return made.json()["id"], made.json()["key"]


def revoke(tenant: Tenant, key_id: str) -> None:
    assert tenant.http.delete(f"/admin/projects/{tenant.id}/keys/{key_id}").status_code == 200


def token_of(tenant: Tenant, key: str, **fields: Any) -> str:
    headers = {"Authorization": f"Bearer {key}"}
    sent = {"user": "ann", "expires_in": 600, **fields}
    answer = httpx2.post(f"{tenant.service.url}/v1/user_tokens", json=sent, headers=headers)
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


def slow_turn(tenant: Tenant, emulator: Emulator, seconds_per_event: float = 0.3) -> tuple[str, str]:
    """A thread in which something was said, and a turn of it that speaks for 28 events."""
    thread = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
    tenant.turn(thread, "Echo: before")
    emulator.fault("slow", seconds_per_event=seconds_per_event)
    begun = tenant.http.post(
        f"/threads/{thread}/turns", json={"input": WORDS, "background": True, "stream": False}
    ).json()
    return thread, begun["id"]


def paths(thread: str, turn: str) -> dict[str, str]:
    named = {"thread": thread, "turn": turn, "response": turn.replace("turn_", "resp_")}
    return {name: path.format(**named) for name, path in STREAMS.items()}


@pytest.mark.parametrize(
    "end",
    [
        "expired token",
        "revoked user",
        "revoked key",
        *(pytest.param(end, marks=pytest.mark.long) for end in ("expired key", "minting key", "archived project")),
    ],
)
def test_every_stream_ends_with_what_it_was_opened_with_and_the_turn_runs_on(
    tenant: Tenant, two: tuple[Service, Service], emulator: Emulator, end: str
) -> None:
    of_user = end in ("expired token", "revoked user", "minting key")
    names = [name for name in STREAMS if name in FOR_USERS or not of_user]
    url = f"{tenant.service.url}/v1"
    for times in (1, 4):
        thread, turn = slow_turn(tenant, emulator, 0.3 * times)
        life = {"expires_in": TOKEN_SECONDS * times}
        key_id, bearer = key_of(tenant, **(life if end == "expired key" else {}))
        if of_user:
            bearer = token_of(tenant, bearer, **(life if end == "expired token" else {}))
        moment = time.monotonic() + TOKEN_SECONDS * times
        # Each twice in each worker.
        listeners = [
            (name, Listener(f"{worker.url}/v1" + paths(thread, turn)[name], bearer))
            for name in names
            for worker in two * 2
        ]
        assert all(listener.open.wait(10) for _, listener in listeners)
        if time.monotonic() < moment:
            break  # Else this machine takes longer to open them than the credential lives.
    assert all(listener.status == 200 for _, listener in listeners)
    of_bearer = {"Authorization": f"Bearer {bearer}"}
    wire = None if of_user else connect(f"{url.replace('http', 'ws')}/responses", additional_headers=of_bearer)
    if end in ("revoked key", "minting key"):
        revoke(tenant, key_id)
        moment = time.monotonic()
    elif end == "revoked user":
        assert tenant.http.post("/user_tokens/revoke", json={"user": "ann"}).status_code == 200
        moment = time.monotonic()
        for worker in two:
            threads = f"{worker.url}/v1/threads"
            eventually(lambda url=threads: httpx2.get(url, headers=of_bearer).status_code == 401)  # type: ignore[misc]
    elif end == "archived project":
        tenant.settings(archived=True)
        moment = time.monotonic()
    code = {
        "expired token": "credential_expired", "expired key": "credential_expired",
        "archived project": "project_archived",
    }.get(end, "credential_revoked")  # fmt: skip
    if wire is not None:
        error = json.loads(wire.recv(timeout=20))
        assert time.monotonic() - moment < SECONDS
        assert (error["type"], error["status"], error["error"]["code"]) == ("error", 401, code)
        with pytest.raises(ConnectionClosed):
            wire.recv(timeout=10)
    for name, listener in listeners:
        listener.ends_within(moment)
        last = listener.events[-1]
        assert (last["type"], last["code"], last["param"]) == ("error", code, None), name
        if name in ("turns_events", "responses_retrieve"):
            assert last["sequence_number"] == last["starting_after"] == int(listener.ids[-1])
        elif name in ("events_follow", "threads_life"):
            # On a busy machine a credential can end before the first event.
            assert last.get("last_event_id") == (listener.ids[-1] if listener.ids else None)
    if end == "archived project":
        tenant.settings(archived=False)
        eventually(lambda: tenant.http.get("/project").status_code == 200)
    eventually(lambda: tenant.http.get(f"/threads/{thread}/turns/{turn}").json()["status"] == "completed", seconds=60)
    # A client that resumes with a valid key misses nothing.
    for name, listener in listeners[::4]:
        if name in ("turns_events", "responses_retrieve"):
            params = {"starting_after": listener.ids[-1], "stream": "true"}
            again = Listener(url + paths(thread, turn)[name].partition("?")[0], tenant.key, params=params)
            again.ends_within(time.monotonic(), 30)
            assert listener.said() + again.said() == WORDS.removeprefix("Echo: ")


def test_new_messages_are_not_shown_to_who_had_a_token(tenant: Tenant, emulator: Emulator) -> None:
    thread = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
    url = f"{tenant.service.url}/v1/threads/{thread}/events"
    listener = Listener(url, token_of(tenant, tenant.key, expires_in=TOKEN_SECONDS))
    moment = time.monotonic() + TOKEN_SECONDS
    listener.ends_within(moment)
    tenant.turn(thread, "Echo: a secret of later")
    assert "secret" not in json.dumps(listener.events)
    assert listener.events[-1]["code"] == "credential_expired"


def test_a_thread_that_went_to_another_user_is_not_listened_to_any_more(
    tenant: Tenant, two: tuple[Service, Service], emulator: Emulator
) -> None:
    thread, turn = slow_turn(tenant, emulator)
    url, token = f"{tenant.service.url}/v1", token_of(tenant, tenant.key)
    places = paths(thread, turn)
    listeners = [Listener(f"{worker.url}/v1" + places[name], token) for name in FOR_USERS[1:] for worker in two]
    own = Listener(url + places["turns_events"], tenant.key)
    assert all(listener.open.wait(10) and listener.status == 200 for listener in (*listeners, own))
    assert tenant.http.patch(f"/threads/{thread}", json={"user": "bob"}).status_code == 200
    moment = time.monotonic()
    for listener in listeners:
        listener.ends_within(moment)
        assert (listener.events[-1]["type"], listener.events[-1]["code"]) == ("error", "thread_not_found")
    own.ends_within(time.monotonic(), 60)
    assert own.events[-1]["type"] == "response.completed"


@pytest.mark.parametrize("path", ["/threads/{thread}/turns", pytest.param("/responses", marks=pytest.mark.long)])
def test_an_admitted_answer_outlasts_the_expiry_of_its_token(tenant: Tenant, emulator: Emulator, path: str) -> None:
    thread = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
    emulator.fault("slow", seconds_per_event=0.31)
    token = token_of(tenant, tenant.key, expires_in=TOKEN_SECONDS)
    begun = time.monotonic()
    body = {"input": WORDS, "stream": True}
    listener = Listener(tenant.service.url + "/v1" + path.format(thread=thread), token, json=body)
    listener.ends_within(begun, 60)
    assert listener.ended_at is not None
    assert listener.ended_at - begun > TOKEN_SECONDS + SECONDS
    assert listener.events[-1]["type"] == "response.completed"
    assert listener.said() == WORDS.removeprefix("Echo: ")


@pytest.mark.parametrize(
    ("end", "stream"),
    [
        ("minting key", True),
        ("archived project", False),
        pytest.param("minting key", False, marks=pytest.mark.long),
        pytest.param("archived project", True, marks=pytest.mark.long),
    ],
)
def test_an_admitted_answer_ends_on_revocation_and_its_turn_is_stored(
    tenant: Tenant, emulator: Emulator, end: str, stream: bool
) -> None:
    thread = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
    emulator.fault("slow", seconds_per_event=0.3, seconds=8)
    key_id, key = key_of(tenant)
    url = f"{tenant.service.url}/v1/threads/{thread}/turns"
    listener = Listener(url, token_of(tenant, key), json={"input": WORDS, "stream": stream})
    emulator.is_asked()
    if stream:
        eventually(lambda: bool(listener.said()))
    revoke(tenant, key_id) if end == "minting key" else tenant.settings(archived=True)
    moment = time.monotonic()
    listener.ends_within(moment)
    code = "credential_revoked" if end == "minting key" else "project_archived"
    if stream:
        last = listener.events[-1]
        assert (last["type"], last["code"], last["starting_after"]) == ("error", code, int(listener.ids[-1]))
    else:
        assert (listener.status, json.loads(listener.body)["error"]["code"]) == (401, code)
    if end == "archived project":
        tenant.settings(archived=False)
        eventually(lambda: tenant.http.get("/project").status_code == 200)
    eventually(
        lambda: tenant.http.get(f"/threads/{thread}/turns").json()["data"][0]["status"] == "completed", seconds=60
    )
    (turn,) = tenant.http.get(f"/threads/{thread}/turns").json()["data"]
    assert turn["output_text"] == WORDS.removeprefix("Echo: ")


def test_a_response_on_a_socket_is_finished_after_expiry_and_cut_on_revocation(
    tenant: Tenant, emulator: Emulator
) -> None:
    place = f"{tenant.service.url.replace('http', 'ws')}/v1/responses"
    for revoked in (False, True):
        emulator.fault("slow", seconds_per_event=0.31)
        moment = time.monotonic()
        key_id, key = key_of(tenant, **({} if revoked else {"expires_in": TOKEN_SECONDS}))
        with connect(place, additional_headers={"Authorization": f"Bearer {key}"}, close_timeout=1) as wire:
            wire.send(json.dumps({"type": "response.create", "model": "qwen3.5-plus", "input": WORDS}))
            events = [json.loads(wire.recv(timeout=20)) for _ in range(6)]
            if revoked:
                revoke(tenant, key_id)
                moment = time.monotonic()
            with suppress(ConnectionClosed):
                while True:
                    events.append(json.loads(wire.recv(timeout=30)))
        error, seconds = events.pop(), time.monotonic() - moment
        if revoked:
            assert error["error"]["code"] == "credential_revoked"
            assert error["responses"] == [
                {"id": events[0]["response"]["id"], "sequence_number": events[-1]["sequence_number"]}
            ]
            assert seconds < SECONDS
        else:
            assert error["error"]["code"] == "credential_expired"
            assert events[-1]["type"] == "response.completed"
            assert seconds > TOKEN_SECONDS + SECONDS


def test_chat_completions_end_on_revocation(service_env: dict[str, str]) -> None:
    slow = Emulator(env={"EVERTHREAD_EMULATOR_DELTA_MILLISECONDS": "300"})
    service = Service(env={**service_env, "DASHSCOPE_BASE_URL": slow.base_url})
    try:
        tenant = Tenant(service)
        key_id, key = key_of(tenant)
        body = {"model": "qwen3.5-plus", "stream": True, "messages": [{"role": "user", "content": WORDS}]}
        listener = Listener(f"{tenant.service.url}/v1/chat/completions", key, json=body)
        eventually(lambda: len(listener.events) > 3)
        revoke(tenant, key_id)
        listener.ends_within(time.monotonic())
        assert listener.events[-1]["error"]["code"] == "credential_revoked"
    finally:
        service.stop()
        slow.stop()


@pytest.mark.parametrize("path", ["/chat/completions", "/responses/compact", "/threads/{thread}/compact"])
def test_a_plain_answer_ends_on_revocation_and_its_work_is_completed(
    tenant: Tenant, emulator: Emulator, path: str
) -> None:
    thread = tenant.thread()
    for word in ("one", "two"):
        tenant.turn(thread, f"My favourite is {word}.")

    def charged() -> int:
        found = tenant.http.get("/usage").json()["data"]
        return sum(row["chat_completions"] + row["compactions"] for row in found)

    key_id, key = key_of(tenant)
    messages = [{"role": "user", "content": "Ann lives in Paris. " * 20}]
    body: dict[str, Any] = {"model": "qwen3.5-plus", "messages": messages}
    if path == "/responses/compact":
        body = {"model": "qwen3.5-plus", "input": messages}
    elif path != "/chat/completions":
        body = {"keep_turns": 1}
    emulator.fault("slow", silent_seconds=8, seconds=0, chat=path == "/chat/completions")
    listener = Listener(tenant.service.url + "/v1" + path.format(thread=thread), key, json=body)

    def is_used() -> bool:
        found = tenant.http.get(f"/admin/projects/{tenant.id}/keys").json()["data"]
        return any(each["id"] == key_id and each["last_used_at"] is not None for each in found)

    eventually(is_used)
    revoke(tenant, key_id)
    listener.ends_within(time.monotonic())
    assert (listener.status, json.loads(listener.body)["error"]["code"]) == (401, "credential_revoked")
    eventually(lambda: charged() == 1, seconds=30)
    if path.startswith("/threads"):
        (made,) = tenant.http.get(f"/threads/{thread}/compactions").json()["data"]
        assert made["status"] == "ready"


def raw_export(tenant: Tenant, path: str, key: str) -> Iterator[bytes]:
    """The bytes of an export as a client reads them that is slow and has little room."""
    place = urlsplit(tenant.service.url)
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        wire.connect((place.hostname, place.port))
        wire.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        wire.settimeout(30)
        while chunk := wire.recv(60_000):
            yield chunk
            if b"\r\n0\r\n\r\n" in chunk[-7:]:
                return
            time.sleep(0.03)


EXPORTS = {
    "retention_export_user": "/v1/users/ann/data",
    "history_export_feedback": "/v1/feedback/export",
}


@pytest.mark.parametrize("path", EXPORTS.values())
def test_a_cut_export_says_so_in_its_last_line(tenant: Tenant, path: str, tmp_path: Path) -> None:
    text = "Much was said. " * 60_000
    for number in range(12):
        sent = {"user": "ann", "messages": [{"role": "user", "content": f"{number} {text}"}]}
        thread = tenant.http.post("/threads", json=sent).json()["id"]
        (turn,) = tenant.http.get(f"/threads/{thread}/turns").json()["data"]
        assert tenant.http.post(f"/threads/{thread}/turns/{turn['id']}/feedback", json={"score": 1}).status_code == 201
    key_id, key = key_of(tenant)
    body = b""
    for chunk in raw_export(tenant, path, key):
        if not body:
            revoke(tenant, key_id)
        body += chunk
    assert body.endswith(b"\r\n0\r\n\r\n")
    lines = [line for line in body.split(b"\n") if line.startswith(b"{")]
    assert len(lines) < 13
    last = json.loads(lines[-1])
    assert (last["object"], last["error"]["code"]) == ("error", "credential_revoked")
    assert cut_off(body[-4096:].removesuffix(b"\r\n0\r\n\r\n")) == last["error"]["message"]
    assert cut_off(lines[0] + b"\n") is None
    file = tmp_path / "cut.jsonl"
    file.write_bytes(lines[-1] + b"\n")
    imported = Process("import", str(file), "--key", tenant.key, "--url", tenant.service.url)
    assert imported.ended() == 1
    assert "the export was cut off there" in "\n".join(imported.lines)


def test_a_cut_export_of_the_trail_is_not_taken_for_a_whole_one(
    tenant: Tenant, service_env: dict[str, str], tmp_path: Path
) -> None:
    project_id = UUID(tenant.id.removeprefix("proj_"))
    many = "ARRAY(SELECT {} FROM generate_series(1, 20000))"
    run_sql(
        service_env["DATABASE_URL"],
        f"""SELECT append_records_v2(
            '{project_id}', bucket_of('{project_id}'), '{project_id}', NULL, NULL, NULL, {many.format("'key.used'")},
            {many.format("NULL::uuid")}, {many.format("repeat('x', 1500)")}, {many.format("NULL::bytea")}
        )""",
    )
    key_id, key = key_of(tenant, scopes=["read", "audit"])
    body = b""
    for chunk in raw_export(tenant, "/v1/audit/export", key):
        if not body:
            revoke(tenant, key_id)
        body += chunk
    lines = [line for line in body.split(b"\n") if line.startswith(b"{")]
    if body.endswith(b"\r\n0\r\n\r\n"):  # Else its last words came too late for who reads slowly.
        assert json.loads(lines[-1])["error"]["code"] == "credential_revoked"
    assert len(lines) < 20_000
    file = tmp_path / "cut.ndjson"
    file.write_bytes(b"\n".join(lines) + b"\n")
    verified = Process("audit", "verify", str(file))
    assert verified.ended() == 1


def test_every_route_that_streams_is_held_to_its_credential(service: Service) -> None:
    """A new stream or export has to stand in the lists above."""
    document = httpx2.get(f"{service.url}/openapi.json", timeout=60).json()
    found: set[str] = set()
    for path, item in document["paths"].items():
        for operation in item.values():
            for answer in operation["responses"].values():
                if {"text/event-stream", "application/x-ndjson"} & set(answer.get("content", {})):
                    found.add(operation["operationId"].removesuffix("_by_name"))
        assert path
    answers = {"turns_create", "responses_create", "chat_complete"}
    held = {name.replace("threads_life", "turns_life") for name in (*STREAMS, *EXPORTS)}
    assert found == held | answers | {"audit_export", "audit_export_thread", "audit_stream", "holds_export"}
    here = Path(__file__).parents[1] / "app"
    others = [str(each) for each in here.rglob("*.py") if "StreamingResponse" in each.read_text()]
    assert [each for each in others if "/emulator/" not in each] == []


def test_many_streams_of_one_key_are_one_look_up(fresh_env: dict[str, str], emulator: Emulator) -> None:
    proxy = Proxy(fresh_env["DATABASE_URL"])
    service = Service(env={**fresh_env, "DATABASE_URL": proxy.url})
    try:
        thread = service.http.post("/threads", json={"user": "ann"}).json()["id"]
        emulator.fault("slow", seconds_per_event=0.4)
        turn = service.http.post(f"/threads/{thread}/turns", json={"input": WORDS, "background": True}).json()["id"]
        tokens = [
            service.http.post("/user_tokens", json={"user": "ann", "expires_in": 60 + number}).json()["token"]
            for number in range(30)
        ]
        url = f"{service.url}/v1/threads/{thread}/turns/{turn}/events"
        listeners = [Listener(url, token) for token in tokens]
        assert all(listener.open.wait(10) and listener.status == 200 for listener in listeners)

        def asked(words: str) -> int:
            return sum(words in each for each in proxy.executed)

        looks = "'credential_revoked'", "SELECT id, user_id FROM threads"
        before = [asked(words) for words in looks]
        time.sleep(2 * CHECK_SECONDS)
        eventually(lambda: all(asked(words) > was for words, was in zip(looks, before, strict=True)))
        assert all(asked(words) - was <= 3 for words, was in zip(looks, before, strict=True))
    finally:
        service.stop()


def signed_in(service: Service, key: str) -> str:
    answer = httpx2.post(f"{service.url}/console/sign-in", data={"key": key})
    assert answer.status_code == 303
    return str(answer.cookies["everthread_console"])


def statuses(service: Service, path: str, times: int = 3, **how: Any) -> set[int]:
    return {httpx2.get(service.url + path, **how).status_code for _ in range(times)}


def test_signing_out_of_the_console_holds_at_once_on_every_worker(tenant: Tenant, two: tuple[Service, Service]) -> None:
    thread = tenant.thread()
    kept, ended = signed_in(tenant.service, tenant.key), signed_in(tenant.service, tenant.key)
    cookies = {"everthread_console": ended}
    for path in ("/console/threads", f"/console/threads/{thread}", "/console/usage", "/console/api/threads"):
        assert [statuses(worker, path, cookies=cookies) for worker in two] == [{200}] * 2, path
    listeners = [Listener(f"{each.url}/console/api/threads/{thread}/events", None, cookies=cookies) for each in two]
    assert all(listener.open.wait(10) and listener.status == 200 for listener in listeners)
    out = httpx2.post(f"{tenant.service.url}/console/sign-out", cookies=cookies)
    moment = time.monotonic()
    assert (out.status_code, out.headers["location"]) == (303, "/console/sign-in")
    for worker in two:
        assert statuses(worker, "/console/api/threads", cookies=cookies) == {401}
        assert statuses(worker, "/console/threads", cookies=cookies) == {303}
        assert statuses(worker, "/console/threads", cookies={"everthread_console": kept}) == {200}
    for listener in listeners:
        listener.ends_within(moment)
        assert listener.events[-1]["code"] == "credential_revoked"


def test_no_cookie_of_the_console_is_a_key(tenant: Tenant, service_env: dict[str, str]) -> None:
    cookie = signed_in(tenant.service, tenant.key)
    bearer = {"Authorization": f"Bearer {cookie}"}
    assert statuses(tenant.service, "/v1/threads", 1, headers=bearer) == {401}
    assert statuses(tenant.service, "/v1/threads", 1, cookies={"everthread_console": cookie}) == {401}
    assert statuses(tenant.service, "/v1/threads", 1, headers={**bearer, "everthread.signed_in": "1"}) == {401}
    # Nor is a key, or a user's token, a cookie.
    for given in (tenant.key, token_of(tenant, tenant.key)):
        assert statuses(tenant.service, "/console/api/threads", 1, cookies={"everthread_console": given}) == {401}


def test_a_key_has_a_hundred_sessions_at_most(tenant: Tenant) -> None:
    first = signed_in(tenant.service, tenant.key)
    for _ in range(100):
        last = signed_in(tenant.service, tenant.key)
    assert statuses(tenant.service, "/console/api/threads", 2, cookies={"everthread_console": first}) == {401}
    assert statuses(tenant.service, "/console/api/threads", 2, cookies={"everthread_console": last}) == {200}


def test_a_link_of_an_archived_project_shows_nothing(tenant: Tenant, two: tuple[Service, Service]) -> None:
    thread = tenant.thread()
    tenant.turn(thread, "Echo: hello")
    path = tenant.http.post(f"/threads/{thread}/shares").json()["path"]
    assert [statuses(worker, path) for worker in two] == [{200}] * 2
    tenant.settings(archived=True)
    for worker in two:
        refused = httpx2.get(worker.url + path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "share_not_found")
    tenant.settings(archived=False)
    assert [statuses(worker, path) for worker in two] == [{200}] * 2


def test_a_link_shows_the_title_of_its_moment_which_is_exported_and_erased(tenant: Tenant) -> None:
    thread = tenant.http.post("/threads", json={"title": "What we may show"}).json()["id"]
    turn = tenant.turn(thread, "Echo: hello")["id"]
    links = [tenant.http.post(f"/threads/{thread}/shares").json()]
    tenant.http.patch(f"/threads/{thread}", json={"title": "A secret of later"})
    links.append(tenant.http.post(f"/threads/{thread}/shares").json())

    def titles() -> list[str | None]:
        return [httpx2.get(tenant.service.url + link["path"]).json()["title"] for link in links]

    assert titles() == ["What we may show", "A secret of later"]
    markdown = httpx2.get(tenant.service.url + links[0]["path"], params={"format": "markdown"}).text
    assert "What we may show" in markdown
    assert "later" not in markdown
    exported = tenant.http.get(f"/threads/{thread}/export").json()
    assert [share["title"] for share in exported["shares"]] == ["What we may show", "A secret of later"]
    assert tenant.http.delete(f"/responses/{turn.replace('turn_', 'resp_')}").status_code == 200
    assert titles() == [None, None]
    emptied = tenant.http.get(f"/threads/{thread}/export").json()
    assert [share["title"] for share in emptied["shares"]] == [None, None]
    assert tenant.http.delete(f"/threads/{thread}").status_code == 200
    for link in links:
        assert httpx2.get(tenant.service.url + link["path"]).status_code == 404
    again = tenant.http.post("/threads/import", json=exported)
    assert again.status_code == 201, again.text
    assert tenant.http.get(f"/threads/{thread}/shares").json()["data"] == []
    assert tenant.http.get(f"/threads/{thread}/turns/{turn}").status_code == 200

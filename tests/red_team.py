"""Attacks on a running service with two workers, each of which must fail.

`python -m tests.red_team` starts the service and prints one line for each attack; `tests/test_red_team.py` runs them in
the gate. An attack raises `AssertionError` if it succeeds. The longer tests of each rule stand with its topic
(test_encryption, test_http11, test_cost_of_input, test_limits, test_audit, test_leaving, test_egress).
"""

import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psutil
from websockets.sync.client import connect

from tests.databases import migrated_database
from tests.postgres_pair import run_sql
from tests.servers import servers
from tests.service import Emulator, Process, Service, eventually

MODEL = "qwen3.5-plus"

LEAVE_SECONDS = 5.0
"""The longest time that a listener stays connected after its credential has ended."""

SLACK_SECONDS = 3.0
"""Allowed on top of it: this machine may be busy with other tests."""


class Target:
    """A service with two workers on a database of its own, and what an attacker and its operator have of it."""

    def __init__(self, env: dict[str, str], data_dir: Path) -> None:
        self.env = {
            **env,
            "EVERTHREAD_MASTER_KEY": "66" * 32,
            "EVERTHREAD_AUDIT_KEY": "22" * 32,
            "EVERTHREAD_DATA_DIR": str(data_dir),
        }
        self.database_url = env["DATABASE_URL"]
        self.service = Service("--workers", "2", env=self.env)

    def stop(self) -> int:
        return self.service.stop()

    def project(self, **fields: Any) -> "Attacker":
        made = self.service.http.post("/admin/projects", json={"name": uuid4().hex, **fields})
        assert made.status_code == 201, made.text
        return Attacker(self, made.json()["id"])

    def sql(self, *statements: str) -> Any:
        return run_sql(self.database_url, *statements)

    def raw(self, request: bytes, seconds: float = 10) -> bytes:
        """Send bytes on a connection of their own and return what comes back until it is closed."""
        with socket.create_connection(("127.0.0.1", self.service.port), timeout=seconds) as connection:
            with suppress(OSError):
                connection.sendall(request)
            answer = b""
            with suppress(OSError):
                while piece := connection.recv(65536):
                    answer += piece
            return answer

    def memory(self) -> int:
        """Return the resident bytes of all worker processes."""
        parent = psutil.Process(self.service.process.process.pid)
        found = 0
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                if "python" in process.name():
                    found += process.memory_info().rss
        return found

    @contextmanager
    def stays_responsive(self) -> Iterator[None]:
        """Assert that `/healthz` answers within a second while the block runs. Each request has a new connection, so
        that both workers are asked."""
        ended, slowest = threading.Event(), [0.0]

        def watch() -> None:
            while not ended.is_set():
                begun = time.monotonic()
                assert httpx2.get(f"{self.service.url}/healthz", timeout=30).status_code == 200
                slowest[0] = max(slowest[0], time.monotonic() - begun)
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
        assert slowest[0] < 1.0, f"/healthz took {slowest[0]:.2f} s"


class Attacker:
    """A project with all scopes of its own."""

    def __init__(self, target: Target, id_: str) -> None:
        self.target, self.id = target, id_
        self.key, self.key_id = self.new_key(["read", "write", "audit", "admin"])
        self.http = self.client(self.key)

    @property
    def uuid(self) -> UUID:
        return UUID(self.id.removeprefix("proj_"))

    def new_key(self, scopes: list[str]) -> tuple[str, str]:
        made = self.target.service.http.post(f"/admin/projects/{self.id}/keys", json={"name": "app", "scopes": scopes})
        return made.json()["key"], made.json()["id"]

    def client(self, key: str) -> httpx2.Client:
        return httpx2.Client(
            base_url=f"{self.target.service.url}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60
        )

    def limit(self, **limits: Any) -> None:
        self.set(limits=limits)

    def set(self, **settings: Any) -> None:
        answer = self.target.service.http.patch(f"/admin/projects/{self.id}", json=settings)
        assert answer.status_code == 200, answer.text

    def turn(self, input_: Any, **fields: Any) -> tuple[str, dict[str, Any]]:
        """Return a new thread's id and its first turn."""
        thread = self.http.post("/threads", json={}).json()["id"]
        answer = self.http.post(f"/threads/{thread}/turns", json={"input": input_, **fields})
        assert answer.status_code == 200, answer.text
        return thread, answer.json()

    def verify(self) -> tuple[int, str]:
        """Return the exit code and the output of `everthread audit verify`."""
        process = Process("audit", "verify", env=self.target.env)
        return process.ended(), "\n".join(process.lines)


def error_code(answer: httpx2.Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


# Sealed contents


def reads_another_projects_contents_by_quoting_their_ciphertext(target: Target) -> None:
    victim = target.project(encrypted=True)
    victim.turn("My secret is Quetzalcoatlus.")
    (row,) = target.sql(
        f"SELECT data::text AS data FROM items WHERE project_id = '{victim.uuid}' AND position = 0 AND origin = 'input'"
    )[:1]
    ciphertext = json.loads(row["data"])[0]
    attacker = target.project()
    call = {"": [ciphertext], "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c1", "output": ciphertext}
    thread, _ = attacker.turn(
        [call, output, {"role": "user", "content": ciphertext}], metadata={"quoted": ciphertext[:500]}
    )
    for path in (f"/threads/{thread}/messages", f"/threads/{thread}/turns", "/responses", f"/threads/{thread}/export"):
        answer = attacker.http.get(path)
        assert answer.status_code == 200, answer.text
        assert "Quetzalcoatlus" not in answer.text


def breaks_a_projects_lists_with_garbage_behind_the_mark(target: Target) -> None:
    attacker = target.project()
    mark = "\x01et1:"
    call = {"": [f"{mark}!"], "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c1", "output": f"{mark}AAAA"}
    thread, _ = attacker.turn([call, output, {"role": "user", "content": f"{mark}?"}], metadata={"a": f"{mark}AAAA"})
    attacker.http.patch(f"/threads/{thread}", json={"title": f"{mark}AAAA", "metadata": {"b": f"{mark}AAAA"}})
    for path in ("/responses", "/threads", f"/threads/{thread}/messages", f"/threads/{thread}/turns"):
        assert attacker.http.get(path).status_code == 200
    assert attacker.http.get(f"/threads/{thread}").json()["title"] == f"{mark}AAAA"
    assert attacker.http.post(f"/threads/{thread}/fork", json={}).status_code == 201


# Work that is not bounded


def fills_the_memory_with_trailers(target: Target) -> None:
    before = target.memory()
    with socket.create_connection(("127.0.0.1", target.service.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/threads HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        )
        sent, piece = 0, b"x-trailer: " + b"a" * 1000 + b"\r\n"
        with suppress(OSError):
            while sent < 40_000_000:
                connection.sendall(piece * 64)
                sent += len(piece) * 64
        assert sent < 40_000_000
    assert target.memory() - before < 50_000_000


def authenticates_with_a_trailer(target: Target) -> None:
    key = target.service.key.encode()
    answer = target.raw(
        b"GET /v1/threads HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n"
        b"Authorization: Bearer " + key + b"\r\n\r\n"
    )
    assert b" 401 " in answer.splitlines()[0]


def stops_a_worker_with_a_cookie(target: Target) -> None:
    request = b'GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: a="' + b"\\" * 40_000 + b'"\r\n\r\n'
    with target.stays_responsive():
        assert b" 200 " in target.raw(request, seconds=2).splitlines()[0]


def sends_no_host_or_two_or_a_long_head(target: Target) -> None:
    for head, status in (
        (b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", b" 400 "),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", b" 400 "),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", b" 431 "),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b" 200 "),
    ):
        assert status in target.raw(head).splitlines()[0]


def sends_a_character_that_cannot_be_stored(target: Target) -> None:
    for path in (
        "/threads?metadata[a%00]=b", "/usage?label=%00", "/usage?after=%00", "/threads/by-name/x%ff",
        "/threads/by-name/x%fe", "/threads/thread_%00", "/search?q=%00",
    ):  # fmt: skip
        answer = target.service.http.get(path)
        assert answer.status_code == 400, (path, answer.status_code)
    assert target.service.http.delete("/conversations/conv_0/items/%00").status_code == 400


def stops_a_worker_with_a_schema_that_doubles(target: Target) -> None:
    attacker = target.project()
    depth = 40
    definitions: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(depth)
    }
    schema = {"$defs": {**definitions, f"d{depth}": {"type": "object"}}, "$ref": "#/$defs/d0"}
    body = {"model": MODEL, "input": "Hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}
    with target.stays_responsive():
        threads = [
            threading.Thread(target=attacker.http.post, args=["/responses"], kwargs={"json": body}) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        assert target.project().http.get("/threads", timeout=10).status_code == 200
        for thread in threads:
            thread.join(timeout=30)
            assert not thread.is_alive()


def stops_a_worker_with_empty_arrays(target: Target) -> None:
    body = b'{"title": [' + b"[]," * 10_000_000 + b"[]]}"
    with target.stays_responsive():
        answer = target.service.http.post("/threads", content=body)
    assert answer.status_code == 400


def stops_a_worker_with_a_search(target: Target) -> None:
    attacker = target.project()
    attacker.turn("lorem ipsumq dolor " * 5000)
    with target.stays_responsive():
        found = attacker.http.get("/search", params={"q": "ipsumq"})
        assert found.status_code == 200
        assert len(found.content) < 20_000
        assert attacker.http.get("/search", params={"q": "a " * 500}).status_code == 400


def stops_a_worker_with_a_page_of_the_console(target: Target) -> None:
    attacker = target.project()
    thread, _ = attacker.turn("```easytrieve\n" + "\t" * 2000 + "\n```")
    with httpx2.Client(base_url=target.service.url, timeout=60) as browser:
        browser.post("/console/sign-in", data={"key": attacker.key}, headers={"Sec-Fetch-Site": "same-origin"})
        with target.stays_responsive():
            assert browser.get(f"/console/threads/{thread}").status_code == 200


# Limits and money


def spends_past_a_months_tokens(target: Target) -> None:
    attacker = target.project()
    attacker.limit(tokens_per_month=60)
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    # Limits are read again, and tokens are counted, a few seconds later at most.
    eventually(lambda: attacker.http.post("/chat/completions", json=chat).status_code == 429)
    eventually(lambda: bool(attacker.http.get("/usage").json()["data"]))


def escapes_a_users_limit_by_chat(target: Target) -> None:
    attacker = target.project()
    attacker.set(user_limits={"requests_per_minute": 2})
    chat = {"model": MODEL, "user": "ann", "messages": [{"role": "user", "content": "Hi"}]}
    eventually(lambda: attacker.http.post("/chat/completions", json=chat).status_code == 429)


def sends_a_long_message_by_websocket(target: Target) -> None:
    attacker = target.project()
    attacker.limit(body_bytes=2000)
    eventually(lambda: attacker.http.post("/threads", json={"title": "x" * 900, "name": "y" * 2000}).status_code == 413)
    url = f"{target.service.url.replace('http', 'ws')}/v1/responses"
    with connect(url, additional_headers={"Authorization": f"Bearer {attacker.key}"}, close_timeout=1) as channel:
        channel.send(json.dumps({"type": "response.create", "model": MODEL, "input": "x" * 5000}))
        assert json.loads(channel.recv(timeout=30))["type"] == "error"


def stores_more_items_than_allowed(target: Target) -> None:
    attacker = target.project()
    attacker.limit(input_items=2)
    messages = [{"role": "user", "content": "x"}] * 3
    eventually(lambda: attacker.http.post("/threads", json={"messages": messages}).status_code == 400, seconds=10)


def locks_everybody_out_with_a_limit(target: Target) -> None:
    attacker = target.project()
    refused = target.service.http.patch(f"/admin/projects/{attacker.id}", json={"limits": {"body_bytes": 10}})
    assert refused.status_code == 400
    assert attacker.http.post("/threads", json={}).status_code == 201


# Trail, leaving, doors


def changes_what_was_said_by_sql(target: Target) -> None:
    attacker = target.project()
    thread, turn = attacker.turn("Hi")
    code, lines = attacker.verify()
    assert code == 0, lines
    turn_id = UUID(turn["id"].removeprefix("turn_"))
    target.sql(
        "SET session_replication_role = replica",
        f"UPDATE turns SET created_at = created_at - interval '1 day' WHERE id = '{turn_id}'",
    )
    code, lines = attacker.verify()
    assert code == 1
    assert turn["id"] in lines
    attacker.http.delete(f"/threads/{thread}")


def goes_on_listening_with_a_revoked_key(target: Target) -> None:
    project = target.project()
    thread, _ = project.turn("Hi")
    key, key_id = project.new_key(["read", "write"])
    url, headers = f"{target.service.url}/v1/threads/{thread}/events", {"Authorization": f"Bearer {key}"}
    with httpx2.stream("GET", url, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        project.http.delete(f"/admin/projects/{project.id}/keys/{key_id}")
        begun = time.monotonic()
        said = answer.read().decode()
    assert time.monotonic() - begun < LEAVE_SECONDS + SLACK_SECONDS
    assert "error" in said


def reads_a_link_of_an_archived_project(target: Target) -> None:
    project = target.project()
    thread, _ = project.turn("Hi")
    link = project.http.post(f"/threads/{thread}/shares", json={}).json()["path"]
    assert httpx2.get(f"{target.service.url}{link}").status_code == 200
    project.set(archived=True)
    eventually(lambda: httpx2.get(f"{target.service.url}{link}").status_code == 404, seconds=LEAVE_SECONDS)


def uses_the_consoles_cookie_as_a_key(target: Target) -> None:
    project = target.project()
    with httpx2.Client(base_url=target.service.url, timeout=60) as browser:
        browser.post("/console/sign-in", data={"key": project.key}, headers={"Sec-Fetch-Site": "same-origin"})
        cookie = browser.cookies["everthread_console"]
        assert project.client(cookie).get("/threads").status_code == 401
        browser.post("/console/sign-out", headers={"Sec-Fetch-Site": "same-origin"})
    for _ in range(8):  # Both workers.
        with httpx2.Client(base_url=target.service.url, cookies={"everthread_console": cookie}) as thief:
            assert thief.get("/console/threads").status_code in (302, 303)


def reaches_inside_by_another_name_of_an_address(target: Target) -> None:
    attacker = target.project()
    for host in (
        "127.1", "2130706433", "0", "0177.0.0.1", "127.0.0.1.", "[::7f00:1]", "[fec0::1]", "[::ffff:0:10.0.0.1]",
        "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0x7f.1",
    ):  # fmt: skip
        hook = {"url": f"https://{host}/", "events": ["response.completed"]}
        assert attacker.http.post("/webhooks", json=hook).status_code == 400, host
        account = {"name": uuid4().hex, "base_url": f"https://{host}/v1", "api_key": "sk-x"}
        made = attacker.http.post(f"/admin/projects/{attacker.id}/accounts", json=account)
        assert made.status_code == 400, host


ATTACKS: tuple[Callable[[Target], None], ...] = (
    reads_another_projects_contents_by_quoting_their_ciphertext,
    breaks_a_projects_lists_with_garbage_behind_the_mark,
    fills_the_memory_with_trailers,
    authenticates_with_a_trailer,
    stops_a_worker_with_a_cookie,
    sends_no_host_or_two_or_a_long_head,
    sends_a_character_that_cannot_be_stored,
    stops_a_worker_with_a_schema_that_doubles,
    stops_a_worker_with_empty_arrays,
    stops_a_worker_with_a_search,
    stops_a_worker_with_a_page_of_the_console,
    spends_past_a_months_tokens,
    escapes_a_users_limit_by_chat,
    sends_a_long_message_by_websocket,
    stores_more_items_than_allowed,
    locks_everybody_out_with_a_limit,
    changes_what_was_said_by_sql,
    goes_on_listening_with_a_revoked_key,
    reads_a_link_of_an_archived_project,
    uses_the_consoles_cookie_as_a_key,
    reaches_inside_by_another_name_of_an_address,
)


def main() -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as place, servers(Path(place)) as (database_url, redis_url):
        emulator = Emulator()
        url = migrated_database(database_url)
        provider = {"DASHSCOPE_API_KEY": "sk-tests", "DASHSCOPE_BASE_URL": emulator.base_url}
        target = Target({"DATABASE_URL": url, "REDIS_URL": redis_url, **provider}, Path(place) / "data")
        for attack in ATTACKS:
            outcome = "held"
            try:
                attack(target)
            except (AssertionError, httpx2.HTTPError, KeyError, OSError) as error:
                failed += 1
                outcome = f"FAILED: {type(error).__name__}: {str(error)[:200]}"
            print(f"{attack.__name__.replace('_', ' ')}: {outcome}", flush=True)  # noqa: T201
        target.stop()
        emulator.stop()
    return failed


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))

"""Postgres as teams have it: libpq's URLs, passwords, a pooler between, a standby that takes over, a server that is
read-only. What cannot be is said in a sentence."""

import asyncio
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import httpx2
import pytest

from app.db import connecting
from app.embedded import postgres
from app.embedded.postgres_user import as_user, user_id
from tests.databases import migrate_now
from tests.postgres_pair import PASSWORD, QUOTED, Pair, run_sql
from tests.service import Emulator, Process, Service, eventually, free_port
from tests.tools import needs, program


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hello", "must begin with postgresql://"),
        ("mysql://user:s3cret@host/db", "must begin with postgresql://"),
        ("postgresql://user:s3cret@host/db?sslmode", "name=value"),
        ("postgresql://user:s3cret@host/db?hostaddr=10.0.0.1", "hostaddr"),
        ("postgresql://user:s3cret@host/db?channel_binding=require", "channel_binding=require"),
        ("postgresql://user:s3cret@host/db?load_balance_hosts=random", "load_balance_hosts"),
        ("postgresql://user:s3cret@host/db?connect_timeout=soon", "connect_timeout"),
        ("postgresql://user:s3cret@h\u2100st/db", "it is no URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_sentence_for_every_command(
    service_env: dict[str, str], url: str, words: str
) -> None:
    for command in (("serve",), ("migrate",), ("keys", "list")):
        process = Process(*command, env={**service_env, "DATABASE_URL": url})
        line = process.wait_for("everthread: Cannot use DATABASE_URL: ")
        assert process.ended() == 1
        assert words in line
        assert len(process.lines) == 1
        assert "s3cret" not in line


@pytest.mark.parametrize(
    "options",
    [
        {"application_name": "chat", "connect_timeout": "5", "sslmode": "prefer"},
        {"options": "-c%20statement_timeout%3D9s", "target_session_attrs": "read-write"},
        {"keepalives": "1", "keepalives_idle": "30", "gssencmode": "disable", "channel_binding": "prefer"},
        {"fallback_application_name": "chat"},
        {"target_session_attrs": "standby"},
    ],
)
def test_libpqs_options_mean_what_they_mean_to_libpq(pair: Pair, options: dict[str, str]) -> None:
    (row,) = run_sql(
        pair.url(**options),
        "SELECT pg_is_in_recovery() AS standby, current_setting('statement_timeout') AS timeout, "
        "current_setting('application_name') AS name",
    )
    assert row["standby"] == (options.get("target_session_attrs") == "standby")
    assert row["timeout"] == ("9s" if "options" in options else "0")
    named = options.get("application_name") or options.get("fallback_application_name") or "everthread"
    assert row["name"] == named


def test_a_password_comes_from_a_file_of_passwords_too(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:*:*:postgres:{PASSWORD}\n")
    file.chmod(0o600)
    url = f"postgresql://postgres@127.0.0.1:{pair.ports[0]}/postgres"
    for extra in ({"PGPASSFILE": str(file)}, {"PGPASSWORD": PASSWORD}):
        process = Process("migrate", env={"DATABASE_URL": url, **extra})
        process.wait_for("The database is at migration")
        assert process.ended() == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((f":{QUOTED}@", ":wrong@"), "refuses the user or the password"),
        (("/everthread", "/nowhere"), "no such database"),
        (("postgres:", "nobody:"), "refuses the user or the password"),
    ],
)
def test_what_postgres_refuses_is_one_sentence(
    pair: Pair, service_env: dict[str, str], change: tuple[str, str], words: str
) -> None:
    url = pair.url(hosts=f"127.0.0.1:{pair.ports[0]}").replace(*change)
    for command in (("migrate",), ("serve",), ("keys", "list")):
        process = Process(*command, env={**service_env, "DATABASE_URL": url})
        process.wait_for(words)
        assert process.ended() == 1
        assert len(process.lines) == 1


def test_a_database_without_tables_and_a_migration_that_is_none_are_one_sentence_each(
    empty_database_url: str, service_env: dict[str, str]
) -> None:
    env = {**service_env, "DATABASE_URL": empty_database_url}
    for command, words in (
        (("keys", "list"), "Run 'everthread migrate' first"),
        (("serve",), "run 'everthread migrate' first"),
        (("migrate", "--revision", "9999"), "There is no migration '9999'"),
    ):
        process = Process(*command, env=env)
        process.wait_for(words)
        assert process.ended() == 1
        assert len(process.lines) == 1


def test_migrations_wait_for_each_other_and_say_for_whom(empty_database_url: str) -> None:
    async def hold() -> None:
        connection = await asyncpg.connect(empty_database_url)
        async with connection.transaction():
            await connection.fetchval("SELECT pg_advisory_xact_lock(hashtext('everthread migrate'))")
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            process = Process("migrate", env={"DATABASE_URL": empty_database_url})
            await asyncio.to_thread(process.wait_for, f"Waiting for another migration of this database: process {pid}")
        await asyncio.to_thread(process.wait_for, "The database is at migration")
        assert process.ended() == 0
        assert await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
        await connection.close()

    asyncio.run(hold())


def test_a_server_that_is_read_only_is_503_until_it_is_not(
    pair: Pair, service_env: dict[str, str], emulator: Emulator
) -> None:
    migrate_now(pair.url(target_session_attrs="read-write"))
    service = Service(env={**service_env, "DATABASE_URL": pair.url(hosts=f"127.0.0.1:{pair.ports[0]}")})
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    # A key whose reads are not recorded: records have to be written.
    fields = {"name": "app", "scopes": ["read", "write"]}
    app = service.http.post(f"/admin/projects/{service.http.get('/project').json()['id']}/keys", json=fields)
    reader = {"Authorization": f"Bearer {app.json()['key']}"}
    assert service.http.get("/project", headers=reader).status_code == 200
    primary = pair.url(hosts=f"127.0.0.1:{pair.ports[0]}")
    run_sql(primary, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    eventually(lambda: httpx2.get(f"{service.url}/readyz").status_code == 503)
    assert httpx2.get(f"{service.url}/readyz").json()["postgres"] == "read-only"
    refused = service.http.post(f"/threads/{thread}/turns", json={"input": "What is my name?"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert service.http.get(f"/threads/{thread}/messages", headers=reader).status_code == 200
    assert service.http.get(f"/threads/{thread}/messages").status_code == 503
    run_sql(
        primary, "SET default_transaction_read_only = off", "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    )  # fmt: skip
    eventually(lambda: httpx2.get(f"{service.url}/readyz").status_code == 200)
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    service.stop()


@pytest.fixture
def pooler(server_urls: tuple[str, str], tmp_path: Path) -> Iterator[int]:
    """PgBouncer, each transaction on any of three connections: its port."""
    pgbouncer = program("pgbouncer")
    assert pgbouncer is not None
    to = connecting.arguments(server_urls[0])["dsn"]
    parts = dict(httpx2.URL(to.replace("postgresql", "http", 1)).params)
    host = parts.get("host") or httpx2.URL(to.replace("postgresql", "http", 1)).host
    port = free_port()
    config = tmp_path / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host={host} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        "unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 500\n"
    )
    # As the embedded server's user, whose socket it has to reach.
    within = as_user(user_id(), postgres.programs_here(), (tmp_path, *([Path(host)] if host.startswith("/") else [])))
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen([*within, pgbouncer, "-q", "/dev/stdin"], stdin=config.open(), stderr=log)
    eventually(lambda: _answers(port))
    yield port
    process.kill()
    process.wait()


def _answers(port: int) -> bool:
    try:
        httpx2.get(f"http://127.0.0.1:{port}")
    except httpx2.ConnectError:
        return False
    except httpx2.TransportError:
        return True
    return True


@needs("pgbouncer")
def test_behind_a_pooler_that_gives_each_transaction_another_connection(
    pooler: int, empty_database_url: str, service_env: dict[str, str], emulator: Emulator
) -> None:
    name = empty_database_url.partition("?")[0].rpartition("/")[2]
    env = {
        **service_env,
        "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{pooler}/{name}",
        "EVERTHREAD_DATABASE_POOLER": "true",
    }
    for _ in range(2):
        process = Process("migrate", env=env)
        process.wait_for("The database is at migration")
        assert process.ended() == 0
    one, other = Service(env=env), Service(env=env)
    threads = [one.thread(name=f"t{number}", title=f"Talk number {number}") for number in range(12)]

    def talk(number: int) -> None:
        for service in (one, other, one, other):
            service.turn(threads[number], f"My name is Person{number}.")
            answer = service.turn(threads[number], "What is my name?")
            assert answer["output_text"] == f"Person{number}"
            assert service.stream(threads[number], "Hello")[-1]["type"] == "response.completed"

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(talk, range(12)))
    assert len(other.http.get("/search", params={"q": "Person7"}).json()["data"]) > 0
    assert len(one.http.get("/threads", params={"limit": 100}).json()["data"]) == 12
    emulator.fault("slow", seconds_per_event=0.1)
    body, asked = {"input": "Echo: " + "word " * 100, "background": True}, len(emulator.calls())
    turn = one.http.post(f"/threads/{threads[0]}/turns", json=body).json()["id"]
    emulator.is_asked(asked + 1)
    began = time.monotonic()
    assert other.http.post(f"/threads/{threads[0]}/turns/{turn}/cancel").json()["status"] == "cancelled"
    assert time.monotonic() - began < 3
    assert one.http.delete(f"/threads/{threads[0]}").status_code == 200
    verified = Process("audit", "verify", "--key", _public_key(env), env=env)
    verified.wait_for("The audit trail verifies")
    assert (one.stop(), other.stop()) == (0, 0)


def _public_key(env: dict[str, str]) -> str:
    process = Process("audit", "public-key", env=env)
    process.ended()
    return process.lines[-1]


def test_a_standby_takes_over_and_nothing_that_was_acknowledged_is_lost(
    pair: Pair, service_env: dict[str, str], emulator: Emulator
) -> None:
    url = pair.url(target_session_attrs="read-write", connect_timeout="3")
    migrate_now(url)
    service = Service(env={**service_env, "DATABASE_URL": url})
    threads = [service.thread() for _ in range(4)]
    acknowledged: dict[str, list[str]] = {thread: [] for thread in threads}
    refused: list[int] = []
    stop = threading.Event()

    def talk(thread: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            answer = service.http.post(f"/threads/{thread}/turns", json={"input": f"Echo: {number}"})
            if answer.status_code == 200:
                acknowledged[thread].append(answer.json()["id"])
            else:
                refused.append(answer.status_code)
                time.sleep(0.1)

    def all_have_said_more() -> None:
        before = [len(acknowledged[thread]) for thread in threads]
        eventually(
            lambda: all(len(acknowledged[thread]) > was + 5 for thread, was in zip(threads, before, strict=True)), 30
        )

    with ThreadPoolExecutor(4) as pool:
        talking = [pool.submit(talk, thread) for thread in threads]
        try:
            all_have_said_more()
            pair.fail_over()
            again = time.monotonic()
            eventually(lambda: httpx2.get(f"{service.url}/readyz").status_code == 200, seconds=20)
            assert time.monotonic() - again < 10
            all_have_said_more()
        finally:
            stop.set()
        for each in talking:
            each.result()
    assert set(refused) <= {503, 409}
    for thread in threads:
        kept = service.http.get(f"/threads/{thread}/turns", params={"limit": 100, "order": "desc"}).json()["data"]
        ids = {turn["id"] for turn in kept}
        assert set(acknowledged[thread][-50:]) <= ids
        assert service.turn(thread, "Echo: after", if_busy="wait")["output_text"] == "after"
    service.stop()

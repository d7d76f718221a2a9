"""Messages that an operator sees when something is wrong: one sentence that says what to do."""

import asyncio
import socket
import struct
import time
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest
import redis

from app.commands.terminal import misspelt
from app.embedded import redis as embedded_redis
from tests.service import Emulator, Process, Service, free_port


def lines_of(*command: str, env: dict[str, str] | None = None) -> tuple[int, list[str]]:
    process = Process(*command, env=env)
    return process.ended(), process.lines


def with_statement_timeout(url: str, milliseconds: int) -> str:
    joined = "&" if "?" in url else "?"
    return f"{url}{joined}options={quote(f'-c statement_timeout={milliseconds}')}"


async def test_a_statement_timeout_that_is_too_short_to_start_is_one_sentence(fresh_env: dict[str, str]) -> None:
    env = {**fresh_env, "DATABASE_URL": with_statement_timeout(fresh_env["DATABASE_URL"], 300)}
    connection = await asyncpg.connect(fresh_env["DATABASE_URL"])
    try:
        # Every statement about keys takes longer than the role may take.
        await connection.execute("BEGIN; LOCK TABLE api_keys, projects, audit_keys IN ACCESS EXCLUSIVE MODE")
        code, lines = await asyncio.to_thread(lines_of, "serve", "--port", str(free_port()), env=env)
    finally:
        await connection.close()
    assert code == 1
    assert not any("Traceback" in line for line in lines), lines
    assert "statement_timeout of DATABASE_URL's role is too short: set it to 30 s or more" in lines[-1]


def test_migrating_with_a_statement_timeout_that_is_too_short_is_one_sentence(
    empty_database_url: str, service_env: dict[str, str]
) -> None:
    env = {**service_env, "DATABASE_URL": with_statement_timeout(empty_database_url, 1)}
    code, lines = lines_of("migrate", env=env)
    assert code == 1
    assert "ALTER ROLE CURRENT_USER SET statement_timeout" in lines[-1]
    assert not any("Traceback" in line for line in lines)


def left_behind(port: int, request: bytes, *, reset: bool) -> None:
    """Send a part of a request and leave."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(request)
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)  # The server has begun to read.


@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_leaves_within_its_request_is_no_error_in_any_log(
    service: Service, emulator: Emulator, reset: bool
) -> None:
    before = len(service.process.lines), len(emulator.process.lines)
    head = "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    body = 'Content-Length: 1000\r\n\r\n{"input"'
    for path in ("/v1/responses", "/v1/threads", "/v1/conversations", "/v1/chat/completions", "/console/sign-in"):
        left_behind(service.port, (head.format(path=path, key=service.key) + body).encode(), reset=reset)
    for path in ("/compatible-mode/v1/responses", "/compatible-mode/v1/chat/completions", "/_emulator/faults"):
        left_behind(emulator.port, (head.format(path=path, key="sk-tests") + body).encode(), reset=reset)
    # Both answer others, and have had the time to log what they would.
    service.turn(service.thread(), "Hello")
    emulator.calls()
    assert service.process.lines[before[0] :] == []
    assert emulator.process.lines[before[1] :] == []


def test_the_embedded_redis_evicts_what_rests_and_keeps_what_is_in_use(tmp_path: Path) -> None:
    with embedded_redis.running(tmp_path / "redis") as url:
        client = redis.Redis.from_url(url)
        assert client.config_get("maxmemory")["maxmemory"] == str(256 << 20)
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory", used + (2 << 20))
        for number in range(1000):
            client.set(f"everthread:resting:{number}", b"x" * 2000, ex=7 * 86400)
        time.sleep(1.5)  # Redis's clock of use counts seconds.
        # A counter of a limit: it lives for a minute and is read all the time. Event logs and live ids live longer.
        client.set("everthread:counter", 1, ex=60)
        for number in range(500):
            client.set(f"everthread:newer:{number}", b"x" * 2000, ex=7 * 86400)  # No error: there is always room.
            client.incr("everthread:counter")
        assert int(client.info("stats")["evicted_keys"]) > 300
        assert int(client.get("everthread:counter") or 0) == 501
        client.close()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("EVERTHREAD_RETENTIN", "How long content is kept is set per project: see docs/retention.md."),
        ("EVERTHREAD_RETENTION", "How long content is kept is set per project: see docs/retention.md."),
        ("EVERTHREAD_WAIT_SECOND", "Did you mean EVERTHREAD_WAIT_SECONDS?"),
        ("EVERTHREAD_DRAIN", "Did you mean EVERTHREAD_DRAIN_SECONDS?"),
        ("EVERTHREAD_DATABASE_URI", "Did you mean DATABASE_URL?"),
        ("EVERTHREAD_EMULATOR_WINDOW_TOKEN", "Did you mean EVERTHREAD_EMULATOR_WINDOW_TOKENS?"),
        ("EVERTHREAD_PORT", "Say 'everthread serve --port'."),
        # Nothing is near, or several are.
        ("EVERTHREAD_COLOUR", "docs/configuration.md and app/settings.py list the settings."),
        ("EVERTHREAD_PROVIDER", "docs/configuration.md and app/settings.py list the settings."),
    ],
)
def test_an_unknown_setting_is_answered_with_one_that_is_near_or_with_none(name: str, instead: str) -> None:
    assert misspelt([name]) == [f"{name} is set, and there is no such setting: it has no effect. {instead}"]


def test_a_base_url_that_cannot_be_used_is_refused_without_being_quoted() -> None:
    code, lines = lines_of("doctor", env={"DASHSCOPE_BASE_URL": "http://ada:secretword@127.0.0.1:1/v1"})
    assert (code, len(lines)) == (1, 1)
    assert "DASHSCOPE_BASE_URL is wrong: it must be an http:// or https:// URL" in lines[0]
    assert "secretword" not in lines[0]


def test_a_setting_that_exists_is_not_unknown() -> None:
    assert misspelt(["EVERTHREAD_DRAIN_SECONDS", "EVERTHREAD_URL", "EVERTHREAD_EMULATOR_WINDOW_TOKENS", "PATH"]) == []


def test_the_strict_doctor_fails_on_a_warning(
    service_env: dict[str, str], fresh_database_url: str, emulator: Emulator, tmp_path: Path
) -> None:
    env = {**service_env, "DATABASE_URL": fresh_database_url, "EVERTHREAD_DATA_DIR": str(tmp_path)}
    assert lines_of("doctor", "--strict", env=env)[0] == 0
    short = {**env, "DATABASE_URL": with_statement_timeout(fresh_database_url, 5000)}
    code, lines = lines_of("doctor", "--strict", env=short)
    assert code == 1
    assert any(
        "statement_timeout is 5000 ms, shorter than EVERTHREAD_DATABASE_TIMEOUT_SECONDS" in line for line in lines
    )

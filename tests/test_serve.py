"""`everthread serve` as a new user runs it: one process on a fresh directory."""

import signal
import subprocess
import time
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.service import Emulator, Process, Service, eventually, free_port, said


def serve(data_dir: Path, *arguments: str, env: dict[str, str] | None = None, key: str | None = None) -> Service:
    return Service("--data-dir", str(data_dir), *arguments, env=env, key=key)


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_outlives_its_chain_and_a_restart_of_every_server(data_dir: Path, stream: bool) -> None:
    emulator_port = str(free_port())

    def ask(service: Service, thread: str, words: str) -> str:
        if stream:
            return said(service.stream(thread, words))
        text: str = service.turn(thread, words)["output_text"]
        return text

    def control(what: str, body: object) -> None:
        httpx2.post(f"http://127.0.0.1:{emulator_port}/_emulator/{what}", json=body).raise_for_status()

    service = serve(data_dir, "--emulator-port", emulator_port)
    assert "emulator" in service.process.wait_for("No DASHSCOPE_API_KEY")
    thread = service.thread(name="ada")
    ask(service, thread, "My name is Ada.")
    control("clock", {"advance_seconds": 8 * 86400})
    assert ask(service, thread, "What is my name?") == "Ada"
    control("clock", {"advance_seconds": 86400})
    control("forget", {"all": True})
    assert ask(service, thread, "What is my name?") == "Ada"
    assert ask(service, thread, "What is my name?") == "Ada"
    assert service.stop() == 0

    # The emulator's memory is gone with its process: the provider knows none of the ids any more.
    again = Service("--data-dir", str(data_dir), "--emulator-port", emulator_port, key="et_another_bootstrap_key")
    again.http.headers["Authorization"] = f"Bearer {service.key}"
    assert ask(again, thread, "What is my name?") == "Ada"
    assert [link["continuation"] for link in again.chain(thread)] == ["new", "rebuilt", "rebuilt", "chained", "rebuilt"]
    assert again.http.get("/threads/by-name/ada").json()["id"] == thread
    assert again.stop() == 0


def test_the_first_key_is_shown_once_and_the_printed_curl_lines_work(data_dir: Path) -> None:
    port = str(free_port())
    service = serve(data_dir, "--emulator-port", port)
    service.process.wait_for("/turns")
    for line in [line for line in service.process.lines if line.strip().startswith("curl")]:
        ran = subprocess.run(line.replace("curl ", "curl -sS --fail ", 1), shell=True, capture_output=True, text=True)  # noqa: S602
        assert ran.returncode == 0, ran.stderr
    assert '"status":"completed"' in ran.stdout
    key = service.key
    assert service.stop() == 0
    assert b"et_" + key.encode()[3:] not in b"".join(p.read_bytes() for p in data_dir.rglob("*") if p.is_file())
    second = Process("serve", "--port", str(free_port()), "--data-dir", str(data_dir), "--emulator-port", port)
    second.wait_for("by-name/first/turns")
    assert not [line for line in second.lines if line.startswith("API key")]
    assert second.stop() == 0


def test_a_second_owner_of_the_data_directory_is_told_so(data_dir: Path) -> None:
    service = serve(data_dir, "--emulator-port", str(free_port()))
    second = Process("serve", "--port", str(free_port()), "--data-dir", str(data_dir))
    pid = str(service.process.process.pid)
    assert pid in second.wait_for("is in use by process")
    _ended_with_one_sentence(second)
    assert service.stop() == 0


def test_a_killed_service_leaves_a_directory_that_the_next_one_takes_over(data_dir: Path) -> None:
    port = str(free_port())
    service = serve(data_dir, "--emulator-port", port)
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    service.process.stop(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # The emulator notices that its owner is gone.
        try:
            httpx2.get(f"http://127.0.0.1:{port}/_emulator/calls")
        except httpx2.ConnectError:
            break
        time.sleep(0.1)
    again = serve(data_dir, "--emulator-port", port, key="et_another_bootstrap_key")
    again.http.headers["Authorization"] = f"Bearer {service.key}"
    assert again.turn(thread, "What is my name?")["output_text"] == "Ada"
    assert again.stop() == 0
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(data_dir) in " ".join(p.info["cmdline"] or [])]


def test_a_port_in_use_an_unreachable_server_and_a_wrong_key_are_one_sentence_each(
    data_dir: Path, service_env: dict[str, str], emulator: Emulator, empty_database_url: str
) -> None:
    arguments = ("serve", "--port", str(free_port()), "--data-dir", str(data_dir))
    for words, command, env in (
        ("Choose another --port", ("serve", "--port", str(emulator.port)), {}),
        ("Cannot reach Postgres", arguments, {**service_env, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"}),
        ("Cannot use REDIS_URL", arguments, {**service_env, "REDIS_URL": "redis:/127.0.0.1:1"}),
        ("refuses DASHSCOPE_API_KEY", arguments[:3], {**service_env, "DASHSCOPE_API_KEY": "sk-invalid"}),
        ("everthread migrate", arguments, {**service_env, "DATABASE_URL": empty_database_url}),
        ("EVERTHREAD_DATABASE_POOL_SIZE", arguments, {**service_env, "EVERTHREAD_DATABASE_POOL_SIZE": "many"}),
    ):
        process = Process(*command, env=env)
        process.wait_for(words)
        _ended_with_one_sentence(process)


def test_serve_starts_on_a_database_once_it_is_migrated(empty_database_url: str, service_env: dict[str, str]) -> None:
    env = {**service_env, "DATABASE_URL": empty_database_url}
    migrated = Process("migrate", env=env)
    migrated.wait_for("The database is at migration")
    assert migrated.ended() == 0
    service = Service(env=env, key=None)
    assert service.turn(service.thread(), "Echo: hi")["output_text"] == "hi"
    assert service.stop() == 0


def test_several_workers_share_the_port_and_the_conversation(service_env: dict[str, str]) -> None:
    service = Service("--workers", "2", env=service_env)
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    for _ in range(10):
        with httpx2.Client() as fresh:
            answer = fresh.post(
                f"{service.url}/v1/threads/{thread}/turns",
                json={"input": "What is my name?"},
                headers={"Authorization": f"Bearer {service.key}"},
            )
        assert answer.json()["output_text"] == "Ada"
    assert "everthread_turns_total" in httpx2.get(f"{service.url}/metrics").text
    assert service.stop() == 0


def test_what_a_worker_that_was_killed_was_at_is_not_counted_any_more(
    service_env: dict[str, str], emulator: Emulator
) -> None:
    service = Service("--workers", "2", env={**service_env, "EVERTHREAD_LEASE_SECONDS": "2"})

    def running() -> float:
        shown = httpx2.get(f"{service.url}/metrics").text
        return float(shown.partition("\neverthread_running_turns ")[2].partition("\n")[0])

    emulator.fault("slow", seconds_per_event=1)
    body = {"input": "Echo: one two three", "background": True}
    assert service.http.post(f"/threads/{service.thread()}/turns", json=body).status_code == 200
    eventually(lambda: running() == 1)
    for worker in psutil.Process(service.process.process.pid).children(recursive=True):
        if "spawn_main" in " ".join(worker.cmdline()):
            worker.kill()
    service.http.close()

    def is_up_and_idle() -> bool:
        try:
            return running() == 0
        except httpx2.TransportError:
            return False

    eventually(is_up_and_idle, 60)
    assert service.stop() == 0


def test_a_running_turn_is_finished_before_the_service_stops(service_env: dict[str, str], emulator: Emulator) -> None:
    service = Service(env=service_env)
    thread = service.thread()
    emulator.fault("slow", seconds_per_event=0.1)
    with service.http.stream(
        "POST", f"/threads/{thread}/turns", json={"input": "Echo: one two three", "stream": True}
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        service.process.process.send_signal(signal.SIGTERM)
        assert "event: response.completed" in list(lines)
    assert service.stop() == 0


def test_a_signing_key_that_is_none_is_refused_before_anything_is_signed(service_env: dict[str, str]) -> None:
    process = Process("serve", "--port", str(free_port()), env={**service_env, "EVERTHREAD_AUDIT_KEY": "secret"})
    _ended_with_one_sentence(process)
    assert "EVERTHREAD_AUDIT_KEY" in process.lines[-1]


def _ended_with_one_sentence(process: Process) -> None:
    assert process.ended() == 1
    assert "Traceback" not in "\n".join(process.lines)
    assert len([line for line in process.lines if line.startswith("everthread: ")]) == 1

"""Stopping loses no answer and leaves no client without one, whatever state Postgres and the disk are in."""

import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import yaml

from app.process import stopping
from app.settings import Settings
from tests.databases import waiters
from tests.service import Emulator, Process, Service, eventually, free_port, read_events, said
from tests.test_command_line import lines_of
from tests.wire import Proxy

ROOT = Path(__file__).parents[1]

DRAIN_SECONDS = 1.0

WITHIN_SECONDS = 1.0
"""Time after the drain within which every answer is on disk."""


def seconds(text: str | int) -> float:
    """A duration of a manifest."""
    found = re.fullmatch(r"(\d+)s?", str(text))
    assert found is not None, text
    return float(found[1])


def graces() -> Iterator[tuple[str, float, float]]:
    """Each place that starts the service: its name, the seconds from SIGTERM to SIGKILL, and those of the drain."""
    default = Settings.model_fields["drain_seconds"].default
    kinds: dict[str, Any] = {}
    for path in sorted((ROOT / "deploy").rglob("*.y*ml")):
        for each in yaml.safe_load_all(path.read_text()):
            if isinstance(each, dict) and each.get("kind") == "ConfigMap":
                kinds |= each["data"]
    drain = float(kinds.get("EVERTHREAD_DRAIN_SECONDS", default))
    for path in sorted((ROOT / "deploy").rglob("*.y*ml")):
        for each in yaml.safe_load_all(path.read_text()):
            if not isinstance(each, dict) or each.get("kind") not in ("Deployment", "StatefulSet"):
                continue
            pod = each["spec"]["template"]["spec"]
            hook = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
            before = float(hook[-1]) if hook[:1] == ["sleep"] else 0.0
            yield path.name, pod["terminationGracePeriodSeconds"] - before, drain
    for path in sorted(ROOT.glob("docker-compose*.yml")):
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            command = service.get("command") or []
            if "build" in service and "migrate" not in command:
                environment = service.get("environment") or {}
                own = float(environment.get("EVERTHREAD_DRAIN_SECONDS", default))
                # Compose kills after ten seconds where a service does not say.
                yield f"{path.name}: {name}", seconds(service.get("stop_grace_period", "10s")), own


def test_every_manifest_gives_the_service_the_time_that_stopping_takes() -> None:
    found = list(graces())
    assert len(found) == 3
    for name, grace, drain in found:
        # Starting to kill takes a moment, too: a few seconds are left over.
        assert grace >= stopping.longest_seconds(drain) + 5, name


@pytest.fixture
def env(fresh_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    return {
        **fresh_env,
        "EVERTHREAD_DRAIN_SECONDS": f"{DRAIN_SECONDS:g}",
        "EVERTHREAD_DATA_DIR": str(tmp_path / "data"),
        "EVERTHREAD_LEASE_SECONDS": "60",
    }


@pytest.fixture
def proxy(env: dict[str, str]) -> Iterator[Proxy]:
    proxy = Proxy(env["DATABASE_URL"])
    yield proxy
    proxy.go_on()


@pytest.fixture
def spool(env: dict[str, str]) -> Path:
    return Path(env["EVERTHREAD_DATA_DIR"]) / "spool"


def files(spool: Path) -> list[Path]:
    return sorted(spool.glob("*.json"))


def turns(service: Service, thread: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.http.get(f"/threads/{thread}/turns", params={"order": "asc"}).json()["data"]
    return found


def check_kept(env: dict[str, str], spool: Path, answers: dict[str, str]) -> None:
    """Start again, and find each thread's answer once, recorded once."""
    again = Service(env=env)
    eventually(lambda: not files(spool))
    for thread, text in answers.items():
        assert [(turn["status"], turn["output_text"]) for turn in turns(again, thread)] == [("completed", text)]
        assert again.http.get(f"/threads/{thread}").json()["turn_count"] == 1
        recited = again.turn(thread, "Recite the conversation")["output_text"].splitlines()
        assert [line for line in recited if line.startswith("assistant: ")] == [f"assistant: {text}"]
        records = again.http.get(f"/threads/{thread}/audit").json()["data"]
        assert [record["action"] for record in records].count("turn.closed") == 2
    assert again.stop() == 0


def begun(service: Service, words: str) -> str:
    """The thread of a turn in the background."""
    thread = service.thread()
    body = {"input": f"Echo: {words}", "background": True}
    assert service.http.post(f"/threads/{thread}/turns", json=body).status_code == 200
    return thread


def test_clients_of_a_worker_that_stops_while_postgres_hangs_get_503_or_an_event_and_their_answers_are_on_disk(
    env: dict[str, str], proxy: Proxy, emulator: Emulator, spool: Path
) -> None:
    service = Service(env={**env, "DATABASE_URL": proxy.url})
    plain, streamed, late = service.thread(), service.thread(), service.thread()
    emulator.fault("slow", seconds=0.5, seconds_per_event=0.05, times=2)

    def post(thread: str, **fields: Any) -> httpx2.Response:
        return service.http.post(f"/threads/{thread}/turns", json={"input": "Echo: kept", **fields})

    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(post, plain), pool.submit(post, streamed, stream=True)]
        emulator.is_asked(2)
        proxy.hang()
        new = pool.submit(post, late)
        listed = pool.submit(service.http.get, "/threads")
        time.sleep(0.6)  # The model has answered.
        stopped_at = time.monotonic()
        service.process.process.send_signal(signal.SIGTERM)
        eventually(lambda: len(files(spool)) == 2, DRAIN_SECONDS + WITHIN_SECONDS)
        refused, events = asked[0].result(), read_events(asked[1].result().text.splitlines())
        answers: list[Future[httpx2.Response]] = [asked[0], new, listed]
        for answer in [each.result() for each in answers]:
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["retry-after"] == "2"
            assert answer.json()["error"]["type"] == "server_error"
            assert answer.json()["error"]["code"] == "service_stopping"
            assert answer.json()["error"]["message"]
    assert refused.headers["everthread-turn"] in refused.json()["error"]["message"]
    assert said(events) == "kept"
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "service_stopping")
    assert service.process.ended() == 0
    assert time.monotonic() - stopped_at < stopping.longest_seconds(DRAIN_SECONDS) + 2
    proxy.go_on()
    check_kept(env, spool, {plain: "kept", streamed: "kept"})


def test_a_kill_at_the_grace_of_the_manifests_loses_no_answer(
    env: dict[str, str], proxy: Proxy, emulator: Emulator, spool: Path
) -> None:
    service = Service(env={**env, "DATABASE_URL": proxy.url})
    emulator.fault("slow", seconds_per_event=0.08, times=20)
    threads = {begun(service, f"kept {number}"): f"kept {number}" for number in range(20)}
    emulator.is_asked(20)
    proxy.hang()
    service.process.process.send_signal(signal.SIGTERM)
    # As much later than the drain as in the manifest with the shortest grace, measured in drains.
    time.sleep(DRAIN_SECONDS * min(grace / drain for _, grace, drain in graces()))
    service.process.stop(signal.SIGKILL)
    assert files(spool)
    proxy.go_on()
    check_kept(env, spool, threads)
    assert lines_of("audit", "verify", env=env)[1][-1] == "The audit trail verifies."


def test_a_turn_that_was_closed_and_whose_file_was_left_is_not_doubled(
    env: dict[str, str], proxy: Proxy, emulator: Emulator, spool: Path, tmp_path: Path
) -> None:
    service = Service(env={**env, "DATABASE_URL": proxy.url, "EVERTHREAD_DRAIN_SECONDS": "20"})
    emulator.fault("slow", seconds_per_event=0.05)
    thread = begun(service, "once")
    emulator.is_asked()
    proxy.hang()
    service.process.process.send_signal(signal.SIGTERM)
    eventually(lambda: len(files(spool)) == 1)
    (file,) = files(spool)
    shutil.copy(file, tmp_path / "left")
    proxy.go_on()  # Before the drain's end: Postgres takes the answer, and the file goes.
    assert service.process.ended() == 0
    assert files(spool) == []
    shutil.copy(tmp_path / "left", file)
    check_kept(env, spool, {thread: "once"})
    assert lines_of("audit", "verify", env=env)[1][-1] == "The audit trail verifies."


def test_every_turn_that_ends_while_the_service_stops_is_on_disk_before_it_is_in_postgres(
    env: dict[str, str], proxy: Proxy, emulator: Emulator, spool: Path
) -> None:
    service = Service(env={**env, "DATABASE_URL": proxy.url, "EVERTHREAD_DRAIN_SECONDS": "20"})
    emulator.fault("slow", seconds_per_event=0.1)
    thread = begun(service, "kept")
    emulator.is_asked()
    service.process.process.send_signal(signal.SIGTERM)
    service.process.wait_for("Stopping.")
    proxy.hang()
    eventually(lambda: len(files(spool)) == 1)
    # Long before the drain's end.
    service.process.stop(signal.SIGKILL)
    proxy.go_on()
    check_kept(env, spool, {thread: "kept"})


def test_a_stream_of_another_workers_turn_and_a_handshake_are_told_that_the_worker_stops(
    env: dict[str, str], proxy: Proxy, emulator: Emulator
) -> None:
    runs, stops = Service(env=env), Service(env={**env, "DATABASE_URL": proxy.url})
    emulator.fault("slow", seconds_per_event=0.2)
    body = {"input": "Echo: " + "word " * 200, "background": True, "stream": True}
    thread = runs.thread()
    with runs.http.stream("POST", f"/threads/{thread}/turns", json=body) as answer:
        turn = answer.headers["everthread-turn"]
    with stops.http.stream("GET", f"/threads/{thread}/turns/{turn}/events") as followed:
        lines = followed.iter_lines()
        next(lines)
        proxy.hang()
        with socket.create_connection(("127.0.0.1", stops.port)) as handshake:
            # A key that has to be looked up.
            handshake.sendall(
                b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                b"Authorization: Bearer et_another_key_of_the_tests_012345\r\n\r\n"
            )
            time.sleep(0.3)
            stops.process.process.send_signal(signal.SIGTERM)
            refused = b"".join(iter(lambda: handshake.recv(65536), b""))
        *_, event, data, _ = lines
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in refused
    assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["code"] == "service_stopping"
    assert event == "event: error"
    last = json.loads(data.removeprefix("data: "))
    assert last["code"] == "service_stopping"
    assert last["starting_after"] >= 0
    assert stops.process.ended() == 0
    assert runs.stop() == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_the_drain_cuts_off_before_its_first_word_is_a_503(
    env: dict[str, str], emulator: Emulator, spool: Path, stream: bool
) -> None:
    service = Service(env={**env, "EVERTHREAD_PROVIDER_STALL_SECONDS": "20"})
    thread = service.thread()
    emulator.fault("slow", seconds=30)
    headers = {"Idempotency-Key": "again"}
    body = {"input": "Echo: answered", "stream": stream}
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(service.http.post, f"/threads/{thread}/turns", json=body, headers=headers)
        emulator.is_asked()
        waiting = pool.submit(service.http.post, f"/threads/{thread}/turns", json={**body, "if_busy": "wait"})
        eventually(lambda: waiters(env["DATABASE_URL"], thread) == 1)
        service.process.process.send_signal(signal.SIGTERM)
        for answer in (asked.result(), waiting.result()):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_stopping")
            assert answer.headers["retry-after"] == "2"
    assert service.process.ended() == 0
    assert files(spool) == []
    emulator.reset()
    again = Service(env=env)
    assert [turn["error"]["code"] for turn in turns(again, thread)] == ["service_stopping"]
    answer = again.http.post(f"/threads/{thread}/turns", json={**body, "stream": False}, headers=headers)
    assert answer.status_code == 409 if stream else answer.json()["output_text"] == "answered"
    assert again.stop() == 0


def test_a_stream_that_the_drain_cuts_off_ends_with_what_was_said(env: dict[str, str], emulator: Emulator) -> None:
    service = Service(env=env)
    emulator.fault("slow", seconds_per_event=0.1)
    body = {"input": "Echo: " + "word " * 100, "stream": True}
    with service.http.stream("POST", f"/threads/{service.thread()}/turns", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        service.process.process.send_signal(signal.SIGTERM)
        events = [line for line in lines if line.startswith("event: ")]
    assert events[-1] == "event: response.incomplete"
    assert service.process.ended() == 0


def test_a_second_sigterm_changes_nothing(env: dict[str, str], emulator: Emulator) -> None:
    service = Service(env={**env, "EVERTHREAD_DRAIN_SECONDS": "20"})
    thread = service.thread()
    emulator.fault("slow", seconds=1)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(service.turn, thread, "Echo: kept")
        emulator.is_asked()
        for _ in range(3):
            service.process.process.send_signal(signal.SIGTERM)
            time.sleep(0.15)
        assert asked.result()["output_text"] == "kept"
    assert service.process.ended() == 0


def test_a_second_sigterm_leaves_no_embedded_server_running(tmp_path: Path, emulator: Emulator) -> None:
    env = {"DASHSCOPE_API_KEY": "sk-tests", "DASHSCOPE_BASE_URL": emulator.base_url}
    service = Service("--data-dir", str(tmp_path / "data"), env=env)
    service.http.close()
    service.process.process.send_signal(signal.SIGTERM)
    while service.process.process.poll() is None:
        service.process.process.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    # Python lets go of its signals a moment before it ends.
    assert service.process.ended() in (0, -signal.SIGTERM)
    place = str(tmp_path / "data")
    assert not [each for each in psutil.process_iter(["cmdline"]) if place in " ".join(each.info["cmdline"] or ())]


def waits_for(process: Process, proxy: Proxy) -> None:
    """Wait until the processes of a service have connected to a Postgres that hangs."""
    parent = psutil.Process(process.process.pid)

    def connected() -> bool:
        processes = [parent, *parent.children(recursive=True)]
        return any(
            each.raddr and each.raddr.port == proxy.port for one in processes for each in one.net_connections("tcp")
        )

    eventually(connected)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_service_that_waits_for_a_postgres_that_hangs_can_be_stopped_before_it_is_ready(
    env: dict[str, str], proxy: Proxy, emulator: Emulator, workers: int
) -> None:
    """Postgres hangs from the moment on that the process has looked at it and begins to serve."""
    process = Process(
        "serve", "--port", str(free_port()), "--workers", str(workers), env={**env, "DATABASE_URL": proxy.url}
    )
    process.wait_for("Provider: ")
    proxy.hang()
    waits_for(process, proxy)
    time.sleep(0.5)
    process.process.send_signal(signal.SIGTERM)
    assert process.ended() == 0  # In 30 s, and not when Postgres answers.
    assert not any("Traceback" in line or '"level": "error"' in line for line in process.lines), process.lines


def test_a_service_whose_postgres_hangs_from_the_beginning_can_be_stopped(
    env: dict[str, str], proxy: Proxy, emulator: Emulator
) -> None:
    proxy.hang()
    process = Process("serve", "--port", str(free_port()), env={**env, "DATABASE_URL": proxy.url})
    waits_for(process, proxy)
    time.sleep(0.5)
    process.process.send_signal(signal.SIGTERM)
    assert process.ended() == 0  # In 30 s, and not when Postgres answers.
    assert not any("Traceback" in line for line in process.lines)


def in_the_way(spool: Path) -> None:
    spool.parent.mkdir(exist_ok=True)
    spool.write_text("in the way, as a full disk would be")


def test_a_spool_that_cannot_be_written_is_said_with_the_turns_that_a_kill_would_lose(
    env: dict[str, str], proxy: Proxy, emulator: Emulator, spool: Path
) -> None:
    service = Service(env={**env, "DATABASE_URL": proxy.url})
    in_the_way(spool)
    emulator.fault("slow", seconds_per_event=0.03, times=2)
    threads = [begun(service, "in danger") for _ in range(2)]
    ids = [turns(service, thread)[0]["id"] for thread in threads]
    emulator.is_asked(2)
    proxy.hang()
    service.process.process.send_signal(signal.SIGTERM)

    def is_said(id_: str) -> bool:
        return any("cannot be written to the spool" in line and id_ in line for line in service.process.lines)

    eventually(lambda: all(map(is_said, ids)))
    # Neither takes it: the process stays until it is killed, or either of them does.
    time.sleep(DRAIN_SECONDS + stopping.CLOSE_SECONDS + 0.5)
    assert service.process.process.poll() is None
    spool.unlink()
    assert service.process.ended() == 0
    assert len(files(spool)) == 2
    proxy.go_on()
    check_kept(env, spool, dict.fromkeys(threads, "in danger"))


def test_a_spool_that_cannot_be_written_holds_nobody_up_while_postgres_answers(
    env: dict[str, str], emulator: Emulator, spool: Path
) -> None:
    service = Service(env={**env, "EVERTHREAD_DRAIN_SECONDS": "20"})
    in_the_way(spool)
    emulator.fault("slow", seconds=0.5)
    thread = service.thread()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(service.turn, thread, "Echo: kept")
        emulator.is_asked()
        service.process.process.send_signal(signal.SIGTERM)
        assert asked.result()["output_text"] == "kept"
    assert service.process.ended() == 0
    spool.unlink()
    check_kept(env, spool, {thread: "kept"})


def test_several_workers_that_stop_while_postgres_hangs_keep_every_answer(
    env: dict[str, str], proxy: Proxy, emulator: Emulator, spool: Path
) -> None:
    drain = 8
    service = Service("--workers", "2", env={**env, "DATABASE_URL": proxy.url, "EVERTHREAD_DRAIN_SECONDS": f"{drain}"})
    # All still speak when the last has begun, and end within the drain.
    emulator.fault("slow", seconds_per_event=0.4, times=8)

    def begin(number: int) -> str:
        """Begin a turn over a connection of its own, so that both workers get some."""
        headers = {"Authorization": f"Bearer {service.key}"}
        with httpx2.Client(base_url=f"{service.url}/v1", headers=headers, timeout=60) as http:
            thread: str = http.post("/threads", json={}).json()["id"]
            body = {"input": f"Echo: kept {number}", "background": True}
            assert http.post(f"/threads/{thread}/turns", json=body).status_code == 200
        return thread

    with ThreadPoolExecutor(8) as pool:
        threads = {thread: f"kept {number}" for number, thread in enumerate(pool.map(begin, range(8)))}
    emulator.is_asked(8)
    proxy.hang()
    service.process.process.send_signal(signal.SIGTERM)
    eventually(lambda: len(files(spool)) == 8, drain + WITHIN_SECONDS + 5)
    assert service.process.ended() == 0
    proxy.go_on()
    check_kept(env, spool, threads)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_ctrl_c_pressed_again_and_again_loses_nothing_of_what_was_said(
    env: dict[str, str], emulator: Emulator, workers: int
) -> None:
    service = Service("--workers", str(workers), env={**env, "EVERTHREAD_DRAIN_SECONDS": "30"})
    emulator.fault("slow", seconds_per_event=0.1)
    thread = begun(service, "word " * 400)
    with service.http.stream("GET", f"/threads/{thread}/turns/{turns(service, thread)[0]['id']}/events") as answer:
        next(line for line in answer.iter_lines() if ".delta" in line)
    parent = psutil.Process(service.process.process.pid)
    # As a terminal sends it: to the whole group.
    group = [parent, *(each for each in parent.children() if "spawn_main" in " ".join(each.cmdline()))]
    began = time.monotonic()
    for _ in range(4):
        for each in group:
            try:
                os.kill(each.pid, signal.SIGINT)
            except ProcessLookupError:
                continue
        time.sleep(0.3)
    service.process.ended()
    assert time.monotonic() - began < 10
    again = Service(env=env)
    turn = again.ended_turn(thread)
    assert turn["status"] == "incomplete"
    assert turn["output_text"].startswith("word")
    assert again.stop() == 0

"""Everthread and its emulator as processes, and a client for each."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import psutil
import pytest
from openai import AsyncOpenAI

from tests import forkserver

COMMAND = [sys.executable, "-m", "app.cli"]
START_SECONDS = 60.0
KEY = "et_the_key_of_the_tests_0123456789"


PORTS_OF_A_WORKER = 1000
_ports = itertools.cycle(range(PORTS_OF_A_WORKER))


def free_port() -> int:
    """A port that nobody else takes meanwhile: of a range that is this worker's alone, and below those that the system
    hands out by itself."""
    first = 12_000 + PORTS_OF_A_WORKER * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    for port in (first + each for each in _ports):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


def eventually(check: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def end_all(pid: int) -> None:
    """Kill a process and what it has started."""
    try:
        parent = psutil.Process(pid)
        for process in (*parent.children(recursive=True), parent):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    except psutil.NoSuchProcess:
        return


class Process:
    """A command of ours, and every line that it has printed."""

    started: ClassVar[set["Process"]] = set()
    """Processes that have not ended."""

    allowed: ClassVar[bool] = True
    """False in a quick run: a test that starts one is skipped."""

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        within: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Args: within: a command that runs it, such as prlimit. command: another installation's."""
        if not self.allowed:
            pytest.skip("It starts a process.")
        variables = {**forkserver.clean_environment(), **(env or {})}
        self.process: subprocess.Popen[str] | forkserver.Forked
        release = cwd or forkserver.HERE
        runs_here = (release / "tests" / "forkserver.py").exists()
        if command is COMMAND and not within and runs_here and forkserver.forkable(variables):
            self.process = forkserver.Forked(arguments, variables, release)
        else:
            self.process = subprocess.Popen(
                [*within, *command, *arguments],
                env=variables,
                cwd=cwd,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.started.add(self)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, words: str) -> str:
        """The first line with these words in it."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            for line in list(self.lines):
                if words in line:
                    return line
            if ended and not self._reader.is_alive():
                break
            time.sleep(0.02)
        raise AssertionError(f"{words!r} was not printed:\n" + "\n".join(self.lines))

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        code = self.process.wait(timeout=30)
        self.started.discard(self)
        self._reader.join(timeout=5)
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))


class Emulator:
    """A provider to run against, and the hand that plays with it."""

    def __init__(self, env: dict[str, str] | None = None) -> None:
        port = free_port()
        process = Process("emulator", "--port", str(port), env=env)
        process.wait_for("ready")
        self._connect(process, port)

    def _connect(self, process: Any, port: int) -> None:
        """Args: process: a `Process`, or what stops as one."""
        self.process: Process = process
        self.port = port
        self.base_url = f"http://127.0.0.1:{self.port}/compatible-mode/v1"
        self._http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}")

    def control(self, what: str, body: Any) -> Any:
        answer = self._http.post(f"/_emulator/{what}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def advance(self, *, days: float) -> None:
        self.control("clock", {"advance_seconds": days * 86400})

    def forget(self, response_id: str | None = None) -> None:
        self.control("forget", {"all": True} if response_id is None else {"response_id": response_id})

    def fault(self, kind: str, **how: Any) -> None:
        self.control("faults", [{"kind": kind, **how}])

    def calls(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = self._http.get("/_emulator/calls").json()["data"]
        return calls

    def is_asked(self, times: int = 1) -> None:
        """Wait until it has been asked so often."""
        eventually(lambda: len(self.calls()) >= times)

    def reset(self) -> None:
        self.control("reset", {})

    def stop(self) -> None:
        self._http.close()
        self.process.stop()


class Service:
    """`everthread serve` with one project's key, spoken to over HTTP."""

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        key: str | None = KEY,
        within: Sequence[str] = (),
        cwd: Path | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Args: cwd: where the release is that is to run; this one if left out."""
        env = {**(env or {})}
        if key is not None:
            env["EVERTHREAD_BOOTSTRAP_KEY"] = key
        port = free_port()
        process = Process("serve", "--port", str(port), *arguments, env=env, cwd=cwd, within=within, command=command)
        url = process.wait_for("Everthread is ready at ").rpartition(" ")[2]
        self._connect(process, port, url, key or process.wait_for("API key: ").rpartition(" ")[2])

    def _connect(self, process: Any, port: int, url: str, key: str) -> None:
        """Args: process: a `Process`, or what stops as one."""
        self.process: Process = process
        self.port, self.url, self.key = port, url, key
        self.http = httpx2.Client(
            base_url=f"{self.url}/v1", headers={"Authorization": f"Bearer {self.key}"}, timeout=60.0
        )
        self.openai = AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def thread(self, **fields: Any) -> str:
        """A new thread's id."""
        answer = self.http.post("/threads", json=fields)
        assert answer.status_code == 201, answer.text
        thread_id: str = answer.json()["id"]
        return thread_id

    def turn(self, thread: str, input_: Any, **fields: Any) -> dict[str, Any]:
        """A turn that is answered."""
        answer = self.http.post(f"/threads/{thread}/turns", json={"input": input_, **fields})
        assert answer.status_code == 200, answer.text
        turn: dict[str, Any] = answer.json()
        return turn

    def stream(self, thread: str, input_: Any, **fields: Any) -> list[dict[str, Any]]:
        """The events of a streamed turn, read as server-sent events are."""
        body = {"input": input_, "stream": True, **fields}
        with self.http.stream("POST", f"/threads/{thread}/turns", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            return read_events(answer.iter_lines())

    def follow(self, thread: str, turn: str, **how: Any) -> list[dict[str, Any]]:
        """The events of a turn that somebody has begun, to its end."""
        with self.http.stream("GET", f"/threads/{thread}/turns/{turn}/events", **how) as answer:
            assert answer.status_code == 200, answer.read()
            return read_events(answer.iter_lines())

    def every(self, path: str, **params: Any) -> list[dict[str, Any]]:
        """Return the entries of all pages of a list."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.http.get(path, params={"limit": 100, **params}).raise_for_status().json()
            found += page["data"]
            if not page["has_more"]:
                return found
            params = {**params, "after": page["last_id"]}

    def chain(self, thread: str) -> list[dict[str, Any]]:
        return self.every(f"/threads/{thread}/chain")

    def ended_turn(self, thread: str) -> dict[str, Any]:
        """The thread's latest turn, once it has ended."""
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            turn: dict[str, Any] = self.http.get(f"/threads/{thread}/turns").json()["data"][0]
            if turn["status"] != "in_progress":
                return turn
            time.sleep(0.1)
        raise AssertionError(f"still in progress: {turn}")

    def stop(self) -> int:
        self.http.close()
        return self.process.stop()


def read_events(lines: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            event = json.loads(fields["data"])
            assert event["type"] == fields["event"]
            assert str(event["sequence_number"]) == fields["id"]
            events.append(event)
            fields = {}
    return events


def said(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")

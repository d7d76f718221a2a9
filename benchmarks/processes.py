"""The processes that are measured, and what they use."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

READY_SECONDS = 180.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Used:
    """User and system time of a process tree, in seconds."""

    user: float
    system: float

    @property
    def total(self) -> float:
        return self.user + self.system

    def __sub__(self, earlier: "Used") -> "Used":
        return Used(self.user - earlier.user, self.system - earlier.system)


class Tree:
    """A process with all that come from it, and those that were named besides."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def processes(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def cpu(self) -> Used:
        times = [process.cpu_times() for process in self.processes()]
        return Used(sum(t.user for t in times), sum(t.system for t in times))

    def each_cpu(self) -> dict[int, float]:
        """Seconds of CPU by process id."""
        return {p.pid: (t := p.cpu_times()).user + t.system for p in self.processes()}

    def pin(self, cores: list[int]) -> None:
        """Let the processes run on these cores only. What they start later stays there too."""
        for process in self.processes():
            process.cpu_affinity(cores)

    def memory(self) -> int:
        """Bytes that are the processes' own."""
        total = 0
        for process in self.processes():
            total += process.memory_full_info().uss
        return total


@contextmanager
def running(
    command: Sequence[str],
    *,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    ready: Callable[[], bool],
    log: Path,
) -> Iterator[Tree]:
    """A process for as long as the context lasts.

    Args:
        ready: whether it can be used by now.
        log: where its output goes.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, cwd=cwd, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.02)
            yield Tree(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(url: str) -> Callable[[], bool]:
    """Return a check that is true if a URL answers 200."""

    def check() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return check


def listens(port: int) -> Callable[[], bool]:
    def check() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return check

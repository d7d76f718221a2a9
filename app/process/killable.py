"""A small pool of processes for work whose cost cannot be foreseen, each task with a limit of CPU time and memory.

A schema that a client has written, or a text that a model has written, can make a validator or a renderer compute for
minutes. In a thread this would hold up the event loop and the end of the process. Here it is a process that the kernel
ends: a timer of its CPU time is set before each task, with the signal's default action, which no Python code can delay.
It also ends when its parent does: at the end of its input, or by the timer.
"""

import asyncio
import importlib
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

import orjson

CPU_SECONDS = 1.0
"""CPU time of a task."""

TASK_SECONDS = 10.0
"""Time of a task, where the machine gives its process little CPU time."""

WAIT_SECONDS = 5.0
"""The longest time that a task waits for its project's earlier tasks and for a process."""

PROCESSES = 2
"""Processes of a pool. They are started when there is something to do."""

MEMORY_BYTES = 1 << 30
"""Address space of a process."""

LARGEST = 32 * 1024 * 1024
"""Bytes of a task, and of its result."""

LENGTH_BYTES = 4

KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")
"""Environment of the processes. Keys and addresses are not part of it."""


class LimitExceeded(Exception):
    """A task was not finished within its limits. Its text says why."""


class Killable:
    """The pool of one worker. A project has one task at work at a time, so that its tasks hold up its own."""

    def __init__(self, variables: Mapping[str, str], *, processes: int = PROCESSES) -> None:
        """Args: variables: of the environment; the processes get those in KEPT_VARIABLES."""
        self._variables = {name: value for name, value in variables.items() if name in KEPT_VARIABLES}
        self._room = asyncio.Semaphore(processes)
        self._idle: list[asyncio.subprocess.Process] = []
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()
        self._stopped = False

    async def run(self, project_id: UUID, function: str, *arguments: Any) -> Any:
        """Return the result of a function. Its arguments and its result are JSON.

        Args:
            function: its module, a colon, its name. It is imported where it runs, and not in this process.

        Raises:
            LimitExceeded: it took too much time or memory, it failed, or there was no room for it.
        """
        task = orjson.dumps([*function.split(":"), arguments])
        if len(task) > LARGEST:
            raise LimitExceeded(f"it is larger than {LARGEST} bytes")
        lock = self._locks.setdefault(project_id, asyncio.Lock())
        try:
            async with asyncio.timeout(WAIT_SECONDS) as patience, lock, self._room:
                patience.reschedule(None)
                return await self._done(task)
        except TimeoutError:
            raise LimitExceeded("other checks of the service took too long") from None

    async def stop(self) -> None:
        """End the processes."""
        self._stopped = True
        while self._idle:
            await _end(self._idle.pop())

    async def _done(self, task: bytes) -> Any:
        self._idle = [process for process in self._idle if process.returncode is None]
        process = self._idle.pop() if self._idle else await self._start()
        finished = False
        try:
            async with asyncio.timeout(TASK_SECONDS):
                result = await _exchange(process, task)
            finished = True
            return result
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            raise LimitExceeded("it took too much time or memory") from None
        finally:
            if finished and not self._stopped:
                self._idle.append(process)
            else:
                await _end(process)

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "app.process.killable",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=self._variables,
                start_new_session=True,  # A Ctrl-C in the terminal is the service's to act on.
            )
        except OSError as error:
            raise LimitExceeded(f"no process could be started: {error.strerror}") from error


async def _exchange(process: asyncio.subprocess.Process, task: bytes) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(len(task).to_bytes(LENGTH_BYTES) + task)
    await process.stdin.drain()
    length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES))
    if length > LARGEST:
        raise LimitExceeded(f"its result is larger than {LARGEST} bytes")
    return orjson.loads(await process.stdout.readexactly(length))


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _serve() -> None:
    """Work on tasks until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    came, out = sys.stdin.buffer, sys.stdout.buffer
    while header := came.read(LENGTH_BYTES):
        module, name, arguments = orjson.loads(came.read(int.from_bytes(header)))
        function = getattr(importlib.import_module(module), name)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        result = orjson.dumps(function(*arguments))
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write(len(result).to_bytes(LENGTH_BYTES) + result)
        out.flush()


if __name__ == "__main__":
    _serve()

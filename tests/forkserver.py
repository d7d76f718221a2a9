"""Everthread processes forked from one that has imported everything: importing takes most of the time of a start.

A forked process runs `app.cli` as `__main__` and differs from `python -m app.cli` in its command line in `ps`, and in
its end: its modules are not taken apart, which would take as long as its start (see `_Ending`).
What an interpreter reads once, when it starts, must come from a real start: see `forkable`.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "FAKETIME", "OTEL_", "MALLOC_", "UV_")
"""Prefixes of variables that Python, libc or a library reads when it is loaded."""

MOST_REQUEST_BYTES = 1_000_000

HERE = Path(__file__).parents[1]

IMPORTED = (
    "app.cli", "app.main", "app.serve", "app.http.door", "app.emulator.app", "app.items.vocabulary",
    "uvicorn.lifespan.on", "uvicorn.loops.uvloop",
)  # fmt: skip
"""Modules of a service, those too that are imported when they are needed."""


def copy_release(directory: Path) -> None:
    """Copy what a release is run from, with its compiled modules and this one."""
    for part in ("app", "migrations"):
        shutil.copytree(HERE / part, directory / part)
    shutil.copy(HERE / "alembic.ini", directory)
    (directory / "tests").mkdir()
    for name in ("__init__", "forkserver"):
        shutil.copy(HERE / "tests" / f"{name}.py", directory / "tests")


def clean_environment() -> dict[str, str]:
    """The variables of this process but those that are settings of Everthread."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("EVERTHREAD_", "DASHSCOPE_", "DATABASE_URL"))}


def forkable(env: dict[str, str]) -> bool:
    """True if a process with these variables may be forked: the fork server started with the same ones."""
    return hasattr(os, "pidfd_open") and not any(
        name.startswith(READ_AT_START) and os.environ.get(name) != value for name, value in env.items()
    )


class Forked:
    """A forked process, with those methods of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str], release: Path = HERE) -> None:
        """Args: release: the checkout that runs, with this module in its place."""
        readable, writable = os.pipe()
        self.stdout: IO[str] = open(readable, encoding="utf-8", errors="replace")  # noqa: SIM115
        self.returncode: int | None = None
        self._lock = threading.Lock()
        self._server = _server(release).connect()
        request = json.dumps({"arguments": list(arguments), "env": env}).encode()
        socket.send_fds(self._server, [len(request).to_bytes(8, "big")], [writable])
        self._server.sendall(request)
        os.close(writable)
        self._answers = self._server.makefile("r")
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._server], [], [], 0)[0]:
                self._read_exit_code()
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired`."""
        with self._lock:
            if self.returncode is None:
                if not select.select([self._server], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(["everthread"], timeout or 0)
                self._read_exit_code()
            assert self.returncode is not None
            return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _read_exit_code(self) -> None:
        self.returncode = int(self._answers.readline())
        self._answers.close()
        self._server.close()


PROGRAM = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
request = json.dumps(dict(arguments=sys.argv[1:], env=dict(os.environ), cwd=os.getcwd())).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [1, 2, 0])
server.sendall(request)
sys.exit(int(server.makefile().readlines()[1]) & 255)
"""


def program(folder: Path) -> Path:
    """Write an executable `everthread` that is forked too, for scripts that call it by its name."""
    file = folder / "everthread"
    file.write_text(PROGRAM.format(python=sys.executable, path=_server().path()))
    file.chmod(0o755)
    return file


class _Server:
    """The process that others of a release are forked from, started by the first one that is wanted."""

    def __init__(self, release: Path) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._path = f"{self._directory.name}/socket"
        # It ends when this pipe does, so also when this process is killed.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forkserver", self._path],
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=release,
        )
        atexit.register(self._end)

    def path(self) -> str:
        """The path of the socket of a server that answers."""
        self.connect().close()
        return self._path

    def connect(self) -> socket.socket:
        deadline = time.monotonic() + 60
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(self._path)
                return connection
            except OSError:
                connection.close()
                assert self._process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._directory.cleanup()


_servers: dict[Path, _Server] = {}


def _server(release: Path = HERE) -> _Server:
    if release not in _servers:
        _servers[release] = _Server(release)
    return _servers[release]


def _serve(path: str) -> list[str] | None:
    """Fork a process for each connection and report its exit code there.

    Returns:
        None when the tests have ended; in a forked process, its arguments.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    clients: dict[int, tuple[int, socket.socket]] = {}
    while True:
        readable, _, _ = select.select([sys.stdin.fileno(), listener, *clients], [], [])
        for each in readable:
            if each is listener:
                connection, _ = listener.accept()
                request, descriptors = _received(connection)
                if not descriptors:
                    connection.close()
                    continue
                pid = os.fork()
                if pid == 0:
                    _become(request["env"], descriptors)
                    os.chdir(request.get("cwd", "."))
                    arguments: list[str] = request["arguments"]
                    return arguments
                for descriptor in descriptors:
                    os.close(descriptor)
                clients[os.pidfd_open(pid)] = pid, connection
                connection.sendall(f"{pid}\n".encode())
            elif each in clients:
                pid, connection = clients.pop(each)
                os.close(each)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                _report(connection, code)
            else:
                return None


def _report(connection: socket.socket, code: int) -> None:
    try:
        connection.sendall(f"{code}\n".encode())
    except OSError:
        pass  # The test has ended without waiting for it.
    finally:
        connection.close()


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request and descriptors: of the output alone, or of stdout, stderr and stdin; none if nothing is asked for."""
    size, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
    if not size:
        return {}, []
    left = int.from_bytes(size, "big")
    body = b""
    while len(body) < left:
        body += connection.recv(MOST_REQUEST_BYTES)
    return json.loads(body), descriptors


def _become(env: dict[str, str], descriptors: list[int]) -> None:
    """Take the environment and the descriptors of the new process, and close all that is the server's."""
    if len(descriptors) == 1:
        descriptors = [descriptors[0], descriptors[0], os.open(os.devnull, os.O_RDONLY)]
    for descriptor, number in zip(descriptors, (1, 2, 0), strict=True):
        os.dup2(descriptor, number)
    os.closerange(3, 1024)
    os.environ.clear()
    os.environ.update(env)


def _prepare() -> None:
    """Import and load what a process of Everthread imports and loads before its first turn is answered."""
    for module in IMPORTED:
        importlib.import_module(module)
    nowhere = {"DATABASE_URL": "postgresql://nowhere/none", "REDIS_URL": "redis://nowhere"}
    sys.modules["app.main"].build(sys.modules["app.settings"].Connected.model_validate(nowhere))
    sys.modules["app.items.vocabulary"].text_tokens("")


class _Ending:
    """Ends the process once its threads have ended and all other exit handlers have run, as an interpreter does, but
    leaves its memory to the system. Made before any module that registers a handler: the last to run is the first one
    registered."""

    def __init__(self) -> None:
        self.code: int | None = None
        """None for a process that ends as interpreters do."""
        atexit.register(self._end)

    def run(self) -> None:
        """Run `app.cli`, and note how it ends."""
        try:
            runpy.run_module("app.cli", run_name="__main__", alter_sys=True)
            self.code = 0
        except SystemExit as ended:
            # One with a sentence is left to the interpreter, which prints it.
            self.code = 0 if ended.code is None else ended.code if isinstance(ended.code, int) else None
            raise

    def _end(self) -> None:
        if self.code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.code & 255)


def _main(path: str) -> None:
    """Serve forks; in a forked process, run the command and end."""
    ending = _Ending()
    _prepare()
    assert threading.active_count() == 1, "A process with threads must not be forked."
    gc.collect()
    gc.freeze()
    arguments = _serve(path)
    if arguments is not None:
        sys.argv[1:] = arguments
        del sys.modules["app.cli"]
        ending.run()


if __name__ == "__main__":
    _main(sys.argv[1])

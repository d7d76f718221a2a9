"""The data directory: one owner at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DataDirInUse(Exception):
    """Another process has the directory."""


@contextmanager
def owned(path: Path) -> Iterator[Path]:
    """Hold a data directory, made if it is not there. The kernel lets go of it when the process ends, however it ends.

    Raises:
        DataDirInUse: naming the owner's process id.
    """
    path = path.expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    with (path / "owner").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise DataDirInUse(
                f"The data directory {path} is in use by process {lock.read().strip() or '?'}. "
                "Stop that one first, or give this one its own --data-dir."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield path

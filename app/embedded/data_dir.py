"""The data directory: one owner at a time, and closed to other users."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWNER = "owner"


class CannotStart(Exception):
    """Says in a sentence why an embedded server cannot be started, and what to do about it."""


class DataDirInUse(CannotStart):
    """Another process has the directory."""


@contextmanager
def owned(path: Path) -> Iterator[Path]:
    """Hold a data directory, made if it is not there. The kernel lets go of it when the process ends, however it ends.

    Raises:
        DataDirInUse: naming the owner's process id.
    """
    path = path.expanduser().resolve()
    _close(path)
    with (path / OWNER).open("a+") as lock:
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


def _close(path: Path) -> None:
    """Make the directory, or close it to others if it is ours. One that others use too keeps its mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.stat()
        ours = (path / OWNER).exists() and found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX
        if ours or not any(path.iterdir()):
            path.chmod(0o700)

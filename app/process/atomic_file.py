"""Files that are whole or not there: a secret that is made once, and what takes the place of another."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def get_or_create(path: Path, make: Callable[[], str]) -> str:
    """Return the content of the file, or create it. Only one of two concurrent processes creates it.

    Raises:
        OSError: the directory cannot be written to.
    """
    if path.exists():
        return path.read_text()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_suffix(f".{os.getpid()}")
    part.touch(mode=0o600)
    part.write_text(make())
    with suppress(FileExistsError):
        os.link(part, path)
    part.unlink()
    return path.read_text()


@contextmanager
def replacing(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is whole: what was there before stays until then."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

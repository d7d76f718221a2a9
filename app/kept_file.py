"""A secret in a file of the data directory, made there once."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def kept(path: Path, make: Callable[[], str]) -> str:
    """What the file holds, or what is made for it where there is none. Of two processes at once, one makes it.

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

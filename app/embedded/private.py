"""Directories that their owner alone reaches, and sockets in them."""

import os
import shutil
import stat
import tempfile
from pathlib import Path

LONGEST_SOCKET_PATH = 100
"""Linux takes 107 bytes."""

MEMO = "socket-directory"
"""File in which a directory whose path is too long for a socket records the location of its socket."""


def make(path: Path, owner: int | None = None) -> None:
    """Make a directory, 0700. One that is there is closed to others; its parents stay as they are.

    Args:
        owner: the user id that it is for; None for this process's own.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    if owner is not None:
        os.chown(path, owner, -1)
    path.chmod(0o700)


def socket_directory(directory: Path, socket_name: str, owner: int | None = None) -> Path:
    """Return the directory of a server's socket: its private directory, or a private one with a shorter path."""
    if len(os.fsencode(directory / socket_name)) <= LONGEST_SOCKET_PATH:
        return directory
    memo = directory / MEMO
    if memo.exists() and _is_private(kept := Path(memo.read_text()), owner):
        return kept
    made = Path(tempfile.mkdtemp(prefix="everthread-"))
    make(made, owner)
    memo.write_text(str(made))
    return made


def forget_socket_directory(directory: Path) -> None:
    """Remove what `socket_directory` has made, once the server has stopped."""
    memo = directory / MEMO
    if memo.exists():
        shutil.rmtree(memo.read_text(), ignore_errors=True)
        memo.unlink()


def _is_private(path: Path, owner: int | None) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    mine = found.st_uid == (os.geteuid() if owner is None else owner)
    return stat.S_ISDIR(found.st_mode) and mine and stat.S_IMODE(found.st_mode) == 0o700

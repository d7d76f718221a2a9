"""User of the embedded Postgres. Postgres refuses to run as root; then it runs as a user of its own, which may only
reach its files where root keeps them, so that no directory is opened to others."""

import fcntl
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from app.embedded.data_dir import CannotStart
from app.settings import environment

USER = "pgserver"

CAP_DAC_READ_SEARCH = 2
"""Capability of capabilities(7) to read files and search directories that are closed to others."""


SYSTEM_PROGRAMS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
"""Directories of useradd and setpriv. PATH may lack them: cron's has no /usr/sbin, and `env -i` leaves no PATH."""


def _program(name: str) -> str | None:
    """Return the path of a program of the system; None if it is not installed."""
    return shutil.which(name, path=os.pathsep.join((environment().get("PATH", os.defpath), *SYSTEM_PROGRAMS)))


def user_id() -> int | None:
    """The id of the user that Postgres runs as; None for this process's own.

    Raises:
        CannotStart: there is no such user, and none can be made.
    """
    if os.geteuid() != 0:
        return None
    known = _known()
    if known is not None:
        return known
    users = os.open("/etc", os.O_RDONLY)
    try:
        # Of two at once useradd refuses one, or lets both make it, each with an id of its own.
        fcntl.flock(users, fcntl.LOCK_EX)
        if _known() is None:
            command = [
                _program("useradd") or "useradd",
                "--system",
                "--no-create-home",
                "--shell",
                "/usr/sbin/nologin",
                USER,
            ]
            subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotStart(
            f"Postgres does not run as root, and a user {USER} for it could not be made ({error}). "
            "Run the service as an ordinary user, or set DATABASE_URL."
        ) from error
    finally:
        os.close(users)
    return pwd.getpwnam(USER).pw_uid


def _known() -> int | None:
    try:
        return pwd.getpwnam(USER).pw_uid
    except KeyError:
        return None


def as_user(uid: int | None, programs: Path, files: Iterable[Path]) -> list[str]:
    """Return the words that must precede a command so that it runs as this user.

    Args:
        programs: the directory of the commands.
        files: other files that they must reach.

    Raises:
        CannotStart: no program to change the user is installed.
    """
    if uid is None:
        return []
    setpriv = _program("setpriv")
    if setpriv is None:
        raise CannotStart(
            "Postgres does not run as root, and there is no setpriv (of util-linux) to run it as another user. "
            "Run the service as an ordinary user, or set DATABASE_URL."
        )
    command = [setpriv, f"--reuid={uid}", f"--regid={pwd.getpwuid(uid).pw_gid}", "--clear-groups", "--no-new-privs"]
    executable = (programs / "postgres").stat().st_mode & 0o005 == 0o005
    if executable and all(_is_open(path) for path in (programs, *files)):
        return [*command, "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--"]
    right = "+dac_read_search" if executable and _may(CAP_DAC_READ_SEARCH) else "+dac_override"
    return [
        *command,
        *(f"--{kind}=-all,{right}" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
        # Otherwise access(2), by which Postgres looks for its programs, would not count them.
        "--securebits=+no_setuid_fixup",
        "--",
    ]


def _is_open(path: Path) -> bool:
    """Return True if other users may search every directory above."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def _may(capability: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> capability & 1)
    return False

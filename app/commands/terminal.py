"""Functions that all commands share: settings, the database, and ending with an error."""

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterable
from difflib import SequenceMatcher
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import asyncpg
import orjson
import typer
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from app.db import configured, connecting
from app.db.buckets import database_key
from app.db.engine import Database
from app.db.replica import ReplicaReads
from app.embedded import postgres as embedded_postgres
from app.http.errors import DatabaseUnavailable
from app.process.output import echo
from app.settings import EmulatorSettings, OTelSettings, Settings, environment, placeholder_left

T = TypeVar("T")

STATEMENT_SECONDS = 600.0
"""Commands may look through everything: their statements are given more time than those of a request."""


OTHER_VARIABLES = {"EVERTHREAD_URL", "EVERTHREAD_KEY", "EVERTHREAD_AUDIT_PUBLIC_KEY"}
"""Variables of the command line's own."""

CLOSE = 0.75
"""Similarity (difflib's ratio, without the common prefix) from which a setting is suggested for an unknown name."""

SET_ELSEWHERE = {
    "RETENTION": "How long content is kept is set per project: see docs/retention.md.",
    "RETENTION_DAYS": "How long content is kept is set per project: see docs/retention.md.",
    "HOST": "Say 'everthread serve --host'.",
    "PORT": "Say 'everthread serve --port'.",
}
"""Names that are often tried as settings, and where the thing is set instead."""


PREFIX = "EVERTHREAD_"


def read_settings(**given: object) -> Settings:
    for line in misspelt(environment()):
        sys.stderr.write(f"everthread: {line}\n")
    if (sentence := placeholder_left(environment())) is not None:
        stop(sentence)
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        _stop_at(error, "EVERTHREAD_")


def check_otel_settings() -> None:
    """End the command if OpenTelemetry's variables ask for something unsupported."""
    try:
        OTelSettings()
    except ValidationError as error:
        _stop_at(error, "OTEL_")


def _stop_at(error: ValidationError, prefix: str) -> NoReturn:
    """End the command at the first setting that is wrong. Those with an alias are named by it."""
    first = error.errors()[0]
    if not first["loc"]:
        stop(f"{first['msg']}.")
    name = str(first["loc"][0])
    variable = name if name.isupper() else f"{prefix}{name.upper()}"
    stop(f"The setting {variable} is wrong: {str(first['msg']).removeprefix('Value error, ')}.")


def misspelt(names: Iterable[str]) -> list[str]:
    """A line for each variable that looks like one of ours, and is none."""
    known = {name.removeprefix(PREFIX): name for name in OTHER_VARIABLES}
    for field, about in Settings.model_fields.items():
        known[field.upper()] = str(about.validation_alias or f"{PREFIX}{field.upper()}")
    known |= {
        f"EMULATOR_{field}".upper(): f"{PREFIX}EMULATOR_{field}".upper() for field in EmulatorSettings.model_fields
    }
    return [
        f"{name} is set, and there is no such setting: it has no effect. {_instead(name.removeprefix(PREFIX), known)}"
        for name in sorted(names)
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known
    ]


def _instead(unknown: str, known: dict[str, str]) -> str:
    """Return what to do instead of setting an unknown name.

    Args:
        known: the variable of each name without its prefix.
    """
    likeness = {name: SequenceMatcher(None, unknown, name).ratio() for name in (*known, *SET_ELSEWHERE)}
    nearest = max(likeness, key=likeness.__getitem__)
    if likeness[nearest] < CLOSE:
        longer = [name for name in known if name.startswith(f"{unknown}_")]
        if len(longer) != 1:
            return "docs/configuration.md and app/settings.py list the settings."
        (nearest,) = longer
    return SET_ELSEWHERE.get(nearest) or f"Did you mean {known[nearest]}?"


def stop(sentence: str) -> NoReturn:
    sys.stderr.write(f"everthread: {sentence}\n")
    raise typer.Exit(1)


def cut_off(end: bytes) -> str | None:
    """Return why an export was cut off by the service, told by its last line; None if it is whole.

    Args:
        end: the last bytes of the export.
    """
    try:
        last = orjson.loads(end.rstrip().rpartition(b"\n")[2])
    except orjson.JSONDecodeError:
        return None
    if not isinstance(last, dict) or last.get("object") != "error":
        return None
    error = last.get("error")
    return str(error.get("message")) if isinstance(error, dict) else "it says no reason"


DataDir = Annotated[Path | None, typer.Option(help="Where the embedded servers keep their data.")]


def with_database(
    work: Callable[[Database], Awaitable[T]], data_dir: Path | None = None, *, only_reads: bool = False
) -> T:
    """Do something with the database that DATABASE_URL or the data directory leads to.

    Args:
        only_reads: a replica will do, if there is one that has all that the database has.
    """
    given = read_settings(data_dir=data_dir)
    url = running_url(given)

    async def run() -> T:
        database = _connect(given, url, "DATABASE_URL")
        try:
            if not only_reads or given.database_read_url is None:
                return await work(database)
            replica = _connect(given, given.database_read_url, "EVERTHREAD_DATABASE_READ_URL")
            key, lag = await database_key(database), given.database_read_lag_seconds
            reads = ReplicaReads(database, replica, key=key, lag_seconds=lag)
            try:
                chosen = await reads.caught_up()
                if chosen is database:
                    sys.stderr.write(f"everthread: EVERTHREAD_DATABASE_READ_URL is not read from: {reads.state}.\n")
                return await work(chosen)
            finally:
                await reads.stop()
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except DatabaseUnavailable as error:
        if given.database_url is None:
            stop("Cannot reach Postgres. Start 'everthread serve', or set DATABASE_URL.")
        stop(connecting.why(error))
    except (asyncpg.PostgresError, SQLAlchemyError) as error:
        stop(connecting.why(error))


def _connect(given: Settings, url: str, variable: str) -> Database:
    try:
        return configured.connect(given, url, pool_size=1, timeout_seconds=STATEMENT_SECONDS)
    except connecting.BadURL as error:
        stop(f"Cannot use {variable}: {error}.")


def running_url(given: Settings) -> str:
    """The database's URL: the given one, or the embedded server that `serve` is running."""
    if given.database_url is not None:
        return given.database_url
    url = embedded_postgres.url_of_running(given.data_dir / "postgres")
    if url is None:
        stop(f"No service is running on {given.data_dir.resolve()}, and DATABASE_URL is not set. {_other_place()}")
    return url


def _other_place() -> str:
    """Return what to do where the data directory is not that of a running service."""
    running = embedded_postgres.data_dirs_of_running()
    if not running:
        return "Start 'everthread serve', or say --data-dir and the data directory of the service that is running."
    said = " or ".join(f"--data-dir {shlex.quote(str(path))}" for path in running)
    return f"A service is running elsewhere: say {said}."


def table(rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows as columns. Ids are never shortened, so that they can be pasted into other commands."""
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

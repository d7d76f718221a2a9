"""What every command of the terminal shares: its settings, its database, and how it gives up."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import asyncpg
import httpx2
import orjson
import typer
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from app.db import configured, connecting
from app.db.buckets import database_key
from app.db.engine import Database
from app.db.replica import Reads
from app.embedded import postgres as embedded_postgres
from app.errors import DatabaseUnavailable
from app.settings import EmulatorSettings, OTelSettings, Settings

T = TypeVar("T")

STATEMENT_SECONDS = 600.0
"""Commands may look through everything: their statements are given more time than those of a request."""


OTHER_VARIABLES = {"EVERTHREAD_URL", "EVERTHREAD_KEY", "EVERTHREAD_AUDIT_PUBLIC_KEY"}
"""Variables of the command line's own."""


def read_settings(**given: object) -> Settings:
    for line in misspelt(os.environ):
        sys.stderr.write(f"everthread: {line}\n")
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        _stop_at(error, "EVERTHREAD_")


def check_otel_settings() -> None:
    """What cannot be done of what OpenTelemetry's variables ask for ends the command."""
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
    known = OTHER_VARIABLES | {f"EVERTHREAD_{name}".upper() for name in Settings.model_fields}
    known |= {f"EVERTHREAD_EMULATOR_{name}".upper() for name in EmulatorSettings.model_fields}
    lines = []
    for name in sorted(names):
        if name.startswith("EVERTHREAD_") and name not in known:
            near = get_close_matches(name, known, 1)
            meant = f" Did you mean {near[0]}?" if near else " app/settings.py has all that there are."
            lines.append(f"{name} is set, and there is no such setting: it has no effect.{meant}")
    return lines


def stop(sentence: str) -> NoReturn:
    sys.stderr.write(f"everthread: {sentence}\n")
    raise typer.Exit(1)


def refusal(answer: httpx2.Response) -> str:
    """Why the service has refused: its message, or else the status."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"


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
            reads = Reads(database, replica, key=key, lag_seconds=lag)
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
        stop(f"No service is running on {given.data_dir}, and DATABASE_URL is not set. Start 'everthread serve'.")
    return url


def echo(line: str) -> None:
    print(line, flush=True)  # noqa: T201

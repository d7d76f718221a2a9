"""everthread serve | emulator | migrate | keys"""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import httpx2
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from app import serve as service
from app.db import schema
from app.db.engine import UNAVAILABLE, Database
from app.db.ids import parse
from app.embedded import postgres as embedded_postgres
from app.emulator.server import emulator_server
from app.errors import DatabaseUnavailable
from app.listening import CannotServe, listening
from app.logs import configure
from app.projects import keys as api_keys
from app.serve import say
from app.settings import Settings
from app.transfer import client

T = TypeVar("T")

cli = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Conversations that do not expire."
)
keys_cli = typer.Typer(no_args_is_help=True, help="API keys, made and revoked.")
cli.add_typer(keys_cli, name="keys")


def main() -> None:
    cli()


def _settings(**given: object) -> Settings:
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        variable = name if name.isupper() else f"EVERTHREAD_{name.upper()}"
        _stop(f"The setting {variable} is wrong: {first['msg']}.")


def _stop(sentence: str) -> NoReturn:
    sys.stderr.write(f"everthread: {sentence}\n")
    raise typer.Exit(1)


def _database_url(settings: Settings) -> str:
    if settings.database_url is None:
        _stop("DATABASE_URL is not set. 'everthread serve' migrates its embedded database by itself.")
    return settings.database_url


@cli.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that take requests.")] = 1,
    data_dir: Annotated[Path | None, typer.Option(help="Where the embedded servers keep their data.")] = None,
    emulator_port: Annotated[int, typer.Option(min=1, max=65535)] = 8090,
) -> None:
    """Run the service, with embedded Postgres and Redis unless DATABASE_URL and REDIS_URL are set."""
    settings = _settings(data_dir=data_dir)
    configure(settings.log_level)
    try:
        service.serve(settings, host=host, port=port, workers=workers, emulator_port=emulator_port)
    except CannotServe as error:
        _stop(str(error))


@cli.command()
def emulator(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8090,
) -> None:
    """Run a faithful stand-in for the provider, to develop and test against without an account."""
    server = emulator_server(host, port)
    try:
        with listening(host, port) as listener:
            say(f"The emulator is ready at http://{host}:{listener.getsockname()[1]}/compatible-mode/v1")
            server.run(sockets=[listener])
    except CannotServe as error:
        _stop(str(error))


@cli.command()
def migrate(
    revision: Annotated[str, typer.Option(help="The migration to go to, up or down.")] = "head",
) -> None:
    """Bring the database at DATABASE_URL up to this release."""
    url = _database_url(_settings())
    try:
        asyncio.run(schema.migrate(url, revision))
    except UNAVAILABLE as error:
        _stop(f"Cannot reach Postgres at DATABASE_URL: {error}. Check that it is up and the URL is right.")
    say(f"The database is at migration {schema.newest_revision() if revision == 'head' else revision}.")


Url = Annotated[str, typer.Option(envvar="EVERTHREAD_URL", help="Where the service is.")]
Key = Annotated[str, typer.Option(envvar="EVERTHREAD_KEY", help="A key of the project.")]


@cli.command("import")
def import_threads(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON or JSONL.")],
    key: Key,
    url: Url = "http://127.0.0.1:8080",
) -> None:
    """Take in message arrays (Chat or Responses form) or exported threads. Run it again to resume."""
    counted = _transferred(lambda: client.import_file(file, url, key))
    say(f"{counted.done} threads imported, {counted.present} were there already.")


@cli.command("export")
def export_threads(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Written as JSONL, a thread a line.")],
    key: Key,
    url: Url = "http://127.0.0.1:8080",
) -> None:
    """Write every thread of a project to a file that `import` takes back."""
    with file.open("wb") as target:
        count = _transferred(lambda: client.export_file(target, url, key))
    say(f"{count} threads exported to {file}.")


def _transferred(work: Callable[[], T]) -> T:
    try:
        return work()
    except client.CannotTransfer as error:
        _stop(str(error))
    except httpx2.TransportError as error:
        _stop(f"Cannot reach the service: {error}. Is it up, and is --url right?")


@keys_cli.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "key",
    project: Annotated[str, typer.Option(help="Made if it is not there.")] = api_keys.DEFAULT_PROJECT,
) -> None:
    """Make a key and print it, this once."""
    key = api_keys.new_key()

    async def create(database: Database) -> None:
        await api_keys.add_key(database, await api_keys.ensure_project(database, project), name, key)

    _with_database(create)
    say(f"API key: {key}")


@keys_cli.command("list")
def list_keys() -> None:
    """Show every key, without its secret."""
    table = Table("project", "id", "name", "key", "created", "revoked")

    async def fill(database: Database) -> None:
        for project, id_, name, hint, created_at, revoked_at in await api_keys.list_keys(database):
            revoked = "" if revoked_at is None else f"{revoked_at:%Y-%m-%d %H:%M}"
            table.add_row(project, f"key_{id_.hex}", name, hint, f"{created_at:%Y-%m-%d %H:%M}", revoked)

    _with_database(fill)
    Console().print(table)


@keys_cli.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="key_… as `keys list` shows it.")]) -> None:
    """Revoke a key. Workers stop taking it within ten seconds."""
    found = parse(key_id, ("key",))
    if found is None:
        _stop(f"{key_id} is not the id of a key: key_ and 32 hex digits, as 'everthread keys list' shows it.")
    revoked: list[bool] = []

    async def revoke(database: Database) -> None:
        revoked.append(await api_keys.revoke_key(database, found))

    _with_database(revoke)
    if not revoked[0]:
        _stop(f"There is no key {key_id} that is not revoked already.")
    say(f"{key_id} is revoked.")


def _with_database(work: "Callable[[Database], object]") -> None:
    settings = _settings()
    url = _running_url(settings)

    async def run() -> None:
        database = Database(url, pool_size=1, timeout_seconds=settings.database_timeout_seconds)
        try:
            await work(database)  # type: ignore[misc]
        finally:
            await database.close()

    try:
        asyncio.run(run())
    except DatabaseUnavailable:
        _stop("Cannot reach Postgres. Start 'everthread serve', or set DATABASE_URL.")


def _running_url(settings: Settings) -> str:
    """The database's URL: the given one, or the embedded server that `serve` is running."""
    if settings.database_url is not None:
        return settings.database_url
    url = embedded_postgres.url_of_running(settings.data_dir / "postgres")
    if url is None:
        _stop(f"No service is running on {settings.data_dir}, and DATABASE_URL is not set. Start 'everthread serve'.")
    return url


if __name__ == "__main__":
    main()

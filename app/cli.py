"""everthread serve | emulator | demo | doctor | models | migrate | import | export | projects | keys | audit | …"""

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TypeVar

import asyncpg
import httpx2
import orjson
import typer
from alembic.util import CommandError
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from app import schema
from app.commands.audit import audit_cli
from app.commands.holds import holds_cli
from app.commands.master_key import master_key_cli
from app.commands.models import details, overview
from app.commands.projects import keys_cli, projects_cli
from app.commands.provider import provider_cli
from app.commands.terminal import DataDir, check_otel_settings, read_settings, stop
from app.console import demo
from app.db import connecting
from app.db.engine import UNAVAILABLE
from app.embedded.data_dir import CannotStart, owned
from app.embedded.upgrade import upgrade as upgrade_postgres
from app.emulator.server import emulator_server
from app.process.atomic_file import replacing
from app.process.listening import CannotServe, listening
from app.process.output import echo, printable
from app.provider.models import Models
from app.provider.models_file import BadModels
from app.settings import Settings
from app.telemetry.logs import configure
from app.transfer import client, watch
from app.transfer.files import MOST_BYTES

T = TypeVar("T")

cli = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Conversations that do not expire.")
cli.add_typer(projects_cli, name="projects")
cli.add_typer(keys_cli, name="keys")
cli.add_typer(master_key_cli, name="master-key")
cli.add_typer(audit_cli, name="audit")
cli.add_typer(holds_cli, name="holds")
cli.add_typer(provider_cli, name="provider")


def main() -> None:
    cli()


def _version(wanted: bool) -> None:
    if wanted:
        echo(f"everthread {version('everthread')}")
        raise typer.Exit


@cli.callback()
def options(
    wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Conversations that do not expire."""


def _database_url(settings: Settings) -> str:
    if settings.database_url is None:
        stop("DATABASE_URL is not set. 'everthread serve' migrates its embedded database by itself.")
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
    from app import serve as service  # noqa: PLC0415 - other commands begin in half the time without it

    settings = read_settings(data_dir=data_dir)
    check_otel_settings()
    configure(settings.log_level)
    try:
        service.serve(settings, host=host, port=port, workers=workers, emulator_port=emulator_port)
    except CannotServe as error:
        stop(str(error))


@cli.command()
def emulator(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8090,
) -> None:
    """Run a faithful stand-in for the provider, to develop and test against without an account."""
    server = emulator_server(host, port)
    try:
        with listening(host, port) as listener:
            listener.listen()  # A client that connects once it reads the next line waits, and is not refused.
            echo(f"The emulator is ready at http://{host}:{listener.getsockname()[1]}/compatible-mode/v1")
            server.run(sockets=[listener])
    except CannotServe as error:
        stop(str(error))


@cli.command()
def migrate(
    revision: Annotated[str, typer.Option(help="The migration to go to, up or down.")] = "head",
) -> None:
    """Bring the database at DATABASE_URL up to this release."""
    settings = read_settings()
    url = _database_url(settings)
    try:
        at = asyncio.run(schema.migrate(url, revision, pooled=settings.database_pooler, report=echo))
    except connecting.BadURL as error:
        stop(f"Cannot use DATABASE_URL: {error}.")
    except schema.CannotMigrate as error:
        stop(f"This release cannot migrate the database: {error}.")
    except CommandError as error:
        stop(f"There is no migration {revision!r} to go to: {error}. 'head' is the newest, '-1' the one before.")
    except (*UNAVAILABLE, asyncpg.PostgresError, SQLAlchemyError) as error:
        stop(connecting.why(error))
    echo(
        "The database is at no migration: its tables are gone." if at is None else f"The database is at migration {at}."
    )


@cli.command()
def doctor(
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on a warning too, for CI.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Look at settings, servers, provider and keys, and say of each what to do. The exit code is 1 if 'serve' would not
    start."""
    from app.commands.doctor import Health, examine  # noqa: PLC0415 - the same

    worst = examine(read_settings(data_dir=data_dir), echo)
    if worst >= (Health.WARNING if strict else Health.ERROR):
        raise typer.Exit(1)


@cli.command()
def models(model: Annotated[str | None, typer.Argument(help="Show every fact about this model.")] = None) -> None:
    """List the known facts about the provider's models, with their sources."""
    settings = read_settings()
    try:
        known = Models(settings.models_file, window_tokens=settings.context_window_tokens)
    except BadModels as error:
        stop(f"Cannot use the facts about models: {error}.")
    for line in overview(known) if model is None else details(known, model):
        echo(printable(line))


@cli.command()
def upgrade(
    older: Annotated[
        Path, typer.Option("--from", exists=True, file_okay=False, help="The programs of the release before.")
    ],
    data_dir: DataDir = None,
) -> None:
    """Bring the embedded Postgres's data up to the major release that this one brings. 'serve' says when."""
    settings = read_settings(data_dir=data_dir)
    try:
        with owned(settings.data_dir) as directory:
            upgrade_postgres(directory / "postgres", older, echo)
    except CannotStart as error:
        stop(str(error))
    except OSError as error:
        stop(f"Cannot upgrade {settings.data_dir}: {error.strerror}.")


Url = Annotated[str, typer.Option(envvar="EVERTHREAD_URL", help="Where the service is.")]
Key = Annotated[str, typer.Option(envvar="EVERTHREAD_KEY", help="A key of the project.")]


@cli.command("import")
def import_threads(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON or JSONL, or a ZIP of them.")],
    key: Annotated[str | None, typer.Option(envvar="EVERTHREAD_KEY", help="A key of the project.")] = None,
    url: Url = "http://127.0.0.1:8080",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first that cannot be taken.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would come, and send nothing.")] = False,
    max_bytes: Annotated[
        int, typer.Option(min=1, help="The bytes that are read of a file, once unpacked.")
    ] = MOST_BYTES,
    new_ids: Annotated[
        bool, typer.Option("--new-ids", help="Give exported threads new ids, as one of an earlier release needs.")
    ] = False,
    mapping: Annotated[
        Path | None, typer.Option(dir_okay=False, help="With --new-ids: written as JSON, each new id by the old one.")
    ] = None,
) -> None:
    """Import message arrays (Chat or Responses form), exported threads, and what ChatGPT, Claude, Open WebUI,
    llama.cpp, ShareGPT, LangChain or a fine-tuning file hold. Each conversation is printed with the number of its
    messages and of those that are imported. Run it again to resume. If one is refused, the exit code is 1."""
    if dry_run:
        would = _transferred(lambda: client.preview_file(file, max_bytes, echo))
        if would.shortened:
            echo(f"{would.shortened} would have fewer messages than in the file, as said above.")
        echo(f"{would.done} threads would come, {would.refused} would not be taken. Nothing was sent.")
        return
    if key is None:
        stop("Say --key, or set EVERTHREAD_KEY.")
    if new_ids != (mapping is not None):
        stop("--new-ids and --mapping FILE belong together: FILE receives the new id of each thread and turn.")
    renamed: dict[str, str] | None = {} if new_ids else None
    try:
        counted = _transferred(
            lambda: client.import_file(
                file, url, key, strict=strict, most_bytes=max_bytes, report=echo, mapping=renamed
            )
        )
    finally:
        if mapping is not None:
            _write_mapping(mapping, renamed or {})
    if counted.shortened:
        echo(f"{counted.shortened} have fewer messages than in the file, as said above.")
    echo(f"{counted.done} threads imported, {counted.present} were there already.")
    if counted.refused:
        stop(f"{counted.refused} were not taken.")


def _write_mapping(path: Path, renamed: dict[str, str]) -> None:
    try:
        with replacing(path) as target:
            target.write(orjson.dumps(renamed, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        stop(f"Cannot write {path}: {error.strerror}.")


@cli.command("export")
def export_threads(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Written as JSONL, a thread a line.")],
    key: Key,
    url: Url = "http://127.0.0.1:8080",
) -> None:
    """Write every thread of a project to a file that `import` takes back."""
    try:
        with replacing(file) as target:
            exported = _transferred(lambda: client.export_file(target, url, key))
    except OSError as error:
        stop(f"Cannot write {file}: {error.strerror}.")
    echo(f"{exported.count} threads exported to {file}.")
    if exported.not_whole:
        stop(
            f"{len(exported.not_whole)} of them hold contents that cannot be opened, named under 'unreadable': "
            f"{', '.join(exported.not_whole[:10])}. Their ciphertexts were changed or moved, or a key is missing."
        )


@cli.command("replay")
def replay_thread(
    thread: Annotated[str, typer.Argument(help="The thread's id, or its name.")],
    key: Key,
    url: Url = "http://127.0.0.1:8080",
    speed: Annotated[float, typer.Option(min=0, max=1000, help="1: as it was; 0: at once.")] = 1,
    until: Annotated[str | None, typer.Option(help="The last turn to show.")] = None,
) -> None:
    """Show a conversation in the terminal, as it happened."""
    _transferred(lambda: watch.replay(url, key, thread, speed, until, lambda text: Console().out(text, end="")))


@cli.command("call")
def show_call(
    call_id: Annotated[str, typer.Argument(help="call_… as …/turns/TURN/calls shows it.")],
    key: Key,
    url: Url = "http://127.0.0.1:8080",
    curl: Annotated[bool, typer.Option("--curl", help="As a command that sends it again; the key stays out.")] = False,
) -> None:
    """Show a request that was sent to the provider, exactly as it was."""
    echo(
        _transferred(
            lambda: watch.call(url, key, call_id, curl=curl, report=lambda line: sys.stderr.write(f"{line}\n"))
        )
    )


@cli.command("support-bundle")
def support_bundle(
    file: Annotated[
        Path | None, typer.Argument(dir_okay=False, help="A .tar.gz; named for the time if left out.")
    ] = None,
    url: Url = "http://127.0.0.1:8080",
    data_dir: DataDir = None,
) -> None:
    """Collect versions, settings, the schema's fingerprint, metrics, the last errors and doctor's table in one file,
    which holds no secrets and no contents."""
    from app.commands import support  # noqa: PLC0415 - the same

    target = file or Path(f"everthread-support-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar.gz")
    try:
        parts = support.write(read_settings(data_dir=data_dir), target, url)
    except OSError as error:
        stop(f"Cannot write {target}: {error.strerror}.")
    echo(f"{target}: {', '.join(parts)}. It holds no secrets and no contents; look through it before you send it.")


@cli.command("demo")
def show_demo(
    key: Key,
    url: Url = "http://127.0.0.1:8080",
    emulator: Annotated[
        str, typer.Option(help="Where the emulator is that the service asks.")
    ] = "http://127.0.0.1:8090",
) -> None:
    """Have a hundred conversations with the emulator, in several languages, to look at in the console."""
    try:
        count = _transferred(lambda: demo.run(url, key, emulator, echo))
    except demo.CannotShow as error:
        stop(f"{error}.")
    echo(f"{count} conversations, and a few special ones: {url}/console")


def _transferred(work: Callable[[], T]) -> T:
    try:
        return work()
    except client.CannotTransfer as error:
        stop(str(error))
    except httpx2.TransportError as error:
        stop(f"Cannot reach the service: {error}. Is it up, and is --url right?")


if __name__ == "__main__":
    main()

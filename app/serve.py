"""`everthread serve`: everything that has to be up before the first request, and down after the last."""

import asyncio
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import asyncpg
import uvicorn
from redis.exceptions import RedisClusterException, RedisError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from app import schema
from app.audit import keys
from app.audit.signing import BadKey, signing_key
from app.audit.witnesses import BadWitnesses, witnesses
from app.cache.connect import connect
from app.console.oidc_config import BadOidc, OidcConfig, oidc_config
from app.db import configured, connecting
from app.db.engine import UNAVAILABLE, Database
from app.embedded import data_dir
from app.embedded import postgres as embedded_postgres
from app.embedded import redis as embedded_redis
from app.embedded.data_dir import CannotStart
from app.http import capacity
from app.http.errors import DatabaseUnavailable
from app.main import connect_provider
from app.process.listening import CannotServe, listening
from app.process.output import echo
from app.process.stopping import Config, Workers
from app.projects.keys import ensure_first_key
from app.projects.people import projects_of
from app.provider.failure import Kind
from app.provider.models import Models
from app.provider.models_file import BadModels
from app.sealing.ciphertext import CannotOpen
from app.sealing.content_keys import altered_projects
from app.sealing.master import BadMasterKey, Masters, masters
from app.sealing.project_cipher import ProjectCipher
from app.settings import Connected, Settings, export

EMULATOR_SECONDS = 20.0
REDIS_SECONDS = 5.0
CONNECT_SECONDS = 10.0

WORKER_SECONDS = 30
"""The longest time that a worker process takes to start, or to answer the supervisor, before it is replaced. Uvicorn's
default of 5 s is less than a start takes on a busy machine: its workers were replaced before they were ready."""

EMULATOR_PATH = "/compatible-mode/v1"


def serve(settings: Settings, *, host: str, port: int, workers: int, emulator_port: int) -> None:
    """Run until SIGTERM or Ctrl-C.

    Raises:
        CannotServe: something that is needed is not there.
    """
    # uvicorn hands a signal on to this process once it has shut down: it then has to unwind, not to die.
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    check_models(settings)
    check_witnesses(settings)
    check_console(settings)
    capacity.raise_open_files()
    with ExitStack() as stack:
        listener = stack.enter_context(listening(host, port))
        port = listener.getsockname()[1]
        connected = _with_servers(stack, settings)
        key = asyncio.run(_prepare_database(connected, audit_key(settings), master_keys(settings)))
        connected = _with_provider(stack, connected, emulator_port)
        if workers > 1:
            export(PROMETHEUS_MULTIPROC_DIR=stack.enter_context(tempfile.TemporaryDirectory()))
        _export(connected, workers)
        config = Config(
            "app.main:create_app",
            drain_seconds=settings.drain_seconds,
            factory=True,
            host=host,
            port=port,
            workers=workers,
            loop="uvloop",
            http="app.http.door:HttpDoor",
            ws="app.http.door:WebSocketDoor",
            ws_max_size=settings.max_body_bytes,
            proxy_headers=settings.trusted_proxies is not None,
            forwarded_allow_ips=settings.trusted_proxies,
            log_config=None,
            access_log=False,
            backlog=2048,
            timeout_keep_alive=75,  # Longer than clients and load balancers keep theirs.
            timeout_worker_healthcheck=WORKER_SECONDS,
        )
        url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104
        ready = threading.Thread(target=_announce, args=(url, key, settings), daemon=True)
        ready.start()
        if workers > 1:
            Workers(config, listener, settings.drain_seconds).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])


def _exit(number: int, frame: object) -> NoReturn:
    # A second signal must not interrupt what ends now: an embedded server would be left running.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _is_ending)
    raise SystemExit(0)


def _is_ending(number: int, frame: object) -> None:
    """Do nothing. `SIG_IGN` would be inherited by the commands that stop the embedded servers."""


def _with_servers(stack: ExitStack, settings: Settings) -> Connected:
    """Postgres and Redis: those that are given, else embedded ones under the data directory."""
    database_url, redis_url = settings.database_url, settings.redis_url
    if database_url is None or redis_url is None:
        try:
            directory = stack.enter_context(data_dir.owned(settings.data_dir))
            if database_url is None:
                echo(f"Postgres and its data: {directory / 'postgres'}")
                database_url = stack.enter_context(embedded_postgres.running(directory / "postgres"))
                asyncio.run(schema.migrate(database_url))
            if redis_url is None:
                redis_url = stack.enter_context(embedded_redis.running(directory / "redis"))
        except CannotStart as error:
            raise CannotServe(str(error)) from error
        except schema.CannotMigrate as error:
            raise CannotServe(f"This release cannot run on the database: {error}.") from error
        except OSError as error:
            raise CannotServe(f"Cannot use the data directory {settings.data_dir}: {error.strerror}.") from error
    if settings.redis_url is not None:
        away = asyncio.run(check_redis(settings.redis_url))
        if away is not None:
            echo(away)
    return Connected.model_construct(**{**dict(settings), "database_url": database_url, "redis_url": redis_url})


def audit_key(settings: Settings) -> bytes:
    """The public key of what this host signs with.

    Raises:
        CannotServe: it cannot be used.
    """
    try:
        return signing_key(settings.audit_key, settings.data_dir).public_key().public_bytes_raw()
    except (BadKey, OSError) as error:
        raise CannotServe(f"Cannot use the key of the audit trail: {error}. Check EVERTHREAD_AUDIT_KEY.") from error


def master_keys(settings: Settings) -> Masters:
    """The master key, and those before it.

    Raises:
        CannotServe: they cannot be used.
    """
    try:
        return masters(settings)
    except (BadMasterKey, OSError) as error:
        raise CannotServe(f"Cannot use the master key: {error}.") from error


async def check_master_key(database: Database, at_hand: Masters) -> str:
    """Return a line about how many projects' keys the master key opens.

    Raises:
        CannotServe: not all of them.
    """
    try:
        found = await ProjectCipher(database, at_hand).tried()
    except CannotOpen as error:
        raise CannotServe(f"Cannot use the master key: {error}.") from error
    if found.unopened:
        raise CannotServe(
            f"The master key of this host opens {found.opened} of {found.opened + found.unopened} projects' keys. "
            "Give it the EVERTHREAD_MASTER_KEY of the others; after a change of keys, the one before too, in "
            "EVERTHREAD_FORMER_MASTER_KEYS."
        )
    return f"opens {found.opened} projects' keys"


def check_models(settings: Settings) -> None:
    """Raises `CannotServe` if the facts about models, or the deployment's own file of them, cannot be used."""
    try:
        Models(settings.models_file)
    except BadModels as error:
        raise CannotServe(f"Cannot use the facts about models: {error}.") from error


def check_witnesses(settings: Settings) -> None:
    """Raises `CannotServe` if the list of witnesses cannot be used."""
    try:
        witnesses(settings.audit_witnesses)
    except BadWitnesses as error:
        raise CannotServe(f"Cannot use the witnesses of the audit trail: {error}.") from error


def check_console(settings: Settings) -> OidcConfig | None:
    """Return the settings of the sign-in with OpenID Connect. Raises `CannotServe` if they cannot be used."""
    try:
        return oidc_config(settings)
    except BadOidc as error:
        raise CannotServe(f"{error}.") from error


async def check_oidc_projects(database: Database, config: OidcConfig | None) -> str | None:
    """Return a line about projects of EVERTHREAD_OIDC_GROUPS that are not there; None if there are none."""
    if config is None:
        return None
    named = config.access(frozenset(group for group, _, _ in config.groups))
    async with database.session() as session:
        missing = sorted(named.keys() - await projects_of(session, named))
    if not missing:
        return None
    return (
        f"EVERTHREAD_OIDC_GROUPS names projects that do not exist or are archived: {', '.join(missing)}. Their groups "
        f"cannot sign in to the console until 'everthread projects create' makes them."
    )


async def check_redis(url: str) -> str | None:
    """Why Redis does not answer; None if it does. Raises `CannotServe` for a URL that leads nowhere."""
    try:
        client = connect(url, timeout_seconds=REDIS_SECONDS)
    except ValueError as error:
        raise CannotServe(f"Cannot use REDIS_URL: {error}.") from error
    try:
        await client.ping()
    except (RedisError, RedisClusterException, OSError) as error:
        said = str(error).rstrip(".")
        return f"Redis does not answer at REDIS_URL: {said}. Turns go on without it, more slowly."
    finally:
        await client.aclose()
    return None


async def _prepare_database(settings: Connected, public_key: bytes, at_hand: Masters) -> str | None:
    """Check that the database is there and migrated, and that this host may sign; and make the first key.

    Returns:
        The first key, if it was made now.
    """
    await check_database(settings.database_url, pooled=settings.database_pooler)
    if settings.database_read_url is not None:
        try:
            connecting.arguments(settings.database_read_url)
        except connecting.BadURL as error:
            raise CannotServe(f"Cannot use EVERTHREAD_DATABASE_READ_URL: {error}.") from error
    database = configured.connect(settings, settings.database_url, pool_size=1)
    bootstrap = settings.bootstrap_key
    try:
        made = await ensure_first_key(
            database,
            None if bootstrap is None else bootstrap.get_secret_value(),
            ProjectCipher(database, at_hand) if settings.encrypt_projects else None,
        )
        await keys.admit(database, public_key)
        await check_master_key(database, at_hand)
        if (missing := await check_oidc_projects(database, check_console(settings))) is not None:
            echo(missing)
        for _, name in await altered_projects(database):
            echo(
                f"The project {name} is encrypted, as its audit trail tells, and its row in the table projects says "
                "otherwise: encrypted_at was changed by hand. Its contents are still written sealed. Set encrypted_at "
                f"back with 'everthread projects encrypt {name}', and find out who has written to the database."
            )
        return made
    except DatabaseUnavailable as error:
        raise CannotServe(connecting.why(error)) from error
    except keys.NotListed as error:
        raise CannotServe(
            f"The database does not list the key that this host would sign the audit trail with ({error}). "
            "Give the host the EVERTHREAD_AUDIT_KEY of the others; or, for another key from now on: "
            f"'everthread audit keys add {error}'."
        ) from error
    finally:
        await database.close()


async def check_database(url: str, *, pooled: bool = False) -> None:
    """Raises `CannotServe` if the database cannot be reached, or is none that this release can run on."""
    try:
        engine = connecting.engine(url, timeout_seconds=CONNECT_SECONDS, pooled=pooled, poolclass=NullPool)
    except connecting.BadURL as error:
        raise CannotServe(f"Cannot use DATABASE_URL: {error}.") from error
    try:
        async with engine.connect() as connection:
            misfit = await connection.run_sync(schema.misfit)
    except (*UNAVAILABLE, asyncpg.PostgresError, SQLAlchemyError) as error:
        raise CannotServe(connecting.why(error)) from error
    finally:
        await engine.dispose()
    if misfit is not None:
        raise CannotServe(f"This release cannot run on the database: {misfit}.")


def _with_provider(stack: ExitStack, settings: Connected, emulator_port: int) -> Connected:
    """The configured provider, its key tried once; or the emulator."""
    if settings.dashscope_api_key is None and settings.dashscope_base_url is None:
        stack.enter_context(_emulator(emulator_port))
        address = f"http://127.0.0.1:{emulator_port}"
        echo(f"No DASHSCOPE_API_KEY: answers come from the provider emulator at {address}, not from a model.")
        return settings.model_copy(update={"dashscope_base_url": address + EMULATOR_PATH})
    found = asyncio.run(check_provider(settings))
    echo(f"Provider: {settings.provider_base_url}{found}")
    return settings


async def check_provider(settings: Settings) -> str:
    """A remark on a provider that does not answer now; empty if it does.

    Raises:
        CannotServe: it refuses the key.
    """
    provider = connect_provider(settings)
    try:
        found = await provider.check_key()
    finally:
        await provider.close()
    if found is not None and found.kind is Kind.CREDENTIALS:
        raise CannotServe(
            f"The provider at {settings.provider_base_url} refuses DASHSCOPE_API_KEY ({found.message.rstrip('.')}). "
            "A key works in the region it was made in: check DASHSCOPE_REGION too."
        )
    if found is not None and found.kind in (Kind.UNAVAILABLE, Kind.TIMEOUT):
        return " (it does not answer at the moment; turns will fail until it does)"
    return ""


@contextmanager
def _emulator(port: int) -> Iterator[None]:
    """The emulator as a process of its own, that ends with this one however this one ends."""
    try:
        with listening("127.0.0.1", port):
            pass
    except CannotServe as error:
        raise CannotServe(
            f"Port {port}, for the emulator, is used by something else, perhaps by another 'everthread serve'. "
            "Choose another --emulator-port."
        ) from error
    command = [sys.executable, "-m", "app.emulator", "127.0.0.1", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + EMULATOR_SECONDS
        while not _is_up(f"http://127.0.0.1:{port}/_emulator/calls"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotServe(
                    f"The emulator could not start on port {port}. Choose another --emulator-port, "
                    "or set DASHSCOPE_API_KEY to use the provider."
                )
            time.sleep(0.02)
        if process.poll() is not None:
            raise CannotServe(f"Port {port} is used by something else. Choose another --emulator-port.")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


def _announce(url: str, key: str | None, settings: Settings) -> None:
    """Say that the service is up, once it is."""
    while not _is_up(f"{url}/readyz"):
        time.sleep(0.02)
    echo(f"Everthread is ready at {url}")
    shown = "YOUR_KEY"
    if settings.bootstrap_key is not None:
        # To who sits before it, a line that works in another terminal; in a log, no secret.
        shown = settings.bootstrap_key.get_secret_value() if sys.stdout.isatty() else "$EVERTHREAD_BOOTSTRAP_KEY"
    if key is not None:
        echo(f"API key: {key}")
        where = (
            "" if settings.database_url is not None else f" --data-dir {shlex.quote(str(settings.data_dir.resolve()))}"
        )
        echo(f"It is shown this once. 'everthread keys create{where}' makes more.")
        shown = key
    body = shlex.quote('{"input": "Hello!"}')
    echo(f"Console: {url}/console")
    echo("Try it:")
    echo(f'  curl -X PUT {url}/v1/threads/by-name/first -H "Authorization: Bearer {shown}"')
    echo(
        f'  curl {url}/v1/threads/by-name/first/turns -H "Authorization: Bearer {shown}" '
        f"-H 'Content-Type: application/json' -d {body}"
    )


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _export(settings: Connected, workers: int) -> None:
    """Workers are processes of their own, and read their settings from the environment."""
    export(
        DATABASE_URL=settings.database_url,
        REDIS_URL=settings.redis_url,
        EVERTHREAD_WORKERS=str(workers),
        EVERTHREAD_DATA_DIR=str(Path(settings.data_dir).resolve()),
    )
    if settings.dashscope_base_url is not None:
        export(DASHSCOPE_BASE_URL=settings.dashscope_base_url)

"""Parsing of DATABASE_URL, and the arguments to connect with.

A URL has libpq's forms: several hosts, `target_session_attrs`, `sslmode` with its certificates, `application_name`,
`connect_timeout`, `options`, a password from PGPASSFILE or PGPASSWORD, a `service`. asyncpg reads most of it; what it
lacks is translated here, or refused in a sentence.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.db import arrays

arrays.told_by_type()

SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2")

WITHOUT_EFFECT = {
    "async_fallback", "channel_binding", "client_encoding", "gssencmode", "keepalives", "keepalives_count",
    "keepalives_idle", "keepalives_interval", "sslcompression", "sslsni", "tcp_user_timeout",
}  # fmt: skip
"""libpq's options that have no effect on queries, and that asyncpg would send to the server."""

REFUSED = {
    "hostaddr": "name the host as 'host'",
    "load_balance_hosts": "name the hosts in the order in which they are to be tried",
    "replication": "Everthread speaks to it as an ordinary client",
    "require_auth": "the server says how a client signs in",
    "requirepeer": "it cannot be checked here",
    "requiressl": "say sslmode=require",
    "sslcertmode": "give sslcert and sslkey, or leave them out",
}


SHORTEST_STATEMENT_SECONDS = 30
"""The shortest statement_timeout of a role that leaves the service its own limits."""


class BadURL(ValueError):
    """Says in a sentence why DATABASE_URL cannot be used, without quoting it: it may have a password."""


def arguments(url: str, timeout_seconds: float = 60) -> dict[str, Any]:
    """Return asyncpg's arguments for a URL.

    Raises:
        BadURL: it cannot be used. What it says does not quote the URL, which may have a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # Its words quote the password.
        raise BadURL("it is no URL: are the signs in its user and password quoted, as in p%40ss?") from None
    if parts.scheme not in SCHEMES:
        raise BadURL("it must begin with postgresql://, as in postgresql://user:password@host:5432/database")
    try:
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise BadURL("what stands behind its '?' is not name=value&name=value") from None
    for name, instead in REFUSED.items():
        if name in query:
            raise BadURL(f"its option {name} is not supported: {instead}")
    if query.get("channel_binding") == "require":
        raise BadURL("its option channel_binding=require is not supported: leave it out, or say prefer")
    if "ssl" in query:  # SQLAlchemy's name for it.
        query.setdefault("sslmode", query.pop("ssl"))
    name = query.pop("fallback_application_name", "everthread")
    query.setdefault("application_name", name)
    given = query.pop("connect_timeout", None)
    if given is not None:
        if not given.isdecimal():
            raise BadURL("its option connect_timeout is no number of seconds")
        timeout_seconds = float(given) or timeout_seconds
    kept = {name: value for name, value in query.items() if name not in WITHOUT_EFFECT}
    dsn = parts._replace(scheme="postgresql", query=urlencode(kept)).geturl()
    if not dsn.startswith("postgresql://"):  # `geturl` leaves out an empty host.
        dsn = dsn.replace("postgresql:", "postgresql://", 1)
    return {"dsn": dsn, "timeout": timeout_seconds}


def engine(
    url: str,
    *,
    timeout_seconds: float = 60,
    at: tuple[str, int] | None = None,
    settings: Mapping[str, str] | None = None,
    pooled: bool = False,
    command_timeout: float | None = None,
    **options: Any,
) -> AsyncEngine:
    """SQLAlchemy's engine for a URL.

    Args:
        at: another server than the URL's, with all else that it says.
        settings: of each connection, in Postgres's names.
        pooled: a pooler stands between that gives each transaction another connection (PgBouncer's pool_mode
            transaction): nothing is left prepared.
        command_timeout: seconds that a statement may take.

    Raises:
        BadURL: it cannot be used.
    """
    given = arguments(url, timeout_seconds)
    if at is not None:
        given |= {"host": at[0], "port": at[1]}
    if settings:
        given["server_settings"] = dict(settings)
    if command_timeout is not None:
        given["command_timeout"] = command_timeout
    if pooled:
        given["statement_cache_size"] = 0
        options["connect_args"] = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}

    async def connect(*_: Any, **__: Any) -> asyncpg.Connection:
        connection: asyncpg.Connection = await asyncpg.connect(**given)
        if pooled:
            begun[connection] = connection.transaction()
            await begun[connection].start()
        return connection

    made = create_async_engine("postgresql+asyncpg://", async_creator=connect, **options)
    # The dialect looks into the catalog at the beginning: within a transaction, which has one server.
    begun: dict[Any, Any] = {}

    def commit(dbapi_connection: Any, record: Any) -> None:
        dbapi_connection.run_async(lambda connection: begun.pop(connection).commit())

    if pooled:
        event.listen(made.sync_engine, "connect", commit)
    return made


def why(error: BaseException) -> str:
    """Why Postgres cannot be used, in a sentence that says what to do."""
    while not isinstance(error, (asyncpg.PostgresError, OSError)):
        inner = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error.__cause__
        if inner is None:
            break
        error = inner
    said = str(error).rstrip(".") or type(error).__name__
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return f"Postgres refuses the user or the password of DATABASE_URL ({said})."
        case asyncpg.InvalidCatalogNameError():
            return f"Postgres has no such database ({said}). Make it with CREATE DATABASE first."
        case asyncpg.UndefinedTableError():
            return f"The database has none of Everthread's tables ({said}). Run 'everthread migrate' first."
        case asyncpg.InsufficientPrivilegeError():
            return f"The user of DATABASE_URL may not do this ({said})."
        case asyncpg.ReadOnlySQLTransactionError():
            return f"Postgres is read-only ({said}). Is DATABASE_URL that of a standby?"
        case asyncpg.QueryCanceledError():
            return (
                f"Postgres canceled a statement ({said}). The statement_timeout of DATABASE_URL's role is too short: "
                f"set it to {SHORTEST_STATEMENT_SECONDS} s or more, as with "
                f"\"ALTER ROLE CURRENT_USER SET statement_timeout = '{SHORTEST_STATEMENT_SECONDS}s'\"."
            )
        case asyncpg.PostgresError():
            return f"Postgres refuses ({said})."
        case _:
            return f"Cannot reach Postgres at DATABASE_URL: {said}. Check that it is up and the URL is right."

"""`everthread doctor`: whether a service could start here, looked at part by part, each with what to do."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Any

from sqlalchemy import func, select

from app.audit import keys
from app.audit.signing import KEY_FILE
from app.chain.continuation import PLAUSIBLE_SKEW_SECONDS
from app.commands.terminal import misspelt
from app.console.identity_provider import IdentityProvider, ProviderFailed
from app.db import configured, connecting
from app.db.engine import IS_READ_ONLY, Database
from app.db.sql import statements_of
from app.embedded import postgres as embedded_postgres
from app.http.errors import DatabaseUnavailable
from app.process.listening import CannotServe
from app.provider.account import account
from app.sealing.master import KEY_FILE as MASTER_KEY_FILE
from app.serve import (
    audit_key,
    check_console,
    check_database,
    check_master_key,
    check_models,
    check_oidc_projects,
    check_provider,
    check_redis,
    check_witnesses,
    master_keys,
)
from app.settings import Settings, environment

OK = "ok"

PROJECTS = 100
TURNS = 100
"""Limits on the projects, and on the turns of each, whose dates are examined."""

SQL = statements_of(__file__)

Check = Callable[[Settings], Coroutine[Any, Any, str]]
"""Says `ok…`, or what is the matter; CannotServe means that `serve` would not start."""


async def _settings(settings: Settings) -> str:
    check_models(settings)
    check_witnesses(settings)
    return " ".join([*misspelt(environment()), *await _sign_in(settings)]) or OK


async def _sign_in(settings: Settings) -> list[str]:
    """Return what is wrong with the console's sign-in with OpenID Connect."""
    if (config := check_console(settings)) is None:
        return []
    provider = IdentityProvider(config)
    try:
        await provider.authorization_endpoint()
    except ProviderFailed as error:
        return [f"The identity provider at {config.issuer} is not usable: {error}. Check EVERTHREAD_OIDC_ISSUER."]
    finally:
        await provider.close()
    if (url := _database_url(settings)) is None:
        return []
    async with _database(settings, url) as database:
        missing = await check_oidc_projects(database, config)
    return [] if missing is None else [missing]


async def _postgres(settings: Settings) -> str:
    if (url := _database_url(settings)) is None:
        return f"{OK}: the embedded one, which 'everthread serve' starts"
    try:
        async with _database(settings, url) as database, database.session() as session:
            version = str(await session.scalar(select(func.current_setting("server_version"))))
            if await session.scalar(IS_READ_ONLY):
                raise CannotServe("It is read-only: is DATABASE_URL that of a standby?")
            limit = await session.scalar(SQL.statement_timeout.clause)
    except DatabaseUnavailable as error:
        raise CannotServe(connecting.why(error)) from error
    if 0 < limit < 1000 * settings.database_timeout_seconds:
        return (
            f"the role's statement_timeout is {limit} ms, shorter than EVERTHREAD_DATABASE_TIMEOUT_SECONDS "
            f"({settings.database_timeout_seconds:g}): long statements will fail. Raise it with ALTER ROLE."
        )
    return f"{OK}: {version}, at the migration that this release needs"


async def _redis(settings: Settings) -> str:
    if settings.redis_url is None:
        return f"{OK}: the embedded one, which 'everthread serve' starts"
    return await check_redis(settings.redis_url) or OK


async def _provider(settings: Settings) -> str:
    if settings.dashscope_api_key is None and settings.dashscope_base_url is None:
        return f"{OK}: none, for DASHSCOPE_API_KEY is not set: the emulator answers"
    away = await check_provider(settings)
    return f"{settings.provider_base_url}{away}" if away else f"{OK}: {settings.provider_base_url} takes the key"


async def _dates(settings: Settings) -> str:
    """Check the dates of the last answers, from which the expiry of response ids is computed."""
    if (url := _database_url(settings)) is None:
        return f"{OK}: no turns yet"
    found: dict[str, tuple[int, float]] = {}
    async with _database(settings, url) as database:
        for project in await database.fetch(*SQL.some_projects(most=PROJECTS)):
            given = {"project_id": project["project_id"], "most": TURNS, "skew_seconds": PLAUSIBLE_SKEW_SECONDS}
            for row in await database.fetch(*SQL.implausible_dates(**given)):
                turns, _ = found.get(row["binding"], (0, 0.0))
                found[row["binding"]] = (turns + row["turns"], row["seconds"])
    if not found:
        return f"{OK}: those of the last answers agree with the database's clock"
    said = "; ".join(
        f"{turns} of the last answers of {account(binding)} are dated {abs(seconds) / 3600:.1f} hours in the "
        f"{'past' if seconds < 0 else 'future'}"
        for binding, (turns, seconds) in found.items()
    )
    return f"{said}. Check the clocks of the endpoint and of this host, and any proxy or cache between them."


async def _audit_key(settings: Settings) -> str:
    if settings.audit_key is None and not (settings.data_dir / KEY_FILE).exists():
        return (
            f"{OK}: 'everthread serve' makes one in {settings.data_dir}; with several hosts, set EVERTHREAD_AUDIT_KEY"
        )
    public = audit_key(settings)
    if (url := _database_url(settings)) is None:
        return OK
    async with _database(settings, url) as database:
        listed = {key for key, _, retired_at in await keys.listed(database) if retired_at is None}
    if listed and public not in listed:
        raise CannotServe(f"The database does not list it: 'everthread audit keys add {public.hex()}'.")
    return OK


async def _master_key(settings: Settings) -> str:
    given = (settings.master_key, settings.master_key_file, settings.master_key_command)
    if not any(given) and not (settings.data_dir / MASTER_KEY_FILE).exists():
        return (
            f"{OK}: 'everthread serve' makes one in {settings.data_dir}; with several hosts, set EVERTHREAD_MASTER_KEY"
        )
    at_hand = master_keys(settings)
    if (url := _database_url(settings)) is None:
        return OK
    async with _database(settings, url) as database:
        return f"{OK}: {await check_master_key(database, at_hand)}"


@asynccontextmanager
async def _database(settings: Settings, url: str) -> AsyncIterator[Database]:
    """The database, looked at first.

    Raises:
        CannotServe: it cannot be used.
    """
    await check_database(url, pooled=settings.database_pooler)
    database = configured.connect(settings, url, pool_size=1)
    try:
        yield database
    finally:
        await database.close()


def _database_url(settings: Settings) -> str | None:
    return settings.database_url or embedded_postgres.url_of_running(settings.data_dir / "postgres")


CHECKS: dict[str, Check] = {
    "settings": _settings,
    "Postgres": _postgres,
    "Redis": _redis,
    "provider": _provider,
    "dates": _dates,
    "audit key": _audit_key,
    "master key": _master_key,
}


class Health(IntEnum):
    """Result of a check. `serve` starts in spite of a warning."""

    OK = 0
    WARNING = 1
    ERROR = 2


def examine(settings: Settings, report: Callable[[str], object]) -> Health:
    """Check each part and return the worst result.

    Args:
        report: is given a line for each part.
    """
    worst = Health.OK
    for name, check in CHECKS.items():
        try:
            found = asyncio.run(check(settings))
            health = Health.OK if found.startswith(OK) else Health.WARNING
        except CannotServe as error:
            found, health = str(error), Health.ERROR
        except DatabaseUnavailable as error:
            found, health = connecting.why(error), Health.ERROR
        report(f"{name + ':':11} {found}")
        worst = max(worst, health)
    return worst

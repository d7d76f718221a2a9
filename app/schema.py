"""All tables together, and the way a database is brought up to them."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, delete, event, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from app.accounts import tables as accounts
from app.audit import tables as audit
from app.cache import tables as cache
from app.chain import tables as chain
from app.citus import distribution
from app.db import connecting, ddl
from app.db.base import Base
from app.db.tables import ServedRevision
from app.history import tables as history
from app.holds import tables as holds
from app.limits import tables as limits
from app.media import tables as media
from app.memory import tables as memory
from app.projects import tables as projects
from app.retention import tables as retention
from app.sealing import tables as sealing
from app.threads import tables as threads
from app.trail import tables as trail
from app.turns import tables as turns
from app.usage import tables as usage
from app.webhooks import tables as webhooks

TABLES = (
    cache.CacheKey, projects.Project, projects.ApiKey, projects.ConsoleSession, projects.UserCutoff,
    projects.ClaimedAudience, projects.StreamTicket, projects.StoredPreset, sealing.DataKey, sealing.MasterNodes,
    accounts.Account, trail.UserKey, threads.Thread, threads.ThreadName, threads.ThreadActivity, turns.Turn, turns.Item,
    media.Medium, media.ItemMedium, turns.Call, turns.SentPiece, turns.Waiter,
    trail.AuditRecord, audit.AuditLeaf, audit.AuditCheckpoint, audit.AuditKey,
    audit.AuditPosition, audit.StreamPlaces, chain.ProviderDeletion,
    retention.UserPurge, memory.Compaction, memory.ObservedModel, webhooks.Webhook, webhooks.WebhookDelivery,
    history.Feedback, history.Share, holds.Hold, holds.HeldRow, usage.TurnHour, usage.UsageSum, limits.Charge,
    audit.AuditCosignature, audit.AuditWitness,
    ServedRevision, audit.AuditOrigin,
    retention.PurgeRecords, retention.PurgeCertificate,
)  # fmt: skip

metadata = Base.metadata

LOCK_POLL_SECONDS = 0.2
LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('everthread migrate'))"
LOCK_HOLDERS = """
SELECT format('process %s of Postgres, %s, since %s', a.pid,
    coalesce(host(a.client_addr), 'on the server itself'), to_char(a.xact_start, 'HH24:MI:SS')) AS who
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND (l.classid::bigint << 32 | l.objid::bigint) = hashtext('everthread migrate')::bigint
"""

LOCK_TRIES = 60
LONGEST_PAUSE_SECONDS = 8
NOT_NOW = ("55P03", "40P01")
"""SQLSTATEs of a lock that was not available in time, and of a deadlock."""

OLDEST_TRANSACTION = """
SELECT format('process %s of Postgres (%s), since %s', pid, usename, to_char(xact_start, 'HH24:MI:SS'))
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
    AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = pg_stat_activity.pid AND l.locktype = 'advisory'
        AND l.objsubid = 1 AND (l.classid::bigint << 32 | l.objid::bigint) = hashtext('everthread migrate')::bigint)
ORDER BY xact_start LIMIT 1
"""

# Plans are kept for as long as a connection lives, and those of a small table's day read a large one whole: no look-up
# of the service's, nor of a foreign key, reads a table from end to end. It is the role's setting for this database, and
# not a connection's, so that a pooler needs to know nothing of it.
_PLANS = """
DO $$ BEGIN
    EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I {change} enable_seqscan{value}', current_database());
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'The role % may not change its own settings; plans depend on statistics.', current_user;
END $$
"""
HAS_SERVED = "SELECT to_regclass('served_revisions') IS NOT NULL"
MIGRATIONS = Path(__file__).parents[1] / "migrations"
SCHEMA = MIGRATIONS / "schema.sql"

OUR_REVISION = re.compile(r"v\d{3}_\d{4}")
"""The form of revisions from release 0.2.0 on. Those of earlier checkouts were four digits."""

OTHER_LINEAGE = (
    "it is at migration {}, of a release before 0.2.0, and cannot be upgraded. Export its threads with that release "
    "('everthread export FILE'), and import them into a new database with this one ('everthread import FILE --new-ids "
    "--mapping IDS')"
)

SET_PLANS = _PLANS.format(change="SET", value=" = off")
RESET_PLANS = _PLANS.format(change="RESET", value="")


def alembic_config() -> Config:
    return Config(Path(__file__).parents[1] / "alembic.ini")


def newest_revision() -> str | None:
    """The revision that this release of the service needs."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def current_revision(connection: Connection) -> str | None:
    """The revision that the database is at; None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


class CannotMigrate(Exception):
    """The database cannot be migrated by this release, or not now. The message is the end of a sentence: why, and what
    to do."""


def misfit(connection: Connection) -> str | None:
    """Return why this release cannot run on the database, and what to do; None if it can run on it.

    It can run on its own revision, and on a newer one that lists it as served.
    """
    current, newest = current_revision(connection), newest_revision()
    if current == newest:
        return None
    if current is None or current in _chain():
        return (
            f"it is at migration {current or 'none'}, and this release needs {newest}: run 'everthread migrate' first"
        )
    if OUR_REVISION.fullmatch(current) is None:
        return OTHER_LINEAGE.format(current)
    if connection.scalar(text(HAS_SERVED)) and connection.scalar(select(ServedRevision).where(
        ServedRevision.revision == newest
    )) is not None:  # fmt: skip
        return None
    return (
        f"it is at migration {current}, of a newer release, which does not serve this one ({newest}): run the newer one"
    )


def _chain() -> list[str]:
    """Return the revisions of this release, oldest first."""
    return [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][::-1]


def served(head: str) -> list[str]:
    """The revisions whose releases can run on a database at `head`: it, and those before it for as long as each
    migration says that it serves the release before."""
    found: list[str] = []
    for script in ScriptDirectory.from_config(alembic_config()).walk_revisions(head=head):
        found.append(script.revision)
        if not getattr(script.module, "SERVES_THE_RELEASE_BEFORE", False):
            break
    return found


async def migrate(
    url: str, revision: str = "head", *, pooled: bool = False, report: Callable[[str], object] = lambda _: None
) -> str | None:
    """Bring a database to `revision`, up or down. Two migrations of a database wait for each other.

    Args:
        pooled: True if a pooler stands between, see `connecting.engine`.
        report: receives a sentence on what this waits for.

    Returns:
        The revision that the database is at now; None if it is at none.

    Raises:
        connecting.BadURL: the URL cannot be used.
        CommandError: there is no such revision.
        CannotMigrate: the database is of another lineage, or of a newer release.
    """
    engine = connecting.engine(url, pooled=pooled, poolclass=NullPool)
    try:
        async with engine.connect() as guard:
            # A lock of a transaction, on a connection of its own: it outlives the migrations' commits, and no pooler
            # keeps it. Tried again and again, for CREATE INDEX CONCURRENTLY waits for every running statement.
            reported = False
            while not await guard.scalar(text(LOCK)):
                if not reported:
                    holders = "; ".join(str(row.who) for row in await guard.execute(text(LOCK_HOLDERS)))
                    report(f"Waiting for another migration of this database: {holders or 'it has just ended'}.")
                    reported = True
                await guard.rollback()
                await asyncio.sleep(LOCK_POLL_SECONDS)
            await _let_go_of_snapshot(guard)
            async with engine.connect() as connection:
                return await _bring(connection, revision, report)
    finally:
        await engine.dispose()


async def _let_go_of_snapshot(guard: AsyncConnection) -> None:
    """Release the snapshot of the last statement, which is held until the next simple query. CREATE INDEX CONCURRENTLY
    would wait for it."""
    driver: Any = (await guard.get_raw_connection()).driver_connection
    await driver.execute("SELECT")


def _target(current: str | None, revision: str) -> tuple[str, bool]:
    """Return the revision that is meant, `base` for none, and True if it is older than the current one.

    Raises:
        CommandError: there is no such revision.
        CannotMigrate: the current one is not of this release.
    """
    chain = ["base", *_chain()]
    if current is not None and current not in chain:
        ours = OUR_REVISION.fullmatch(current)
        raise CannotMigrate(
            f"it is at migration {current}, of a newer release: use that one" if ours else OTHER_LINEAGE.format(current)
        )
    here = chain.index(current or "base")
    if re.fullmatch(r"[+-]\d+", revision):
        place = here + int(revision)
        if not 0 <= place < len(chain):
            raise CommandError(f"the database is at migration {current or 'none'}")
        return chain[place], place < here
    if revision == "head":
        return chain[-1], False
    if revision != "base":
        script = ScriptDirectory.from_config(alembic_config()).get_revision(revision)
        assert script is not None
        revision = script.revision
    return revision, chain.index(revision) < here


async def _bring(connection: AsyncConnection, revision: str, report: Callable[[str], object]) -> str | None:
    current = await connection.run_sync(current_revision)
    target, down = _target(current, revision)
    if current is None and target == newest_revision():
        await connection.run_sync(_create)
    else:
        await connection.rollback()
        await _step(connection, target, down, report)
    return await connection.run_sync(_finish, target)


async def _step(connection: AsyncConnection, target: str, down: bool, report: Callable[[str], object]) -> None:
    """Run the migrations up or down to `target`, each in its own transaction.

    One that does not get a lock in time is rolled back and tried again, after a pause in which turns go on.

    Raises:
        CannotMigrate: another transaction has held the lock through all tries.
    """
    config = alembic_config()
    event.listen(connection.sync_connection, "begin", ddl.limit_lock_waits)

    def run(sync: Connection) -> None:
        config.attributes["connection"] = sync
        (command.downgrade if down else command.upgrade)(config, target)

    try:
        for number in range(LOCK_TRIES):
            try:
                return await connection.run_sync(run)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in NOT_NOW:
                    raise
                await connection.rollback()
                oldest = await connection.scalar(text(OLDEST_TRANSACTION))
                await connection.rollback()
                blocker = f"The oldest transaction is that of {oldest}." if oldest else ""
                if number == 0:
                    report(f"Waiting for a lock, and trying again. {blocker}".rstrip())
            await asyncio.sleep(min(2**number, LONGEST_PAUSE_SECONDS))
        raise CannotMigrate(f"a lock was not available in {LOCK_TRIES} tries. {blocker} End it, and migrate again")
    finally:
        event.remove(connection.sync_connection, "begin", ddl.limit_lock_waits)


def _finish(connection: Connection, target: str) -> str | None:
    """Set what a dump leaves out and what depends on the revision. Return the revision that the database holds."""
    plans = RESET_PLANS if target == "base" else SET_PLANS
    connection.execute(text(plans))
    at = current_revision(connection)
    if at is not None:
        connection.execute(delete(ServedRevision))
        connection.execute(insert(ServedRevision), [{"revision": each} for each in served(at)])
    connection.commit()
    if target != "base" and distribution.has_citus(connection):
        distribution.distribute(connection, plans)
    return at


def _create(connection: Connection) -> None:
    """Create the schema of this release in an empty database, in the transaction of the caller."""
    script = SCHEMA.read_text()
    MigrationContext.configure(connection).stamp(ScriptDirectory.from_config(alembic_config()), "head")
    driver: Any = connection.connection.dbapi_connection
    driver.run_async(lambda each: each.execute(script))  # The driver takes a script of many statements.

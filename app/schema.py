"""All tables together, and the way a database is brought up to them."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from app.accounts import tables as accounts
from app.audit import tables as audit
from app.cache import tables as cache
from app.chain import tables as chain
from app.db import connecting, sql, wall
from app.db.base import Base
from app.db.tables import ServedRevision
from app.history import tables as history
from app.limits import tables as limits
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
    cache.CacheKey, projects.Project, projects.ApiKey, projects.ConsoleSession, sealing.DataKey, sealing.MasterNodes,
    accounts.Account, trail.UserKey, threads.Thread, threads.ThreadName,
    threads.ThreadActivity, turns.Turn, turns.Item, turns.Call, turns.SentPiece, turns.Waiter,
    trail.AuditRecord, audit.AuditLeaf, audit.AuditCheckpoint, audit.AuditKey, chain.ProviderDeletion,
    retention.UserPurge, memory.Compaction, memory.LearntModel, webhooks.Webhook, webhooks.WebhookDelivery,
    history.Feedback, history.Share, usage.TurnHour, limits.Charge,
    ServedRevision,
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
HAS_CITUS = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"
DISTRIBUTED = "SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass)"
# A table is distributed when none that is not refers to it.
KEYS_BETWEEN = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE contype = 'f' AND confrelid IN ('threads'::regclass, 'turns'::regclass) AND conparentid = 0
"""
SQL = Path(__file__).parents[1] / "migrations" / "sql"
DISTRIBUTE = SQL / "citus.sql"
SERVICE_ROLE = SQL / "service_role.sql"
FUNCTION_RIGHTS = SQL / "function_rights.sql"

NO_WALL_IN_CLUSTER = (
    "EVERTHREAD_ROW_SECURITY cannot be turned on in a Citus cluster: its coordinator logs in to the nodes as whoever "
    f"asks, and nobody logs in as {wall.ROLE}."
)
NO_ROLE = (
    f"The role {wall.ROLE} could not be made, or may not be used: EVERTHREAD_ROW_SECURITY cannot be turned on. "
    f"Have a superuser do 'CREATE ROLE {wall.ROLE}; GRANT {wall.ROLE} TO' the user of DATABASE_URL."
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


def misfit(connection: Connection) -> str | None:
    """Why this release cannot run on the database, and what to do; None if it can.

    It can on its own revision, and on a newer one that says that it serves this release too.
    """
    current, newest = current_revision(connection), newest_revision()
    if current == newest:
        return None
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    if current is None or current in known:
        return (
            f"it is at migration {current or 'none'}, and this release needs {newest}: run 'everthread migrate' first"
        )
    if connection.scalar(text(HAS_SERVED)) and connection.scalar(select(ServedRevision).where(
        ServedRevision.revision == newest
    )) is not None:  # fmt: skip
        return None
    return (
        f"it is at migration {current}, of a newer release, which does not serve this one ({newest}): run the newer one"
    )


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
) -> None:
    """Bring a database to `revision`. Two at once wait for each other.

    Args:
        pooled: a pooler stands between, see `connecting.engine`.
        report: is told whom this waits for.

    Raises:
        connecting.BadURL: the URL cannot be used.
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
                await connection.run_sync(_run, revision)
                if not await wall.may_be_used(connection):
                    report(NO_ROLE)
    finally:
        await engine.dispose()


async def _let_go_of_snapshot(guard: AsyncConnection) -> None:
    """A statement's answer, read to its end, holds the snapshot that it was read with until the next simple query; and
    CREATE INDEX CONCURRENTLY would wait for it for ever."""
    driver: Any = (await guard.get_raw_connection()).driver_connection
    await driver.execute("SELECT")


def _run(connection: Connection, revision: str) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    down = revision == "base" or revision.startswith("-")
    (command.downgrade if down else command.upgrade)(config, revision)
    plans = RESET_PLANS if down else SET_PLANS
    if not down:
        for _ in range(2):  # One that another database's migration makes at the same moment is there the next time.
            connection.exec_driver_sql(SERVICE_ROLE.read_text())
        connection.exec_driver_sql(FUNCTION_RIGHTS.read_text())
    connection.execute(text(plans))
    current = current_revision(connection)
    if current is not None and connection.scalar(text(HAS_SERVED)):
        connection.execute(delete(ServedRevision))
        connection.execute(insert(ServedRevision), [{"revision": each} for each in served(current)])
    connection.commit()
    if not down and connection.scalar(text(HAS_CITUS)):
        _distribute(connection, plans)


def _distribute(connection: Connection, plans: str) -> None:
    """Lay the tables over the nodes of a Citus cluster, if that has not been done."""
    connection.execute(text("SELECT run_command_on_workers(:plans)"), {"plans": plans})
    if not connection.scalar(text(DISTRIBUTED)):
        # The guards look at nothing but their own row's shard.
        connection.execute(text("SET LOCAL citus.enable_unsafe_triggers = on"))
        keys = connection.execute(text(KEYS_BETWEEN)).all()
        for table, name, _ in keys:
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        for statement in sql.commands(DISTRIBUTE):
            connection.exec_driver_sql(statement)
        for table, name, definition in keys:
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
    connection.commit()

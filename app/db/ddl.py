"""Locks of tables for migrations, so that no turn waits long for one."""

from alembic import op
from sqlalchemy import Connection

FIRST_LOCK = "2s"
"""The longest wait for a migration's first lock. New statements on the table wait behind it."""

FURTHER_LOCK = "500ms"
"""The longest wait of a migration that holds a lock already: less than PostgreSQL's deadlock_timeout of one second, so
that in a deadlock the migration gives way, and not a turn."""


def limit_lock_waits(connection: Connection) -> None:
    """Bound how long the transaction that begins now waits for a lock.

    A statement outside a transaction (CREATE INDEX CONCURRENTLY) waits without a bound: its locks let turns pass.
    """
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{FIRST_LOCK}'")


def lock(*tables: str) -> None:
    """Take the strongest lock of each table, before a migration's first change.

    A migration that gets one too late is rolled back and tried again, see `app.schema.migrate`.
    """
    for table in tables:
        op.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        op.execute(f"SET LOCAL lock_timeout = '{FURTHER_LOCK}'")

"""The tables of a new database, distributed over the nodes of a Citus cluster."""

from pathlib import Path

from sqlalchemy import Connection, text

from app.db import sql

HAS_CITUS = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"
DISTRIBUTED = "SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass)"
# A table is distributed when none that is not refers to it.
KEYS_BETWEEN = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE contype = 'f' AND conparentid = 0
    AND confrelid IN ('threads'::regclass, 'turns'::regclass, 'items'::regclass, 'media'::regclass)
"""
DISTRIBUTE = Path(__file__).parents[2] / "migrations" / "sql" / "citus.sql"


def has_citus(connection: Connection) -> bool:
    return bool(connection.scalar(text(HAS_CITUS)))


def distribute(connection: Connection, plans: str) -> None:
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

"""Statistics for tables that have none yet.

A connection keeps the plans of its statements. Those that were made while a table was empty may read the wrong
index, and more of it with each row, until the table is analyzed; autovacuum comes to that after a minute.
"""

import asyncio

import structlog

from app.background import Background
from app.db.engine import Database
from app.errors import DatabaseUnavailable

log = structlog.get_logger()

FIRST_LOOK_SECONDS = 1.0
LONGEST_LOOK_SECONDS = 10.0
"""Looked for less and less often: a table that stays empty needs no statistics."""

TABLES = ("api_keys", "audit_leaves", "audit_records", "calls", "items", "projects", "texts", "threads", "turns")

UNKNOWN = """
SELECT relname, pg_relation_size(oid) > $2 AS filled FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname = ANY($1::text[]) AND reltuples < 0
"""

FILLED_BYTES = 64 * 1024


class Statistics(Background):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    async def _keep(self) -> None:
        unknown, pause = list(TABLES), FIRST_LOOK_SECONDS
        while unknown:
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_LOOK_SECONDS)
            try:
                rows = await self._database.fetch(UNKNOWN, unknown, FILLED_BYTES)
                filled = [row["relname"] for row in rows if row["filled"]]
                for table in filled:
                    await self._database.fetch(f"ANALYZE {table}")
                # Each once: where it does not help, the role may not analyze.
                unknown = [row["relname"] for row in rows if row["relname"] not in filled]
            except DatabaseUnavailable:
                log.warning("Postgres is away; its new tables are analyzed later")

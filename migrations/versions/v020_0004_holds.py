"""legal holds and minimum retention"""

import re
from pathlib import Path
from typing import Any

from alembic import op

from app.db import ddl

revision = "v020_0004"
down_revision = "v020_0003"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

HOLDS = "SELECT EXISTS (SELECT FROM held_rows) OR EXISTS (SELECT FROM holds WHERE released_at IS NULL)"
SCRIPT = Path(__file__).with_suffix(".sql")
TABLES = (
    "projects", "data_keys", "user_keys", "threads", "turns", "items", "item_media", "media", "calls", "pieces",
    "compactions", "feedback", "shares",
)  # fmt: skip


def upgrade() -> None:
    ddl.lock(*TABLES)
    script = SCRIPT.read_text()
    driver: Any = op.get_bind().connection.dbapi_connection
    driver.run_async(lambda connection: connection.execute(script))


def downgrade() -> None:
    ddl.lock(*TABLES)
    if op.get_bind().exec_driver_sql(HOLDS).scalar():
        raise RuntimeError("A legal hold is active, or contents are kept, which a downgrade would delete.")
    script = SCRIPT.read_text()
    for name, table in re.findall(r"^CREATE TRIGGER (\w+) .*?\sON (\w+)", script, re.MULTILINE | re.DOTALL):
        op.execute(f"DROP TRIGGER {name} ON {table}")
    for name in re.findall(r"^CREATE FUNCTION (\w+)", script, re.MULTILINE)[::-1]:
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP TABLE holds, held_rows")
    op.execute("ALTER TABLE projects DROP COLUMN minimum_retention_days, DROP COLUMN minimum_retention_former")

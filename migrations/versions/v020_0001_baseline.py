"""baseline of release 0.2.0

A database that a release before 0.2.0 has made is not upgraded to it: see `app.schema.misfit`.
"""

import re
from pathlib import Path
from typing import Any

from alembic import op

revision = "v020_0001"
down_revision = None
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = False

# The schema of this revision: migrations/schema.sql as long as there is no later migration, then a copy of it.
COPY = Path(__file__).with_suffix(".sql")
SCHEMA = COPY if COPY.exists() else Path(__file__).parents[1] / "schema.sql"


def upgrade() -> None:
    script = SCHEMA.read_text()
    bind = op.get_bind()
    bind.exec_driver_sql("SELECT")  # Begins the transaction that the script runs in.
    driver: Any = bind.connection.dbapi_connection
    driver.run_async(lambda connection: connection.execute(script))


def downgrade() -> None:
    made = re.findall(r"^CREATE (TABLE|FUNCTION|DOMAIN) (\w+)", SCHEMA.read_text(), re.MULTILINE)
    for kind in ("TABLE", "FUNCTION", "DOMAIN"):
        names = ", ".join(name for each, name in made if each == kind)
        op.execute(f"DROP {kind} {names} CASCADE")
    op.execute("DROP COLLATION letters")

"""finding threads by their last turn and by the beginning of a user, and turns by their response id"""

import re
from pathlib import Path
from typing import Any

from alembic import op

revision = "v020_0010"
down_revision = "v020_0009"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True
DROPS_LATER = [
    "DROP FUNCTION IF EXISTS found_messages_v1",
    "DROP FUNCTION IF EXISTS found_titles_v1",
    "DROP FUNCTION IF EXISTS listed_threads_v1",
]

SCRIPT = Path(__file__).with_suffix(".sql")


def upgrade() -> None:
    # A migration whose index fails is run again.
    script = SCRIPT.read_text().replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    driver: Any = op.get_bind().connection.dbapi_connection
    driver.run_async(lambda connection: connection.execute(script))
    with op.get_context().autocommit_block():
        op.execute("""
            CREATE INDEX CONCURRENTLY IF NOT EXISTS turns_response_idx
                ON turns (project_id, ((arrived_at AT TIME ZONE 'UTC')::date), hashtext(response_id))
                WHERE response_id IS NOT NULL
        """)
        op.execute("""
            CREATE INDEX CONCURRENTLY IF NOT EXISTS threads_of_user_idx
                ON threads (project_id, user_id text_pattern_ops, arrived_at, id) WHERE user_id IS NOT NULL
        """)
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS threads_user_idx")


def downgrade() -> None:
    for name in re.findall(r"^CREATE FUNCTION (\w+)", SCRIPT.read_text(), re.MULTILINE)[::-1]:
        op.execute(f"DROP FUNCTION {name}")
    with op.get_context().autocommit_block():
        op.execute("""
            CREATE INDEX CONCURRENTLY IF NOT EXISTS threads_user_idx
                ON threads (project_id, user_id, arrived_at, id) WHERE user_id IS NOT NULL
        """)
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS threads_of_user_idx")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS turns_response_idx")

"""the store: its tables, what no row may be, the audit trail, and the functions that open and close turns

The statements stand in migrations/sql, one file for each thing. A function carries a version in its name: one that
changes is a new one beside the old, so that workers of two releases run side by side.
"""

import secrets
from pathlib import Path

import sqlalchemy as sa
from alembic import op

from app.db.sql import commands

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql"
FILES = ("search", "tables", "guards", "trail", "open_turn_v1", "close_turn_v1")


def upgrade() -> None:
    for name in FILES:
        for statement in commands(SQL / f"{name}.sql"):
            # As it stands: a colon is no parameter's here.
            op.get_bind().exec_driver_sql(statement)
    op.execute(sa.text("INSERT INTO cache_keys (key) VALUES (:key)").bindparams(key=secrets.token_bytes(32)))


def downgrade() -> None:
    op.execute(
        "DROP TABLE projects, api_keys, cache_keys, user_keys, threads, thread_names, thread_activity, turns, items, "
        "calls, pieces, waiters, audit_records, audit_leaves, audit_checkpoints, provider_deletions, "
        "user_purges CASCADE"
    )
    op.execute(
        "DROP FUNCTION bucket_of, refuse_row, by_function, in_history, threads_guard, turns_guard, turns_keep, "
        "audit_guard, audit_refuse, token_count, record_hash_v1, "
        "trail_digest_v1, append_records_v1, open_turn_v1, close_turn_v1, message_lexemes_v1, title_lexemes_v1, "
        "message_text_v1, lexemes_v1, foreign_lexemes_v1, folded_v1"
    )
    op.execute("DROP DOMAIN item_origin, item_position, call_continuation, call_attempt")
    op.execute("DROP COLLATION letters")

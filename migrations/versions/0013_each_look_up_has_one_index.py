"""each look-up has one index that fits it, so that plans made on empty tables read what plans on full ones read"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# On a table that was never analyzed, `project_id = …` looks as selective as a whole key: an index that begins with
# the project is then read by the project alone, wherever another would fit. Only the primary keys begin with it now.
INDEXES = (
    ("turns_child_idx", "turns", ["parent_id", "project_id"], ["project_id", "parent_id"], False),
    ("turns_thread_idx", "turns", ["thread_id", "project_id", "id"], None, False),
    ("items_item_id_key", "items", ["item_id", "project_id"], ["project_id", "item_id"], True),
    ("threads_updated_idx", "threads", ["updated_at", "project_id"], ["project_id", "updated_at"], False),
)

# Step by step, whatever the planner thinks of the tables.
IN_HISTORY = """
CREATE OR REPLACE FUNCTION in_history(project uuid, thread uuid, turn uuid) RETURNS boolean LANGUAGE sql STABLE
AS $function$
    SELECT EXISTS (
        SELECT FROM turns t WHERE t.project_id = project AND t.id = turn AND t.thread_id = thread
    ) OR EXISTS (
        WITH RECURSIVE shared AS (
            SELECT t.id, t.parent_id FROM turns t
            WHERE t.project_id = project AND t.id = (
                SELECT th.forked_turn_id FROM threads th WHERE th.project_id = project AND th.id = thread
            )
            UNION ALL
            SELECT t.id, t.parent_id FROM shared CROSS JOIN LATERAL (
                SELECT t.id, t.parent_id FROM turns t WHERE t.project_id = project AND t.id = shared.parent_id OFFSET 0
            ) t
        )
        SELECT FROM shared WHERE shared.id = turn
    )
$function$
"""

IN_HISTORY_BEFORE = """
CREATE OR REPLACE FUNCTION in_history(project uuid, thread uuid, turn uuid) RETURNS boolean LANGUAGE sql STABLE
AS $function$
    SELECT EXISTS (
        SELECT FROM turns t WHERE t.project_id = project AND t.id = turn AND t.thread_id = thread
    ) OR EXISTS (
        WITH RECURSIVE shared AS (
            SELECT t.id, t.parent_id FROM threads th JOIN turns t
                ON t.project_id = th.project_id AND t.id = th.forked_turn_id
            WHERE th.project_id = project AND th.id = thread
            UNION ALL
            SELECT t.id, t.parent_id FROM shared JOIN turns t ON t.project_id = project AND t.id = shared.parent_id
        )
        SELECT FROM shared WHERE shared.id = turn
    )
$function$
"""


# The audit trail's list needs an index by project and id; a chain's last record is not to be found by sorting that.
LAST_RECORD_BY_KEY = "ALTER FUNCTION audit_append() SET enable_sort = off"


def upgrade() -> None:
    op.execute(IN_HISTORY)
    op.execute(LAST_RECORD_BY_KEY)
    with op.get_context().autocommit_block():
        for name, table, columns, before, unique in INDEXES:
            if before is not None:
                op.execute(f"ALTER INDEX {name} RENAME TO {name}_before")
            op.create_index(name, table, columns, unique=unique, postgresql_concurrently=True)
            if before is not None:
                op.execute(f"DROP INDEX CONCURRENTLY {name}_before")
    op.drop_constraint("turns_project_id_thread_id_id_key", "turns", type_="unique")


def downgrade() -> None:
    op.create_unique_constraint("turns_project_id_thread_id_id_key", "turns", ["project_id", "thread_id", "id"])
    for name, table, _, before, unique in INDEXES:
        op.drop_index(name, table_name=table)
        if before is not None:
            op.create_index(name, table, before, unique=unique)
    op.execute(sa.text(IN_HISTORY_BEFORE))
    op.execute("ALTER FUNCTION audit_append() RESET enable_sort")

"""fewer index entries per turn, and a fresh look at whether its parent's response id was given up"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# VOLATILE, so that it sees what was committed while its statement waited for the thread's row.
RESPONSE_FORGOTTEN = """
CREATE FUNCTION response_forgotten(project uuid, turn uuid) RETURNS boolean LANGUAGE sql VOLATILE AS $function$
    SELECT t.response_unknown_at IS NOT NULL FROM turns t WHERE t.project_id = project AND t.id = turn
$function$
"""


def upgrade() -> None:
    op.execute(RESPONSE_FORGOTTEN)
    with op.get_context().autocommit_block():
        # turns_one_active_per_thread holds the same turns.
        op.drop_index("turns_lease_idx", table_name="turns", postgresql_concurrently=True)


def downgrade() -> None:
    op.create_index(
        "turns_lease_idx", "turns", ["lease_expires_at"], postgresql_where=sa.text("status = 'in_progress'")
    )
    op.execute("DROP FUNCTION response_forgotten")

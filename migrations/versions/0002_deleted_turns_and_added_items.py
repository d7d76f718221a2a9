"""turns can be deleted, and items be added outside any call"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("turns", sa.Column("deleted_at", sa.TIMESTAMP(timezone=True), nullable=True))
    _replace_check("status <> 'completed' OR continuation IS NULL OR response_id IS NOT NULL")


def downgrade() -> None:
    # Rows that the older release cannot hold: their items stay, under an id that no provider knows.
    op.execute("UPDATE turns SET response_id = 'none' WHERE status = 'completed' AND response_id IS NULL")
    _replace_check("status <> 'completed' OR response_id IS NOT NULL")
    op.drop_column("turns", "deleted_at")


def _replace_check(condition: str) -> None:
    # NOT VALID and then VALIDATE: turns go on being written while the old rows are looked at.
    op.drop_constraint(op.f("turns_response_id_check"), "turns", type_="check")
    op.create_check_constraint(op.f("turns_response_id_check"), "turns", condition, postgresql_not_valid=True)
    op.execute("ALTER TABLE turns VALIDATE CONSTRAINT turns_response_id_check")

"""the pace at which a streamed answer came"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("turns", sa.Column("pace", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("turns", "pace")

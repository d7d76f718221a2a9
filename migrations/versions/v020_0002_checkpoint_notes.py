"""checkpoints as signed notes"""

revision = "v020_0002"
down_revision = "v020_0001"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True


def upgrade() -> None: ...


def downgrade() -> None: ...

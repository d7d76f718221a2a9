"""the audit stream"""

revision = "v020_0007"
down_revision = "v020_0006"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True


def upgrade() -> None: ...


def downgrade() -> None: ...

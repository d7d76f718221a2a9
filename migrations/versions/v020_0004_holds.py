"""legal holds and minimum retention"""

revision = "v020_0004"
down_revision = "v020_0003"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True


def upgrade() -> None: ...


def downgrade() -> None: ...

"""purges of every kind, with a certificate"""

revision = "v020_0005"
down_revision = "v020_0004"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True


def upgrade() -> None: ...


def downgrade() -> None: ...

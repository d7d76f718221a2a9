"""witnesses, cosignatures and origins"""

revision = "v020_0003"
down_revision = "v020_0002"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True


def upgrade() -> None: ...


def downgrade() -> None: ...

"""records of who read contents"""

from alembic import op

from app.db import ddl

revision = "v020_0006"
down_revision = "v020_0005"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True


def upgrade() -> None:
    ddl.lock("projects")
    op.execute("ALTER TABLE projects ADD COLUMN record_reads text NOT NULL DEFAULT 'staff'")
    op.execute("""
        ALTER TABLE projects ADD CONSTRAINT projects_record_reads_check
            CHECK (record_reads IN ('off', 'staff', 'all'))
    """)


def downgrade() -> None:
    ddl.lock("projects")
    op.execute("ALTER TABLE projects DROP COLUMN record_reads")

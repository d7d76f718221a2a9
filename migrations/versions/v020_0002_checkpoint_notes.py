"""checkpoints as signed notes"""

from alembic import op

from app.db import ddl

revision = "v020_0002"
down_revision = "v020_0001"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True


def upgrade() -> None:
    ddl.lock("audit_checkpoints")
    op.execute("ALTER TABLE audit_checkpoints ADD COLUMN note text")
    op.execute(
        """CREATE TABLE audit_origins (
            project_id uuid NOT NULL,
            generation integer NOT NULL,
            origin text NOT NULL,
            begun_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT audit_origins_pkey PRIMARY KEY (project_id, generation)
        )"""
    )
    op.execute(
        """CREATE TRIGGER audit_origins_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_origins
        FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()"""
    )


def downgrade() -> None:
    ddl.lock("audit_checkpoints")
    op.execute("DROP TABLE audit_origins")
    op.execute("ALTER TABLE audit_checkpoints DROP COLUMN note")

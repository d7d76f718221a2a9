"""purges of every kind, with a certificate"""

from alembic import op

from app.db import ddl

revision = "v020_0005"
down_revision = "v020_0004"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

TABLES = (
    """CREATE TABLE purge_records (
        project_id uuid NOT NULL,
        purge_id uuid NOT NULL,
        leaves bytea NOT NULL CONSTRAINT purge_records_leaves_check CHECK (octet_length(leaves) % 56 = 0),
        CONSTRAINT purge_records_pkey PRIMARY KEY (project_id, purge_id)
    )""",
    """CREATE TABLE purge_certificates (
        project_id uuid NOT NULL,
        purge_id uuid NOT NULL,
        seq bigint NOT NULL,
        note text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT purge_certificates_pkey PRIMARY KEY (project_id, purge_id, seq)
    )""",
    """CREATE TRIGGER purge_records_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON purge_records
        FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()""",
    """CREATE TRIGGER purge_certificates_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON purge_certificates
        FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()""",
)

INDEX = """CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_records_erased_idx ON audit_records (project_id, at)
    WHERE action IN (
        'thread.deleted', 'thread.purged', 'turn.purged', 'user.purged', 'hold.erased', 'project.key_destroyed'
    )"""


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
    with op.get_context().autocommit_block():
        op.execute(INDEX)


def downgrade() -> None:
    ddl.lock("audit_records")
    op.execute("DROP INDEX audit_records_erased_idx")
    op.execute("DROP TABLE purge_certificates, purge_records")

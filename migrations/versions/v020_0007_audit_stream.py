"""the audit stream"""

from alembic import op

revision = "v020_0007"
down_revision = "v020_0006"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

STATEMENTS = (
    """
    CREATE TABLE audit_positions (
        project_id uuid NOT NULL,
        position bigint NOT NULL CONSTRAINT audit_positions_position_check CHECK (position > 0),
        bucket smallint NOT NULL,
        chain_id uuid NOT NULL,
        seq bigint NOT NULL,
        CONSTRAINT audit_positions_pkey PRIMARY KEY (project_id, position),
        CONSTRAINT audit_positions_record_key UNIQUE (project_id, bucket, chain_id, seq)
    )
    """,
    """
    CREATE TABLE audit_streams (
        project_id uuid NOT NULL,
        ahead_at timestamptz NOT NULL DEFAULT 'epoch',
        ahead_chain uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
        ahead_seq bigint NOT NULL DEFAULT 0,
        again_at timestamptz NOT NULL,
        again_chain uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
        again_seq bigint NOT NULL DEFAULT 0,
        again_next timestamptz,
        swept_bucket smallint NOT NULL DEFAULT -1,
        swept_chain uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
        swept_seq bigint NOT NULL DEFAULT 0,
        CONSTRAINT audit_streams_pkey PRIMARY KEY (project_id)
    )
    """,
    """
    CREATE TRIGGER audit_positions_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_positions
        FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE audit_streams, audit_positions")

"""witnesses, cosignatures and origins"""

from alembic import op

revision = "v020_0003"
down_revision = "v020_0002"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True


def upgrade() -> None:
    op.execute(
        """CREATE TABLE audit_cosignatures (
            project_id uuid NOT NULL,
            public_key bytea NOT NULL,
            size bigint NOT NULL,
            origin text NOT NULL,
            name text NOT NULL,
            at timestamptz NOT NULL,
            signature bytea NOT NULL,
            CONSTRAINT audit_cosignatures_pkey PRIMARY KEY (project_id, public_key, size)
        )"""
    )
    op.execute(
        """CREATE TRIGGER audit_cosignatures_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cosignatures
            FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()"""
    )
    op.execute(
        """CREATE TABLE audit_witnesses (
            project_id uuid NOT NULL,
            public_key bytea NOT NULL,
            taken_until timestamptz NOT NULL,
            answered_at timestamptz,
            error text,
            CONSTRAINT audit_witnesses_pkey PRIMARY KEY (project_id, public_key)
        )"""
    )


def downgrade() -> None:
    op.execute("DROP TABLE audit_witnesses")
    op.execute("DROP TABLE audit_cosignatures")

"""the keys that hosts may sign checkpoints with

Safe on a live table: a new one. Those that have signed so far are listed in it.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True
"""Whether the release of the migration before can run on what this one makes: see `schema.served`."""


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE audit_keys (
            public_key bytea NOT NULL
                CONSTRAINT audit_keys_public_key_check CHECK (octet_length(public_key) = 32),
            added_at timestamptz NOT NULL DEFAULT now(),
            retired_at timestamptz,
            CONSTRAINT audit_keys_pkey PRIMARY KEY (public_key)
        )
        """
    )
    op.execute(
        "INSERT INTO audit_keys (public_key, added_at) SELECT public_key, min(at) FROM audit_checkpoints GROUP BY 1"
    )
    # On every node of a cluster that is one already; of another, everything is distributed afterwards.
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'audit_checkpoints'::regclass) THEN
                    PERFORM create_reference_table('audit_keys');
                END IF;
            END IF;
        END $$
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE audit_keys")

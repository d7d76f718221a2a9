"""master nodes: what a short master key opens, sealed, so that the key itself fits into an environment variable

`projects.encrypted_at` that was moved by hand can be set back: contents that are sealed from an earlier moment on are
sealed all the same. Safe on a live database: a new table, and a function.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True


GUARD = """
CREATE OR REPLACE FUNCTION projects_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF OLD.encrypted_at IS NOT NULL AND NEW.encrypted_at IS DISTINCT FROM OLD.encrypted_at {unless} THEN
        PERFORM refuse_row('projects_encrypted_check');
    END IF;
    IF OLD.key_destroyed_at IS NOT NULL AND NEW.key_destroyed_at IS DISTINCT FROM OLD.key_destroyed_at THEN
        PERFORM refuse_row('projects_key_destroyed_check');
    END IF;
    RETURN NEW;
END
$function$
"""
EARLIER = "AND NOT coalesce(NEW.encrypted_at < OLD.encrypted_at, false)"


def upgrade() -> None:
    op.execute(GUARD.format(unless=EARLIER))
    op.execute(
        """
        CREATE TABLE master_nodes (
            secret_id bytea CONSTRAINT master_nodes_pkey PRIMARY KEY,
            nodes bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass) THEN
                    PERFORM create_reference_table('master_nodes');
                END IF;
            END IF;
        END $$
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE master_nodes")
    op.execute(GUARD.format(unless=""))

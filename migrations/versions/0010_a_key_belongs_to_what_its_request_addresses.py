"""an Idempotency-Key belongs to the thread that its request addresses; whose client has gone is written down"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

HAS_KEY = sa.text("idempotency_key IS NOT NULL")


def upgrade() -> None:
    op.add_column("turns", sa.Column("key_scope", sa.Uuid(), nullable=True))
    op.add_column("turns", sa.Column("client_left_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.execute("UPDATE turns SET key_scope = thread_id WHERE idempotency_key IS NOT NULL")
    op.execute(
        "ALTER TABLE turns ADD CONSTRAINT turns_key_scope_check "
        "CHECK ((idempotency_key IS NULL) = (key_scope IS NULL)) NOT VALID"
    )
    op.execute("ALTER TABLE turns VALIDATE CONSTRAINT turns_key_scope_check")
    with op.get_context().autocommit_block():
        op.drop_index("turns_idempotency_key", table_name="turns", postgresql_concurrently=True)
        op.create_index(
            "turns_idempotency_key",
            "turns",
            ["project_id", "key_scope", "idempotency_key"],
            unique=True,
            postgresql_where=HAS_KEY,
            postgresql_concurrently=True,
        )
        op.drop_index("turns_body_hash_idx", table_name="turns", postgresql_concurrently=True)


def downgrade() -> None:
    # A key that holds in two threads holds in the one that had it first.
    op.execute(
        "UPDATE turns t SET idempotency_key = NULL, key_scope = NULL FROM turns o WHERE o.project_id = t.project_id "
        "AND o.idempotency_key = t.idempotency_key AND o.id < t.id"
    )
    op.drop_index("turns_idempotency_key", table_name="turns")
    op.create_index(
        "turns_idempotency_key", "turns", ["project_id", "idempotency_key"], unique=True, postgresql_where=HAS_KEY
    )
    op.create_index("turns_body_hash_idx", "turns", ["project_id", "body_hash"])
    op.drop_constraint(op.f("turns_key_scope_check"), "turns", type_="check")
    op.drop_column("turns", "client_left_at")
    op.drop_column("turns", "key_scope")

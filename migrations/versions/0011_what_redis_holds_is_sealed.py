"""what Redis holds is sealed with a key of the database's"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table(
        "cache_keys",
        sa.Column("id", sa.SmallInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("cache_keys_id_check")),
        sa.CheckConstraint("octet_length(key) = 32", name=op.f("cache_keys_key_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("cache_keys_pkey")),
    )
    op.bulk_insert(table, [{"key": secrets.token_bytes(32)}])


def downgrade() -> None:
    op.drop_table("cache_keys")

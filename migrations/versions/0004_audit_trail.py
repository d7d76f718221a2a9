"""the audit trail: records that are chained, and the checkpoints that are signed over them"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The record as canonical JSON (RFC 8785): keys sorted, no spaces, strings as to_json escapes them.
# app/audit/records.py builds the same text from the columns; the hash is over it.
APPEND = """
CREATE FUNCTION audit_append() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    -- Whoever appends to a chain waits for the one before: the record read below is the last one.
    PERFORM pg_advisory_xact_lock(uuid_hash_extended(NEW.chain_id, 0));
    SELECT r.seq + 1, r.hash INTO NEW.seq, NEW.previous FROM audit_records r
        WHERE r.project_id = NEW.project_id AND r.chain_id = NEW.chain_id ORDER BY r.seq DESC LIMIT 1;
    IF NEW.seq IS NULL THEN
        NEW.seq := 1;
        NEW.previous := decode(repeat('00', 32), 'hex');
    END IF;
    NEW.at := clock_timestamp();
    NEW.hash := sha256(convert_to(
        '{"action":' || to_json(NEW.action)
        || ',"actor":{"address":' || coalesce(to_json(NEW.address)::text, 'null')
        || ',"key":' || coalesce('"key_' || encode(uuid_send(NEW.key_id), 'hex') || '"', 'null')
        || ',"project":"' || encode(uuid_send(NEW.project_id), 'hex')
        || '","user":' || coalesce(to_json(NEW.user_id)::text, 'null')
        || '},"at":"' || to_char(NEW.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        || '","content":' || coalesce('"' || encode(NEW.content, 'hex') || '"', 'null')
        || ',"detail":' || coalesce(to_json(NEW.detail)::text, 'null')
        || ',"id":"audit_' || encode(uuid_send(NEW.id), 'hex')
        || '","object":"audit.record","previous":"' || encode(NEW.previous, 'hex')
        || '","seq":' || NEW.seq
        || ',"thread":' || CASE WHEN NEW.chain_id = NEW.project_id THEN 'null'
            ELSE '"thread_' || encode(uuid_send(NEW.chain_id), 'hex') || '"' END
        || ',"turn":' || coalesce('"turn_' || encode(uuid_send(NEW.turn_id), 'hex') || '"', 'null')
        || '}',
        'UTF8'
    ));
    RETURN NEW;
END
$function$
"""

REFUSE = """
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    RAISE EXCEPTION 'The audit trail is append-only: % of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END
$function$
"""

APPEND_ONLY = ("audit_records", "audit_leaves", "audit_checkpoints")


def upgrade() -> None:
    op.create_table(
        "audit_records",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("chain_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("turn_id", sa.Uuid(), nullable=True),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("previous", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "chain_id", "seq", name=op.f("audit_records_pkey")),
        sa.UniqueConstraint("project_id", "id", name=op.f("audit_records_project_id_id_key")),
    )
    op.create_table(
        "audit_leaves",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("chain_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "position", name=op.f("audit_leaves_pkey")),
        sa.UniqueConstraint("project_id", "chain_id", "seq", name=op.f("audit_leaves_project_id_chain_id_seq_key")),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "size", name=op.f("audit_checkpoints_pkey")),
    )
    op.execute(APPEND)
    op.execute(REFUSE)
    op.execute(
        "CREATE TRIGGER audit_records_append BEFORE INSERT ON audit_records "
        "FOR EACH ROW EXECUTE FUNCTION audit_append()"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()"
        )
    op.add_column("api_keys", sa.Column("last_used_at", sa.TIMESTAMP(timezone=True), nullable=True))
    for table in ("threads", "turns"):
        op.add_column(table, sa.Column("salt", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    for table in ("turns", "threads"):
        op.drop_column(table, "salt")
    op.drop_column("api_keys", "last_used_at")
    for table in APPEND_ONLY:
        op.drop_table(table)
    op.execute("DROP FUNCTION audit_append")
    op.execute("DROP FUNCTION audit_refuse")

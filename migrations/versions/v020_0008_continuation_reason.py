"""the reason of a continuation"""

from pathlib import Path
from typing import Any

from alembic import op

from app.db import ddl

revision = "v020_0008"
down_revision = "v020_0007"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True
DROPS_LATER = [
    """DROP FUNCTION IF EXISTS open_turn_v3(
        uuid, smallint, uuid, uuid, text, text, boolean, text, bytea, bytea, uuid, uuid, boolean, text, uuid, text,
        text, text, text[], uuid, float8, uuid, text, bytea, bytea, text[], text[], text[], text, bytea, bytea, text
    )""",
    """DROP FUNCTION IF EXISTS close_turn_v3(
        uuid, smallint, uuid, uuid, text, text, text, text, text, text, text, text, text, timestamptz, timestamptz,
        smallint, text, text, integer, text[], text[], text[], text[], text[], text[], integer[], integer[], bytea[],
        text[], text[], integer[], integer[], text[], text[], timestamptz[], timestamptz[], uuid, text, text[], text[],
        bytea[], text, uuid[]
    )""",
]

SCRIPT = Path(__file__).with_suffix(".sql")

GUARD_BEFORE = """
CREATE OR REPLACE FUNCTION turns_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    runs boolean := NEW.status = 'in_progress';
    wrong text := CASE
        WHEN NEW.status NOT IN ('in_progress', 'completed', 'incomplete', 'failed', 'cancelled')
            THEN 'turns_status_check'
        WHEN runs <> (NEW.completed_at IS NULL) THEN 'turns_completed_at_check'
        WHEN runs <> (NEW.lease_expires_at IS NOT NULL) THEN 'turns_lease_check'
        WHEN (NEW.status = 'failed') <> (NEW.error IS NOT NULL) THEN 'turns_error_check'
        WHEN NEW.status = 'incomplete' AND NEW.incomplete_details IS NULL THEN 'turns_incomplete_details_check'
        WHEN NEW.continuation NOT IN ('new', 'chained', 'rebuilt') THEN 'turns_continuation_check'
        WHEN NEW.status = 'completed' AND NEW.continuation IS NOT NULL AND NEW.response_id IS NULL
            THEN 'turns_response_id_check'
        WHEN NEW.response_expires_at IS NOT NULL AND NEW.response_id IS NULL THEN 'turns_response_expires_at_check'
        WHEN (NEW.idempotency_key IS NULL) <> (NEW.key_scope IS NULL) THEN 'turns_key_scope_check'
        WHEN NEW.beside NOT IN (0, NEW.seq) OR NEW.seq < 1 THEN 'turns_seq_check'
        WHEN NEW.parent_id = NEW.id THEN 'turns_parent_check'
        WHEN NEW.bucket <> bucket_of(NEW.id) THEN 'turns_bucket_check'
    END;
BEGIN
    IF wrong IS NULL AND NEW.parent_id IS NOT NULL AND NOT by_function()
        AND (TG_OP = 'INSERT' OR NEW.parent_id IS DISTINCT FROM OLD.parent_id)
        AND NOT in_history(NEW.project_id, NEW.bucket, NEW.thread_id, NEW.parent_id)
    THEN
        wrong := 'turns_parent_fkey';
    END IF;
    IF wrong IS NOT NULL THEN PERFORM refuse_row(wrong); END IF;
    RETURN NEW;
END
$function$
"""


def upgrade() -> None:
    ddl.lock("turns", "calls")
    script = SCRIPT.read_text()
    driver: Any = op.get_bind().connection.dbapi_connection
    driver.run_async(lambda connection: connection.execute(script))


def downgrade() -> None:
    ddl.lock("turns", "calls")
    op.execute("DROP FUNCTION open_turn_v4, close_turn_v4")
    op.execute(GUARD_BEFORE)
    op.execute("ALTER TABLE turns DROP COLUMN continuation_reason, DROP COLUMN response_unknown_reason")
    op.execute("ALTER TABLE calls DROP COLUMN continuation_reason")

"""a thread can be forked at a turn, and shares the history up to it"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A thread's history: its own turns, and those that it shares: the ancestors of the turn that it was forked at.
IN_HISTORY = """
CREATE FUNCTION in_history(project uuid, thread uuid, turn uuid) RETURNS boolean LANGUAGE sql STABLE AS $function$
    SELECT EXISTS (
        SELECT FROM turns t WHERE t.project_id = project AND t.id = turn AND t.thread_id = thread
    ) OR EXISTS (
        WITH RECURSIVE shared AS (
            SELECT t.id, t.parent_id FROM threads th JOIN turns t
                ON t.project_id = th.project_id AND t.id = th.forked_turn_id
            WHERE th.project_id = project AND th.id = thread
            UNION ALL
            SELECT t.id, t.parent_id FROM shared JOIN turns t ON t.project_id = project AND t.id = shared.parent_id
        )
        SELECT FROM shared WHERE shared.id = turn
    )
$function$
"""

CHECK = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF NOT in_history(NEW.project_id, {thread}, {turn}) THEN
        RAISE EXCEPTION 'turn % is not in the history of thread % ({constraint})', {turn}, {thread}
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = '{constraint}';
    END IF;
    RETURN NULL;
END
$function$
"""


def upgrade() -> None:
    op.add_column("threads", sa.Column("forked_turn_id", sa.Uuid(), nullable=True))
    op.execute(IN_HISTORY)
    op.execute(
        CHECK.format(
            name="turns_check_parent", thread="NEW.thread_id", turn="NEW.parent_id", constraint="turns_parent_fkey"
        )
    )
    op.execute(
        CHECK.format(
            name="threads_check_head", thread="NEW.id", turn="NEW.head_turn_id", constraint="threads_head_turn_fkey"
        )
    )
    _replace("turns", "turns_parent_fkey", ["project_id", "parent_id"])
    _replace("threads", "threads_head_turn_fkey", ["project_id", "head_turn_id"])
    op.create_foreign_key(
        "threads_forked_turn_fkey", "threads", "turns", ["project_id", "forked_turn_id"], ["project_id", "id"]
    )
    op.execute(
        "CREATE TRIGGER turns_check_parent AFTER INSERT OR UPDATE OF parent_id ON turns FOR EACH ROW "
        "WHEN (NEW.parent_id IS NOT NULL) EXECUTE FUNCTION turns_check_parent()"
    )
    op.execute(
        "CREATE TRIGGER threads_check_head AFTER UPDATE OF head_turn_id ON threads FOR EACH ROW "
        "WHEN (NEW.head_turn_id IS NOT NULL AND NEW.head_turn_id IS DISTINCT FROM OLD.head_turn_id) "
        "EXECUTE FUNCTION threads_check_head()"
    )
    with op.get_context().autocommit_block():
        op.create_index(
            "threads_forked_turn_idx",
            "threads",
            ["project_id", "forked_turn_id"],
            postgresql_where=sa.text("forked_turn_id IS NOT NULL"),
            postgresql_concurrently=True,
        )
        op.create_index("turns_child_idx", "turns", ["project_id", "parent_id"], postgresql_concurrently=True)
        op.drop_index("turns_parent_idx", table_name="turns", postgresql_concurrently=True)


def downgrade() -> None:
    """Forks are given up: what they share stays with the thread that they were forked from."""
    op.create_index("turns_parent_idx", "turns", ["project_id", "thread_id", "parent_id"])
    op.drop_index("turns_child_idx", table_name="turns")
    op.execute("DROP TRIGGER threads_check_head ON threads")
    op.execute("DROP TRIGGER turns_check_parent ON turns")
    op.drop_constraint("threads_forked_turn_fkey", "threads", type_="foreignkey")
    op.drop_constraint("threads_head_turn_fkey", "threads", type_="foreignkey")
    op.drop_constraint("turns_parent_fkey", "turns", type_="foreignkey")
    op.drop_index("threads_forked_turn_idx", table_name="threads")
    op.execute(
        "UPDATE turns t SET parent_id = NULL FROM turns p "
        "WHERE p.project_id = t.project_id AND p.id = t.parent_id AND p.thread_id <> t.thread_id"
    )
    op.execute(
        "UPDATE threads th SET head_turn_id = NULL FROM turns t "
        "WHERE t.project_id = th.project_id AND t.id = th.head_turn_id AND t.thread_id <> th.id"
    )
    op.drop_column("threads", "forked_turn_id")
    op.execute("DROP FUNCTION threads_check_head")
    op.execute("DROP FUNCTION turns_check_parent")
    op.execute("DROP FUNCTION in_history")
    op.create_foreign_key(
        "turns_parent_fkey",
        "turns",
        "turns",
        ["project_id", "thread_id", "parent_id"],
        ["project_id", "thread_id", "id"],
    )
    op.create_foreign_key(
        "threads_head_turn_fkey",
        "threads",
        "turns",
        ["project_id", "id", "head_turn_id"],
        ["project_id", "thread_id", "id"],
    )


def _replace(table: str, name: str, columns: list[str]) -> None:
    """A foreign key to any turn of the project. Old rows are looked at while new ones are written."""
    op.drop_constraint(name, table, type_="foreignkey")
    op.create_foreign_key(name, table, "turns", columns, ["project_id", "id"], postgresql_not_valid=True)
    op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")

"""item ids are unique in their project; a count that the provider reports may be anything"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Total: 0 for what is no number, and no number beyond what JSON carries exactly.
COUNT_FUNCTION = """
CREATE FUNCTION token_count(reported json) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
    SELECT CASE WHEN json_typeof(reported) = 'number'
        THEN trunc(greatest(0, least(reported::text::float8, 9007199254740991)))::bigint ELSE 0 END
$function$
"""

# Of several with one id, the first keeps it.
RENAME = """
UPDATE items SET item_id = 'item_' || replace(gen_random_uuid()::text, '-', '') FROM (
    SELECT project_id, turn_id, position, row_number() OVER (
        PARTITION BY project_id, item_id ORDER BY turn_id, position
    ) AS place FROM items
) again
WHERE again.place > 1 AND items.project_id = again.project_id AND items.turn_id = again.turn_id
    AND items.position = again.position
"""


def upgrade() -> None:
    op.execute(COUNT_FUNCTION)
    op.execute(RENAME)
    with op.get_context().autocommit_block():
        op.create_index(
            "items_item_id_key", "items", ["project_id", "item_id"], unique=True, postgresql_concurrently=True
        )


def downgrade() -> None:
    op.drop_index("items_item_id_key", table_name="items")
    op.execute("DROP FUNCTION token_count")

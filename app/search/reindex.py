"""Documents for turns and titles that were written before there was a search."""

from uuid import UUID

from app.db.engine import Database
from app.search.lexemes import document
from app.search.texts import documents

BATCH = 500

UNINDEXED_TURNS = """
SELECT t.project_id, t.bucket, t.id, t.created_at, (
    SELECT json_agg(i.data ORDER BY i.position) FROM items i
    WHERE i.project_id = t.project_id AND i.bucket = t.bucket AND i.turn_id = t.id AND i.type = 'message'
) AS items
FROM turns t WHERE (t.project_id, t.bucket, t.id) > ($1, $2, $3) AND t.deleted_at IS NULL
ORDER BY t.project_id, t.bucket, t.id LIMIT $4
"""

INDEX = """
INSERT INTO texts (project_id, bucket, turn_id, role, created_at, document)
SELECT x.project_id, x.bucket, x.turn_id, x.role, x.created_at, x.document::tsvector
FROM unnest($1::uuid[], $2::smallint[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[])
    AS x (project_id, bucket, turn_id, created_at, role, document)
JOIN turns t ON t.project_id = x.project_id AND t.bucket = x.bucket AND t.id = x.turn_id
ON CONFLICT DO NOTHING RETURNING turn_id
"""

UNINDEXED_TITLES = """
SELECT project_id, bucket, id, title FROM threads WHERE title IS NOT NULL AND title_document IS NULL
    AND (project_id, bucket, id) > ($1, $2, $3) ORDER BY project_id, bucket, id LIMIT $4
"""

INDEX_TITLES = """
UPDATE threads th SET title_document = x.document::tsvector
FROM unnest($1::uuid[], $2::smallint[], $3::uuid[], $4::text[], $5::text[])
    AS x (project_id, bucket, id, title, document)
WHERE th.project_id = x.project_id AND th.bucket = x.bucket AND th.id = x.id AND th.title = x.title RETURNING th.id
"""

FIRST = (UUID(int=0), -1, UUID(int=0))
"""A key before all others."""


async def index_missing(database: Database) -> int:
    """Index what is not indexed. Returns how many turns and titles that was."""
    return await _turns(database) + await _titles(database)


async def _turns(database: Database) -> int:
    last, indexed = FIRST, 0
    while rows := await database.fetch(UNINDEXED_TURNS, *last, BATCH):
        last = (rows[-1]["project_id"], rows[-1]["bucket"], rows[-1]["id"])
        columns: tuple[list[object], ...] = ([], [], [], [], [], [])
        for row in rows:
            for found in zip(*documents(row["items"] or []), strict=True):
                values = (row["project_id"], row["bucket"], row["id"], row["created_at"], *found)
                for column, value in zip(columns, values, strict=True):
                    column.append(value)
        indexed += len({row["turn_id"] for row in await database.fetch(INDEX, *columns)})
    return indexed


async def _titles(database: Database) -> int:
    last, indexed = FIRST, 0
    while rows := await database.fetch(UNINDEXED_TITLES, *last, BATCH):
        last = (rows[-1]["project_id"], rows[-1]["bucket"], rows[-1]["id"])
        found = [(*row, document(row["title"])) for row in rows]
        indexed += len(await database.fetch(INDEX_TITLES, *map(list, zip(*found, strict=True))))
    return indexed

"""Documents for turns and titles that were written before there was a search."""

from uuid import UUID

from app.db.engine import Database
from app.search.lexemes import document
from app.search.texts import documents

BATCH = 500

UNINDEXED_TURNS = """
SELECT t.project_id, t.id, json_agg(i.data ORDER BY i.position) AS items
FROM (
    SELECT project_id, id FROM turns
    WHERE (project_id, id) > ($1, $2) AND deleted_at IS NULL ORDER BY project_id, id LIMIT $3
) t LEFT JOIN items i ON i.project_id = t.project_id AND i.turn_id = t.id AND i.type = 'message'
GROUP BY t.project_id, t.id ORDER BY t.project_id, t.id
"""

INDEX = """
INSERT INTO texts (project_id, turn_id, role, document)
SELECT x.project_id, x.turn_id, x.role, x.document::tsvector
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) AS x (project_id, turn_id, role, document)
JOIN turns t ON t.project_id = x.project_id AND t.id = x.turn_id
ON CONFLICT DO NOTHING RETURNING turn_id
"""

UNINDEXED_TITLES = """
SELECT project_id, id, title FROM threads WHERE title IS NOT NULL AND title_document IS NULL
    AND (project_id, id) > ($1, $2) ORDER BY project_id, id LIMIT $3
"""

INDEX_TITLES = """
UPDATE threads th SET title_document = x.document::tsvector
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) AS x (project_id, id, title, document)
WHERE th.project_id = x.project_id AND th.id = x.id AND th.title = x.title RETURNING th.id
"""


async def index_missing(database: Database) -> int:
    """Index what is not indexed. Returns how many turns and titles that was."""
    return await _turns(database) + await _titles(database)


async def _turns(database: Database) -> int:
    last, indexed = (UUID(int=0), UUID(int=0)), 0
    while rows := await database.fetch(UNINDEXED_TURNS, *last, BATCH):
        last = (rows[-1]["project_id"], rows[-1]["id"])
        columns: tuple[list[object], ...] = ([], [], [], [])
        for row in rows:
            for found in zip(*documents(item for item in row["items"] if item), strict=True):
                for column, value in zip(columns, (row["project_id"], row["id"], *found), strict=True):
                    column.append(value)
        indexed += len({row["turn_id"] for row in await database.fetch(INDEX, *columns)})
    return indexed


async def _titles(database: Database) -> int:
    last, indexed = (UUID(int=0), UUID(int=0)), 0
    while rows := await database.fetch(UNINDEXED_TITLES, *last, BATCH):
        last = (rows[-1]["project_id"], rows[-1]["id"])
        found = [(row["project_id"], row["id"], row["title"], document(row["title"])) for row in rows]
        indexed += len(await database.fetch(INDEX_TITLES, *map(list, zip(*found, strict=True))))
    return indexed

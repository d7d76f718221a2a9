-- now --
-- The database's moment: turns are dated by it.
SELECT clock_timestamp()

-- messages --
-- The messages that may match, newest first: see migrations/schema.sql.
SELECT * FROM found_messages_v1(
    :project_id, :asked, :here_before, :since, :until, :user_id, :thread_id, :older_than, :limit
)

-- titles --
-- The titles that may match: see migrations/schema.sql.
SELECT * FROM found_titles_v1(:project_id, :asked, :here_before, :since, :until, :user_id, :thread_id, :limit)

-- texts --
-- The beginnings of messages that may match; a sealed one as it is. End users see no pinned ones.
SELECT i.turn_id AS id, i.turn_id, i.position, i.type, i.data->>'role' AS role,
    left(message_text_v1(i.data), :longest::int) AS text,
    CASE WHEN json_typeof(i.data) = 'array' THEN i.data END AS data
FROM unnest(:buckets::smallint[], :turn_ids::uuid[], :positions::integer[]) AS k (bucket, id, position)
JOIN items i ON i.project_id = :project_id AND i.bucket = k.bucket AND i.turn_id = k.id AND i.position = k.position
WHERE NOT :for_users::boolean OR i.data->>'pinned' IS DISTINCT FROM 'true'

-- turns -> FoundRow --
-- Turns that were found, with their threads.
SELECT t.id, t.thread_id, t.created_at, th.title, th.name FROM turns t
JOIN threads th ON th.project_id = t.project_id AND th.bucket = t.bucket AND th.id = t.thread_id
WHERE t.project_id = :project_id AND t.bucket = ANY(:buckets::smallint[]) AND t.id = ANY(:ids::uuid[])

-- threads -> FoundRow --
-- Threads whose titles were found.
SELECT id, id AS thread_id, created_at, title, name FROM threads
WHERE project_id = :project_id AND bucket = ANY(:buckets::smallint[]) AND id = ANY(:ids::uuid[])

-- messages_of_turns --
-- The messages of turns.
SELECT turn_id, position, type, data FROM items
WHERE project_id = :project_id AND bucket = ANY(:buckets::smallint[]) AND turn_id = ANY(:ids::uuid[])
    AND type = 'message'
ORDER BY turn_id, position

-- now --
-- The database's moment: turns are dated by it.
SELECT clock_timestamp()

-- messages --
-- The messages that may match, newest first: see migrations/schema.sql.
SELECT * FROM found_messages_v2(
    :project_id, :filters::jsonb, :asked, :here_before, :since, :until, :thread_id, :older_than, :limit,
    :looked_at
)

-- titles --
-- The titles that may match: see migrations/schema.sql.
SELECT * FROM found_titles_v2(
    :project_id, :filters::jsonb, :asked, :here_before, :since, :until, :thread_id, :limit, :looked_at
)

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

-- threads_of_turns --
-- The threads of turns that match.
SELECT id, thread_id FROM turns
WHERE project_id = :project_id AND bucket = ANY(:buckets::smallint[]) AND id = ANY(:ids::uuid[])

-- thread -> PlaceRow --
-- A thread, by its id.
SELECT id AS thread_id, NULL::uuid AS turn_id FROM threads
WHERE project_id = :project_id AND bucket = :bucket AND id = :id

-- turn -> PlaceRow --
-- A turn, by its id.
SELECT thread_id, id AS turn_id FROM turns
WHERE project_id = :project_id AND bucket = :bucket AND id = :id AND deleted_at IS NULL

-- call -> PlaceRow --
-- The turn of a call, by its id and attempt.
SELECT t.thread_id, t.id AS turn_id FROM turns t
JOIN calls c ON c.project_id = t.project_id AND c.bucket = t.bucket AND c.turn_id = t.id AND c.attempt = :attempt
WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = :id AND t.deleted_at IS NULL

-- item -> PlaceRow --
-- The turn of an item.
SELECT t.thread_id, t.id AS turn_id FROM items i
JOIN turns t ON t.project_id = i.project_id AND t.bucket = i.bucket AND t.id = i.turn_id
WHERE i.project_id = :project_id AND i.item_id = :item_id AND t.deleted_at IS NULL LIMIT 1

-- first_turn --
-- The time of a project's first turn.
SELECT arrived_at FROM turns WHERE project_id = :project_id AND arrived_at IS NOT NULL ORDER BY arrived_at LIMIT 1

-- response -> PlaceRow --
-- A turn that has a provider's response id, which need not be unique. The hash is indexed, by day: an id may be of any
-- length. The original precedes the copies of forks.
SELECT thread_id, turn_id FROM (
    SELECT thread_id, id AS turn_id, copied_from_id FROM turns
    WHERE project_id = :project_id AND (arrived_at AT TIME ZONE 'UTC')::date = ANY(:days::date[])
        AND hashtext(response_id) = hashtext(:response_id) AND response_id = :response_id
        AND deleted_at IS NULL LIMIT :most
) t ORDER BY copied_from_id IS NOT NULL, turn_id LIMIT 1

-- messages_of_turns --
-- The messages of turns.
SELECT turn_id, position, type, data FROM items
WHERE project_id = :project_id AND bucket = ANY(:buckets::smallint[]) AND turn_id = ANY(:ids::uuid[])
    AND type = 'message'
ORDER BY turn_id, position

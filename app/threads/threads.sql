-- find_name --
-- The thread that a name is written for.
SELECT thread_id FROM thread_names WHERE project_id = :project_id AND bucket = :bucket AND name = :name

-- take_name --
INSERT INTO thread_names (project_id, bucket, name, thread_id) VALUES (:project_id, :bucket, :name, :thread_id)
ON CONFLICT (project_id, bucket, name) DO NOTHING RETURNING thread_id

-- has_name --
SELECT EXISTS (
    SELECT FROM threads WHERE project_id = :project_id AND bucket = :bucket AND id = :thread_id AND name = :name
)

-- take_over_name --
-- Takes a name that is written for a thread that does not have it any more. No row where somebody else was first.
UPDATE thread_names SET thread_id = :thread_id
WHERE project_id = :project_id AND bucket = :bucket AND name = :name AND thread_id = :stale RETURNING thread_id

-- give_up_name --
DELETE FROM thread_names
WHERE project_id = :project_id AND bucket = :bucket AND name = :name AND thread_id = :thread_id

-- in_history --
-- Whether a turn is one of a thread's, or one that it shares with the thread it was forked from.
SELECT in_history(:project_id, :bucket::smallint, :thread_id, :turn_id) AS found

-- contexts --
-- The contexts of the turns that are heads of threads.
SELECT t.id, t.context FROM unnest(:buckets::smallint[], :ids::uuid[]) AS h (bucket, id)
JOIN turns t ON t.project_id = :project_id AND t.bucket = h.bucket AND t.id = h.id
WHERE t.context IS NOT NULL

-- last_messages --
-- The messages of such turns.
SELECT i.turn_id, i.position, i.type, i.data FROM unnest(:buckets::smallint[], :ids::uuid[]) AS h (bucket, id)
JOIN items i ON i.project_id = :project_id AND i.bucket = h.bucket AND i.turn_id = h.id AND i.type = 'message'
ORDER BY i.turn_id, i.position

-- states --
-- The threads that have a turn in progress, and the status of each thread's last turn.
SELECT h.id, l.status AS last_turn, EXISTS (
    SELECT FROM turns t WHERE t.project_id = :project_id AND t.bucket = h.bucket AND t.thread_id = h.id
        AND t.status = 'in_progress'
) AS busy
FROM unnest(:buckets::smallint[], :ids::uuid[], :seqs::int[]) AS h (bucket, id, seq)
LEFT JOIN turns l ON l.project_id = :project_id AND l.bucket = h.bucket AND l.thread_id = h.id AND l.seq = h.seq

-- thread_preset --
-- The preset of a user's thread, by its id or by a turn of it.
SELECT id, preset FROM threads
WHERE project_id = :project_id AND bucket = :bucket AND user_id = :user AND id = coalesce(:thread_id::uuid, (
    SELECT thread_id FROM turns WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id
))

-- app_messages --
-- The messages that are the app's, or are sealed, of the turns that one of two branches has and the other has not. A branch
-- is named by its last turn.
WITH RECURSIVE left_branch AS (
    SELECT id, parent_id, 1 AS depth FROM turns WHERE project_id = :project_id AND bucket = :bucket AND id = :left_id
    UNION ALL
    SELECT t.id, t.parent_id, b.depth + 1
    FROM left_branch b JOIN turns t ON t.project_id = :project_id AND t.bucket = :bucket AND t.id = b.parent_id
), kept_branch AS (
    SELECT id, parent_id, 1 AS depth FROM turns
    WHERE project_id = :project_id AND bucket = :bucket AND id = :kept_id::uuid
    UNION ALL
    SELECT t.id, t.parent_id, b.depth + 1
    FROM kept_branch b JOIN turns t ON t.project_id = :project_id AND t.bucket = :bucket AND t.id = b.parent_id
), of_one AS (
    SELECT id, depth, false AS kept FROM left_branch WHERE id NOT IN (SELECT id FROM kept_branch)
    UNION ALL
    SELECT id, depth, true AS kept FROM kept_branch WHERE id NOT IN (SELECT id FROM left_branch)
)
SELECT i.turn_id, i.position, i.type, i.data, o.kept
FROM of_one o JOIN items i ON i.project_id = :project_id AND i.bucket = :bucket AND i.turn_id = o.id
WHERE i.type = 'message' AND i.origin = 'input'
    AND (json_typeof(i.data) = 'array' OR i.data->>'role' IN ('system', 'developer'))
ORDER BY o.depth DESC, i.position

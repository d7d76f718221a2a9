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

-- busy --
-- Which of some threads have a turn in progress.
SELECT t.thread_id FROM unnest(:buckets::smallint[], :ids::uuid[]) AS h (bucket, id)
JOIN turns t ON t.project_id = :project_id AND t.bucket = h.bucket AND t.thread_id = h.id
WHERE t.status = 'in_progress'

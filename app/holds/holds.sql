-- lock --
-- Waits until no deletion in the project is under way, and keeps others waiting until this transaction ends.
SELECT pg_advisory_xact_lock(uuid_hash_extended(:project_id::uuid, 1))

-- holds_on_thread --
-- The active holds that cover a thread, by its id, its user or its project.
SELECT id, scope FROM holds WHERE project_id = :project_id AND released_at IS NULL
    AND (scope = 'project' OR thread_id = :thread_id::uuid OR user_id = :user_id::text)
ORDER BY id

-- holds_on_user --
-- The active holds that cover something of a user: the project's, the user's, and those on single threads of the user.
SELECT h.id, h.scope FROM holds h WHERE h.project_id = :project_id AND h.released_at IS NULL AND (
    h.scope = 'project' OR h.user_id = :user_id::text OR EXISTS (
        SELECT FROM threads t WHERE t.project_id = :project_id AND t.bucket = bucket_of(h.thread_id)
            AND t.id = h.thread_id AND t.user_id = :user_id::text
    )
)
ORDER BY h.id

-- kept_of --
-- Counts of rows that active holds keep, of threads or of a user, by table and hold.
SELECT h.id AS hold_id, r.source, count(*) AS rows FROM held_rows r
JOIN holds h ON h.project_id = :project_id AND h.released_at IS NULL
    AND (h.scope = 'project' OR h.thread_id = r.thread_id OR h.user_id = r.user_id)
WHERE r.project_id = :project_id AND (
    r.user_id = :user_id::text
    OR r.bucket = ANY(:buckets::smallint[]) AND r.thread_id = ANY(:thread_ids::uuid[])
)
GROUP BY h.id, r.source ORDER BY h.id, r.source

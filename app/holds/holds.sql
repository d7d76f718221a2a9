-- lock --
-- Waits until no deletion in the project is under way, and keeps others waiting until this transaction ends.
SELECT pg_advisory_xact_lock(uuid_hash_extended(:project_id::uuid, 2))

-- holds_on_thread --
-- The active holds that cover a thread, by its id, its user or its project.
SELECT id FROM holds WHERE project_id = :project_id AND released_at IS NULL
    AND (scope = 'project' OR thread_id = :thread_id::uuid OR user_id = :user_id::text)
ORDER BY id

-- holds_on_user --
-- The active holds that cover something of a user: the project's, the user's, and those on single threads of the user.
SELECT h.id FROM holds h WHERE h.project_id = :project_id AND h.released_at IS NULL AND (
    h.scope = 'project' OR h.user_id = :user_id::text OR EXISTS (
        SELECT FROM threads t WHERE t.project_id = :project_id AND t.bucket = bucket_of(h.thread_id)
            AND t.id = h.thread_id AND t.user_id = :user_id::text
    )
)
ORDER BY h.id

-- kept_of --
-- Counts of rows that active holds keep, of threads or of a user, by hold. A row that several hold is counted for each.
SELECT h.id AS hold_id, count(*) AS rows FROM held_rows r
JOIN holds h ON h.project_id = :project_id AND h.released_at IS NULL
    AND (h.scope = 'project' OR h.thread_id = r.thread_id OR h.user_id = r.user_id)
WHERE r.project_id = :project_id AND (
    r.user_id = :user_id::text
    OR r.bucket = ANY(:buckets::smallint[]) AND r.thread_id = ANY(:thread_ids::uuid[])
)
GROUP BY h.id ORDER BY h.id

-- holds_on_turn --
-- The active holds that cover a turn: by its thread, or by a fork that shares it.
SELECT h.id FROM turns t
JOIN threads own ON own.project_id = :project_id AND own.bucket = :bucket AND own.id = t.thread_id
JOIN holds h ON h.project_id = :project_id AND h.released_at IS NULL
WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = :turn_id AND (
    h.scope = 'project' OR h.thread_id = own.id OR h.user_id = own.user_id OR EXISTS (
        SELECT FROM threads f
        CROSS JOIN LATERAL shared_turns_v1(:project_id::uuid, :bucket::smallint, f.forked_turn_id) s
        WHERE f.project_id = :project_id AND f.bucket = :bucket AND f.forked_turn_id IS NOT NULL
            AND (f.id = h.thread_id OR f.user_id = h.user_id) AND s.id = t.id
    )
)
ORDER BY h.id

-- has_thread --
-- True for a thread that exists, or of which an active hold keeps contents.
SELECT EXISTS (
    SELECT FROM threads WHERE project_id = :project_id AND bucket = :bucket AND id = :thread_id
) OR EXISTS (
    SELECT FROM held_rows r WHERE r.project_id = :project_id AND r.bucket = :bucket AND r.thread_id = :thread_id
        AND is_held_v1(r.project_id, r.thread_id, r.user_id)
)

-- unerased --
-- Released holds whose rows are to be erased.
SELECT project_id, id FROM holds WHERE released_at IS NOT NULL AND erased_at IS NULL ORDER BY released_at LIMIT 100

-- take_unerased --
-- Locks a released hold for one batch. No row if another worker erases for it, or has done so.
SELECT scope, thread_id, user_id, bucket_of(thread_id) AS bucket FROM holds
WHERE project_id = :project_id AND id = :hold_id AND released_at IS NOT NULL AND erased_at IS NULL
FOR UPDATE SKIP LOCKED

-- lock_shared --
-- Locks a project's holds as every deletion does: see migrations/schema.sql.
SELECT lock_holds_v1(:project_id::uuid)

-- erase_of_thread --
-- Erases rows that a hold has kept, as far as no other hold or minimum retention covers them. A batch of them.
{_erase | r.bucket = :bucket::smallint AND r.thread_id = :thread_id::uuid}

-- erase_of_user --
{_erase | r.user_id = :user_id::text}

-- erase_of_project --
{_erase | true}

-- _erase --
DELETE FROM held_rows WHERE project_id = :project_id AND (bucket, id) IN (
    SELECT r.bucket, r.id FROM held_rows r
    WHERE r.project_id = :project_id AND {1} AND (r.keep_until IS NULL OR r.keep_until <= now())
        AND NOT is_held_v1(r.project_id, r.thread_id, r.user_id)
    LIMIT :at_once::integer
)
RETURNING id

-- count_erased --
-- Adds to the number of rows that were erased for a hold. When all are, the hold forgets its user.
UPDATE holds SET erased_rows = erased_rows + :rows::integer,
    erased_at = CASE WHEN :done::boolean THEN clock_timestamp() END,
    user_id = CASE WHEN NOT :done::boolean THEN user_id END
WHERE project_id = :project_id AND id = :hold_id RETURNING erased_rows

-- short_waits --
SELECT set_config('lock_timeout', '100ms', true)

-- _minimum --
-- The end of the minimum retention of turns; NULL if it is over, or if the project has none.
SELECT max(last.at + make_interval(days => m.days)) AS until FROM minimum_retentions_v1(:project_id::uuid) m
CROSS JOIN LATERAL (
    SELECT max(t.arrived_at) AS at FROM turns t WHERE t.project_id = :project_id AND t.arrived_at < m.until AND {1}
) last
WHERE last.at > now() - make_interval(days => m.days)

-- minimum_of_turn --
{_minimum | t.bucket = :bucket AND t.id = :turn_id}

-- minimum_of_thread --
{_minimum | t.bucket = :bucket AND t.thread_id = :thread_id}

-- minimum_of_user --
{_minimum | EXISTS (
    SELECT FROM threads th WHERE th.project_id = :project_id AND th.bucket = t.bucket AND th.id = t.thread_id
        AND th.user_id = :user_id::text
)}

-- minimum_of_project --
-- The end of the last minimum retention of a project's contents, deleted ones too.
SELECT greatest(({_minimum | true}), (
    SELECT max(r.keep_until) FROM held_rows r WHERE r.project_id = :project_id AND r.keep_until > now()
))

-- erase_retained --
-- Erases rows whose minimum retention has ended, as far as no hold covers them. A batch of them.
DELETE FROM held_rows WHERE (project_id, bucket, id) IN (
    SELECT r.project_id, r.bucket, r.id FROM held_rows r
    WHERE r.keep_until <= now() AND NOT is_held_v1(r.project_id, r.thread_id, r.user_id) LIMIT :at_once::integer
)
RETURNING id

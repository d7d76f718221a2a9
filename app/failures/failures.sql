-- _later_than --
-- The failed and incomplete turns of a project in a time range, the latest first, from a place in that order on. Turns
-- that a fork has copied are left out. The condition on the status is the one of the index turns_failed_idx.
FROM turns t
WHERE t.project_id = :project_id AND t.status IN ('failed', 'incomplete') AND t.copied_from_id IS NULL
    AND t.deleted_at IS NULL
    AND t.completed_at >= :since::timestamptz AND t.completed_at < :until::timestamptz
    AND (t.completed_at, t.id) < (
        coalesce(:completed_at::timestamptz, 'infinity'), coalesce(:turn_id::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
ORDER BY t.completed_at DESC, t.id DESC

-- _sealed --
-- A sealed document, unless it is larger than any that this service writes.
CASE WHEN json_typeof({1}) = 'array' AND pg_column_size({1}) < 65536 THEN {1} END

-- _looked_at --
-- The next failures that one request may check, with their threads. The outer statement reads documents, and only those
-- of the rows that match.
SELECT t.bucket, t.id, t.thread_id, t.status, t.continuation, t.model, t.binding, t.error_status, t.created_at,
    t.completed_at, t.error, t.incomplete_details, th.user_id, th.title, th.name, th.last_seq = t.seq AS is_last,
    row_number() OVER (ORDER BY t.completed_at DESC, t.id DESC)::int AS place
FROM (SELECT t.* {_later_than} LIMIT :looked_at) t
CROSS JOIN LATERAL (
    SELECT user_id, title, name, last_seq FROM threads
    WHERE project_id = :project_id AND bucket = t.bucket AND id = t.thread_id OFFSET 0
) th

-- _code --
-- The code of an error, or the reason of an incomplete turn; NULL where it is sealed.
left(coalesce(f.error->>'code', f.incomplete_details->>'reason'), 200)

-- _asked_for --
-- The account is compared as `provider/account.py` shows it. Sealed codes are compared after they are opened.
(:status::text IS NULL OR f.status = :status) AND (:model::text IS NULL OR f.model = :model)
    AND (:user_id::text IS NULL OR f.user_id = :user_id) AND (:thread_id::uuid IS NULL OR f.thread_id = :thread_id)
    AND (:account::text IS NULL OR :account = regexp_replace(
        f.binding, '^[a-z]+://([^/#]*@)?([^/#]*).*#([0-9a-f]{0,8}).*$', '\2#\3'
    ))
    AND (:code::text IS NULL OR {_code} = :code OR json_typeof(coalesce(f.error, f.incomplete_details)) = 'array')

-- page -> FailureRow --
-- The matching failures among the next ones.
SELECT f.bucket, f.id, f.thread_id, f.status, f.continuation, f.model, f.binding, f.error_status, f.created_at,
    f.completed_at, f.user_id, f.title, f.name, f.is_last, f.place, {_code} AS code,
    left(f.error->>'message', 4000) AS message,
    {_sealed | f.error} AS error, {_sealed | f.incomplete_details} AS incomplete_details
FROM ({_looked_at}) f WHERE {_asked_for} ORDER BY f.completed_at DESC, f.id DESC LIMIT :limit

-- counted -> CountedRow --
-- The same without their texts, for counts.
SELECT f.id, f.completed_at, f.status, f.model, f.binding, f.user_id, {_code} AS code,
    {_sealed | f.error} AS error, {_sealed | f.incomplete_details} AS incomplete_details
FROM ({_looked_at}) f WHERE {_asked_for}

-- nth --
-- The failure at an offset, and the one after it.
SELECT t.id, t.completed_at {_later_than} LIMIT 2 OFFSET :before

-- place --
-- The place of a failure in the order.
SELECT completed_at FROM turns
WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id AND status IN ('failed', 'incomplete')

-- attempts --
-- The number of calls of turns, and the HTTP status of the last.
SELECT c.turn_id, count(*)::int AS attempts, (array_agg(c.status ORDER BY c.attempt DESC))[1] AS provider_status
FROM unnest(:buckets::smallint[], :turn_ids::uuid[]) AS wanted (bucket, id)
JOIN calls c ON c.project_id = :project_id AND c.bucket = wanted.bucket AND c.turn_id = wanted.id
GROUP BY c.turn_id

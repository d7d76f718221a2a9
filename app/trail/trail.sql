-- append --
-- Appends records to one chain: see migrations/schema.sql.
SELECT append_records_v2(
    :project_id::uuid, :bucket::smallint, :chain_id::uuid, :user_digest::bytea, :key_id::uuid, :address::text, :actions::text[],
    :turns::uuid[], :details::text[], :contents::bytea[]
)

-- find_key --
-- The key by which the trail names an end user.
SELECT key FROM user_keys WHERE project_id = :project_id AND bucket = :bucket AND user_id = :user_id

-- find_keys --
-- The keys of those of several end users who have one.
SELECT user_id, key FROM user_keys
WHERE project_id = :project_id AND bucket = ANY(:buckets::smallint[]) AND user_id = ANY(:user_ids::text[])

-- make_key --
INSERT INTO user_keys (project_id, bucket, user_id, key) VALUES (:project_id, :bucket, :user_id, :key)
ON CONFLICT DO NOTHING RETURNING key

-- forget_key --
DELETE FROM user_keys WHERE project_id = :project_id AND bucket = :bucket AND user_id = :user_id RETURNING user_id

-- records_after -> FeedRow --
-- The records of a project behind a place in the trail, of the kinds that streams report.
SELECT bucket, chain_id, seq, at, action, turn_id, user_digest, detail FROM audit_records
WHERE project_id = :project_id AND (at, chain_id, seq) > (:at, :after_chain, :after_seq)
    AND action = ANY(:actions::text[])
ORDER BY at, chain_id, seq LIMIT :limit

-- thread_owners --
-- The end users of threads, and the keys that the trail names them by.
SELECT id, user_id, trail_key FROM threads
WHERE project_id = :project_id AND bucket = ANY(:buckets::smallint[]) AND id = ANY(:ids::uuid[])

-- user_of_record --
-- The user whose the thread was at one of its records.
SELECT user_digest FROM audit_records
WHERE project_id = :project_id AND bucket = :bucket AND chain_id = :chain_id AND seq = :seq

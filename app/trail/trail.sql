-- append --
-- Appends records to one chain: see migrations/schema.sql.
SELECT append_records_v2(
    :project_id, :bucket::smallint, :chain_id, :user_digest::bytea, :key_id::uuid, :address::text, :actions::text[],
    :turns::uuid[], :details::text[], :contents::bytea[]
)

-- find_key --
-- The key by which the trail names an end user.
SELECT key FROM user_keys WHERE project_id = :project_id AND bucket = :bucket AND user_id = :user_id

-- make_key --
INSERT INTO user_keys (project_id, bucket, user_id, key) VALUES (:project_id, :bucket, :user_id, :key)
ON CONFLICT DO NOTHING RETURNING key

-- forget_key --
DELETE FROM user_keys WHERE project_id = :project_id AND bucket = :bucket AND user_id = :user_id RETURNING user_id

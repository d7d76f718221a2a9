-- queue_deletions --
-- Has the provider's copies of turns deleted, as far as the provider still has them.
INSERT INTO provider_deletions (project_id, bucket, response_id, binding, expires_at)
SELECT project_id, bucket, response_id, binding, response_expires_at FROM turns
WHERE project_id = :project_id AND bucket = :bucket AND id = ANY(:turn_ids) AND response_expires_at > now()
    AND length(response_id) BETWEEN 1 AND 256
ON CONFLICT DO NOTHING

-- bindings --
SELECT :binding::text AS binding UNION SELECT binding FROM accounts

-- due_deletions --
-- Copies at an account whose time has come, and the pause until the next try of each.
SELECT project_id, bucket, response_id, next_at, least(3600, 5 * 2 ^ tries)::float8 AS pause_seconds
FROM provider_deletions
WHERE binding = :binding AND next_at <= now() ORDER BY next_at LIMIT :limit

-- take_deletion -> Copy --
-- Takes one for a worker, as it was seen; the pause until the next try is set before the first.
UPDATE provider_deletions SET tries = tries + 1, next_at = now() + :pause_seconds::float8 * interval '1 second'
WHERE project_id = :project_id AND bucket = :bucket AND response_id = :response_id AND next_at = :next_at
RETURNING project_id, bucket, response_id, binding

-- deletion_done --
DELETE FROM provider_deletions WHERE project_id = :project_id AND bucket = :bucket AND response_id = :response_id

-- forget_expired_deletions --
-- The provider has forgotten these by itself.
DELETE FROM provider_deletions WHERE expires_at < now()

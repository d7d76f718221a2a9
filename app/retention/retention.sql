-- unfinished_purges --
SELECT project_id, id, lease_expires_at FROM user_purges WHERE completed_at IS NULL AND lease_expires_at < now()
ORDER BY lease_expires_at LIMIT 10

-- take_purge --
-- Takes a purge as it was seen: of two workers, one gets it.
UPDATE user_purges SET lease_expires_at = now() + :lease_seconds::float8 * interval '1 second'
WHERE project_id = :project_id AND id = :id AND lease_expires_at = :lease_expires_at AND completed_at IS NULL
RETURNING project_id, id, user_id, key_id, address

-- old_turns --
-- The turns that arrived first between two moments. The turns of one moment are not split: the next look begins
-- behind it.
SELECT t.id, t.thread_id, t.arrived_at, t.deleted_at IS NULL AND t.status <> 'in_progress' AS whole FROM turns t
WHERE t.project_id = :project_id AND t.arrived_at > :after AND t.arrived_at <= coalesce((
    SELECT arrived_at FROM turns WHERE project_id = :project_id AND arrived_at > :after AND arrived_at < :before
    ORDER BY arrived_at OFFSET :at_once LIMIT 1
), :before)

-- expired_threads --
SELECT project_id, bucket, id FROM threads WHERE expires_at <= now() ORDER BY expires_at LIMIT :limit

-- lives_until --
-- Until when a thread lives that was touched meanwhile, or a turn of which runs, by the database's clock.
SELECT greatest(now() + interval '1 minute', t.updated_at + t.ttl_seconds * interval '1 second') FROM threads t
WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = :id AND (
    t.updated_at + t.ttl_seconds * interval '1 second' > now() OR EXISTS (
        SELECT FROM turns r WHERE r.project_id = :project_id AND r.bucket = :bucket AND r.thread_id = :id
            AND r.status = 'in_progress'
    )
)

-- projects_to_purge --
-- The projects that keep turns for some days only.
SELECT project_id, retention_days, purged_until FROM projects WHERE retention_days IS NOT NULL ORDER BY project_id

-- delete_expired_presets --
-- Presets of tokens that have expired, and former ones of projects.
DELETE FROM user_presets WHERE expires_at < now()

-- delete_expired_tickets --
DELETE FROM stream_tickets WHERE expires_at < now()

-- delete_old_cutoffs --
-- No token is accepted for longer than a day after its issue.
DELETE FROM user_cutoffs WHERE cut_at < extract(epoch FROM now() - interval '2 days') * 1000000

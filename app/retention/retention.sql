-- unfinished_purges --
SELECT project_id, id, lease_expires_at FROM user_purges WHERE completed_at IS NULL AND lease_expires_at < now()
ORDER BY lease_expires_at LIMIT 10

-- take_purge --
-- Takes a purge as it was seen: of two workers, one gets it.
UPDATE user_purges SET lease_expires_at = now() + :lease_seconds::float8 * interval '1 second'
WHERE project_id = :project_id AND id = :id AND lease_expires_at = :lease_expires_at AND completed_at IS NULL
RETURNING project_id, id, user_id, key_id, address

-- records_of_purge --
-- The records of what a purge deletes: those that name it, and those of the user's threads that a worker of an earlier
-- release has deleted meanwhile.
SELECT at, chain_id, seq, hash, action, detail FROM audit_records
WHERE project_id = :project_id AND at > :since::timestamptz - interval '1 hour' AND (at, chain_id, seq) > (:at, :chain_id, :seq)
    AND action IN ('thread.purged', 'turn.purged') AND (
        detail = :purge::text OR detail LIKE '%; ' || :purge::text
        OR (action = 'thread.purged' AND user_digest = :named::bytea AND detail IS NULL)
    )
ORDER BY at, chain_id, seq LIMIT :limit

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

-- completed_purge --
SELECT user_id, created_at, completed_at, threads_done FROM user_purges
WHERE project_id = :project_id AND id = :id AND completed_at IS NOT NULL

-- end_of_user --
-- The record of the end of a user's purge. Those of earlier releases do not name it.
SELECT * FROM audit_records
WHERE project_id = :project_id AND bucket = :bucket AND chain_id = :project_id AND action = 'user.purged'
    AND at > :since::timestamptz - interval '1 hour'
    AND (detail LIKE :detail::text OR (detail = :former::text AND at >= :since))
ORDER BY at LIMIT 1

-- end_of_chain --
-- The last deletion that a chain tells of.
SELECT * FROM audit_records
WHERE project_id = :project_id AND bucket = :bucket AND chain_id = :chain_id AND action = ANY(:actions::text[])
ORDER BY seq DESC LIMIT 1

-- latest_ends --
SELECT * FROM audit_records
WHERE project_id = :project_id AND action = ANY(:actions::text[])
    AND action IN (
        'thread.deleted', 'thread.purged', 'turn.purged', 'user.purged', 'hold.erased', 'project.key_destroyed'
    )
ORDER BY at DESC, chain_id LIMIT :limit

-- uncertified --
-- The purges of users that are complete, and have no certificate. One for which none can be made delays no others.
SELECT r.project_id, r.purge_id FROM purge_records r
LEFT JOIN purge_certificates c ON c.project_id = r.project_id AND c.purge_id = r.purge_id
WHERE c.seq IS NULL ORDER BY random() LIMIT 100

-- records_kept --
SELECT leaves FROM purge_records WHERE project_id = :project_id AND purge_id = :purge_id

-- covering --
-- A record's leaf, and the first checkpoint that covers it and is a note: one that a witness has cosigned, if there is.
SELECT l.position, c.size, c.note, EXISTS (
    SELECT FROM audit_cosignatures s WHERE s.project_id = c.project_id AND s.size = c.size
) AS cosigned FROM audit_leaves l
JOIN audit_checkpoints c ON c.project_id = l.project_id AND c.size > l.position AND c.note IS NOT NULL
WHERE l.project_id = :project_id AND l.chain_id = :chain_id AND l.seq = :seq
ORDER BY cosigned DESC, c.size LIMIT 1

-- certificate --
SELECT note FROM purge_certificates WHERE project_id = :project_id AND purge_id = :purge_id AND seq = :seq

-- keep_certificate --
-- Of two at once, the first stays.
INSERT INTO purge_certificates (project_id, purge_id, seq, note) VALUES (:project_id, :purge_id, :seq, :note)
ON CONFLICT DO NOTHING RETURNING seq

-- erased_hold --
-- A released hold whose rows were erased, and the record of that.
SELECT h.scope, h.thread_id, h.created_at AS placed_at, h.released_at, h.released_by, r.* FROM holds h
JOIN audit_records r ON r.project_id = h.project_id AND r.bucket = :bucket AND r.chain_id = h.project_id
    AND r.action = 'hold.erased' AND r.at > h.released_at - interval '1 hour' AND starts_with(r.detail, :named)
WHERE h.project_id = :project_id AND h.id = :id AND h.erased_at IS NOT NULL
ORDER BY r.seq LIMIT 1

-- kept_longer --
-- Rows that are kept for a minimum time, of a thread or a user.
SELECT count(*) AS rows, max(keep_until) AS until FROM held_rows
WHERE project_id = :project_id AND keep_until > now()
    AND (user_id = :user_id::text OR bucket = :bucket::smallint AND thread_id = :thread_id::uuid)

-- begin_snapshot --
-- Makes all statements of the transaction read one snapshot of the database.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY

-- threads_of_user --
SELECT bucket, id FROM threads WHERE project_id = :project_id AND user_id = :user_id::text
ORDER BY arrived_at, id LIMIT :most

-- turns_of_threads --
-- The turns of threads, and the response that the provider still has of each.
SELECT t.id, t.bucket, t.thread_id, t.parent_id, t.status = 'in_progress' AS running, CASE
    WHEN t.response_expires_at > now() AND length(t.response_id) BETWEEN 1 AND 256 THEN t.response_id
END AS response_id
FROM unnest(:buckets::smallint[], :thread_ids::uuid[]) AS wanted (bucket, id)
JOIN turns t ON t.project_id = :project_id AND t.bucket = wanted.bucket AND t.thread_id = wanted.id
LIMIT :most

-- heirs_of_user --
-- The turns of a user that threads of others continue from, and these threads.
SELECT wanted.id AS turn_id, th.id AS thread_id FROM unnest(:buckets::smallint[], :turn_ids::uuid[]) AS wanted (bucket, id)
JOIN threads th ON th.project_id = :project_id AND th.bucket = wanted.bucket AND th.forked_turn_id = wanted.id
WHERE th.user_id IS DISTINCT FROM :user_id::text
UNION
SELECT c.parent_id, c.thread_id FROM unnest(:buckets::smallint[], :turn_ids::uuid[]) AS wanted (bucket, id)
JOIN turns c ON c.project_id = :project_id AND c.bucket = wanted.bucket AND c.parent_id = wanted.id
JOIN threads th ON th.project_id = :project_id AND th.bucket = c.bucket AND th.id = c.thread_id
WHERE th.user_id IS DISTINCT FROM :user_id::text
LIMIT :most

-- copies_of_turns --
-- The copies of turns in threads of other users, and the response that the provider still has of each.
SELECT c.id, c.thread_id, CASE
    WHEN c.response_expires_at > now() AND length(c.response_id) BETWEEN 1 AND 256 THEN c.response_id
END AS response_id
FROM turns c JOIN threads th ON th.project_id = :project_id AND th.bucket = c.bucket AND th.id = c.thread_id
WHERE c.project_id = :project_id AND c.copied_from_id = ANY(:turn_ids::uuid[]) AND c.deleted_at IS NULL
    AND th.user_id IS DISTINCT FROM :user_id::text
LIMIT :most

-- rows_of_turns --
-- The numbers of rows that are deleted with turns, each up to a limit, and the bytes of items and media.
WITH wanted AS (SELECT bucket, id FROM unnest(:buckets::smallint[], :turn_ids::uuid[]) AS given (bucket, id)),
items AS (
    SELECT i.size FROM wanted
    JOIN items i ON i.project_id = :project_id AND i.bucket = wanted.bucket AND i.turn_id = wanted.id LIMIT :most
), calls AS (
    SELECT FROM wanted
    JOIN calls c ON c.project_id = :project_id AND c.bucket = wanted.bucket AND c.turn_id = wanted.id LIMIT :most
), places AS (
    SELECT x.bucket, x.media_id FROM wanted
    JOIN item_media x ON x.project_id = :project_id AND x.bucket = wanted.bucket AND x.turn_id = wanted.id LIMIT :most
), media AS (
    SELECT octet_length(m.data) AS size FROM (SELECT DISTINCT bucket, media_id FROM places) AS of_item
    JOIN media m ON m.project_id = :project_id AND m.bucket = of_item.bucket AND m.id = of_item.media_id
), feedback AS (
    SELECT FROM wanted
    JOIN feedback f ON f.project_id = :project_id AND f.bucket = wanted.bucket AND f.turn_id = wanted.id LIMIT :most
)
SELECT now() AS at, (SELECT count(*) FROM items) AS items, (SELECT count(*) FROM calls) AS calls,
    (SELECT count(*) FROM media) AS media, (SELECT count(*) FROM places) AS places,
    (SELECT count(*) FROM feedback) AS feedback,
    ((SELECT coalesce(sum(size), 0) FROM items) + (SELECT coalesce(sum(size), 0) FROM media))::bigint AS bytes

-- shares_of_threads --
SELECT count(*) FROM (
    SELECT FROM unnest(:buckets::smallint[], :thread_ids::uuid[]) AS wanted (bucket, id)
    JOIN shares s ON s.project_id = :project_id AND s.bucket = wanted.bucket AND s.thread_id = wanted.id LIMIT :most
) AS found

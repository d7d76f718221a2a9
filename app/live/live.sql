-- running --
-- The turns in progress of a project, a user or a thread, the latest first.
SELECT t.thread_id, t.id FROM turns t
JOIN threads th ON th.project_id = :project_id AND th.bucket = t.bucket AND th.id = t.thread_id
WHERE t.project_id = :project_id AND t.status = 'in_progress' AND (:of_user::text IS NULL OR th.user_id = :of_user)
    AND (:thread_id::uuid IS NULL OR th.id = :thread_id)
ORDER BY t.id DESC LIMIT :limit

-- now -> NowRow --
-- Present state of a project: settings and keys, running turns with their threads, users of the threads that were active
-- last, requests that wait for busy threads, pending deliveries, purges and compactions. Each list and each count ends
-- at :most.
SELECT p.settings, p.operates, keys.found AS keys, turns.found AS turns, active.found AS users, waiting.found AS waiting,
    deliveries.pending AS deliveries, deliveries.retried, deliveries.oldest AS deliveries_since,
    purges.unfinished AS purges, purges.oldest AS purges_since, compactions.running AS compactions
FROM projects p
CROSS JOIN (
    SELECT coalesce(json_agg(json_build_object('id', k.id, 'name', k.name, 'limits', k.limits)), '[]') AS found FROM (
        SELECT id, name, limits FROM api_keys
        WHERE project_id = :project_id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        ORDER BY last_used_at DESC NULLS LAST LIMIT :most_keys
    ) k
) keys
CROSS JOIN (
    SELECT coalesce(json_agg(json_build_object(
        'id', t.id, 'thread_id', t.thread_id, 'title', th.title, 'user_id', th.user_id, 'model', t.model,
        'api_key_id', t.api_key_id, 'worker_id', t.worker_id, 'beside', t.beside > 0,
        'since', extract(epoch FROM t.arrived_at), 'lost', t.lease_expires_at < now(),
        'cancelling', t.cancel_requested_at IS NOT NULL
    )), '[]') AS found
    FROM (
        SELECT bucket, id, thread_id, model, api_key_id, worker_id, beside, arrived_at, lease_expires_at,
            cancel_requested_at
        FROM turns WHERE project_id = :project_id AND status = 'in_progress' LIMIT :most
    ) t
    CROSS JOIN LATERAL (
        SELECT title, user_id FROM threads
        WHERE project_id = :project_id AND bucket = t.bucket AND id = t.thread_id OFFSET 0
    ) th
) turns
CROSS JOIN (
    SELECT coalesce(json_agg(DISTINCT th.user_id), '[]') AS found
    FROM (
        SELECT bucket, thread_id FROM thread_activity WHERE project_id = :project_id
        ORDER BY active_at DESC LIMIT :most_active
    ) a
    CROSS JOIN LATERAL (
        SELECT user_id FROM threads WHERE project_id = :project_id AND bucket = a.bucket AND id = a.thread_id OFFSET 0
    ) th
    WHERE th.user_id IS NOT NULL
) active
CROSS JOIN (
    SELECT coalesce(json_agg(w.thread_id), '[]') AS found FROM (
        SELECT thread_id FROM waiters WHERE project_id = :project_id AND expires_at > now() LIMIT :most
    ) w
) waiting
CROSS JOIN (
    SELECT count(*) AS pending, count(*) FILTER (WHERE d.attempts > 0) AS retried,
        extract(epoch FROM min(d.at))::float8 AS oldest
    FROM (
        SELECT attempts, at FROM webhook_deliveries WHERE project_id = :project_id AND status = 'pending' LIMIT :most
    ) d
) deliveries
CROSS JOIN (
    SELECT count(*) AS unfinished, extract(epoch FROM min(u.created_at))::float8 AS oldest FROM (
        SELECT created_at FROM user_purges WHERE project_id = :project_id AND completed_at IS NULL LIMIT :most
    ) u
) purges
CROSS JOIN (
    SELECT count(*) AS running FROM (
        SELECT FROM compactions WHERE project_id = :project_id AND status = 'running' LIMIT :most
    ) c
) compactions
WHERE p.project_id = :project_id

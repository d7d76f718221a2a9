-- listed -> WebhookRow --
SELECT * FROM webhooks WHERE project_id = :project_id ORDER BY id

-- one -> WebhookRow --
SELECT * FROM webhooks WHERE project_id = :project_id AND id = :id

-- all -> WebhookRow --
-- The webhooks that are told of events now. Those of an archived project wait until it is restored.
SELECT w.* FROM webhooks w JOIN projects p ON p.project_id = w.project_id WHERE p.archived_at IS NULL
ORDER BY w.project_id, w.id

-- records -> RecordRow --
-- What has happened in a project since a webhook has read the trail last.
SELECT chain_id, seq, at, action, turn_id, user_digest, detail FROM audit_records
WHERE project_id = :project_id AND (at, chain_id, seq) > (:seen_at, :seen_chain, :seen_seq) AND at < :until
ORDER BY at, chain_id, seq LIMIT :limit

-- read_up_to --
-- Writes down how far a webhook has read the trail. No row where another worker has read up to there.
UPDATE webhooks SET read_at = :at, read_chain = :chain, read_seq = :seq
WHERE project_id = :project_id AND id = :id AND (read_at, read_chain, read_seq) = (:seen_at, :seen_chain, :seen_seq)
RETURNING id

-- write --
-- Adds deliveries of a webhook.
INSERT INTO webhook_deliveries (project_id, webhook_id, chain_id, seq, type, at, data)
SELECT :project_id::uuid, :id::uuid, e.chain, e.seq, e.type, e.at, e.data::json
FROM unnest(:chains::uuid[], :seqs::bigint[], :types::text[], :ats::timestamptz[], :datas::text[])
    AS e (chain, seq, type, at, data)
ON CONFLICT DO NOTHING

-- renew_appended --
-- Has a webhook's pending event `audit.appended` tell of further records, under a new number. Where it is being sent
-- now, the end of that attempt is not written down, and it is sent again: its receiver may have pulled too early.
UPDATE webhook_deliveries SET seq = greatest(seq + 1, {_microseconds}), at = :at, data = :data::json
WHERE project_id = :project_id AND webhook_id = :id AND chain_id = :id AND status = 'pending' AND seq = (
    SELECT max(seq) FROM webhook_deliveries
    WHERE project_id = :project_id AND webhook_id = :id AND chain_id = :id AND status = 'pending'
) RETURNING seq

-- add_appended --
-- Adds an event `audit.appended` of a webhook. In the place of a record's chain it has the webhook's id.
INSERT INTO webhook_deliveries (project_id, webhook_id, chain_id, seq, type, at, data, next_at)
SELECT :project_id::uuid, :id::uuid, :id::uuid, greatest(max(seq) + 1, {_microseconds}), 'audit.appended', :at::timestamptz,
    :data::json, greatest(now(), max(delivered_at) + :seconds::float8 * interval '1 second')
FROM webhook_deliveries WHERE project_id = :project_id AND webhook_id = :id AND chain_id = :id

-- _microseconds --
(extract(epoch FROM clock_timestamp()) * 1000000)::bigint

-- due --
-- The deliveries of a webhook to try now.
SELECT chain_id, seq, attempts FROM webhook_deliveries
WHERE project_id = :project_id AND webhook_id = :webhook_id AND status = 'pending' AND next_at <= now()
ORDER BY next_at LIMIT :limit

-- take -> DeliveryRow --
-- Takes a delivery as it was seen, for one worker; should the worker die, another may try when its lease is over.
UPDATE webhook_deliveries SET attempts = attempts + 1, next_at = now() + :lease_seconds::float8 * interval '1 second'
WHERE project_id = :project_id AND webhook_id = :webhook_id AND chain_id = :chain_id AND seq = :seq
    AND attempts = :attempts AND status = 'pending'
RETURNING *

-- record_attempt --
-- Writes down how an attempt has ended, unless another one has begun since.
UPDATE webhook_deliveries SET status = :status, last_status = :answered, last_error = :error,
    delivered_at = now() + CASE WHEN :status = 'delivered' THEN interval '0' END,
    next_at = now() + :pause_seconds::float8 * interval '1 second'
WHERE project_id = :project_id AND webhook_id = :webhook_id AND chain_id = :chain_id AND seq = :seq
    AND attempts = :attempts AND status = 'pending'

-- retry -> DeliveryRow --
UPDATE webhook_deliveries SET status = 'pending', delivered_at = NULL, next_at = now(), attempts = 0
WHERE project_id = :project_id AND webhook_id = :webhook_id AND chain_id = :chain_id AND seq = :seq RETURNING *

-- deliveries -> DeliveryRow --
-- A page of a webhook's deliveries, the latest first.
SELECT * FROM webhook_deliveries
WHERE project_id = :project_id AND webhook_id = :webhook_id AND (:status::text IS NULL OR status = :status)
    AND (:at::timestamptz IS NULL OR (at, chain_id, seq) < (:at, :chain_id, :seq))
ORDER BY at DESC, chain_id DESC, seq DESC LIMIT :limit

-- delivery -> DeliveryRow --
SELECT * FROM webhook_deliveries
WHERE project_id = :project_id AND webhook_id = :webhook_id AND chain_id = :chain_id AND seq = :seq

-- forget_old --
DELETE FROM webhook_deliveries
WHERE status = 'delivered' AND delivered_at < now() - :delivered_days::float8 * interval '1 day'
    OR status = 'failed' AND at < now() - :failed_days::float8 * interval '1 day'

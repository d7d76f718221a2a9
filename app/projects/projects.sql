-- key_by_hash --
-- The project that a key opens. Its use is written down once an hour, however many workers see it.
{_key | k.key_hash = :key_hash}

-- key_by_id --
-- The same, of the key that minted a user's token.
{_key | k.id = :key_id}

-- _key --
WITH key AS (
    SELECT k.project_id, k.id, k.name, k.subject, k.last_used_at, k.scopes, k.limits, p.session_cache, p.settings, p.operates, p.record_reads,
        p.encrypted_at IS NOT NULL AS encrypted, coalesce(p.encrypted_at <= now(), false) AS seals,
        {_users_cut_at}
    FROM api_keys k JOIN projects p ON p.project_id = k.project_id
    WHERE {1} AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
        AND p.archived_at IS NULL
), used AS (
    UPDATE api_keys k SET last_used_at = now() FROM key
    WHERE k.project_id = key.project_id AND k.id = key.id
        AND (k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 hour')
    RETURNING k.project_id, k.id, k.name
)
SELECT key.*, used.name AS first_use FROM key LEFT JOIN used ON true

-- _users_cut_at --
(SELECT max(c.cut_at) FROM user_cutoffs c WHERE c.project_id = k.project_id) AS users_cut_at

-- _now --
-- Microseconds since 1970.
(extract(epoch FROM clock_timestamp()) * 1000000)::bigint

-- key_end --
-- Why a key has ended, or that it is valid; and its project's latest cut-off of a user.
SELECT CASE
    WHEN k.revoked_at IS NOT NULL THEN 'credential_revoked'
    WHEN p.archived_at IS NOT NULL THEN 'project_archived'
    WHEN k.expires_at <= now() THEN 'credential_expired'
    ELSE 'valid'
END AS state, {_users_cut_at}
FROM api_keys k JOIN projects p ON p.project_id = k.project_id WHERE k.project_id = :project_id AND k.id = :key_id

-- thread_of_turn --
SELECT thread_id FROM turns WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id

-- open_sessions --
SELECT id FROM console_sessions WHERE project_id = :project_id AND id = ANY(:ids::uuid[]) AND expires_at > now()

-- owners --
-- The end users of threads.
SELECT id, user_id FROM threads
WHERE project_id = :project_id AND bucket = ANY(:buckets::smallint[]) AND id = ANY(:ids::uuid[])

-- find_session -> Session --
SELECT project_id, id, key_id, extract(epoch FROM expires_at)::float8 AS expires_at
FROM console_sessions WHERE token_hash = :token_hash AND expires_at > now()

-- origins --
-- The web origins that projects list.
SELECT DISTINCT jsonb_array_elements_text(settings->'origins') AS origin FROM projects
WHERE settings ? 'origins' AND archived_at IS NULL

-- cutoffs --
-- The project's cut-offs since a time, the latest first.
SELECT user_hash, cut_at FROM user_cutoffs WHERE project_id = :project_id AND cut_at > :after
ORDER BY cut_at DESC LIMIT :most

-- cutoff --
SELECT cut_at FROM user_cutoffs WHERE project_id = :project_id AND user_hash = :user_hash

-- issue_time --
-- The time of a token that is minted now, which is after the user's cut-off.
SELECT greatest({_now}, (
    SELECT cut_at + 1 FROM user_cutoffs WHERE project_id = :project_id AND user_hash = :user_hash
))

-- next_cutoff --
-- The time of a cut-off that is made now, which is after every other of the project.
SELECT greatest({_now}, max(cut_at) + 1) FROM user_cutoffs WHERE project_id = :project_id

-- set_cutoff --
INSERT INTO user_cutoffs (project_id, user_hash, cut_at, claimed_by)
VALUES (:project_id, :user_hash, :cut_at, :claimed_by)
ON CONFLICT (project_id, user_hash) DO UPDATE SET cut_at = excluded.cut_at, claimed_by = excluded.claimed_by

-- identity_providers --
-- The projects that have claimed an issuer and one of several audiences.
SELECT c.project_id, c.key_id, c.audience, p.operates, p.settings
FROM claimed_audiences c JOIN projects p ON p.project_id = c.project_id
WHERE c.issuer = :issuer AND c.audience = ANY(:audiences::text[])
ORDER BY array_position(:audiences::text[], c.audience)

-- use_ticket --
-- Takes a ticket: of two connections, one gets its row.
DELETE FROM stream_tickets WHERE token_hash = :token_hash AND path_hash = :path_hash AND expires_at > now()
RETURNING credential

"""Statements that read what audit records are compared with."""

# A chain's turns lie in its bucket.
TURNS = """
SELECT t.id, t.thread_id, t.seq, t.beside, t.parent_id, t.copied_from_id, t.status, t.continuation, t.model,
    t.params::text AS params, t.metadata, t.ignored, t.created_at, t.arrived_at, t.completed_at, t.deleted_at,
    t.api_key_id, t.salt, t.left_salt, t.error_status, t.response::text AS response, t.usage::text AS usage,
    t.error::text AS error, t.incomplete_details::text AS incomplete_details, t.pace::text AS pace,
    t.context::text AS context, t.binding, t.response_id, t.response_created_at, t.response_expires_at,
    c.salt AS compaction_salt, c.text AS compaction, c.id AS compaction_id, c.model AS compaction_model,
    c.kept_items AS compaction_kept_items, c.covered_turns AS compaction_covered_turns,
    c.covered_tokens AS compaction_covered_tokens, c.tokens AS compaction_tokens, c.calls::text AS compaction_calls,
    c.usage::text AS compaction_usage, c.created_at AS compaction_created_at,
    c.completed_at AS compaction_completed_at, (
        SELECT array_agg(
            ARRAY[i.position::text, i.origin, i.type, i.item_id, i.data::text] ORDER BY i.position
        ) FROM items i
        WHERE i.project_id = $1 AND i.bucket = t.bucket AND i.turn_id = t.id
    ) AS items
FROM unnest($2::smallint[], $3::uuid[]) AS wanted (bucket, id)
JOIN turns t ON t.project_id = $1 AND t.bucket = wanted.bucket AND t.id = wanted.id
LEFT JOIN compactions c ON c.project_id = $1 AND c.bucket = t.bucket AND c.turn_id = t.id AND c.status = 'ready'
"""

CALLS = """
SELECT c.turn_id, c.attempt, c.continuation, c.url, c.frames, c.refs, c.dropped_items, c.status, c.response_id,
    c.error::text AS error, c.started_at, c.finished_at, t.thread_id
FROM unnest($2::smallint[], $3::uuid[]) AS wanted (bucket, id)
JOIN calls c ON c.project_id = $1 AND c.bucket = wanted.bucket AND c.turn_id = wanted.id
JOIN turns t ON t.project_id = $1 AND t.bucket = wanted.bucket AND t.id = wanted.id
"""

PIECES = """
SELECT p.thread_id, p.number, p.digest, p.data FROM unnest($2::smallint[], $3::uuid[]) AS wanted (bucket, id)
JOIN pieces p ON p.project_id = $1 AND p.bucket = wanted.bucket AND p.thread_id = wanted.id
WHERE p.data IS NOT NULL
"""

THREADS = """
SELECT th.id, th.salt, th.name, th.title, th.user_id, th.metadata, th.ttl_seconds, th.archived_at, th.created_at,
    th.arrived_at, th.forked_turn_id, th.head_turn_id, th.turn_count, th.chain_seq, th.chain_hash
FROM unnest($2::smallint[], $3::uuid[]) AS wanted (bucket, id)
JOIN threads th ON th.project_id = $1 AND th.bucket = wanted.bucket AND th.id = wanted.id
"""

# The tree of each thread: what its head is followed through.
PLACES = """
SELECT t.thread_id, t.id, t.parent_id, t.beside FROM unnest($2::smallint[], $3::uuid[]) AS wanted (bucket, id)
JOIN turns t ON t.project_id = $1 AND t.bucket = wanted.bucket AND t.thread_id = wanted.id
"""

FEEDBACK = """
SELECT f.id, f.turn_id, f.score, f.label, f.comment, f.user_id, f.created_at, f.salt
FROM unnest($2::smallint[], $3::uuid[]) AS wanted (bucket, id)
JOIN feedback f ON f.project_id = $1 AND f.bucket = wanted.bucket AND f.id = wanted.id
"""

SHARES = """
SELECT s.id, s.thread_id, s.turn_id, s.title, s.token_hash, s.expires_at, s.created_at, s.salt
FROM unnest($2::smallint[], $3::uuid[]) AS wanted (bucket, id)
JOIN shares s ON s.project_id = $1 AND s.bucket = wanted.bucket AND s.id = wanted.id
"""

PROJECT = """
SELECT name, operates, settings, retention_days, session_cache, created_at, archived_at, encrypted_at,
    key_destroyed_at, salt
FROM projects WHERE project_id = $1
"""

KEYS = """
SELECT id, name, hint, key_hash, scopes, limits, created_at, expires_at, revoked_at, salt
FROM api_keys WHERE project_id = $1
"""

# The records of a chain that were appended since it was read, up to one of them or to the last.
SINCE = """
SELECT chain_id, seq, at, action, turn_id, key_id, content, detail, hash FROM audit_records
WHERE project_id = $1 AND bucket = $2 AND chain_id = $3 AND seq > $4 AND ($5::bigint IS NULL OR seq <= $5) ORDER BY seq
"""

# The last record of how a thread got a turn, or changed it.
CAME_BY = """
SELECT action FROM audit_records WHERE project_id = $1 AND bucket = $2 AND chain_id = $3 AND turn_id = $4
    AND action IN ('turn.opened', 'items.added', 'turn.imported', 'turn.inherited', 'item.deleted')
ORDER BY seq DESC LIMIT 1
"""

# Rows without the records that they must have were written past the service, or their records were removed. The
# records of a turn are in the chain of the thread that has it.
UNTOLD_TURNS = """
SELECT t.thread_id, t.id, o.turn_id IS NULL AS unopened FROM turns t
LEFT JOIN audit_records o ON o.project_id = $1 AND o.bucket = t.bucket AND o.turn_id = t.id
    AND o.chain_id = t.thread_id AND o.action IN ('turn.opened', 'items.added', 'turn.imported', 'turn.inherited')
LEFT JOIN audit_records c ON c.project_id = $1 AND c.bucket = t.bucket AND c.turn_id = t.id
    AND c.chain_id = t.thread_id AND c.action IN ('turn.closed', 'items.added', 'turn.imported', 'turn.inherited')
WHERE t.project_id = $1 AND ($2::uuid IS NULL OR t.thread_id = $2)
    AND (o.turn_id IS NULL OR (c.turn_id IS NULL AND t.status <> 'in_progress'))
ORDER BY t.id LIMIT 10
"""

UNTOLD_FEEDBACK = """
SELECT f.id FROM feedback f JOIN turns t ON t.project_id = $1 AND t.bucket = f.bucket AND t.id = f.turn_id
LEFT JOIN audit_records r ON r.project_id = $1 AND r.bucket = f.bucket AND r.turn_id = f.turn_id
    AND r.action = 'feedback.given' AND r.detail = 'feedback_' || encode(uuid_send(f.id), 'hex')
WHERE f.project_id = $1 AND ($2::uuid IS NULL OR t.thread_id = $2) AND r.turn_id IS NULL
ORDER BY f.id LIMIT 10
"""

UNTOLD_SHARES = """
SELECT s.id FROM shares s
LEFT JOIN audit_records r ON r.project_id = $1 AND r.bucket = s.bucket AND r.chain_id = s.thread_id
    AND r.action = 'thread.shared' AND r.detail = 'share_' || encode(uuid_send(s.id), 'hex')
WHERE s.project_id = $1 AND ($2::uuid IS NULL OR s.thread_id = $2) AND r.chain_id IS NULL
ORDER BY s.id LIMIT 10
"""

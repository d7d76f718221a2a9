-- _of_user --
(:user_id::text IS NULL OR EXISTS (
    SELECT FROM threads th WHERE th.project_id = t.project_id AND th.bucket = t.bucket AND th.id = t.thread_id
        AND th.user_id = :user_id
))

-- cause --
-- On whose behalf a compaction or a title is made: that of whoever asked for the turn that it stands behind.
SELECT t.api_key_id, th.user_id, p.settings, k.limits
FROM turns t
JOIN threads th ON th.project_id = t.project_id AND th.bucket = t.bucket AND th.id = t.thread_id
JOIN projects p ON p.project_id = t.project_id
LEFT JOIN api_keys k ON k.project_id = t.project_id AND k.id = t.api_key_id
WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = :turn_id

-- threads --
-- How many threads there are, up to a limit.
SELECT count(*) AS count FROM (
    SELECT 1 FROM threads WHERE project_id = :project_id AND (:user_id::text IS NULL OR user_id = :user_id) LIMIT :limit
) AS there

-- stored_bytes --
-- The stored size of contents: items, turns' parameters, titles, metadata and feedback.
SELECT sum(bytes)::bigint AS count FROM (
    SELECT coalesce(sum(pg_column_size(i.data)), 0) AS bytes FROM items i
    WHERE i.project_id = :project_id AND (:user_id::text IS NULL OR EXISTS (
        SELECT FROM turns t
        WHERE t.project_id = i.project_id AND t.bucket = i.bucket AND t.id = i.turn_id AND {_of_user}
    ))
    UNION ALL
    SELECT coalesce(sum(pg_column_size(m.data)), 0) FROM media m
    WHERE m.project_id = :project_id AND (:user_id::text IS NULL OR EXISTS (
        SELECT FROM item_media h
        JOIN turns t ON t.project_id = h.project_id AND t.bucket = h.bucket AND t.id = h.turn_id
        WHERE h.project_id = m.project_id AND h.bucket = m.bucket AND h.media_id = m.id AND {_of_user}
    ))
    UNION ALL
    SELECT coalesce(sum(pg_column_size(t.params) + pg_column_size(t.metadata)), 0) FROM turns t
    WHERE t.project_id = :project_id AND {_of_user}
    UNION ALL
    SELECT coalesce(sum(coalesce(pg_column_size(th.title), 0) + pg_column_size(th.metadata)), 0) FROM threads th
    WHERE th.project_id = :project_id AND (:user_id::text IS NULL OR th.user_id = :user_id)
    UNION ALL
    SELECT coalesce(sum(coalesce(pg_column_size(f.comment), 0) + coalesce(pg_column_size(f.label), 0)), 0)
    FROM feedback f WHERE f.project_id = :project_id AND (:user_id::text IS NULL OR f.user_id = :user_id)
) AS stored

-- history --
-- Size of the history that the next turn continues, in tokens, as the provider has counted it. The id is that of the
-- thread, or of the turn.
SELECT greatest(token_count(t.context->'tokens'), token_count(t.usage->'total_tokens'))::bigint AS tokens
FROM turns t
WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = coalesce(
    (SELECT th.head_turn_id FROM threads th WHERE th.project_id = :project_id AND th.bucket = :bucket AND th.id = :id),
    :id
)

-- items_of_thread --
-- The stored size of its items, where no provider has counted it.
SELECT sum(pg_column_size(i.data))::bigint
FROM turns t JOIN items i ON i.project_id = t.project_id AND i.bucket = t.bucket AND i.turn_id = t.id
WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.thread_id = coalesce(
    (SELECT of.thread_id FROM turns of WHERE of.project_id = :project_id AND of.bucket = :bucket AND of.id = :id), :id
)

-- add_charges --
-- With the ids made before: a batch that is written twice counts once.
INSERT INTO charges (
    project_id, bucket, id, at, kind, model, binding, api_key_id, user_id, thread_id, input_tokens, cached_tokens,
    cache_write_tokens, output_tokens, reasoning_tokens, total_tokens, tool_calls, estimated, currency, cost, saved
)
SELECT :project_id::uuid, c.bucket, c.id, c.at, c.kind, c.model, c.binding, c.api_key_id, c.user_id, c.thread_id,
    c.input_tokens, c.cached_tokens, c.cache_write_tokens, c.output_tokens, c.reasoning_tokens, c.total_tokens,
    c.tool_calls, c.estimated, c.currency, c.cost, c.saved
FROM json_to_recordset(:charges::json) AS c (
    bucket smallint, id uuid, at timestamptz, kind text, model text, binding text, api_key_id uuid, user_id text,
    thread_id uuid, input_tokens bigint, cached_tokens bigint, cache_write_tokens bigint, output_tokens bigint,
    reasoning_tokens bigint, total_tokens bigint, tool_calls bigint, estimated boolean, currency text, cost numeric,
    saved numeric
)
ON CONFLICT DO NOTHING

-- _tools --
-- `CALLS_BY_TOOL` of provider/models.py: tests/test_statements.py compares them.
json_build_object(
    'code_interpreter', coalesce(sum(token_count(u.tools->'code_interpreter'->'count')), 0),
    'file_search', coalesce(sum(token_count(u.tools->'file_search'->'count')), 0),
    'function', coalesce(sum(token_count(u.tools->'function'->'count')), 0),
    'image_search', coalesce(sum(token_count(u.tools->'image_search'->'count')), 0),
    'mcp', coalesce(sum(token_count(u.tools->'mcp'->'count')), 0),
    'web_extractor', coalesce(sum(token_count(u.tools->'web_extractor'->'count')), 0),
    'web_search', coalesce(sum(token_count(u.tools->'web_search'->'count')), 0),
    'web_search_image', coalesce(sum(token_count(u.tools->'web_search_image'->'count')), 0)
)

-- _read --
-- The calls of tools, taken out of the document once.
CROSS JOIN LATERAL (SELECT t.usage->'x_tools' AS tools OFFSET 0) u

-- _used --
t.model, coalesce(t.binding ~ :batch, false) AS batch,
    sum(token_count(t.usage->'total_tokens'))::float8 AS total_tokens,
    sum(token_count(t.usage->'input_tokens'))::float8 AS input_tokens,
    sum(token_count(t.usage->'input_tokens_details'->'cached_tokens'))::float8 AS cached_tokens,
    sum(token_count(t.usage->'x_details'->0->'prompt_tokens_details'->'cache_creation_input_tokens'))::float8
        AS cache_write_tokens,
    sum(token_count(t.usage->'output_tokens'))::float8 AS output_tokens,
    {_tools} AS tools

-- _of_user --
(:user_id::text IS NULL OR EXISTS (
    SELECT FROM threads th WHERE th.project_id = t.project_id AND th.bucket = t.bucket AND th.id = t.thread_id
        AND th.user_id = :user_id
))

-- used --
-- What a project, a key or an end user has used since a moment, by model.
SELECT {_used} FROM turns t {_read}
WHERE t.project_id = :project_id AND t.arrived_at >= :since AND t.copied_from_id IS NULL AND t.usage IS NOT NULL
    AND (:key_id::uuid IS NULL OR t.api_key_id = :key_id) AND {_of_user}
GROUP BY 1, 2
UNION ALL
SELECT {_used} FROM charges t {_read}
WHERE t.project_id = :project_id AND t.at >= :since AND (:key_id::uuid IS NULL OR t.api_key_id = :key_id)
    AND (:user_id::text IS NULL OR t.user_id = :user_id)
GROUP BY 1, 2

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
INSERT INTO charges (project_id, bucket, id, at, kind, model, binding, api_key_id, user_id, thread_id, usage)
SELECT :project_id::uuid, c.bucket, c.id, c.at, c.kind, c.model, c.binding, c.api_key_id, c.user_id, c.thread_id,
    c.usage
FROM json_to_recordset(:charges::json) AS c (
    bucket smallint, id uuid, at timestamptz, kind text, model text, binding text, api_key_id uuid, user_id text,
    thread_id uuid, usage json
)
ON CONFLICT DO NOTHING

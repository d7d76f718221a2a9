-- add_hour --
-- Adds turns of an hour to what is counted of it.
INSERT INTO turn_hours AS t (project_id, hour, model, outcome, turns, durations, first_words)
VALUES (:project_id, :hour, :model, :outcome, :turns, :durations, :first_words)
ON CONFLICT (project_id, hour, model, outcome) DO UPDATE SET turns = t.turns + excluded.turns,
    durations = added_v1(t.durations, excluded.durations), first_words = added_v1(t.first_words, excluded.first_words)

-- _in_hours --
-- Conditions of what is counted of the hours that begin in a range.
project_id = :project_id AND hour >= :since AND hour < :until AND (:model::text IS NULL OR model = :model)

-- _failed --
-- The turns among those counted that have failed: the other outcomes are statuses.
CASE WHEN outcome IN ('completed', 'incomplete', 'cancelled') THEN 0 ELSE turns END

-- hours -> HourRow --
SELECT hour, model, outcome, turns, {_failed} AS failed_turns, durations, first_words FROM turn_hours
WHERE {_in_hours} ORDER BY hour, model, outcome LIMIT :limit

-- summed_hours -> HourRow --
-- All models and outcomes of each hour, or of each day in UTC: their histograms are added up place by place.
WITH counted AS (
    SELECT date_trunc(:unit::text, hour, 'UTC') AS at, turns, {_failed} AS failed_turns, durations, first_words
    FROM turn_hours WHERE {_in_hours}
), histograms AS (
    SELECT at, array_agg(took ORDER BY place) AS durations, array_agg(began ORDER BY place) AS first_words FROM (
        SELECT at, place, sum(took)::bigint AS took, sum(began)::bigint AS began
        FROM counted CROSS JOIN LATERAL unnest(durations, first_words) WITH ORDINALITY AS one (took, began, place)
        GROUP BY at, place
    ) places GROUP BY at
)
SELECT h.at AS hour, NULL::text AS model, NULL::text AS outcome, s.turns, s.failed_turns, h.durations, h.first_words
FROM histograms h
JOIN (
    SELECT at, sum(turns)::bigint AS turns, sum(failed_turns)::bigint AS failed_turns FROM counted GROUP BY at
) s ON s.at = h.at
ORDER BY h.at LIMIT :limit

-- _turn --
-- The usage of each turn that called a model, in the columns of usage_sums. Each value is read from its document once,
-- because parsing JSON is most of the cost. Copies of turns are excluded: they are counted in their original thread.
-- The argument adds conditions.
SELECT t.project_id, t.bucket, t.thread_id, t.seq, t.created_at AS at, t.model, coalesce(t.binding, '') AS binding,
    coalesce(t.api_key_id, '00000000-0000-0000-0000-000000000000') AS api_key_id,
    coalesce(u.cost->>'currency', '') AS currency,
    1 AS turns,
    (t.status = 'failed')::int AS failed_turns,
    token_count(u.input) AS input_tokens,
    token_count(u.cached) AS cached_tokens,
    token_count(u.written) AS cache_write_tokens,
    token_count(u.output) AS output_tokens,
    token_count(u.reasoning) AS reasoning_tokens,
    coalesce(nullif(token_count(u.total), 0), token_count(u.input) + token_count(u.output)) AS total_tokens,
    CASE WHEN json_typeof(u.tools) = 'object' THEN coalesce((
        SELECT sum(token_count(tool.value->'count')) FROM json_each(u.tools) AS tool
        WHERE json_typeof(tool.value) = 'object'
    ), 0) ELSE 0 END AS tool_calls,
    (t.continuation = 'rebuilt')::int AS rebuilt_turns,
    CASE WHEN t.continuation = 'rebuilt' THEN token_count(u.input) ELSE 0 END AS rebuilt_input_tokens,
    (u.cost IS NULL AND token_count(u.input) + token_count(u.output) > 0)::int AS unpriced_turns,
    coalesce((u.cost->>'amount')::numeric, 0) AS cost,
    CASE WHEN t.continuation = 'rebuilt' THEN coalesce((u.cost->>'input')::numeric, 0) ELSE 0 END
        AS rebuilt_input_cost,
    coalesce((u.cost->>'saved')::numeric, 0) AS saved
FROM turns t
CROSS JOIN LATERAL (
    SELECT t.cost, t.usage->'input_tokens' AS input, t.usage->'input_tokens_details'->'cached_tokens' AS cached,
        t.usage->'x_details'->0->'prompt_tokens_details'->'cache_creation_input_tokens' AS written,
        t.usage->'output_tokens' AS output, t.usage->'output_tokens_details'->'reasoning_tokens' AS reasoning,
        t.usage->'total_tokens' AS total, t.usage->'x_tools' AS tools OFFSET 0
) u
WHERE t.status <> 'in_progress' AND t.model <> '' AND t.copied_from_id IS NULL {1}

-- _quarter --
-- The beginning of the quarter of an hour that contains a time.
to_timestamp(floor(extract(epoch FROM {1}) / 900) * 900)

-- _uncounted --
-- Usage of turns that are not in a sum yet, with the user of the thread. Closing a turn updates its thread's activity:
-- threads without activity since then are skipped.
SELECT t.*, th.user_id FROM thread_activity a
JOIN threads th ON th.project_id = :project_id AND th.bucket = a.bucket AND th.id = a.thread_id
    AND th.last_seq > th.counted_seq
CROSS JOIN LATERAL (
    {_turn | AND t.project_id = :project_id AND t.bucket = th.bucket AND t.thread_id = th.id AND t.seq > th.counted_seq
        AND t.created_at >= :since}
    OFFSET 0
) t
WHERE a.project_id = :project_id AND a.active_at >= :since::timestamptz - interval '1 minute'

-- _line --
-- The columns of a line of usage: its counts and costs from one table, its user from another.
{1}.at, {1}.model, {1}.binding, {2}.user_id, {1}.thread_id, {1}.currency, {1}.turns, {1}.failed_turns, {1}.input_tokens,
    {1}.cached_tokens, {1}.cache_write_tokens, {1}.output_tokens, {1}.reasoning_tokens, {1}.tool_calls,
    {1}.rebuilt_turns, {1}.rebuilt_input_tokens, {1}.unpriced_turns, {1}.cost, {1}.rebuilt_input_cost, {1}.saved

-- _numbers --
-- Sums over lines of usage.
sum(turns) AS turns, sum(failed_turns) AS failed_turns, sum(input_tokens) AS input_tokens,
    sum(cached_tokens) AS cached_tokens, sum(cache_write_tokens) AS cache_write_tokens,
    sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens, sum(tool_calls) AS tool_calls,
    sum(rebuilt_turns) AS rebuilt_turns, sum(rebuilt_input_tokens) AS rebuilt_input_tokens,
    sum(unpriced_turns) AS unpriced_turns, sum(cost) AS cost, sum(rebuilt_input_cost) AS rebuilt_input_cost,
    sum(saved) AS saved

-- usage -> UsageRow --
-- A report: counts and costs for each key and currency, after those of all keys together. For a quarter of an hour that
-- the range covers in part, turns are read instead of sums.
WITH lines AS (
    SELECT turns.*, '' AS kind FROM (
        -- The thread of a sum exists: it is read only for its user.
        SELECT {_line | s | th} FROM usage_sums s
        LEFT JOIN threads th ON (:group_by::text = 'user' OR :user_id::text IS NOT NULL)
            AND th.project_id = :project_id AND th.bucket = s.bucket AND th.id = s.thread_id
        WHERE s.project_id = :project_id AND s.at >= :since AND s.at < :until
            AND s.at <> ALL(:partial::timestamptz[])
        UNION ALL
        SELECT {_line | t | t} FROM (
            {_uncounted}
            UNION ALL
            SELECT t.*, th.user_id FROM (
                SELECT DISTINCT s.bucket, s.thread_id, s.at FROM usage_sums s
                WHERE s.project_id = :project_id AND s.at = ANY(:partial)
            ) s
            JOIN threads th ON th.project_id = :project_id AND th.bucket = s.bucket AND th.id = s.thread_id
            CROSS JOIN LATERAL (
                {_turn | AND t.project_id = :project_id AND t.bucket = s.bucket AND t.thread_id = s.thread_id
                    AND t.seq <= th.counted_seq AND t.created_at >= greatest(s.at, :since)
                    AND t.created_at < s.at + interval '15 minutes'}
                OFFSET 0
            ) t
        ) t
        WHERE t.at < :until
    ) turns
    UNION ALL
    SELECT c.at, c.model, coalesce(c.binding, ''), c.user_id, c.thread_id, coalesce(c.currency, ''),
        (c.kind = 'response')::int, 0, c.input_tokens, c.cached_tokens, c.cache_write_tokens, c.output_tokens,
        c.reasoning_tokens, c.tool_calls, 0, 0, (c.currency IS NULL AND c.total_tokens > 0)::int,
        coalesce(c.cost, 0), 0, coalesce(c.saved, 0), c.kind
    FROM charges c WHERE c.project_id = :project_id AND c.at >= :since AND c.at < :until
), placed AS (
    SELECT CASE :group_by::text
            WHEN 'day' THEN to_char(at AT TIME ZONE :tz, 'YYYY-MM-DD')
            WHEN 'hour' THEN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24":00Z"')
            WHEN 'model' THEN model
            WHEN 'user' THEN user_id
            WHEN 'thread' THEN thread_id::text
            ELSE nullif(binding, '')
        END AS place,
        kind = 'compaction' AS compacts, CASE WHEN unpriced_turns > 0 THEN model END AS unpriced_model, lines.*
    FROM lines
    WHERE (:user_id::text IS NULL OR user_id = :user_id) AND (:model::text IS NULL OR model = :model)
), grouped AS (
    SELECT place, currency, compacts, unpriced_model, {_numbers},
        count(*) FILTER (WHERE kind = 'chat') AS chat_completions, count(*) FILTER (WHERE kind = 'title') AS titles,
        count(*) FILTER (WHERE kind = 'compaction') AS compactions
    FROM placed GROUP BY place, currency, compacts, unpriced_model
), sums AS (
    SELECT false AS is_total, grouped.* FROM grouped
    UNION ALL
    SELECT true, NULL, currency, compacts, unpriced_model, {_numbers}, sum(chat_completions), sum(titles),
        sum(compactions)
    FROM grouped GROUP BY currency, compacts, unpriced_model
), keyed AS (
    -- The account as `provider/account.py` shows it.
    SELECT CASE WHEN :group_by = 'account'
        THEN regexp_replace(place, '^[a-z]+://([^/#]*@)?([^/#]*).*#([0-9a-f]{0,8}).*$', '\2#\3') ELSE place END AS key,
        sums.*
    FROM sums
), costs AS (
    SELECT keyed.*, sum(cost) OVER (PARTITION BY is_total, key, currency) AS currency_cost FROM keyed
), ranked AS (
    SELECT is_total, key, json_agg(costs) AS parts,
        CASE :sort::text WHEN 'turns' THEN sum(turns) WHEN 'cost' THEN max(currency_cost) ELSE 0 END::numeric AS rank,
        CASE WHEN key IS NULL THEN '-' ELSE '=' || key END COLLATE "C" AS place
    FROM costs GROUP BY is_total, key
)
SELECT is_total, key, parts, rank || ':' || place AS position FROM ranked
WHERE is_total OR :after::text IS NULL
    OR CASE WHEN :sort = 'key' THEN key > :after
        ELSE rank < :after_rank::numeric OR (rank = :after_rank AND place > :after) END
ORDER BY is_total DESC, rank DESC, CASE WHEN :sort <> 'key' THEN place END, key NULLS FIRST LIMIT :limit

-- is_zone --
-- True for the exact name of a zone in the IANA database, as known to Postgres, which computes the days.
SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = :name AND name ~ '^[A-Z][A-Za-z0-9_+/-]*$')

-- used -> UsedRow --
-- Tokens and cost of a project, a key or an end user since the beginning of a month, by currency.
SELECT currency, sum(total_tokens)::float8 AS tokens, sum(cost)::float8 AS cost FROM (
    SELECT s.currency, s.total_tokens, s.cost FROM usage_sums s
    JOIN threads th ON th.project_id = :project_id AND th.bucket = s.bucket AND th.id = s.thread_id
    WHERE s.project_id = :project_id AND s.at >= :since AND (:key_id::uuid IS NULL OR s.api_key_id = :key_id)
        AND (:user_id::text IS NULL OR th.user_id = :user_id)
    UNION ALL
    SELECT t.currency, t.total_tokens, t.cost FROM ({_uncounted}) t
    WHERE (:key_id IS NULL OR t.api_key_id = :key_id) AND (:user_id IS NULL OR t.user_id = :user_id)
    UNION ALL
    SELECT coalesce(c.currency, ''), c.total_tokens, coalesce(c.cost, 0) FROM charges c
    WHERE c.project_id = :project_id AND c.at >= :since AND (:key_id IS NULL OR c.api_key_id = :key_id)
        AND (:user_id IS NULL OR c.user_id = :user_id)
) lines GROUP BY currency

-- uncounted_threads --
-- Threads with turns that are not in a sum, by activity.
SELECT a.bucket, a.thread_id, a.active_at FROM thread_activity a
JOIN threads th ON th.project_id = :project_id AND th.bucket = a.bucket AND th.id = a.thread_id
    AND th.last_seq > th.counted_seq
WHERE a.project_id = :project_id AND (a.active_at, a.thread_id) > (:after, :after_thread)
ORDER BY a.active_at, a.thread_id LIMIT :limit

-- lock_thread --
-- Locks a thread to update its sums. No row if another transaction has locked it, to open or close a turn.
SELECT counted_seq FROM threads
WHERE project_id = :project_id AND bucket = :bucket AND id = :thread_id AND last_seq > counted_seq
FOR NO KEY UPDATE SKIP LOCKED

-- add_turns --
-- Adds turns of a locked thread to its sums, up to the first that runs. No row if there are none to add.
WITH upto AS (
    SELECT least(:counted::int + :most::int, th.last_seq, (
        SELECT min(r.seq) - 1 FROM turns r WHERE r.project_id = :project_id AND r.bucket = :bucket
            AND r.thread_id = :thread_id AND r.status = 'in_progress'
    )) AS seq
    FROM threads th WHERE th.project_id = :project_id AND th.bucket = :bucket AND th.id = :thread_id
), added AS (
    INSERT INTO usage_sums AS s (
        project_id, bucket, thread_id, at, model, binding, api_key_id, currency, total_tokens, turns, failed_turns,
        input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, tool_calls, rebuilt_turns,
        rebuilt_input_tokens, unpriced_turns, cost, rebuilt_input_cost, saved
    )
    SELECT project_id, bucket, thread_id, {_quarter | at}, model, binding, api_key_id, currency,
        {_bounded | total_tokens}, sum(turns), sum(failed_turns), {_bounded | input_tokens}, {_bounded | cached_tokens},
        {_bounded | cache_write_tokens}, {_bounded | output_tokens}, {_bounded | reasoning_tokens},
        {_bounded | tool_calls}, sum(rebuilt_turns), {_bounded | rebuilt_input_tokens}, sum(unpriced_turns), sum(cost),
        sum(rebuilt_input_cost), sum(saved)
    FROM (
        {_turn | AND t.project_id = :project_id AND t.bucket = :bucket AND t.thread_id = :thread_id
            AND t.seq > :counted AND t.seq <= (SELECT seq FROM upto)}
    ) t
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ON CONFLICT (project_id, bucket, thread_id, at, model, binding, api_key_id, currency) DO UPDATE SET
        total_tokens = s.total_tokens + excluded.total_tokens, turns = s.turns + excluded.turns,
        failed_turns = s.failed_turns + excluded.failed_turns, input_tokens = s.input_tokens + excluded.input_tokens,
        cached_tokens = s.cached_tokens + excluded.cached_tokens,
        cache_write_tokens = s.cache_write_tokens + excluded.cache_write_tokens,
        output_tokens = s.output_tokens + excluded.output_tokens,
        reasoning_tokens = s.reasoning_tokens + excluded.reasoning_tokens,
        tool_calls = s.tool_calls + excluded.tool_calls, rebuilt_turns = s.rebuilt_turns + excluded.rebuilt_turns,
        rebuilt_input_tokens = s.rebuilt_input_tokens + excluded.rebuilt_input_tokens,
        unpriced_turns = s.unpriced_turns + excluded.unpriced_turns, cost = s.cost + excluded.cost,
        rebuilt_input_cost = s.rebuilt_input_cost + excluded.rebuilt_input_cost, saved = s.saved + excluded.saved
)
UPDATE threads th SET counted_seq = upto.seq FROM upto
WHERE th.project_id = :project_id AND th.bucket = :bucket AND th.id = :thread_id AND upto.seq > :counted
RETURNING th.counted_seq

-- _bounded --
-- A sum, bounded: a provider can report any number.
least(sum({1}), 9007199254740991)::bigint

-- reset_counted --
-- Locks a thread and marks all its turns as not summed. `delete_sums` follows.
UPDATE threads SET counted_seq = 0 WHERE project_id = :project_id AND bucket = :bucket AND id = :thread_id

-- delete_sums --
DELETE FROM usage_sums WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :thread_id

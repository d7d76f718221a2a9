-- _path --
-- A branch from a turn backwards, to its first one or to the nearest that a ready compaction ends with.
{_branch
    | , t.thread_id, t.binding, t.model, (
        SELECT c.id FROM compactions c
        WHERE c.project_id = :project_id AND c.bucket = :bucket AND c.turn_id = t.id AND c.status = 'ready'
    ) AS compaction
    | WHERE branch.compaction IS NULL}

-- branch --
-- A branch from its nearest compaction on, in one row: its turns and its items, each as a column of arrays in their order.
-- `documents` are the items, one JSON after the other, with commas in between: a long branch is read, sent and parsed at
-- the cost of its bytes, and not of its rows. `depths` are the numbers of the items' turns, counted from the last.
-- A branch of more than so many bytes is not read whole: a document is null before the newest so many bytes of long items,
-- of short ones, and of those that are never dropped (system messages and pinned ones; a sealed message that tells no role
-- is a system message). Nor are media read but the newest so many bytes of them: `with_media`.
{_path}, read AS (
    SELECT branch.depth, items.*, sum(items.size) OVER () AS total FROM branch CROSS JOIN LATERAL (
        SELECT type, item_id, data, tokens, position, size,
            {_media_bytes | x.bucket = :bucket AND x.turn_id = branch.id AND x.position = items.position} AS media
        FROM items
        WHERE project_id = :project_id AND bucket = :bucket AND turn_id = branch.id AND branch.compaction IS NULL
        OFFSET 0
    ) items
), sorted AS (
    SELECT read.*, CASE
        WHEN total <= :most_bytes::int THEN 'any'
        WHEN type = 'message' AND (
            coalesce(data->>'role', data->1->>'role', 'system') NOT IN ('user', 'assistant') OR data->>'pinned' = 'true'
        ) THEN 'kept'
        WHEN size <= 20000 THEN 'short' ELSE 'long' END AS sort
    FROM read
), bounded AS (
    SELECT depth, type, item_id, tokens, position, CASE
        WHEN sort = 'any' OR sum(size) OVER (
            PARTITION BY sort ORDER BY depth, position DESC ROWS UNBOUNDED PRECEDING
        ) - size < :most_bytes THEN data END AS data,
        sum(media) OVER (ORDER BY depth, position DESC ROWS UNBOUNDED PRECEDING) - media < :most_bytes AS with_media
    FROM sorted
)
SELECT turns.*, items.*, (SELECT compaction FROM branch WHERE compaction IS NOT NULL) AS compaction
FROM (
    SELECT array_agg(id ORDER BY depth DESC) AS turn_ids, array_agg(thread_id ORDER BY depth DESC) AS thread_ids,
        array_agg(binding ORDER BY depth DESC) AS bindings, array_agg(model ORDER BY depth DESC) AS models
    FROM branch WHERE compaction IS NULL
) turns CROSS JOIN (
    SELECT array_agg(type ORDER BY depth DESC, position) AS types,
        array_agg(item_id ORDER BY depth DESC, position) AS item_ids,
        array_agg(depth ORDER BY depth DESC, position) AS depths,
        array_agg(position::integer ORDER BY depth DESC, position) AS positions,
        array_agg(tokens ORDER BY depth DESC, position) AS tokens,
        array_agg(with_media ORDER BY depth DESC, position) AS with_media,
        convert_to(string_agg(coalesce(data::text, 'null'), ',' ORDER BY depth DESC, position), 'UTF8') AS documents
    FROM bounded
) items

-- nearest --
-- The nearest compaction on a branch.
{_path}
SELECT compaction FROM branch WHERE compaction IS NOT NULL

-- compaction --
SELECT id, turn_id, text, tokens, kept_items, covered_turns, covered_tokens FROM compactions
WHERE project_id = :project_id AND bucket = :bucket AND id = :compaction_id AND status = 'ready'

-- kept_items --
-- Items by their ids.
SELECT turn_id, position, type, item_id, data, tokens FROM items
WHERE project_id = :project_id AND bucket = :bucket AND item_id = ANY(:item_ids::text[])

-- count_items --
-- Writes down what items count.
UPDATE items i SET tokens = c.tokens
FROM unnest(:item_ids::text[], :counts::integer[]) AS c (item_id, tokens)
WHERE i.project_id = :project_id AND i.bucket = :bucket AND i.item_id = c.item_id AND i.tokens IS NULL
RETURNING i.turn_id

-- context_of --
-- A turn's context, whatever has become of its response id.
SELECT context FROM turns WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id

-- on_branch -> CompactionRow --
-- Every compaction on a branch, the nearest first.
{_branch}
SELECT c.id, c.turn_id, c.previous_id, c.status, c.model, c.text, c.kept_items, c.covered_turns, c.covered_tokens,
    c.tokens, c.usage, c.error, c.attempts, c.created_at, c.completed_at
FROM branch JOIN compactions c ON c.project_id = :project_id AND c.bucket = :bucket AND c.turn_id = branch.id
ORDER BY branch.depth

-- pause --
-- A row while a branch waits after compactions that failed, each further one twice as long. Those before the nearest
-- ready one do not count.
{_path}
SELECT count(*) AS failed FROM branch JOIN compactions c
    ON c.project_id = :project_id AND c.bucket = :bucket AND c.turn_id = branch.id AND c.status = 'failed'
HAVING now() - max(c.completed_at)
    < least(86400, 30 * 2 ^ least(sum(c.attempts), 20)) * interval '1 second'

-- lock_threads --
-- Nothing of these threads' histories is deleted while the transaction lasts.
SELECT id FROM threads WHERE project_id = :project_id AND bucket = :bucket AND id = ANY(:thread_ids::uuid[])
ORDER BY id FOR SHARE

-- lock_thread --
-- Before a compaction's row, as by who deletes: so neither waits for the other.
SELECT id FROM threads WHERE project_id = :project_id AND bucket = :bucket AND id = :thread_id FOR NO KEY UPDATE

-- claim --
-- Takes a compaction to be made: a new one, one that failed, or one whose worker is dead. No row where there is a ready
-- one, or somebody makes it.
INSERT INTO compactions AS c (
    project_id, bucket, id, turn_id, previous_id, status, worker_id, lease_expires_at, model, kept_items,
    covered_turns, covered_tokens
)
SELECT t.project_id, t.bucket, :compaction_id::uuid, t.id, :previous_id::uuid, 'running', :worker_id::uuid,
    now() + :lease_seconds::float8 * interval '1 second', :model::text, :kept_items::text[], :covered_turns::integer,
    :covered_tokens::bigint
FROM turns t WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = :turn_id
ON CONFLICT ON CONSTRAINT compactions_turn_key DO UPDATE SET
    previous_id = excluded.previous_id, status = 'running', worker_id = excluded.worker_id,
    lease_expires_at = excluded.lease_expires_at, model = excluded.model, kept_items = excluded.kept_items,
    covered_turns = excluded.covered_turns, covered_tokens = excluded.covered_tokens, attempts = c.attempts + 1,
    error = NULL, calls = NULL, usage = NULL, completed_at = NULL
-- The moment is the one that the row would have been made at: a cluster takes no other here.
WHERE (c.status = 'failed' AND (:now::boolean
        OR excluded.created_at - c.completed_at > least(86400, 30 * 2 ^ least(c.attempts, 20)) * interval '1 second'))
    OR (c.status = 'running' AND c.lease_expires_at < excluded.created_at)
RETURNING c.id

-- renew --
UPDATE compactions SET lease_expires_at = now() + :lease_seconds::float8 * interval '1 second'
WHERE project_id = :project_id AND bucket = :bucket AND id = :compaction_id AND status = 'running'
    AND worker_id = :worker_id
RETURNING id

-- finish --
-- Makes a compaction ready. No row where somebody else has taken it, or something of what it covers was deleted.
UPDATE compactions SET status = 'ready', text = :text, tokens = :tokens::integer, calls = :calls::json,
    usage = :usage::json, salt = :salt, worker_id = NULL, lease_expires_at = NULL, completed_at = now()
WHERE project_id = :project_id AND bucket = :bucket AND id = :compaction_id AND status = 'running'
    AND worker_id = :worker_id
RETURNING id, model, kept_items, covered_turns, covered_tokens, tokens, created_at, completed_at

-- fail --
UPDATE compactions SET status = 'failed', error = :error::json, calls = NULL, usage = :usage::json, worker_id = NULL,
    lease_expires_at = NULL, completed_at = now()
WHERE project_id = :project_id AND bucket = :bucket AND id = :compaction_id AND status = 'running'
    AND worker_id = :worker_id
RETURNING id

-- give_up --
-- Fails a compaction that nobody makes, until a later turn asks for it again.
UPDATE compactions SET status = 'failed', error = :error::json, calls = NULL, worker_id = NULL,
    lease_expires_at = NULL, completed_at = now()
WHERE project_id = :project_id AND bucket = :bucket AND id = :compaction_id AND status = 'running'
    AND lease_expires_at < now()
RETURNING id

-- give_up_chain --
-- The next turn after this one is rebuilt.
UPDATE turns SET response_unknown_at = now(), response_unknown_reason = :reason
WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id AND response_unknown_at IS NULL
RETURNING id

-- abandoned -> Abandoned --
-- Compactions whose worker is dead, for whoever takes them. In any order: some that cannot be made, because something of
-- their conversation cannot be opened, do not hold up the others.
SELECT project_id, id, turn_id, model FROM compactions
WHERE status = 'running' AND lease_expires_at < now()
ORDER BY random() LIMIT 5

-- head --
-- A thread's head and the model of it.
SELECT th.id AS thread_id, th.head_turn_id, t.model FROM threads th
LEFT JOIN turns t ON t.project_id = :project_id AND t.bucket = :bucket AND t.id = th.head_turn_id
WHERE th.project_id = :project_id AND th.bucket = :bucket AND th.id = :thread_id AND (:name::text IS NULL OR th.name = :name)
    AND (:of_user::text IS NULL OR th.user_id = :of_user)

-- observed_models --
-- What the answers of accounts have shown of their models in the last days.
SELECT binding, model, window_tokens, tokens_per_counted FROM learnt_models
WHERE binding = ANY(:bindings::text[]) AND learnt_at > now() - interval '7 days'

-- observe_model --
INSERT INTO learnt_models AS l (binding, model, window_tokens, tokens_per_counted)
VALUES (:binding, :model, :window_tokens, :tokens_per_counted)
ON CONFLICT (binding, model) DO UPDATE SET learnt_at = excluded.learnt_at,
    window_tokens = CASE WHEN excluded.learnt_at - l.learnt_at < interval '7 days'
        THEN least(l.window_tokens, excluded.window_tokens) ELSE excluded.window_tokens END,
    tokens_per_counted = coalesce(excluded.tokens_per_counted, l.tokens_per_counted)
RETURNING model

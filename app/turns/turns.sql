-- open_turn --
-- Opens a turn: see migrations/schema.sql. A transaction of its own, and one of a turn's two.
SELECT * FROM open_turn_v4(
    :project_id::uuid, :bucket::smallint, :thread_id::uuid, :after_turn::uuid, :name::text, :of_user::text,
    :new_thread::boolean, :user_id::text, :trail_key::bytea, :thread_salt::bytea,
    :turn_id::uuid, :parent_id::uuid, :root::boolean, :beside::text, :ticket::uuid,
    :model::text, :params::text, :metadata::text, :ignored::text[],
    :worker_id::uuid, :lease_seconds::float8, :api_key_id::uuid, :idempotency_key::text, :body_hash::bytea,
    :salt::bytea, :types::text[], :item_ids::text[], :data::text[],
    :address::text, :created::bytea, :opened::bytea, :media::text
)

-- close_turn --
-- Closes a turn: see migrations/schema.sql. The other of its two transactions. NULL: somebody else has.
SELECT close_turn_v4(
    :project_id::uuid, :bucket::smallint, :thread_id::uuid, :turn_id::uuid,
    :status::text, :continuation::text, :continuation_reason::text, :response::text, :usage::text, :cost::text, :error::text,
    :incomplete_details::text, :binding::text, :response_id::text, :response_created_at::timestamptz, :response_expires_at::timestamptz,
    :error_status::smallint, :pace::text, :context::text,
    :first_position::integer, :types::text[], :item_ids::text[], :data::text[],
    :continuations::text[], :continuation_reasons::text[], :urls::text[], :frames::text[], :frame_counts::integer[], :refs::integer[],
    :piece_digests::bytea[], :piece_sources::text[], :piece_data::text[], :dropped::integer[], :statuses::integer[],
    :response_ids::text[], :errors::text[], :began::timestamptz[], :ended::timestamptz[],
    :api_key_id::uuid, :address::text, :actions::text[], :details::text[], :contents::bytea[],
    :media::text, :piece_media::uuid[]
) AS completed_at

-- parent -> ParentRow --
-- What decides whether a turn's response id can be chained on. `lost` is the reason why there is none.
SELECT CASE
        WHEN response_unknown_at IS NOT NULL THEN coalesce(response_unknown_reason, 'response_id_dropped')
        WHEN status NOT IN ('completed', 'incomplete') THEN 'parent_unfinished'
        WHEN response_expires_at IS NOT NULL THEN NULL
        WHEN status = 'incomplete' THEN 'parent_unfinished'
        WHEN continuation IS NULL THEN 'items_added'
        ELSE 'no_response_id'
    END AS lost, response_id, binding, model, extract(epoch FROM response_expires_at)::float8 AS expires_at,
    context, token_count(usage->'total_tokens') AS total_tokens,
    ARRAY(
        SELECT coalesce(i.data->>'call_id', i.data->>'id', i.data->1->>'call_id') FROM items i
        WHERE i.project_id = :project_id AND i.bucket = :bucket AND i.turn_id = :turn_id AND i.origin = 'output'
            AND i.type = ANY(:call_types::text[])
            -- Without a call_id, the provider has executed a tool search itself.
            AND (i.type <> 'tool_search_call' OR coalesce(i.data->>'call_id', i.data->1->>'call_id') IS NOT NULL)
    ) AS open_calls
FROM turns WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id

-- forget_response --
-- Remembers that the provider does not know a turn's response id.
UPDATE turns SET response_unknown_at = now(), response_unknown_reason = :reason
WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id AND response_unknown_at IS NULL
RETURNING id

-- approvals -> ItemRow --
-- The approval requests of a branch, and the answers to them, in their order.
{_branch}
SELECT items.turn_id, items.position, items.type, items.item_id, items.data
FROM branch JOIN LATERAL (
    SELECT turn_id, position, type, item_id, data FROM items
    WHERE project_id = :project_id AND bucket = :bucket AND turn_id = branch.id
        AND type IN ('mcp_approval_request', 'mcp_approval_response') OFFSET 0
) items ON true
ORDER BY branch.depth DESC, items.position

-- pieces --
-- The pieces that calls of a thread can refer to, by their digests: in one row, since a long thread has many.
SELECT array_agg(digest) AS digests, array_agg(number) AS numbers FROM pieces
WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :thread_id
    AND (data IS NOT NULL OR media_id IS NOT NULL)

-- _page_of_items --
-- The branch that items are paged over, or one turn's input, and where the page begins. `reached` is true from the
-- cursor's turn on, towards the root. The argument is a condition on which the walk goes on.
WITH RECURSIVE cursor AS (
    -- OFFSET 0: by the index of item ids, though a new table looks as if those of the bucket were few.
    SELECT turn_id, position FROM (
        SELECT project_id, turn_id, position, origin FROM items WHERE bucket = :bucket AND item_id = :cursor OFFSET 0
    ) found WHERE project_id = :project_id AND (NOT :input_only::boolean OR origin = 'input')
), branch AS (
    SELECT id, parent_id, 0 AS depth, :cursor::text IS NULL OR id = (SELECT turn_id FROM cursor) AS reached
    FROM turns WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id
    UNION ALL
    SELECT t.id, t.parent_id, branch.depth + 1, branch.reached OR t.id = (SELECT turn_id FROM cursor)
    FROM branch CROSS JOIN LATERAL (
        SELECT id, parent_id FROM turns
        WHERE project_id = :project_id AND bucket = :bucket AND id = branch.parent_id AND NOT :input_only::boolean
        OFFSET 0
    ) t
    {1}
)

-- _first_bytes --
-- The first of some items, as far as they have no more than so many bytes, and one at least; of `candidates` in all. The
-- content of the cursor's own item is read only where it alone is asked for.
SELECT turn_id, position, type, item_id, candidates,
    CASE WHEN :limit = 1 OR item_id IS DISTINCT FROM :cursor THEN data END AS data
FROM (
    SELECT found.*, count(*) OVER () AS candidates,
        sum(size) FILTER (WHERE item_id IS DISTINCT FROM :cursor) OVER (ROWS UNBOUNDED PRECEDING) AS bytes
    FROM (
        SELECT less.turn_id, less.position, less.type, less.item_id, less.data, less.size
            + {_media_bytes | x.bucket = :bucket AND x.turn_id = less.turn_id AND x.position = less.position} AS size
        FROM ({1}) less
    ) found
) page WHERE bytes IS NULL OR bytes <= :most_bytes::int OR bytes = size

-- latest_items -> ItemRow --
-- A page of items from its cursor on, latest first. The cursor's own item is the first row; no row where it is none of
-- them. Turns are walked, and items are read, until there are as many as asked for and no further.
{_page_of_items}
{_first_bytes | SELECT branch.id AS turn_id, items.* FROM branch CROSS JOIN LATERAL (
    SELECT position, type, item_id, data, size FROM items
    WHERE branch.reached AND project_id = :project_id AND bucket = :bucket AND turn_id = branch.id
        AND (NOT :input_only OR origin = 'input')
        AND position <= coalesce((SELECT position FROM cursor WHERE turn_id = branch.id), 2147483647)
    ORDER BY position DESC LIMIT :limit
) items LIMIT :limit}

-- earliest_items -> ItemRow --
-- The same, earliest first. Turns are walked up to the cursor's, without a cursor all of the branch; items are read until
-- there are as many as asked for.
{_page_of_items | WHERE :cursor::text IS NULL OR NOT branch.reached}
{_first_bytes | SELECT walked.id AS turn_id, items.* FROM (
    SELECT id FROM branch
    WHERE :cursor::text IS NULL OR depth <= (SELECT min(depth) FROM branch WHERE reached)
    ORDER BY depth DESC
) walked CROSS JOIN LATERAL (
    SELECT position, type, item_id, data, size FROM items
    WHERE project_id = :project_id AND bucket = :bucket AND turn_id = walked.id
        AND (NOT :input_only OR origin = 'input')
        AND position >= coalesce((SELECT position FROM cursor WHERE turn_id = walked.id), 0)
    ORDER BY position LIMIT :limit
) items LIMIT :limit}

-- _page_of_turns --
-- The branch that ends with a turn. `reached` is true from the cursor on, towards the root. The argument is a condition on
-- which the walk goes on.
WITH RECURSIVE branch AS (
    SELECT id, parent_id, 0 AS depth, :cursor::uuid IS NULL OR id = :cursor AS reached
    FROM turns WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id
    UNION ALL
    SELECT t.id, t.parent_id, branch.depth + 1, branch.reached OR t.id = :cursor
    FROM branch CROSS JOIN LATERAL (
        SELECT id, parent_id FROM turns
        WHERE project_id = :project_id AND bucket = :bucket AND id = branch.parent_id OFFSET 0
    ) t
    {1}
)

-- latest_turns --
-- A page of a branch's turns from a turn on, latest first. No row where the branch does not have that turn. Turns are
-- walked until there are as many as asked for.
{_page_of_turns}
SELECT id FROM branch WHERE reached LIMIT :limit

-- earliest_turns --
-- The same, earliest first. Turns are walked up to the cursor, without one all of the branch.
{_page_of_turns | WHERE :cursor::uuid IS NULL OR NOT branch.reached}
SELECT id FROM branch WHERE EXISTS (SELECT FROM branch WHERE reached)
ORDER BY depth DESC LIMIT :limit

-- _links --
-- How turns reached the model.
SELECT t.id, t.seq, t.parent_id, t.created_at, t.status, t.continuation, t.continuation_reason, t.model, t.binding,
    t.response_id, t.response_created_at, t.response_expires_at, t.response_unknown_at, t.context
FROM turns t WHERE t.project_id = :project_id AND t.bucket = :bucket

-- chain -> LinkRow --
-- Turns of one thread by their ids.
{_links} AND t.id = ANY(:turn_ids::uuid[])

-- links_after -> LinkRow --
-- A page of all turns of a thread, from a number on upwards.
{_links} AND t.thread_id = :thread_id AND t.deleted_at IS NULL AND t.seq > coalesce(:seq::int, 0)
ORDER BY t.seq LIMIT :limit

-- links_before -> LinkRow --
-- The same, from a number on downwards.
{_links} AND t.thread_id = :thread_id AND t.deleted_at IS NULL AND t.seq < coalesce(:seq::int, 2147483647)
ORDER BY t.seq DESC LIMIT :limit

-- last_messages -> ItemRow --
-- The last message in the input of each turn, unless it is longer than a number of bytes.
SELECT i.turn_id, i.position, i.type, i.item_id, i.data
FROM unnest(:turn_ids::uuid[]) AS wanted (id) CROSS JOIN LATERAL (
    SELECT turn_id, position, type, item_id, data, size FROM items
    WHERE project_id = :project_id AND bucket = :bucket AND turn_id = wanted.id AND origin = 'input'
        AND type = 'message'
    ORDER BY position DESC LIMIT 1
) i WHERE i.size <= :most_bytes::int

-- _turn_columns --
    t.id, t.thread_id, t.parent_id, t.status, t.continuation, t.continuation_reason, t.model, t.params, t.metadata, t.ignored, t.created_at,
    t.completed_at, t.response, t.usage, t.cost, t.error, t.error_status, t.incomplete_details, t.context, t.binding, t.seq,
    (t.pace->'ms'->>0)::int AS first_word_ms

-- _bytes --
-- The bytes of a JSON column as it is read. A large compressed one is not decompressed for this: it counts as much as it
-- may hold.
CASE WHEN {1} IS NULL THEN 0 WHEN pg_column_compression({1}) IS NULL THEN pg_column_size({1})
    WHEN pg_column_size({1}) < 65536 THEN octet_length({1}::text) ELSE 256::bigint * pg_column_size({1}) END

-- _page_of_rows --
-- The first of some turns, as far as their documents have no more than so many bytes, and one at least; of `candidates`
-- in all.
SELECT * FROM (
    SELECT found.*, count(*) OVER () AS candidates,
        sum(size) OVER (ROWS UNBOUNDED PRECEDING)::bigint AS bytes
    FROM (
        SELECT {_turn_columns},
            {_bytes | t.params}
            + {_bytes | t.response}
            + {_bytes | t.error} AS size
        FROM turns t WHERE t.project_id = :project_id AND t.deleted_at IS NULL
            AND {1} LIMIT :limit
    ) found
) page WHERE bytes <= :most_bytes::int OR bytes = size

-- sizes --
-- The bytes of turns: of their items, and with their `documents`.
SELECT wanted.id, t.size + CASE WHEN :documents::boolean THEN
        {_bytes | t.params}
        + {_bytes | t.response}
        + {_bytes | t.error}
        + {_bytes | t.pace}
    ELSE 0 END AS size
FROM unnest(:buckets::smallint[], :turn_ids::uuid[]) AS wanted (bucket, id) CROSS JOIN LATERAL (
    SELECT params, response, error, pace, (
        SELECT coalesce(sum(size), 0) FROM items
        WHERE project_id = :project_id AND bucket = t.bucket AND turn_id = t.id
    ) + {_media_bytes | x.bucket = t.bucket AND x.turn_id = t.id} AS size
    FROM turns t WHERE project_id = :project_id AND bucket = wanted.bucket AND id = wanted.id OFFSET 0
) t

-- get_turn -> TurnRow --
-- A turn by its id; for an end user, one of the user's own.
SELECT {_turn_columns} FROM turns t
WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = :turn_id AND t.deleted_at IS NULL
    AND (:thread_id::uuid IS NULL OR t.thread_id = :thread_id)
    AND (:of_user::text IS NULL OR EXISTS (
        SELECT FROM threads th WHERE th.project_id = :project_id AND th.bucket = :bucket AND th.id = t.thread_id
            AND th.user_id = :of_user
    ))

-- turns -> TurnRow --
-- Turns of one thread by their ids, with their pace.
SELECT {_turn_columns}, t.pace FROM turns t
WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = ANY(:turn_ids::uuid[]) AND t.deleted_at IS NULL

-- calls --
-- Every attempt at the provider for a turn, its body in pieces.
SELECT c.turn_id, c.attempt, c.continuation, c.continuation_reason, c.url, c.frames, c.refs, c.dropped_items, c.status, c.response_id, c.error,
    c.started_at, c.finished_at, t.thread_id, t.binding
FROM calls c JOIN turns t ON t.project_id = c.project_id AND t.bucket = c.bucket AND t.id = c.turn_id
WHERE c.project_id = :project_id AND c.bucket = :bucket AND c.turn_id = :turn_id ORDER BY c.attempt

-- sent_input --
-- A turn's input in the very bytes that were sent.
SELECT turn_id, position, data::text AS data FROM items
WHERE project_id = :project_id AND bucket = :bucket AND turn_id = :turn_id AND origin = 'input'

-- sent_pieces --
-- Pieces that calls of a thread refer to, as far as they are still there.
SELECT p.thread_id, p.number, p.digest, p.data, p.media_id, m.data AS media FROM pieces p
LEFT JOIN media m ON m.project_id = :project_id AND m.bucket = :bucket AND m.id = p.media_id
WHERE p.project_id = :project_id AND p.bucket = :bucket AND p.thread_id = :thread_id
    AND p.number BETWEEN :first::int AND :last::int AND (p.data IS NOT NULL OR m.data IS NOT NULL)

-- branches -> BranchRow --
-- The turns of a thread that none continues, latest first, from a number downwards. A fork that has no turn of its own
-- yet ends where it was forked.
SELECT t.id, t.status, t.created_at FROM turns t
JOIN threads th ON th.project_id = :project_id AND th.bucket = :bucket AND th.id = :thread_id
WHERE t.project_id = :project_id AND t.bucket = :bucket AND (t.thread_id = :thread_id OR t.id = th.forked_turn_id)
    AND t.deleted_at IS NULL AND (:before::int IS NULL OR t.seq < :before)
    AND NOT EXISTS (
        SELECT FROM turns c WHERE c.project_id = :project_id AND c.bucket = :bucket AND c.parent_id = t.id
            AND c.thread_id = :thread_id AND c.deleted_at IS NULL
    )
ORDER BY t.seq DESC LIMIT :limit

-- number_of_turn --
-- A turn's number in its thread, deleted or not.
SELECT seq FROM turns WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id

-- items -> ItemRow --
-- The items of turns of one thread.
SELECT turn_id, position, origin, type, item_id, data FROM items
WHERE project_id = :project_id AND bucket = :bucket AND turn_id = ANY(:turn_ids::uuid[])
ORDER BY turn_id, position

-- items_of_many -> ItemRow --
-- The items of turns of many threads.
SELECT i.turn_id, i.position, i.origin, i.type, i.item_id, i.data
FROM unnest(:buckets::smallint[], :turn_ids::uuid[]) AS wanted (bucket, id)
JOIN items i ON i.project_id = :project_id AND i.bucket = wanted.bucket AND i.turn_id = wanted.id
ORDER BY i.turn_id, i.position

-- referenced -> ReferencedRow --
-- Items by their ids, wherever in the project; those in the thread's own history are `within` it, and come last.
SELECT i.turn_id, i.position, i.type, i.item_id, i.data, :thread_id::uuid IS NOT NULL AND t.bucket = :bucket::smallint AND (
    t.thread_id = :thread_id OR in_history(:project_id, :bucket::smallint, :thread_id, t.id)
) AS within
FROM items i JOIN turns t ON t.project_id = i.project_id AND t.bucket = i.bucket AND t.id = i.turn_id
WHERE i.project_id = :project_id AND i.item_id = ANY(:item_ids::text[]) AND t.deleted_at IS NULL
ORDER BY within

-- closed_as --
-- How a turn was closed.
SELECT status, response_id FROM turns WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id

-- same_key -> KeyRow --
-- The turn with an Idempotency-Key where the request goes, and whether it is older than a key holds.
SELECT id, body_hash, status, error_status, created_at < now() - :holds_seconds::float8 * interval '1 second' AS old
FROM turns
WHERE project_id = :project_id AND bucket = :bucket AND key_scope = :scope AND idempotency_key = :idempotency_key

-- free_key --
-- Lets the next request with an Idempotency-Key be a new one. A turn that still runs keeps it: it may be answered yet.
UPDATE turns SET idempotency_key = NULL, key_scope = NULL
WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id AND idempotency_key = :idempotency_key
    AND completed_at IS NOT NULL
RETURNING id

-- client_left --
-- Its client went away before the first byte of an answer: the turn has been given to nobody.
UPDATE turns SET client_left_at = now() WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id
RETURNING id

-- claim_first_attempt --
-- The turn that an automatic retry repeats, claimed for it: of two retries at once, one finds it. Only what its own
-- client has left, what is the last that was opened in the thread, and what runs or is its head; anything else may be
-- another request in the same words.
UPDATE turns t SET client_left_at = NULL FROM threads th
WHERE th.project_id = :project_id AND th.bucket = :bucket AND th.id = :thread_id
    AND t.project_id = :project_id AND t.bucket = :bucket AND t.thread_id = th.id AND t.seq = th.last_seq
    AND t.body_hash = :body_hash AND t.api_key_id = :api_key_id AND t.idempotency_key IS NULL
    AND t.client_left_at IS NOT NULL AND (t.completed_at IS NULL OR t.id = th.head_turn_id)
    AND (:parent_id::uuid IS NULL OR t.parent_id = :parent_id) AND (:of_user::text IS NULL OR th.user_id = :of_user)
    AND t.created_at > now() - :within_seconds::float8 * interval '1 second' AND t.deleted_at IS NULL
RETURNING t.id

-- request_cancel --
-- Asks the worker that runs a turn, whichever it is, to stop it.
UPDATE turns SET cancel_requested_at = now()
WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id AND completed_at IS NULL
RETURNING id

-- cancelled --
-- Which of a worker's turns are to be stopped.
SELECT t.id FROM unnest(:project_ids::uuid[], :buckets::smallint[], :turn_ids::uuid[]) AS mine (project_id, bucket, id)
JOIN turns t ON t.project_id = mine.project_id AND t.bucket = mine.bucket AND t.id = mine.id
WHERE t.cancel_requested_at IS NOT NULL AND t.completed_at IS NULL

-- renew_leases -> LeaseRow --
-- By id, and not all of the worker's: a turn that it does not run, because the confirmation of its opening was lost,
-- would stay in progress forever.
UPDATE turns t SET lease_expires_at = now() + :lease_seconds::float8 * interval '1 second'
FROM unnest(:project_ids::uuid[], :buckets::smallint[], :turn_ids::uuid[]) AS mine (project_id, bucket, id)
WHERE t.project_id = mine.project_id AND t.bucket = mine.bucket AND t.id = mine.id
    AND t.worker_id = :worker_id AND t.status = 'in_progress'
RETURNING t.id, t.cancel_requested_at IS NOT NULL AS cancel

-- expired --
-- Turns whose lease has run out, for whoever takes them.
SELECT project_id, bucket, id, lease_expires_at FROM turns
WHERE status = 'in_progress' AND lease_expires_at < now()
ORDER BY lease_expires_at LIMIT 20

-- take_expired -> ExpiredRow --
-- Takes over such a turn, as it was seen: of two workers, one gets it.
UPDATE turns t SET worker_id = :worker_id, lease_expires_at = now() + :lease_seconds::float8 * interval '1 second'
WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = :turn_id AND t.status = 'in_progress'
    AND t.lease_expires_at = :seen
RETURNING t.project_id, t.id, t.thread_id, t.salt, t.cancel_requested_at IS NOT NULL AS cancel

-- queue --
-- Takes a place in a busy thread's queue for some seconds, or keeps it for that long. No row where it is full.
INSERT INTO waiters (project_id, bucket, thread_id, id, expires_at)
SELECT :project_id::uuid, :bucket::smallint, :thread_id, :ticket, now() + :seconds::float8 * interval '1 second'
WHERE (
    SELECT count(*) FROM waiters
    WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :thread_id AND id <> :ticket
        AND expires_at > now()
) < :limit::int
ON CONFLICT (project_id, bucket, thread_id, id) DO UPDATE SET expires_at = excluded.expires_at RETURNING id

-- leave_queue --
-- Gives up a place in the queue, and clears those of the dead.
DELETE FROM waiters
WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :thread_id
    AND (id = :ticket OR expires_at < now())
RETURNING id

-- active_turn --
-- The turn in progress that will move a thread's head.
SELECT id FROM turns
WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :thread_id AND beside = 0
    AND status = 'in_progress'

-- find_thread --
-- A thread's id and head. By a name it is found only as long as it has it, and for an end user only if it is the user's.
SELECT id, head_turn_id, title, name FROM threads
WHERE project_id = :project_id AND bucket = :bucket AND id = :thread_id AND (:name::text IS NULL OR name = :name)
    AND (:of_user::text IS NULL OR user_id = :of_user)

-- thread_of_turn --
-- The same, of the thread that a turn was made in.
SELECT th.id, th.head_turn_id, th.title, th.name FROM threads th
WHERE th.project_id = :project_id AND th.bucket = :bucket AND th.id = (
    SELECT t.thread_id FROM turns t
    WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = :turn_id AND t.deleted_at IS NULL
) AND (:thread_id::uuid IS NULL OR th.id = :thread_id) AND (:of_user::text IS NULL OR th.user_id = :of_user)

-- turns_after -> TurnPageRow --
-- A page of a thread's turns, from a number on upwards.
{_page_of_rows | t.bucket = :bucket AND t.thread_id = :thread_id AND t.seq > coalesce(:seq::int, 0) ORDER BY t.seq}

-- responses -> TurnPageRow --
-- A page of a project's responses, the latest first, from a moment downwards.
{_page_of_rows
    | t.arrived_at IS NOT NULL AND t.arrived_at <= coalesce(:arrived_at, 'infinity'::timestamptz)
    AND (t.arrived_at, t.id) < (
        coalesce(:arrived_at, 'infinity'::timestamptz), coalesce(:turn_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
    )
    AND t.model <> ''
    ORDER BY t.arrived_at DESC, t.id DESC}

-- arrived_at --
-- When a turn arrived, deleted or not.
SELECT arrived_at FROM turns WHERE project_id = :project_id AND bucket = :bucket AND id = :turn_id

-- turns_before -> TurnPageRow --
-- A page of a thread's turns, from a number on downwards.
{_page_of_rows
    | t.bucket = :bucket AND t.thread_id = :thread_id AND t.seq < coalesce(:seq::int, 2147483647) ORDER BY t.seq DESC}

-- first_running --
-- The number of the first turn of a thread that is in progress.
SELECT min(t.seq) FROM turns t
WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.thread_id = :thread_id AND t.status = 'in_progress'

-- deleted_turns --
-- The records of deletions in a thread's chain, behind a number.
SELECT r.seq, r.turn_id FROM audit_records r
WHERE r.project_id = :project_id AND r.bucket = :bucket AND r.chain_id = :thread_id AND r.seq > :seq
    AND r.action IN ('turn.deleted', 'turn.purged')
ORDER BY r.seq LIMIT :limit

"""The SQL of turns, named for what it does. Each statement is a transaction of its own, and names the project."""

# The thread's row is locked, so that the head which is read here is the one that the last turn left:
# its closing either has committed, or turns_one_active_per_thread refuses this turn.
_OPEN_TURN = """
WITH thread AS (
    {thread}
), turn AS (
    INSERT INTO turns (
        project_id, id, thread_id, parent_id, status, model, params, metadata, ignored, worker_id, lease_expires_at,
        api_key_id, idempotency_key, key_scope, body_hash, salt
    )
    SELECT $1, $3, thread.id, CASE WHEN NOT $25 THEN coalesce($4, thread.head_turn_id) END, 'in_progress', $5,
        $6::text::json, $7::text::jsonb, $8::text[], $9, now() + $10::float8 * interval '1 second', $14, $15,
        CASE WHEN $15::text IS NOT NULL THEN {scope} END, $16, $18
    FROM thread
    WHERE ($4::uuid IS NULL OR EXISTS (
        SELECT FROM turns p
        WHERE p.project_id = $1 AND p.id = $4 AND p.deleted_at IS NULL
            AND (p.thread_id = thread.id OR in_history($1, thread.id, p.id))
    )) AND ($17::uuid IS NULL OR NOT EXISTS (
        SELECT FROM waiters w
        WHERE w.project_id = $1 AND w.thread_id = thread.id AND w.id < $17 AND w.expires_at > now()
    ))
    RETURNING parent_id, created_at
), item AS (
    INSERT INTO items (project_id, turn_id, position, origin, type, item_id, data)
    SELECT $1, $3, i.position - 1, 'input', i.type, i.item_id, i.data::json
    FROM turn, unnest($11::text[], $12::text[], $13::text[]) WITH ORDINALITY AS i (type, item_id, data, position)
), text AS (
    INSERT INTO texts (project_id, turn_id, role, document)
    SELECT $1, $3, x.role, x.document::tsvector FROM turn, unnest($23::text[], $24::text[]) AS x (role, document)
), audit AS (
    INSERT INTO audit_records (project_id, chain_id, id, action, turn_id, key_id, user_id, address, content)
    SELECT $1, thread.id, r.id, r.action, CASE WHEN r.action = 'turn.opened' THEN $3 END, $14,
        coalesce(thread.user_id, $26::text), $19, r.content
    FROM turn CROSS JOIN thread CROSS JOIN unnest($20::uuid[], $21::text[], $22::bytea[])
        WITH ORDINALITY AS r (id, action, content, place)
    ORDER BY r.place
)
SELECT thread.id AS thread_id, turn.parent_id, turn.created_at,
    turn.parent_id IS NOT NULL AND response_forgotten($1, turn.parent_id) AS parent_forgotten,
    $4::uuid IS NULL OR EXISTS (
        SELECT FROM turns p
        WHERE p.project_id = $1 AND p.id = $4 AND p.deleted_at IS NULL
            AND (p.thread_id = thread.id OR in_history($1, thread.id, p.id))
    ) AS parent_found
FROM thread LEFT JOIN turn ON true
"""
_LOCKED = "SELECT id, head_turn_id, user_id FROM threads WHERE project_id = $1 AND {by} FOR NO KEY UPDATE"
ITS_THREAD = "(SELECT thread_id FROM turns WHERE project_id = $1 AND id = $2 AND deleted_at IS NULL)"

# An Idempotency-Key belongs to what its request addresses: a thread, or the project where it makes one.
OPEN_TURN = _OPEN_TURN.format(scope="thread.id", thread=_LOCKED.format(by="id = $2"))
OPEN_TURN_BY_NAME = _OPEN_TURN.format(scope="thread.id", thread=_LOCKED.format(by="name = $2"))
OPEN_TURN_AFTER_TURN = _OPEN_TURN.format(scope="thread.id", thread=_LOCKED.format(by=f"id = {ITS_THREAD}"))
OPEN_TURN_IN_NEW_THREAD = _OPEN_TURN.format(
    scope="$1",
    thread="""
    INSERT INTO threads (project_id, id, salt, user_id) VALUES ($1, $2, $18, $26) RETURNING id, head_turn_id, user_id
    """,
)

# Everything that a turn leaves behind, in one transaction. It names the state it leaves: a turn that somebody
# else has closed stays as it is, and no row comes back. (By completed_at, which a check ties to the status: by the
# status, turns_one_active_per_thread could be read, with an entry for every turn that has ended since the last vacuum.)
# The thread's row is locked before the turn's, as by everybody: who deletes a thread would wait for its turn else,
# and the turn for its thread.
CLOSE_TURN = """
WITH held AS (
    SELECT id FROM threads
    WHERE project_id = $1 AND id = coalesce($36, (SELECT thread_id FROM turns WHERE project_id = $1 AND id = $2))
    FOR NO KEY UPDATE
), turn AS (
    UPDATE turns SET
        status = $3, continuation = $4, response = $5::text::json, usage = $6::text::json, error = $7::text::json,
        incomplete_details = $8::text::json, binding = $9, response_id = $10, response_created_at = $11,
        response_expires_at = $12, completed_at = clock_timestamp(), lease_expires_at = NULL, error_status = $26,
        pace = $35::text::json
    FROM held WHERE turns.project_id = $1 AND turns.id = $2 AND completed_at IS NULL
    RETURNING turns.thread_id, turns.completed_at
), item AS (
    INSERT INTO items (project_id, turn_id, position, origin, type, item_id, data)
    SELECT $1, $2, $13 + i.position - 1, 'output', i.type, i.item_id, i.data::json
    FROM turn, unnest($14::text[], $15::text[], $16::text[]) WITH ORDINALITY AS i (type, item_id, data, position)
), call AS (
    INSERT INTO calls (
        project_id, turn_id, attempt, continuation, url, body, dropped_items, status, response_id, error,
        started_at, finished_at
    )
    SELECT $1, $2, c.attempt, c.continuation, c.url, c.body::json, c.dropped_items, c.status, c.response_id,
        c.error::json, c.started_at, c.finished_at
    FROM turn, unnest(
        $17::text[], $18::text[], $19::text[], $20::int[], $21::int[], $22::text[], $23::text[],
        $24::timestamptz[], $25::timestamptz[]
    ) WITH ORDINALITY AS c (
        continuation, url, body, dropped_items, status, response_id, error, started_at, finished_at, attempt
    )
), text AS (
    INSERT INTO texts (project_id, turn_id, role, document)
    SELECT $1, $2, x.role, x.document::tsvector FROM turn, unnest($33::text[], $34::text[]) AS x (role, document)
    -- The input may have held words of the assistant's already.
    ON CONFLICT (project_id, turn_id, role) DO UPDATE SET document = texts.document || excluded.document
), thread AS (
    UPDATE threads SET
        head_turn_id = CASE WHEN $3 = 'failed' THEN head_turn_id ELSE $2 END,
        turn_count = turn_count + 1, updated_at = now()
    WHERE threads.project_id = $1 AND threads.id = (SELECT thread_id FROM turn)
    RETURNING threads.id, threads.user_id
), audit AS (
    -- After the thread's row, whose lock everybody takes first.
    INSERT INTO audit_records (project_id, chain_id, id, action, turn_id, key_id, user_id, address, detail, content)
    SELECT $1, thread.id, r.id, r.action, $2, $27, thread.user_id, $28, r.detail, r.content
    FROM thread CROSS JOIN unnest($29::uuid[], $30::text[], $31::text[], $32::bytea[])
        WITH ORDINALITY AS r (id, action, detail, content, place)
    ORDER BY r.place
)
SELECT completed_at FROM turn
"""

PARENT = """
SELECT response_id, binding, model, extract(epoch FROM response_expires_at)::float8 AS expires_at,
    token_count(usage->'total_tokens') AS context_tokens,
    ARRAY(
        SELECT coalesce(i.data->>'call_id', i.data->>'id') FROM items i
        WHERE i.project_id = $1 AND i.turn_id = $2 AND i.origin = 'output' AND i.type = ANY($3::text[])
    ) AS open_calls
FROM turns
WHERE project_id = $1 AND id = $2 AND status IN ('completed', 'incomplete')
    AND response_expires_at IS NOT NULL AND response_unknown_at IS NULL
"""

FORGET_RESPONSE = """
UPDATE turns SET response_unknown_at = now() WHERE project_id = $1 AND id = $2 AND response_unknown_at IS NULL
RETURNING id
"""

# OFFSET 0: each turn is looked up by its own key, though a new table looks as if reading it whole were cheaper.
_BRANCH = """
WITH RECURSIVE branch AS (
    SELECT id, parent_id, 0 AS depth FROM turns WHERE project_id = $1 AND id = $2
    UNION ALL
    SELECT t.id, t.parent_id, branch.depth + 1
    FROM branch CROSS JOIN LATERAL (
        SELECT id, parent_id FROM turns WHERE project_id = $1 AND id = branch.parent_id{bound} OFFSET 0
    ) t
)
"""
BRANCH = _BRANCH.format(bound="")
_END_OF_BRANCH = _BRANCH.format(bound=" AND ($3::int IS NULL OR branch.depth < $3 - 1)")

HISTORY = (
    BRANCH  # noqa: S608
    + """
SELECT items.type, items.item_id, items.data
FROM branch CROSS JOIN LATERAL (
    SELECT type, item_id, data, position FROM items WHERE project_id = $1 AND turn_id = branch.id OFFSET 0
) items
ORDER BY branch.depth DESC, items.position
"""
)

# The last $3 turns of a branch, read from its end: a page of a long thread costs what the page holds. `more` says
# whether others come before them. A turn whose items were all deleted has a row without one.
MESSAGES = (
    _END_OF_BRANCH  # noqa: S608
    + """
SELECT branch.id AS turn_id, items.type, items.item_id, items.data,
    (SELECT parent_id IS NOT NULL FROM branch ORDER BY depth DESC LIMIT 1) AS more
FROM branch LEFT JOIN LATERAL (
    SELECT type, item_id, data, position FROM items WHERE project_id = $1 AND turn_id = branch.id OFFSET 0
) items ON true
ORDER BY branch.depth DESC, items.position
"""
)

TURN_COLUMNS = """
    t.id, t.thread_id, t.parent_id, t.status, t.continuation, t.model, t.params, t.metadata, t.ignored, t.created_at,
    t.completed_at, t.response, t.usage, t.error, t.error_status, t.incomplete_details
"""

CHAIN = (
    BRANCH  # noqa: S608
    + """
SELECT t.id, t.parent_id, t.status, t.continuation, t.model, t.binding, t.response_id, t.response_created_at,
    t.response_expires_at, t.response_unknown_at
FROM branch CROSS JOIN LATERAL (SELECT * FROM turns WHERE project_id = $1 AND id = branch.id OFFSET 0) t
ORDER BY branch.depth DESC
"""
)

GET_TURN = f"SELECT {TURN_COLUMNS} FROM turns t WHERE t.project_id = $1 AND t.id = $2 AND t.deleted_at IS NULL"  # noqa: S608

TURNS = f"""
SELECT {TURN_COLUMNS}, t.pace FROM turns t WHERE t.project_id = $1 AND t.id = ANY($2::uuid[]) AND t.deleted_at IS NULL
"""  # noqa: S608

CALLS = """
SELECT attempt, continuation, url, body::text AS body, dropped_items, status, response_id, error, started_at,
    finished_at
FROM calls WHERE project_id = $1 AND turn_id = $2 ORDER BY attempt
"""

# A fork that has no turn of its own yet ends where it was forked.
BRANCHES = """
SELECT t.id, t.status, t.created_at FROM turns t JOIN threads th ON th.project_id = $1 AND th.id = $2
WHERE t.project_id = $1 AND (t.thread_id = $2 OR t.id = th.forked_turn_id)
    AND t.deleted_at IS NULL AND ($3::uuid IS NULL OR t.id < $3)
    AND NOT EXISTS (
        SELECT FROM turns c WHERE c.project_id = $1 AND c.parent_id = t.id AND c.thread_id = $2 AND c.deleted_at IS NULL
    )
ORDER BY t.id DESC LIMIT $4
"""

IN_HISTORY = "SELECT in_history($1, $2, $3) AS found"

ITEMS = """
SELECT turn_id, origin, type, item_id, data FROM items WHERE project_id = $1 AND turn_id = ANY($2::uuid[])
ORDER BY turn_id, position
"""

# Items by their ids, with where they are. `within` is whether the thread of $3 has them in its history already.
REFERENCED = """
SELECT i.type, i.item_id, i.data, $3::uuid IS NOT NULL AND (
    t.thread_id = $3 OR in_history($1, $3, t.id)
) AS within
FROM items i JOIN turns t ON t.project_id = i.project_id AND t.id = i.turn_id
WHERE i.project_id = $1 AND i.item_id = ANY($2::text[]) AND t.deleted_at IS NULL
"""

CLOSED_AS = "SELECT status, response_id FROM turns WHERE project_id = $1 AND id = $2"

SAME_KEY = """
SELECT id, body_hash, status, error_status, created_at < now() - $4::float8 * interval '1 second' AS old
FROM turns WHERE project_id = $1 AND key_scope = {scope} AND idempotency_key = $3
"""

# A turn that still runs keeps its key: it may be answered yet.
FREE_KEY = """
UPDATE turns SET idempotency_key = NULL, key_scope = NULL
WHERE project_id = $1 AND id = $2 AND idempotency_key = $3 AND completed_at IS NOT NULL RETURNING id
"""

# Its client went away before the first byte of an answer: the turn has been given to nobody.
CLIENT_LEFT = "UPDATE turns SET client_left_at = now() WHERE project_id = $1 AND id = $2 RETURNING id"

# The turn that an automatic retry repeats, claimed for it: of two retries at once, one finds it. Only what its own
# client has left, what is the last that was opened in the thread, and what runs or is its head; anything else may be
# another request in the same words. ($6 is an id of before that time, for the index.)
CLAIM_FIRST_ATTEMPT = """
UPDATE turns t SET client_left_at = NULL FROM threads th
WHERE th.project_id = $1 AND th.{by} AND t.project_id = $1 AND t.thread_id = th.id AND t.id >= $6
    AND t.body_hash = $3 AND t.api_key_id = $4 AND t.idempotency_key IS NULL AND t.client_left_at IS NOT NULL
    AND (t.completed_at IS NULL OR t.id = th.head_turn_id) AND ($5::uuid IS NULL OR t.parent_id = $5)
    AND t.created_at > now() - $7::float8 * interval '1 second' AND t.deleted_at IS NULL
    AND NOT EXISTS (
        SELECT FROM turns n WHERE n.project_id = $1 AND n.thread_id = th.id AND n.id >= $6
            AND n.created_at > t.created_at
    )
RETURNING t.id
"""

CANCEL_CHANNEL = "everthread_cancel"

REQUEST_CANCEL = f"""
WITH turn AS (
    UPDATE turns SET cancel_requested_at = now() WHERE project_id = $1 AND id = $2 AND completed_at IS NULL
    RETURNING id
)
SELECT pg_notify('{CANCEL_CHANNEL}', id::text) FROM turn
"""  # noqa: S608

# By name, and not all of the worker's: one that it does not run, its opening's confirmation having been lost,
# would be in progress for ever.
RENEW_LEASES = """
UPDATE turns SET lease_expires_at = now() + $2::float8 * interval '1 second'
WHERE worker_id = $1 AND status = 'in_progress' AND id = ANY($3::uuid[])
RETURNING id, cancel_requested_at IS NOT NULL AS cancel
"""

TAKE_EXPIRED = """
UPDATE turns t SET worker_id = $1, lease_expires_at = now() + $2::float8 * interval '1 second'
FROM (
    SELECT project_id, id FROM turns
    WHERE status = 'in_progress' AND lease_expires_at < now()
    ORDER BY lease_expires_at LIMIT 20 FOR UPDATE SKIP LOCKED
) expired
WHERE t.project_id = expired.project_id AND t.id = expired.id
RETURNING t.project_id, t.id, t.thread_id, t.salt, t.cancel_requested_at IS NOT NULL AS cancel,
    (SELECT count(*) FROM items i WHERE i.project_id = t.project_id AND i.turn_id = t.id)::int AS input_items
"""

QUEUE = """
INSERT INTO waiters (project_id, thread_id, id, expires_at)
SELECT $1, $2, $3, now() + $4::float8 * interval '1 second'
WHERE (
    SELECT count(*) FROM waiters WHERE project_id = $1 AND thread_id = $2 AND id <> $3 AND expires_at > now()
) < $5::int
ON CONFLICT (project_id, thread_id, id) DO UPDATE SET expires_at = excluded.expires_at RETURNING id
"""

LEAVE_QUEUE = """
DELETE FROM waiters WHERE project_id = $1 AND thread_id = $2 AND (id = $3 OR expires_at < now()) RETURNING id
"""

ACTIVE_TURN = "SELECT id FROM turns WHERE project_id = $1 AND thread_id = $2 AND status = 'in_progress'"

FIND_THREAD = "SELECT id, head_turn_id, coalesce(title, name) AS title FROM threads WHERE project_id = $1 AND {by}"

"""Data of any size, written straight into Postgres: as the service would have left it, without its triggers' work."""

from uuid import UUID

import asyncpg

from app.db.buckets import DATABASE_KEY, Buckets

THREADS = """
WITH made AS (
    SELECT n, uuidv7(n * interval '1 second' - interval '30 days') AS id,
        now() - interval '30 days' + n * interval '1 second' AS at
    FROM generate_series($2::int, $3::int) n
), thread AS (
    INSERT INTO threads (project_id, bucket, id, name, title, user_id, trail_key, created_at, updated_at, arrived_at)
    SELECT $1, bucket_of(id), id, 'bench-' || n, 'Thread number ' || n, 'user-' || n % 1000, p.trail_key, at, at, at
    FROM made JOIN projects p ON p.project_id = $1
    RETURNING bucket, id, arrived_at, name
), activity AS (
    INSERT INTO thread_activity (project_id, bucket, thread_id, active_at) SELECT $1, bucket, id, arrived_at FROM thread
)
SELECT id, name FROM thread
"""

# Words as unevenly used as those of a language: the first of 20,000 in most texts, the last hardly ever.
TURNS = """
WITH made AS (
    SELECT t.n / $4 AS thread, t.n,
        (SELECT string_agg('word' || floor(20000 * power(random(), 4))::int, ' ') FROM generate_series(1, 20 + t.n * 0))
            AS asked,
        (SELECT string_agg('word' || floor(20000 * power(random(), 4))::int, ' ') FROM generate_series(1, 20 + t.n * 0))
            AS said
    FROM generate_series($2::int, $3::int) AS t (n)
), placed AS (
    -- The id of a turn ends like its thread's, in the ten bits of the bucket.
    SELECT made.*, th.id AS thread_id, th.bucket, (
        left(uuidv7((made.n::float8 / $6 - 1) * interval '60 days')::text, 32)
        || lpad(to_hex((floor(64 * random())::int << 10) | th.bucket), 4, '0')
    )::uuid AS id
    FROM made JOIN threads th ON th.project_id = $1 AND th.name = $5 || made.thread
), threaded AS (
    SELECT placed.*, lag(id) OVER (PARTITION BY thread ORDER BY n) AS parent_id,
        row_number() OVER (PARTITION BY thread ORDER BY n) AS seq
    FROM placed
), turn AS (
    INSERT INTO turns (project_id, bucket, id, thread_id, seq, parent_id, status, continuation, model, params,
        created_at, completed_at, response, usage, binding, response_id)
    SELECT $1, bucket, id, thread_id, seq, parent_id, 'completed', 'chained', 'qwen3.5-plus', '{}', now(), now(), '{}',
        '{"input_tokens": 30, "output_tokens": 30, "total_tokens": 60}', 'benchmark', 'resp_' || id
    FROM threaded
), item AS (
    INSERT INTO items (project_id, bucket, turn_id, position, origin, type, item_id, data)
    SELECT $1, bucket, id, p.position, p.origin, 'message', 'msg_' || p.position || '_' || id, CASE p.position
        WHEN 0 THEN json_build_object('type', 'message', 'role', 'user', 'content', asked)
        ELSE json_build_object('type', 'message', 'id', 'msg_1_' || id, 'role', 'assistant', 'status', 'completed',
            'content', json_build_array(
                json_build_object('type', 'output_text', 'text', said, 'annotations', '[]'::json)
            ))
        END
    FROM threaded CROSS JOIN (VALUES (0, 'input'), (1, 'output')) AS p (position, origin)
), head AS (
    SELECT DISTINCT ON (thread_id) thread_id, id, count(*) OVER (PARTITION BY thread_id) AS turns
    FROM threaded ORDER BY thread_id, n DESC
)
UPDATE threads th SET head_turn_id = head.id, turn_count = head.turns, last_seq = head.turns
FROM head WHERE th.project_id = $1 AND th.id = head.thread_id
"""

# By the function: it is what makes the chain.
RECORDS = """
SELECT count(append_records_v2($1, bucket_of(chain.id), chain.id, NULL, chain.key_id, '127.0.0.1',
    array_fill('thread.changed'::text, ARRAY[$4::int]), array_fill(NULL::uuid, ARRAY[$4::int]),
    array_fill('title'::text, ARRAY[$4::int]), array_fill(NULL::bytea, ARRAY[$4::int])))
FROM (SELECT uuidv7() AS id, uuidv7() AS key_id FROM generate_series($2::int, $3::int) AS c) AS chain
"""

BATCH = 50_000


class Filler:
    def __init__(self, connection: asyncpg.Connection, project_id: UUID) -> None:
        self._connection = connection
        self._project_id = project_id

    async def threads(self, first: int, last: int) -> None:
        """Threads named bench-N."""
        made = await self._connection.fetch(THREADS, self._project_id, first, last)
        buckets = Buckets(await self._connection.fetchval(DATABASE_KEY))
        names = [(self._project_id, buckets.of("name", self._project_id, name), name, id_) for id_, name in made]
        await self._connection.copy_records_to_table("thread_names", records=names)
        await self._connection.execute("ANALYZE threads, thread_names, thread_activity")

    async def turns(self, first: int, last: int, per_thread: int, name: str = "bench-") -> None:
        """Turns number first to last; thread N has those from N * per_thread on."""
        await self._connection.execute("SET session_replication_role = replica")
        for start in range(first, last + 1, BATCH):
            end = min(start + BATCH - 1, last)
            await self._connection.execute(TURNS, self._project_id, start, end, per_thread, name, last, timeout=600)
        await self._connection.execute("SET session_replication_role = origin")
        await self._connection.execute("ANALYZE turns, items, threads")

    async def records(self, chains: int, per_chain: int) -> None:
        for start in range(1, chains + 1, BATCH // per_chain):
            end = min(start + BATCH // per_chain - 1, chains)
            await self._connection.execute(RECORDS, self._project_id, start, end, per_chain, timeout=600)
        await self._connection.execute("ANALYZE audit_records")

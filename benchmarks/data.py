"""Data of any size, written straight into Postgres: as the service would have left it, without its triggers' work."""

from uuid import UUID

import asyncpg

THREADS = """
INSERT INTO threads (project_id, id, name, title, user_id, created_at, updated_at)
SELECT $1, uuidv7(n * interval '1 second' - interval '30 days'), 'bench-' || n, 'Thread number ' || n,
    'user-' || n % 1000, now() - interval '30 days' + n * interval '1 second',
    now() - interval '30 days' + n * interval '1 second'
FROM generate_series($2::int, $3::int) n
"""

# Words as unevenly used as those of a language: the first of 20,000 in most texts, the last hardly ever.
TURNS = """
WITH made AS (
    SELECT t.n / $4 AS thread, t.n, uuidv7(t.n * interval '1 millisecond' - interval '20 days') AS id,
        (SELECT string_agg('word' || floor(20000 * power(random(), 4))::int, ' ') FROM generate_series(1, 20 + t.n * 0))
            AS asked,
        (SELECT string_agg('word' || floor(20000 * power(random(), 4))::int, ' ') FROM generate_series(1, 20 + t.n * 0))
            AS said
    FROM generate_series($2::int, $3::int) AS t (n)
), threaded AS (
    SELECT made.*, th.id AS thread_id, lag(made.id) OVER (PARTITION BY made.thread ORDER BY made.n) AS parent_id
    FROM made JOIN threads th ON th.project_id = $1 AND th.name = $5 || made.thread
), turn AS (
    INSERT INTO turns (project_id, id, thread_id, parent_id, status, continuation, model, params, created_at,
        completed_at, response, usage, binding, response_id)
    SELECT $1, id, thread_id, parent_id, 'completed', 'chained', 'qwen3.5-plus', '{}', now(), now(), '{}',
        '{"input_tokens": 30, "output_tokens": 30, "total_tokens": 60}', 'benchmark', 'resp_' || id
    FROM threaded
), item AS (
    INSERT INTO items (project_id, turn_id, position, origin, type, item_id, data)
    SELECT $1, id, p.position, p.origin, 'message', 'msg_' || p.position || '_' || id, CASE p.position
        WHEN 0 THEN json_build_object('type', 'message', 'role', 'user', 'content', asked)
        ELSE json_build_object('type', 'message', 'id', 'msg_1_' || id, 'role', 'assistant', 'status', 'completed',
            'content', json_build_array(
                json_build_object('type', 'output_text', 'text', said, 'annotations', '[]'::json)
            ))
        END
    FROM threaded CROSS JOIN (VALUES (0, 'input'), (1, 'output')) AS p (position, origin)
), text AS (
    INSERT INTO texts (project_id, turn_id, role, document)
    SELECT $1, id, r.role, to_tsvector('simple', CASE r.role WHEN 'user' THEN asked ELSE said END)
    FROM threaded CROSS JOIN (VALUES ('user'), ('assistant')) AS r (role)
), head AS (
    SELECT DISTINCT ON (thread_id) thread_id, id, count(*) OVER (PARTITION BY thread_id) AS turns
    FROM threaded ORDER BY thread_id, n DESC
)
UPDATE threads th SET head_turn_id = head.id, turn_count = head.turns
FROM head WHERE th.project_id = $1 AND th.id = head.thread_id
"""

# With the trigger: it is what makes the chain.
RECORDS = """
INSERT INTO audit_records (project_id, chain_id, id, action, key_id, user_id, address, detail)
SELECT $1, chain.id, uuidv7(), 'thread.changed', chain.key_id, 'user-' || c % 1000, '127.0.0.1', 'title'
FROM (
    SELECT c, uuidv7() AS id, uuidv7() AS key_id FROM generate_series($2::int, $3::int) AS c
) AS chain CROSS JOIN generate_series(1, $4::int)
"""

BATCH = 50_000


class Filler:
    def __init__(self, connection: asyncpg.Connection, project_id: UUID) -> None:
        self._connection = connection
        self._project_id = project_id

    async def threads(self, first: int, last: int) -> None:
        """Threads named bench-N."""
        await self._connection.execute(THREADS, self._project_id, first, last)
        await self._connection.execute("ANALYZE threads")

    async def turns(self, first: int, last: int, per_thread: int, name: str = "bench-") -> None:
        """Turns number first to last; thread N has those from N * per_thread on."""
        await self._connection.execute("SET session_replication_role = replica")
        for start in range(first, last + 1, BATCH):
            end = min(start + BATCH - 1, last)
            await self._connection.execute(TURNS, self._project_id, start, end, per_thread, name, timeout=600)
        await self._connection.execute("SET session_replication_role = origin")
        await self._connection.execute("ANALYZE turns, items, texts, threads")

    async def records(self, chains: int, per_chain: int) -> None:
        for start in range(1, chains + 1, BATCH // per_chain):
            end = min(start + BATCH // per_chain - 1, chains)
            await self._connection.execute(RECORDS, self._project_id, start, end, per_chain, timeout=600)
        await self._connection.execute("ANALYZE audit_records")

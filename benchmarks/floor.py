"""The floor of a turn's cost in Postgres: the two durable commits that it cannot do without, and nothing else.

A turn, two items and two audit records in bare tables with their primary keys, one statement before the model is
asked and one after; as many at once as the service is asked. What the store costs is told as a multiple of it.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import orjson
import psutil

from app.db.ids import new_uuid
from benchmarks.processes import Tree

TABLES = """
CREATE SCHEMA IF NOT EXISTS floor;
CREATE TABLE IF NOT EXISTS floor.turns (
    project_id uuid, id uuid, thread_id uuid, status text, params json, response json, usage json,
    PRIMARY KEY (project_id, id)
);
CREATE TABLE IF NOT EXISTS floor.items (
    project_id uuid, turn_id uuid, position int, data json, PRIMARY KEY (project_id, turn_id, position)
);
CREATE TABLE IF NOT EXISTS floor.records (
    project_id uuid, chain_id uuid, seq bigint, action text, hash bytea, PRIMARY KEY (project_id, chain_id, seq)
);
"""

OPEN = """
WITH turn AS (
    INSERT INTO floor.turns (project_id, id, thread_id, status, params)
    VALUES ($1, $2, $3, 'in_progress', $4::text::json)
), item AS (
    INSERT INTO floor.items VALUES ($1, $2, 0, $5::text::json)
)
INSERT INTO floor.records VALUES ($1, $2, 1, 'turn.opened', $6) RETURNING seq
"""

CLOSE = """
WITH turn AS (
    UPDATE floor.turns SET status = 'completed', response = $3::text::json, usage = $4::text::json
    WHERE project_id = $1 AND id = $2 AND status = 'in_progress'
), item AS (
    INSERT INTO floor.items VALUES ($1, $2, 1, $5::text::json)
)
INSERT INTO floor.records VALUES ($1, $2, 2, 'turn.closed', $6) RETURNING seq
"""


@dataclass(frozen=True, slots=True)
class Content:
    """What a turn holds, of the size that the workload's turns have."""

    sent: str
    answered: str
    response: str
    usage: str


def content(asked: str, said: str) -> Content:
    part = {"type": "output_text", "text": said, "annotations": []}
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    response = {"id": "resp_1", "object": "response", "created_at": 1_800_000_000, "status": "completed", "tools": []}
    return Content(
        orjson.dumps({"type": "message", "role": "user", "content": asked}).decode(),
        orjson.dumps(answer).decode(),
        orjson.dumps({**response, "model": "qwen3.5-plus", "tool_choice": "auto"}).decode(),
        orjson.dumps({"input_tokens": 20, "output_tokens": 20, "total_tokens": 40}).decode(),
    )


class Floor:
    """Bare turns in a database of the run's."""

    def __init__(self, connections: list[asyncpg.Connection]) -> None:
        self._connections = connections
        self._project_id = new_uuid()
        self._hash = hashlib.sha256(b"floor").digest()

    @classmethod
    async def connect(cls, database_url: str, at_once: int) -> "Floor":
        first = await asyncpg.connect(database_url)
        await first.execute(TABLES)
        return cls([first, *[await asyncpg.connect(database_url) for _ in range(at_once - 1)]])

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    async def run(self, count: int, turn: Content) -> None:
        """So many turns, as many at once as there are connections."""
        left = iter(range(count))

        async def client(connection: asyncpg.Connection) -> None:
            thread_id = new_uuid()
            for _ in left:
                await self._turn(connection, thread_id, turn)

        await asyncio.gather(*map(client, self._connections))

    async def _turn(self, connection: asyncpg.Connection, thread_id: UUID, turn: Content) -> None:
        id_ = new_uuid()
        await connection.fetchrow(OPEN, self._project_id, id_, thread_id, "{}", turn.sent, self._hash)
        await connection.fetchrow(CLOSE, self._project_id, id_, turn.response, turn.usage, turn.answered, self._hash)


class Postgres(Tree):
    """Every Postgres process of this machine: their CPU by the scheduler's own count, to the nanosecond."""

    def __init__(self) -> None:
        self._me = psutil.Process()

    def processes(self) -> list[psutil.Process]:
        return [each for each in psutil.process_iter(["name"]) if (each.info["name"] or "").startswith("postgres")]

    def nanoseconds(self) -> int:
        """Linux only: /proc/PID/schedstat."""
        total = 0
        for process in self.processes():
            try:
                with open(f"/proc/{process.pid}/schedstat") as file:
                    total += int(file.read().split()[0])
            except FileNotFoundError:
                continue  # It has ended.
        return total

"""The floor of a turn's cost in Postgres: the two durable commits that it cannot do without, and nothing else.

A turn, two items and two audit records in bare tables with their primary keys, one statement before the model is
asked and one after. They run beside the service's turns and as often, in the same caches and on the same disk: alone,
either would look cheaper. What the store costs is told as a multiple.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import psutil

from app.db.ids import new_uuid

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
    """Content of a turn, of the same size as in the workload."""

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
    """Bare turns in a database of the run's, on connections of their own."""

    def __init__(self, connections: list[asyncpg.Connection], pids: set[int]) -> None:
        self._connections = connections
        self.pids = pids
        self._project_id = new_uuid()
        self._hash = hashlib.sha256(b"floor").digest()

    @classmethod
    async def connect(cls, database_url: str, at_once: int) -> "Floor":
        connections = [await asyncpg.connect(database_url) for _ in range(at_once)]
        await connections[0].execute(TABLES)
        return cls(connections, {await each.fetchval("SELECT pg_backend_pid()") for each in connections})

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    async def beside(self, load: Awaitable[Any], count: int, done: Callable[[], int], turn: Content) -> None:
        """So many turns, at the pace at which another load has done its own: in the same caches, on the same disk."""
        left = count
        running = asyncio.ensure_future(load)

        async def client(connection: asyncpg.Connection) -> None:
            nonlocal left
            thread_id = new_uuid()
            while left > 0:
                if count - left <= done() or running.done():
                    left -= 1
                    await self._turn(connection, thread_id, turn)
                else:
                    await asyncio.sleep(0.001)

        await asyncio.gather(running, *map(client, self._connections))

    async def _turn(self, connection: asyncpg.Connection, thread_id: UUID, turn: Content) -> None:
        id_ = new_uuid()
        await connection.fetchrow(OPEN, self._project_id, id_, thread_id, "{}", turn.sent, self._hash)
        await connection.fetchrow(CLOSE, self._project_id, id_, turn.response, turn.usage, turn.answered, self._hash)


def backends() -> set[int]:
    """The processes that serve Postgres's clients on this machine."""
    found = set()
    for process in psutil.process_iter(["name", "cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if (process.info["name"] or "").startswith("postgres") and ("[local]" in command or "127.0.0.1" in command):
            found.add(process.pid)
    return found


def milliseconds(pids: set[int]) -> float:
    """CPU that processes have used, by the scheduler's own count (Linux: /proc/PID/schedstat)."""
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
        except OSError:
            continue  # It has ended.
    return total / 1e6

"""Cost of every route against the size of what it works on: a project with ever more threads, turns, records and keys.

A project of each size has that many threads with a turn each, a thread with that many turns and audit records, and as
many keys, failures, feedback, shares, holds, purges, deliveries and sums of usage; the service has as many projects
more. So whatever a route reads grows. The cost is the CPU of the service and of Postgres's backends, by the kernel's
nanoseconds: it depends far less on what else the machine does than times. Each figure is a median of some requests; a
route that exceeds its class is measured again at all sizes, and fails if it does so every time.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import orjson
import uvloop

from app import schema
from benchmarks import targets
from benchmarks.data import Filler
from benchmarks.processes import Tree
from benchmarks.routes import BY_NAME, Asked, served, table
from benchmarks.slopes import exceeds, fitted
from benchmarks.targets import KEY, MODEL

Row = dict[str, Any]

SIZES = (100, 1_000, 10_000, 100_000)
REQUESTS = 5
TRIES = 3
WAIT_SECONDS = 120.0

LONG = "long-0"
"""The name of the thread with as many turns as the size."""

QUIET = (
    "ALTER SYSTEM SET autovacuum = off",
    "ALTER SYSTEM SET max_parallel_workers_per_gather = 0",
    "SELECT pg_reload_conf()",
)
"""Postgres without processes whose work nobody has asked for, so that costs are those of requests."""

FILLED = {
    "projects": """
        INSERT INTO projects (project_id, name, trail_key)
        SELECT uuidv7(), $1::uuid || '-' || n, '\\x00' FROM generate_series(1, $2::int) n""",
    "keys": """
        INSERT INTO api_keys (project_id, id, name, key_hash, hint)
        SELECT $1::uuid, uuidv7(), 'key ' || n, sha256(convert_to($1 || '-' || n, 'UTF8')), 'et_…'
        FROM generate_series(1, least($2::int, 900)) n""",
    "holds": """
        INSERT INTO holds (project_id, id, scope, user_id, reason, released_at, release_reason, erased_at)
        SELECT $1::uuid, uuidv7(), 'user', 'held-' || n, 'A case', now(), 'Over', now()
        FROM generate_series(1, $2::int) n""",
    "purges": """
        INSERT INTO user_purges (project_id, id, user_id, threads, threads_done, completed_at)
        SELECT $1::uuid, uuidv7(), 'gone-' || n, 1, 1, now() FROM generate_series(1, $2::int) n""",
    "failures": """
        UPDATE turns t SET status = 'failed', error = '{"code": "server_error", "message": "It failed."}',
            completed_at = now() - t.seq * interval '1 second'
        FROM (
            SELECT bucket, head_turn_id FROM threads WHERE project_id = $1::uuid AND name LIKE 'bench-%'
            ORDER BY id LIMIT $2::int / 2
        ) th WHERE t.project_id = $1 AND t.bucket = th.bucket AND t.id = th.head_turn_id""",
    "sums": """
        INSERT INTO usage_sums SELECT (jsonb_populate_record(NULL::usage_sums, zeros.row || jsonb_build_object(
            'project_id', $1::uuid, 'bucket', th.bucket, 'thread_id', th.id,
            'at', date_trunc('hour', now() - (row_number() OVER () % 24) * interval '1 day'), 'model', 'qwen3.5-plus',
            'binding', 'benchmark', 'api_key_id', $1::uuid, 'currency', 'USD', 'turns', 1
        ))).* FROM threads th CROSS JOIN (
            SELECT jsonb_object_agg(attname, 0) AS row FROM pg_attribute
            WHERE attrelid = 'usage_sums'::regclass AND attnum > 0 AND NOT attisdropped
        ) zeros WHERE th.project_id = $1 AND $2::int > 0""",
    "turns that are in a sum": "UPDATE threads SET counted_seq = last_seq WHERE project_id = $1::uuid AND $2::int > 0",
}
"""The rows of a project, $2 of each kind; of keys no more than it may have."""

FILLED_OF_THREAD = {
    "records": """
        SELECT append_records_v2($1, bucket_of($3), $3, NULL, $1, '127.0.0.1',
            array_fill('thread.changed'::text, ARRAY[$2::int]), array_fill(NULL::uuid, ARRAY[$2::int]),
            array_fill('title'::text, ARRAY[$2::int]), array_fill(NULL::bytea, ARRAY[$2::int]))""",
    "feedback": """
        INSERT INTO feedback (project_id, bucket, id, turn_id, score)
        SELECT $1::uuid, bucket, uuidv7(), id, 1 FROM turns WHERE project_id = $1 AND bucket = bucket_of($3::uuid)
            AND thread_id = $3 AND $2::int > 0""",
    "feedback of one turn": """
        INSERT INTO feedback (project_id, bucket, id, turn_id, score)
        SELECT $1::uuid, bucket, uuidv7(), head_turn_id, 1 FROM threads, generate_series(1, $2::int)
        WHERE project_id = $1 AND bucket = bucket_of($3::uuid) AND id = $3""",
    "shares": """
        INSERT INTO shares (project_id, bucket, id, thread_id, turn_id, token_hash)
        SELECT $1::uuid, bucket, uuidv7(), id, head_turn_id, sha256(convert_to($1 || '-' || n, 'UTF8'))
        FROM threads, generate_series(1, $2::int) n
        WHERE project_id = $1 AND bucket = bucket_of($3::uuid) AND id = $3""",
    "held rows": """
        INSERT INTO held_rows (project_id, bucket, thread_id, source, row_key, data)
        SELECT $1::uuid, bucket_of($3::uuid), $3, 'item', n::text, '{}' FROM generate_series(1, $2::int) n""",
}
"""The rows of the long thread, whose id is $3."""

DELIVERIES = """
INSERT INTO webhook_deliveries (project_id, webhook_id, chain_id, seq, type, at, data, status, delivered_at)
SELECT $1::uuid, $3::uuid, $3, n, 'turn.completed', now() - n * interval '1 second', '{}', 'delivered', now()
FROM generate_series(1, $2::int) n
"""


def run(work: Path, largest: int, say: Any) -> Row:
    """Measure every route at each size, up to `largest`, and name those that exceed their class."""
    if unknown := served() - set(table()):
        raise RuntimeError(f"benchmarks/routes.py lacks the routes {sorted(unknown)}")
    work.mkdir()
    with ExitStack() as stack:
        upstream, _ = stack.enter_context(targets.stub(work))
        database_url, redis_url, _ = stack.enter_context(targets.servers(work))
        asyncio.run(schema.migrate(database_url))
        # A turn of the long thread is chained: the model's window has room for it.
        env = {
            "EVERTHREAD_CONTEXT_WINDOW_TOKENS": "1000000000",
            "EVERTHREAD_COMPACTION_SHARE": "0",
            "EVERTHREAD_ACCOUNTS_INSIDE": "true",
        }
        url, tree = stack.enter_context(targets.everthread(work, upstream, database_url, redis_url, env=env))
        return uvloop.run(_run(database_url, url, upstream, tree, [size for size in SIZES if size <= largest], say))


async def _run(database_url: str, url: str, upstream: str, tree: Tree, sizes: Sequence[int], say: Any) -> Row:
    measured = [
        Measured(name, request)
        for name, requests in sorted(table().items(), key=lambda each: each[0].partition(" ")[2])
        if not isinstance(requests, str)
        for request in requests
    ]
    connection = await asyncpg.connect(database_url, command_timeout=600)
    for statement in QUIET:
        await connection.execute(statement)
    meter = Meter(tree, connection)
    places: list[Place] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        for size in sizes:
            began = time.perf_counter()
            place = Place(url, upstream, session, connection, meter, size)
            await place.fill()
            places.append(place)
            say(f"a project of {size:,} is there after {time.perf_counter() - began:.0f} s")
            began = time.perf_counter()
            for each in measured:
                each.costs[size] = await place.cost(each.name, each.asked)
            say(f"{len(measured)} requests were measured in {time.perf_counter() - began:.0f} s")
        for _ in range(TRIES - 1):
            again = [each for each in measured if each.exceeds]
            for each in again:
                for place in places:
                    cost = await place.cost(each.name, each.asked)
                    each.costs[place.size] = min(each.costs[place.size], cost)
            say(f"{len(again)} routes above their class were measured again")
    await connection.close()
    rows = [each.row() for each in measured]
    above = [row for row in rows if row["above"]]
    for row in above:
        say(f"above its class: {row}")
    return {"rows": rows, "above": [row["route"] for row in above]}


@dataclass(frozen=True, slots=True, order=True)
class Cost:
    """The cost of a request, in milliseconds."""

    total: float
    """CPU of the service and of Postgres."""
    service: float
    postgres: float
    time: float


@dataclass(slots=True)
class Measured:
    """A request to a route, and its costs by size."""

    name: str
    asked: Asked
    costs: dict[int, Cost] = field(default_factory=dict)

    @property
    def exceeds(self) -> bool:
        return exceeds(self.asked.growth, list(self.costs), [cost.total for cost in self.costs.values()])

    def row(self) -> Row:
        slope = fitted(list(self.costs), [cost.total for cost in self.costs.values()])
        return {
            "route": f"{self.name}?{self.asked.query}" if self.asked.query else self.name,
            "class": self.asked.growth.label,
            **{f"{size:,}": f"{cost.service:.1f} + {cost.postgres:.1f}" for size, cost in self.costs.items()},
            "p50_ms": round(self.costs[max(self.costs)].time, 1),
            "exponent": round(slope.slope, 2),
            "above": self.exceeds,
            "why": self.asked.why,
        }


class Meter:
    """CPU of the service, and of the backends that Postgres has for it, in milliseconds."""

    def __init__(self, tree: Tree, connection: asyncpg.Connection) -> None:
        self._tree = tree
        self._connection = connection
        self._service: list[Path] = []
        self._backends: list[Path] = []

    async def look(self) -> None:
        """Find the threads and backends that there are now."""
        found = await self._connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        self._service = _threads(self._tree)
        self._backends = [Path(f"/proc/{row['pid']}/schedstat") for row in found]

    def read(self) -> tuple[float, float]:
        return sum(map(_ran, self._service)), sum(map(_ran, self._backends))


def _threads(tree: Tree) -> list[Path]:
    return [path for process in tree.processes() for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat")]


def _ran(path: Path) -> float:
    try:
        return int(path.read_text().split()[0]) / 1e6
    except OSError:
        return 0.0  # It has ended.


@dataclass(slots=True)
class Place:
    """A project of one size, and what its routes are asked about."""

    url: str
    upstream: str
    session: aiohttp.ClientSession
    connection: asyncpg.Connection
    meter: Meter
    size: int
    ids: dict[str, str] = field(default_factory=dict)
    key: str = KEY
    cookie: str = ""
    numbers: Any = field(default_factory=lambda: count(1))

    async def fill(self) -> None:
        """Create the project with everything in it."""
        project = await self.made("POST", "/v1/admin/projects", {"name": f"growth-{self.size}"})
        key = await self.made(
            "POST",
            f"/v1/admin/projects/{project['id']}/keys",
            {"name": "load", "scopes": ["read", "write", "audit", "admin"]},
        )
        account = {"name": "own", "base_url": f"{self.upstream}/compatible-mode/v1", "api_key": "sk-own"}
        own = await self.made("POST", f"/v1/admin/projects/{project['id']}/accounts", account)
        self.key = key["key"]
        project_id = _uuid(project["id"])
        await self._fill_rows(project_id)
        turn = await self.made("POST", f"/v1/threads/by-name/{LONG}/turns", {"model": MODEL, "input": "Hello"})
        calls = await self.made("GET", f"/v1/threads/by-name/{LONG}/turns/{turn['id']}/calls")
        webhook = await self.made(
            "POST", "/v1/webhooks", {"url": "https://example.com/hook", "events": ["thread.imported"]}
        )
        webhook_id = _uuid(webhook["id"])
        await self.connection.execute("UPDATE webhooks SET paused = true WHERE id = $1", webhook_id)
        await self.connection.execute(DELIVERIES, project_id, self.size, webhook_id, timeout=600)
        deliveries = await self.made("GET", f"/v1/webhooks/{webhook['id']}/deliveries?limit=1")
        hold = await self.made("POST", "/v1/holds", {"user": "user-2", "reason": "A case"})
        await self.made("POST", "/v1/threads", {"user": "gone"})
        purge = await self.made("DELETE", "/v1/users/gone/data")
        await self._eventually(f"/v1/purges/{purge['id']}/certificate")
        response = await self.made("POST", "/v1/responses", {"model": MODEL, "input": "Hello"})
        for table_ in await self.connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            await self.connection.execute(f"VACUUM ANALYZE {table_['tablename']}", timeout=600)
        self.ids |= {
            "project_id": project["id"], "key_id": key["id"], "account_id": own["id"], "webhook_id": webhook["id"],
            "event_id": deliveries["data"][0]["id"], "hold_id": hold["id"], "purge_id": purge["id"],
            "response_id": response["id"], "turn_id": turn["id"], "name": LONG, "thread_id": turn["thread_id"],
            "conversation_id": turn["thread_id"].replace("thread_", "conv_"), "call_id": calls["data"][0]["id"],
            "user": "user-7", "model": MODEL, "group": "model", "size": str(self.size),
        }  # fmt: skip
        await self._sign_in()

    async def _fill_rows(self, project_id: UUID) -> None:
        filler = Filler(self.connection, project_id)
        await filler.threads(0, self.size - 1)
        await filler.turns(0, self.size - 1, 1)
        thread = await self.made("PUT", f"/v1/threads/by-name/{LONG}", {})
        await filler.turns(0, self.size - 1, self.size, LONG.removesuffix("0"))
        await filler.records(max(self.size // 10, 1), 10)
        await self.connection.execute("SET session_replication_role = replica")
        for statement in FILLED.values():
            await self.connection.execute(statement, project_id, self.size, timeout=600)
        await self.connection.execute("SET session_replication_role = origin")
        thread_id = _uuid(thread["id"])
        for statement in FILLED_OF_THREAD.values():
            await self.connection.execute(statement, project_id, self.size, thread_id, timeout=600)

    async def cost(self, name: str, asked: Asked) -> Cost:
        """Return the cost of a request: the median of some, after two that do not count."""
        found: list[Cost] = []
        for number in range(-2, REQUESTS):
            if number in (-2, 0):
                await self.meter.look()
            method, path, body = await self._request(name, asked)
            service, postgres = self.meter.read()
            began = time.perf_counter()
            status, content = await self.ask(method, path, body)
            seconds = time.perf_counter() - began
            after, after_postgres = self.meter.read()
            if status >= 400:
                raise RuntimeError(f"{method} {path}: {status} {content[:300]!r}")
            if number >= 0:
                used = after - service, after_postgres - postgres
                found.append(Cost(sum(used), *used, seconds * 1000))
        return sorted(found)[len(found) // 2]

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Return the status and the content of an answer."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        if path.startswith("/console"):
            headers = {"Cookie": self.cookie}
        if path.startswith("/v1/admin/projects") and not path.startswith("/v1/admin/projects/"):
            headers["Authorization"] = f"Bearer {KEY}"
        data = None if body is None else orjson.dumps(body)
        async with self.session.request(
            method, self.url + path, data=data, headers=headers, allow_redirects=False
        ) as answer:
            return answer.status, await answer.read()

    async def made(self, method: str, path: str, body: Any = None) -> Any:
        """Return the object of an answer."""
        status, content = await self.ask(method, path, body)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {content[:300]!r}")
        return orjson.loads(content)

    async def _request(self, name: str, asked: Asked) -> tuple[str, str, Any]:
        """Return a request with what it needs in place."""
        method, _, path = name.partition(" ")
        known = self.ids | {"unique": f"growth-{self.size}-{next(self.numbers)}"}
        if asked.makes is not None:
            known |= await self._make(asked.makes)
        if method == "PUT" or (method == "DELETE" and path == BY_NAME):
            known["name"] = known["unique"]
            if method == "DELETE":
                await self.made("PUT", f"/v1/threads/by-name/{known['name']}", {})
        body = asked.body
        for what, id_ in known.items():
            path = path.replace(f"{{{what}}}", id_)
        query, text = asked.query, None if body is None else orjson.dumps(body).decode()
        for what, id_ in known.items():
            query = query.replace(f"{{{what}}}", id_)
            text = None if text is None else text.replace(f"{{{what}}}", id_)
        return method, f"{path}?{query}" if query else path, None if text is None else orjson.loads(text)

    async def _make(self, what: str) -> dict[str, str]:
        """Create what a request deletes or changes."""
        long = f"/v1/threads/{self.ids['thread_id']}"
        match what:
            case "thread":
                id_ = (await self.made("POST", "/v1/threads", {}))["id"]
                return {"thread_id": id_, "conversation_id": id_.replace("thread_", "conv_")}
            case "key":
                path = f"/v1/admin/projects/{self.ids['project_id']}/keys"
                return {"key_id": (await self.made("POST", path, {"name": "other"}))["id"]}
            case "hold":
                made = await self.made("POST", "/v1/holds", {"user": "someone", "reason": "A case"})
                return {"hold_id": made["id"]}
            case "feedback":
                made = await self.made("POST", f"{long}/turns/{self.ids['turn_id']}/feedback", {"score": 1})
                return {"feedback_id": made["id"]}
            case "share":
                made = await self.made("POST", f"{long}/shares", {})
                return {"share_id": made["id"], "token": made["path"].rpartition("/")[2]}
            case "response":
                return {
                    "response_id": (await self.made("POST", "/v1/responses", {"model": MODEL, "input": "Hello"}))["id"]
                }
            case "item":
                conversation = f"/v1/conversations/{self.ids['conversation_id']}/items"
                made = await self.made("POST", conversation, {"items": [{"role": "user", "content": "Hello"}]})
                return {"item_id": made["data"][0]["id"]}
            case "user":
                user = f"gone-{self.size}-{next(self.numbers)}"
                await self.made("POST", "/v1/threads", {"user": user})
                return {"user": user}
        raise ValueError(what)

    async def _sign_in(self) -> None:
        data = {"key": self.key}
        async with self.session.post(f"{self.url}/console/sign-in", data=data, allow_redirects=False) as answer:
            self.cookie = answer.headers["Set-Cookie"].partition(";")[0]

    async def _eventually(self, path: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while (await self.ask("GET", path))[0] != 200:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{path} is not there after {WAIT_SECONDS:.0f} s")
            await asyncio.sleep(0.1)


def _uuid(id_: str) -> UUID:
    """Return the UUID of an id with a prefix."""
    return UUID(id_.rpartition("_")[2])

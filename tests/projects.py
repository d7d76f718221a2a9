"""Projects of a test's own: nobody else talks in them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.audit import keys as audit_keys
from app.audit.checkpoints import Checkpoints
from app.audit.signing import signing_key
from app.audit.verify import Verdict, verify_project
from app.db.engine import Database
from app.projects import keys
from app.trail.records import SERVICE
from tests.service import Service

T = TypeVar("T")


def new_key(database_url: str, project: str, *, scopes: Sequence[str] = keys.SCOPES) -> str:
    """A key of a project, which is made if it is not there: what `everthread keys create` does."""
    key = keys.new_key()

    async def create() -> None:
        database = Database(database_url, pool_size=1, timeout_seconds=30)
        try:
            project_id = await keys.ensure_project(database, project)
            async with database.session() as session:
                await keys.add_key(session, SERVICE, project_id, key, name="test", scopes=scopes)
        finally:
            await database.close()

    asyncio.run(create())
    return key


class Project:
    """A project of a test's own, seen from its API and from below."""

    def __init__(self, service: Service, env: dict[str, str], data_dir: Path) -> None:
        self.name = uuid4().hex
        self.env = env
        self.data_dir = data_dir
        self.key = new_key(env["DATABASE_URL"], self.name)
        self.http = httpx2.Client(
            base_url=f"{service.url}/v1", headers={"Authorization": f"Bearer {self.key}"}, timeout=60
        )

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        return self.http.request(method, path, **kwargs).json()

    def records(self, **params: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", "/audit", params={"order": "asc", "limit": 100, **params})[
            "data"
        ]
        return found

    def run(self, work: Callable[[Database, UUID], Awaitable[T]]) -> T:
        async def run() -> T:
            database = Database(self.env["DATABASE_URL"], pool_size=1, timeout_seconds=30)
            try:
                row = await database.fetchrow("SELECT project_id FROM projects WHERE name = $1", self.name)
                assert row is not None
                return await work(database, row["project_id"])
            finally:
                await database.close()

        return asyncio.run(run())

    def public_keys(self) -> list[Ed25519PublicKey]:
        """The test's own key, and those of the services: one signs when a purge is complete."""
        listed = self.run(lambda database, _: audit_keys.listed(database))
        services = [Ed25519PublicKey.from_public_bytes(public) for public, _, _ in listed]
        return [signing_key(None, self.data_dir).public_key(), *services]

    def verify(self) -> Verdict:
        trusted = self.public_keys()
        return self.run(lambda database, project_id: verify_project(database, project_id, trusted=trusted))

    def checkpoint(self) -> int:
        key = signing_key(None, self.data_dir)
        return self.run(lambda database, project_id: Checkpoints(database, key, every_seconds=1).write(project_id))

    def sql(self, statements: str, thread: str = "") -> list[asyncpg.Record]:
        """A superuser's statements, with every trigger off. `$1` is the project, `$2` the thread."""

        async def work(database: Database, project_id: UUID) -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.env["DATABASE_URL"])
            try:
                await connection.execute("SET session_replication_role = replica")
                said = statements.replace("$1", f"'{project_id}'").replace("$2", f"'{thread.partition('_')[2]}'")
                return [row for each in said.split(";") for row in await connection.fetch(each)]
            finally:
                await connection.close()

        return self.run(work)

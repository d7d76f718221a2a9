"""An encrypted project of a service, and everything that can be said in one."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx2
import redis as redis_py

from app import schema
from tests.service import Emulator, Process, Service

CANARY = "Quetzalcoatlus"
"""A word that stands in everything that is said in these tests, and nowhere else."""

MASTER = "55" * 32


class Encrypted:
    """A service, and an encrypted project of it, spoken to over HTTP and looked at from below."""

    def __init__(self, env: dict[str, str], data_dir: Path, *, encrypted: bool = True) -> None:
        self.env = {**env, "EVERTHREAD_MASTER_KEY": MASTER, "EVERTHREAD_DATA_DIR": str(data_dir)}
        self.service = Service(env=self.env)
        self.name = uuid4().hex
        made = self.service.http.post("/admin/projects", json={"name": self.name, "encrypted": encrypted})
        assert made.status_code == 201, made.text
        self.id = made.json()["id"]
        self.http = self.client(["read", "write", "audit", "admin"])

    def beside(self, *, encrypted: bool) -> "Encrypted":
        """Another project of the same service."""
        other = Encrypted.__new__(Encrypted)
        other.env, other.service, other.name = self.env, self.service, uuid4().hex
        made = {"name": other.name, "encrypted": encrypted}
        other.id = other.service.http.post("/admin/projects", json=made).json()["id"]
        other.http = other.client(["read", "write", "audit", "admin"])
        return other

    @property
    def uuid(self) -> UUID:
        return UUID(self.id.removeprefix("proj_"))

    def client(self, scopes: list[str]) -> httpx2.Client:
        key = self.service.http.post(f"/admin/projects/{self.id}/keys", json={"name": "app", "scopes": scopes})
        return httpx2.Client(
            base_url=f"{self.service.url}/v1", headers={"Authorization": f"Bearer {key.json()['key']}"}, timeout=60
        )

    def post(self, path: str, **body: Any) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def get(self, path: str, **params: Any) -> Any:
        answer = self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def turn(self, thread: str, text: str, **fields: Any) -> Any:
        return self.post(f"/threads/{thread}/turns", input=text, **fields)

    def command(self, *arguments: str, code: int = 0) -> list[str]:
        process = Process(*arguments, env=self.env)
        assert process.ended() == code, process.lines
        return process.lines

    def rows(self) -> dict[str, list[str]]:
        """Each row of the project, as text, by its table."""

        async def read() -> dict[str, list[str]]:
            connection = await asyncpg.connect(self.env["DATABASE_URL"])
            try:
                return {
                    table.name: [
                        row["said"]
                        for row in await connection.fetch(
                            f"SELECT t::text AS said FROM {table.name} t WHERE project_id = $1",
                            self.uuid,
                        )
                    ]
                    for table in schema.metadata.tables.values()
                    if "project_id" in table.columns
                }
            finally:
                await connection.close()

        return asyncio.run(read())

    def lying_open(self, word: str = CANARY) -> set[str]:
        """The tables that hold the word, as it is or as hex."""
        found = (word.lower(), word.encode().hex(), word.lower().encode().hex())
        return {
            table for table, rows in self.rows().items() if any(each in row.lower() for row in rows for each in found)
        }

    def in_redis(self, word: str = CANARY) -> bool:
        client: Any = redis_py.Redis.from_url(self.env["REDIS_URL"])
        said = ""
        for key in client.scan_iter(f"everthread:{self.uuid.hex}:*"):
            said += repr(client.xrange(key) if client.type(key) == b"stream" else client.get(key))
        assert said
        return word in said


def talk(project: Encrypted, emulator: Emulator) -> tuple[str, str]:
    """A conversation in which everything that can be said has the word. Its thread, and one of its turns."""
    said = f"{CANARY} is my name."
    thread = project.post(
        "/threads", title=f"About {CANARY}", metadata={"topic": CANARY}, messages=[{"role": "user", "content": said}]
    )["id"]
    turn = project.turn(thread, said, instructions=f"Speak of {CANARY}.", metadata={"about": CANARY})
    project.turn(thread, f"What is {CANARY}?", tools=[{"type": "function", "name": CANARY, "parameters": {}}])
    with project.http.stream(
        "POST", f"/threads/{thread}/turns", json={"input": f"Echo: {CANARY}.", "stream": True}
    ) as answer:
        assert CANARY in answer.read().decode()
    emulator.forget()  # The next one is rebuilt, in pieces.
    project.turn(thread, f"Once more: {CANARY}.")
    emulator.fault("status", status=400, code="DataInspectionFailed", message=f"No {CANARY} here.")
    failed = project.http.post(f"/threads/{thread}/turns", json={"input": f"This fails, {CANARY}."})
    assert failed.status_code == 400
    project.post(f"/threads/{thread}/turns/{turn['id']}/feedback", comment=f"I like {CANARY}.")
    return thread, turn["id"]

"""Two releases on one database: the next one migrates, and takes over from the one before under load."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx2

from app import schema
from tests.databases import query
from tests.forkserver import copy_release
from tests.service import Emulator, Process, Service, eventually, free_port

NEXT = '''
"""what a next release may need: a column, an index, and a new version of a function"""

from alembic import op

from app.db import ddl

revision = "v021_0001"
down_revision = "{before}"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = {serves}


def upgrade() -> None:
    ddl.lock("turns")
    op.execute("ALTER TABLE turns ADD COLUMN mood text")
    op.execute("""
        DO $$ BEGIN
            EXECUTE replace(pg_get_functiondef('close_turn_v4'::regproc), 'close_turn_v4', 'close_turn_v5');
        END $$
    """)
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY turns_mood_idx ON turns (project_id, mood) WHERE mood IS NOT NULL")


def downgrade() -> None:
    op.execute("DROP FUNCTION close_turn_v5")
    op.execute("ALTER TABLE turns DROP COLUMN mood")
'''


def next_release(directory: Path, *, serves: bool = True) -> Path:
    """A copy of this release with a migration of its own, which closes turns with another version of a function."""
    copy_release(directory)
    made = NEXT.format(before=schema.newest_revision(), serves=serves)
    (directory / "migrations" / "versions" / "v021_0001_mood.py").write_text(made)
    changed = 0
    for path in (directory / "app" / "turns").rglob("*.*"):
        if path.suffix in (".py", ".sql") and "close_turn_v4" in (said := path.read_text()):
            path.write_text(said.replace("close_turn_v4", "close_turn_v5"))
            changed += 1
    assert changed
    return directory


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Hold a transaction open that has read the table of turns."""
    with asyncio.Runner() as runner:

        async def begin() -> asyncpg.Connection:
            connection = await asyncpg.connect(url)
            await connection.execute("BEGIN; SELECT FROM turns LIMIT 1")
            return connection

        connection = runner.run(begin())
        try:
            yield
        finally:
            runner.run(connection.close())


class Talk(threading.Thread):
    """A client that talks in one thread through whatever service is up, and sends again what was not answered."""

    def __init__(self, number: int, services: Callable[[], list[str]], key: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.name, self.said = f"talk-{number}", 0
        self._services, self._stop_asked = services, stop
        self._http = httpx2.Client(headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def run(self) -> None:
        while not self._stop_asked.is_set():
            self._turn(f"{self.name}.{self.said}")
            self.said += 1

    def _turn(self, words: str) -> None:
        sent, headers = {"input": f"Echo: {words}"}, {"Idempotency-Key": uuid4().hex}
        for attempt in range(200):
            urls = self._services()
            url = urls[(self.said + attempt) % len(urls)]
            try:
                path = f"{url}/v1/threads/by-name/{self.name}/turns"
                answer = self._http.post(path, json=sent, headers=headers)
            except httpx2.TransportError:
                time.sleep(0.05)
                continue
            if answer.status_code == 200:
                assert answer.json()["output_text"] == words
                return
            assert answer.status_code in (409, 503), answer.text
            time.sleep(0.05)
        raise AssertionError(f"{words} was never answered")


def test_the_next_release_takes_over_under_load_and_nothing_is_lost(
    fresh_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    env = fresh_env
    release = next_release(tmp_path / "next")
    old = [Service(env=env), Service(env=env)]
    too_early = Process("serve", "--port", str(free_port()), env=env, cwd=release)
    assert too_early.ended() == 1
    assert "run 'everthread migrate' first" in too_early.lines[-1]

    serving, stop = [service.url for service in old], threading.Event()
    for number in range(6):
        old[0].http.put(f"/threads/by-name/talk-{number}").raise_for_status()
    talks = [Talk(number, lambda: list(serving), old[0].key, stop) for number in range(6)]
    for talk in talks:
        talk.start()

    def all_have_said_more() -> None:
        before = [talk.said for talk in talks]
        eventually(lambda: all(talk.said > was + 1 for talk, was in zip(talks, before, strict=True)), 30)

    all_have_said_more()
    with reading(env["DATABASE_URL"]):
        # A migration that waits for a reader lets turns pass between its tries.
        migrated = Process("migrate", env=env, cwd=release)
        migrated.wait_for("Waiting for a lock, and trying again.")
        all_have_said_more()
        assert migrated.process.poll() is None
    assert migrated.ended() == 0, migrated.lines
    assert migrated.lines[-1] == "The database is at migration v021_0001."
    for service in old:
        ready = httpx2.get(f"{service.url}/readyz")
        assert (ready.status_code, ready.json()["migrations"]) == (200, "ok")
    all_have_said_more()
    new = [Service(env=env, cwd=release)]
    serving[:] = [old[1].url, new[0].url]
    assert old[0].stop() == 0
    all_have_said_more()
    old[0] = Service(env=env)  # A restarted worker of the release before.
    serving[:] = [service.url for service in (*old, *new)]
    all_have_said_more()
    serving[:] = [new[0].url]
    assert [service.stop() for service in old] == [0, 0]
    all_have_said_more()
    stop.set()
    for talk in talks:
        talk.join(timeout=30)
        assert not talk.is_alive()

    for talk in talks:
        shown = new[0].every(f"/threads/by-name/{talk.name}/messages", format="chat")
        said = [each["content"] for each in shown if each["role"] == "assistant"]
        assert said == [f"{talk.name}.{number}" for number in range(talk.said)]
    assert new[0].stop() == 0
    verified = Process("audit", "verify", env=env)
    assert verified.ended() == 0, verified.lines


def test_a_release_that_the_next_one_does_not_serve_is_told_so(
    fresh_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    env = fresh_env
    service = Service(env=env)
    migrated = Process("migrate", env=env, cwd=next_release(tmp_path / "next", serves=False))
    assert migrated.ended() == 0, migrated.lines
    ready = httpx2.get(f"{service.url}/readyz")
    assert ready.status_code == 503
    assert "of a newer release, which does not serve this one" in ready.json()["migrations"]
    service.stop()
    again = Process("serve", "--port", str(free_port()), env=env)
    assert again.ended() == 1
    assert re.search("newer release, which does not serve this one .* run the newer one", again.lines[-1])
    # Nor does a database whose list is gone serve anybody but its own release.
    query(env["DATABASE_URL"], "DROP TABLE served_revisions")
    again = Process("serve", "--port", str(free_port()), env=env)
    assert again.ended() == 1

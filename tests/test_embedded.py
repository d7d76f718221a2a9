"""The embedded servers are their owner's alone: nobody else on the machine reaches their files or sockets."""

import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
import redis

from app.embedded import data_dir, postgres
from app.embedded import redis as embedded_redis
from tests.service import Process, free_port

TRY = """
import os, pwd, socket, sys
os.setgroups([])
os.setuid(pwd.getpwnam("nobody").pw_uid)
for path in sys.argv[1:]:
    try:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            socket.socket(socket.AF_UNIX).connect(path)
    except OSError:
        continue
    print("reached", path)
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def reached_by_nobody(*paths: Path) -> str:
    command = [sys.executable, "-c", TRY, *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=["short", "long"])
def closed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory in a home that is closed to others."""
    tmp_path.chmod(0o700)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    if request.param == "short":
        return home
    deep = home / ("a_long_name_" * 10)
    deep.mkdir(mode=0o700)
    return deep


async def test_postgres_runs_below_a_closed_home_and_opens_none_of_it(closed: Path) -> None:
    parents = {parent: mode(parent) for parent in closed.parents}
    for _ in range(2):  # The second time, its files are there.
        with postgres.running(closed / "postgres") as url:
            connection = await asyncpg.connect(url)
            assert await connection.fetchval("SELECT 1") == 1
            (sockets,) = [Path(await connection.fetchval("SHOW unix_socket_directories"))]
            await connection.close()
            assert mode(closed / "postgres") == mode(sockets) == mode(sockets / postgres.SOCKET) == 0o700
            assert postgres.url_of_running(closed / "postgres") == url
            if os.geteuid() == 0:
                assert reached_by_nobody(closed, closed / "postgres", sockets, sockets / postgres.SOCKET) == ""
    assert {parent: mode(parent) for parent in closed.parents} == parents
    assert postgres.url_of_running(closed / "postgres") is None


def test_redis_runs_below_a_closed_home_and_opens_none_of_it(closed: Path) -> None:
    with embedded_redis.running(closed / "redis") as url:
        assert redis.Redis.from_url(url).ping()
        socket = Path(url.removeprefix("unix://"))
        assert mode(closed / "redis") == mode(socket.parent) == mode(socket) == 0o700
        if os.geteuid() == 0:
            assert reached_by_nobody(closed / "redis", socket.parent, socket) == ""
        # One that a killed owner left running is found again, wherever its socket is.
        with embedded_redis.running(closed / "redis") as again:
            assert again == url


USER_OF_POSTGRES = """
import sys
from app.embedded import postgres_user
postgres_user.USER = sys.argv[1]
print(postgres_user.user_id())
"""


@as_root
def test_services_that_start_at_once_on_a_new_machine_make_one_user_for_postgres() -> None:
    name = "everthread-test"
    command = [sys.executable, "-c", USER_OF_POSTGRES, name]
    try:
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
        ids = {process.communicate()[0].strip() for process in started}
        assert ids == {str(pwd.getpwnam(name).pw_uid)}
    finally:
        subprocess.run(["userdel", name], check=False, capture_output=True)


@as_root
@pytest.mark.parametrize("env", [{}, {"PATH": "/usr/bin:/bin"}], ids=["empty", "cron"])
def test_the_user_for_postgres_is_made_without_the_system_programs_in_path(env: dict[str, str]) -> None:
    name = "everthread-test-path"
    command = [sys.executable, "-c", USER_OF_POSTGRES, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        assert done.stdout.strip() == str(pwd.getpwnam(name).pw_uid)
    finally:
        subprocess.run(["userdel", name], check=False, capture_output=True)


@as_root
def test_postgres_has_no_more_rights_than_it_needs(tmp_path: Path) -> None:
    with postgres.running(tmp_path / "postgres"):
        pid = (tmp_path / "postgres" / "postmaster.pid").read_text().splitlines()[0]
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Uid:\t0" not in status
        effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
        assert int(effective, 16) in (0, 1 << 1, 1 << 2)


async def test_a_cluster_that_was_killed_while_it_was_made_is_made_anew(tmp_path: Path) -> None:
    half = tmp_path / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with postgres.running(tmp_path / "postgres") as url:
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    assert not half.exists()


def test_the_data_of_another_release_of_postgres_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data" / "postgres").mkdir(parents=True)
    (tmp_path / "data" / "postgres" / "PG_VERSION").write_text("12\n")
    service = Process("serve", "--port", str(free_port()), "--data-dir", str(tmp_path / "data"))
    assert service.ended() == 1
    assert "holds the data of Postgres 12" in service.lines[-1]


def test_a_data_directory_is_closed_to_others_and_a_folder_of_somebody_elses_is_left_as_it_is(tmp_path: Path) -> None:
    made, older, shared = tmp_path / "made", tmp_path / "older", tmp_path / "shared"
    older.mkdir(mode=0o755)
    (older / data_dir.OWNER).touch()
    shared.mkdir(mode=0o755)
    (shared / "a-file").touch()
    for path, expected in ((made, 0o700), (older, 0o700), (shared, 0o755)):
        with data_dir.owned(path):
            assert mode(path) == expected

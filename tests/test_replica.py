"""Reading from a replica: what may be a little old comes from there, and nothing that a client has just written."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.databases import migrate_now
from tests.postgres_pair import Pair, run_sql
from tests.service import Emulator, Process, Service, eventually

AUDIT_KEY = "44" * 32


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("pair"))
    migrate_now(pair.url(hosts=f"127.0.0.1:{pair.ports[0]}"))
    yield pair
    pair.close()


def replica_of(service: Service) -> str:
    state: str = httpx2.get(f"{service.url}/readyz").json()["replica"]
    return state


def found(service: Service, words: str) -> int:
    return len(service.http.get("/search", params={"q": words}).json()["data"])


def test_what_may_be_a_little_old_is_read_from_a_replica_and_nothing_else(
    pair: Pair, service_env: dict[str, str], emulator: Emulator, tmp_path: Path
) -> None:
    primary, standby = (f"127.0.0.1:{port}" for port in pair.ports)
    env = {
        **service_env,
        "DATABASE_URL": pair.url(hosts=primary),
        "EVERTHREAD_DATABASE_READ_URL": pair.url(hosts=standby),
        "EVERTHREAD_DATABASE_READ_LAG_SECONDS": "4",
        "EVERTHREAD_AUDIT_KEY": AUDIT_KEY,
    }
    service = Service(env=env)
    eventually(lambda: replica_of(service) == "ok")
    thread = service.thread(name="ada")
    service.turn(thread, "A word about xylophones.")
    eventually(lambda: found(service, "xylophones") == 1)

    run_sql(pair.url(hosts=standby), "SELECT pg_wal_replay_pause()")
    latest = service.turn(thread, "A word about bassoons.")
    assert found(service, "bassoons") == 0  # The replica has not heard of them.
    # The audit stream assigns positions on the primary, and a page that the replica has not is read there.
    assert latest["id"] in service.http.get("/audit/stream").text
    shown = service.http.get(f"/threads/{thread}/messages", params={"format": "chat"}).json()["data"]
    assert len(shown) == 4
    trail = tmp_path / "trail.ndjson"
    there = {**env, "EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key}
    exported = Process("audit", "export", str(trail), env=there)
    assert exported.ended() == 0, exported.lines
    turn = service.http.get(f"/threads/{thread}/turns").json()["data"][0]["id"]
    assert turn in trail.read_text()
    eventually(lambda: replica_of(service) == "behind")
    assert found(service, "bassoons") == 1

    run_sql(pair.url(hosts=standby), "SELECT pg_wal_replay_resume()")
    eventually(lambda: replica_of(service) == "ok")
    run_sql(pair.url(hosts=standby), "SELECT pg_wal_replay_pause()")
    assert found(service, "xylophones") == 1
    assert service.http.delete(f"/threads/{thread}").status_code == 200
    assert found(service, "xylophones") == 0  # However old the replica is, it shows nothing that is deleted.
    run_sql(pair.url(hosts=standby), "SELECT pg_wal_replay_resume()")
    verified = Process("audit", "verify", env=env)
    assert verified.ended() == 0, verified.lines
    assert not [line for line in verified.lines if "is not read from" in line]

    pair.stop_standby()
    verified = Process("audit", "verify", env=env)
    assert verified.ended() == 0, verified.lines
    assert "everthread: EVERTHREAD_DATABASE_READ_URL is not read from: unreachable." in verified.lines
    assert found(service, "xylophones") == 0
    assert service.http.get("/usage").status_code == 200
    eventually(lambda: replica_of(service) == "unreachable")
    assert httpx2.get(f"{service.url}/readyz").status_code == 200
    assert service.stop() == 0


def test_a_server_that_is_no_replica_of_the_database_is_not_read_from(
    service_env: dict[str, str], database_url: str, empty_database_url: str, emulator: Emulator
) -> None:
    migrate_now(empty_database_url)
    service = Service(env={**service_env, "EVERTHREAD_DATABASE_READ_URL": empty_database_url})
    eventually(lambda: replica_of(service) == "not a replica of this database")
    service.turn(service.thread(), "A word about harpsichords.")
    assert found(service, "harpsichords") == 1
    assert service.stop() == 0
    env = {**service_env, "EVERTHREAD_DATABASE_READ_URL": empty_database_url, "EVERTHREAD_AUDIT_KEY": AUDIT_KEY}
    verified = Process("audit", "verify", "--project", "nobody", env=env)
    verified.ended()
    assert verified.lines[0].endswith("is not read from: not a replica of this database.")


def test_a_url_of_a_replica_that_cannot_be_used_is_refused_in_a_sentence(service_env: dict[str, str]) -> None:
    refused = Process("serve", env={**service_env, "EVERTHREAD_DATABASE_READ_URL": "mysql://x"})
    assert refused.ended() == 1
    assert "Cannot use EVERTHREAD_DATABASE_READ_URL: it must begin with postgresql://" in refused.lines[-1]

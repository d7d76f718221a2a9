"""One Postgres, one Redis, one emulator and one service for the whole run: all real, over real sockets."""

import os
import random
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import httpcore2
import psutil
import pytest
from hypothesis import HealthCheck, settings

from tests.breakable import Servers
from tests.databases import migrated_database, new_database
from tests.projects import Project
from tests.servers import servers
from tests.service import Emulator, Process, Service, end_all

# The time that an example takes depends on how busy the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("gate", settings.get_profile("any machine"), max_examples=25)
settings.register_profile("quick", settings.get_profile("any machine"), max_examples=5)

# All clients of the tests share one TLS context. To make one takes longer than most requests do.
httpcore2.default_ssl_context = cache(httpcore2.default_ssl_context)

pytest_plugins = ["tests.console"]

ENCRYPTED = bool(os.environ.get("TEST_ENCRYPTED"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-minutes", type=float, default=0.25, help="How long tests/faults breaks things.")
    parser.addoption("--random-turns", type=int, default=300, help="How many random turns must all be answerable.")
    parser.addoption("--clients", action="store_true", help="Install and try other people's clients, too.")
    parser.addoption("--long", action="store_true", help="Run the tests marked long, too.")
    parser.addoption(
        "--quick", action="store_true", help="Run the service in this process, on a database that is kept."
    )
    parser.addoption("--fault-seed", type=int, default=None, help="Repeat the misfortunes of an earlier run.")


LONGEST = (
    "stopping", "leaving", "long_memory", "console", "console_panel", "console_acting", "console_now", "documents",
    "openapi", "durability", "serve", "audit", "sealed_contents", "encryption", "http11", "rolling_upgrade", "faults",
    "outages", "kept_answers", "limits", "bounds", "accounts", "transfer", "postgres_forms", "command_line", "examples",
    "console_failures", "console_usage", "live", "stream_tickets", "witnesses",
)  # fmt: skip
"""Test files that begin first, so that no worker ends with one of them while the others have nothing left."""


def pytest_configure(config: pytest.Config) -> None:
    quick, long = config.getoption("--quick"), config.getoption("--long")
    settings.load_profile("quick" if quick else "any machine" if long else "gate")
    Process.allowed = not quick


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unwanted = [name for name in ("clients", "long") if not config.getoption(f"--{name}")]
    left = [item for item in items if any(item.get_closest_marker(name) is not None for name in unwanted)]
    config.hook.pytest_deselected(items=left)
    # Each file stays whole, and the order within it as it is.
    items[:] = sorted((item for item in items if item not in left), key=_rank)


def _rank(item: pytest.Item) -> int:
    name = item.path.stem.removeprefix("test_")
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


@pytest.fixture(autouse=True)
def _ended_processes() -> Iterator[None]:
    """End the processes that a test started and did not end, for example because it failed."""
    before = set(Process.started)
    yield
    for process in Process.started - before:
        end_all(process.process.pid)
        process.ended()


_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run leaves no process behind, and in CI nothing is skipped; one that does has failed."""
    place = str(session.config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]
    left = [process for process in psutil.process_iter(["cmdline"]) if place in " ".join(process.info["cmdline"] or ())]
    for process in left:
        print(f"left behind, and ended: {' '.join(process.info['cmdline'])}")  # noqa: T201
        end_all(process.pid)
    missing = _skipped if "CI" in os.environ else []
    for line in missing:
        print(f"not to be skipped in CI: {line}")  # noqa: T201
    if (left or missing) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of a random test: that of --fault-seed, with --last-failed the one that failed, else a new one."""
    config = request.config
    place = f"seeds/{request.node.name}"
    earlier = config.cache.get(place, None) if config.cache is not None and config.getoption("lf") else None
    given: int | None = config.getoption("--fault-seed")
    seed = given if given is not None else earlier if earlier is not None else random.SystemRandom().randrange(1 << 32)
    if config.cache is not None:
        config.cache.set(place, seed)
    return seed


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--quick"))


def in_process() -> Any:
    """Return tests.in_process. It imports the service, which the process that hands out the tests does not need."""
    return import_module("tests.in_process")


@pytest.fixture(scope="session")
def server_urls(
    quick: bool, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    kept = pytestconfig.rootpath / ".pytest_cache" / "quick"
    if quick:
        kept.mkdir(parents=True, exist_ok=True)
    with in_process().kept_servers(kept) if quick else servers(tmp_path_factory.mktemp("servers")) as urls:
        yield urls


@pytest.fixture(scope="session")
def database_url(quick: bool, server_urls: tuple[str, str]) -> str:
    """A migrated database."""
    url: str = in_process().kept_database(server_urls[0]) if quick else migrated_database(server_urls[0])
    return url


@pytest.fixture
def empty_database_url(server_urls: tuple[str, str]) -> str:
    return new_database(server_urls[0])


@pytest.fixture
def fresh_database_url(server_urls: tuple[str, str]) -> str:
    """A migrated database of a test's own."""
    return migrated_database(server_urls[0])


@pytest.fixture
def fresh_env(fresh_database_url: str, service_env: dict[str, str]) -> dict[str, str]:
    """A service on a migrated database of a test's own, whose hosts sign with one key."""
    return {**service_env, "DATABASE_URL": fresh_database_url, "EVERTHREAD_AUDIT_KEY": "22" * 32}


@pytest.fixture(scope="session")
def redis_url(server_urls: tuple[str, str]) -> str:
    return server_urls[1]


@pytest.fixture(scope="session")
def running_emulator(quick: bool) -> Iterator[Emulator]:
    emulator: Emulator = in_process().InProcessEmulator() if quick else Emulator()
    yield emulator
    emulator.stop()


@pytest.fixture
def emulator(running_emulator: Emulator) -> Emulator:
    """The provider, with an empty memory and its clock right."""
    running_emulator.reset()
    return running_emulator


@pytest.fixture(scope="session")
def service_env(database_url: str, redis_url: str, running_emulator: Emulator) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DASHSCOPE_API_KEY": "sk-tests",
        "DASHSCOPE_BASE_URL": running_emulator.base_url,
        "EVERTHREAD_PROVIDER_STALL_SECONDS": "2",
        "EVERTHREAD_MAX_BODY_BYTES": "1000000",
        # Forks share their history; tests/test_copied_forks.py has those that copy it.
        "EVERTHREAD_FORK_COPIES_TURNS": "0",
        # The whole suite on a project whose contents are encrypted.
        **({"EVERTHREAD_ENCRYPT_PROJECTS": "true", "EVERTHREAD_MASTER_KEY": "44" * 32} if ENCRYPTED else {}),
        # In a Citus cluster lists would show what the tests have just written two seconds later.
        **({"EVERTHREAD_SETTLING_SECONDS": "0"} if os.environ.get("TEST_CITUS_NODES") else {}),
        **({"EVERTHREAD_CITUS_ROUTING": "true"} if os.environ.get("TEST_CITUS_ROUTING") else {}),
    }


@pytest.fixture(scope="session")
def running_service(quick: bool, service_env: dict[str, str]) -> Iterator[Service]:
    service: Service = in_process().InProcessService(service_env) if quick else Service(env=service_env)
    yield service
    code = service.stop()
    print("\n".join(line for line in service.process.lines if "exception" in line))  # noqa: T201
    assert code == 0


@pytest.fixture
def service(running_service: Service, emulator: Emulator) -> Service:
    """The service, on a provider with an empty memory."""
    return running_service


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A Postgres and a Redis of a module's own, to be stopped and started."""
    servers = Servers(tmp_path_factory.mktemp("own_servers"))
    yield servers
    servers.close()


@pytest.fixture
def own_env(own_servers: Servers, service_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A service on them, which is not patient."""
    return {
        **service_env,
        "DATABASE_URL": own_servers.database_url,
        "REDIS_URL": own_servers.redis_url,
        "EVERTHREAD_DATABASE_TIMEOUT_SECONDS": "2",
        "EVERTHREAD_LEASE_SECONDS": "3",
        "EVERTHREAD_DRAIN_SECONDS": "1",
        "EVERTHREAD_DATA_DIR": str(tmp_path / "data"),
        # The database outlives a test's directory, and lists the key of its first host.
        "EVERTHREAD_AUDIT_KEY": "11" * 32,
    }


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def project(
    service: Service, service_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """A project that nobody else talks in, with a signing key of its own."""
    project = Project(service, service_env, tmp_path_factory.mktemp("project"))
    yield project
    project.http.close()

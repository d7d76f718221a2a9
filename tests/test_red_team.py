"""Every attack of `tests/red_team.py` fails against a running service with two workers."""

from collections.abc import Callable, Iterator

import pytest

from tests.databases import migrated_database
from tests.red_team import ATTACKS, Target
from tests.service import Emulator


@pytest.fixture(scope="module")
def target(
    server_urls: tuple[str, str], service_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    url = migrated_database(server_urls[0])
    env = {name: value for name, value in service_env.items() if name != "EVERTHREAD_MAX_BODY_BYTES"}
    target = Target({**env, "DATABASE_URL": url}, tmp_path_factory.mktemp("red_team"))
    yield target
    assert target.stop() == 0


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attacker_fails_who(attack: Callable[[Target], None], target: Target, emulator: Emulator) -> None:
    attack(target)

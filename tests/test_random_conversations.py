"""No history makes a thread unanswerable: random conversations against a provider that refuses all it is known to."""

import pytest

from tests.random_conversations import Run
from tests.service import Emulator, Service


def test_every_conversation_can_always_go_on(
    service: Service, emulator: Emulator, seed: int, pytestconfig: pytest.Config
) -> None:
    run = Run(service, emulator, seed)
    run.until(pytestconfig.getoption("--random-turns"))
    print(run.summary())  # noqa: T201
    assert run.rebuilt > run.answered / 20
    assert run.reduced > 0
    assert run.refused < run.answered / 5

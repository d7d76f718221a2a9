"""Postgres has done what it was asked, and its answer is lost on the way."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.service import Emulator, Service
from tests.wire import Proxy

OPENS = "open_turn_v4"
CLOSES = "close_turn_v4"
LEAVES_QUEUE = "DELETE FROM waiters"
TAKES_OVER = "SET worker_id ="


@pytest.fixture
def env(service_env: dict[str, str], fresh_database_url: str) -> dict[str, str]:
    """A database that no other worker looks after."""
    return {**service_env, "DATABASE_URL": fresh_database_url, "EVERTHREAD_LEASE_SECONDS": "1.5"}


@pytest.fixture
def proxy(env: dict[str, str]) -> Proxy:
    return Proxy(env["DATABASE_URL"])


@pytest.fixture
def service(env: dict[str, str], proxy: Proxy) -> Iterator[Service]:
    service = Service(env={**env, "DATABASE_URL": proxy.url})
    yield service
    assert service.stop() == 0


def test_a_turn_whose_opening_was_not_confirmed_can_be_sent_again(
    service: Service, proxy: Proxy, emulator: Emulator
) -> None:
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    ask, headers = {"input": "What is my name?"}, {"Idempotency-Key": "once"}
    proxy.lose_answer_to(OPENS)
    lost = service.http.post(f"/threads/{thread}/turns", json=ask, headers=headers)
    assert (lost.status_code, lost.json()["error"]["code"]) == (503, "database_unavailable")
    turn = service.ended_turn(thread)
    assert (turn["status"], turn["error"]["code"]) == ("failed", "database_unavailable")
    again = service.http.post(f"/threads/{thread}/turns", json=ask, headers=headers)
    assert (again.status_code, again.json()["output_text"]) == (200, "Ada")
    assert len(emulator.calls()) == 2


def test_the_model_is_asked_once_by_a_retry_that_comes_at_once_after_a_lost_opening(
    service: Service, proxy: Proxy, emulator: Emulator
) -> None:
    thread, headers = service.thread(), {"Idempotency-Key": "at once"}
    proxy.lose_answer_to(OPENS)
    answers = [
        service.http.post(f"/threads/{thread}/turns", json={"input": "Echo: asked"}, headers=headers) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [503, 200]
    assert answers[1].json()["output_text"] == "asked"
    assert len(emulator.calls()) == 1


def test_a_turn_whose_closing_was_not_confirmed_is_closed_once(
    service: Service, proxy: Proxy, emulator: Emulator
) -> None:
    thread = service.thread()
    proxy.lose_answer_to(CLOSES)
    assert service.turn(thread, "Echo: once")["output_text"] == "once"
    assert proxy.lost
    assert service.http.get(f"/threads/{thread}").json()["turn_count"] == 1
    assert service.turn(thread, "Echo: twice")["continuation"] == "chained"
    assert len(emulator.calls()) == 2


def test_a_turn_that_waited_goes_on_though_leaving_the_queue_was_not_confirmed(
    service: Service, proxy: Proxy, emulator: Emulator
) -> None:
    thread = service.thread()
    emulator.fault("slow", seconds=0.5)
    service.http.post(f"/threads/{thread}/turns", json={"input": "Hi", "background": True})
    proxy.lose_answer_to(LEAVES_QUEUE)
    assert service.turn(thread, "Echo: waited", if_busy="wait")["output_text"] == "waited"
    assert proxy.lost
    assert service.http.get(f"/threads/{thread}").json()["turn_count"] == 2


def test_a_dead_workers_turn_is_closed_though_its_taking_over_was_not_confirmed(
    env: dict[str, str], service: Service, proxy: Proxy, emulator: Emulator
) -> None:
    doomed = Service(env=env)
    thread = doomed.thread()
    emulator.fault("stall", seconds=60)
    doomed.http.post(f"/threads/{thread}/turns", json={"input": "Hi", "background": True})
    while not emulator.calls():
        time.sleep(0.02)
    proxy.lose_answer_to(TAKES_OVER)
    doomed.process.stop(signal.SIGKILL)
    turn = service.ended_turn(thread)
    assert proxy.lost
    # Nothing had been said.
    assert (turn["status"], turn["error"]["code"]) == ("failed", "interrupted")
    assert service.turn(thread, "Echo: on")["output_text"] == "on"

"""Two hosts with clocks an hour apart: lists have the order in which things happened, and followers miss nothing."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libfaketime
import pytest

from tests.service import Emulator, Service, eventually

LIBRARY = Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"

FAKED = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": "-3600s", "DONT_FAKE_MONOTONIC": "1"}
"""An hour behind."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="libfaketime is preloaded, as Linux does it")


@pytest.fixture(scope="module")
def behind(service_env: dict[str, str], running_service: Service) -> Iterator[Service]:
    """A second host, an hour behind the first."""
    service = Service(env={**service_env, **FAKED})
    yield service
    assert service.stop() == 0


class Follower:
    """Somebody who reads a list from where they are, again and again."""

    def __init__(self, service: Service, path: str, **params: str) -> None:
        self._service = service
        self._path = path
        self._params = params
        self.seen: list[dict[str, Any]] = []
        first = service.http.get(path, params={**params, "limit": "1"}).json()
        self._after = first["last_id"]

    def read(self) -> list[str]:
        while True:
            after = {} if self._after is None else {"after": self._after}
            asked = {**self._params, "order": "asc", "limit": "7", **after}
            answer = self._service.http.get(self._path, params=asked)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            self.seen += page["data"]
            self._after = page["last_id"] or self._after
            if not page["has_more"]:
                return [each["id"] for each in self.seen]


def test_the_second_host_is_an_hour_behind(behind: Service, service: Service, emulator: Emulator) -> None:
    thread = behind.thread()
    said = [host.turn(thread, "Hi") for host in (service, behind)]
    # The provider's answer is dated by the provider; ids are the workers' own.
    moments = [int(turn["id"].removeprefix("turn_")[:12], 16) / 1000 for turn in said]
    assert 3500 < moments[0] - moments[1] < 3700
    # What is shown is dated by the database.
    assert abs(said[0]["created_at"] - said[1]["created_at"]) < 60


@pytest.mark.parametrize("order_by", ["created", "activity"])
def test_who_follows_the_threads_sees_each_once_in_the_order_they_were_made(
    behind: Service, service: Service, order_by: str
) -> None:
    follower = Follower(service, "/threads", order_by=order_by)
    made: list[str] = []
    for number in range(12):
        made.append((service, behind)[number % 2].thread())
        follower.read()
    # What was made while anybody's transaction was open is seen when that one has ended.
    eventually(lambda: len(follower.read()) >= len(made))
    assert follower.read() == made
    listed = service.http.get("/threads", params={"limit": 12, "order_by": order_by}).json()["data"]
    assert [thread["id"] for thread in listed] == made[::-1]


def test_who_follows_while_many_write_at_once_misses_none(service_env: dict[str, str], emulator: Emulator) -> None:
    # With the settling time that they have by themselves, in a cluster too.
    env = {name: value for name, value in service_env.items() if name != "EVERTHREAD_SETTLING_SECONDS"}
    service, behind = Service(env=env), Service(env={**env, **FAKED})
    follower = Follower(service, "/threads")
    with ThreadPoolExecutor(8) as pool:
        made = [pool.submit((service, behind)[n % 2].thread) for n in range(80)]
        while not all(each.done() for each in made):
            follower.read()
    eventually(lambda: len(follower.read()) >= len(made))
    seen = follower.read()
    assert len(seen) == len(set(seen))
    assert set(seen) == {each.result() for each in made}
    assert (service.stop(), behind.stop()) == (0, 0)


def test_who_follows_a_threads_turns_sees_each_once_in_their_order(
    behind: Service, service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    first = service.turn(thread, "Echo: 0")["id"]
    follower = Follower(behind, f"/threads/{thread}/turns")
    said = [first]
    for number in range(1, 9):
        said.append((service, behind)[number % 2].turn(thread, f"Echo: {number}")["id"])
        follower.read()
    assert follower.read() == said[1:]
    texts = [turn["output_text"] for turn in follower.seen]
    assert texts == [str(number) for number in range(1, 9)]
    listed = behind.http.get(f"/threads/{thread}/turns").json()["data"]
    assert [turn["id"] for turn in listed] == said[::-1]


def test_who_follows_the_audit_trail_sees_each_record_once(
    behind: Service, service: Service, emulator: Emulator
) -> None:
    follower = Follower(service, "/audit")
    before = len(follower.read())
    threads = [host.thread() for host in (service, behind)]
    with ThreadPoolExecutor(8) as pool:
        for number in range(16):
            pool.submit((service, behind)[number % 2].turn, threads[number // 2 % 2], "Hi", if_busy="wait")
            follower.read()
    seen = follower.read()
    assert len(seen) == len(set(seen))
    mine = [record for record in follower.seen[before:] if record["thread"] in threads]
    assert len(mine) == 2 + 16 * 3
    for thread in threads:
        assert [record["seq"] for record in mine if record["thread"] == thread] == list(range(1, 26))


def test_the_id_of_a_deleted_thread_is_still_a_place_in_the_list(behind: Service, service: Service) -> None:
    threads = [(service, behind)[n % 2].thread() for n in range(5)]
    assert service.http.delete(f"/threads/{threads[2]}").status_code == 200
    for host in (service, behind):
        params = {"after": threads[2], "order": "asc"}
        later = host.http.get("/threads", params=params).json()["data"]
        assert [thread["id"] for thread in later[:2]] == threads[3:]
        params = {"before": threads[2], "order": "asc", "limit": "2"}
        earlier = host.http.get("/threads", params=params).json()["data"]
        assert [thread["id"] for thread in earlier] == threads[:2]

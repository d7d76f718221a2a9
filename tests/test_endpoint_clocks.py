"""Endpoints whose dates are wrong: response ids live as long as they do, and the operator is told once."""

import time
from typing import Any

import httpx2
import pytest

from app.chain import continuation
from tests.service import Emulator, Service
from tests.tenants import Tenant
from tests.test_command_line import lines_of

HOUR = 3600.0
DAY = 24 * HOUR


def metric(service: Service, direction: str) -> float:
    lines = httpx2.get(f"{service.url}/metrics").text.splitlines()
    named = [line for line in lines if line.startswith("everthread_implausible_dates_total{") and direction in line]
    return sum(float(line.rpartition(" ")[2]) for line in named)


def continued(service: Service) -> list[str]:
    """Three turns of a thread, and how each continued the one before."""
    thread = service.thread()
    service.turn(thread, "My name is Ada.")
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    service.turn(thread, "What is my name?")
    return [entry["continuation"] for entry in service.chain(thread)]


@pytest.mark.parametrize("days", [-30, -1 / 24, 1 / 24, 400])
def test_turns_are_chained_at_an_endpoint_whose_clock_is_off(service: Service, emulator: Emulator, days: float) -> None:
    direction = "past" if days < 0 else "future"
    before = metric(service, direction)
    emulator.advance(days=days)
    assert continued(service) == ["new", "chained", "chained"]
    assert metric(service, direction) == before + 3


@pytest.mark.parametrize("unit", [1, 1000])
def test_turns_are_chained_where_a_cache_gives_each_answer_the_same_date(
    service: Service, emulator: Emulator, unit: int
) -> None:
    before = metric(service, "past")
    emulator.control("clock", {"created_at": 1_769_173_209 * unit})
    assert continued(service) == ["new", "chained", "chained"]
    assert metric(service, "past") == before + 3


def test_a_date_in_milliseconds_is_a_date(service: Service, emulator: Emulator) -> None:
    before = metric(service, "past") + metric(service, "future")
    emulator.control("clock", {"created_at": int(time.time() * 1000)})
    thread = service.thread()
    service.turn(thread, "Hi")
    (entry,) = service.chain(thread)
    assert abs(entry["response_created_at"] - time.time()) < 60
    assert continued(service) == ["new", "chained", "chained"]
    assert metric(service, "past") + metric(service, "future") == before


@pytest.mark.parametrize(
    ("created_at", "expires"),
    [
        # Within a plausible skew, the earlier clock counts.
        (-continuation.PLAUSIBLE_SKEW_SECONDS, -continuation.PLAUSIBLE_SKEW_SECONDS), (-30.5, -30.5), (0, 0), (30, 0),
        # Beyond it, our own does.
        (-continuation.PLAUSIBLE_SKEW_SECONDS - 1, 0), (-HOUR, 0), (-30 * DAY, 0), (8 * HOUR, 0), (400 * DAY, 0),
    ],
)  # fmt: skip
def test_the_earlier_clock_counts_within_a_plausible_skew(created_at: float, expires: float) -> None:
    now = 1_790_500_000.0
    for value in (now + created_at, (now + created_at) * 1000):
        created = continuation.seconds(value)
        found = continuation.expires_at(created, called_at=now, ttl_seconds=7 * DAY)
        assert found == pytest.approx(now + expires + 7 * DAY)


@pytest.mark.parametrize("value", [None, "1790500000", 0, -1, 1e300, float("nan"), float("inf"), [], {}])
def test_what_is_no_date_leaves_our_clock(value: Any) -> None:
    created = continuation.seconds(value)
    assert created is None
    assert continuation.expires_at(created, called_at=10.0, ttl_seconds=5) == 15.0
    assert continuation.disagreement(created, called_at=10.0, answered_at=11.0) is None


def test_a_long_answer_is_not_in_the_future() -> None:
    # Dated at its end, after an hour of thinking.
    assert continuation.disagreement(HOUR, called_at=1.0, answered_at=HOUR) is None
    assert continuation.disagreement(3 * HOUR, called_at=1.0, answered_at=HOUR) == "future"


def test_the_log_tells_once_of_an_account_and_the_doctor_shows_it(
    fresh_env: dict[str, str], emulator: Emulator
) -> None:
    service = Service(env={**fresh_env, "EVERTHREAD_ACCOUNTS_INSIDE": "true"})
    assert continued(service) == ["new", "chained", "chained"]
    code, lines = lines_of("doctor", env=fresh_env)
    assert "dates:      ok: those of the last answers agree with the database's clock" in lines
    emulator.advance(days=-30)
    assert continued(service) == ["new", "chained", "chained"]
    told = [line for line in service.process.lines if "far from this host's clock" in line]
    assert len(told) == 1
    assert "past" in told[0]
    assert "127.0.0.1" in told[0]
    tenant = Tenant(service)
    tenant.account("own", emulator.base_url, "sk-of-a-tenant")
    tenant.turn(tenant.thread(), "Hi")
    (own,) = (line for line in service.process.lines if "far from this host's clock" in line and line not in told)
    # Logs name no endpoint of a project.
    assert "acct_" in own
    assert "127.0.0.1" not in own
    code, lines = lines_of("doctor", env=fresh_env)
    (said,) = (line for line in lines if line.startswith("dates:"))
    assert "3 of the last answers of 127.0.0.1" in said
    assert "are dated 720.0 hours in the past" in said
    assert code == 0
    assert lines_of("doctor", "--strict", env=fresh_env)[0] == 1
    assert service.stop() == 0

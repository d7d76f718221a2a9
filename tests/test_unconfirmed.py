"""Turns whose opening is not confirmed: a worker remembers a bounded number of them, for a bounded time."""

from app.db import ids
from app.turns.unconfirmed import LEASES, MOST_KEPT, Unconfirmed


def test_a_long_outage_leaves_a_bounded_number_of_turns_to_look_for() -> None:
    turns = [ids.new_id(bucket % 4) for bucket in range(MOST_KEPT + 500)]
    unconfirmed: Unconfirmed[object] = Unconfirmed(lease_seconds=30)
    for turn in turns:
        unconfirmed.add(turn, turn)
    assert unconfirmed.of(None) == turns[-MOST_KEPT:]
    assert unconfirmed.of(3) == [turn for turn in turns[-MOST_KEPT:] if ids.bucket_of(turn) == 3]


def test_a_turn_is_forgotten_when_its_lease_has_long_run_out() -> None:
    moments = iter((0.0, 0.0, 29.0, 31.0, LEASES * 30.0, LEASES * 30.0 + 1))
    unconfirmed: Unconfirmed[str] = Unconfirmed(lease_seconds=30, now=lambda: next(moments))
    turn = ids.new_id(1)
    unconfirmed.add(turn, "a turn")
    assert [unconfirmed.may_appear(turn), unconfirmed.may_appear(turn)] == [True, False]
    assert [unconfirmed.of(1), unconfirmed.of(1)] == [["a turn"], []]


def test_a_turn_that_was_closed_is_not_looked_for_again() -> None:
    unconfirmed: Unconfirmed[str] = Unconfirmed(lease_seconds=30)
    turn = ids.new_id(1)
    unconfirmed.add(turn, "a turn")
    unconfirmed.discard(turn)
    assert not unconfirmed.may_appear(turn)
    assert unconfirmed.of(None) == []

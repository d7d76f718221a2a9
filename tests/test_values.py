"""Value classes (`process/values.py`), plain and fast at run time; and values that are shared."""

import copy
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace

import pytest

from app.http.errors import Unauthorized
from app.process.values import value


@value
class Point:
    x: int
    y: int = 0
    tags: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Frozen:
    x: int
    y: int = 0
    tags: tuple[str, ...] = field(default=(), compare=False)


def test_the_type_checker_refuses_an_assignment_to_a_field() -> None:
    """mypy runs with `warn_unused_ignores`: it fails here as soon as it takes one of these assignments."""
    point = Point(1)
    point.x = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Frozen(1).x = 2  # type: ignore[misc]


def test_it_behaves_as_a_frozen_dataclass_in_all_else() -> None:
    assert [found.name for found in fields(Point)] == [found.name for found in fields(Frozen)]
    assert Point(1, tags=("a",)) == Point(1) != Point(2)
    assert len({Point(1), Point(1, tags=("a",)), Point(2)}) == len({Frozen(1), Frozen(1, tags=("a",)), Frozen(2)}) == 2
    assert replace(Point(1), y=3) == Point(1, 3)
    assert repr(Point(1)) == repr(Frozen(1)).replace("Frozen", "Point")
    assert copy.deepcopy(Point(1)) == Point(1)
    with pytest.raises(AttributeError):
        Point(1).z = 1  # type: ignore[attr-defined]


def test_its_init_sets_the_fields_directly() -> None:
    assert "__setattr__" in Frozen.__init__.__code__.co_names
    assert "__setattr__" not in Point.__init__.__code__.co_names


def test_headers_of_one_error_are_not_given_to_the_next() -> None:
    given = {"WWW-Authenticate": "Bearer"}
    one = Unauthorized("No key.", headers=given).with_headers({"Everthread-Turn": "turn_1"})
    assert one.headers == {"WWW-Authenticate": "Bearer", "Everthread-Turn": "turn_1"}
    assert Unauthorized("No key.", headers=given).headers == {"WWW-Authenticate": "Bearer"}

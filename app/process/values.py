"""Classes of values: read-only to the type checker, with a plain `__init__` at run time."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[_Class]) -> type[_Class]:
    """Make a dataclass whose instances the type checker treats as frozen: it refuses an assignment to a field.

    Nothing refuses it at run time: the `__init__` of a frozen dataclass calls `object.__setattr__` for each field,
    which costs two to three times as much. For values that every turn makes; others are `dataclass(frozen=True)`.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)

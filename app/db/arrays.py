"""Array arguments of asyncpg, told by their types.

asyncpg asks abstract base classes whether an argument is an array: three for each array, and one or two for each
element, which is 120 calls of Python a turn. It is given the concrete types first, which answer at once.
"""

from collections.abc import Iterable, Sized

from asyncpg.protocol import protocol

_USUAL = (list, tuple, str, bytes)
"""Arrays, and those elements that asyncpg itself tells from arrays."""

_CLASSES = {"IterableABC": (*_USUAL, Iterable), "SizedABC": (*_USUAL, Sized), "MappingABC": dict}
"""The classes by asyncpg's names. Every other sized iterable is an array as before, and no dict is one."""


def told_by_type() -> None:
    """Replace the classes that asyncpg asks."""
    for name, classes in _CLASSES.items():
        setattr(protocol, name, classes)

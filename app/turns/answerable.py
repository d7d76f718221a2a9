"""The moment from which a client can be answered."""

from collections.abc import Callable
from typing import Any


class Answerable:
    """Set with a turn's first event, or when the turn is closed.

    It has a future's methods, as far as they are used. A future calls back in a later round of the event loop; this
    does so at once.
    """

    __slots__ = ("_callbacks", "_done")

    def __init__(self) -> None:
        self._done = False
        self._callbacks: list[Callable[[Any], object]] = []

    def done(self) -> bool:
        return self._done

    def set_result(self, _: None) -> None:
        self._done = True
        for callback in self._callbacks:
            callback(self)

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        self._callbacks.append(callback)

    def remove_done_callback(self, callback: Callable[[Any], object], /) -> None:
        self._callbacks.remove(callback)

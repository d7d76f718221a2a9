"""The pace of a stream: when each delta of its text came, and how long it was. The text itself is in the items."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Pace:
    """Taken down as the stream passes."""

    chars: list[int] = field(default_factory=list)
    """The length of each delta."""
    milliseconds: list[int] = field(default_factory=list)
    """When each came."""

    def add(self, delta: Any) -> None:
        self.chars.append(len(delta) if isinstance(delta, str) else 0)

    def arrived(self, milliseconds: int) -> None:
        """Date the deltas that were added since the last call."""
        self.milliseconds += [milliseconds] * (len(self.chars) - len(self.milliseconds))

    @property
    def first(self) -> int | None:
        """When the first delta came, in milliseconds; None of a stream without text."""
        return self.milliseconds[0] if self.milliseconds else None

    def measured(self) -> dict[str, Any] | None:
        """The pace as it is kept; None of a stream without text."""
        return {"ms": self.milliseconds[: len(self.chars)], "chars": self.chars} if self.chars else None


def deltas(text: str, pace: dict[str, Any] | None, start: int) -> list[tuple[str, int]]:
    """A text as the deltas that it came in, each with its milliseconds; in one piece if that is not known.

    Args:
        start: how many of the pace's deltas earlier texts of the same answer have used.
    """
    if pace is None:
        return [(text, 0)]
    pieces: list[tuple[str, int]] = []
    done = 0
    for place in range(start, len(pace["chars"])):
        if done == len(text):
            break
        chars = pace["chars"][place]
        pieces.append((text[done : done + chars], pace["ms"][place]))
        done += chars
    return pieces if done == len(text) else [(text, pieces[0][1] if pieces else 0)]

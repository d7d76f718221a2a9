"""State of a chain: how much the model is sent with the next turn, and what was left out of it, since when."""

import dataclasses
from dataclasses import replace
from typing import Any
from uuid import UUID

from typing_extensions import TypedDict

from app.chain.reduction import TARGET_BYTES, ReducedObject, Reduction, uuid_hex
from app.db import ids
from app.items import media
from app.items.shapes import fields_of, string
from app.items.weights import count
from app.process.values import value

LONGEST_TARGET = 2 * TARGET_BYTES
COUNTS = (
    "window", "tokens", "floor", "overhead_tokens", "dropped_items", *media.COUNTED.values(), "reasoning_left_out",
)  # fmt: skip


class ContextObject(TypedDict):
    """Use of the model's window, and the parts of the history that are no longer sent."""

    tokens: int
    window: int
    share: float | None
    dropped_items: int
    since: str | None
    compaction: str | None
    images_in_words: int
    videos_in_words: int
    audio_in_words: int
    files_in_words: int
    reasoning_left_out: int
    reduced: ReducedObject | None
    cut_by_provider: bool


@value
class Context:
    """A turn's. Kept with it, and beside the live id of its response."""

    window: int = 0
    """The model's, in tokens."""
    tokens: int = 0
    """Upper bound of the tokens that the next turn carries over, as the provider has counted."""
    floor: int = 0
    """Lower bound of the provider's count for the next turn, if it cuts nothing; 0 where it is unknown."""
    overhead_tokens: int = 0
    """Tokens of instructions and tools in it, which each turn sends again."""
    dropped_items: int = 0
    """Number of the oldest items that the model was not sent."""
    since: str | None = None
    """The turn since which some are missing."""
    compaction: str | None = None
    """Compaction that replaces the branch's beginning."""
    cut: bool = False
    """The provider has left out something, and not said so."""
    at: float = 0.0
    """When the turn ended, Unix seconds."""
    quick: float = 0.5
    """Share of the branch's turns that came within the life of a cached context; the latest weigh most."""
    images_in_words: int = 0
    """Number of images of the history that text replaces: the model does not take them, or the body of the request was
    too large."""
    videos_in_words: int = 0
    audio_in_words: int = 0
    files_in_words: int = 0
    reduced: Reduction | None = None
    """The reduction of the history after the provider had refused it."""
    reasoning_left_out: int = 0
    """Encrypted reasoning that the model was not sent: another one made it, or the provider refused it."""
    reasoning_refused: str | None = None
    """The model and account that refused it, as `target_of` gives them."""

    def values(self) -> tuple[Any, ...]:
        """Its fields in their order, for what only we can have written: `from_values` makes it again."""
        return (
            self.window, self.tokens, self.floor, self.overhead_tokens, self.dropped_items, self.since, self.compaction,
            self.cut, self.at, self.quick, self.images_in_words, self.videos_in_words, self.audio_in_words,
            self.files_in_words, None if self.reduced is None else self.reduced.to_json(), self.reasoning_left_out,
            self.reasoning_refused,
        )  # fmt: skip

    @classmethod
    def from_values(cls, *values: Any) -> "Context":
        """Return the context that `values` gave.

        Raises:
            TypeError: another release has written them.
        """
        made = cls(*values)
        return made if made.reduced is None else replace(made, reduced=Reduction.from_json(made.reduced))

    def to_json(self) -> dict[str, Any]:
        """As JSON, without what is as in any context."""
        return {
            name: value for name, value, common in zip(_NAMES, self.values(), _COMMON, strict=True) if value != common
        }

    @classmethod
    def from_json(cls, value: Any) -> "Context":
        """A context read back, whatever it is: what cannot be told from it counts as unknown."""
        said = fields_of(value)
        quick, at = said.get("quick"), said.get("at")
        return cls(
            **{name: count(said.get(name)) for name in COUNTS},
            since=uuid_hex(said.get("since")),
            compaction=uuid_hex(said.get("compaction")),
            cut=said.get("cut") is True,
            at=float(at) if isinstance(at, int | float) and 0 < at < 1e11 else 0.0,
            quick=float(quick) if isinstance(quick, int | float) and 0 <= quick <= 1 else 0.5,
            reduced=Reduction.from_json(said.get("reduced")),
            reasoning_refused=string(said.get("reasoning_refused"))[:LONGEST_TARGET] or None,
        )

    def shown(self) -> ContextObject:
        """As clients see it."""
        return {
            "tokens": self.tokens,
            "window": self.window,
            "share": round(self.tokens / self.window, 6) if self.window else None,
            "dropped_items": self.dropped_items,
            "since": None if self.since is None else ids.turn_id(UUID(self.since)),
            "compaction": None if self.compaction is None else ids.compaction_id(UUID(self.compaction)),
            "images_in_words": self.images_in_words,
            "videos_in_words": self.videos_in_words,
            "audio_in_words": self.audio_in_words,
            "files_in_words": self.files_in_words,
            "reasoning_left_out": self.reasoning_left_out,
            "reduced": None if self.reduced is None else self.reduced.shown(),
            "cut_by_provider": self.cut,
        }


UNKNOWN = Context()
_NAMES, _COMMON = tuple(field.name for field in dataclasses.fields(Context)), UNKNOWN.values()

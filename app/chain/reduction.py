"""Steps by which a history that the provider refuses is made smaller, and the record of the step that was reached.

A refusal of a rebuilt input is answered with the next step, within the same turn. Each step includes those before it.
Nothing is deleted: a step says what is sent. The step that succeeds is kept with the turn (`Context.reduced`), covers
the history up to the turn that the refused input ended with, and holds for as long as model and account stay the same.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any
from uuid import UUID

from typing_extensions import TypedDict

from app.db import ids
from app.items.shapes import fields_of, string

TARGET_BYTES = 8
LONGEST_CODE = 200


class Step(IntEnum):
    WHOLE = 0
    WITHOUT_IMAGES = 1
    """Images are words."""
    WORDS_ONLY = 2
    """Tool calls with their outputs are words; the output of server-side tools and encrypted reasoning are left out."""
    NEWEST_HALF = 3
    """The older half, by weight, is left out. A ready compaction, system messages and pinned items stay."""
    NEWEST_QUARTER = 4
    LEFT_OUT = 5
    """Nothing but system messages, pinned items, and the calls that the new input answers."""

    @property
    def kept_share(self) -> float:
        """The share of the history's weight that stays."""
        return {Step.NEWEST_HALF: 0.5, Step.NEWEST_QUARTER: 0.25, Step.LEFT_OUT: 0.0}.get(self, 1.0)

    @property
    def label(self) -> str:
        """The step's name in headers, metrics and the API."""
        return self.name.lower()


LAST_IN_WORDS = Step.WORDS_ONLY
"""Last step that leaves nothing of the conversation out."""

_BY_NAME = {step.label: step for step in Step if step is not Step.WHOLE}


class ReducedObject(TypedDict):
    """The part of a history that the provider refused, and what is sent instead."""

    history: str
    """`without_images`, `words_only`, `newest_half`, `newest_quarter` or `left_out`."""
    through: str
    """The last turn of the history that is sent so. Later turns are sent whole."""
    code: str
    """The provider's code for its refusal."""
    refused_turns: list[str]
    """The first and the last of the turns that hold what was refused; one where it is known to be that one."""


@dataclass(frozen=True, slots=True)
class Reduction:
    step: Step
    through: str
    """The hex id of the last turn that it covers."""
    target: str
    """The model and account that refused, as `target_of` gives them."""
    code: str = ""
    refused: tuple[str, ...] = ()
    """The hex ids of the first and the last turn of what the step changed: what was refused is among them."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "step": self.step.label,
            "through": self.through,
            "target": self.target,
            "code": self.code,
            "refused": list(self.refused),
        }

    @classmethod
    def from_json(cls, value: Any) -> "Reduction | None":
        """Read it back from any value; None for anything that is no reduction."""
        said = fields_of(value)
        step, through = _BY_NAME.get(string(said.get("step"))), uuid_hex(said.get("through"))
        if step is None or through is None:
            return None
        refused = said.get("refused")
        turns = [
            turn for each in (refused if isinstance(refused, list) else []) if (turn := uuid_hex(each)) is not None
        ]
        return cls(step, through, string(said.get("target")), string(said.get("code"))[:LONGEST_CODE], tuple(turns[:2]))

    def shown(self) -> ReducedObject:
        """Return it as clients see it."""
        return {
            "history": self.step.label,
            "through": ids.turn_id(UUID(self.through)),
            "code": self.code,
            "refused_turns": [ids.turn_id(UUID(turn)) for turn in self.refused],
        }


def target_of(binding: str, model: str) -> str:
    """Return a short digest of an account and a model."""
    return hashlib.sha256(f"{binding}\n{model}".encode()).hexdigest()[: 2 * TARGET_BYTES]


def first_and_last(turns: Sequence[UUID]) -> tuple[str, ...]:
    """Return the hex ids of the first and the last of some turns, which are in their order."""
    return tuple(dict.fromkeys(turn.hex for turn in (turns[0], turns[-1]))) if turns else ()


def uuid_hex(value: Any) -> str | None:
    """Return the hex digits of a UUID; None for anything else."""
    try:
        return UUID(value).hex if isinstance(value, str) else None
    except ValueError:
        return None

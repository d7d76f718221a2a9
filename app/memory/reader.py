"""The input for a model that has lost a conversation: its branch, read, counted and rebuilt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from app.chain.continuation import Target
from app.chain.rebuild import Abilities, Rebuilding
from app.chain.reduction import Reduction, Step
from app.items import vocabulary
from app.items.kinds import is_encrypted_reasoning, sent_back
from app.items.shapes import MODALITIES, Item, Modality
from app.memory.observations import ModelObservations
from app.memory.store import Branch, BranchItem, MemoryStore
from app.provider.models import Family

MOST_TARGETS = 1000
"""Largest number of targets that are remembered."""

COUNTED_FROM = 0.5
"""From which share of the budget on an estimate is not enough, and items are counted."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    input: list[Item]
    encoded: list[bytes]
    """The same items as JSON, each behind a comma."""
    sources: list[list[str]]
    """For each of the input the ids of what it was made of, of the history alone."""
    dropped_items: int
    tokens: int
    """Tokens of the item: its stored count, else an estimate on the high side."""
    counted: bool
    compaction: UUID | None
    media_as_text: Mapping[Modality, int] = field(default_factory=dict)
    """Number of images and other media of the history that text replaces."""
    reduction: Reduction | None = None
    """The one that was asked for, if it covers anything."""
    reasoning_left_out: int = 0
    """Encrypted reasoning that this model cannot be sent."""
    turns: Mapping[str, UUID] = field(default_factory=dict)
    """The turn of each item of the history, by the item's id, in order."""


class Reader:
    def __init__(self, store: MemoryStore, observations: ModelObservations, *, byte_budget: int | None = None) -> None:
        self.store = store
        self.observations = observations
        self._byte_budget = byte_budget
        self._targets: dict[tuple[str, str], tuple[int, Family, Target]] = {}
        """The latest targets, each with the number of changes that it was made after, and with the family."""

    def target(self, binding: str, family: Family, model: str) -> Target:
        """A model at an account, with what it can take."""
        observed = self.observations.at(binding)
        known = self._targets.get((binding, model))
        if known is not None and known[0] == observed.changes and known[1] is family:
            return known[2]
        budget, enforces = observed.token_budget(family, model), observed.enforces_format(family, model)
        taken = MODALITIES.intersection(family.modalities)
        target = Target(binding, model, Abilities(budget, taken, family.tool_outputs, self._byte_budget), enforces)
        if len(self._targets) >= MOST_TARGETS:
            self._targets.clear()
        self._targets[binding, model] = (observed.changes, family, target)
        return target

    async def model_input(
        self,
        project_id: UUID,
        parent_id: UUID | None,
        new: Sequence[Item],
        target: Target,
        *,
        counting: bool = False,
        reduction: Reduction | None = None,
        reasoning: bool = True,
    ) -> ModelInput:
        """The whole input: what came before, and what is new.

        Args:
            parent_id: the last turn of what came before; None for a conversation that begins.
            target: the model, with what it can take of it.
            counting: whether it is counted in any case.
            reduction: how much less is sent, after the provider has refused the history. It is left aside where the
                turn that it goes up to is not in the branch any more, or a compaction covers it.
            reasoning: False where the provider has refused the encrypted reasoning.
        """
        branch = Branch() if parent_id is None else await self.store.branch(project_id, parent_id)
        compacted = branch.compacted
        kept = [] if compacted is None else compacted.kept_items
        before = [*kept, *branch.items]
        items = [
            item.stored.data if item.stored.type == "message" else _as_sent(item, target, reasoning=reasoning)
            for item in before
        ]
        counted_new = new
        if reasoning:
            new = [sent_back(item) if is_encrypted_reasoning(item) else item for item in new]
        left_out = sum(item.get("type") == "reasoning" and is_encrypted_reasoning(item) for item in [*items, *new])
        item_ids = [item.stored.id for item in before]
        reached = _reached(branch, reduction)
        reduction = None if reached is None else reduction
        step = Step.WHOLE if reduction is None else reduction.step
        summary = None if step is Step.LEFT_OUT else compacted
        if summary is not None:
            items.insert(len(kept), summary.item)
            item_ids.insert(len(kept), summary.source)
        reduced_items = len(items) - len(branch.items) + (reached or 0)
        abilities, observations = target.abilities, self.observations.at(target.binding)
        rebuilding = Rebuilding(items, new, abilities, step=step, reduced_items=reduced_items)
        rebuilt = rebuilding.fitted()
        counted = counting or rebuilt.whole > COUNTED_FROM * abilities.token_budget
        if counted:
            counts = await self.store.count(project_id, before)
            if summary is not None:
                counts.insert(len(kept), summary.tokens)
            counts += await vocabulary.counts(counted_new)
            rebuilt = rebuilding.fitted(observations.expected(target.model, counts))
        return ModelInput(
            rebuilt.input,
            rebuilt.encoded,
            [[item_ids[place] for place in places] for places in rebuilt.sources],
            rebuilt.dropped_items + branch.left_out,
            rebuilt.tokens,
            counted and rebuilt.exact,
            None if summary is None else summary.id,
            rebuilt.media_as_text,
            reduction,
            left_out,
            {item.stored.id: item.turn_id for item in before},
        )


def _reached(branch: Branch, reduction: Reduction | None) -> int | None:
    """Return how many of a branch's items a reduction covers; None where its last turn is not among them."""
    turns = [turn.id.hex for turn in branch.turns]
    if reduction is None or reduction.through not in turns:
        return None
    reached = set(turns[: turns.index(reduction.through) + 1])
    return sum(item.turn_id.hex in reached for item in branch.items)


def _as_sent(branch_item: BranchItem, target: Target, *, reasoning: bool) -> Item:
    """The item; encrypted reasoning as what goes back unchanged, where this model at this account made it."""
    item = branch_item.stored.item
    if not reasoning:
        return item
    made_here = (branch_item.binding, branch_item.model) == (target.binding, target.model)
    return sent_back(item) if made_here and is_encrypted_reasoning(item) else item


def within(target: Target, overhead_tokens: int, overhead_bytes: int) -> Target:
    """Return the target with the room that instructions and tools leave for the input, in tokens and in bytes."""
    abilities, left = target.abilities, max(0, target.abilities.token_budget - overhead_tokens)
    room = None if abilities.byte_budget is None else max(0, abilities.byte_budget - overhead_bytes)
    return replace(target, abilities=replace(abilities, token_budget=left, byte_budget=room))

"""What a model is given of a conversation that it has lost: its branch read, counted, and rebuilt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from app.chain.continuation import Target
from app.chain.rebuild import Abilities, rebuild
from app.items import vocabulary
from app.items.kinds import RESTORED
from app.items.shapes import Item, string
from app.memory.learnt import Learnt
from app.memory.store import Branch, MemoryStore, Remembered
from app.provider.models import Family

COUNTED_FROM = 0.5
"""From which share of the budget on an estimate is not enough, and items are counted."""


@dataclass(frozen=True, slots=True)
class Given:
    input: list[Item]
    sources: list[list[str]]
    """For each of the input the ids of what it was made of, of the history alone."""
    dropped_items: int
    tokens: int
    """What it weighs: counted, where it was counted; else estimated, rather too high."""
    counted: bool
    compaction: UUID | None


class Reader:
    def __init__(self, store: MemoryStore, learnt: Learnt) -> None:
        self.store = store
        self.learnt = learnt

    def target(self, binding: str, family: Family, model: str) -> Target:
        """A model at an account, with what it can take."""
        budget = self.learnt.at(binding).token_budget(family, model)
        return Target(binding, model, Abilities(budget, family.sees_images, family.tool_outputs))

    async def given(
        self,
        project_id: UUID,
        parent_id: UUID | None,
        new: Sequence[Item],
        target: Target,
        *,
        counting: bool = False,
    ) -> Given:
        """The whole input: what came before, and what is new.

        Args:
            parent_id: the last turn of what came before; None for a conversation that begins.
            target: the model, with what it can take of it.
            counting: whether it is counted in any case.
        """
        branch = Branch() if parent_id is None else await self.store.recall(project_id, parent_id)
        compacted = branch.compacted
        kept = [] if compacted is None else compacted.kept
        before = [*kept, *branch.items]
        items = [_as_sent(item, target) for item in before]
        item_ids = [item.kept.id for item in before]
        if compacted is not None:
            items.insert(len(kept), compacted.item)
            item_ids.insert(len(kept), compacted.source)
        abilities, learnt = target.abilities, self.learnt.at(target.binding)
        rebuilt = rebuild(items, new, abilities)
        counted = counting or rebuilt.whole > COUNTED_FROM * abilities.token_budget
        if counted:
            counts = await self.store.count(project_id, before)
            if compacted is not None:
                counts.insert(len(kept), compacted.tokens)
            counts += await vocabulary.counts(new)
            rebuilt = rebuild(items, new, abilities, learnt.expected(target.model, counts))
        return Given(
            rebuilt.input,
            [[item_ids[place] for place in places] for places in rebuilt.sources],
            rebuilt.dropped_items,
            rebuilt.tokens,
            counted,
            None if compacted is None else compacted.id,
        )


def _as_sent(remembered: Remembered, target: Target) -> Item:
    """The item; encrypted reasoning as what goes back unchanged, where this model at this account made it."""
    item = remembered.kept.item
    if (
        remembered.kept.type == "reasoning"
        and string(item.get("encrypted_content"))
        and (remembered.binding, remembered.model) == (target.binding, target.model)
    ):
        return {"type": RESTORED, "item": item}
    return item


def within(target: Target, frame: int) -> Target:
    """What is left for the input beside instructions and tools."""
    left = max(0, target.abilities.token_budget - frame)
    return replace(target, abilities=replace(target.abilities, token_budget=left))

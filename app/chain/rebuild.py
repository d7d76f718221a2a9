"""What is sent to the model: the whole history for one that has lost it, or the new input for one that has not.

Pure functions of the branch's items, the new input and what the model can do. The rules:

- One system message at most, and first: all system and developer messages, joined in their order. Never dropped.
- Messages keep their role, order and images.
- A tool call goes with its output close behind it, or not at all. An output whose call is not there goes along as
  words of the user's.
- Reasoning and web searches are left out: the model's own answer holds what came of them. Encrypted reasoning goes
  along unchanged where it can be read: by the model that made it.
- What the other server-side tools found goes along as a short assistant message, since the provider takes none of
  their items as input.
- Over the budget, the oldest items are dropped, a tenth of the budget at a time, a call together with its output; the
  call that the new input answers stays, and so do pinned items, and the summary of a compaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.items.kinds import is_system, kind_of, type_of
from app.items.pairs import Block, arranged
from app.items.shapes import IMAGE_PARTS, Item, message, objects, text_of, words
from app.items.weights import tokens

STEP_SHARE = 0.1
"""Of the budget: in what steps the oldest items are dropped."""

UNSEEN_IMAGE = "[An image, which this model cannot see]"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model takes, as far as it matters for what it is sent."""

    token_budget: int
    """What it reads before the provider silently cuts."""
    sees_images: bool = True
    takes_tool_outputs: bool = True


@dataclass(frozen=True, slots=True)
class Rebuilt:
    input: list[Item]
    dropped_items: int
    """How many of the history's oldest items were left out to fit the budget."""
    sources: list[tuple[int, ...]]
    """For each of the input the places of the history's items that it was made of; none where the new input has to do
    with it."""
    tokens: int = 0
    """What it weighs."""
    whole: int = 0
    """What it would weigh with nothing left out."""


def rebuild(
    history: Sequence[Item], new: Sequence[Item], model: Abilities, counts: Sequence[int] | None = None
) -> Rebuilt:
    """The input array that carries a conversation on.

    Args:
        history: the stored items from the branch's first turn to the parent, in order.
        new: the turn's own input; all of it is sent.
        counts: what each item of both counts in tokens, where that is known; else it is estimated.
    """
    whole = [*history, *new]
    system = [text_of(item) for item in whole if is_system(item)]
    spoken = [item for item in whole if not is_system(item)]
    places = [place for place, item in enumerate(whole) if not is_system(item)]
    first_new = sum(not is_system(item) for item in history)
    first = [message("system", "\n\n".join(text for text in system if text))] if any(system) else []
    blocks = [(block, _sent(block, spoken, model)) for block in arranged(spoken)]
    if counts is None:
        sizes = [sum(map(tokens, sent)) for _, sent in blocks]
    else:
        sizes = [sum(counts[places[place]] for place in block.items) for block, _ in blocks]
    pinned = {place for place, item in enumerate(spoken) if item.get("pinned") is True}
    weight = sum(sizes) + sum(map(tokens, first))
    before, over = weight, weight - model.token_budget
    if over > 0:
        # More than is needed, in steps: what is left begins with the same bytes for some turns, and has room for them.
        step = max(1, int(STEP_SHARE * model.token_budget))
        over = -(-over // step) * step
    dropped = 0
    kept: list[Item] = []
    sources = [_of_history([place for place, item in enumerate(whole) if is_system(item)], len(history))] * len(first)
    for (block, sent), size in zip(blocks, sizes, strict=True):
        if over > 0 and all(place < first_new and place not in pinned for place in block.items):
            over -= size
            weight -= size
            dropped += len(sent)
        else:
            kept.extend(sent)
            sources += [_of_history([places[place] for place in block.items], len(history))] * len(sent)
    return Rebuilt(first + kept, dropped, sources, weight, before)


def _of_history(places: list[int], length: int) -> tuple[int, ...]:
    return tuple(places) if all(place < length for place in places) else ()


def new_input(new: Sequence[Item], model: Abilities) -> list[Item]:
    """Return the input array for a model that has the history.

    Outputs of the calls that it has made go first, as they do in a rebuild: the provider takes no message before them.
    """
    if len(new) == 1 and type_of(new[0]) == "message":
        return _carried(new[0], model)
    outputs: list[Item] = []
    sent: list[Item] = []
    for block in arranged(new):
        if block.answers_nothing and model.takes_tool_outputs:
            outputs.extend(_carried(new[block.items[0]], model))
        else:
            sent.extend(_sent(block, new, model))
    return outputs + sent


def _sent(block: Block, items: Sequence[Item], model: Abilities) -> list[Item]:
    if block.answers_nothing:
        (output,) = kind_of(items[block.items[0]]).carried(items[block.items[0]])
        return [_spoken_output("A tool", output, model)]
    if block.calls and not model.takes_tool_outputs:
        pairs = [(call, output) for call, output in block.calls.items() if output is not None]
        return [said for call, output in pairs for said in _spoken_pair(items[call], items[output], model)]
    return [sent for place in block.items for sent in _carried(items[place], model)]


def _carried(item: Item, model: Abilities) -> list[Item]:
    carried = kind_of(item).carried(item)
    return carried if model.sees_images else [_without_images(each) for each in carried]


def _spoken_pair(call: Item, output: Item, model: Abilities) -> list[Item]:
    """A tool call in words, for a model that refuses the outputs of tools."""
    (asked,), (answered,) = kind_of(call).carried(call), kind_of(output).carried(output)
    return [
        message("assistant", f"[Called {asked['name']} with {asked['arguments']}]"),
        _spoken_output(asked["name"], answered, model),
    ]


def _spoken_output(name: str, output: Item, model: Abilities) -> Item:
    """A tool's output as words of the user's, with its images."""
    parts = objects(output["output"])
    images = [part for part in parts if part.get("type") in IMAGE_PARTS]
    if not images:
        return message("user", f"[{name} answered: {words(output['output'])}]")
    texts = "\n".join(words(part.get("text")) for part in parts if part not in images)
    spoken = message("user", [{"type": "input_text", "text": f"[{name} answered: {texts}]"}, *images])
    return spoken if model.sees_images else _without_images(spoken)


def _without_images(item: Item) -> Item:
    field = "output" if item["type"] == "function_call_output" else "content"
    content = item.get(field)
    if not isinstance(content, list):
        return item
    unseen = {"type": "input_text", "text": UNSEEN_IMAGE}
    return {**item, field: [unseen if part.get("type") in IMAGE_PARTS else part for part in objects(content)]}

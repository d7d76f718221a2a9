"""Input of a call: the whole history for a model that has lost it, or the new input for one that has not.

Pure functions of the branch's items, the new input and what the model can do. The rules:

- One system message at most, and first: all system and developer messages, joined in their order. Never dropped.
- Messages keep their role, their order, and their images, videos, audio and files.
- A tool call goes with its output close behind it, or not at all. An output whose call is not there goes along as
  words of the user's.
- Reasoning and web searches are left out: the model's own answer holds what came of them. Encrypted reasoning goes
  along unchanged where it can be read: by the model that made it.
- What the other server-side tools found goes along as a short assistant message, since the provider takes none of
  their items as input.
- Over the budget, the oldest items are dropped, a tenth of the budget at a time, a call together with its output; the
  call that the new input answers stays, and so do pinned items, and the summary of a compaction. Over the budget in
  bytes, text replaces images and other media of the history before anything is dropped.
- Call arguments that are no JSON object become `{}`, with the original text in a message before the call. Text
  replaces media whose URL cannot be used, and media that the model does not take.
- A history that the provider has refused is sent with less, by a step of `reduction`.
- An input has a user message: where none is left, one in brackets is added. Empty messages of the history are
  left out. A model that takes text only gets each message as one string.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import orjson

from app.chain.reduction import Step
from app.items import media
from app.items.input_item import InputItem
from app.items.kinds import RESTORED, is_system, kind_of, media_in, sent_back, type_of
from app.items.pairs import Block, arranged
from app.items.shapes import (
    MODALITIES,
    NOTE_LENGTH,
    Item,
    Modality,
    media_of,
    message,
    modality_of,
    objects,
    text_of,
    words,
)
from app.items.weights import tokens
from app.process.values import value

STEP_SHARE = 0.1
"""Share of the budget by which the oldest items are dropped."""

NO_USER_MESSAGE = "[No message of the user]"
"""The provider refuses an input without a user message."""


@value
class Abilities:
    """Abilities of a model that matter for its input."""

    token_budget: int
    """Number of tokens that it reads before the provider silently cuts."""
    modalities: frozenset[Modality] = MODALITIES
    """Modalities that it takes besides text."""
    takes_tool_outputs: bool = True
    byte_budget: int | None = None
    """The largest input array in bytes; None for any size."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    input: list[Item]
    dropped_items: int
    """Number of the history's oldest items that were left out to fit the budget."""
    sources: list[tuple[int, ...]]
    """For each of the input the places of the history's items that it was made of; none where the new input has to do
    with it."""
    tokens: int = 0
    """Tokens of the input."""
    whole: int = 0
    """Its weight if nothing were left out."""
    media_as_text: Mapping[Modality, int] = field(default_factory=dict)
    """Number of images and other media of the history that text replaces: the model does not take them, or the body
    would be larger than the budget of bytes."""
    exact: bool = True
    """False where counted weights are those of items that were sent with less."""


def rebuild(
    history: Sequence[Item],
    new: Sequence[Item],
    model: Abilities,
    counts: Sequence[int] | None = None,
    *,
    step: Step = Step.WHOLE,
    reduced_items: int | None = None,
) -> Rebuilt:
    """The input array that carries a conversation on.

    Args:
        history: the stored items from the branch's first turn to the parent, in order.
        new: the turn's own input; all of it is sent.
        counts: what each item of both counts in tokens, where that is known; else it is estimated.
        step: how much less is sent of the history.
        reduced_items: how many of the history's first items the step covers; None for all of them.
    """
    whole = [*history, *new]
    system = [text_of(item) for item in whole if is_system(item)]
    places = [
        place for place, item in enumerate(whole) if not is_system(item) and (place >= len(history) or _says(item))
    ]
    spoken = [whole[place] for place in places]
    first_new = sum(place < len(history) for place in places)
    first = [message("system", "\n\n".join(text for text in system if text))] if any(system) else []
    reached = len(history) if reduced_items is None else min(reduced_items, len(history))
    covered = 0 if step is Step.WHOLE else sum(place < reached for place in places)
    pinned = {place for place, item in enumerate(spoken) if item.get("pinned") is True}
    as_text = set(range(covered))
    blocks = [(block, _sent(block, spoken, model, step, covered, as_text)) for block in arranged(spoken)]
    blocks, dropped = _newest(blocks, step, covered, pinned)
    limit = None if model.byte_budget is None else model.byte_budget - sum(map(_size, first))
    too_many, replaced = _bytes_over(blocks, limit), Counter[Modality]()
    if limit is not None and too_many > 0:
        history_of = [place for block, _ in blocks for place in sorted(block.items) if place < first_new]
        oldest_first = sorted(history_of, key=lambda place: place in pinned)
        replaced = _replace_media(oldest_first, too_many, spoken, model, as_text)
        blocks = [(block, _sent(block, spoken, model, step, covered, as_text)) for block, _ in blocks]
        too_many = _bytes_over(blocks, limit)
    sizes = [_weight(block, sent, places, counts, as_text) for block, sent in blocks]
    weight = sum(sizes) + sum(map(tokens, first))
    before, over = weight, _in_steps(weight - model.token_budget, model.token_budget)
    kept: list[Item] = []
    sources = [_of_history([place for place, item in enumerate(whole) if is_system(item)], len(history))] * len(first)
    for (block, sent), size in zip(blocks, sizes, strict=True):
        droppable = all(place < first_new and place not in pinned for place in block.items)
        if droppable and (over > 0 or too_many > 0):
            over -= size
            too_many -= sum(map(_size, sent)) if too_many > 0 else 0
            weight -= size
            dropped += len(sent)
        else:
            kept.extend(sent)
            if model.modalities != MODALITIES:
                replaced += _untaken([spoken[place] for place in block.items if covered <= place < first_new], model)
            sources += [_of_history([places[place] for place in block.items], len(history))] * len(sent)
    if not any(item["type"] == "message" and item["role"] == "user" for item in kept):
        kept.insert(0, message("user", NO_USER_MESSAGE))
        sources.insert(len(first), ())
    return Rebuilt(first + kept, dropped, sources, weight, before, dict(replaced), exact=not as_text)


def _says(item: Item) -> bool:
    """Return False for a message with no text, no image and no other media."""
    return type_of(item) != "message" or bool(text_of(item) or media_in(item))


def _in_steps(over: int, budget: int) -> int:
    """Return what is to be dropped. More than is needed, in steps: what is left begins with the same bytes for some
    turns, and has room for them."""
    if over <= 0:
        return 0
    step = max(1, int(STEP_SHARE * budget))
    return -(-over // step) * step


def _newest(
    blocks: Sequence[tuple[Block, list[Item]]], step: Step, covered: int, pinned: AbstractSet[int]
) -> tuple[list[tuple[Block, list[Item]]], int]:
    """Return the blocks that a step leaves, and how many items it leaves out."""
    if step.kept_share == 1:
        return list(blocks), 0
    reached = [all(place < covered and place not in pinned for place in block.items) for block, _ in blocks]
    weights = [sum(map(tokens, sent)) if within else 0 for (_, sent), within in zip(blocks, reached, strict=True)]
    left, keeps = sum(weights), step.kept_share * sum(weights)
    kept: list[tuple[Block, list[Item]]] = []
    dropped = 0
    for each, within, weight in zip(blocks, reached, weights, strict=True):
        if within and (left > keeps or step is Step.LEFT_OUT):
            left -= weight
            dropped += len(each[1])
        else:
            kept.append(each)
    return kept, dropped


def _bytes_over(blocks: Sequence[tuple[Block, list[Item]]], limit: int | None) -> int:
    """Return by how many bytes an input is to become smaller."""
    if limit is None:
        return 0
    return _in_steps(sum(_size(item) for _, sent in blocks for item in sent) - limit, limit)


def _untaken(items: Iterable[Item], model: Abilities) -> Counter[Modality]:
    """Count the media of items that the model does not take."""
    return Counter(
        kind
        for item in items
        for part in media_in(item)
        if (kind := modality_of(part)) is not None and kind not in model.modalities
    )


def _replace_media(
    places: Sequence[int], over: int, items: Sequence[Item], model: Abilities, as_text: set[int]
) -> Counter[Modality]:
    """Add items to `as_text`, whose media text replaces, until enough bytes are saved.

    Media with a URL stay: a URL is short.

    Args:
        places: of the items, in the order in which they are chosen.

    Returns:
        The number of media of each modality.
    """
    replaced = Counter[Modality]()
    for place in places:
        if over <= 0:
            break
        carried = [] if place in as_text else _carried(items[place], model)
        if found := [part for sent in carried for part in media_in(sent) if media.is_data(part)]:
            as_text.add(place)
            replaced.update(kind for part in found if (kind := modality_of(part)) is not None)
            over -= sum(map(_size, found))
    return replaced


def _weight(
    block: Block,
    sent: Sequence[Item],
    places: Sequence[int],
    counts: Sequence[int] | None,
    as_text: AbstractSet[int],
) -> int:
    estimate = sum(map(tokens, sent))
    if counts is None:
        return estimate
    counted = sum(counts[places[place]] for place in block.items)
    return min(counted, estimate) if as_text & set(block.items) else counted


def _size(item: Item) -> int:
    """The bytes of an item, and of the comma behind it."""
    return len(orjson.dumps(item)) + 1


def _of_history(places: list[int], length: int) -> tuple[int, ...]:
    return tuple(places) if all(place < length for place in places) else ()


def new_input(new: Sequence[InputItem], model: Abilities, *, reasoning: bool = True) -> list[Item]:
    """Return the input array for a model that has the history.

    Outputs of the calls that it has made go first, as they do in a rebuild: the provider takes no message before them.

    Args:
        reasoning: False to leave encrypted reasoning out, which otherwise goes to the model unchanged.
    """
    if len(new) == 1 and new[0].type == "message" and model.modalities and not new[0].modalities:
        return new[0].kind.carried(new[0].data)
    items = [sent_back(item.data) if reasoning and item.is_encrypted_reasoning else item.data for item in new]
    if len(new) == 1 and new[0].type == "message":
        return _carried(items[0], model)
    outputs: list[Item] = []
    sent: list[Item] = []
    for block in arranged(items):
        if block.answers_nothing and model.takes_tool_outputs:
            outputs.extend(_to_own_call(items[block.items[0]], model))
        else:
            sent.extend(_sent(block, items, model))
    return outputs + sent


def _sent(
    block: Block,
    items: Sequence[Item],
    model: Abilities,
    step: Step = Step.WHOLE,
    covered: int = 0,
    as_text: AbstractSet[int] = frozenset(),
) -> list[Item]:
    """A block as it is sent.

    Args:
        covered: how many of the items the step covers.
        as_text: the places of items whose images and other media text replaces.
    """
    carried = {
        place: [
            media.with_text_for(sent, media.LEFT_OUT, media.is_media) if place in as_text else sent
            for sent in _carried(items[place], model)
        ]
        for place in block.items
    }
    words_only = step >= Step.WORDS_ONLY and all(place < covered for place in block.items)
    if block.answers_nothing:
        (output,) = carried[block.items[0]]
        return [_spoken_output("A tool", output, model)]
    if block.calls and (words_only or not model.takes_tool_outputs):
        pairs = [(call, output) for call, output in block.calls.items() if output is not None]
        return [said for call, output in pairs for said in _spoken_pair(carried[call], carried[output], model)]
    if words_only and type_of(items[block.items[0]]) != "message":
        return []  # Encrypted reasoning, and what server-side tools found.
    return _with_objects([sent for place in block.items for sent in carried[place]])


def _with_objects(sent: list[Item]) -> list[Item]:
    """Calls with arguments that the provider takes; those that are no JSON object go before the calls, in words."""
    said: list[Item] = []
    for place, item in enumerate(sent):
        if item["type"] != "function_call" or _is_object(item["arguments"]):
            continue
        sent[place] = {**item, "arguments": "{}"}
        if original := item["arguments"].strip():
            about = f"Called {item['name']} with arguments that are not a JSON object"
            said.append(message("assistant", f"[{about}: {original[:NOTE_LENGTH]}]"))
    return said + sent


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except ValueError:
        return False


def _carried(item: Item, model: Abilities) -> list[Item]:
    if type_of(item) == RESTORED:
        return kind_of(item).carried(item)  # Unchanged.
    carried = [media.without_unusable(each) for each in kind_of(item).carried(item)]
    return carried if model.modalities == MODALITIES else [_as_taken(each, model) for each in carried]


def _as_taken(item: Item, model: Abilities) -> Item:
    """Return an item in which text replaces the media that the model does not take. For a model that takes text only,
    a message becomes one string."""
    item = media.with_text_for(
        item, media.UNSEEN, lambda part: (kind := modality_of(part)) is not None and kind not in model.modalities
    )
    return item if model.modalities or "content" not in item else {**item, "content": text_of(item)}


def _to_own_call(item: Item, model: Abilities) -> list[Item]:
    """The output of a call that the provider's chain holds."""
    chained = kind_of(item).chained
    return _carried(item, model) if chained is None else chained(item)


def _spoken_pair(call: Sequence[Item], output: Sequence[Item], model: Abilities) -> list[Item]:
    """A tool call in words."""
    (asked,), (answered,) = call, output
    return [
        message("assistant", f"[Called {asked['name']} with {asked['arguments']}]"),
        _spoken_output(asked["name"], answered, model),
    ]


def _spoken_output(name: str, output: Item, model: Abilities) -> Item:
    """Return a tool's output as a user message, with its images and other media."""
    parts = objects(output["output"])
    found = media_of(parts)
    if not found:
        said = [part.get("text") for part in parts]
        told = "\n".join(map(words, said)) if said and all(said) else words(output["output"])
        return message("user", f"[{name} answered: {told}]")
    texts = "\n".join(words(part.get("text")) for part in parts if part not in found)
    spoken = message("user", [{"type": "input_text", "text": f"[{name} answered: {texts}]"}, *found])
    return _as_taken(spoken, model)

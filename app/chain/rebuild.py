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

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
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
    plain_text,
    text_of,
    words,
)
from app.items.weights import text_tokens, tokens
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
    encoded: list[bytes]
    """The same items as JSON, each behind a comma."""
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


@dataclass(slots=True)
class _Unit:
    """A block as it is sent."""

    items: Sequence[int]
    """The places of its items."""
    sent: Sequence[Item]
    encoded: Sequence[bytes]
    """The same as JSON, each behind a comma."""
    tokens: int
    """An estimate."""
    plain: bool = False
    """It is a message that has nothing but text."""


def rebuild(
    history: Sequence[Item],
    new: Sequence[Item],
    model: Abilities,
    counts: Sequence[int] | None = None,
    *,
    step: Step = Step.WHOLE,
    reduced_items: int | None = None,
) -> Rebuilt:
    """The input array that carries a conversation on, see `Rebuilding`.

    Args:
        counts: what each item of both counts in tokens, where that is known; else it is estimated.
    """
    return Rebuilding(history, new, model, step=step, reduced_items=reduced_items).fitted(counts)


class Rebuilding:
    """A history and the new input as the model takes them, before the oldest items are dropped."""

    def __init__(
        self,
        history: Sequence[Item],
        new: Sequence[Item],
        model: Abilities,
        *,
        step: Step = Step.WHOLE,
        reduced_items: int | None = None,
    ) -> None:
        """Args:
        history: the stored items from the branch's first turn to the parent, in order.
        new: the turn's own input; all of it is sent.
        step: how much less is sent of the history.
        reduced_items: how many of the history's first items the step covers; None for all of them.
        """
        self._model, self._step = model, step
        self._length = len(history)
        whole = [*history, *new]
        self._system: list[int] = []
        self._places: list[int] = []
        self._spoken: list[Item] = []
        self._plain: dict[int, str] = {}
        """The texts of the messages that have nothing else."""
        self._pinned: set[int] = set()
        for place, item in enumerate(whole):
            if (text := plain_text(item)) is not None:
                self._plain[len(self._spoken)] = text
            elif is_system(item):
                self._system.append(place)
                continue
            elif place < self._length and not _says(item):
                continue
            if item.get("pinned") is True:
                self._pinned.add(len(self._spoken))
            self._places.append(place)
            self._spoken.append(item)
        self._first_new = bisect_left(self._places, self._length)
        texts = [text for place in self._system if (text := text_of(whole[place]))]
        self._first = [message("system", "\n\n".join(texts))] if texts else []
        reached = self._length if reduced_items is None else min(reduced_items, self._length)
        self._covered = 0 if step is Step.WHOLE else bisect_left(self._places, reached)
        self._as_text = set(range(self._covered))
        self._replaced = Counter[Modality]()
        self._too_many = 0
        blocks = arranged(self._spoken, self._plain)
        self._units, self._left_out = _newest(list(map(self._unit, blocks)), step, self._covered, self._pinned)
        if model.byte_budget is not None:
            self._fit_bytes(blocks, model.byte_budget - sum(len(_encoded(item)) for item in self._first))

    def fitted(self, counts: Sequence[int] | None = None) -> Rebuilt:
        """Return the input, without the oldest items where it does not fit the budget.

        Args:
            counts: what each item of history and new input counts in tokens, where that is known.
        """
        model, first_new, pinned, length = self._model, self._first_new, self._pinned, self._length
        sizes = [unit.tokens if counts is None else self._counted(unit, counts) for unit in self._units]
        whole = weight = sum(sizes) + sum(map(tokens, self._first))
        over, too_many = _in_steps(weight - model.token_budget, model.token_budget), self._too_many
        dropped, replaced = self._left_out, Counter(self._replaced)
        kept, encoded = list[Item](), list[bytes]()
        sources: list[tuple[int, ...]] = []
        for unit, size in zip(self._units, sizes, strict=True):
            droppable = (over > 0 or too_many > 0) and all(
                place < first_new and place not in pinned for place in unit.items
            )
            if droppable:
                over -= size
                too_many -= sum(map(len, unit.encoded)) if too_many > 0 else 0
                weight -= size
                dropped += len(unit.sent)
                continue
            kept += unit.sent
            encoded += unit.encoded
            if unit.plain:
                place = self._places[unit.items[0]]
                sources.append((place,) if place < length else ())
                continue
            sources += [_of_history([self._places[place] for place in unit.items], length)] * len(unit.sent)
            if model.modalities != MODALITIES:
                replaced += self._untaken(unit)
        if not any(item["type"] == "message" and item["role"] == "user" for item in kept):
            said = message("user", NO_USER_MESSAGE)
            kept, encoded, sources = [said, *kept], [_encoded(said), *encoded], [(), *sources]
        if self._first:
            kept, encoded = [*self._first, *kept], [_encoded(self._first[0]), *encoded]
            sources = [_of_history(self._system, length), *sources]
        return Rebuilt(kept, encoded, dropped, sources, weight, whole, dict(replaced), exact=not self._as_text)

    def _unit(self, block: Block) -> _Unit:
        place = block.items[0]
        if (text := self._plain.get(place)) is not None:
            return _plain_unit(place, self._spoken[place], text, self._model)
        sent = _sent(block, self._spoken, self._model, self._step, self._covered, self._as_text)
        return _Unit(block.items, sent, list(map(_encoded, sent)), sum(map(tokens, sent)))

    def _fit_bytes(self, blocks: Sequence[Block], limit: int) -> None:
        """Replace media by text where the input has too many bytes, and note by how much it still has."""
        self._too_many = _bytes_over(self._units, limit)
        if self._too_many <= 0:
            return
        history = [place for unit in self._units if not unit.plain for place in sorted(unit.items)]
        history = [place for place in history if place < self._first_new]
        oldest_first = sorted(history, key=lambda place: place in self._pinned)
        self._replaced = _replace_media(oldest_first, self._too_many, self._spoken, self._model, self._as_text)
        by_first = {block.items[0]: block for block in blocks}
        self._units = [self._unit(by_first[unit.items[0]]) for unit in self._units]
        self._too_many = _bytes_over(self._units, limit)

    def _counted(self, unit: _Unit, counts: Sequence[int]) -> int:
        counted = sum([counts[self._places[place]] for place in unit.items])
        return counted if self._as_text.isdisjoint(unit.items) else min(counted, unit.tokens)

    def _untaken(self, unit: _Unit) -> Counter[Modality]:
        """Count the media of a unit's items of the history that the model does not take."""
        history = [self._spoken[place] for place in unit.items if self._covered <= place < self._first_new]
        return Counter(
            kind
            for item in history
            for part in media_in(item)
            if (kind := modality_of(part)) is not None and kind not in self._model.modalities
        )


def _plain_unit(place: int, item: Item, text: str, model: Abilities) -> _Unit:
    """Return the unit of a message with this text alone, as `_sent` makes it of any block."""
    content = item["content"] if item["role"] == "user" and model.modalities else text
    sent = message(item["role"], content)
    return _Unit((place,), (sent,), (_encoded(sent),), text_tokens(text), plain=True)


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


def _newest(units: list[_Unit], step: Step, covered: int, pinned: AbstractSet[int]) -> tuple[list[_Unit], int]:
    """Return the units that a step leaves, and how many items it leaves out."""
    if step.kept_share == 1:
        return units, 0
    reached = [all(place < covered and place not in pinned for place in unit.items) for unit in units]
    left = sum(unit.tokens for unit, within in zip(units, reached, strict=True) if within)
    keeps = step.kept_share * left
    kept: list[_Unit] = []
    dropped = 0
    for unit, within in zip(units, reached, strict=True):
        if within and (left > keeps or step is Step.LEFT_OUT):
            left -= unit.tokens
            dropped += len(unit.sent)
        else:
            kept.append(unit)
    return kept, dropped


def _bytes_over(units: Sequence[_Unit], limit: int) -> int:
    """Return by how many bytes an input is to become smaller."""
    return _in_steps(sum([len(each) for unit in units for each in unit.encoded]) - limit, limit)


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
            over -= sum(len(_encoded(part)) for part in found)
    return replaced


def _encoded(item: Item) -> bytes:
    """Return an item's JSON behind a comma."""
    return b"," + orjson.dumps(item)


def _of_history(places: Sequence[int], length: int) -> tuple[int, ...]:
    return tuple(places) if max(places) < length else ()


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

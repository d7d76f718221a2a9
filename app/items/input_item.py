"""Items of a client's input with the facts that the way to the model asks for, each computed once."""

from collections.abc import Iterable

import orjson

from app.items.kinds import (
    KINDS,
    SYSTEM_ROLES,
    Kind,
    is_encrypted_reasoning,
    is_system,
    kind_of,
    media_in,
    type_of,
)
from app.items.shapes import Item, Modality, modality_of, text_of
from app.items.weights import text_tokens, tokens
from app.process.values import value

MESSAGE = KINDS["message"]
NO_MODALITIES: frozenset[Modality] = frozenset()


@value
class InputItem:
    data: Item
    """As it came through the door."""
    encoded: bytes
    """The same as JSON."""
    type: str
    kind: Kind
    text: str
    """The text of a message; empty for any other item."""
    tokens: int
    """An estimate, see `weights`."""
    is_system: bool
    is_encrypted_reasoning: bool
    modalities: frozenset[Modality]
    """The kinds of its images, videos, audio and files."""


def with_facts(items: Iterable[Item]) -> list[InputItem]:
    """Return items with their facts."""
    return [_with_facts(item) for item in items]


def _with_facts(item: Item) -> InputItem:
    type_, content, encoded = type_of(item), item.get("content"), orjson.dumps(item)
    if type_ == "message" and type(content) is str and "output" not in item:  # A text, as most items are.
        weight, is_of_system = text_tokens(content), item.get("role") in SYSTEM_ROLES
        return InputItem(item, encoded, type_, MESSAGE, content, weight, is_of_system, False, NO_MODALITIES)
    return InputItem(
        item,
        encoded,
        type_,
        kind_of(item),
        text_of(item) if type_ == "message" else "",
        tokens(item),
        is_system(item),
        is_encrypted_reasoning(item),
        frozenset(kind for part in media_in(item) if (kind := modality_of(part)) is not None),
    )

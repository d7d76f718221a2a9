"""Estimates of items' tokens: stable and rather too high, so that what fits by the estimate fits the model."""

from typing import Any

from app.items.kinds import type_of
from app.items.media import is_data, source_of
from app.items.shapes import Item, Modality, media_of, modality_of, string, text_of

BYTES_PER_TOKEN = 3
"""Qwen's tokenizer takes 3.5 to 4 bytes of English and about 3 of Chinese for a token: 3 rather overrates."""

IMAGE_TOKENS = 1300
"""A large image (1,280 visual tokens at the default limit) and its marks."""

MEDIA_TOKENS = 25_000
"""Maximum for a video, an audio recording or a file: the provider's default limit for a video (24,576) and its marks.
It also applies if the size is unknown."""

MEDIA_BYTES_PER_TOKEN: dict[Modality, int] = {"video": 100, "audio": 100, "file": BYTES_PER_TOKEN}
"""Bytes per token at a low bit rate, so that the estimate is on the high side: one
second of audio has 25 tokens and 2,500 bytes."""

ITEM_TOKENS = 4

LONGEST_MEDIA_TYPE = 200
"""Latest position in a data URL at which the content begins."""

MOST_COUNTED = 2**53 - 1
"""Larger numbers are not exact in JSON everywhere, and no count."""


def tokens(item: Item) -> int:
    """An estimate for an item of any shape. Images count by their number, whatever their bytes are."""
    if type_of(item) == "message":
        media = sum(map(media_tokens, media_of(item.get("content"))))
        return text_tokens(text_of(item)) + media
    size, media = _weighed({name: value for name, value in item.items() if name != "encrypted_content"})
    return ITEM_TOKENS + size // BYTES_PER_TOKEN + media


def text_tokens(text: str) -> int:
    """Return an estimate for a message that has nothing but a text."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return ITEM_TOKENS + size // BYTES_PER_TOKEN + 1


def media_tokens(part: Item) -> int:
    """Return an estimate for an image, a video, audio or a file."""
    kind = modality_of(part)
    if kind is None or kind == "image":
        return IMAGE_TOKENS
    if not is_data(part):
        return MEDIA_TOKENS
    return min(MEDIA_TOKENS, 1 + len(source_of(part)[1]) // MEDIA_BYTES_PER_TOKEN[kind])


def is_medium(value: Item) -> bool:
    """Return True for an image, a video, audio or a file with content or a URL."""
    return modality_of(value) is not None and bool(string(source_of(value)[1]))


def count(value: Any) -> int:
    """A number of tokens that the provider has reported, whatever it is; 0 for what is no number."""
    if type(value) is int and 0 <= value <= MOST_COUNTED:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 0
    return int(min(max(value, 0), MOST_COUNTED))


def is_data_url(text: str) -> bool:
    """Return True if a string is a file, in base64."""
    return text.startswith("data:") and ";base64," in text[:LONGEST_MEDIA_TYPE]


def added(usage: Any, more: Any) -> Any:
    """Two usages of the provider's as one: numbers added up, all else as the later one has it."""
    if isinstance(usage, dict) and isinstance(more, dict):
        return {**usage, **{name: added(usage.get(name), value) for name, value in more.items()}}
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in (usage, more)):
        return count(usage) + count(more)
    return usage if more is None else more


def _weighed(value: Any) -> tuple[int, int]:
    """The bytes of a value's strings and structure, and the tokens of the images and other media that it holds."""
    size = media = 0
    stack = [value]
    while stack:
        found = stack.pop()
        if isinstance(found, str):
            if is_data_url(found):
                media += IMAGE_TOKENS
            else:
                size += len(found.encode("utf-8", "replace")) + 3
        elif isinstance(found, dict) and is_medium(found):
            media += media_tokens(found)
        elif isinstance(found, dict):
            stack.extend(found.values())
            size += sum(map(len, found)) + 4 * len(found)
        elif isinstance(found, list):
            stack.extend(found)
            size += len(found)
        else:
            size += 8
    return size, media

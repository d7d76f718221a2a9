"""Token counts of items by Qwen's own vocabulary.

Counts are exact for the models that use this vocabulary, and rather too high than too low for newer models, whose
vocabulary is larger (provider-facts). `memory/observations.py` corrects them by what the provider has counted.

The vocabulary comes with Alibaba's `dashscope` package. Loading it takes 0.2 s and 64 MB, counting 4,800 characters 0.2
to 0.5 ms. It is loaded at the first count, and texts are counted in a thread.
"""

import asyncio
import base64
import binascii
import importlib.util
import io
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import imagesize
import tiktoken

from app.items.kinds import type_of
from app.items.media import source_of
from app.items.shapes import Item, media_of, modality_of, text_of
from app.items.weights import IMAGE_TOKENS, ITEM_TOKENS, is_data_url, is_medium, media_tokens

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Regular expression by which Qwen's tokenizer splits a text before it looks pieces up."""

AT_ONCE = 20_000
"""Characters that are counted together: the cost of a word without an end is bounded."""

PATCH_PIXELS = 32
"""A visual token's side (Qwen3-VL and later)."""

LARGEST_SIDE = 1_000_000
"""Limit on the pixels of a side; a larger image counts the maximum."""

HEAD_BYTES = 64 * 1024
"""Bytes at the start of an image in which its size is looked for."""


async def counts(items: Sequence[Item]) -> list[int]:
    """Count the tokens of each item, in a thread beside the loop."""
    return await asyncio.to_thread(lambda: [tokens(item) for item in items])


async def text_count(text: str) -> int:
    """Return the number of tokens of a text, counted in a thread."""
    return await asyncio.to_thread(text_tokens, text)


def tokens(item: Item) -> int:
    """Return the token count of an item of any shape."""
    if type_of(item) == "message":
        media = media_of(item.get("content"))
        return ITEM_TOKENS + text_tokens(text_of(item)) + sum(map(_media_tokens, media))
    texts, media = _read({name: value for name, value in item.items() if name != "encrypted_content"})
    return ITEM_TOKENS + text_tokens(" ".join(texts)) + sum(map(_media_tokens, media))


def text_tokens(text: str) -> int:
    encoding = _encoding()
    return sum(len(encoding.encode_ordinary(text[at : at + AT_ONCE])) for at in range(0, len(text), AT_ONCE))


@cache
def _encoding() -> tiktoken.Encoding:
    found = importlib.util.find_spec("dashscope")  # Not imported: it would bring the whole of its client.
    assert found is not None
    assert found.submodule_search_locations is not None
    lines = Path(found.submodule_search_locations[0], "resources", "qwen.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, _, rank in (line.partition(b" ") for line in lines if line)}
    return tiktoken.Encoding("qwen", pat_str=WORDS, mergeable_ranks=ranks, special_tokens={})


def _media_tokens(part: Item) -> int:
    """Return the tokens of an image by its area in patches, or the maximum if its size is unknown. Other media are
    estimated."""
    if modality_of(part) != "image":
        return media_tokens(part)
    url = source_of(part)[1]
    if not isinstance(url, str) or not is_data_url(url):
        return IMAGE_TOKENS
    head = url.partition(",")[2][: HEAD_BYTES * 4 // 3 // 4 * 4]
    try:
        # Its rotation does not change its area. To find it, HEIF boxes of 64 kB can list 600 million places.
        size: tuple[float, float] = imagesize.get(io.BytesIO(base64.b64decode(head)), exif_rotation=False)
    except (binascii.Error, ValueError):
        return IMAGE_TOKENS
    if not all(0 < side <= LARGEST_SIDE for side in size):  # An SVG's can be infinite.
        return IMAGE_TOKENS
    width, height = (math.ceil(side / PATCH_PIXELS) for side in size)
    return min(IMAGE_TOKENS, width * height + 2)


def _read(value: Any) -> tuple[list[str], list[Item]]:
    """The texts and names of a value, and its images and other media."""
    texts: list[str] = []
    media: list[Item] = []
    stack = [value]
    while stack:
        found = stack.pop()
        if isinstance(found, str):
            if is_data_url(found):
                media.append({"type": "image_url", "image_url": found})
            else:
                texts.append(found)
        elif isinstance(found, dict) and is_medium(found):
            media.append(found)
        elif isinstance(found, dict):
            texts.extend(found)
            stack.extend(found.values())
        elif isinstance(found, list):
            stack.extend(found)
        elif found is not None:
            texts.append(str(found))
    return texts, media

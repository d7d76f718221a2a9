"""Items as the provider takes them: the forms of its input, and a stable guess at their tokens."""

from typing import Any

import orjson

Item = dict[str, Any]

BYTES_PER_TOKEN = 3
"""Qwen's tokenizer takes 3.5 to 4 bytes of English and about 3 of Chinese for a token: 3 rather overrates."""

IMAGE_TOKENS = 1300
"""A large image (1,280 visual tokens at the default limit) and its marks."""


def sendable(item: Item) -> Item:
    """An item without what is read-only: ids, statuses, annotations."""
    match item.get("type", "message"):
        case "message":
            return {"type": "message", "role": item["role"], "content": _content(item)}
        case "function_call":
            return {field: item[field] for field in ("type", "name", "arguments", "call_id")}
        case "function_call_output":
            return {field: item[field] for field in ("type", "call_id", "output")}
        case "reasoning":
            return {"type": "reasoning", "summary": item.get("summary", [])}
        case _:
            return item


def text_of(item: Item) -> str:
    """A message's words; a refusal's too."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in parts if isinstance(part, dict))


def tokens(item: Item) -> int:
    """An estimate that is rather too high, so that what fits by it fits the model."""
    if item.get("type", "message") == "message":
        return 4 + _text_tokens(text_of(item)) + IMAGE_TOKENS * len(images_of(item))
    return 4 + len(orjson.dumps(item)) // BYTES_PER_TOKEN


def images_of(item: Item) -> list[Item]:
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    return [part for part in parts if isinstance(part, dict) and part.get("type") in ("input_image", "image_url")]


def _text_tokens(text: str) -> int:
    return len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN + 1


def _content(item: Item) -> Any:
    """An assistant's content as one string; anybody else's as it was sent."""
    return text_of(item) if item["role"] == "assistant" else item["content"]

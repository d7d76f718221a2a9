"""Items as JSON has them, and total ways to look into what may have any shape."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import orjson

Item = dict[str, Any]

Modality = Literal["image", "video", "audio", "file"]
"""Modalities of media: of parts other than text."""

MODALITIES: frozenset[Modality] = frozenset(get_args(Modality))

MEDIA_PARTS: dict[str, Modality] = {
    "input_image": "image",
    "image_url": "image",
    "computer_screenshot": "image",
    "input_video": "video",
    "video_url": "video",
    "input_audio": "audio",
    "input_file": "file",
}
"""Modality by type of the part, in the forms of the Responses API and of Chat."""

NOTE_LENGTH = 2000
"""Characters of a server-side tool's output that are carried along."""


def objects(value: Any) -> list[Item]:
    """The objects of a list; none of anything else."""
    return [element for element in value if isinstance(element, dict)] if isinstance(value, list) else []


def fields_of(value: Any) -> Item:
    """The fields of an object; none of anything else."""
    return value if isinstance(value, dict) else {}


def string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def words(value: Any) -> str:
    """Any value as text: a string as it is, nothing of null, else its JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return orjson.dumps(value).decode()


def text_of(item: Item) -> str:
    """A message's words; a refusal's too."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts: list[str] = []
    for part in content:
        if isinstance(part, dict):
            text = part.get("text")
            texts.append(text if isinstance(text, str) and text else string(part.get("refusal")))
    return "".join(texts)


def plain_text(item: Item) -> str | None:
    """Return the text of a message of the user or the assistant that has nothing else; None for any other item."""
    if item.get("type", "message") != "message" or item.get("role") not in ("user", "assistant"):
        return None
    content = item.get("content")
    if type(content) is list and len(content) == 1 and type(content[0]) is dict:
        part = content[0]
        content = part.get("text") if part.get("type") in ("output_text", "input_text") else None
    return content if content and type(content) is str else None


def modality_of(part: Item) -> Modality | None:
    """Return the modality of a part; None for a text and for any other part."""
    type_ = part.get("type")
    return MEDIA_PARTS.get(type_) if isinstance(type_, str) else None


def media_of(content: Any) -> list[Item]:
    """Return the images, videos, audio and files of a content or of a tool's output."""
    return [part for part in objects(content) if modality_of(part) is not None]


def message(role: str, content: Any) -> Item:
    return {"type": "message", "role": role, "content": content}


def note(about: str, found: Any) -> list[Item]:
    """Return the results of a server-side tool as an assistant message; nothing if it found nothing."""
    said = words(found)
    return [message("assistant", f"[{about}: {said[:NOTE_LENGTH]}]")] if said else []


def listed(values: Any) -> str:
    return ", ".join(string(value) for value in values) if isinstance(values, list | tuple) else ""


def joined(texts: Sequence[str]) -> str:
    return "\n".join(text for text in texts if text)

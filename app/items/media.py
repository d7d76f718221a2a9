"""Images, videos, audio and files in items: checks, and the text that replaces one that is not sent."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard
from urllib.parse import urlsplit
from uuid import UUID

from app.items.checks import wrong
from app.items.shapes import Item, Modality, fields_of, modality_of, objects, string

LONGEST_URL = 8192
"""Limit on the characters of a URL, except data URLs: their size is bounded with the whole input."""

LARGE = 4096
"""Least number of characters of a data URL or base64 that is stored beside its item, once per thread."""

EMPTY = '""'
"""JSON of the value that replaces a medium stored beside its item."""

LONGEST_HEAD = 200
"""Limit on the characters of a data URL before its content."""


class StoredMedium(str):
    """A medium that was read from the table `media`. Only `app/media/store.py` creates them."""

    id: UUID


NAMES: dict[Modality, str] = {"image": "an image", "video": "a video", "audio": "an audio recording", "file": "a file"}

UNUSABLE: dict[Modality, str] = {
    kind: f"[{name.capitalize()} whose URL cannot be used]" for kind, name in NAMES.items()
}
LEFT_OUT: dict[Modality, str] = {
    kind: f"[{name.capitalize()} that is not sent any more]" for kind, name in NAMES.items()
}
PERCEIVED: dict[Modality, str] = {"image": "see", "video": "see", "audio": "hear", "file": "read"}
UNSEEN: dict[Modality, str] = {
    kind: f"[{name.capitalize()}, which this model cannot {PERCEIVED[kind]}]" for kind, name in NAMES.items()
}

COUNTED: dict[Modality, str] = {
    "image": "images_in_words",
    "video": "videos_in_words",
    "audio": "audio_in_words",
    "file": "files_in_words",
}
"""Names under which a turn's context and headers count the parts of the history that were sent as words."""

_MEDIA_TYPES: dict[Modality, str] = {
    "image": r"image/[\w.+-]+",
    "video": r"video/[\w.+-]+",
    "audio": r"(audio/[\w.+-]+)?",  # The provider's own examples have data:;base64,…
    "file": r"[\w.+-]+/[\w.+-]+",
}
_DATA_URL = {
    kind: re.compile(rf"data:{type_}(;[\w=.+-]+)*,", re.IGNORECASE | re.ASCII) for kind, type_ in _MEDIA_TYPES.items()
}

_EXAMPLES: dict[Modality, str] = {
    "image": "image/png",
    "video": "video/mp4",
    "audio": "audio/mpeg",
    "file": "application/pdf",
}

_MUST_BEGIN: dict[Modality, str] = {
    "image": "https://, http:// or data:image/",
    "video": "https://, http:// or data:video/",
    "audio": "https://, http:// or data:audio/, or be base64",
    "file": "https://, http:// or data:, or be base64",
}

_BASE64 = re.compile(r"[A-Za-z0-9+/=_-]+", re.ASCII)


def source_of(part: Item) -> tuple[str, Any]:
    """Return the path of a medium's URL or content within its part, and its value.

    Both the Responses API's forms and Chat's nested ones are read.
    """
    path, holder, name = _holder(part)
    return path, holder.get(name)


def is_data(part: Item) -> bool:
    """Return True if the part contains the medium itself instead of its URL."""
    source = string(source_of(part)[1])
    if modality_of(part) in ("audio", "file"):
        return bool(source) and not _is_url(source)
    return source[:5].lower() == "data:"


def fault_of(kind: Modality, source: Any) -> str | None:
    """Return the fault of a URL or content that the provider cannot read; None without a fault."""
    if not isinstance(source, str) or not source:
        return "is required and must be a URL."
    if " " in source or not source.isprintable():
        return "must not contain spaces, line breaks or control characters."
    if source[:5].lower() == "data:":
        head = _DATA_URL[kind].match(source[:LONGEST_HEAD])
        if head is None or len(source) == head.end():
            return f"must be a data URL of {NAMES[kind]} with its content, as data:{_EXAMPLES[kind]};base64,…"
        return None
    if kind in ("audio", "file") and not _is_url(source):
        return None if _BASE64.fullmatch(source[:LONGEST_HEAD]) else f"must begin with {_MUST_BEGIN[kind]}."
    if len(source) > LONGEST_URL:
        return f"must not be longer than {LONGEST_URL} characters."
    try:
        parts = urlsplit(source)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    return None if usable else f"must begin with {_MUST_BEGIN[kind]}."


def check(item: Item, where: str) -> None:
    """Refuse an item with media whose URL or content cannot be used.

    Raises:
        BadRequest: naming the part.
    """
    for field in ("content", "output"):
        value = item.get(field)
        for index, part in enumerate(value if isinstance(value, list) else []):
            kind = modality_of(part) if isinstance(part, dict) else None
            if kind is None:
                continue
            inner, source = source_of(part)
            if fault := fault_of(kind, source):
                raise wrong(f"{where}.{field}[{index}].{inner}", fault, _code(kind))
    screenshot = fields_of(item.get("output"))
    if (url := screenshot.get("image_url")) is not None and (fault := fault_of("image", url)):
        raise wrong(f"{where}.output.image_url", fault, _code("image"))


def is_media(part: Item) -> bool:
    """Return True for an image, a video, audio or a file, and for an unknown part without text."""
    return modality_of(part) is not None or not isinstance(part.get("text"), str)


def without_unusable(item: Item) -> Item:
    """Return an item in which text replaces the media whose URL or content cannot be used."""
    return with_text_for(item, UNUSABLE, _is_unusable)


def with_text_for(item: Item, texts: Mapping[Modality, str], chosen: Callable[[Item], bool]) -> Item:
    """Return an item in which text replaces the chosen parts; the item itself if there are none."""
    field = "output" if item.get("type") == "function_call_output" else "content"
    if not any(map(chosen, objects(item.get(field)))):
        return item
    return {**item, field: [_text_part(texts, part) if chosen(part) else part for part in objects(item[field])]}


def without_large(item: Item) -> tuple[Item, dict[int, str]]:
    """Return an item without its large media, and these media by place. An item without any is returned itself."""
    large = large_in(item)
    return (with_large(item, dict.fromkeys(large, "")), large) if large else (item, {})


def with_large(item: Item, large: Mapping[int, str]) -> Item:
    """Return a copy of an item with the given media in their places."""
    made = copy.deepcopy(item)
    for place, (holder, name) in enumerate(_places(made)):
        if place in large:
            holder[name] = large[place]
    return made


def lacks_large(item: Item) -> bool:
    """Return True if media may have been removed from an item. Only the store knows if they were."""
    return any(holder.get(name) == "" for holder, name in _places(item))


def large_in(item: Item) -> dict[int, str]:
    """Return the large media of an item by place."""
    return {place: value for place, (holder, name) in enumerate(_places(item)) if _is_large(value := holder.get(name))}


def _places(item: Item) -> Iterator[tuple[Item, str]]:
    """Yield the object and the field of each medium in an item. Their order gives the place numbers of the store."""
    for field in ("content", "output"):
        for part in objects(item.get(field)):
            if modality_of(part) is not None:
                yield _holder(part)[1:]
    if isinstance(shown := item.get("output"), dict):
        yield shown, "image_url"
    if item.get("type") == "image_generation_call":
        yield item, "result"


def _holder(part: Item) -> tuple[str, Item, str]:
    """Return the path of a part's URL or content, the object that contains it, and its field in that object."""
    match modality_of(part):
        case "audio":
            return "input_audio.data", fields_of(part.get("input_audio")), "data"
        case "file":
            name = "file_url" if part.get("file_url") is not None else "file_data"
            return name, part, name
        case kind:
            name = "video_url" if kind == "video" else "image_url"
            url = part.get(name)
            return (name, url, "url") if isinstance(url, dict) else (name, part, name)


def _is_large(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) >= LARGE and not _is_url(value)


def _code(kind: Modality) -> str:
    return "invalid_image_url" if kind == "image" else "invalid_media"


def _text_part(texts: Mapping[Modality, str], part: Item) -> Item:
    return {"type": "input_text", "text": texts[modality_of(part) or "image"]}


def _is_unusable(part: Item) -> bool:
    kind = modality_of(part)
    return kind is not None and fault_of(kind, source_of(part)[1]) is not None


def _is_url(source: str) -> bool:
    return source[:8].lower().startswith(("http://", "https://"))

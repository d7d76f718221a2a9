"""URLs of images: which ones can be sent, and the words that stand for an image that is not sent."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from app.items.checks import wrong
from app.items.shapes import IMAGE_PARTS, Item, fields_of, objects, string

LONGEST_URL = 8192
"""Characters of a URL that is no data URL. The size of data URLs is bounded with the whole input."""

LONGEST_HEAD = 200
"""Characters of a data URL before its content."""

UNUSABLE = "[An image whose URL cannot be used]"
LEFT_OUT = "[An image that is not sent any more]"

_DATA_URL = re.compile(r"data:image/[\w.+-]+(;[\w=.+-]+)*,", re.IGNORECASE | re.ASCII)


def url_of(part: Item) -> Any:
    """Return the URL of an image part, in the Responses form or in Chat's nested one."""
    url = part.get("image_url")
    return url.get("url") if isinstance(url, dict) else url


def is_data(part: Item) -> bool:
    """Return True if the part holds the image itself, as a data URL."""
    return string(url_of(part))[:5].lower() == "data:"


def fault_of(url: Any) -> str | None:
    """Return the reason why the provider cannot read an image from this URL; None if it may."""
    if not isinstance(url, str) or not url:
        return "is required and must be a URL."
    if " " in url or not url.isprintable():
        return "must not contain spaces, line breaks or control characters."
    if url[:5].lower() == "data:":
        head = _DATA_URL.match(url[:LONGEST_HEAD])
        if head is None or len(url) == head.end():
            return "must be a data URL of an image with its content, as data:image/png;base64,…"
        return None
    if len(url) > LONGEST_URL:
        return f"must not be longer than {LONGEST_URL} characters."
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    return None if usable else "must begin with https://, http:// or data:image/."


def check(item: Item, where: str) -> None:
    """Refuse an item with an image whose URL cannot be used.

    Raises:
        BadRequest: naming the part.
    """
    for field in ("content", "output"):
        value = item.get(field)
        for index, part in enumerate(value if isinstance(value, list) else []):
            if isinstance(part, dict) and is_image(part) and (fault := fault_of(url_of(part))):
                raise wrong(f"{where}.{field}[{index}].image_url", fault, "invalid_image_url")
    screenshot = fields_of(item.get("output"))
    if (url := screenshot.get("image_url")) is not None and (fault := fault_of(url)):
        raise wrong(f"{where}.output.image_url", fault, "invalid_image_url")


def is_image(part: Item) -> bool:
    return part.get("type") in IMAGE_PARTS


def is_media(part: Item) -> bool:
    """Return True for an image, and for any other part that is no text."""
    return is_image(part) or not isinstance(part.get("text"), str)


def without_unusable(item: Item) -> Item:
    """Return an item as it is sent, with words for each image whose URL cannot be used."""
    return in_words(item, UNUSABLE, lambda part: is_image(part) and fault_of(url_of(part)) is not None)


def in_words(item: Item, words: str, chosen: Callable[[Item], bool] = is_image) -> Item:
    """Return an item as it is sent, with words for each part that is chosen. Without any: the item itself."""
    field = "output" if item.get("type") == "function_call_output" else "content"
    if not any(map(chosen, objects(item.get(field)))):
        return item
    said = {"type": "input_text", "text": words}
    return {**item, field: [said if chosen(part) else part for part in objects(item[field])]}

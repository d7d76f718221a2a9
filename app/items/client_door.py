"""The door for what clients send: strings, Responses items or Chat messages become items of a known shape.

Strict: what is not taken is refused with the path of the element at fault, before anything is stored. Messages
of another API are refused too; nothing is taken and then not sent. `everthread import` translates those
(`app/transfer/foreign.py`).
"""

from collections.abc import Sequence
from typing import Any

from app.http.errors import BadRequest
from app.items import checks, media
from app.items.chat_functions import ChatFunctions
from app.items.checks import wrong
from app.items.input_item import InputItem
from app.items.kinds import KINDS, MALFORMED, RESTORED, kind_of
from app.items.pairs import arranged
from app.items.shapes import Item, Modality, fields_of, message

ROLES = ("system", "developer", "user", "assistant")

MOST_ELEMENTS = 20_000
"""Items of an input, and parts of its items. Each is checked, stored and weighed by itself."""

REFERENCE = "item_reference"
COMPACTION = "compaction"
"""Item that a client gets from `/responses/compact`: only the service can read it."""

NOT_TAKEN = {
    "document": "Send it as an input_file part, or its text as an input_text part.",
    "audio": "Send it as an input_audio part.",
    "video": "Send it as an input_video part.",
}
"""Parts of other APIs, and what to do instead."""

LONGEST_NAME = 512
"""Characters of a file's name, and of the name of an audio format."""

_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"enum": ["input_text", "output_text", "text"]}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_IMAGE_PART = {
    "type": "object",
    "properties": {"type": {"const": "input_image"}, "image_url": {"type": "string"}},
    "required": ["type", "image_url"],
}
_VIDEO_PART = {
    "type": "object",
    "properties": {"type": {"const": "input_video"}, "video_url": {"type": "string"}},
    "required": ["type", "video_url"],
}
_AUDIO_PART = {
    "type": "object",
    "properties": {
        "type": {"const": "input_audio"},
        "input_audio": {
            "type": "object",
            "properties": {"data": {"type": "string"}, "format": {"type": "string"}},
            "required": ["data"],
        },
    },
    "required": ["type", "input_audio"],
}
_FILE_PART = {
    "type": "object",
    "properties": {
        "type": {"const": "input_file"},
        "file_data": {"type": "string"},
        "file_url": {"type": "string"},
        "filename": {"type": "string"},
    },
    "required": ["type"],
}
_PARTS = [{"type": "string"}, _TEXT_PART, _IMAGE_PART, _VIDEO_PART, _AUDIO_PART, _FILE_PART]
_MESSAGE = {
    "title": "Message",
    "type": "object",
    "properties": {
        "type": {"enum": ["message", None]},
        "role": {"enum": list(ROLES)},
        "content": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "minItems": 1, "items": {"anyOf": _PARTS}},
            ]
        },
    },
    "required": ["role", "content"],
}
_CALL_ID = {"type": "string", "minLength": 1, "maxLength": checks.LONGEST_ID}
_FUNCTION_CALL = {
    "title": "Function call",
    "type": "object",
    "properties": {
        "type": {"const": "function_call"},
        "call_id": _CALL_ID,
        "name": {"type": "string"},
        "arguments": {"type": "string"},
    },
    "required": ["type", "call_id", "name", "arguments"],
}
_FUNCTION_CALL_OUTPUT = {
    "title": "Function call output",
    "type": "object",
    "properties": {
        "type": {"const": "function_call_output"},
        "call_id": _CALL_ID,
        "output": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
    },
    "required": ["type", "call_id", "output"],
}
_OTHER_ITEM = {
    "title": "Another item",
    "type": "object",
    "properties": {"type": {"enum": sorted({REFERENCE, COMPACTION, *KINDS} - {MALFORMED, RESTORED, "message"})}},
    "required": ["type"],
}
ITEM_SCHEMA: dict[str, Any] = {"anyOf": [_MESSAGE, _FUNCTION_CALL, _FUNCTION_CALL_OUTPUT, _OTHER_ITEM]}

INPUT_SCHEMA: dict[str, Any] = {
    "title": "Input",
    "description": "A text, or a list of Responses items or Chat messages.",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": ITEM_SCHEMA},
        {"type": "null"},
    ],
}
"""JSON schema of what `items_of` accepts."""


def items_of(value: Any, param: str = "input", *, references: bool = False, any_media: bool = False) -> list[Item]:
    """The items of an input.

    Args:
        param: the field that an error names.
        references: whether references to stored items, and compactions, are taken; they are left for the caller to
            resolve.
        any_media: True to admit media with unusable URLs, which are never sent (`app/items/media.py`).

    Raises:
        BadRequest: naming the element at fault.
    """
    if isinstance(value, str):
        if not value:
            raise BadRequest(f"'{param}' is empty. Say something.", param=param)
        return [message("user", value)]
    if not isinstance(value, list):
        raise BadRequest(f"'{param}' must be a string or a list of items.", param=param, code="invalid_type")
    if not value:
        raise BadRequest(f"'{param}' is empty. Send at least one item.", param=param)
    inner = (part for element in value if isinstance(element, dict) for part in element.values())
    if len(value) + sum(len(part) for part in inner if isinstance(part, list)) > MOST_ELEMENTS:
        raise BadRequest(
            f"'{param}' has more than {MOST_ELEMENTS} items and parts. Send it in several requests.",
            param=param,
            code="too_many_items",
        )
    items: list[Item] = []
    functions = ChatFunctions()
    for index, element in enumerate(value):
        where = f"{param}[{index}]"
        if not isinstance(element, dict):
            raise wrong(where, "must be an object.")
        read = _items(functions.translated(element, where), where, references=references)
        for item in () if any_media else read:
            media.check(item, where)
        items.extend(read)
    return items


def check_sendable(items: Sequence[InputItem], param: str) -> None:
    """Refuse an input of which nothing reaches the model.

    Raises:
        BadRequest: it holds reasoning only, or calls without their outputs.
    """
    if not any(item.type == "message" for item in items) and not arranged([item.data for item in items]):
        raise BadRequest(
            f"'{param}' holds nothing that can be sent to the model: reasoning, or calls without their outputs, only. "
            "Add a message, or the outputs.",
            param=param,
            code="nothing_to_send",
        )


def _items(element: Item, where: str, *, references: bool) -> list[Item]:
    kind = element.get("type")
    if not isinstance(element.get("pinned", False), bool):
        raise wrong(f"{where}.pinned", "must be true or false.")
    if kind is None and "role" not in element:
        if references and set(element) == {"id"}:
            return [_reference(element, where)]
        raise BadRequest(f"'{where}' needs a 'type', or a 'role' if it is a message.", param=where)
    if kind is None or kind == "message":
        return _message(element, where)
    if not isinstance(kind, str) or not kind:
        raise wrong(f"{where}.type", "must be a string.")
    if kind == REFERENCE:
        if not references:
            raise BadRequest(f"'{where}': references to items are not taken here. Send the item itself.", param=where)
        return [_reference(element, where)]
    if kind == COMPACTION:
        if not references:
            raise BadRequest(f"'{where}': compactions are taken as input of a response only.", param=where)
        checks.has_strings("encrypted_content")(element, where)
        return [{"type": COMPACTION, "encrypted_content": element["encrypted_content"], "where": where}]
    if kind in (MALFORMED, RESTORED) or (kind not in KINDS and not kind.endswith("_call")):
        raise BadRequest(
            f"'{where}.type': items of type {kind[:80]!r} are not taken. Send messages, tool calls and their outputs.",
            param=f"{where}.type",
            code="unknown_item_type",
        )
    kind_of(element).check(element, where)
    return [element]


def _reference(element: Item, where: str) -> Item:
    checks.has_ids("id")(element, where)
    return {"type": REFERENCE, "id": element["id"], "where": where}


def _message(given: Item, where: str) -> list[Item]:
    role = given.get("role")
    if role == "tool":
        return [_tool_message(given, where)]
    if role not in ROLES:
        raise wrong(
            f"{where}.role", f"must be one of {', '.join(ROLES)} or tool, not {str(role)[:80]!r}.", "invalid_value"
        )
    calls = given.get("tool_calls") or []
    if not isinstance(calls, list):
        raise wrong(f"{where}.tool_calls", "must be a list.")
    items: list[Item] = []
    content = given.get("content")
    if content is None and isinstance(given.get("refusal"), str):
        content = [{"type": "refusal", "refusal": given["refusal"]}]
    if (content is not None and not (calls and content == [])) or not calls:
        left = {
            key: value
            for key, value in given.items()
            if key not in ("tool_calls", "content", "type", "refusal") and value is not None
        }
        items.append({"type": "message", **left, "content": _content(content, where, role)})
    items.extend(_chat_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls))
    return items


def _tool_message(given: Item, where: str) -> Item:
    """Chat's form of a tool's output."""
    checks.has_ids("tool_call_id")(given, where)
    output = given.get("content")
    if isinstance(output, list):
        parts = [_part(part, f"{where}.content[{index}]", "tool") for index, part in enumerate(output)]
        plain = all(part["type"] in ("input_text", "output_text") for part in parts)
        output = "".join(part["text"] for part in parts) if plain else parts
    elif not isinstance(output, str):
        raise wrong(f"{where}.content", "must be a string or a list of parts.")
    return {"type": "function_call_output", "call_id": given["tool_call_id"], "output": output}


def _content(content: Any, where: str, role: str) -> Any:
    if isinstance(content, str):
        return content
    param = f"{where}.content"
    if not isinstance(content, list) or not content:
        raise wrong(param, "must be a string or a list of parts.")
    return [_part(part, f"{param}[{index}]", role) for index, part in enumerate(content)]


def _part(part: Any, where: str, role: str) -> Item:
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise wrong(where, "must be an object with a 'type'.")
    match part["type"]:
        case "text" | "input_text" | "output_text":
            checks.has_strings("text")(part, where)
            left = {name: value for name, value in part.items() if value is not None}
            return {**left, "type": "output_text" if role == "assistant" else "input_text"}
        case "refusal" if role == "assistant":
            checks.has_strings("refusal")(part, where)
            return part
        case "image_url" | "input_image":
            _check_role("image", where, role)
            return _image(part, where)
        case "video_url" | "input_video":
            _check_role("video", where, role)
            return _video(part, where)
        case "input_audio":
            _check_role("audio", where, role)
            return _audio(part, where)
        case "file" | "input_file":
            _check_role("file", where, role)
            return _file(part, where)
        case kind if kind in NOT_TAKEN:
            raise wrong(where, f"is of type {kind}. {NOT_TAKEN[kind]}", "unsupported_content")
        case kind:
            raise wrong(
                f"{where}.type",
                f"is {kind[:80]!r}. Parts are input_text, input_image, input_video, input_audio and input_file, an "
                "assistant's output_text and refusal.",
                "unsupported_content",
            )


def _check_role(kind: Modality, where: str, role: str) -> None:
    if role not in ("user", "tool"):
        raise wrong(
            where, f"is {media.NAMES[kind]}, which a message of role {role} cannot have.", "unsupported_content"
        )


def _image(part: Item, where: str) -> Item:
    """Return the part of an image. Chat nests the URL in an object."""
    image = part.get("image_url")
    nested = image if isinstance(image, dict) else {"url": image}
    if not isinstance(nested.get("url"), str):
        if isinstance(part.get("file_id"), str):
            raise wrong(where, "names a file, and the provider has none. Send 'image_url'.", "unsupported_content")
        raise BadRequest(f"'{where}.image_url' needs a 'url'.", param=f"{where}.image_url")
    detail = nested.get("detail") or part.get("detail")
    return {"type": "input_image", "image_url": nested["url"], **({"detail": detail} if detail else {})}


def _video(part: Item, where: str) -> Item:
    """Return the part of a video. Chat nests the URL in an object."""
    url = part.get("video_url")
    url = url.get("url") if isinstance(url, dict) else url
    if not isinstance(url, str):
        raise wrong(where, "needs a 'video_url': a URL, or a data URL of the video.", "unsupported_content")
    return {"type": "input_video", "video_url": url}


def _audio(part: Item, where: str) -> Item:
    """Return the part of an audio recording, which has the same form in both APIs."""
    given = fields_of(part.get("input_audio"))
    if not isinstance(given.get("data"), str):
        raise wrong(where, "needs an 'input_audio' with 'data': base64, a data URL, or a URL.", "unsupported_content")
    named = _names(given, ("format",), f"{where}.input_audio")
    return {"type": "input_audio", "input_audio": {"data": given["data"], **named}}


def _file(part: Item, where: str) -> Item:
    """Return the part of a file. Chat nests its fields in an object."""
    given = fields_of(part["file"]) if part["type"] == "file" else part
    held = [name for name in ("file_data", "file_url") if isinstance(given.get(name), str)]
    if given.get("file_id") is not None:
        raise wrong(where, "names a file, and the provider has none. Send 'file_data'.", "unsupported_content")
    if len(held) != 1:
        raise wrong(where, "needs either 'file_data' or 'file_url'.", "unsupported_content")
    return {"type": "input_file", held[0]: given[held[0]], **_names(given, ("filename",), where)}


def _names(given: Item, fields: Sequence[str], where: str) -> Item:
    """Return the fields that are present. Raise `BadRequest` for one that is not a short string."""
    found = {name: given[name] for name in fields if given.get(name) is not None}
    for name, value in found.items():
        if not isinstance(value, str) or len(value) > LONGEST_NAME:
            raise wrong(f"{where}.{name}", f"must be a string of at most {LONGEST_NAME} characters.")
    return found


def _chat_call(call: Any, where: str) -> Item:
    if isinstance(call, dict) and call.get("type") == "custom" and isinstance(call.get("custom"), dict):
        checks.has_ids("id")(call, where)
        checks.has_strings("name", "input")(call["custom"], f"{where}.custom")
        custom = call["custom"]
        return {"type": "custom_tool_call", "call_id": call["id"], "name": custom["name"], "input": custom["input"]}
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise BadRequest(f"'{where}' must be an object with an 'id' and a 'function'.", param=where)
    checks.has_ids("id")(call, where)
    checks.has_strings("name", "arguments")(function, f"{where}.function")
    return {
        "type": "function_call",
        "call_id": call["id"],
        "name": function["name"],
        "arguments": function["arguments"],
    }

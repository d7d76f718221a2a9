"""Messages of imported files in the forms of other libraries and APIs, as Chat messages or items.

LangChain's dumped messages, Anthropic's parts and ShareGPT's turns. Any other element stays as it is, for the service
to check.
"""

from typing import Any

import orjson

from app.items.checks import wrong
from app.items.shapes import Item, fields_of, objects, string

LANGCHAIN_ROLES = {
    "human": "user",
    "ai": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "HumanMessage": "user",
    "HumanMessageChunk": "user",
    "AIMessage": "assistant",
    "AIMessageChunk": "assistant",
    "SystemMessage": "system",
    "SystemMessageChunk": "system",
    "ToolMessage": "tool",
    "ToolMessageChunk": "tool",
}

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def translated(messages: list[Any]) -> list[Any]:
    """Return the elements of `messages`, each as the items or Chat messages that it stands for.

    Raises:
        BadRequest: naming an element in a foreign form that cannot be translated.
    """
    found: list[Any] = []
    for index, element in enumerate(messages):
        where = f"messages[{index}]"
        if isinstance(element, dict):
            found += _anthropic(_sharegpt(_langchain(element, where), where), where)
        else:
            found.append(element)
    return found


def _langchain(element: Item, where: str) -> Item:
    """A message as `messages_to_dict`, `dumpd` or `model_dump` of LangChain writes it."""
    if element.get("lc") == 1 and isinstance(element.get("kwargs"), dict):
        path = element.get("id")
        name = string(path[-1]) if isinstance(path, list) and path else ""
        role, fields = LANGCHAIN_ROLES.get(name), element["kwargs"]
        if role is None:
            raise wrong(where, f"is LangChain's {name[:80]!r}, which is no message that can be sent.", "invalid_value")
    elif string(element.get("type")) in LANGCHAIN_ROLES and "role" not in element:
        nested = element.get("data")
        role = LANGCHAIN_ROLES[element["type"]]
        fields = nested if isinstance(nested, dict) else element
        if "content" not in fields:
            raise wrong(where, "is a LangChain message without 'content'.", "invalid_value")
    else:
        return element
    said: Item = {"role": role, "content": fields.get("content")}
    if role == "tool":
        return {**said, "tool_call_id": fields.get("tool_call_id")}
    if role == "assistant" and fields.get("tool_calls"):
        # LangChain keeps a model's tool calls beside its content, and some models' in it too.
        if isinstance(said["content"], list):
            said["content"] = [p for p in said["content"] if not (isinstance(p, dict) and p.get("type") in _CALL_PARTS)]
        said["tool_calls"] = [
            {
                "id": call.get("id"),
                "type": "function",
                "function": {"name": call.get("name"), "arguments": _arguments(call.get("args"))},
            }
            for call in objects(fields["tool_calls"])
        ]
        said["content"] = said["content"] or None
    return said


_CALL_PARTS = ("tool_use", "tool_call", "function_call", "input_json_delta")


def _sharegpt(element: Item, where: str) -> Item:
    """A turn as ShareGPT has it: who it is from, and its value."""
    if "from" not in element or "value" not in element or "role" in element or "type" in element:
        return element
    role = SHAREGPT_ROLES.get(string(element["from"]))
    if role is None:
        raise wrong(f"{where}.from", f"must be one of {', '.join(SHAREGPT_ROLES)}.", "invalid_value")
    return {"role": role, "content": element["value"]}


def _anthropic(element: Item, where: str) -> list[Item]:
    """A message of Anthropic's: tool results and uses are parts of a message there, and items of their own here."""
    content = element.get("content")
    if "role" not in element or not any(part.get("type") in _ANTHROPIC for part in objects(content)):
        return [element]
    assert isinstance(content, list)
    found: list[Item] = []
    said: list[Any] = []

    def speak() -> None:
        if said:
            found.append({**element, "content": list(said)})
            said.clear()

    for index, part in enumerate(content):
        match part.get("type") if isinstance(part, dict) else None:
            case "tool_use" | "server_tool_use":
                speak()
                call = {"call_id": part.get("id"), "name": part.get("name"), "arguments": _arguments(part.get("input"))}
                found.append({"type": "function_call", **call})
            case "tool_result":
                speak()
                output = _result(part.get("content"), f"{where}.content[{index}]")
                found.append({"type": "function_call_output", "call_id": part.get("tool_use_id"), "output": output})
            case "thinking" | "redacted_thinking":
                text = string(part.get("thinking"))
                summary = [{"type": "summary_text", "text": text}] if text else []
                found.append({"type": "reasoning", "summary": summary})
            case "image":
                said.append(_anthropic_image(part, f"{where}.content[{index}]"))
            case _:
                said.append(part)
    speak()
    return found


_ANTHROPIC = ("tool_use", "server_tool_use", "tool_result", "thinking", "redacted_thinking", "image")


def _result(content: Any, where: str) -> Any:
    """A tool's result: a text, or parts with images."""
    if content is None or isinstance(content, str):
        return content or ""
    parts: list[Item] = []
    for index, part in enumerate(content if isinstance(content, list) else []):
        if isinstance(part, dict) and part.get("type") == "text":
            parts.append({"type": "input_text", "text": string(part.get("text"))})
        elif isinstance(part, dict) and part.get("type") == "image":
            parts.append(_anthropic_image(part, f"{where}.content[{index}]"))
        else:
            raise wrong(f"{where}.content[{index}]", "must be a text or an image.", "unsupported_content")
    if all(part["type"] == "input_text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _anthropic_image(part: Item, where: str) -> Item:
    source = fields_of(part.get("source"))
    if source.get("type") == "base64" and isinstance(source.get("data"), str):
        url = f"data:{string(source.get('media_type')) or 'image/png'};base64,{source['data']}"
    elif source.get("type") == "url" and isinstance(source.get("url"), str):
        url = source["url"]
    else:
        raise wrong(f"{where}.source", "must be of type base64 with 'data', or url with 'url'.", "unsupported_content")
    return {"type": "input_image", "image_url": url}


def _arguments(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value if value is not None else {}).decode()

"""A turn's `input` as items: from a string, from Responses items, or from Chat messages."""

from typing import Any

from app.errors import BadRequest

Item = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant")


def items_of(value: Any, param: str = "input") -> list[Item]:
    """The items of an input.

    Args:
        param: the field that an error names.

    Raises:
        BadRequest: naming the element at fault.
    """
    if isinstance(value, str):
        if not value:
            raise BadRequest(f"'{param}' is empty. Say something.", param=param)
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list):
        raise BadRequest(f"'{param}' must be a string or a list of items.", param=param, code="invalid_type")
    if not value:
        raise BadRequest(f"'{param}' is empty. Send at least one item.", param=param)
    items: list[Item] = []
    for index, element in enumerate(value):
        items.extend(_items(element, f"{param}[{index}]"))
    return items


def _items(element: Any, where: str) -> list[Item]:
    if not isinstance(element, dict):
        raise BadRequest(f"'{where}' must be an object.", param=where, code="invalid_type")
    kind = element.get("type")
    if kind is None and "role" not in element:
        raise BadRequest(f"'{where}' needs a 'type', or a 'role' if it is a message.", param=where)
    match kind:
        case None | "message":
            return _message(element, where)
        case "function_call":
            _strings(element, where, "call_id", "name", "arguments")
        case "function_call_output":
            _strings(element, where, "call_id")
            if not isinstance(element.get("output"), str | list):
                raise BadRequest(f"'{where}.output' must be a string or a list of parts.", param=f"{where}.output")
        case _ if not isinstance(kind, str) or not kind:
            raise BadRequest(f"'{where}.type' must be a string.", param=f"{where}.type", code="invalid_type")
        case "item_reference":
            raise BadRequest(
                f"'{where}': references to items are not supported. Send the item itself, or continue its thread.",
                param=where,
            )
    return [element]


def _message(message: Item, where: str) -> list[Item]:
    role = message.get("role")
    if role == "tool":
        # Chat's form of a tool's output.
        _strings(message, where, "tool_call_id")
        output = message.get("content")
        if not isinstance(output, str | list):
            raise BadRequest(f"'{where}.content' must be a string.", param=f"{where}.content", code="invalid_type")
        return [{"type": "function_call_output", "call_id": message["tool_call_id"], "output": _plain_text(output)}]
    if role not in ROLES:
        raise BadRequest(
            f"'{where}.role' must be one of {', '.join(ROLES)} or tool, not {str(role)[:80]!r}.",
            param=f"{where}.role",
        )
    calls = message.get("tool_calls") or []
    items: list[Item] = []
    content = message.get("content")
    if content is not None or not calls:
        shown = {key: value for key, value in message.items() if key not in ("tool_calls", "content", "type")}
        items.append({"type": "message", **shown, "content": _content(content, where, role)})
    if calls and not isinstance(calls, list):
        raise BadRequest(f"'{where}.tool_calls' must be a list.", param=f"{where}.tool_calls", code="invalid_type")
    items.extend(_chat_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls))
    return items


def _content(content: Any, where: str, role: str) -> Any:
    if isinstance(content, str):
        return content
    param = f"{where}.content"
    if not isinstance(content, list) or not content:
        raise BadRequest(f"'{param}' must be a string or a list of parts.", param=param, code="invalid_type")
    return [_part(part, f"{param}[{index}]", role) for index, part in enumerate(content)]


def _part(part: Any, where: str, role: str) -> Item:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise BadRequest(f"'{where}' must be an object with a 'type'.", param=where, code="invalid_type")
    match part["type"]:
        case "text":
            _strings(part, where, "text")
            return {**part, "type": "output_text" if role == "assistant" else "input_text"}
        case "image_url":
            # Chat nests the URL in an object, Responses has it as it is.
            image = part.get("image_url")
            nested = image if isinstance(image, dict) else {"url": image}
            if not isinstance(nested.get("url"), str):
                raise BadRequest(f"'{where}.image_url' needs a 'url'.", param=f"{where}.image_url")
            detail = {"detail": nested["detail"]} if "detail" in nested else {}
            return {"type": "input_image", "image_url": nested["url"], **detail}
        case "input_text" | "output_text":
            _strings(part, where, "text")
    return part


def _chat_call(call: Any, where: str) -> Item:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise BadRequest(f"'{where}' must be an object with an 'id' and a 'function'.", param=where)
    _strings(call, where, "id")
    _strings(function, f"{where}.function", "name", "arguments")
    return {
        "type": "function_call",
        "call_id": call["id"],
        "name": function["name"],
        "arguments": function["arguments"],
    }


def _plain_text(content: str | list[Any]) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


def _strings(element: Item, where: str, *fields: str) -> None:
    for name in fields:
        if not isinstance(element.get(name), str):
            raise BadRequest(
                f"'{where}.{name}' is required and must be a string.", param=f"{where}.{name}", code="invalid_type"
            )

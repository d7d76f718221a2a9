"""The kinds of items: what shape each must have, how it is sent to the provider, and how it reads.

One table. The provider takes messages, function calls and their outputs; what else there is goes along as one of
these, or is left out. docs/history.md is this table in words.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from app.items import checks
from app.items.checks import Check
from app.items.shapes import Item, joined, listed, media_of, message, note, objects, string, text_of, words

MALFORMED = "malformed"
"""The type under which an item is kept that the provider gave and that has not the shape of its own type."""

RESTORED = "restored_reasoning"
"""A reasoning item, in `item`, that is sent back as it came: never stored, and no client's."""

CONFIGURATION = "configuration_update"
"""OpenAI's item that changes effort or format of later responses. The provider documents no such item: it is stored and
shown, and neither sent nor acted on."""

SYSTEM_ROLES = ("system", "developer")

Pair = Literal["call", "output"]


@dataclass(frozen=True, slots=True)
class Kind:
    check: Check = checks.anything
    """Check of a client's item."""
    fits: Callable[[Item], bool] = lambda item: True
    """Test whether a provider's item has the shape that the functions below rely on."""
    carried: Callable[[Item], list[Item]] = lambda item: []
    """The item as the provider takes it, in a new input and in a rebuilt history: perhaps as another kind, or not."""
    chained: Callable[[Item], list[Item]] | None = None
    """The answer to a call that the model's own chain holds; None: as `carried`."""
    pair: Pair | None = None
    """Half of a tool call that the item is; one half cannot be sent without the other."""
    key: Callable[[Item], str] = lambda item: string(item.get("call_id"))
    """Key that the two halves of a tool call share."""
    title: Callable[[Item], str | None] = lambda item: None
    """Heading in Markdown; None: the item is left out there."""


def kind_of(item: Item) -> Kind:
    """The kind of an item that has come in through one of the doors."""
    type_ = type_of(item)
    if type_ in _BY_SERVER and not _is_of_client(item):
        return _BY_SERVER[type_]
    return KINDS.get(type_) or (_OTHER_CALL if type_.endswith("_call") else _OTHER)


def type_of(item: Item) -> str:
    """An item's type; a message need not say that it is one."""
    type_ = item.get("type", "message")
    return type_ if isinstance(type_, str) else ""


def is_encrypted_reasoning(item: Item) -> bool:
    return type_of(item) == "reasoning" and bool(string(item.get("encrypted_content")))


def sent_back(item: Item) -> Item:
    """Return encrypted reasoning as what goes to the model unchanged. The provider requires a `summary`."""
    given = {name: value for name, value in item.items() if name != "pinned"}
    if given.get("summary") is None:
        given["summary"] = []
    return {"type": RESTORED, "item": given}


def is_system(item: Item) -> bool:
    return type_of(item) == "message" and item.get("role") in SYSTEM_ROLES


def _call(call_id: Any, name: str, arguments: str) -> list[Item]:
    return [{"type": "function_call", "name": name, "arguments": arguments, "call_id": call_id}]


def _output(call_id: Any, output: Any) -> list[Item]:
    return [{"type": "function_call_output", "call_id": call_id, "output": output}]


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()


def _message(item: Item) -> list[Item]:
    role = item["role"]
    if role == "assistant":
        said = text_of(item)
        return [message("assistant", said)] if said else []
    return [message(role, item["content"])]


def _speaks(item: Item) -> bool:
    """The provider speaks as the assistant only; what it says under another role is kept, and not taken for theirs."""
    return item.get("role") == "assistant" and isinstance(item.get("content"), str | list)


def _has(*fields: str) -> Callable[[Item], bool]:
    return lambda item: (
        all(isinstance(item.get(field), str) and item[field] for field in fields[:1])
        and all(isinstance(item.get(field), str) for field in fields)
    )


def _is_answer(item: Item) -> bool:
    return bool(string(item.get("call_id"))) and isinstance(item.get("output"), str | list)


def _client_tool(name: str, field: str) -> Kind:
    """A call of a tool that the client has by itself: what it is to do is an object."""
    return Kind(
        check=checks.all_of(checks.has_ids("call_id"), checks.has_objects(field)),
        fits=_has("call_id"),
        carried=lambda item: _call(item["call_id"], name, _dumps(item.get(field))),
        pair="call",
        title=lambda item: f"**Tool call** `{name}`",
    )


def _client_tool_output(carried: Callable[[Item], Any], check: Check, key: str = "call_id") -> Kind:
    return Kind(
        check=checks.all_of(checks.has_ids(key), check),
        fits=_has(key),
        carried=lambda item: _output(_key(item, key), carried(item)),
        pair="output",
        key=lambda item: _key(item, key),
        title=lambda item: "**Tool output**",
    )


def _key(item: Item, field: str) -> str:
    """Return the call that an output answers: the specification's field, or `call_id` where a client sends that."""
    return string(item.get("call_id")) or string(item.get(field))


def _screenshot(item: Item) -> Any:
    shown = item.get("output")
    url = string(shown.get("image_url")) if isinstance(shown, dict) else ""
    return [{"type": "input_image", "image_url": url}] if url else words(shown)


def _own_approval(item: Item) -> list[Item]:
    """An approval as it is: no other item answers the provider's own request."""
    given = {name: item.get(name) for name in ("type", "approval_request_id", "approve", "reason")}
    return [{name: value for name, value in given.items() if value is not None}]


def _own_search_output(item: Item) -> list[Item]:
    status = string(item.get("status")) or "completed"
    return [{**{name: item[name] for name in ("type", "call_id", "tools")}, "execution": "client", "status": status}]


def _is_of_client(item: Item) -> bool:
    """Return True if the client executes a tool search. The provider's own come with their output."""
    return bool(string(item.get("call_id"))) and item.get("execution") != "server"


def _approval(item: Item) -> str:
    reason = string(item.get("reason"))
    return ("approved" if item.get("approve") is True else "denied") + (f": {reason}" if reason else "")


def _hosted(carried: Callable[[Item], list[Item]], check: Check = checks.anything) -> Kind:
    """A tool that the provider runs: it takes none of these back, so that what was found goes along as words."""
    return Kind(check=check, carried=carried, title=lambda item: f"*{type_of(item)}*")


def _search_arguments(item: Item) -> str:
    """The arguments of a tool search, which are any JSON, as those of a function."""
    arguments = item["arguments"]
    return arguments if isinstance(arguments, str) else _dumps(arguments)


def _found_images(item: Item) -> list[Item]:
    return note(f"{string(item.get('name')) or 'A tool'} found", item.get("output"))


KINDS: dict[str, Kind] = {
    "message": Kind(fits=_speaks, carried=_message),
    "function_call": Kind(
        check=checks.all_of(checks.has_ids("call_id"), checks.has_strings("name", "arguments")),
        fits=_has("call_id", "name", "arguments"),
        carried=lambda item: _call(item["call_id"], item["name"], item["arguments"]),
        pair="call",
        title=lambda item: f"**Tool call** `{item['name']}`",
    ),
    "function_call_output": Kind(
        check=checks.all_of(checks.has_ids("call_id"), checks.has_output),
        fits=_is_answer,
        carried=lambda item: _output(item["call_id"], item["output"]),
        pair="output",
        title=lambda item: "**Tool output**",
    ),
    "custom_tool_call": Kind(
        check=checks.all_of(checks.has_ids("call_id"), checks.has_strings("name", "input")),
        fits=_has("call_id", "name", "input"),
        carried=lambda item: _call(item["call_id"], item["name"], _dumps({"input": item["input"]})),
        pair="call",
        title=lambda item: f"**Tool call** `{item['name']}`",
    ),
    "custom_tool_call_output": _client_tool_output(lambda item: item.get("output"), checks.has_output),
    "local_shell_call": _client_tool("local_shell", "action"),
    "local_shell_call_output": _client_tool_output(
        lambda item: words(item.get("output")), checks.has_strings("output"), key="id"
    ),
    "shell_call": _client_tool("shell", "action"),
    "shell_call_output": _client_tool_output(
        lambda item: words(item.get("output")), checks.may_list("output", dict, "an object")
    ),
    "apply_patch_call": _client_tool("apply_patch", "operation"),
    "apply_patch_call_output": _client_tool_output(
        lambda item: joined([string(item.get("status")), words(item.get("output"))]), checks.has_strings("status")
    ),
    "computer_call": Kind(
        check=checks.has_ids("call_id"),
        fits=_has("call_id"),
        carried=lambda item: _call(item["call_id"], "computer", _dumps(item.get("action") or item.get("actions"))),
        pair="call",
        title=lambda item: "**Tool call** `computer`",
    ),
    "computer_call_output": _client_tool_output(_screenshot, checks.has_objects("output")),
    "mcp_approval_request": Kind(
        check=checks.all_of(checks.has_ids("id"), checks.has_strings("name", "arguments", "server_label")),
        fits=_has("id", "name", "arguments"),
        carried=lambda item: _call(
            item["id"],
            "mcp_approval",
            _dumps({name: item.get(name) for name in ("server_label", "name", "arguments")}),
        ),
        pair="call",
        key=lambda item: string(item.get("id")),
        title=lambda item: f"**Approval asked for** `{item['name']}`",
    ),
    "mcp_approval_response": Kind(
        check=checks.all_of(
            checks.has_ids("approval_request_id"), checks.has_booleans("approve"), checks.may_be_string("reason")
        ),
        fits=_has("approval_request_id"),
        carried=lambda item: _output(item["approval_request_id"], _approval(item)),
        chained=_own_approval,
        pair="output",
        key=lambda item: string(item.get("approval_request_id")),
        title=lambda item: "**Tool output**",
    ),
    "tool_search_call": Kind(
        check=checks.has_arguments,
        fits=lambda item: "arguments" in item,
        carried=lambda item: _call(item["call_id"], "tool_search", _search_arguments(item)),
        pair="call",
        title=lambda item: "**Tool call** `tool_search`",
    ),
    "tool_search_output": Kind(
        check=checks.has_list("tools", dict, "an object"),
        fits=lambda item: isinstance(item.get("tools"), list),
        carried=lambda item: _output(item["call_id"], _dumps(item["tools"])),
        chained=_own_search_output,
        pair="output",
        title=lambda item: "**Tool output**",
    ),
    RESTORED: Kind(fits=lambda item: False, carried=lambda item: [item["item"]]),
    "reasoning": Kind(check=checks.may_list("summary", dict, "an object")),
    CONFIGURATION: _hosted(lambda item: []),
    "web_search_call": _hosted(lambda item: []),
    "mcp_list_tools": _hosted(lambda item: [], checks.may_list("tools", dict, "an object")),
    "web_extractor_call": _hosted(
        lambda item: note(f"Read {listed(item.get('urls'))}", item.get("output")),
        checks.may_list("urls", str, "a string"),
    ),
    "code_interpreter_call": _hosted(
        lambda item: note(
            f"Ran code:\n{string(item.get('code'))}\nIt printed",
            joined([words(output.get("logs")) for output in objects(item.get("outputs"))]),
        ),
        checks.may_list("outputs", dict, "an object"),
    ),
    "web_search_image_call": _hosted(_found_images),
    "image_search_call": _hosted(_found_images),
    "mcp_call": _hosted(
        lambda item: note(f"{string(item.get('name')) or 'A tool'} found", item.get("output") or item.get("error"))
    ),
    "file_search_call": _hosted(
        lambda item: note(
            "Found in the files", joined([words(result.get("text")) for result in objects(item.get("results"))])
        ),
        checks.may_list("results", dict, "an object"),
    ),
    "image_generation_call": _hosted(lambda item: note("Made", "an image") if item.get("result") else []),
    MALFORMED: Kind(title=lambda item: "*item*"),
}

_BY_SERVER: dict[str, Kind] = {
    "tool_search_call": _hosted(lambda item: [], checks.all_of(checks.is_by_server, checks.has_arguments)),
    "tool_search_output": _hosted(
        lambda item: note("A tool search found", item.get("tools")),
        checks.all_of(checks.is_by_server, checks.has_list("tools", dict, "an object")),
    ),
}
"""Tool searches that the provider has executed: a call and its output that no id connects."""

_OTHER_CALL = _hosted(lambda item: note(type_of(item), {k: v for k, v in item.items() if k not in ("id", "type")}))
"""A tool's call of a type that is not known yet: as its JSON, so that nothing of it is lost."""

_OTHER = Kind(title=lambda item: f"*{type_of(item)}*")

CALLS = tuple(name for name, kind in KINDS.items() if kind.pair == "call")
"""The types that wait for an answer of the client's."""


def media_in(item: Item) -> list[Item]:
    """Return the images, videos, audio and files of a message or of a tool's output."""
    return media_of(item.get("content")) + media_of(item.get("output"))

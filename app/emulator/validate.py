"""Checks of a request, as strict as any report, capture or page says that the provider is.

Where the provider is silent about a field, the check is stricter: an item with a read-only `id` or `status`, or half of
a tool call, is refused, so that a wrong rebuild fails a test instead of passing unseen.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import orjson

from app.emulator.errors import ProviderError, invalid_parameter
from app.emulator.reasoning import is_ours
from app.emulator.state import Item, Refused
from app.provider.models import Family, Models

ROLES = ("system", "developer", "user", "assistant")
MEDIA_PARTS: dict[str, Literal["image", "video", "audio", "file"]] = {
    "image_url": "image",
    "input_image": "image",
    "video_url": "video",
    "input_video": "video",
    "input_audio": "audio",
    "input_file": "file",
}
USER_PARTS = ("text", "input_text", *MEDIA_PARTS)
ASSISTANT_PARTS = ("text", "output_text")
MESSAGE_FIELDS = {"type", "role", "content"}

ARGUMENTS = (
    '<400> InternalError.Algo.InvalidParameter: The "function.arguments" parameter of the code model must be in JSON '
    "format."
)
MEDIA = (
    "<400> InternalError.Algo.InvalidParameter: Unable to download the media resource during the data inspection "
    "process."
)
NESTED_TOOL = (
    "<400> InternalError.Algo.InvalidParameter: The parameters, when provided as a dict, must confirm to a valid "
    "openai-compatible JSON schema."
)
INADMISSIBLE = "<400> InternalError.Algo.DataInspectionFailed: Input data may contain inappropriate content."


ANSWERS: dict[str, tuple[str, ...]] = {
    "mcp_approval_response": ("approval_request_id", "approve", "reason"),
    "tool_search_output": ("call_id", "tools", "execution", "status"),
}
"""Items that answer a call of another type than a function's, and their fields; the first names the call."""

CALLED_BY: dict[str, tuple[str, str]] = {
    "function_call": ("call_id", "function_call_output"),
    "mcp_approval_request": ("id", "mcp_approval_response"),
    "tool_search_call": ("call_id", "tool_search_output"),
}
"""For each type of a call the field that names it, and the only type that answers it."""


def request(body: dict[str, Any], models: Models) -> None:
    """Check the documented fields of a create request; every other field is ignored.

    Raises:
        ProviderError: in the provider's words.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid_parameter("Required parameter(model) missing or invalid, please check the request parameters.")
    if not model.startswith(("qwen", "deepseek", "kimi", "glm")):
        raise invalid_parameter(f"Unsupported model: '{model}'.")
    if body.get("previous_response_id") and body.get("conversation"):
        raise invalid_parameter(
            "Mutually exclusive parameters: Ensure you are only providing one of: "
            "'previous_response_id' or 'conversation'."
        )
    _number(body, "temperature", lambda n: 0 <= n < 2, "[0,2)")
    _number(body, "top_p", lambda n: 0 < n <= 1, "(0,1]")
    limit = body.get("max_output_tokens")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or limit < 16):
        raise invalid_parameter(f"Invalid 'max_output_tokens': must be greater than or equal to 16, got {limit}.")
    if not isinstance(store := body.get("store", True), bool | None):
        raise invalid_parameter(f"Invalid 'store': {store}. Must be a boolean.")
    reasoning = body.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    family = models.of(model)
    if effort not in (None, *family.efforts):
        known = ",".join(f"'{each}'" for each in family.efforts)
        raise invalid_parameter(f"Invalid 'reasoning.effort': {effort}. Supported values are: ({known}).")
    if effort is not None and body.get("thinking_budget") is not None:
        raise invalid_parameter("reasoning.effort and thinking_budget cannot be set at the same time.")
    if limit is not None and limit > (family.output_limit or 1 << 30):
        raise invalid_parameter(f"Range of max_output_tokens should be [16, {family.output_limit}]")
    _tools(body)


def input_items(value: Any) -> list[Item]:
    """The request's `input` as items.

    Raises:
        ProviderError: 400 for an item that the provider does not take.
    """
    if isinstance(value, str):
        if not value:
            raise invalid_parameter("input must not be empty.")
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise invalid_parameter("Required parameter(input) missing or invalid, please check the request parameters.")
    return [_item(item, f"input[{index}]") for index, item in enumerate(value)]


def chat_messages(value: Any) -> list[Item]:
    """Return a Chat Completions request's `messages` as items.

    Raises:
        ProviderError: 400 for a message that the provider does not take, or half of a tool call.
    """
    if not isinstance(value, list) or not value:
        raise invalid_parameter("Required parameter(messages) missing or invalid, please check the request parameters.")
    items = [
        item
        for index, given in enumerate(value)
        if isinstance(given, dict)
        for item in _chat_items(given, f"messages[{index}]")
    ]
    tool_outputs(items)
    return items


def _chat_items(given: dict[str, Any], where: str) -> list[Item]:
    """The message's own item, and those of the tool calls that Chat nests in it."""
    if given.get("role") == "tool":
        output = {"type": "function_call_output", "call_id": given.get("tool_call_id"), "output": given.get("content")}
        return [_item(output, where)]
    calls = given.get("tool_calls") or []
    spoken = {name: value for name, value in given.items() if name != "tool_calls" and value is not None}
    items = [] if calls and not spoken.get("content") else [_message(spoken, where)]
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise invalid_parameter(f"{where}.tool_calls: each needs an id and a function.")
        named = {"call_id": call.get("id"), "name": function.get("name"), "arguments": function.get("arguments")}
        items.append(_item({"type": "function_call", **named}, where))
    return items


def in_responses_form(body: dict[str, Any]) -> dict[str, Any]:
    """Return a Chat Completions request with its tools as the Responses API has them: Chat nests them in `function`.

    Raises:
        ProviderError: 400 for a tool in the Responses form.
    """
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        tools = [{"type": "function", "name": _function(choice, "tool_choice").get("name")}]
        choice = {"type": "allowed_tools", "mode": "required", "tools": tools}
    given = body.get("tools") or []
    tools = [
        {"type": "function", **_function(tool, f"tools[{index}]")}
        for index, tool in enumerate(given if isinstance(given, list) else [given])
    ]
    return {**body, "tools": tools, "tool_choice": choice}


def _function(given: Any, where: str) -> dict[str, Any]:
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict):
        raise invalid_parameter(f"{where}: Missing required parameter: 'function'.")
    return function


TOOL_ROLE = (
    "<400> InternalError.Algo.InvalidParameter: Agent invalid parameter. The error message is [1 validation error for "
    "Message\nrole\n  Value error, tool must be one of user,assistant,system,function [type=value_error, "
    "input_value='tool', input_type=str]]"
)


def reasoning(items: Sequence[Item], family: Family) -> None:
    """Refuse encrypted reasoning that has changed, or that a model of another family made.

    Raises:
        ProviderError: 400 that names the item.
    """
    for index, item in enumerate(items):
        if item["type"] == "reasoning" and item.get("encrypted_content") is not None and not is_ours(item, family.name):
            raise invalid_parameter(f"input[{index}].encrypted_content could not be read.")


SYSTEM_FIRST = (
    "<50004> InternalError.Algo.QwenAgentError: Internal Error during qwen agent. The error message is [\nError code: "
    "400. Error message: The input messages must contain no more than one system message.  And the system message, "
    "if exists, must be the first message.]"
)


NO_USER = "<400> InternalError.Algo.InvalidParameter: The input messages do not contain elements with the role of user"
"""Seen in public reports; the chat templates of qwen3.5 and later refuse the same."""

SYSTEM_IMAGE = "<400> InternalError.Algo.InvalidParameter: System message cannot contain images."
"""As the chat templates of qwen3.5 and later have it."""

NO_PARTS = (
    "<400> InternalError.Algo.InvalidParameter: Input should be a valid string: input.messages.content. Text-only "
    "models do not support array-type content."
)
"""From the provider's page of error messages."""


def for_model(family: Family, context: Sequence[Item], instructions: object, *, one_system: bool) -> None:
    """Refuse a context that the model's backend does not take.

    It takes one system message at most, first and without images, and needs a user message. Some families take no tool
    outputs, some no images.

    Args:
        one_system: whether `instructions` count as that message.

    Raises:
        ProviderError: in the provider's words.
    """
    if not any(item["type"] == "message" and item["role"] == "user" for item in context):
        raise invalid_parameter(NO_USER)
    for place, item in enumerate(context):
        if item["type"] == "function_call_output" and not family.tool_outputs:
            raise invalid_parameter(TOOL_ROLE)
        media = [MEDIA_PARTS[part["type"]] for part in _media(item)]
        for kind in media:
            if not family.takes(kind):
                raise invalid_parameter(f"This model does not support {kind} input.")
        system = item["type"] == "message" and item["role"] in ("system", "developer")
        if system and media:
            raise invalid_parameter(SYSTEM_IMAGE)
        if system and (place > 0 or (one_system and instructions)):
            raise ProviderError(400, "server_error", SYSTEM_FIRST)


def no_parts(family: Family, items: Sequence[Item]) -> None:
    """Refuse lists of parts in an input for a family that takes text only.

    Raises:
        ProviderError: in the provider's words.
    """
    if not any(map(family.takes, MEDIA_PARTS.values())) and any(
        isinstance(item.get("content"), list) for item in items
    ):
        raise invalid_parameter(NO_PARTS)


def _media(item: Item) -> list[Item]:
    content = item.get("output") if item["type"] == "function_call_output" else item.get("content")
    parts = content if isinstance(content, list) else []
    return [part for part in parts if isinstance(part, dict) and part.get("type") in MEDIA_PARTS]


def tool_outputs(context: Sequence[Item]) -> None:
    """Refuse half a tool call: an output without its call before it, a call without its output close behind it."""
    waiting: list[tuple[str, str]] = []
    for item in context:
        if item["type"] in CALLED_BY:
            field, answer = CALLED_BY[item["type"]]
            if item.get(field) is not None:
                waiting.append((answer, item[field]))
        elif item["type"] == "function_call_output" or item["type"] in ANSWERS:
            named = item.get(ANSWERS.get(item["type"], ("call_id",))[0])
            if named is None:
                continue  # Of a tool search that the provider has executed.
            if (item["type"], named) not in waiting:
                wanted = "function call output with call_id" if item["type"] == "function_call_output" else item["type"]
                raise invalid_parameter(f"No tool call found for {wanted} {named}.")
            waiting.remove((item["type"], named))
        elif waiting and item["type"] == "message":
            break
    if waiting:
        answer, named = waiting[0]
        called = "function call" if answer == "function_call_output" else f"a call that needs a {answer}:"
        raise invalid_parameter(f"No tool output found for {called} {named}.")


def _number(body: dict[str, Any], field: str, fits: Any, range_: str) -> None:
    value = body.get(field)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
        raise invalid_parameter(
            f"Invalid '{field}': {value}. Expected a value between {range_}, but got {value} instead."
        )


def _tools(body: dict[str, Any]) -> None:
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        raise invalid_parameter("tools must be a list.")
    types = [tool.get("type") for tool in tools if isinstance(tool, dict)]
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise invalid_parameter(f"tools[{index}] must be an object.")
        if tool.get("type") == "function" and not isinstance(tool.get("name"), str):
            raise invalid_parameter(NESTED_TOOL)
    if "web_extractor" in types and "web_search" not in types:
        raise invalid_parameter("The web_extractor tool needs the web_search tool.")
    choice = body.get("tool_choice")
    if choice == "required" and len(tools) != 1:
        raise invalid_parameter("tool_choice 'required' is supported with one tool only.")
    if isinstance(choice, str) and choice not in ("auto", "none", "required"):
        raise invalid_parameter("tool_choice must be auto, none, required or an object of type allowed_tools.")


def _item(item: Any, where: str) -> Item:
    if not isinstance(item, dict):
        raise invalid_parameter(f"{where} must be an object.")
    kind = item.get("type", "message")
    if kind == "message":
        return _message(item, where)
    if kind == "function_call":
        _fields(item, where, required=("name", "arguments", "call_id"))
        if not _is_object(item["arguments"]):
            raise invalid_parameter(ARGUMENTS)
        return item
    if kind == "function_call_output":
        _fields(item, where, required=("call_id", "output"))
        _image_urls(item["output"], f"{where}.output")
        return item
    if kind in ANSWERS:
        named, *_ = ANSWERS[kind]
        if not isinstance(item.get(named), str):
            raise invalid_parameter(f"{where}.{named} is required and must be a string.")
        if extra := set(item) - {"type", *ANSWERS[kind]}:
            raise invalid_parameter(f"{where} has read-only or unknown fields: {', '.join(sorted(extra))}.")
        return item
    if kind == "reasoning":
        if not isinstance(item.get("summary"), list):
            raise invalid_parameter("Invalid 'summary': summary is required and must be a list for reasoning.")
        return item
    if kind == "web_search_call":
        for field in ("id", "status", "action"):
            if not item.get(field):
                raise invalid_parameter(f"{where}.{field} is required.")
        return item
    raise invalid_parameter(f"{where}.type '{kind}' is not supported as input.")


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(orjson.loads(arguments), dict)
    except orjson.JSONDecodeError:
        return False


def _image_urls(content: Any, where: str) -> None:
    for index, url in _urls(content):
        if not url.startswith(("http://", "https://", "data:image/", "data:video/")) or any(
            char.isspace() for char in url
        ):
            raise invalid_parameter(
                f"<400> InternalError.Algo.InvalidParameter: The provided URL does not appear to be valid. "
                f"Ensure it is correctly formatted. ({where}[{index}])"
            )


def _urls(content: Any) -> Iterator[tuple[int, str]]:
    """Yield the place and the URL of each image and video of a message's content, or of a tool's output."""
    for index, part in enumerate(content if isinstance(content, list) else []):
        kind = MEDIA_PARTS.get(str(part.get("type"))) if isinstance(part, dict) else None
        if kind in ("image", "video"):
            url = part.get(f"{kind}_url")
            url = url.get("url") if isinstance(url, dict) else url
            yield index, url if isinstance(url, str) else ""


def inspect(items: Sequence[Item], refused: Refused) -> None:
    """Refuse an input with a text that content inspection refuses, or with media that cannot be downloaded.

    Raises:
        ProviderError: in the provider's words.
    """
    for item in items:
        content = item.get("output") if item["type"] == "function_call_output" else item.get("content")
        for _, url in _urls(content):
            if url.startswith(tuple(refused.urls)):
                raise ProviderError(400, "InvalidParameter.DataInspection", MEDIA)
        said = orjson.dumps(item).decode()
        if any(text in said for text in refused.texts):
            raise ProviderError(400, "DataInspectionFailed", INADMISSIBLE)


def _fields(item: Item, where: str, *, required: Sequence[str]) -> None:
    for field in required:
        if not isinstance(item.get(field), str) and not (field == "output" and isinstance(item.get(field), list)):
            raise invalid_parameter(f"{where}.{field} is required and must be a string.")
    if extra := set(item) - {"type", *required}:
        raise invalid_parameter(f"{where} has read-only or unknown fields: {', '.join(sorted(extra))}.")


def _message(item: Item, where: str) -> Item:
    role = item.get("role")
    if role not in ROLES:
        raise invalid_parameter(f"{where}.role must be one of {', '.join(ROLES)}.")
    if extra := set(item) - MESSAGE_FIELDS:
        raise invalid_parameter(f"{where} has read-only or unknown fields: {', '.join(sorted(extra))}.")
    content = item.get("content")
    if isinstance(content, list) and content:
        allowed = ASSISTANT_PARTS if role == "assistant" else USER_PARTS
        for index, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") not in allowed:
                raise invalid_parameter(f"{where}.content[{index}].type must be one of {', '.join(allowed)}.")
        _image_urls(content, f"{where}.content")
        content = "".join(
            str(part.get("text") or "") if "text" in part["type"] else f"[{MEDIA_PARTS[part['type']]}]"
            for part in content
        )
    elif not isinstance(content, str):
        raise invalid_parameter(f"{where}.content must be a string or a list of parts.")
    if not content:
        raise invalid_parameter("<400> InternalError.Algo.InvalidParameter: The content field is a required field.")
    return {"type": "message", **item}

"""One answer of the emulated model: its output items, its usage, and the events of its stream."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.emulator import answers, reasoning
from app.emulator.state import Item, new_id
from app.provider.models import Family
from app.provider.structured import asked_format

Event = dict[str, Any]

WINDOW_SHARE = 0.8
"""Input beyond this share of the window is silently cut (reference page)."""

CACHE_MINIMUM = 1024
"""The session cache starts at this many tokens (reference page)."""

CACHE_SECONDS = 300.0
"""A cached context lives so long after it was last found (reference page)."""

# What a response echoes of its request. Only some of these are processed; all of them come back.
ECHOED = (
    "instructions", "metadata", "temperature", "top_p", "background", "max_output_tokens", "max_tool_calls",
    "prompt", "prompt_cache_key", "reasoning", "safety_identifier", "service_tier", "text", "top_logprobs",
    "truncation", "user", "previous_response_id", "conversation", "store",
)  # fmt: skip

ALWAYS: dict[str, Any] = {
    "background": False, "frequency_penalty": 0.0, "metadata": {}, "presence_penalty": 0.0, "service_tier": "default",
    "store": True, "temperature": 1.0, "top_logprobs": 0, "top_p": 1.0,
}  # fmt: skip
"""Fields that an ended response always has, whether they were sent or not (captures, September 2026)."""


THOUGHT = "The user asked something. I look at the whole conversation before I answer."


@dataclass(slots=True)
class Answer:
    output: list[Item]
    usage: dict[str, Any]
    incomplete: bool


def cut(context: list[Item], window: int) -> list[Item]:
    """The context as the model sees it: the oldest items go, without a word, when it is too long."""
    budget = int(window * WINDOW_SHARE)
    sizes = [answers.item_tokens(item) for item in context]
    total, first = sum(sizes), 0
    while total > budget and first < len(context) - 1:
        total -= sizes[first]
        first += 1
    return context[first:]


def answer(body: dict[str, Any], context: list[Item], family: Family, *, cached: int, session_cache: bool) -> Answer:
    """Return the model's answer.

    Args:
        body: the create request.
        context: the items that the model sees, the new input included.
        cached: tokens of the context that a session cache holds.
        session_cache: whether `x-dashscope-session-cache: enable` was sent.
    """
    tools: list[Item] = body.get("tools") or []
    choice = body.get("tool_choice", "auto")
    instructions = body.get("instructions") if isinstance(body.get("instructions"), str) else None
    thinking = _thinks(body, family)
    asked_summary = isinstance(body.get("reasoning"), dict) and body["reasoning"].get("summary") is not None
    acts = family.reasoning_summary

    def thought(words: str) -> Item:
        return reasoning.item(words, family.name, summary=not acts or asked_summary, encrypted=acts and asked_summary)

    output: list[Item] = []
    counts: dict[str, int] = {}
    limit = body.get("max_output_tokens")
    incomplete = False
    if thinking:
        words, incomplete = within(THOUGHT, int(limit) if acts and limit is not None else None)
        output.append(thought(words))
    tool = answers.function_to_call(context, tools, choice)
    if incomplete:
        tool, tools = None, []
    if tool is not None:
        output.append(
            {
                "type": "function_call",
                "id": new_id("fc_"),
                "call_id": new_id("call_"),
                "name": tool["name"],
                "arguments": answers.arguments(tool, context),
                "status": "completed",
            }
        )
    else:
        asked = answers.message_text(context[-1]) if context and context[-1]["type"] == "message" else ""
        for built_in in tools if choice != "none" else []:
            if (item := _built_in(built_in, asked, context)) is not None:
                output.append(item)
                counts[built_in["type"]] = counts.get(built_in["type"], 0) + 1
                if thinking and item["type"] == "web_search_call":
                    output.append(thought("The search results show where to look."))
    if tool is None and not incomplete and not any(item["type"] == "mcp_approval_request" for item in output):
        words = answers.text(context, instructions, _enforced(body) if family.structured_output else None)
        words, incomplete = within(words, room(limit, body, family))
        output.append(_message(words, "incomplete" if incomplete else "completed"))
    seen = sum(answers.item_tokens(item) for item in context) + answers.tokens(instructions or "")
    cached_tokens = cached if session_cache and cached >= CACHE_MINIMUM else 0
    created = seen - cached_tokens if session_cache and seen >= CACHE_MINIMUM else 0
    return Answer(output, _usage(seen, output, cached_tokens, created, counts), incomplete)


def room(limit: Any, body: dict[str, Any], family: Family) -> int | None:
    """Return the tokens that are left for the answer. Models that act on reasoning.summary count their thoughts against
    the limit (third parties' measurements of qwen4-max)."""
    if not isinstance(limit, int | float):
        return None
    shares = family.reasoning_summary and _thinks(body, family)
    return int(limit) - answers.tokens(THOUGHT) if shares else int(limit)


def within(words: str, room: int | None) -> tuple[str, bool]:
    """Return the words that there is room for, and whether any were cut off."""
    if room is None or answers.tokens(words) <= room:
        return words, False
    return words.encode()[: max(0, room) * 4].decode(errors="ignore"), True


def response_object(
    response_id: str, created_at: float, body: dict[str, Any], status: str, answer: Answer | None, *, full: bool
) -> dict[str, Any]:
    """A response as the provider shows it: raw, without a null.

    Args:
        full: with what was echoed and used, as the current path has it; else nine keys, as the seed and a stream's
            first events have it.
    """
    done = answer if status in ("completed", "incomplete") else None
    shown: dict[str, Any] = {
        "output": done.output if done else [],
        "parallel_tool_calls": body.get("parallel_tool_calls", False),
        "created_at": created_at,
        "tool_choice": body.get("tool_choice", "auto"),
        "model": body.get("model", ""),
        "id": response_id,
        "tools": body.get("tools", []),
        "object": "response",
        "status": status,
    }
    if full:
        shown |= ALWAYS | {field: body[field] for field in ECHOED if body.get(field) is not None}
        if done:
            shown["completed_at"] = created_at + 1
    if done:
        shown["usage"] = done.usage
        if done.incomplete:
            shown["incomplete_details"] = {"reason": "max_output_tokens"}
    return shown


def events(last: dict[str, Any], body: dict[str, Any], answer: Answer) -> Iterator[Event]:
    """The stream of one answer, in the provider's order, without its sequence numbers.

    Args:
        last: the response as the last event shows it.
    """
    for status, kind in (("queued", "created"), ("in_progress", "in_progress")):
        opening = response_object(last["id"], last["created_at"], {**body, "model": ""}, status, None, full=False)
        yield {"type": f"response.{kind}", "response": opening}
    for index, item in enumerate(answer.output):
        where = {"output_index": index, "item_id": item["id"]}
        added = {"type": "response.output_item.added", "output_index": index, "item": _opening(item)}
        if item["type"] == "mcp_call":
            # They come before the item that they are of (captures).
            yield {"type": "response.mcp_call_arguments.delta", "delta": item["arguments"], **where}
            yield {"type": "response.mcp_call_arguments.done", "arguments": item["arguments"], **where}
        yield added
        match item["type"]:
            case "message":
                yield from _text_events(where, item["content"][0])
            case "reasoning":
                words = "".join(part["text"] for part in item["summary"])
                if not words:
                    yield {"type": "response.output_item.done", "output_index": index, "item": item}
                    continue
                for delta in chunks(words):
                    yield {"type": "response.reasoning_text.delta", "delta": delta, **where}
                yield {"type": "response.reasoning_text.done", "text": words, **where}
            case "function_call":
                for delta in chunks(item["arguments"]):
                    yield {"type": "response.function_call_arguments.delta", "delta": delta, **where}
                yield {
                    "type": "response.function_call_arguments.done",
                    "arguments": item["arguments"],
                    "name": item["name"],
                    **where,
                }
            case "web_search_call" | "file_search_call":
                for step in ("in_progress", "searching", "completed"):
                    yield {"type": f"response.{item['type']}.{step}", **where}
            case "code_interpreter_call":
                for step in ("in_progress", "interpreting", "completed"):
                    yield {"type": f"response.code_interpreter_call.{step}", **where}
            case "mcp_call":
                yield {"type": "response.mcp_call.completed", **where}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    status = "incomplete" if answer.incomplete else "completed"
    yield {"type": f"response.{status}", "response": last}


def chunks(words: str) -> Iterator[str]:
    """Deltas of a few words each, as the provider cuts them."""
    pieces = re.findall(r"\s*\S+", words) or [words]
    if tail := words[len("".join(pieces)) :]:
        pieces.append(tail)
    return ("".join(pieces[i : i + 2]) for i in range(0, len(pieces), 2))


def _thinks(body: dict[str, Any], family: Family) -> bool:
    """`reasoning.effort` wins over `enable_thinking` (reference page); qwen4-max thinks by default."""
    asked = body.get("reasoning")
    if isinstance(asked, dict) and asked.get("effort") is not None:
        return bool(asked["effort"] != "none")
    return body.get("enable_thinking") is True or (family.reasoning_summary and body.get("enable_thinking") is None)


def _enforced(body: dict[str, Any]) -> Item | None:
    """Return the JSON Schema of `text.format`, which some models enforce (model page of qwen4-max)."""
    asked = asked_format(body)
    return None if asked is None else asked.get("schema") or {"type": "object"}


def _message(words: str, status: str) -> Item:
    part: Item = {"type": "output_text", "annotations": [], "text": words}
    return {"type": "message", "id": new_id("msg_"), "role": "assistant", "status": status, "content": [part]}


def _built_in(tool: Item, asked: str, context: list[Item]) -> Item | None:
    """The item that a built-in tool leaves in the output; None for a tool type that is ignored."""
    done = {"id": new_id("msg_"), "status": "completed"}
    match tool.get("type"):
        case "web_search":
            sources = [{"type": "url", "url": "https://www.example.com/"}]
            return {"type": "web_search_call", "action": {"type": "search", "query": asked, "sources": sources}, **done}
        case "web_extractor":
            found = {"goal": asked, "output": "The page says hello.", "urls": ["https://www.example.com/"]}
            return {"type": "web_extractor_call", **found, **done}
        case "code_interpreter":
            outputs = [{"type": "logs", "logs": "42\n"}]
            run = {"code": "print(6 * 7)", "outputs": outputs, "container_id": new_id("cntr_")}
            return {"type": "code_interpreter_call", **run, **done}
        case "web_search_image" | "image_search" as kind:
            found = {"name": kind, "arguments": "{}", "output": '[{"url": "https://www.example.com/a.png"}]'}
            return {"type": f"{kind}_call", **found, **done}
        case "mcp":
            call = {"server_label": tool.get("server_label", "mcp"), "name": "lookup", "arguments": "{}"}
            answered = context[-1] if context and context[-1]["type"] == "mcp_approval_response" else None
            if tool.get("require_approval") == "always" and answered is None:
                return {"type": "mcp_approval_request", "id": new_id("mcpr_"), **call}
            if answered is not None and answered["approve"] is not True:
                return None
            return {"type": "mcp_call", **call, "output": "found", **done}
        case "file_search":
            return {"type": "file_search_call", "queries": [asked], "results": [{"text": "a passage"}], **done}
        case _:
            return None


def _usage(seen: int, output: list[Item], cached: int, created: int, counts: dict[str, int]) -> dict[str, Any]:
    spoken = sum(answers.item_tokens(item) for item in output)
    reasoned = sum(answers.item_tokens(item) for item in output if item["type"] == "reasoning")
    totals = {"input_tokens": seen, "output_tokens": spoken, "total_tokens": seen + spoken}
    usage: dict[str, Any] = {
        **totals,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens_details": {"reasoning_tokens": reasoned},
        "x_details": [{**totals, "x_billing_type": "response_api"}],
    }
    if created or cached:
        # What was written to the cache stands here alone (reference page, captures).
        usage["x_details"][0]["prompt_tokens_details"] = {
            "cached_tokens": cached,
            "cache_creation_input_tokens": created,
        }
    if counts:
        usage["x_tools"] = {name: {"count": count} for name, count in counts.items()}
    return usage


LATER = ("output", "outputs", "results")
"""Fields of hosted tools that are absent until the call is done (captures)."""


def _opening(item: Item) -> Item:
    """An item as `output_item.added` shows it: begun, and still empty."""
    empty: dict[str, Item] = {
        "message": {"content": []},
        "reasoning": {"summary": []},
        "function_call": {"arguments": ""},
        "web_search_call": {"action": {"type": "search", "query": "Web search"}},
    }
    opening = {name: value for name, value in item.items() if name not in LATER} | empty.get(item["type"], {})
    return opening | {"status": "in_progress"} if "status" in item else opening


def _text_events(where: dict[str, Any], part: Item) -> Iterator[Event]:
    at = {"content_index": 0, **where}
    yield {"type": "response.content_part.added", "part": {**part, "text": ""}, **at}
    for delta in chunks(part["text"]):
        yield {"type": "response.output_text.delta", "delta": delta, "logprobs": [], **at}
    yield {"type": "response.output_text.done", "text": part["text"], "logprobs": [], **at}
    yield {"type": "response.content_part.done", "part": part, **at}

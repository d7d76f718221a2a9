"""Usage of an answer, as reported by the provider for a Response or a Chat Completion."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from app.items.shapes import Item, fields_of
from app.items.weights import count
from app.process.values import value


@value
class Usage:
    """Counts of tokens, and of calls of the provider's built-in tools."""

    input: int = 0
    """Tokens of the prompt, including those read from a cache or written to one."""
    output: int = 0
    total: int = 0
    cached: int = 0
    written: int = 0
    """Tokens written to a cache."""
    reasoning: int = 0
    tools: Mapping[str, int] = field(default_factory=dict)
    """The number of calls of each tool."""

    def __add__(self, other: "Usage") -> "Usage":
        tools = {name: self.tools.get(name, 0) + other.tools.get(name, 0) for name in {**self.tools, **other.tools}}
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.total + other.total,
            self.cached + other.cached,
            self.written + other.written,
            self.reasoning + other.reasoning,
            tools,
        )


NO_USAGE = Usage()


def usage_of(reported: Any) -> Usage:
    """Return the counts of a Response's usage. Missing and malformed counts are 0."""
    usage = fields_of(reported)
    details, tools = usage.get("x_details"), usage.get("x_tools")
    first = fields_of(details[0]) if isinstance(details, list) and details else {}
    input_, output = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
    return Usage(
        input=input_,
        output=output,
        total=count(usage.get("total_tokens")) or input_ + output,
        cached=_detail(usage, "input_tokens_details", "cached_tokens"),
        written=_detail(first, "prompt_tokens_details", "cache_creation_input_tokens") if first else 0,
        reasoning=_detail(usage, "output_tokens_details", "reasoning_tokens"),
        tools={tool: count(fields_of(used).get("count")) for tool, used in fields_of(tools).items()} if tools else {},
    )


def _detail(usage: Item, details: str, name: str) -> int:
    found = usage.get(details)
    return count(found.get(name)) if isinstance(found, dict) else 0


def usage_of_chat(reported: Any) -> Usage:
    """Return the counts of a Chat Completion's usage."""
    usage = fields_of(reported)
    details = fields_of(usage.get("prompt_tokens_details"))
    return usage_of(
        {
            "input_tokens": usage.get("prompt_tokens"),
            "output_tokens": usage.get("completion_tokens"),
            "total_tokens": usage.get("total_tokens"),
            "input_tokens_details": details,
            "output_tokens_details": usage.get("completion_tokens_details"),
            "x_details": [{"prompt_tokens_details": details}],
        }
    )

"""Usage of an answer: the counts that the provider has reported, in whatever form it did."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.items.shapes import fields_of
from app.items.weights import count


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of tokens, and of calls of the provider's tools."""

    input: int = 0
    """Tokens of the prompt, including those that were read from a cache or written to one."""
    output: int = 0
    total: int = 0
    cached: int = 0
    written: int = 0
    """Tokens that were written to a cache."""
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
    """Return the counts of a Response's usage. What is no number counts as 0."""
    said = fields_of(reported)
    details = said.get("x_details")
    first = fields_of(details[0]) if isinstance(details, list) and details else {}
    read, spoken = count(said.get("input_tokens")), count(said.get("output_tokens"))
    return Usage(
        input=read,
        output=spoken,
        total=count(said.get("total_tokens")) or read + spoken,
        cached=count(fields_of(said.get("input_tokens_details")).get("cached_tokens")),
        written=count(fields_of(first.get("prompt_tokens_details")).get("cache_creation_input_tokens")),
        reasoning=count(fields_of(said.get("output_tokens_details")).get("reasoning_tokens")),
        tools={tool: count(fields_of(used).get("count")) for tool, used in fields_of(said.get("x_tools")).items()},
    )


def usage_of_chat(reported: Any) -> Usage:
    """Return the counts of a Chat Completion's usage."""
    said = fields_of(reported)
    details = fields_of(said.get("prompt_tokens_details"))
    return usage_of(
        {
            "input_tokens": said.get("prompt_tokens"),
            "output_tokens": said.get("completion_tokens"),
            "total_tokens": said.get("total_tokens"),
            "input_tokens_details": details,
            "output_tokens_details": said.get("completion_tokens_details"),
            "x_details": [{"prompt_tokens_details": details}],
        }
    )

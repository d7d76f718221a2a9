"""Usage of an answer, from the provider's counts."""

from typing import Any

from app.items.shapes import fields_of
from app.items.weights import count
from app.provider.account import is_batch
from app.provider.models import TOOLS
from app.provider.prices import Price


def kept(usage: Any) -> dict[str, Any]:
    """Return the counts of a usage in one shape, whatever the provider has reported: nothing else of it is stored."""
    said = fields_of(usage)
    read, written = count(said.get("input_tokens")), count(said.get("output_tokens"))
    cached = count(fields_of(said.get("input_tokens_details")).get("cached_tokens"))
    reasoning = count(fields_of(said.get("output_tokens_details")).get("reasoning_tokens"))
    shape: dict[str, Any] = {
        "input_tokens": read,
        "output_tokens": written,
        "total_tokens": count(said.get("total_tokens")) or read + written,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens_details": {"reasoning_tokens": reasoning},
    }
    details = said.get("x_details")
    first = fields_of(details[0]) if isinstance(details, list) and details else {}
    if cache_write := count(fields_of(first.get("prompt_tokens_details")).get("cache_creation_input_tokens")):
        shape["x_details"] = [{"prompt_tokens_details": {"cache_creation_input_tokens": cache_write}}]
    calls = {tool: count(fields_of(fields_of(said.get("x_tools")).get(tool)).get("count")) for tool in TOOLS}
    if called := {tool: {"count": number} for tool, number in calls.items() if number}:
        shape["x_tools"] = called
    return shape


def of_chat(usage: Any) -> dict[str, Any]:
    """Return a Chat Completions usage in the shape of a Response's."""
    said = fields_of(usage)
    details = fields_of(said.get("prompt_tokens_details"))
    shape = {
        "input_tokens": said.get("prompt_tokens"),
        "output_tokens": said.get("completion_tokens"),
        "total_tokens": said.get("total_tokens"),
        "input_tokens_details": details,
        "output_tokens_details": said.get("completion_tokens_details"),
        "x_details": [{"prompt_tokens_details": details}],
    }
    return kept(shape)


def spent(usage: Any, price: Price | None, account: str | None) -> tuple[int, float]:
    """Tokens, and what they cost; nothing where no price is known.

    Args:
        usage: of a Response, whatever it is.
        account: that was asked, or its binding.
    """
    said = fields_of(usage)
    read, written = count(said.get("input_tokens")), count(said.get("output_tokens"))
    tokens = count(said.get("total_tokens")) or read + written
    if price is None:
        return tokens, 0.0
    details = said.get("x_details")
    first = fields_of(details[0]) if isinstance(details, list) and details else {}
    kept = count(fields_of(first.get("prompt_tokens_details")).get("cache_creation_input_tokens"))
    cached = count(fields_of(said.get("input_tokens_details")).get("cached_tokens"))
    price = price.charged(batch=is_batch(account))
    cost = price.cost(input=read, cached=cached, written=kept, output=written)
    calls = {tool: count(fields_of(used).get("count")) for tool, used in fields_of(said.get("x_tools")).items()}
    return tokens, cost + price.of_tools(calls)

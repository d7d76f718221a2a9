"""What an answer has used, from what the provider counts in it."""

from typing import Any

from app.items.shapes import fields_of
from app.items.weights import count
from app.provider.account import is_batch
from app.provider.models import Price


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

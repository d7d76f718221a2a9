"""Cost of an answer, by the price of its day."""

from datetime import date
from typing import Any

from app.items.token_counts import Usage
from app.process.values import value
from app.provider.prices import Price

NO_CURRENCY = "XXX"
"""Currency of a price that names none (ISO 4217: no currency)."""

DIGITS = 9
"""Decimal places of a stored amount."""


@value
class Cost:
    """Cost of one or more answers, in one currency."""

    currency: str
    as_of: date | None
    """The day of the price."""
    amount: float
    input: float
    """The cost of the prompt without any cache."""
    answer: float
    """The part of the amount for the output."""
    saved: float
    """Savings by a cache, less the cost of writing to it."""

    def __add__(self, other: "Cost") -> "Cost":
        """Return the sum. Both must be in the same currency."""
        return Cost(
            self.currency,
            other.as_of,
            self.amount + other.amount,
            self.input + other.input,
            self.answer + other.answer,
            self.saved + other.saved,
        )

    def stored(self) -> dict[str, Any]:
        """Return the cost as it is stored in a turn's row."""
        return {
            "currency": self.currency,
            "as_of": None if self.as_of is None else self.as_of.isoformat(),
            "amount": round(self.amount, DIGITS),
            "input": round(self.input, DIGITS),
            "saved": round(self.saved, DIGITS),
        }


def currency_of(price: Price) -> str:
    return price.currency or NO_CURRENCY


def cost_of(usage: Usage, price: Price | None, batch: bool) -> Cost | None:
    """Return the cost of one answer; None if no price is known.

    Args:
        batch: see `account.is_batch`.
    """
    if price is None:
        return None
    read, all_tokens = price.costs(
        input=usage.input,
        cached=usage.cached,
        written=usage.written,
        output=usage.output,
        thinking=usage.reasoning > 0,
        batch=batch,
    )
    saved = 0.0
    if usage.cached or usage.written:
        saved = price.saved(input=usage.input, cached=usage.cached, written=usage.written, batch=batch)
    amount = all_tokens + price.tool_cost(usage.tools) if usage.tools else all_tokens
    return Cost(currency_of(price), price.as_of, amount, read + saved, all_tokens - read, saved)

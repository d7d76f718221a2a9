"""Cost of an answer, by the price of its day."""

from dataclasses import dataclass
from datetime import date
from typing import Any

from app.items.token_counts import Usage
from app.provider.prices import Price

NO_CURRENCY = "XXX"
"""ISO 4217's code for the currency of a price that names none."""

DIGITS = 9
"""Decimal places of a stored amount."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Money that was spent, in one currency."""

    currency: str
    as_of: date | None
    """The day for which the price is known."""
    amount: float
    input: float
    """The cost of the prompt, had no cache been used."""
    answer: float
    """The part of the amount that was paid for the answer."""
    saved: float
    """Money that a cache has saved, less the cost of writing to it."""

    def __add__(self, other: "Cost") -> "Cost":
        """Return both together. They are in one currency: `Admission.add` sees to it."""
        return Cost(
            self.currency,
            other.as_of,
            self.amount + other.amount,
            self.input + other.input,
            self.answer + other.answer,
            self.saved + other.saved,
        )

    def stored(self) -> dict[str, Any]:
        """Return what a turn's row holds of it."""
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
    """Return the cost of one answer; None where no price is known.

    Args:
        batch: see `account.is_batch`.
    """
    if price is None:
        return None
    thinking = usage.reasoning > 0
    read = price.cost(input=usage.input, cached=usage.cached, written=usage.written, output=0, batch=batch)
    all_tokens = price.cost(
        input=usage.input,
        cached=usage.cached,
        written=usage.written,
        output=usage.output,
        thinking=thinking,
        batch=batch,
    )
    saved = price.saved(input=usage.input, cached=usage.cached, written=usage.written, batch=batch)
    amount = all_tokens + price.of_tools(usage.tools)
    return Cost(currency_of(price), price.as_of, amount, read + saved, all_tokens - read, saved)

"""Prices of a model by length of the prompt, in one currency, for a region and as of a day."""

from collections.abc import Mapping
from datetime import date
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.settings import Region

CACHED_SHARE = 0.1
"""Default price factor of tokens read from a cache (reference page)."""

WRITTEN_SHARE = 1.25
"""Default price factor of tokens written to a cache (reference page)."""

MILLION = 1_000_000

Money = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Tier(BaseModel):
    """Prices of a million tokens, for prompts up to a length."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    up_to: int | None = Field(None, gt=0, le=10**9)
    """The longest prompt in tokens, cached ones included; None: any length."""
    input: Money
    output: Money
    cached: Money | None = None
    """Price of cached input; a tenth of `input` by default (reference page)."""
    cache_write: Money | None = None
    """Price of input that is written to a cache; `input` plus a quarter by default (reference page)."""
    thinking_output: Money | None = None
    """Price of the whole output if the model thinks first; `output` by default."""

    @property
    def cached_price(self) -> float:
        return CACHED_SHARE * self.input if self.cached is None else self.cached

    @property
    def written_price(self) -> float:
        return WRITTEN_SHARE * self.input if self.cache_write is None else self.cache_write

    def output_price(self, *, thinking: bool) -> float:
        return self.thinking_output if thinking and self.thinking_output is not None else self.output


class Price(BaseModel):
    """Prices of a model in one currency. A flat price, written without `tiers`, is one tier."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: Region | None = None
    """The region to which it applies; None: every region without a separate price."""
    currency: str | None = Field(None, pattern="^[A-Z]{3}$")
    """The ISO 4217 code; None if the operator's file does not state it."""
    as_of: date | None = None
    """The day of the price."""
    tiers: tuple[Tier, ...] = Field(min_length=1)
    """Ascending by the length of the prompt. A prompt that is longer than the last tier has the last tier's prices."""
    batch: Money = 0.5
    """Price factor of tokens at a batch endpoint; half by default (reference page)."""
    tools: dict[str, Money] = {}
    """Price of one call of each built-in tool (`web_search`, `code_interpreter` …)."""

    @model_validator(mode="before")
    @classmethod
    def _flat_as_a_tier(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "tiers" in value:
            return value
        tier = {name: each for name, each in value.items() if name in Tier.model_fields}
        rest = {name: each for name, each in value.items() if name not in tier}
        return {**rest, "tiers": [tier]}

    @model_validator(mode="after")
    def _ascending(self) -> "Price":
        for tier, longer in pairwise(self.tiers):
            if tier.up_to is None or (longer.up_to is not None and longer.up_to <= tier.up_to):
                raise PydanticCustomError("tiers", "the tiers must ascend by 'up_to'; only the last may leave it out")
        return self

    def tier(self, input: int) -> Tier:
        """Return the tier of a prompt's length in tokens."""
        for tier in self.tiers:
            if tier.up_to is None or input <= tier.up_to:
                return tier
        return self.tiers[-1]

    def cost(
        self, *, input: int, cached: int, written: int, output: int, thinking: bool = False, batch: bool = False
    ) -> float:
        """Return the cost of the tokens of one call. Args: see `costs`."""
        return self.costs(input=input, cached=cached, written=written, output=output, thinking=thinking, batch=batch)[1]

    def costs(
        self, *, input: int, cached: int, written: int, output: int, thinking: bool = False, batch: bool = False
    ) -> tuple[float, float]:
        """Return the cost of the prompt of one call, and that of prompt and output.

        Args:
            input: tokens of the prompt, including those that were read from (`cached`) or written to a cache.
            thinking: True if the model thought before it answered.
            batch: see `account.is_batch`.
        """
        tier = self.tier(input)
        plain = max(0, input - cached - written)
        read, factor = plain * tier.input, self.batch if batch else 1
        if cached or written:
            read += cached * tier.cached_price + written * tier.written_price
        return read * factor / MILLION, (read + output * tier.output_price(thinking=thinking)) * factor / MILLION

    def saved(self, *, cached: int, written: int, input: int = 0, batch: bool = False) -> float:
        """Return the savings of a cache in one call, less the cost of writing to it. Args: see `costs`."""
        tier = self.tier(max(input, cached + written))
        saved = cached * (tier.input - tier.cached_price) - written * (tier.written_price - tier.input)
        return saved * (self.batch if batch else 1) / MILLION

    def tool_cost(self, calls: Mapping[str, int]) -> float:
        """Return the cost of calls of built-in tools. A tool without a price costs nothing."""
        return sum(number * self.tools.get(tool, 0.0) for tool, number in calls.items())

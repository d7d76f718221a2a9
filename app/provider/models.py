"""Abilities and prices of the provider's models, by family: `models.toml`, overridden by a file of the deployment."""

from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from app.provider.models_file import Catalogue, FamilyTable, ModelsFile, Place
from app.provider.prices import Price
from app.settings import Region

HERE = Path(__file__).with_name("models.toml")

WINDOW_SHARE = 0.8
"""Input beyond this share of the window is silently cut by the provider (its reference page)."""

THINKING_TOKENS = 4096
"""Room for the thoughts of a model that cannot answer without them."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
"""In ascending order."""

IGNORED = frozenset((
    "frequency_penalty", "include", "logit_bias", "logprobs", "max_tool_calls", "modalities", "moderation", "n",
    "parallel_tool_calls", "presence_penalty", "prompt", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "safety_identifier", "seed", "service_tier", "stop", "stream_options", "top_logprobs",
    "verbosity",
))  # fmt: skip
"""OpenAI's fields that the provider accepts and ignores (a probe, September 2026)."""

_LOOKED_AT = IGNORED | {"reasoning", "text", "tools"}
"""Fields that are ignored, or a part of which may be."""


TOOLS = (
    "code_interpreter", "file_search", "function", "image_search", "mcp", "web_extractor", "web_search",
    "web_search_image",
)  # fmt: skip
"""Types of tools that the provider knows. It ignores others (a probe)."""


Modality = Literal["text", "image", "video", "audio", "file"]


class Family(BaseModel):
    """Facts about the models of one family. docs/models.md explains the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    """Prefix of the models' names; empty for models that are not listed."""
    window: int = Field(ge=64, le=10**9)
    input_limit: int | None = Field(None, ge=64, le=10**9)
    output_limit: int | None = Field(None, ge=16, le=10**9)
    modalities: tuple[Modality, ...] = Field(min_length=1)
    structured_output: bool
    tools: bool | None = None
    tool_outputs: bool
    efforts: tuple[Effort, ...] = Field(min_length=1)
    reasoning_summary: bool
    responses_api: bool
    implicit_cache: bool | None = None
    explicit_cache: bool | None = None
    price: Price | None = None
    """Price in every region; takes precedence over `prices`."""
    prices: tuple[Price, ...] = ()
    """Prices by region, at most one each."""
    sources: dict[str, str] = {}
    """Source of each field: a catalogue, or the name of another source."""

    @model_validator(mode="after")
    def _one_price_a_region(self) -> "Family":
        if len({price.region for price in self.prices}) < len(self.prices):
            raise PydanticCustomError("prices", "each region has one price at most")
        if self.price is not None and self.price.region is not None:
            raise PydanticCustomError("price", "the price of a single region belongs in 'prices'")
        return self

    def takes(self, modality: Modality) -> bool:
        """Return True if the models read inputs of a modality."""
        return modality in self.modalities

    @property
    def all_prices(self) -> tuple[Price, ...]:
        """The prices that can apply, by region."""
        return self.prices if self.price is None else (self.price,)

    def price_in(self, region: Region | None) -> Price | None:
        """Return the price in a region; None if it is unknown.

        Args:
            region: of the account, see `account.region`; None if the region of the endpoint is unknown.
        """
        by_region = {price.region: price for price in self.prices}
        return self.price or by_region.get(region) or by_region.get(None)

    def token_budget(self, learnt_window: int | None = None) -> int:
        """Return the number of tokens that a model reads before the provider cuts or refuses the input.

        Args:
            learnt_window: the smaller window that the provider's answers have shown.
        """
        window = min(self.window, learnt_window or self.window)
        return min(int(window * WINDOW_SHARE), self.input_limit or window)

    def adjusted(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the changes that make the model accept a request: the new values, by their paths on the wire."""
        changes: dict[str, Any] = {}
        effort = _reasoning(params).get("effort") if "reasoning" in params else None
        if effort is not None and effort in EFFORTS and effort not in self.efforts:
            lower = [each for each in self.efforts if EFFORTS.index(each) < EFFORTS.index(effort)]
            changes["reasoning.effort"] = max(lower or self.efforts[:1], key=EFFORTS.index)
        limit = params.get("max_output_tokens")
        if self.output_limit is not None and isinstance(limit, int) and limit > self.output_limit:
            changes["max_output_tokens"] = self.output_limit
        return changes

    def fitted(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request's parameters, changed so that the model accepts them."""
        fitted = dict(params)
        for path, value in self.adjusted(params).items():
            field, _, inner = path.partition(".")
            fitted[field] = {**params[field], inner: value} if inner else value
        if "thinking_budget" in fitted and _has_effort(params):
            del fitted["thinking_budget"]
        return fitted

    def without_thinking(self, params: Mapping[str, Any], answer_tokens: int) -> dict[str, Any]:
        """Return the parameters of a request that is answered without thinking.

        A model that always thinks gets its least effort, and room for its thoughts: they share the limit with the
        answer.

        Args:
            answer_tokens: how long the answer may be.
        """
        room = 0 if "none" in self.efforts else THINKING_TOKENS
        limited = {"max_output_tokens": answer_tokens + room, "reasoning": {"effort": "none"}}
        return self.fitted({**params, **limited})

    def ignored(self, params: Mapping[str, Any]) -> list[str]:
        """Return the fields of a request that the model ignores, by their names on the wire."""
        if _LOOKED_AT.isdisjoint(params):
            return []
        found = [field for field in IGNORED.intersection(params) if params[field]]
        if params.get("parallel_tool_calls") is False:
            found.append("parallel_tool_calls")
        if "reasoning" in params:
            if not self.reasoning_summary and _reasoning(params).get("summary") is not None:
                found.append("reasoning.summary")
            if _has_effort(params) and params.get("thinking_budget") is not None:
                found.append("thinking_budget")
        text = params.get("text")
        if isinstance(text, dict) and text.get("verbosity") is not None:
            found.append("text.verbosity")
        tools = params.get("tools")
        for place, tool in enumerate(tools if isinstance(tools, list) else ()):
            if isinstance(tool, dict) and tool.get("type") not in TOOLS:
                found.append(f"tools[{place}]")
        return sorted(found)


OWN = "EVERTHREAD_MODELS_FILE"
"""Source of the facts in the deployment's own file."""

REPLACED = {"window": "input_limit", "prices": "price"}
"""Facts of the shipped file that a fact in the deployment's file removes."""


class Models:
    """All known families of models."""

    def __init__(self, file: Path | None = None, *, default: str = "", window_tokens: int | None = None) -> None:
        """Args:
            file: the deployment's file, whose facts take precedence over the shipped ones.
            default: the model of a request that names none.
            window_tokens: the window of every model, if it is set.

        Raises:
            BadModels: naming the file, the line and the field at fault.
        """
        self.default = default
        files = [_shipped()] if file is None else [_shipped(), ModelsFile(file, source=OWN)]
        self._fixed = {} if window_tokens is None else {"window": window_tokens, "input_limit": None}
        self._retired: dict[str, date] = {}
        self._successors: dict[str, str] = {}
        for each in files:
            self._retired |= each.tables.retired
            self._successors |= each.tables.successors
        self._unlisted = self._family("", files)
        names = {name for each in files for name in each.tables.families}
        self._families = {name: self._family(name, files) for name in sorted(names, key=len, reverse=True)}

    def _family(self, name: str, files: Sequence[ModelsFile]) -> Family:
        """Return a family by all files: the defaults, then the family with the longest matching prefix of each file."""
        tables: list[tuple[ModelsFile, Place, FamilyTable]] = [
            (each, ("default",), each.tables.default) for each in files
        ]
        for each in files:
            if fitting := [prefix for prefix in each.tables.families if name.startswith(prefix)]:
                prefix = max(fitting, key=len)
                tables.append((each, ("families", prefix), each.tables.families[prefix]))
        facts: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for each, _, table in tables:
            for fact, settled in REPLACED.items() if each.source == OWN else ():
                if fact in table.facts:
                    facts.pop(settled, None)
            facts |= table.facts
            sources |= dict.fromkeys(table.facts, each.source) | table.sources
        try:
            return Family.model_validate({**facts, **self._fixed, "sources": sources, "name": name})
        except ValidationError as error:
            field = error.errors()[0]["loc"][:1]
            file, place = next((file, place) for file, place, _ in reversed(tables) if file.has((*place, *field)))
            raise file.fault(error, place) from error

    def families(self) -> list[Family]:
        """Return every family, by name."""
        return sorted(self._families.values(), key=lambda family: family.name)

    def named(self) -> list[str]:
        """Return the names of families that are names of models."""
        return [name for name in self._families if not name.endswith("-")]

    @property
    def catalogues(self) -> dict[str, Catalogue]:
        """Return the public catalogues from which the shipped facts were read."""
        return _shipped().tables.catalogues

    def retired(self, model: str) -> date | None:
        """Return the day by which a model was retired; None for a model that is not known to be retired."""
        return self._retired.get(model)

    def successor(self, model: str) -> str | None:
        """Return the model that replaces a retired one; None for a model that is not known to be retired."""
        return self._successors.get(model)

    def of(self, model: str) -> Family:
        """Return the family of a model: the one with the longest matching prefix."""
        exact = self._families.get(model)
        if exact is not None:
            return exact
        return next((each for name, each in self._families.items() if model.startswith(name)), self._unlisted)


@cache
def _shipped() -> ModelsFile:
    return ModelsFile(HERE, source="assumed")


def _reasoning(params: Mapping[str, Any]) -> Mapping[str, Any]:
    reasoning = params.get("reasoning")
    return reasoning if isinstance(reasoning, dict) else {}


def _has_effort(params: Mapping[str, Any]) -> bool:
    """Return True if an effort is set. The provider refuses a thinking_budget beside it."""
    return _reasoning(params).get("effort") is not None

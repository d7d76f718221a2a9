"""Comparison of the two catalogues, and the resulting facts about each model, with overrides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

Facts = dict[str, Any]
Stated = Mapping[str, Facts]
"""Facts about one model by source: a catalogue, with its region in parentheses."""

SMALLEST = "smallest"

SAME_WINDOW = 0.7
"""Least share of the window in the other catalogue at which an input limit is not a difference."""

MODALITIES = ("text", "image", "video", "audio", "file")


@dataclass(frozen=True)
class Decision:
    """Statements of the catalogues about one fact, and its value without an override."""

    stated: dict[str, Any]
    """By source."""
    agree: bool
    value: Any
    source: str


@dataclass(frozen=True)
class Difference:
    """Contradicting statements about one fact."""

    model: str
    fact: str
    stated: dict[str, Any]
    decided_by: str | None
    """The source of the deciding override, or `SMALLEST`; None if the difference is undecided."""


@dataclass
class Resolved:
    """Facts about one model, or about all with a prefix, and the source of each."""

    facts: Facts = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def take(self, fact: str, value: Any, source: str) -> None:
        self.facts[fact], self.sources[fact] = value, source


@dataclass(frozen=True)
class Comparison:
    models: dict[str, Resolved]
    compared: int
    """Number of facts that both catalogues state."""
    differences: list[Difference]
    overrides: int
    """Number of facts that overrides state."""

    @property
    def undecided(self) -> list[Difference]:
        return [difference for difference in self.differences if difference.decided_by is None]


def compared(catalogues: Facts, overrides: Sequence[Facts]) -> Comparison:
    """Compare the catalogues, and resolve the facts about each model.

    Args:
        catalogues: by name, see `extract.read`.
        overrides: each with `models`, the `source`, and facts. For the model of exactly that name, a fact takes
            precedence over the catalogues. For other models with that prefix, the catalogues take precedence.
    """
    own: dict[str, Resolved] = {}
    for override in overrides:
        for model in override["models"]:
            for fact, value in override.items():
                if fact not in ("models", "source"):
                    own.setdefault(model, Resolved()).take(fact, value, override["source"])
    statements = _by_model(catalogues)
    aliases = {
        model: each["alias_of"] for model, of in statements.items() for each in of.values() if "alias_of" in each
    }
    models: dict[str, Resolved] = {}
    differences: list[Difference] = []
    both = 0
    for model in sorted({*statements, *own} - aliases.keys()):
        resolved = models[model] = Resolved()
        for prefix in sorted((name for name in own if model.startswith(name)), key=len):
            resolved.facts |= own[prefix].facts
            resolved.sources |= own[prefix].sources
        exact = own.get(model, Resolved())
        for fact, decide in DECIDE.items():
            decision = decide(statements.get(model, {}))
            if decision is None:
                continue
            both += len({source.split()[0] for source in decision.stated}) > 1
            if not decision.agree:
                by = exact.sources.get(fact) or (SMALLEST if fact in SMALLEST_OF else None)
                differences.append(Difference(model, fact, decision.stated, by))
            if fact not in exact.facts:
                resolved.take(fact, decision.value, decision.source)
        if resolved.facts.get("input_limit", 0) >= resolved.facts.get("window", 1):
            del resolved.facts["input_limit"], resolved.sources["input_limit"]
    for alias, model in aliases.items():
        of = {fact: f"{source}, as {model}" for fact, source in models[model].sources.items()}
        models[alias] = Resolved(dict(models[model].facts), of)
    return Comparison(models, both, differences, sum(len(each.facts) for each in own.values()))


def _by_model(catalogues: Facts) -> dict[str, dict[str, Facts]]:
    statements: dict[str, dict[str, Facts]] = {}
    for name, catalogue in catalogues.items():
        for region, models in catalogue["regions"].items():
            for model, facts in models.items():
                source = f"{name} ({region})" if region else name
                statements.setdefault(model, {})[source] = facts
    return statements


def _sources(stated: Stated | dict[str, Any], value: Any) -> str:
    return ", ".join(source for source, each in stated.items() if each == value)


def _stated(fact: str, choose: Callable[..., Any], statements: Stated) -> Decision | None:
    """Decide a fact that both catalogues state in the same way."""
    stated = {source: facts[fact] for source, facts in statements.items() if fact in facts}
    if not stated:
        return None
    value = choose(stated.values())
    return Decision(stated, all(each == value for each in stated.values()), value, _sources(stated, value))


def _window(statements: Stated) -> Decision | None:
    """Decide the window: models.dev states it; LiteLLM states the input limit, which may be slightly less."""
    windows = {source: facts["window"] for source, facts in statements.items() if "window" in facts}
    limits = {source: facts["input_limit"] for source, facts in statements.items() if "input_limit" in facts}
    stated = {**windows, **limits}
    if not stated:
        return None
    least = min(windows.values(), default=0)
    within = bool(windows) and all(SAME_WINDOW * least <= limit <= least for limit in limits.values())
    agree = len(set(windows.values())) <= 1 and (within or not windows or not limits)
    value = least if within else min(stated.values())
    return Decision(stated, agree, value, _sources(stated, value))


def _modalities(statements: Stated) -> Decision | None:
    """Decide the modalities: models.dev lists them; LiteLLM's flags are a subset, and may be missing."""
    lists = {source: set(facts["modalities"]) for source, facts in statements.items() if "modalities" in facts}
    flags = {source: {"text", *facts["takes"]} for source, facts in statements.items() if "takes" in facts}
    stated = {**flags, **lists}
    if not stated:
        return None
    union = set[str]().union(*stated.values())
    agree = not lists or all(each == union for each in lists.values())
    value = [kind for kind in MODALITIES if kind in union]
    in_order = {source: [kind for kind in MODALITIES if kind in each] for source, each in stated.items()}
    return Decision(in_order, agree, value, _sources(in_order, value) or ", ".join(stated))


def _prices(statements: Stated) -> Decision | None:
    """Decide the prices. They may differ by region. A catalogue with one tier states the first tier."""
    regional = {source: facts["tiers"] for source, facts in statements.items() if "tiers" in facts and "(" in source}
    general = {source: facts["tiers"] for source, facts in statements.items() if "tiers" in facts and "(" not in source}
    if not regional and not general:
        return None
    first = [
        {name: tiers[0].get(name) for name in ("input", "output", "thinking_output")} for tiers in general.values()
    ]
    chosen = dict([max(general.items(), key=lambda each: len(each[1]))] if general else []) | regional
    value = [
        {"tiers": tiers} if source in general else {"region": source.partition("(")[2].rstrip(")"), "tiers": tiers}
        for source, tiers in chosen.items()
    ]
    return Decision(general or regional, all(each == first[0] for each in first), value, ", ".join(chosen))


SMALLEST_OF = ("window", "input_limit", "output_limit")
"""Facts for which the smallest value is used if the catalogues differ."""

DECIDE: dict[str, Callable[[Stated], Decision | None]] = {
    "window": _window,
    "input_limit": partial(_stated, "input_limit", min),
    "output_limit": partial(_stated, "output_limit", min),
    "modalities": _modalities,
    **{
        name: partial(_stated, name, any) for name in ("structured_output", "tools", "implicit_cache", "explicit_cache")
    },
    "prices": _prices,
}

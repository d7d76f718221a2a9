"""`everthread models`: known facts about the provider's models, with their sources."""

from collections.abc import Iterator

from app.provider.models import Family, Models
from app.provider.prices import Price

NOT_FACTS = ("name", "sources", "price", "prices")


def overview(models: Models) -> Iterator[str]:
    """Yield a line for each family, and the catalogues from which the facts were read."""
    yield f"{'MODELS':<34}{'WINDOW':>11}{'INPUT':>11}{'OUTPUT':>9}  {'READS':<26}PRICE"
    for family in models.families():
        name = f"{family.name}…" if family.name.endswith("-") else family.name
        limits = f"{family.window:>11,}{_number(family.input_limit):>11}{_number(family.output_limit):>9}"
        price = family.price_in(None) or next(iter(family.prices), None)
        retired = models.retired(family.name)
        note = "" if retired is None else f"; retired by {retired}"
        yield f"{name:<34}{limits}  {', '.join(family.modalities):<26}{_price(price)}{note}"
    for name, catalogue in models.catalogues.items():
        yield f"{name} {catalogue.version} of PyPI was read on {catalogue.read}."
    yield "'everthread models MODEL' shows every fact about a model, with its source."


def details(models: Models, model: str) -> Iterator[str]:
    """Yield a line for each fact about a model, with its source."""
    family = models.of(model)
    yield f"{model}: {f'listed as {family.name}' if family.name else 'not listed: taken for a current model'}"
    for name, value in family.model_dump(mode="json", exclude=set(NOT_FACTS)).items():
        yield _fact(name, _value(value), family, name)
    for price in family.all_prices:
        yield _fact("price", _price(price), family, "prices" if family.price is None else "price")
    if (retired := models.retired(model)) is not None:
        yield _fact("retired by", f"{retired}; instead: {models.successor(model) or 'not known'}")


def _fact(name: str, value: str, family: Family | None = None, field: str = "") -> str:
    source = None if family is None else family.sources.get(field)
    return f"  {name:<18} {value}" + (f"  [{source}]" if source else "")


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _value(value: object) -> str:
    match value:
        case None:
            return "not known"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _price(price: Price | None) -> str:
    """Return the prices of a million tokens of input and output, by tier."""
    if price is None:
        return "not known"
    tiers = [
        f"{tier.input:g} / {tier.output:g}"
        + (f" (thinking {tier.thinking_output:g})" if tier.thinking_output is not None else "")
        + (f" up to {tier.up_to:,}" if tier.up_to is not None else "")
        for tier in price.tiers
    ]
    where = f" in {price.region}" if price.region is not None else ""
    day = f", as of {price.as_of}" if price.as_of is not None else ""
    return f"{price.currency or ''} {', '.join(tiers)}{where}{day}".strip()

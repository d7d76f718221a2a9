"""Facts about the provider's models: prices, limits and abilities, where they come from, and what is refused."""

from datetime import date

import pytest
from pydantic import ValidationError

from app.provider.account import region
from app.provider.models import Family
from app.provider.prices import Price

TIERED = {
    "currency": "USD",
    "as_of": "2026-11-29",
    "tiers": [
        {"up_to": 256_000, "input": 0.4, "output": 1.2, "thinking_output": 4.0},
        {"input": 1.2, "output": 3.6, "cached": 0.24, "cache_write": 1.5, "thinking_output": 12.0},
    ],
}

FIELDS = {
    "window": 1000, "modalities": ["text", "video"], "tool_outputs": True, "efforts": ["none"],
    "reasoning_summary": False, "responses_api": True,
}  # fmt: skip


def cost(price: Price, input: int, output: int = 0, *, cached: int = 0, written: int = 0, **how: bool) -> float:
    """Return the cost in millionths."""
    return price.cost(input=input, cached=cached, written=written, output=output, **how) * 1e6


def test_a_price_is_that_of_the_tier_of_the_whole_prompt() -> None:
    price = Price.model_validate(TIERED)
    assert price.as_of == date(2026, 11, 29)
    assert cost(price, 256_000, 10) == pytest.approx(256_000 * 0.4 + 10 * 1.2)
    assert cost(price, 256_001, 10) == pytest.approx(256_001 * 1.2 + 10 * 3.6)
    # Cached tokens count for the length of the prompt.
    assert cost(price, 300_000, cached=299_000) == pytest.approx(1_000 * 1.2 + 299_000 * 0.24)


def test_thinking_caches_and_a_batch_endpoint_have_their_prices() -> None:
    price = Price.model_validate(TIERED)
    assert cost(price, 0, 10, thinking=True) == pytest.approx(40)
    assert cost(price, 1_000, 10, batch=True) == pytest.approx((400 + 12) / 2)
    assert cost(price, 1_000, cached=600, written=300) == pytest.approx(100 * 0.4 + 600 * 0.04 + 300 * 0.5)
    assert price.saved(cached=600, written=300) * 1e6 == pytest.approx(600 * 0.36 - 300 * 0.1)
    assert price.saved(cached=600, written=0, input=300_000) * 1e6 == pytest.approx(600 * 0.96)
    assert price.saved(cached=600, written=0, batch=True) * 1e6 == pytest.approx(600 * 0.18)
    halved = price.charged(batch=True)
    assert cost(halved, 1_000, 10, thinking=True) == pytest.approx(cost(price, 1_000, 10, thinking=True, batch=True))
    assert cost(halved, 300_000, cached=9, batch=True) == pytest.approx(cost(price, 300_000, cached=9, batch=True))


def test_a_flat_price_is_one_tier() -> None:
    price = Price.model_validate({"input": 2, "output": 10, "tools": {"web_search": 0.01}})
    assert [tier.up_to for tier in price.tiers] == [None]
    assert cost(price, 3_000_000, 1) == pytest.approx(6_000_010)
    assert price.of_tools({"web_search": 3, "mcp": 1}) == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("said", "at"),
    [
        ({"input": -1, "output": 1}, ("tiers", 0, "input")),
        ({"input": 1, "output": float("nan")}, ("tiers", 0, "output")),
        ({"input": 1}, ("tiers", 0, "output")),
        ({"input": 1, "output": 1, "cash": 1}, ("cash",)),
        ({"input": 1, "output": 1, "currency": "yuan"}, ("currency",)),
        ({"tiers": []}, ("tiers",)),
        ({"tiers": [{"input": 1, "output": 1}, {"up_to": 9, "input": 1, "output": 1}]}, ()),
        ({"tiers": [{"up_to": 9, "input": 1, "output": 1}, {"up_to": 9, "input": 1, "output": 1}]}, ()),
        ({"input": 1, "output": 1, "tools": {"web_search": -1}}, ("tools", "web_search")),
    ],
)
def test_a_price_that_cannot_be_is_refused(said: object, at: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as refused:
        Price.model_validate(said)
    assert refused.value.errors()[0]["loc"] == at


def test_a_region_without_a_price_of_its_own_has_the_general_one() -> None:
    general, beijing = {"input": 4, "output": 8}, {"region": "beijing", "input": 1, "output": 2}
    family = Family.model_validate({**FIELDS, "prices": [general, beijing]})
    found = [family.price_in(where) for where in ("beijing", "virginia", None)]
    assert [price and price.tiers[0].input for price in found] == [1, 4, 4]
    assert Family.model_validate({**FIELDS, "prices": [beijing]}).price_in("virginia") is None
    assert Family.model_validate(FIELDS).price_in("beijing") is None
    own = Family.model_validate({**FIELDS, "price": {"input": 3, "output": 3}, "prices": [general, beijing]})
    assert [price and price.tiers[0].input for price in map(own.price_in, ("beijing", None))] == [3, 3]
    with pytest.raises(ValidationError, match="each region"):
        Family.model_validate({**FIELDS, "prices": [beijing, beijing]})


def test_a_family_takes_the_modalities_that_it_lists() -> None:
    family = Family.model_validate({**FIELDS, "modalities": ["text", "video"]})
    assert [kind for kind in ("text", "image", "video", "audio", "file") if family.takes(kind)] == ["text", "video"]
    assert not family.sees_images
    with pytest.raises(ValidationError, match="smell"):
        Family.model_validate({**FIELDS, "modalities": ["text", "smell"]})


@pytest.mark.parametrize(
    ("account", "found"),
    [
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1#0123", "singapore"),
        ("dashscope.aliyuncs.com#01234567", "beijing"),
        ("https://batch.dashscope.aliyuncs.com/compatible-mode/v1", "beijing"),
        ("https://ws-1.us-east-1.maas.aliyuncs.com/compatible-mode/v1", "virginia"),
        ("https://ap-southeast-1.maas.qwencloudapi.com/compatible-mode/v1", "singapore"),
        ("https://dashscope.aliyuncs.com.example.com/v1", None),
        ("https://us-east-1.maas.example.com/v1", None),
        ("http://127.0.0.1:8090/compatible-mode/v1", None),
        (None, None),
    ],
)
def test_the_region_of_an_account_is_that_of_its_host(account: str | None, found: str | None) -> None:
    assert region(account) == found

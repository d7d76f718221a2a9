"""An answer is read once for its counts, its cost, and its items."""

import random
from copy import deepcopy
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from app.chain.answer import from_response
from app.items.provider_door import without_nulls
from app.items.token_counts import Usage, usage_of
from app.limits import service as limits
from app.limits.service import Admission
from app.limits.spent import cost_of
from app.provider.prices import Price
from app.turns.provider_call import ProviderCall

TIERED = {
    "currency": "CNY", "tools": {"web_search": 0.01}, "batch": 0.4,
    "tiers": [{"up_to": 1000, "input": 0.4, "output": 1.2, "thinking_output": 4.0}, {"input": 1.2, "output": 3.6}],
}  # fmt: skip


def test_the_cost_of_an_answer_is_that_of_its_parts() -> None:
    price, dice = Price.model_validate(TIERED), random.Random(38)
    for _ in range(500):
        input_ = dice.randrange(3000)
        cached, written = (dice.choice((0, dice.randrange(input_ + 1))) for _ in range(2))
        tools = dice.choice(({}, {"web_search": 3}, {"mcp": 2}))
        usage = Usage(input_, dice.randrange(500), 0, cached, written, dice.choice((0, 5)), tools)
        batch, thinking = dice.random() < 0.5, usage.reasoning > 0
        of_prompt: dict[str, Any] = {"input": input_, "cached": cached, "written": written, "batch": batch}
        cost = cost_of(usage, price, batch)
        assert cost is not None
        whole = price.cost(**of_prompt, output=usage.output, thinking=thinking)
        read, saved = price.cost(**of_prompt, output=0), price.saved(**of_prompt)
        assert (cost.amount, cost.input) == (whole + price.tool_cost(tools), read + saved)
        assert (cost.answer, cost.saved) == (whole - read, saved)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (None, Usage()), ([], Usage()), ({"input_tokens": True, "output_tokens": "7"}, Usage()),
        ({"input_tokens": 2.9, "output_tokens": -1, "total_tokens": 10**30}, Usage(2, 0, 2**53 - 1)),
        ({"input_tokens": 3, "output_tokens": 4, "total_tokens": None}, Usage(3, 4, 7)),
        ({"input_tokens_details": [], "output_tokens_details": {"reasoning_tokens": 2}}, Usage(reasoning=2)),
        ({"x_details": [{"prompt_tokens_details": {"cache_creation_input_tokens": 5}}]}, Usage(written=5)),
        ({"x_details": [3], "x_tools": {"search": {"count": 2}, "mcp": 4}}, Usage(tools={"search": 2, "mcp": 0})),
    ],
)  # fmt: skip
def test_counts_are_read_from_usage_of_any_shape(reported: Any, expected: Usage) -> None:
    assert usage_of(reported) == expected
    assert from_response({"id": "resp_1", "status": "completed", "output": [], "usage": reported}).usage == expected


def test_an_item_without_nulls_is_kept_as_it_came_and_one_with_nulls_is_not_changed() -> None:
    whole = {"type": "message", "content": [{"type": "output_text", "text": "a"}, 5], "action": {"query": None}}
    assert without_nulls(whole) is whole
    holed = {"type": "message", "status": None, "error": None, "content": [7, {"text": "a", "logprobs": None}]}
    before = deepcopy(holed)
    assert without_nulls(holed) == {"type": "message", "error": None, "content": [7, {"text": "a"}]}
    assert holed == before


def test_a_count_of_no_tokens_is_exported() -> None:
    labels = {"kind": "cached", "model": "counted-at-zero", "account": "a"}
    with ProviderCall("https://x", "a", "counted-at-zero", stream=False, thread_id=uuid4()) as call:
        call.answered({"id": "resp_1"}, Usage(input=3))
    assert REGISTRY.get_sample_value("everthread_tokens_total", labels) == 0
    assert REGISTRY.get_sample_value("everthread_tokens_total", {**labels, "kind": "input"}) == 3


def test_the_stored_cost_follows_each_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    prices: list[Price | None] = [Price.model_validate(TIERED)] * 2 + [None]
    monkeypatch.setattr(limits, "_price", lambda *_: (prices.pop(0), False))
    parts: Any = None
    admission = Admission(parts, parts, None, "", 0, {})
    assert admission.stored_cost is None
    for _ in range(2):
        admission.add(Usage(500, 100, 600), "qwen", None)
        assert admission.cost is not None
        assert admission.stored_cost == admission.cost.stored()
    assert admission.stored_cost == {
        "currency": "CNY", "as_of": None, "amount": 0.00064, "input": 0.0004, "saved": 0.0,
    }  # fmt: skip
    admission.add(Usage(500, 100, 600), "unpriced", None)
    assert admission.stored_cost is None

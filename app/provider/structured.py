"""Structured output: the provider takes `text.format`, or one function to be called, and does not act on it (a probe,
September 2026).

So the model is asked in words, and its answer is looked at: one that does not fit is asked for once more. The turn's
headers say that the format was prompted, and its response whether it fits.
"""

from typing import Any

import orjson

LONGEST_FAULT = 500
"""Characters: a message of the validator's quotes the value."""

ASK_FOR_SCHEMA = (
    "Answer with one JSON object only, with no words and no code fence around it. It must fit this JSON Schema:"
)
ASK_FOR_JSON = "Answer with one JSON object only, with no words and no code fence around it."


def asked_format(params: dict[str, Any]) -> dict[str, Any] | None:
    """The format that a request asks for, if it is not plain text."""
    text = params.get("text")
    asked = text.get("format") if isinstance(text, dict) else None
    return asked if isinstance(asked, dict) and asked.get("type") in ("json_schema", "json_object") else None


def with_known_choice(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters to send: one function that must be called, in the form that the provider acts on.

    It takes OpenAI's {"type": "function", "name": …} and passes over it (reference page: auto, none, required,
    allowed_tools).
    """
    choice = params.get("tool_choice")
    if not isinstance(choice, dict) or choice.get("type") != "function":
        return params
    nested = choice.get("function")
    name = nested.get("name") if isinstance(nested, dict) else choice.get("name")
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": name}]}
    return {**params, "tool_choice": allowed}


def with_format_in_words(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters to send: a format that was asked for is put into the instructions too."""
    asked = asked_format(params)
    if asked is None:
        return params
    schema = asked.get("schema")
    words = f"{ASK_FOR_SCHEMA}\n{orjson.dumps(schema).decode()}" if isinstance(schema, dict) else ASK_FOR_JSON
    instructions = params.get("instructions")
    return {**params, "instructions": f"{instructions}\n\n{words}" if instructions else words}


def fault(params: dict[str, Any], text: str) -> str | None:
    """Why an answer is not what its format asked for; None if it is, or nothing was asked for.

    A schema's own references are followed, and none that leads elsewhere: nothing is fetched. Its patterns are not
    looked at: who writes one could hold the service up.
    """
    asked = asked_format(params)
    if asked is None:
        return None
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"it is not JSON: {error}"
    if not isinstance(said, dict) and asked["type"] == "json_object":
        return "it is no JSON object"
    schema = asked.get("schema")
    if not isinstance(schema, dict):
        return None
    # Loaded when something is first checked: it would cost a tenth of a second of each start.
    from app.provider import json_schema  # noqa: PLC0415

    found = json_schema.fault(schema, said)
    return None if found is None else found[:LONGEST_FAULT]


def ask_again(fault: str) -> str:
    """What the model is told of an answer that does not fit."""
    return f"Your answer does not fit: {fault}. Answer again, with the corrected JSON only."

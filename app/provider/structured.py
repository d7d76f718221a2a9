"""Structured output: the provider takes `text.format`, or one function to be called, and does not act on it (a probe,
September 2026).

So the model is asked in words. Nothing enforces that it obeys: the turn's headers say that the format was
prompted, and a client that must be sure validates, as it would with any model.
"""

from typing import Any

import orjson

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

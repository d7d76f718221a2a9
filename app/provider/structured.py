"""Structured output: the provider accepts `text.format`, and enforces it for some families of models only (a probe of
September 2026, and a model page).

For the others, the instructions ask for the format. Every answer is checked, and one that does not fit is requested
once more. The turn's headers say if the format was prompted, and its response says if the answer fits.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from app.http.nesting import excess
from app.process.killable import Killable, LimitExceeded
from app.provider.reading import DEEPEST, MOST_VALUES

CHECK = "app.provider.json_schema:check"

LONGEST_SCHEMA = 200_000
"""Bytes of a schema; it is sent to the model, too. OpenAI takes 120,000 characters of names and values."""

MOST_OF_SCHEMA = 20_000
"""JSON values of a schema. OpenAI takes 5,000 properties."""

ASK_FOR_SCHEMA = (
    "Answer with one JSON object only, with no words and no code fence around it. It must fit this JSON Schema:"
)
ASK_FOR_JSON = "Answer with one JSON object only, with no words and no code fence around it."


def asked_format(params: dict[str, Any]) -> dict[str, Any] | None:
    """The format that a request asks for, if it is not plain text."""
    if "text" not in params:
        return None
    text = params["text"]
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


def is_prompted(params: dict[str, Any], *, enforced: bool, streamed: bool) -> bool:
    """Return True if instructions must ask for the format: it is not enforced, or the answer is a stream.

    Args:
        enforced: True if the provider enforces it for this model, as far as is known.
    """
    return asked_format(params) is not None and (streamed or not enforced)


def with_format_instructions(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters with the requested format added to the instructions."""
    words, instructions = format_instructions(params), params.get("instructions")
    return {**params, "instructions": f"{instructions}\n\n{words}" if instructions else words}


def format_instructions(params: dict[str, Any]) -> str:
    """Return the sentence that asks for the requested format."""
    asked = asked_format(params) or {}
    schema = asked.get("schema")
    return f"{ASK_FOR_SCHEMA}\n{orjson.dumps(schema).decode()}" if isinstance(schema, dict) else ASK_FOR_JSON


@dataclass(frozen=True, slots=True)
class Check:
    """The result of checking an answer against the requested format."""

    fits: bool | None
    """None: it could not be checked."""
    fault: str | None = None
    """Why it does not fit, or why it was not checked."""


async def check(params: dict[str, Any], text: str, project_id: UUID, killable: Killable) -> Check:
    """Return whether an answer fits the format that was asked for; it does if none was.

    A schema is applied in a process that can be killed: what would take too long is not checked, and said to be so.
    """
    asked = asked_format(params)
    if asked is None:
        return Check(fits=True)
    schema = asked.get("schema")
    if isinstance(schema, dict):
        try:
            fault, unchecked = await killable.run(project_id, CHECK, schema, text)
        except LimitExceeded as error:
            fault, unchecked = None, str(error)
        return Check(None, f"not checked: {unchecked}") if unchecked else Check(fault is None, fault)
    if excess(text.encode(), values=MOST_VALUES, levels=DEEPEST) is not None:
        return Check(None, f"not checked: it has more than {MOST_VALUES} values, or {DEEPEST} levels")
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return Check(fits=False, fault=f"it is not JSON: {error}")
    return Check(fits=True) if isinstance(said, dict) else Check(fits=False, fault="it is no JSON object")


def checked_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that a client has sent. Raises ValueError for one that is larger than a schema may be."""
    written = orjson.dumps(schema)
    if len(written) > LONGEST_SCHEMA:
        raise ValueError(f"the schema is larger than {LONGEST_SCHEMA} bytes")
    if excess(written, values=MOST_OF_SCHEMA, levels=DEEPEST) is not None:
        raise ValueError(f"the schema has more than {MOST_OF_SCHEMA} values")
    return schema


def ask_again(fault: str, words: str = "") -> str:
    """Return the message that names the fault of an answer and asks for another.

    Args:
        words: `format_instructions`, unless the instructions of the request contain them.
    """
    again = f"Your answer does not fit: {fault}. Answer again, with the corrected JSON only."
    return f"{again}\n\n{words}" if words else again

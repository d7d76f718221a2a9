"""A call to the provider as a Python program that sends the same body with the `openai` client."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from app.history.calls import ERASED
from app.http.nesting import excess

FIELDS = (
    "model", "input", "instructions", "previous_response_id", "tools", "tool_choice", "parallel_tool_calls",
    "max_tool_calls", "reasoning", "text", "include", "temperature", "top_p", "max_output_tokens", "truncation",
    "metadata", "store", "stream", "user",
)  # fmt: skip
"""Fields that every release of the client takes as arguments. All others go in `extra_body`."""

DEEPEST = 80
"""Nesting of a value that is written as a literal. Python's parser accepts 200 nested brackets."""

MOST_VALUES = 2_000_000

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|true|false|null')

_NAMES = {"true": "True", "false": "False", "null": "None"}


def as_python(row: Mapping[str, Any]) -> str:
    """Return the program for a call. It reads the key from the environment."""
    if row["body"] is None:
        return f"{ERASED}\n"
    fields: dict[str, Any] = orjson.loads(row["body"])
    said = [f"    {name}={_literal(fields[name], 4)},\n" for name in FIELDS if name in fields]
    others = {name: value for name, value in fields.items() if name not in FIELDS}
    if others:
        said.append(f"    extra_body={_literal(others, 4)},\n")
    call = f"client.responses.create(\n{''.join(said)})"
    shown = (
        f"for event in {call}:\n    print(event.to_json(indent=None))\n"
        if fields.get("stream") is True
        else f"response = {call}\nprint(response.to_json())\n"
    )
    base_url = _literal(row["url"].removesuffix("/responses"))
    imports = "import json\nimport os\n" if "json.loads(" in call else "import os\n"
    return (
        f"{imports}\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(api_key=os.environ["DASHSCOPE_API_KEY"], base_url={base_url}, max_retries=0)\n{shown}'
    )


def _literal(value: Any, margin: int = 0) -> str:
    """Return a JSON value as a Python expression on several lines.

    Strings that orjson writes mean the same in Python: it escapes only quotes, backslashes and control characters.
    """
    if excess(orjson.dumps(value), values=MOST_VALUES, levels=DEEPEST):
        return f"json.loads({_literal(orjson.dumps(value).decode())})"
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    return _TOKENS.sub(_in_python, text).replace("\n", "\n" + " " * margin)


def _in_python(found: re.Match[str]) -> str:
    token = found[0]
    return _NAMES.get(token) or (token if token.isprintable() else "".join(map(_visible, token)))


def _visible(character: str) -> str:
    """Return a character, escaped if it is invisible or changes the direction of text."""
    return character if character.isprintable() else f"\\U{ord(character):08x}"

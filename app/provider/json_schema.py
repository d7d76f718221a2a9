"""Validation of answers against a schema that a client has sent. No reference is fetched.

The cost is not bounded by the size of the schema: `allOf` and `$ref` double it with each level, and a pattern can
backtrack without end. Validation therefore runs in a process that can be killed (`app/process/killable.py`).
"""

import re
from itertools import islice
from typing import Any

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable

MOST_FAULTS = 50
"""Faults of an answer of which the most telling is chosen."""

LONGEST_FAULT = 500
"""Characters: a message of the validator quotes the value."""


def check(schema: dict[str, Any], text: str) -> tuple[str | None, str | None]:
    """Return why a text does not fit a schema, and why it cannot be checked; None for each that does not apply."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"it is not JSON: {error}"[:LONGEST_FAULT], None
    try:
        Draft202012Validator.check_schema(schema, format_checker=None)
        found = best_match(islice(Draft202012Validator(schema, registry=Registry()).iter_errors(value), MOST_FAULTS))
    except SchemaError as error:
        return None, f"the schema is not valid: {error.message}"[:LONGEST_FAULT]
    except Unresolvable as error:
        return None, f"a reference in the schema leads nowhere: {error}"[:LONGEST_FAULT]
    except re.error as error:
        return None, f"a pattern in the schema is not valid: {error}"[:LONGEST_FAULT]
    except RecursionError:
        return None, "the schema refers to itself without an end"
    if found is None:
        return None, None
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found.absolute_path).lstrip(".")
    return f"{where or 'the whole'}: {found.message}"[:LONGEST_FAULT], None

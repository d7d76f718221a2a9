"""A value against a schema that somebody has sent: nothing is fetched for it, and nothing hangs on it."""

from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable


def fault(schema: dict[str, Any], value: Any) -> str | None:
    """What does not fit, and where; None if all does, or the schema is none that can be checked against."""
    try:
        Draft202012Validator.check_schema(schema)
        found = best_match(_Validator(schema, registry=Registry()).iter_errors(value))
    except (SchemaError, Unresolvable, RecursionError):
        return None
    if found is None:
        return None
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found.absolute_path).lstrip(".")
    return f"{where or 'the whole'}: {found.message}"


def _unlooked_at(*_: object) -> None:
    return None


# Who writes a pattern could hold the service up with it.
_Validator = extend(Draft202012Validator, {"pattern": _unlooked_at, "patternProperties": _unlooked_at})

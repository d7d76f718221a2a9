"""Checks of a client's items. Each names the field at fault."""

from collections.abc import Callable
from typing import Any

from app.http.errors import BadRequest
from app.items.shapes import Item

Check = Callable[[Item, str], None]

LONGEST_ID = 512


def wrong(where: str, must: str, code: str = "invalid_type") -> BadRequest:
    return BadRequest(f"'{where}' {must}", param=where, code=code)


def has_strings(*fields: str) -> Check:
    def check(item: Item, where: str) -> None:
        for name in fields:
            if not isinstance(item.get(name), str):
                raise wrong(f"{where}.{name}", "is required and must be a string.")

    return check


def has_ids(*fields: str) -> Check:
    def check(item: Item, where: str) -> None:
        for name in fields:
            value = item.get(name)
            if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID:
                raise wrong(f"{where}.{name}", f"is required and must be a string of 1 to {LONGEST_ID} characters.")

    return check


def has_booleans(*fields: str) -> Check:
    def check(item: Item, where: str) -> None:
        for name in fields:
            if not isinstance(item.get(name), bool):
                raise wrong(f"{where}.{name}", "is required and must be true or false.")

    return check


def may_be_string(field: str) -> Check:
    """The field is left out, null, or a string."""

    def check(item: Item, where: str) -> None:
        if not isinstance(item.get(field, ""), str | None):
            raise wrong(f"{where}.{field}", "must be a string.")

    return check


def has_list(field: str, kind: type, called: str) -> Check:
    """The field is a list whose elements are of a kind."""

    def check(item: Item, where: str) -> None:
        if not isinstance(item.get(field), list):
            raise wrong(f"{where}.{field}", "is required and must be a list.")
        may_list(field, kind, called)(item, where)

    return check


def has_arguments(item: Item, where: str) -> None:
    """The arguments of a tool search: any JSON value, and not left out."""
    if "arguments" not in item:
        raise wrong(f"{where}.arguments", "is required.")
    if item.get("call_id") is not None:
        has_ids("call_id")(item, where)


def is_by_server(item: Item, where: str) -> None:
    """A tool search that the client executes needs the id that connects its call and its output."""
    if item.get("execution") == "client":
        has_ids("call_id")(item, where)


def has_objects(*fields: str) -> Check:
    def check(item: Item, where: str) -> None:
        for name in fields:
            if not isinstance(item.get(name), dict):
                raise wrong(f"{where}.{name}", "is required and must be an object.")

    return check


def may_list(field: str, kind: type, called: str) -> Check:
    """The field is left out, null, or a list whose elements are of a kind."""

    def check(item: Item, where: str) -> None:
        value = item.get(field)
        if value is None:
            return
        if not isinstance(value, list):
            raise wrong(f"{where}.{field}", "must be a list.")
        for index, element in enumerate(value):
            if not isinstance(element, kind):
                raise wrong(f"{where}.{field}[{index}]", f"must be {called}.")

    return check


def has_output(item: Item, where: str) -> None:
    """The output of a tool: a text, or a list of parts."""
    output = item.get("output")
    if isinstance(output, str):
        return
    if not isinstance(output, list):
        raise wrong(f"{where}.output", "must be a string or a list of parts.")
    for index, part in enumerate(output):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise wrong(f"{where}.output[{index}]", "must be an object with a 'type'.")


def all_of(*checks: Check) -> Check:
    def check(item: Item, where: str) -> None:
        for each in checks:
            each(item, where)

    return check


def anything(item: Any, where: str) -> None:
    """No shape is asked for."""

"""Statements in SQL files: each stands there under its name, with a sentence on what it does, its arguments named.

A part of the service has its statements in one file, `app/threads/threads.sql` for example. Its modules have them as
`SQL = statements_of(__file__)`, and each as an attribute: `SQL.find_name`.

A file has blocks that begin with `-- name --`, or with `-- name -> Row --` where the rows are read as this type of
the part. Behind `:name` stands an argument.

A block whose name begins with an underscore is a fragment of others, which include it as `{_name}`. Fragments for
several files are in `fragments.sql` beside this module. Where a fragment has `{1}` and `{2}`, the block that includes
it fills these in, as `{_name | first | second}`, or leaves them empty.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import TextClause, text

_HEAD = re.compile(r"^-- (\w+)(?: -> (\w+))? --\n", re.MULTILINE)
_ARGUMENT = re.compile(r"(?<![:\w]):([a-z][a-z_]*)")
_CAST = re.compile(r"(?<![:\w]):([a-z][a-z_]*)::([a-z0-9]+(?:\[\])?)")
_FRAGMENT = re.compile(r"\{(_\w+)((?:\s*\|[^{}|]*)*)\}")
_HOLE = re.compile(r"\{(\d)\}")
_COMMENTS = re.compile(r"(?:--[^\n]*\n)*")

SHARED = Path(__file__).with_name("fragments.sql")


@dataclass(frozen=True)
class Statement:
    sql: str
    names: tuple[str, ...]
    source: str
    """The statement with named arguments."""
    row: str | None = None
    """The name of the type that its rows are read as."""

    @cached_property
    def clause(self) -> TextClause:
        """The statement for a session, which takes its arguments by their names."""
        return text(_CAST.sub(r"CAST(:\1 AS \2)", self.source).replace("::", "\\:\\:"))

    @cached_property
    def _values(self) -> Callable[[dict[str, Any]], Iterable[Any]]:
        """The function that returns the values of arguments in their order."""
        if len(self.names) > 1:
            return itemgetter(*self.names)
        return lambda arguments: [arguments[name] for name in self.names]

    def __call__(self, **arguments: Any) -> tuple[Any, ...]:
        """Return the statement and its arguments in their order, for `Database.fetch` and `fetchrow`.

        Raises:
            TypeError: an argument is missing, or is none of this statement.
        """
        if len(arguments) != len(self.names):
            raise TypeError(f"The statement takes {self.names}, not {tuple(arguments)}.")
        try:
            return (self.sql, *self._values(arguments))
        except KeyError as error:
            raise TypeError(f"The statement takes {self.names}, not {tuple(arguments)}.") from error


class Statements:
    """The statements of a file, each an attribute."""

    def __init__(self, path: Path) -> None:
        blocks = _blocks(path)
        fragments = {name: source for name, (_, source) in {**_blocks(SHARED), **blocks}.items()}
        for name, (row, source) in blocks.items():
            if not name.startswith("_"):
                setattr(self, name, _statement(_assembled(source, fragments), row))

    if TYPE_CHECKING:  # tests/test_statements.py checks that each name that the code uses is a statement's.

        def __getattr__(self, name: str) -> Statement: ...


@cache
def statements_of(module: str) -> Statements:
    """Return the statements of the part that a module, given by its `__file__`, is in."""
    part = Path(module).parent
    return _read(part / f"{part.name}.sql")


_read = cache(Statements)

_COMMAND = re.compile(r"(?:--[^\n]*|\$function\$.*?\$function\$|[^;$-]|-)+;", re.DOTALL)


def commands(path: Path) -> list[str]:
    """The commands of a file, one after the other. The body of a function, and a comment, may hold a semicolon."""
    return _COMMAND.findall(path.read_text())


def _blocks(path: Path) -> dict[str, tuple[str | None, str]]:
    """Return the row type and the text of each block of a file."""
    pieces = _HEAD.split(path.read_text())[1:]
    return {
        name: (row, source.strip()) for name, row, source in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True)
    }


def _assembled(source: str, fragments: dict[str, str]) -> str:
    """Return a block with the fragments that it includes."""

    def included(match: re.Match[str]) -> str:
        given = [each.strip() for each in match[2].split("|")]
        fragment = _COMMENTS.sub("", fragments[match[1]], count=1).strip()
        filled = _HOLE.sub(lambda hole: given[int(hole[1])] if int(hole[1]) < len(given) else "", fragment)
        return _assembled(filled, fragments)

    return _FRAGMENT.sub(included, source)


def _statement(source: str, row: str | None) -> Statement:
    names = tuple(dict.fromkeys(_ARGUMENT.findall(source)))
    numbers = {name: f"${number}" for number, name in enumerate(names, 1)}
    return Statement(_ARGUMENT.sub(lambda found: numbers[found[1]], source), names, source, row)

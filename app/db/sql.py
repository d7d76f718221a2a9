"""Statements in SQL files: each stands there under its name, with a sentence on what it does, its arguments named.

A file has blocks that begin with `-- name --`. A block whose name begins with an underscore is a part of others,
which have it as `{_name}`. Behind `:name` stands an argument.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import TextClause, text

_HEAD = re.compile(r"^-- (\w+) --\n", re.MULTILINE)
_ARGUMENT = re.compile(r"(?<![:\w]):([a-z][a-z_]*)")
_CAST = re.compile(r"(?<![:\w]):([a-z][a-z_]*)::([a-z0-9]+(?:\[\])?)")
_PART = re.compile(r"\{(_\w+)\}")


@dataclass(frozen=True, slots=True)
class Statement:
    sql: str
    names: tuple[str, ...]
    source: str
    """As it stands in its file."""

    @property
    def clause(self) -> TextClause:
        """The statement as one of a session's, which takes its arguments by their names."""
        return text(_CAST.sub(r"CAST(:\1 AS \2)", self.source).replace("::", "\\:\\:"))

    def __call__(self, **arguments: Any) -> tuple[Any, ...]:
        """The statement and its arguments in their order, for `Database.fetch` and `fetchrow`.

        Raises:
            TypeError: an argument is missing, or is none of this statement.
        """
        if len(arguments) != len(self.names):
            raise TypeError(f"The statement takes {self.names}, not {tuple(arguments)}.")
        try:
            return (self.sql, *[arguments[name] for name in self.names])
        except KeyError as error:
            raise TypeError(f"The statement takes {self.names}, not {tuple(arguments)}.") from error


_COMMAND = re.compile(r"(?:--[^\n]*|\$function\$.*?\$function\$|[^;$-]|-)+;", re.DOTALL)


def commands(path: Path) -> list[str]:
    """The commands of a file, one after the other. The body of a function, and a comment, may hold a semicolon."""
    return _COMMAND.findall(path.read_text())


def statements(path: Path) -> dict[str, Statement]:
    """The statements of a file, by name."""
    pieces = _HEAD.split(path.read_text())[1:]
    blocks = dict(zip(pieces[::2], pieces[1::2], strict=True))
    return {
        name: _statement(_PART.sub(lambda part: blocks[part[1]], source))
        for name, source in blocks.items()
        if not name.startswith("_")
    }


def _statement(source: str) -> Statement:
    names = tuple(dict.fromkeys(_ARGUMENT.findall(source)))
    numbers = {name: f"${number}" for number, name in enumerate(names, 1)}
    return Statement(_ARGUMENT.sub(lambda found: numbers[found[1]], source).strip(), names, source.strip())

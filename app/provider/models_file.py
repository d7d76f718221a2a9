"""Files with facts about models: the shipped one and the deployment's. A fault names file and line."""

import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.process.output import printable

LARGEST = 1024 * 1024
"""Limit on the bytes of a file."""

LONGEST_STATEMENT = 20
"""Lines within which the end of a statement is looked for. Each look reads the file up to there."""

Place = tuple[int | str, ...]
"""Path of a value in a file, from the outermost table."""

Name = Annotated[str, Field(min_length=1, max_length=256)]


class BadModels(ValueError):
    """Fault of a file with facts about models."""


class Catalogue(BaseModel):
    """A public catalogue from which facts were read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    read: date


class FamilyTable(BaseModel):
    """Facts of one file about a family. `models.Family` checks them together with those of other files."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: None = None
    """Not a fact: the name of the table is the family's name."""
    sources: dict[str, str] = {}
    """Source of each field."""

    @property
    def facts(self) -> dict[str, Any]:
        return self.model_extra or {}


class Tables(BaseModel):
    """Tables of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    catalogues: dict[Name, Catalogue] = {}
    retired: dict[Name, date] = {}
    """The day by which each model was retired."""
    successors: dict[Name, Name] = {}
    """The replacement of each retired model."""
    default: FamilyTable = FamilyTable()
    """Facts about models that are not listed, and defaults of all families."""
    families: dict[Name, FamilyTable] = Field({}, max_length=2000)
    """Families by the prefix of their models' names."""


class ModelsFile:
    """A parsed file, with its text to locate faults."""

    def __init__(self, path: Path, *, source: str) -> None:
        """Args:
            source: of facts without a named source.

        Raises:
            BadModels: naming the file, and the line if there is one.
        """
        self.path, self.source = path, source
        try:
            with path.open("rb") as opened:
                content = opened.read(LARGEST + 1)
            if len(content) > LARGEST:
                raise BadModels(f"{path}: it has more than {LARGEST} bytes")
            self._text = content.decode()
            self._values = tomllib.loads(self._text)
        except OSError as error:
            raise BadModels(f"{path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:  # Also of a number with thousands of digits.
            raise BadModels(f"{path}: {error}") from error
        try:
            self.tables = Tables.model_validate(self._values)
        except ValidationError as error:
            raise self.fault(error) from error

    def has(self, place: Place) -> bool:
        """Return True if the file has a value at a path."""
        return _has(self._values, place)

    def fault(self, error: ValidationError, within: Place = ()) -> BadModels:
        """Return the first fault of a table, with its line.

        Args:
            within: the place of the table.
        """
        (first, *_) = error.errors()
        place = (*within, *first["loc"])
        found = place
        while not self.has(found):  # A missing field, or one that a validator has moved.
            found = found[:-1]
        message = "there is no such field" if first["type"] == "extra_forbidden" else first["msg"]
        return BadModels(f"{self.path}:{self._line(found)}: {printable('.'.join(map(str, place)))}: {message}")

    def _line(self, place: Place) -> int:
        """Return the first line of the statement that sets a value, by a binary search over prefixes of the file."""
        lines = [f"{line}\n" for line in self._text.split("\n")]
        before, at = 0, len(lines)
        while at - before > 1:
            middle = (before + at) // 2
            if _has(_first(lines, middle), place):
                at = middle
            else:
                before = middle
        return at


def _first(lines: list[str], count: int) -> dict[str, Any]:
    """Return the values set by the first lines, extended to the end of the last statement, or by all lines if that
    statement is longer than `LONGEST_STATEMENT`."""
    for end in (*range(count, min(count + LONGEST_STATEMENT, len(lines))), len(lines)):
        try:
            return tomllib.loads("".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue  # The statement continues on the next line.
    raise AssertionError("the whole file was read before")


def _has(value: Any, place: Place) -> bool:
    try:
        for key in place:
            value = value[key]
    except (KeyError, IndexError, TypeError):
        return False
    return True

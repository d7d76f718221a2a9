"""Files of facts about models: this release's, and the deployment's own. A fault is named by its file and line."""

import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

LARGEST = 1024 * 1024
"""Bytes of a file."""

Place = tuple[int | str, ...]
"""Keys of a value in a file, from its outermost table on."""

Name = Annotated[str, Field(min_length=1, max_length=256)]


class BadModels(ValueError):
    """A file of models cannot be used."""


class Catalogue(BaseModel):
    """A public catalogue that facts come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    read: date


class FamilyTable(BaseModel):
    """A file's facts about a family. They are checked together with those of other files: see `models.Family`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: None = None
    """Not a fact: the table's own name is the family's."""
    sources: dict[str, str] = {}
    """By field: who states it."""

    @property
    def facts(self) -> dict[str, Any]:
        return self.model_extra or {}


class Tables(BaseModel):
    """The tables of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    catalogues: dict[Name, Catalogue] = {}
    retired: dict[Name, date] = {}
    """By model: the day by which it was retired."""
    successors: dict[Name, Name] = {}
    """By retired model: the one to use instead."""
    default: FamilyTable = FamilyTable()
    """Facts about a model that is not listed, and those that a family does not state."""
    families: dict[Name, FamilyTable] = {}
    """By the beginning of the models' names."""


class ModelsFile:
    """A file that was read, with its text to find lines in."""

    def __init__(self, path: Path, *, source: str) -> None:
        """Args:
            source: of facts for which the file names none.

        Raises:
            BadModels: naming the file, and the line where there is one.
        """
        self.path, self.source = path, source
        try:
            with path.open("rb") as opened:
                content = opened.read(LARGEST + 1)
            if len(content) > LARGEST:
                raise BadModels(f"{path}: it has more than {LARGEST} bytes")
            self._text = content.decode()
            self._said = tomllib.loads(self._text)
        except OSError as error:
            raise BadModels(f"{path}: {error.strerror}") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise BadModels(f"{path}: {error}") from error
        try:
            self.tables = Tables.model_validate(self._said)
        except ValidationError as error:
            raise self.fault(error) from error

    def says(self, place: Place) -> bool:
        """Return True if the file has a value at a place."""
        return _says(self._said, place)

    def fault(self, error: ValidationError, within: Place = ()) -> BadModels:
        """Return the first fault of a table, by its line.

        Args:
            within: the place of the table.
        """
        (first, *_) = error.errors()
        place = (*within, *first["loc"])
        found = place
        while not self.says(found):  # A field that is missing, or one that was read in another form.
            found = found[:-1]
        message = "there is no such field" if first["type"] == "extra_forbidden" else first["msg"]
        return BadModels(f"{self.path}:{self._line(found)}: {'.'.join(map(str, place))}: {message}")

    def _line(self, place: Place) -> int:
        """Return the first line up to which the file already has a value: there its statement begins."""
        lines = self._text.splitlines(keepends=True)
        before, at = 0, len(lines)
        while at - before > 1:
            middle = (before + at) // 2
            if _says(_first(lines, middle), place):
                at = middle
            else:
                before = middle
        return at


def _first(lines: list[str], count: int) -> dict[str, Any]:
    """Return what the first lines say, with those that end the last statement."""
    for end in range(count, len(lines) + 1):
        try:
            return tomllib.loads("".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue  # It goes on.
    raise AssertionError("the whole file was read before")


def _says(value: Any, place: Place) -> bool:
    try:
        for key in place:
            value = value[key]
    except (KeyError, IndexError, TypeError):
        return False
    return True

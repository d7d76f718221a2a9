"""Plain words: docstrings begin with a verb or a noun phrase, and no text uses a phrase of words/replacements.txt.

`python -m tests.test_words [PATH …]` prints every finding below the paths.
"""

import ast
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = Path(__file__).parent / "words"

RELATIVE = re.compile(r"\s*(What|Whether|Who|Whose|How|Of|That|Which|Those|Where)\b")
"""First words of a docstring that is a relative clause or the rest of a riddle."""

RELATIVE_COMMENT = re.compile(rf"/\*\*[\s*]*{RELATIVE.pattern}")
"""The same, of a JSDoc comment."""

FOLDERS = ("app", "catalogues", "tests", "benchmarks", "migrations", "docs", "deploy", "clients", "examples")
SCRIPTS = {".ts", ".tsx", ".mjs"}
SUFFIXES = {".py", ".md", ".sql", ".lua", ".toml", ".yml", ".yaml", ".html", *SCRIPTS}
FILES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile", ".ci/run")
NOT_OURS = {"vendor", "captures", "seed_examples", "words", "node_modules", "dist", "__pycache__", "openapi.ts"}
"""Folders and files with the text of others, with data, or that are generated."""


def _listed(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]


def _replacements() -> dict[re.Pattern[str], str]:
    # A phrase may continue on the next line, of a comment too.
    pairs = (line.split(" = ") for line in _listed(WORDS / "replacements.txt"))
    return {re.compile(rf"{old}\b".replace(" ", r"[\s#-]+")): new for old, new in pairs}


REPLACEMENTS = _replacements()


def _texts() -> list[Path]:
    found = [ROOT / name for name in FILES]
    for top in FOLDERS:
        for folder, folders, names in os.walk(ROOT / top):
            folders[:] = [name for name in folders if name not in NOT_OURS]
            found += [Path(folder, name) for name in names if name not in NOT_OURS and Path(name).suffix in SUFFIXES]
    return sorted(found)


def _docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield docstrings, of attributes too."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
            ):
                yield statement.value


@cache
def findings(path: Path) -> list[str]:
    """Return each finding in a file as `path:line: what to write`."""
    text = path.read_text()
    lower = "\n" + text.lower()  # A pattern that begins with a letter, not with \b, is found faster.
    name = path.relative_to(ROOT)
    found = [
        f"{name}:{lower.count(chr(10), 0, match.start())}: {match[0]!r}: write {new!r}"
        for pattern, new in REPLACEMENTS.items()
        for match in pattern.finditer(lower)
        if not lower[match.start() - 1].isidentifier()
    ]
    if path.suffix == ".py":
        begun = ((each.lineno, RELATIVE.match(str(each.value))) for each in _docstrings(ast.parse(text)))
        found += [
            f"{name}:{line}: {match[1]!r} begins a docstring: begin with a verb or a noun"
            for line, match in begun
            if match
        ]
    if path.suffix in SCRIPTS:
        found += [
            f"{name}:{text.count(chr(10), 0, match.start(1)) + 1}: {match[1]!r} begins a comment: as in a docstring"
            for match in RELATIVE_COMMENT.finditer(text)
        ]
    return found


def test_texts_are_in_plain_words() -> None:
    found = [line for path in _texts() for line in findings(path)]
    assert not found, "\n".join(found)


if __name__ == "__main__":
    below = tuple(str(ROOT / each) for each in sys.argv[1:]) or (str(ROOT),)
    for each in _texts():
        if str(each).startswith(below):
            sys.stdout.writelines(f"{line}\n" for line in findings(each))

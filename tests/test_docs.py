"""Settings, routes, commands, files and identifiers that README, docs and CONTRIBUTING name exist."""

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi.routing import iter_route_contexts
from typer.core import TyperGroup
from typer.main import get_command

from app.cli import cli
from app.commands.terminal import misspelt
from app.db.base import Base
from app.db.sql import Statements
from app.emulator.app import create_app as create_emulator
from app.main import build
from app.projects.user_tokens import is_for_users
from app.settings import Connected, Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / f"{name}.md" for name in ("README", "README.zh-CN", "CONTRIBUTING", "SECURITY")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

OF_OTHERS = {
    "VALIDATE": "Postgres",
    "citus.shard_count": "Citus",
    "invalid_function_parameters": "a code of the provider",
    "limit_requests": "a code of the provider",
    "max_prepared_statements": "PgBouncer",
    "ssl_keyfile": "redis-py",
}
"""Identifiers of other programs, which the repository does not contain."""

SUMMARY_FAULTS = "summary_"
"""Prefix that app/memory adds to the name of a fault."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

OPENAI = ("/v1/responses", "/v1/conversations", "/v1/models")
"""Routes that docs/openai.md describes."""


@dataclass(frozen=True)
class Span:
    """Text in backticks, or a line of a code block that begins with `$`."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text}"


@cache
def spans() -> list[Span]:
    return [
        Span(page, number, match)
        for page in PAGES
        for number, line in enumerate(page.read_text().splitlines(), 1)
        for match in ([line[2:]] if line.startswith("$ ") else re.findall(r"`([^`]+)`", line))
    ]


def missing(found: Iterator[Span]) -> None:
    assert not (lines := [str(span) for span in found]), "\n".join(lines)


def test_every_setting_exists() -> None:
    own = {name for field in Settings.model_fields.values() if (name := str(field.validation_alias)).isupper()}

    def unknown(name: str) -> bool:
        return bool(misspelt([name])) or (name.startswith("DASHSCOPE_") and name not in own)

    missing(
        Span(page, number, name)
        for page in PAGES
        for number, line in enumerate(page.read_text().splitlines(), 1)
        for name in re.findall(r"\b(?:EVERTHREAD|DASHSCOPE)_[A-Z0-9_]+\b", line)
        if unknown(name)
    )


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `everthread` in a line of a shell."""
    for part in re.split(r"[|;&]|\$\(", text.split("  #")[0]):
        words = shlex.split(part.replace("'", "").replace('"', "").replace(")", ""))
        if "everthread" in words:
            yield words[words.index("everthread") + 1 :]


def command_exists(arguments: list[str]) -> bool:
    """True if the command exists, with each of its options."""
    command = get_command(cli)
    words = [word for word in arguments if not word.startswith("-")]
    while isinstance(command, TyperGroup) and words:
        if (found := command.commands.get(words.pop(0))) is None:
            return False
        command = found
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return {word.split("=")[0] for word in arguments if word.startswith("--")} <= options


def test_every_command_exists_with_its_options() -> None:
    named = [span for span in spans() if re.search(r"(^|[ (])everthread [a-z-]", span.text)]
    assert len(named) > 50
    missing(span for span in named if not all(command_exists(each) for each in commands(span.text)))


@cache
def routes() -> set[tuple[str, str]]:
    app = build(Connected(database_url="postgresql://nowhere/none", redis_url="redis://nowhere"))
    return {
        (method, re.sub(r"{\w+(:\w+)?}", "*", str(route.path)))
        for each in (app, create_emulator())
        for route in iter_route_contexts(each.routes)
        if isinstance(route.methods, set)
        for method in route.methods
    }


def same(part: str, there: str) -> bool:
    return part == there or there == "*" or bool(re.search(r"[{A-Z]|_…", part))


def route_exists(text: str) -> bool:
    """True if a route matches `METHOD /path`; `…` stands for the segments before or after."""
    method, _, path = text.rpartition(" ")
    path = path.split("?")[0]
    parts = path.strip("…/").split("/")
    for known, there in routes():
        segments = there.strip("/").split("/")
        if path.startswith("…"):
            segments = segments[-len(parts) :]
        elif segments[0] == "v1" and parts[0] != "v1":
            segments = segments[1:]
        if path.endswith("…") and "_…" not in path:
            segments = (
                [*segments[: len(parts) - 1], segments[len(parts) - 1][: len(parts[-1])]]
                if len(segments) >= len(parts)
                else []
            )
        if method in ("", known) and len(segments) == len(parts) and all(map(same, parts, segments)):
            return True
    return False


def test_every_route_exists() -> None:
    pattern = re.compile(rf"(?:(?:{'|'.join(METHODS)}) (?:…)?/|/v1/|/_emulator/|…/)[^ `\"']*")
    found = [
        Span(span.page, span.line, match)
        for span in spans()
        if "://" not in span.text
        for match in pattern.findall(span.text)
        if not span.text.startswith("$")
    ]
    assert len(found) > 100
    missing(span for span in found if not route_exists(span.text))


def test_the_table_of_routes_marks_those_for_user_tokens() -> None:
    app = build(Connected(database_url="postgresql://nowhere/none", redis_url="redis://nowhere"))
    found = {True: set[tuple[str, str]](), False: set[tuple[str, str]]()}
    for route in iter_route_contexts(app.routes):
        endpoint = getattr(route, "endpoint", None) or getattr(route.route, "endpoint", None)
        for method in route.methods if isinstance(route.methods, set) else ():
            found[is_for_users(endpoint)].add((method, re.sub(r"{\w+(:\w+)?}", "*", str(route.path))))
    listed = {True: set[tuple[str, str]](), False: set[tuple[str, str]]()}
    for request, mark in re.findall(r"^\| (`.*?) \| (✓?) ?\|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE):
        methods: list[str] = []
        for span in re.findall(r"`([^`]+)`", request):
            method, _, path = span.rpartition(" ")
            methods.append(method or path)
            if path.startswith("/"):
                path = re.sub(r"{\w+}", "*", path.split("?")[0])
                listed[mark == "✓"] |= {(each, path) for each in methods if each in METHODS}
                methods = []
    assert len(listed[True]) > 20
    assert len(listed[False]) > 20
    assert listed[True] - found[True] == set()
    assert listed[False] & found[True] == set()
    own = {
        (method, path)
        for method, path in found[True]
        if path.startswith("/v1/") and not path.startswith(("/v1/threads/by-name/", *OPENAI)) and method in METHODS
    }
    assert own - listed[True] == set()


@cache
def files() -> list[str]:
    found = list(ROOT.iterdir())
    tops = ("app", "catalogues", "tests", "docs", "migrations", "deploy", "benchmarks", ".ci", "clients", "examples")
    for top in tops:
        for folder, folders, names in os.walk(ROOT / top):
            folders[:] = [name for name in folders if name not in ("node_modules", "__pycache__")]
            found += [Path(folder), *(Path(folder, name) for name in names)]
    return [str(path.relative_to(ROOT)) for path in found]


def file_exists(name: str) -> bool:
    """True if a file or folder has the path, or ends with it."""
    return any(f"/{path}".endswith(f"/{name.rstrip('/')}") for path in files())


def test_every_file_exists() -> None:
    pattern = re.compile(
        r"(?:[\w.-]+/)*[\w.-]+\.(?:py|sql|lua|toml|ya?ml|lock|md)|(?:app|tests|docs|deploy|migrations)/[\w/.-]*"
    )
    found = [span for span in spans() if pattern.fullmatch(span.text)]
    assert len(found) > 100
    missing(span for span in found if not file_exists(span.text))


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    def headings(page: Path) -> set[str]:
        titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    def broken(page: Path, link: str) -> bool:
        name, _, heading = link.partition("#")
        target = (page.parent / name) if name else page
        return not target.exists() or bool(heading and heading not in headings(target))

    missing(
        Span(page, number, link)
        for page in PAGES
        for number, line in enumerate(page.read_text().splitlines(), 1)
        for link in re.findall(r"\]\(([^)\s]+)\)", line)
        if "://" not in link and broken(page, link)
    )


@cache
def code() -> str:
    """Return the text of all code: the service, migrations, tests and deployment files."""
    own = {Path(__file__), *(ROOT / "tests/words").iterdir()}
    suffixes = {".py", ".sql", ".lua", ".toml", ".yaml", ".yml", ".json", ".js", ".mjs", ".html", ".txt", ".in", ""}
    paths = [
        path
        for name in files()
        if (path := ROOT / name).is_file()
        and path.suffix in suffixes
        and path not in own
        and not name.startswith("docs/")
    ]
    return "\n".join(path.read_text(errors="replace") for path in paths)


def identifier_exists(name: str) -> bool:
    """True if the code contains the name; of `table.column` and `module.attribute`, if the first has the second."""
    parts = name.removesuffix("_total").split(".")
    if name in code():
        return True
    if parts[0] in TABLES:
        return len(parts) > 1 and parts[1] in TABLES[parts[0]]
    # Pages of the console have the names of the API's fields.
    modules = [path for path in (ROOT / "app").rglob(f"{parts[0]}.py") if path.parent.name != "pages"]
    if modules and len(parts) > 1:
        return any(re.search(rf"^\s*(?:def |class )?{parts[1]}\b", path.read_text(), re.MULTILINE) for path in modules)
    return _words().issuperset(part.removeprefix(SUMMARY_FAULTS) for part in parts)


@cache
def _words() -> set[str]:
    return set(re.findall(r"\w+", code()))


TABLES = {name: set(table.columns.keys()) for name, table in Base.metadata.tables.items()}


def test_every_identifier_exists() -> None:
    named = re.compile(r"(?=\w*[._]|[A-Z]+\b|\w+[a-z][A-Z])[A-Za-z_]\w+(?:\.\w+)*")
    elsewhere = re.compile(r"EVERTHREAD_.*|.*\.(?:py|md|sql|json)|(?:conv|resp|thread|turn)_X")
    texts = [Span(span.page, span.line, span.text.removesuffix("()")) for span in spans()]
    found = [span for span in texts if named.fullmatch(span.text) and not elsewhere.fullmatch(span.text)]
    assert len(found) > 300
    missing(span for span in found if span.text not in OF_OTHERS and not identifier_exists(span.text))


def test_every_exception_is_named_and_needed() -> None:
    named = {span.text for span in spans()}
    assert [name for name in OF_OTHERS if name not in named or identifier_exists(name)] == []


def test_the_store_page_names_statements_and_functions_that_exist() -> None:
    known = {name for file in (ROOT / "app").rglob("*.sql") for name in vars(Statements(file))}
    known |= set(re.findall(r"FUNCTION (?:\w+\.)?(\w+)", (ROOT / "migrations/schema.sql").read_text()))
    table = (ROOT / "docs/store.md").read_text().split("## What it must be able to do")[1].split("\n## ")[0]
    rows = [line.split("|")[3] for line in table.splitlines() if line.startswith("| ")]
    unknown = {
        name
        for row in rows
        for name in re.findall(r"`(\w+)`", row)
        if name not in known
        and not any(f"def {name}(" in (ROOT / file).read_text() for file in re.findall(r"`(app/\S+\.py)`", row))
    }
    assert len(rows) > 5
    assert unknown == set()

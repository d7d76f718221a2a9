"""The layout shows the domain: a part of app/ imports only parts that stand below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import app

ROOT = Path(app.__file__).parent

ORDER = (
    ("cli",),
    ("commands",),
    ("provider_check",),
    ("serve",),
    ("main",),
    ("public",),
    ("schema",),
    ("citus",),
    ("console",),
    ("openai_api",),
    ("retention",),
    ("transfer",),
    ("webhooks",),
    ("audit",),
    ("history",),
    ("live",),
    ("failures",),
    ("turns",),
    ("memory",),
    ("search",),
    ("threads",),
    ("holds",),
    ("limits",),
    ("usage",),
    ("accounts",),
    ("projects",),
    ("chain", "media"),
    ("trail", "sealing"),
    ("items",),
    ("emulator",),
    ("provider",),
    ("cache", "embedded"),
    ("db",),
    ("process",),
    ("http",),
    ("telemetry",),
    ("settings",),
)
"""From the top to the ground. Parts of one line import nothing of each other."""

WITHOUT_WEB = ("db", "items", "provider", "trail", "sealing", "chain", "embedded", "cache", "settings")
"""Parts that know nothing of requests and responses: they import no web framework."""

LEVEL = {part: level for level, parts in enumerate(ORDER) for part in parts}


def imports() -> Iterator[tuple[str, str, str]]:
    """Every import of a part by another: the file, the part that it is in, and the one that it imports."""
    for path in sorted(ROOT.rglob("*.py")):
        where = path.relative_to(ROOT)
        part = where.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "app":
                of = node.module.split(".")[1:]
                for other in {of[0]} if of else {name.name for name in node.names}:
                    yield str(where), part, other
            elif isinstance(node, ast.Import):
                for name in node.names:
                    if name.name.startswith("app."):
                        yield str(where), part, name.name.split(".")[1]


def test_a_part_imports_only_what_stands_below_it() -> None:
    upwards = {
        f"{where}: {part} -> {other}"
        for where, part, other in imports()
        if part != other and LEVEL[part] >= LEVEL[other]
    }
    assert upwards == set()


def test_every_part_has_its_place() -> None:
    parts = {path.stem for path in ROOT.iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert parts == set(LEVEL)


def test_parts_below_the_web_import_no_web_framework() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.relative_to(ROOT).parts[0].removesuffix(".py") in WITHOUT_WEB
        for node in ast.walk(ast.parse(path.read_text()))
        for name in modules(node)
        if name.split(".")[0] in ("fastapi", "starlette", "uvicorn")
    }
    assert found == set()


def modules(node: ast.AST) -> list[str]:
    """The modules that a node imports from."""
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [name.name for name in node.names] if isinstance(node, ast.Import) else []


def test_settings_alone_read_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
            and node.attr in ("environ", "environb", "getenv", "getenvb", "putenv", "unsetenv")
        )
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and any(name.name in ("environ", "getenv") for name in node.names)
        )
    }
    assert readers == {"settings.py"}

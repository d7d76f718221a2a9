"""Every named statement fits the schema, the row type that it declares, and the code that uses it."""

import ast
import asyncio
import importlib
import re
import types
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import asyncpg
import pytest

import app
from app.db.sql import SHARED, Statement, Statements

ROOT = Path(app.__file__).parent

OF_POSTGRES: dict[str, tuple[type, ...]] = {
    "uuid": (UUID,), "text": (str,), "varchar": (str,), "bool": (bool,), "int2": (int,), "int4": (int,),
    "int8": (int,), "float8": (float,), "timestamptz": (datetime,), "bytea": (bytes,), "json": (dict, list),
    "jsonb": (dict, list),
}  # fmt: skip
"""The Python types that a value of a column may be read as."""


def named() -> Iterator[tuple[str, Statement]]:
    """Yield each statement with its part."""
    for path in sorted(ROOT.glob("*/*.sql")):
        if path.stem == path.parent.name:
            yield from ((path.stem, statement) for statement in vars(Statements(path)).values())


async def columns_of(url: str, statements: Sequence[Statement]) -> list[dict[str, str] | str]:
    """Return the columns of each statement with their types, or the error of one that cannot be prepared."""
    connection = await asyncpg.connect(url)
    found: list[dict[str, str] | str] = []
    for statement in statements:
        try:
            prepared = await connection.prepare(statement.sql)
            found.append({column.name: column.type.name for column in prepared.get_attributes()})
        except asyncpg.PostgresError as error:
            found.append(f"{error}\n{statement.sql}")
    await connection.close()
    return found


@pytest.fixture(scope="module")
def prepared(database_url: str) -> list[tuple[str, Statement, dict[str, str] | str]]:
    pairs = list(named())
    columns = asyncio.run(columns_of(database_url, [statement for _, statement in pairs]))
    return [(part, statement, found) for (part, statement), found in zip(pairs, columns, strict=True)]


Prepared = list[tuple[str, Statement, dict[str, str] | str]]


def test_every_statement_can_be_prepared(prepared: Prepared) -> None:
    assert [found for _, _, found in prepared if isinstance(found, str)] == []


def test_every_statement_has_the_columns_of_its_row_type(prepared: Prepared) -> None:
    wrong = [
        f"{part}.sql, {statement.row}: {fault}"
        for part, statement, columns in prepared
        if statement.row is not None and isinstance(columns, dict)
        for fault in faults(row_type(part, statement.row), columns)
    ]
    assert wrong == []


def row_type(part: str, name: str) -> Any:
    """Return the class of this name that a module of the part defines."""
    (module,) = (
        path.stem
        for path in (ROOT / part).glob("*.py")
        if re.search(rf"^class {name}\b", path.read_text(), re.MULTILINE)
    )
    return getattr(importlib.import_module(f"app.{part}.{module}"), name)


def faults(row: Any, columns: dict[str, str]) -> Iterator[str]:
    """Yield each difference between a row type and the columns of a statement."""
    hints = get_type_hints(row)
    required = getattr(row, "__required_keys__", hints.keys())
    for name in sorted(set(required) - set(columns)):
        yield f"the statement has no column {name}"
    for name, of_postgres in columns.items():
        if name not in hints:
            yield f"the row type has no {name}"
        elif not reads(hints[name], of_postgres):
            yield f"{name} is {of_postgres}, and {hints[name]} in the row type"


def reads(hint: Any, of_postgres: str) -> bool:
    """Return True if a column of this type can be read as the annotation says."""
    if hint is Any:
        return True
    if get_origin(hint) in (Union, types.UnionType):
        return all(reads(each, of_postgres) for each in get_args(hint) if each is not types.NoneType)
    if get_origin(hint) is Literal:
        return all(reads(type(each), of_postgres) for each in get_args(hint))
    if of_postgres.endswith("[]"):
        return get_origin(hint) in (list, tuple, Sequence) and reads(get_args(hint)[0], of_postgres.removesuffix("[]"))
    return (get_origin(hint) or hint) in OF_POSTGRES[of_postgres]


def test_a_missing_or_different_column_is_a_fault() -> None:
    class Row:
        id: UUID
        name: str | None
        counts: list[int]

    right = {"id": "uuid", "name": "text", "counts": "int4[]"}
    assert list(faults(Row, right)) == []
    assert list(faults(Row, {"id": "uuid", "name": "text"})) == ["the statement has no column counts"]
    assert list(faults(Row, {**right, "more": "bool"})) == ["the row type has no more"]
    assert len(list(faults(Row, {**right, "counts": "text[]"}))) == 1
    assert len(list(faults(Row, {**right, "name": "int4"}))) == 1


def test_the_code_uses_every_statement_and_no_other() -> None:
    used: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        code = path.read_text()
        for node in ast.walk(ast.parse(code)) if "SQL." in code else []:
            # `SQL.name`, or `store.SQL.name` where the statement is another part's.
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", getattr(node.value, "attr", "")) == "SQL":
                module = importlib.import_module(".".join(path.relative_to(ROOT.parent).with_suffix("").parts))
                holder = module if isinstance(node.value, ast.Name) else getattr(module, node.value.value.id)  # type: ignore[attr-defined]
                part = holder.__name__.split(".")[1]
                used.setdefault(part, set()).add(node.attr)
    there: dict[str, set[str]] = {}
    for path in ROOT.glob("*/*.sql"):
        if path.stem == path.parent.name:
            there[path.stem] = set(vars(Statements(path)))
    assert used == there


ELSEWHERE = {
    "db/sql.py": "It makes SQLAlchemy's `text` of the named statements.",
    "db/engine.py": "It finds the first argument of a statement.",
    "db/buckets.py": "One row of the database itself, read before there is a part.",
    "db/ddl.py": "A setting of a migration's transaction.",
    "db/replica.py": "It asks the servers how far they have written and replayed.",
    "db/read_horizon.py": "It asks the server for its transactions.",
    "citus/router.py": "It asks Citus where buckets lie: only a cluster has these functions.",
    "citus/distribution.py": "It distributes the tables by Citus's functions.",
    "sealing/encrypting.py": "Made from the sealed columns of each table.",
    "schema.py": "It reads the catalog of a database that may not be migrated yet, and migrates it.",
}
"""The modules that hold statements in Python, and why."""

A_STATEMENT = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH|SET LOCAL|SHOW)\s|.*\$\d", re.DOTALL)


def test_statements_stand_in_sql_files() -> None:
    holding = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if any(holds_sql(node, path.name) for node in ast.walk(ast.parse(path.read_text())))
    }
    assert holding == set(ELSEWHERE)


def holds_sql(node: ast.AST, module: str) -> bool:
    """Return True for a string that is a statement, and for the import of SQLAlchemy's `text`.

    Tables take theirs for defaults and conditions of indexes.
    """
    if isinstance(node, ast.ImportFrom):
        return node.module == "sqlalchemy" and module != "tables.py" and "text" in {name.name for name in node.names}
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and A_STATEMENT.match(node.value) is not None


def test_every_sql_file_is_that_of_a_part() -> None:
    others = {path for path in ROOT.rglob("*.sql") if path.stem != path.parent.name}
    assert others == {SHARED}

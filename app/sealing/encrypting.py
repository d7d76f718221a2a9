"""Contents that a project had before it was encrypted, sealed where they lie."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Table, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.base import Base
from app.db.engine import Database
from app.db.sql import statements_of
from app.sealing.at_rest import ContentCipher
from app.sealing.ciphertext import Place
from app.sealing.columns import Sealable, SealedDigest, rows_of

ROWS_AT_ONCE = 500
DIALECT: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]

SQL = statements_of(__file__)


async def encrypt(
    database: Database, project_id: UUID, sealer: ContentCipher, advance: Callable[[int], None] = lambda count: None
) -> int:
    """Encrypt a project's plain contents while the service runs. After an interruption, the next call completes it.

    Returns:
        How many rows held something that lay open.
    """
    done = 0
    for model in [mapper.class_ for mapper in Base.registry.mappers]:
        table: Any = model.__table__
        columns = rows_of(model).columns
        if not columns:
            continue
        places = [column.name for column in table.primary_key.columns if column.name != "project_id"]
        for bucket in await _open_buckets(database, table, columns, project_id):
            last: list[Any] | None = None
            while True:
                async with database.session() as session:
                    found = await _open_rows(session, model, project_id, bucket, places, last)
                    for row in found:
                        place = _place(model, sealer, project_id, row)
                        await _seal(session, table, columns, place, row, sealer, places)
                if not found:
                    break
                last = [found[-1][name] for name in places]
                done += len(found)
                advance(len(found))
    # Last, because deletions since have kept rows that still lay open.
    for model in [mapper.class_ for mapper in Base.registry.mappers]:
        if rows_of(model).columns:
            done += await _encrypt_held(database, model, project_id, sealer)
    return done


async def _encrypt_held(database: Database, model: type[Base], project_id: UUID, sealer: ContentCipher) -> int:
    """Encrypt the rows of a table that legal holds keep. They are sealed for the same place as in their table."""
    table: Any = model.__table__
    columns, bound_by = rows_of(model).columns, rows_of(model).bound_by
    open_ = {name: _lies_open(name, type_, columns) for name, type_ in columns.items()}
    shown = [name for name in bound_by if name not in columns]
    shown += [f"{type_.as_text.format(name)} AS {name}" for name, type_ in columns.items()]
    shown += [f"coalesce({condition}, false) AS open_{name}" for name, condition in open_.items()]
    former = f"json_populate_record(NULL::{table.name}, h.data)"
    wanted = " ".join(
        [
            "SELECT held_bucket, held_id,", ", ".join(shown), "FROM (",
            "SELECT h.bucket AS held_bucket, h.id AS held_id, r.*",
            "FROM held_rows h CROSS JOIN LATERAL", former, "AS r",
            "WHERE h.project_id = :project_id AND h.source = :source AND h.id > :last",
            ") AS held WHERE", " OR ".join(f"({condition})" for condition in open_.values()),
            "ORDER BY held_id LIMIT :limit",
        ]
    )  # fmt: skip
    done, last = 0, UUID(int=0)
    while True:
        async with database.session() as session:
            where = {"project_id": project_id, "source": table.name, "last": last, "limit": ROWS_AT_ONCE}
            found = list((await session.execute(text(wanted), where)).mappings())
            for row in found:
                values = _sealed(columns, _place(model, sealer, project_id, row), row, sealer)
                pairs = ", ".join(f"'{name}', CAST(:{name} AS {_sql_type(table, name)})" for name in values)
                changed = f"json_populate_record({former}, json_build_object({pairs}))"
                here = "WHERE h.project_id = :project_id AND h.bucket = :bucket AND h.id = :id"
                statement = " ".join(["UPDATE held_rows h SET data = row_to_json(", changed, ")", here])
                at = {"project_id": project_id, "bucket": row["held_bucket"], "id": row["held_id"]}
                await session.execute(text(statement), {**at, **values})
        if not found:
            return done
        done, last = done + len(found), found[-1]["held_id"]


def _place(model: type[Base], sealer: ContentCipher, project_id: UUID, row: Any) -> Place:
    """Return the place of a row. A digest that it is bound to is keyed in the same statement."""
    of = rows_of(model)
    keyed = [
        sealer.digest(row[name]) if name in of.columns and row[f"open_{name}"] else row[name] for name in of.bound_by
    ]
    return of.at(project_id, *keyed)


async def running(database: Database, project_id: UUID) -> int:
    """Return the number of running turns that will still write plain contents."""
    count: int = await database.fetchval(*SQL.running_unsealed_turns(project_id=project_id))
    return count


async def _open_buckets(
    database: Database, table: Table, columns: Mapping[str, Sealable], project_id: UUID
) -> list[int | None]:
    """Return the buckets with rows that hold plain text: rows are locked bucket by bucket, each on its shard. None for
    a table without buckets."""
    if "bucket" not in table.columns:
        return [None]
    somewhere = " OR ".join(f"({_lies_open(name, type_, columns)})" for name, type_ in columns.items())
    statement = " ".join(["SELECT DISTINCT bucket FROM", table.name, "WHERE project_id = $1 AND (", somewhere, ")"])
    return sorted(row["bucket"] for row in await database.fetch(statement, project_id))


async def _open_rows(
    session: AsyncSession,
    model: type[Base],
    project_id: UUID,
    bucket: int | None,
    places: list[str],
    last: list[Any] | None,
) -> list[Any]:
    """Return the next rows with something that lies open, each locked: as text, and whether it does."""
    columns, bound_by = rows_of(model).columns, rows_of(model).bound_by
    within = "" if bucket is None else "AND bucket = :in_bucket"
    open_ = {name: _lies_open(name, type_, columns) for name, type_ in columns.items()}
    of = [name for name in bound_by if name not in places and name not in columns]
    shown = [*places, *of, *(f"{type_.as_text.format(name)} AS {name}" for name, type_ in columns.items())]
    shown += [f"coalesce({condition}, false) AS open_{name}" for name, condition in open_.items()]
    after = "" if last is None else f"AND ({', '.join(places)}) > ({', '.join(f':{name}' for name in places)})"
    statement = " ".join(
        [
            "SELECT", ", ".join(shown), "FROM", rows_of(model).table, "WHERE project_id = :project_id", within, after,
            "AND (", " OR ".join(f"({condition})" for condition in open_.values()), ")",
            "ORDER BY", ", ".join(places), "LIMIT :limit FOR UPDATE",
        ]
    )  # fmt: skip
    place = {} if last is None else dict(zip(places, last, strict=True))
    found = await session.execute(
        text(statement),
        {"project_id": project_id, "limit": ROWS_AT_ONCE, **({} if bucket is None else {"in_bucket": bucket}), **place},
    )
    return list(found.mappings())


def _lies_open(name: str, type_: Sealable, columns: Mapping[str, Sealable]) -> str:
    if isinstance(type_, SealedDigest):
        return f"{name} IS NOT NULL AND {columns[type_.beside].lies_open.format(type_.beside)}"
    return type_.lies_open.format(name)


async def _seal(
    session: AsyncSession,
    table: Table,
    columns: Mapping[str, Sealable],
    place: Place,
    row: Any,
    sealer: ContentCipher,
    places: list[str],
) -> None:
    values = _sealed(columns, place, row, sealer)
    set_ = ", ".join(f"{name} = CAST(:{name} AS {_sql_type(table, name)})" for name in values)
    where = " AND ".join(f"{name} = :at_{name}" for name in places)
    statement = " ".join(["UPDATE", table.name, "SET", set_, "WHERE project_id = :project_id AND", where])
    at = {f"at_{name}": row[name] for name in places}
    await session.execute(text(statement), {"project_id": place.project_id, **values, **at})


def _sealed(columns: Mapping[str, Sealable], place: Place, row: Any, sealer: ContentCipher) -> dict[str, Any]:
    return {
        name: type_.sealed(sealer, place, name, row[name])
        for name, type_ in columns.items()
        if row[f"open_{name}"] and row[name] is not None
    }


def _sql_type(table: Table, name: str) -> str:
    return str(table.columns[name].type.compile(dialect=DIALECT))

"""Large media of items: extracted before an item is stored, and restored when it is read.

A medium is stored once per thread. `item_media` lists the places in items that refer to it. No value in an item's data
is ever read as a reference.
"""

import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol
from uuid import UUID

import orjson
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import set_committed_value

from app.db import ids
from app.db.base import Base
from app.db.sql import statements_of
from app.items import media
from app.items.media import StoredMedium
from app.items.shapes import Item
from app.items.unreadable import unreadable_item
from app.media.tables import Medium
from app.sealing.at_rest import ContentCipher
from app.sealing.columns import ITEMS, rows_of

SQL = statements_of(__file__)
MEDIA = rows_of(Medium)

Places = Mapping[tuple[UUID, int], Mapping[int, "StoredMedium | None"]]
"""Media by turn and position of the item, and by place; None for one that cannot be opened."""


class Reads(Protocol):
    """A database, or one of its nodes."""

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Any]: ...


def extract(
    sealer: ContentCipher, project_id: UUID, texts: Sequence[str], items: Iterable[Item], first: int = 0
) -> tuple[Sequence[str], str | None]:
    """Return the documents of a turn's items without their large media, and these media as the argument of
    `keep_media_v1`.

    Args:
        texts: the documents.
        items: the same as objects.
        first: the position of the first item.
    """
    if max(map(len, texts), default=0) < media.LARGE:
        return texts, None
    left: list[str] = []
    found: list[dict[str, Any]] = []
    for position, (text, item) in enumerate(zip(texts, items, strict=True), first):
        less, large = media.without_large(item) if len(text) >= media.LARGE else (item, {})
        left.append(orjson.dumps(less).decode() if large else text)
        found += _rows(sealer, project_id, position, large)
    return left, orjson.dumps(found).decode() if found else None


async def insert_items(
    session: AsyncSession, table: type[Base], sealer: ContentCipher, thread_id: UUID, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert the items of a thread's turns with their media.

    Args:
        table: `turns.Item`, which this part may not import.
    """
    stored: list[dict[str, Any]] = []
    found: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        less, large = media.without_large(row["data"])
        stored.append(ITEMS.written(sealer, {**row, "data": less}))
        found[row["turn_id"]] += _rows(sealer, row["project_id"], row["position"], large)
    await session.execute(insert(table), stored)
    for turn_id, of_turn in found.items():
        if of_turn:
            place = {"project_id": rows[0]["project_id"], "bucket": ids.bucket_of(thread_id), "thread_id": thread_id}
            documents = orjson.dumps(of_turn).decode()
            await session.execute(SQL.keep.clause, {**place, "turn_id": turn_id, "media": documents})


async def restored_rows(database: Reads, project_id: UUID, rows: Sequence[Any]) -> list[Any]:
    """Return opened rows of items with their media restored."""
    less = [row for row in rows if media.lacks_large(row["data"])]
    if not less:
        return list(rows)
    found = await database.fetch(*SQL.held(**_wanted(project_id, [_at(row) for row in less])))
    return with_media(project_id, rows, found)


def with_media(project_id: UUID, rows: Sequence[Any], found: Iterable[Any]) -> list[Any]:
    """Return opened rows of items with their media restored.

    Args:
        found: stored media, each with the turn, position and place of the item that it was extracted from.
    """
    held = _by_item(project_id, found)
    return [{**row, **_put_back(row["type"], row["data"], held.get(_at(row), {}))} for row in rows]


async def restored_texts(
    database: Reads, project_id: UUID, texts: Mapping[tuple[UUID, int], str | None]
) -> dict[tuple[UUID, int], str | None]:
    """Return opened documents of items with their media restored, by turn and position, in their original bytes.

    A document that cannot be opened, or with a medium that cannot be opened, is None.
    """
    found = dict(texts)
    less = {at: item for at, text in texts.items() if text and media.EMPTY in text and (item := _lacking(text))}
    if less:
        held = await _held(database, project_id, list(less))
        for at, item in less.items():
            whole = _with_media(item, held.get(at, {}))
            found[at] = None if whole is None else orjson.dumps(whole).decode()
    return found


async def restore(session: AsyncSession, project_id: UUID, items: Iterable[Any]) -> None:
    """Restore the media in the data of items that are entities of a session."""
    less = [item for item in items if media.lacks_large(item.data)]
    if not less:
        return
    where = _wanted(project_id, [(item.turn_id, item.position) for item in less])
    held = _by_item(project_id, (await session.execute(SQL.held.clause, where)).mappings())
    for item in less:
        put_back = _put_back(item.type, item.data, held.get((item.turn_id, item.position), {}))
        set_committed_value(item, "data", put_back["data"])
        if "unreadable" in put_back:
            item.unreadable = sorted({*item.unreadable, "data"})


@asynccontextmanager
async def released(
    session: AsyncSession, project_id: UUID, bucket: int, turn_ids: Sequence[UUID]
) -> AsyncIterator[None]:
    """Delete unreferenced media after the `async with` block, in which the caller deletes items of these turns."""
    here = {"project_id": project_id, "bucket": bucket}
    held = list(await session.scalars(SQL.lock.clause, {**here, "turn_ids": list(turn_ids)}))
    yield
    if held:
        await session.execute(SQL.release.clause, {**here, "media_ids": held})


def sent_text(project_id: UUID, row: Mapping[str, Any]) -> str | None:
    """Return the JSON of a medium as a call sent it; None if it was deleted or cannot be opened.

    Args:
        row: of a piece, with `media_id` and the stored medium as `media`.
    """
    value = MEDIA.opened(project_id, {"id": row["media_id"], "data": row["media"]})["data"]
    return None if value is None else orjson.dumps(value).decode()


def _rows(sealer: ContentCipher, project_id: UUID, position: int, large: Mapping[int, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for place, value in large.items():
        id_ = ids.new_uuid()
        rows.append(
            {
                "id": id_,
                "position": position,
                "place": place,
                "digest": sealer.digest(hashlib.sha256(value.encode()).digest()).hex(),
                "data": sealer.text(MEDIA.at(project_id, id_), "data", value),
            }
        )
    return rows


def _at(row: Any) -> tuple[UUID, int]:
    return row["turn_id"], row["position"]


def _lacking(text: str) -> Item | None:
    """Return the item of a document if media may have been extracted from it."""
    item = orjson.loads(text)
    return item if isinstance(item, dict) and media.lacks_large(item) else None


async def _held(database: Reads, project_id: UUID, wanted: Sequence[tuple[UUID, int]]) -> Places:
    return _by_item(project_id, await database.fetch(*SQL.held(**_wanted(project_id, wanted))))


def _wanted(project_id: UUID, wanted: Sequence[tuple[UUID, int]]) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "buckets": [ids.bucket_of(turn_id) for turn_id, _ in wanted],
        "turn_ids": [turn_id for turn_id, _ in wanted],
        "positions": [position for _, position in wanted],
    }


def _by_item(project_id: UUID, rows: Iterable[Any]) -> Places:
    found: dict[tuple[UUID, int], dict[int, StoredMedium | None]] = defaultdict(dict)
    for row in rows:
        data = MEDIA.opened(project_id, row)["data"]
        medium = None
        if data is not None:
            medium = StoredMedium(data)
            medium.id = row["id"]
        found[_at(row)][row["place"]] = medium
    return found


def _put_back(type_: str, data: Item, values: Mapping[int, StoredMedium | None]) -> dict[str, Any]:
    whole = _with_media(data, values)
    return {"data": unreadable_item(type_), "unreadable": ["data"]} if whole is None else {"data": whole}


def _with_media(item: Item, values: Mapping[int, StoredMedium | None]) -> Item | None:
    """Return an item with its media by place; None if one of them cannot be opened."""
    opened = {place: value for place, value in values.items() if value is not None}
    if len(opened) < len(values):
        return None
    return media.with_large(item, opened) if opened else item

"""Large media of items: taken out before an item is stored, and put back when it is read.

A medium is stored once per thread. `item_media` says which places of which item refer to it: what an item's data says
is never taken for a reference.
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
"""For each turn and position of an item its media, by place; None for one that cannot be opened."""


class Reads(Protocol):
    """A database, or one of its nodes."""

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Any]: ...


def taken_out(
    sealer: ContentCipher, project_id: UUID, texts: Sequence[str], items: Iterable[Item], first: int = 0
) -> tuple[Sequence[str], str | None]:
    """Return the documents of a turn's items without their large media, and these media as `keep_media_v1` takes them.

    Args:
        texts: the documents; `items`, the same as objects.
        first: the position of the first item.
    """
    if all(len(text) < media.LARGE for text in texts):
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
        table: the items'.
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


async def whole_rows(database: Reads, project_id: UUID, rows: Sequence[Any]) -> list[Any]:
    """Return rows of items, opened, with the media that were taken out of them."""
    less = [row for row in rows if media.lacks_large(row["data"])]
    if not less:
        return list(rows)
    held = await _held(database, project_id, [(row["turn_id"], row["position"]) for row in less])
    return [{**row, **_put_back(row["type"], row["data"], held.get(_at(row), {}))} for row in rows]


async def whole_texts(
    database: Reads, project_id: UUID, texts: Mapping[tuple[UUID, int], str | None]
) -> dict[tuple[UUID, int], str | None]:
    """Return documents of items, opened, by turn and position, in the bytes that the items had.

    None for one that cannot be opened, or a medium of which cannot.
    """
    found = dict(texts)
    less = {at: item for at, text in texts.items() if text and media.EMPTY in text and (item := _lacking(text))}
    if less:
        held = await _held(database, project_id, list(less))
        for at, item in less.items():
            values = held.get(at, {})
            opened = {place: value for place, value in values.items() if value is not None}
            found[at] = None if len(opened) < len(values) else orjson.dumps(media.with_large(item, opened)).decode()
    return found


async def make_whole(session: AsyncSession, project_id: UUID, items: Iterable[Any]) -> None:
    """Put the media of items, entities of a session, back into their data."""
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
    """Delete the media that no item holds any more once the caller has deleted items of these turns."""
    here = {"project_id": project_id, "bucket": bucket}
    held = list(await session.scalars(SQL.lock.clause, {**here, "turn_ids": list(turn_ids)}))
    yield
    if held:
        await session.execute(SQL.release.clause, {**here, "media_ids": held})


def sent_text(project_id: UUID, row: Mapping[str, Any]) -> str | None:
    """Return a medium as a call has sent it, in JSON; None if it was deleted, or cannot be opened.

    Args:
        row: a piece's, with `media_id` and the medium's stored form as `media`.
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
    """Return the item of a document from which media were taken out."""
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
    opened = {place: value for place, value in values.items() if value is not None}
    if len(opened) < len(values):
        return {"data": unreadable_item(type_), "unreadable": ["data"]}
    return {"data": media.with_large(data, opened) if opened else data}

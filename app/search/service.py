"""Searching a project's threads."""

import base64
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from app.db import ids
from app.db.engine import Database
from app.db.pagination import list_object
from app.errors import BadRequest
from app.items.shapes import text_of
from app.projects.auth import Caller
from app.search import lexemes, store
from app.search.fragments import fragments
from app.search.store import Cursor, Filters, Hit


class Search:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def search(
        self, caller: Caller, asked: str, filters: Filters, after: str | None, limit: int
    ) -> dict[str, Any]:
        """One page of hits, best first.

        Raises:
            BadRequest: nothing of what is asked can be searched for, or the cursor is none of ours.
        """
        tsquery = lexemes.query(asked)
        if tsquery is None:
            raise BadRequest("'q' needs a word that is to be found.", param="q")
        cursor = None if after is None else _cursor(after)
        bound = await store.now(self._database) if cursor is None else cursor.bound
        rows = await store.search(self._database, caller.project_id, tsquery, filters, cursor, bound, limit + 1)
        wanted = lexemes.asked_runs(asked)
        return list_object(rows[:limit], lambda row: _hit(row, wanted, bound), has_more=len(rows) > limit)


def _hit(hit: Hit, wanted: list[lexemes.Run], bound: datetime) -> dict[str, Any]:
    titled, row = hit.role == "title", hit.row
    text = row["title"] or "" if titled else "\n".join(text_of(item) for item in hit.said if _said_by(hit.role, item))
    return {
        "id": _encoded(Cursor(bound, hit.rank, hit.id, hit.role)),
        "object": "search.result",
        "thread_id": ids.thread_id(row["thread_id"]),
        "thread_name": row["name"],
        "thread_title": row["title"],
        "turn_id": None if titled else ids.turn_id(hit.id),
        "role": hit.role,
        "score": hit.rank,
        "created_at": int(row["created_at"].timestamp()),
        "fragments": fragments(text, wanted),
    }


def _said_by(role: str, item: dict[str, Any]) -> bool:
    return item.get("role") == role


def _encoded(cursor: Cursor) -> str:
    said = orjson.dumps([cursor.bound.isoformat(), cursor.rank, cursor.id.hex, cursor.role])
    return "hit_" + base64.urlsafe_b64encode(said).rstrip(b"=").decode()


def _cursor(given: str) -> Cursor:
    try:
        said = given.removeprefix("hit_")
        bound, rank, id_, role = orjson.loads(base64.urlsafe_b64decode(said + "=" * (-len(said) % 4)))
        return Cursor(datetime.fromisoformat(bound), float(rank), UUID(id_), str(role))
    except (ValueError, TypeError, AttributeError) as error:
        raise BadRequest(
            "'after' must be the last_id of a page of this search.", param="after", code="invalid_cursor"
        ) from error

"""Lookup of threads and turns by the id of a thread, turn, call, item or response of the provider."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from typing_extensions import TypedDict

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of

SQL = statements_of(__file__)

MOST_OF_RESPONSE = 100
"""Turns with the same response id that are read."""

_CALL = re.compile(r"call_([0-9a-f]{32})_([0-9]{1,6})")

Kind = Literal["thread", "turn", "call", "item", "response"]


class PlaceObject(TypedDict):
    id: str
    """The id that was asked for."""
    object: Literal["place"]
    kind: Kind
    thread_id: str
    turn_id: str | None


class PlaceRow(TypedDict):
    thread_id: UUID
    turn_id: UUID | None


async def find(database: Database, project_id: UUID, text: str) -> PlaceObject | None:
    """Return the place of an id. Ids of this service take precedence over those of the provider."""
    for kind, asked in _looked_up(project_id, text):
        row: Any = await database.fetchrow(*asked)
        if row is not None:
            return _place(text, kind, row)
    row = await database.fetchrow(*SQL.first_turn(project_id=project_id))
    if row is None:
        return None
    first = row["arrived_at"].astimezone(UTC).date()
    # One more than until today: the database's clock may be ahead.
    days = [first + timedelta(days=n) for n in range((datetime.now(UTC).date() - first).days + 2)]
    asked = SQL.response(project_id=project_id, days=days, response_id=text, most=MOST_OF_RESPONSE)
    row = await database.fetchrow(*asked)
    return None if row is None else _place(text, "response", row)


def _place(text: str, kind: Kind, row: PlaceRow) -> PlaceObject:
    return {
        "id": text,
        "object": "place",
        "kind": kind,
        "thread_id": ids.thread_id(row["thread_id"]),
        "turn_id": ids.optional_turn_id(row["turn_id"]),
    }


def _looked_up(project_id: UUID, text: str) -> list[tuple[Kind, tuple[Any, ...]]]:
    """Return the statements that look an id of ours up, in their order."""
    found: list[tuple[Kind, tuple[Any, ...]]] = []
    if (thread_id := ids.parse(text, ids.THREAD_PREFIXES)) is not None:
        found.append(("thread", SQL.thread(**_at(project_id, thread_id))))
    if (turn_id := ids.parse(text, ids.TURN_PREFIXES)) is not None:
        found.append(("turn", SQL.turn(**_at(project_id, turn_id))))
    if call := _CALL.fullmatch(text):
        found.append(("call", SQL.call(**_at(project_id, UUID(call[1])), attempt=int(call[2]))))
    found.append(("item", SQL.item(project_id=project_id, item_id=text)))
    return found


def _at(project_id: UUID, id_: UUID) -> dict[str, Any]:
    return {"project_id": project_id, "bucket": ids.bucket_of(id_), "id": id_}

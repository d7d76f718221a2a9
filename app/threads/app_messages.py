"""Messages of the app in a thread: system and developer messages. End users neither see nor remove them."""

from collections.abc import Sequence
from uuid import UUID

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.http.errors import Forbidden
from app.items.kinds import is_system
from app.items.shapes import Item
from app.sealing.columns import ITEMS

SQL = statements_of(__file__)


async def lost_messages(database: Database, project_id: UUID, left: UUID | None, kept: UUID | None) -> Sequence[Item]:
    """Return the app's messages that the model gets on one branch and would not get on another, in their order.

    Args:
        left: the last turn of the branch that is left.
        kept: the last turn of the other branch; None for a new one.
    """
    if left is None or left == kept:
        return []
    asked = SQL.app_messages(project_id=project_id, bucket=ids.bucket_of(left), left_id=left, kept_id=kept)
    opened = [ITEMS.opened(project_id, row) for row in await database.fetch(*asked)]
    rows = [row for row in opened if is_system(row["data"])]
    there = [_said(row["data"]) for row in rows if row["kept"]]
    return [row["data"] for row in rows if not row["kept"] and _said(row["data"]) not in there]


def _said(item: Item) -> tuple[object, object]:
    return item["role"], item.get("content")


def kept_for_app(param: str) -> Forbidden:
    """Return the refusal of a change that would remove messages of the app from what the model gets."""
    return Forbidden(
        "This would remove messages of the app from the model's context. Only keys may remove them.",
        param=param,
        code="not_for_users",
    )

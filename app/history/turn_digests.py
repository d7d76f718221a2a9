"""Digests of turns that are changed outside their opening and closing."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import inspect, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.base import Base
from app.media import store as media
from app.sealing import at_rest
from app.sealing.columns import rows_of
from app.trail import contents
from app.trail.append import Record
from app.trail.records import Action
from app.turns.tables import Item, Turn


async def record_emptied(
    session: AsyncSession,
    action: Action,
    project_id: UUID,
    bucket: int,
    turn_ids: Iterable[UUID],
    values: Mapping[str, Any] | None = None,
    *,
    detail: str | None = None,
) -> list[Record]:
    """Return the records of turns that have lost their content or their thread, with digests of what is left of them.

    Args:
        values: columns that change with this.
    """
    wanted, salt = list(turn_ids), contents.new_salt()
    changed = (
        update(Turn)
        .where(Turn.project_id == project_id, Turn.bucket == bucket, Turn.id.in_(wanted))
        .values({**(values or {}), "left_salt": salt})
        .execution_options(synchronize_session=False)
    )
    kept = [getattr(Turn, name) for name in contents.FIELDS["left", contents.VERSION] if name != "has_content"]
    rows = await session.execute(changed.returning(Turn.id, Turn.salt.is_not(None).label("has_content"), *kept))
    digests = {row["id"]: contents.digest("left", salt, dict(row)) for row in rows.mappings()}
    return [Record(action, turn_id, detail, digests[turn_id]) for turn_id in wanted if turn_id in digests]


async def renew_digest(session: AsyncSession, project_id: UUID, turn_id: UUID, bucket: int) -> bytes | None:
    """Give a turn a new salt, and return the digest of all that it holds now.

    Returns:
        None, and nothing is changed, if something of the turn cannot be opened.
    """
    of_id = (Turn.project_id == project_id, Turn.bucket == bucket, Turn.id == turn_id)
    turn = (await session.scalars(select(Turn).where(*of_id).execution_options(populate_existing=True))).one()
    of_turn = (Item.project_id == project_id, Item.bucket == bucket, Item.turn_id == turn_id)
    items = (await session.scalars(select(Item).where(*of_turn).order_by(Item.position))).all()
    await media.restore(session, project_id, items)
    if not at_rest.has_sealer() or any(row.unreadable for row in (turn, *items)):
        return None
    salt, rows = contents.new_salt(), rows_of(Turn)
    # The digest of what an earlier change had left is replaced by this one.
    changed = {"salt": salt, "left_salt": None}
    written = rows.written(at_rest.sealer(), changed, rows.at(project_id, turn_id))
    await session.execute(update(Turn).where(*of_id).values(written).execution_options(synchronize_session=False))
    return contents.turn(salt, _columns(turn), [_columns(item) for item in items])


def _columns(row: Base) -> dict[str, Any]:
    return {attribute.key: getattr(row, attribute.key) for attribute in inspect(type(row)).column_attrs}

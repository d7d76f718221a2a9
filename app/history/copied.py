"""A short history, copied into the thread that goes on from it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.items.provider_door import new_id
from app.threads.tables import Thread
from app.trail import contents
from app.trail.append import Record, append_records
from app.trail.records import Actor
from app.turns.tables import Item, Turn

KEPT = (
    "status", "continuation", "model", "params", "metadata_", "ignored", "created_at", "arrived_at", "completed_at",
    "error_status", "response", "usage", "error", "incomplete_details", "pace", "binding", "response_id",
    "response_created_at", "response_expires_at", "response_unknown_at", "deleted_at",
)  # fmt: skip
"""What a copy has of its turn, the live response id too: the fork chains on where the thread would have."""


async def copied(session: AsyncSession, actor: Actor, fork: Thread, bucket: int, turn_ids: Sequence[UUID]) -> None:
    """Copy a branch into a new thread, as its own turns.

    Args:
        bucket: where the branch lies.
        turn_ids: from its first turn on.
    """
    if not turn_ids:
        return
    here = (Turn.project_id == fork.project_id, Turn.bucket == bucket, Turn.id.in_(turn_ids))
    turns = {turn.id: turn for turn in await session.scalars(select(Turn).where(*here))}
    of_turns = (Item.project_id == fork.project_id, Item.bucket == bucket, Item.turn_id.in_(turn_ids))
    items: dict[UUID, list[Item]] = {turn_id: [] for turn_id in turn_ids}
    for item in await session.scalars(select(Item).where(*of_turns).order_by(Item.turn_id, Item.position)):
        items[item.turn_id].append(item)
    rows: list[dict[str, Any]] = []
    item_rows: list[dict[str, Any]] = []
    records: list[Record] = []
    parent_id: UUID | None = None
    for seq, turn_id in enumerate(turn_ids, 1):
        turn, id_, salt = turns[turn_id], ids.new_id(fork.bucket), contents.new_salt()
        mine = [_item_row(fork, id_, item) for item in items[turn_id]]
        row = {name: getattr(turn, name) for name in KEPT}
        rows.append(
            {
                **row,
                "project_id": fork.project_id,
                "bucket": fork.bucket,
                "id": id_,
                "thread_id": fork.id,
                "seq": seq,
                "parent_id": parent_id,
                "copied_from_id": turn.copied_from_id or turn.id,
                "salt": None if turn.deleted_at else salt,
            }
        )
        item_rows += mine
        if turn.deleted_at is None:
            records.append(
                Record("turn.imported", id_, f"copy of {ids.turn_id(turn_id)}", contents.imported_rows(salt, row, mine))
            )
        parent_id = id_
    await session.execute(insert(Turn), rows)
    if item_rows:
        await session.execute(insert(Item), item_rows)
    await append_records(session, actor, fork.project_id, fork.id, records)
    await session.refresh(fork)  # The end of its audit chain has moved.
    fork.head_turn_id, fork.last_seq, fork.turn_count = parent_id, len(turn_ids), len(turn_ids)


def _item_row(fork: Thread, turn_id: UUID, item: Item) -> dict[str, Any]:
    return {
        "project_id": fork.project_id,
        "bucket": fork.bucket,
        "turn_id": turn_id,
        "position": item.position,
        "origin": item.origin,
        "type": item.type,
        "item_id": new_id(item.type, ids.new_uuid().hex),
        "data": item.data,
    }

"""Copy of a short history into a fork."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.db.base import Base
from app.items.provider_door import new_id
from app.items.unreadable import ContentUnreadable
from app.media import store as media
from app.memory.tables import Compaction
from app.sealing import at_rest
from app.sealing.columns import rows_of
from app.threads.tables import Thread
from app.trail import contents
from app.trail.append import Record, append_records
from app.trail.records import COPY_OF, Actor
from app.turns.tables import Item, Turn

KEPT = (
    "status", "continuation", "continuation_reason", "model", "params", "metadata_", "ignored", "created_at",
    "arrived_at", "completed_at",
    "error_status", "response", "usage", "cost", "error", "incomplete_details", "pace", "context", "binding",
    "response_id", "response_created_at", "response_expires_at", "response_unknown_at",
    "response_unknown_reason", "deleted_at",
)  # fmt: skip
"""Columns that a copy takes from its turn, including the live response id: the fork chains where the thread would
have."""


COMPACTION_KEPT = (
    "status", "model", "text", "covered_turns", "covered_tokens", "tokens", "created_at", "completed_at",
)  # fmt: skip


async def copy_turns(session: AsyncSession, actor: Actor, fork: Thread, bucket: int, turn_ids: Sequence[UUID]) -> None:
    """Copy a branch into a new thread, as its own turns.

    Args:
        bucket: where the branch lies.
        turn_ids: from its first turn on.

    Raises:
        ContentUnreadable: something of it cannot be opened, and so not be copied.
    """
    if not turn_ids:
        return
    here = (Turn.project_id == fork.project_id, Turn.bucket == bucket, Turn.id.in_(turn_ids))
    turns = {turn.id: turn for turn in await session.scalars(select(Turn).where(*here))}
    of_turns = (Item.project_id == fork.project_id, Item.bucket == bucket, Item.turn_id.in_(turn_ids))
    items: dict[UUID, list[Item]] = {turn_id: [] for turn_id in turn_ids}
    stored = (await session.scalars(select(Item).where(*of_turns).order_by(Item.turn_id, Item.position))).all()
    await media.restore(session, fork.project_id, stored)
    for item in stored:
        items[item.turn_id].append(item)
    rows: list[dict[str, Any]] = []
    item_rows: list[dict[str, Any]] = []
    records: list[Record] = []
    parent_id: UUID | None = None
    copies: dict[UUID, UUID] = {}
    item_ids: dict[str, str] = {}
    for seq, turn_id in enumerate(turn_ids, 1):
        turn, id_, salt = turns[turn_id], ids.new_id(fork.bucket), contents.new_salt()
        _check_readable(turn_id, turn, *items[turn_id])
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
                "left_salt": salt if turn.deleted_at else None,
            }
        )
        item_rows += mine
        copies[turn_id] = id_
        item_ids |= {item.item_id: row["item_id"] for item, row in zip(items[turn_id], mine, strict=True)}
        content = contents.left(salt, rows[-1]) if turn.deleted_at else contents.turn(salt, rows[-1], mine)
        records.append(Record("turn.imported", id_, f"{COPY_OF}{ids.turn_id(turn_id)}", content))
        parent_id = id_
    sealer = at_rest.sealer()
    await session.execute(insert(Turn), [rows_of(Turn).written(sealer, row) for row in rows])
    if item_rows:
        await media.insert_items(session, Item, sealer, fork.id, item_rows)
    await append_records(session, actor, fork.project_id, fork.id, records)
    await _copy_compactions(session, actor, fork, bucket, copies, item_ids)
    await session.refresh(fork)  # The end of its audit chain has moved.
    fork.head_turn_id, fork.last_seq, fork.turn_count = parent_id, len(turn_ids), len(turn_ids)


async def _copy_compactions(
    session: AsyncSession,
    actor: Actor,
    fork: Thread,
    bucket: int,
    copies: Mapping[UUID, UUID],
    item_ids: Mapping[str, str],
) -> None:
    """Copy the compactions of the branch. Their cost stays with the other thread.

    Args:
        copies: the fork's turns, by those that they are copies of; `item_ids`, its items'.
    """
    of_turns = (Compaction.project_id == fork.project_id, Compaction.bucket == bucket, Compaction.turn_id.in_(copies))
    made = await session.scalars(select(Compaction).where(*of_turns, Compaction.status == "ready"))
    rows: list[dict[str, Any]] = []
    records: list[Record] = []
    for each in made:
        _check_readable(each.turn_id, each)
        salt, id_ = contents.new_salt(), ids.new_uuid()
        row = {
            **{name: getattr(each, name) for name in COMPACTION_KEPT},
            "project_id": fork.project_id,
            "bucket": fork.bucket,
            "id": id_,
            "turn_id": copies[each.turn_id],
            "kept_items": [item_ids[item_id] for item_id in each.kept_items if item_id in item_ids],
            "calls": [],
            "usage": None,
            "salt": salt,
        }
        rows.append(row)
        records.append(Record("compaction.made", row["turn_id"], ids.compaction_id(id_), contents.compacted(salt, row)))
    if rows:
        sealer = at_rest.sealer()
        await session.execute(insert(Compaction), [rows_of(Compaction).written(sealer, row) for row in rows])
        await append_records(session, actor, fork.project_id, fork.id, records)


def _check_readable(turn_id: UUID, *entities: Base) -> None:
    if any(set(entity.unreadable) - {"salt", "calls"} for entity in entities):
        turn = ids.turn_id(turn_id)
        raise ContentUnreadable(
            f"A content of turn {turn}", f"Fork the thread at a turn before {turn}, or delete the item or the turn."
        )


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
        "tokens": item.tokens,
    }

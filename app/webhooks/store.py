"""Webhooks and deliveries in Postgres: how far the trail is read, and what is told of it, are written in one step."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.db.engine import Database
from app.db.read_horizon import ReadHorizon
from app.trail.append import append_record
from app.trail.records import Action, Actor
from app.webhooks.events import data_of, type_of
from app.webhooks.rows import DeliveryRow, RecordRow, WebhookRow
from app.webhooks.tables import Webhook

RECORDS_AT_ONCE = 500

MOST_WEBHOOKS = 50
"""Of a project."""

FORMER_SECRET_HOURS = 24

DELIVERED_DAYS = 7
FAILED_DAYS = 30
"""For how long deliveries can be seen, and sent again."""

LISTED = "SELECT * FROM webhooks WHERE project_id = $1 ORDER BY id"

ONE = "SELECT * FROM webhooks WHERE project_id = $1 AND id = $2"

ALL = "SELECT * FROM webhooks ORDER BY project_id, id"

RECORDS = """
SELECT chain_id, seq, at, action, turn_id, user_digest, detail FROM audit_records
WHERE project_id = $1 AND (at, chain_id, seq) > ($2, $3, $4) AND at < $5
ORDER BY at, chain_id, seq LIMIT $6
"""

# Of two workers, one has read up to there.
READ_UP_TO = text(
    """UPDATE webhooks SET read_at = :at, read_chain = :chain, read_seq = :seq
    WHERE project_id = :project_id AND id = :id AND (read_at, read_chain, read_seq) = (:seen_at, :seen_chain, :seen_seq)
    RETURNING id"""
)

WRITE = text(
    """INSERT INTO webhook_deliveries (project_id, webhook_id, chain_id, seq, type, at, data)
    SELECT :project_id, :id, e.chain, e.seq, e.type, e.at, e.data::json
    FROM unnest(CAST(:chains AS uuid[]), CAST(:seqs AS bigint[]), CAST(:types AS text[]), CAST(:ats AS timestamptz[]),
        CAST(:datas AS text[])) AS e (chain, seq, type, at, data)
    ON CONFLICT DO NOTHING"""
)

DUE = """
SELECT project_id, webhook_id, chain_id, seq, attempts FROM webhook_deliveries
WHERE project_id = $1 AND webhook_id = $2 AND status = 'pending' AND next_at <= now() ORDER BY next_at LIMIT $3
"""

# Each for one worker, as it was seen; should the worker die, another may try when its time is over.
TAKE = """
UPDATE webhook_deliveries SET attempts = attempts + 1, next_at = now() + $6::float8 * interval '1 second'
WHERE project_id = $1 AND webhook_id = $2 AND chain_id = $3 AND seq = $4 AND attempts = $5 AND status = 'pending'
RETURNING *
"""

TRIED = """
UPDATE webhook_deliveries SET status = $6, last_status = $7, last_error = $8,
    delivered_at = now() + CASE WHEN $6 = 'delivered' THEN interval '0' END,
    next_at = now() + $9::float8 * interval '1 second'
WHERE project_id = $1 AND webhook_id = $2 AND chain_id = $3 AND seq = $4 AND attempts = $5 AND status = 'pending'
"""

AGAIN = """
UPDATE webhook_deliveries SET status = 'pending', delivered_at = NULL, next_at = now(), attempts = 0
WHERE project_id = $1 AND webhook_id = $2 AND chain_id = $3 AND seq = $4 RETURNING *
"""

DELIVERIES = """
SELECT * FROM webhook_deliveries
WHERE project_id = $1 AND webhook_id = $2 AND ($3::text IS NULL OR status = $3)
    AND ($4::timestamptz IS NULL OR (at, chain_id, seq) < ($4, $5, $6))
ORDER BY at DESC, chain_id DESC, seq DESC LIMIT $7
"""

DELIVERY = "SELECT * FROM webhook_deliveries WHERE project_id = $1 AND webhook_id = $2 AND chain_id = $3 AND seq = $4"

OLD = f"""
DELETE FROM webhook_deliveries WHERE status = 'delivered' AND delivered_at < now() - interval '{DELIVERED_DAYS} days'
    OR status = 'failed' AND at < now() - interval '{FAILED_DAYS} days'
"""  # noqa: S608


class WebhookStore:
    def __init__(self, database: Database, horizon: ReadHorizon) -> None:
        self._database = database
        self._horizon = horizon

    async def listed(self, project_id: UUID) -> list[WebhookRow]:
        return await self._database.fetch(LISTED, project_id)

    async def get(self, project_id: UUID, id_: UUID) -> WebhookRow | None:
        row: WebhookRow | None = await self._database.fetchrow(ONE, project_id, id_)
        return row

    async def all(self) -> list[WebhookRow]:
        return await self._database.fetch(ALL)

    async def add(self, actor: Actor, project_id: UUID, values: dict[str, Any]) -> WebhookRow | None:
        """Add a webhook, which is told of what happens from now on. None: the project has as many as it can."""
        id_ = ids.new_uuid()
        async with self._database.session() as session:
            await session.execute(text("SELECT pg_advisory_xact_lock(uuid_hash_extended(:id, 1))"), {"id": project_id})
            counted = select(func.count()).select_from(Webhook).where(Webhook.project_id == project_id)
            if await session.scalar(counted) == MOST_WEBHOOKS:
                return None
            now = func.clock_timestamp()
            await session.execute(insert(Webhook).values(project_id=project_id, id=id_, read_at=now, **values))
            await _record(session, actor, project_id, "webhook.created", id_)
        return await self.get(project_id, id_)

    async def change(self, actor: Actor, project_id: UUID, id_: UUID, values: dict[str, Any]) -> WebhookRow | None:
        async with self._database.session() as session:
            this = update(Webhook).where(Webhook.project_id == project_id, Webhook.id == id_)
            if await session.scalar(this.values(**values).returning(Webhook.id)) is None:
                return None
            await _record(session, actor, project_id, "webhook.changed", id_)
        return await self.get(project_id, id_)

    async def delete(self, actor: Actor, project_id: UUID, id_: UUID) -> bool:
        async with self._database.session() as session:
            this = delete(Webhook).where(Webhook.project_id == project_id, Webhook.id == id_)
            if await session.scalar(this.returning(Webhook.id)) is None:
                return False
            await _record(session, actor, project_id, "webhook.deleted", id_)
        return True

    async def until(self) -> datetime:
        """Before this moment, the trail has all that it will have."""
        async with self._database.session() as session:
            return await self._horizon.until(session)

    async def read_on(self, webhook: WebhookRow, until: datetime) -> bool:
        """Write the deliveries for what has happened since the webhook's trail was read last. Whether there is more."""
        project_id, seen = webhook["project_id"], (webhook["read_at"], webhook["read_chain"], webhook["read_seq"])
        rows: list[RecordRow] = await self._database.fetch(RECORDS, project_id, *seen, until, RECORDS_AT_ONCE)
        if not rows:
            return False
        wanted = [row for row in rows if type_of(row) in webhook["events"]]
        last = rows[-1]
        async with self._database.session() as session:
            place = {"at": last["at"], "chain": last["chain_id"], "seq": last["seq"]}
            before = dict(zip(("seen_at", "seen_chain", "seen_seq"), seen, strict=True))
            this = {"project_id": project_id, "id": webhook["id"]}
            if await session.scalar(READ_UP_TO, {**this, **place, **before}) is None:
                return False
            if wanted:
                await session.execute(WRITE, {**this, **_columns(wanted)})
        return len(rows) == RECORDS_AT_ONCE

    async def take(self, webhook: WebhookRow, limit: int, lease_seconds: float) -> list[DeliveryRow]:
        """A webhook's deliveries to try now, each for this worker alone until its lease is over."""
        taken: list[DeliveryRow] = []
        for due in await self._database.fetch(DUE, webhook["project_id"], webhook["id"], limit):
            row: DeliveryRow | None = await self._database.fetchrow(TAKE, *due, lease_seconds)
            if row is not None:
                taken.append(row)
        return taken

    async def tried(
        self, row: DeliveryRow, status: str, answered: int | None, error: str | None, pause_seconds: float
    ) -> None:
        """Write down how an attempt has ended, unless another one has begun since."""
        await self._database.fetch(TRIED, *_key(row), row["attempts"], status, answered, error, pause_seconds)

    async def again(self, project_id: UUID, id_: UUID, chain_id: UUID, seq: int) -> DeliveryRow | None:
        row: DeliveryRow | None = await self._database.fetchrow(AGAIN, project_id, id_, chain_id, seq)
        return row

    async def deliveries(
        self, project_id: UUID, id_: UUID, status: str | None, after: DeliveryRow | None, limit: int
    ) -> list[DeliveryRow]:
        """The latest first; one more than `limit` if there are more."""
        place = (None, None, None) if after is None else (after["at"], after["chain_id"], after["seq"])
        return await self._database.fetch(DELIVERIES, project_id, id_, status, *place, limit + 1)

    async def delivery(self, project_id: UUID, id_: UUID, chain_id: UUID, seq: int) -> DeliveryRow | None:
        row: DeliveryRow | None = await self._database.fetchrow(DELIVERY, project_id, id_, chain_id, seq)
        return row

    async def forget_old(self) -> None:
        await self._database.fetch(OLD)


async def _record(session: AsyncSession, actor: Actor, project_id: UUID, action: Action, id_: UUID) -> None:
    await append_record(session, actor, project_id, action, detail=f"webhook_{id_.hex}")


def _key(row: DeliveryRow) -> tuple[UUID, UUID, UUID, int]:
    return row["project_id"], row["webhook_id"], row["chain_id"], row["seq"]


def _columns(records: Sequence[RecordRow]) -> dict[str, list[Any]]:
    return {
        "chains": [row["chain_id"] for row in records],
        "seqs": [row["seq"] for row in records],
        "types": [type_of(row) for row in records],
        "ats": [row["at"] for row in records],
        "datas": [orjson.dumps(data_of(row)).decode() for row in records],
    }

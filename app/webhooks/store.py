"""Store of webhooks and deliveries. The position in the trail and the deliveries are written in one step."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import Database
from app.db.read_horizon import ReadHorizon
from app.db.sql import statements_of
from app.trail.append import append_record
from app.trail.records import Action, Actor
from app.webhooks.events import APPENDED, data_of, data_of_appended, type_of
from app.webhooks.rows import DeliveryRow, RecordRow, WebhookRow
from app.webhooks.tables import Webhook

RECORDS_AT_ONCE = 500

MOST_WEBHOOKS = 50
"""Largest number of webhooks per project."""

FORMER_SECRET_HOURS = 24

APPENDED_SECONDS = 5.0
"""Shortest time between two events `audit.appended` of a webhook."""

DELIVERED_DAYS = 7
FAILED_DAYS = 30
"""For how long deliveries can be seen, and sent again."""

SQL = statements_of(__file__)


class WebhookStore:
    def __init__(self, database: Database, horizon: ReadHorizon) -> None:
        self._database = database
        self._horizon = horizon

    async def listed(self, project_id: UUID) -> list[WebhookRow]:
        return await self._database.fetch(*SQL.listed(project_id=project_id))

    async def get(self, project_id: UUID, id_: UUID) -> WebhookRow | None:
        row: WebhookRow | None = await self._database.fetchrow(*SQL.one(project_id=project_id, id=id_))
        return row

    async def all(self) -> list[WebhookRow]:
        return await self._database.fetch(*SQL.all())

    async def add(self, actor: Actor, project_id: UUID, values: dict[str, Any]) -> WebhookRow | None:
        """Add a webhook, which is told of what happens from now on. None: the project has as many as it can."""
        async with self._database.session() as session:
            await session.execute(select(func.pg_advisory_xact_lock(func.uuid_hash_extended(project_id, 1))))
            counted = select(func.count()).select_from(Webhook).where(Webhook.project_id == project_id)
            if await session.scalar(counted) == MOST_WEBHOOKS:
                return None
            now = func.clock_timestamp()
            await session.execute(insert(Webhook).values(project_id=project_id, read_at=now, **values))
            await _record(session, actor, project_id, "webhook.created", values["id"])
        return await self.get(project_id, values["id"])

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
        project_id = webhook["project_id"]
        seen = {
            "seen_at": webhook["read_at"], "seen_chain": webhook["read_chain"], "seen_seq": webhook["read_seq"]
        }  # fmt: skip
        rows: list[RecordRow] = await self._database.fetch(
            *SQL.records(project_id=project_id, **seen, until=until, limit=RECORDS_AT_ONCE)
        )
        if not rows:
            return False
        wanted = [row for row in rows if type_of(row) in webhook["events"]]
        last = rows[-1]
        async with self._database.session() as session:
            place = {"at": last["at"], "chain": last["chain_id"], "seq": last["seq"]}
            this = {"project_id": project_id, "id": webhook["id"]}
            if await session.scalar(SQL.read_up_to.clause, {**this, **place, **seen}) is None:
                return False
            if wanted:
                await session.execute(SQL.write.clause, {**this, **_columns(wanted)})
            if APPENDED in webhook["events"]:
                data = orjson.dumps(data_of_appended(project_id, last)).decode()
                told = {**this, "at": last["at"], "data": data}
                if await session.scalar(SQL.renew_appended.clause, told) is None:
                    await session.execute(SQL.add_appended.clause, {**told, "seconds": APPENDED_SECONDS})
        return len(rows) == RECORDS_AT_ONCE

    async def take(self, webhook: WebhookRow, limit: int, lease_seconds: float) -> list[DeliveryRow]:
        """A webhook's deliveries to try now, each for this worker alone until its lease is over."""
        taken: list[DeliveryRow] = []
        this = {"project_id": webhook["project_id"], "webhook_id": webhook["id"]}
        for due in await self._database.fetch(*SQL.due(**this, limit=limit)):
            row: DeliveryRow | None = await self._database.fetchrow(
                *SQL.take(**this, **due, lease_seconds=lease_seconds)
            )
            if row is not None:
                taken.append(row)
        return taken

    async def record_attempt(
        self, row: DeliveryRow, status: str, answered: int | None, error: str | None, pause_seconds: float
    ) -> None:
        """Write down how an attempt has ended, unless another one has begun since."""
        await self._database.fetch(
            *SQL.record_attempt(
                **_key(row["project_id"], row["webhook_id"], row["chain_id"], row["seq"]),
                attempts=row["attempts"],
                status=status,
                answered=answered,
                error=error,
                pause_seconds=pause_seconds,
            )
        )

    async def retry(self, project_id: UUID, id_: UUID, chain_id: UUID, seq: int) -> DeliveryRow | None:
        row: DeliveryRow | None = await self._database.fetchrow(*SQL.retry(**_key(project_id, id_, chain_id, seq)))
        return row

    async def deliveries(
        self, project_id: UUID, id_: UUID, status: str | None, after: DeliveryRow | None, limit: int
    ) -> list[DeliveryRow]:
        """The latest first; one more than `limit` if there are more."""
        place = {name: None if after is None else after[name] for name in ("at", "chain_id", "seq")}
        return await self._database.fetch(
            *SQL.deliveries(project_id=project_id, webhook_id=id_, status=status, **place, limit=limit + 1)
        )

    async def delivery(self, project_id: UUID, id_: UUID, chain_id: UUID, seq: int) -> DeliveryRow | None:
        row: DeliveryRow | None = await self._database.fetchrow(*SQL.delivery(**_key(project_id, id_, chain_id, seq)))
        return row

    async def forget_old(self) -> None:
        await self._database.fetch(*SQL.forget_old(delivered_days=DELIVERED_DAYS, failed_days=FAILED_DAYS))


async def _record(session: AsyncSession, actor: Actor, project_id: UUID, action: Action, id_: UUID) -> None:
    await append_record(session, actor, project_id, action, detail=f"webhook_{id_.hex}")


def _key(project_id: UUID, webhook_id: UUID, chain_id: UUID, seq: int) -> dict[str, Any]:
    return {"project_id": project_id, "webhook_id": webhook_id, "chain_id": chain_id, "seq": seq}


def _columns(records: Sequence[RecordRow]) -> dict[str, list[Any]]:
    return {
        "chains": [row["chain_id"] for row in records],
        "seqs": [row["seq"] for row in records],
        "types": [type_of(row) for row in records],
        "ats": [row["at"] for row in records],
        "datas": [orjson.dumps(data_of(row)).decode() for row in records],
    }

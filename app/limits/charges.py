"""Charges: what is spent outside stored turns, written to Postgres in batches.

No request waits for the insert. If a worker is killed, the charges that it has not written are missing in `/v1/usage`;
the monthly counter in Redis includes them.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import orjson
import structlog
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import select, update

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.http.errors import DatabaseUnavailable
from app.items.token_counts import Usage
from app.items.weights import MOST_COUNTED
from app.limits.spent import DIGITS, Cost
from app.limits.tables import Charge
from app.process.background import WriteBehind

log = structlog.get_logger()

Kind = Literal["chat", "response", "compaction", "title", "cut"]
"""`response`: one that is not stored. `cut`: a turn that broke off before the provider had counted it, estimated."""

AT_ONCE = 500
MOST_UNWRITTEN = 20_000
"""Charges that a worker keeps while Postgres is unavailable."""

SQL = statements_of(__file__)


@dataclass(frozen=True, slots=True)
class NewCharge:
    project_id: UUID
    kind: Kind
    model: str
    binding: str | None
    api_key_id: UUID | None
    user_id: str | None
    thread_id: UUID | None
    usage: Usage
    cost: Cost | None
    estimated: bool = False
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: UUID = field(default_factory=lambda: ids.new_id(ids.new_bucket()))

    def row(self) -> dict[str, Any]:
        used, cost = self.usage, self.cost
        return {
            "bucket": ids.bucket_of(self.id), "id": self.id, "at": self.at, "kind": self.kind, "model": self.model,
            "binding": self.binding, "api_key_id": self.api_key_id, "user_id": self.user_id,
            "thread_id": self.thread_id, "input_tokens": used.input, "cached_tokens": used.cached,
            "cache_write_tokens": used.written, "output_tokens": used.output, "reasoning_tokens": used.reasoning,
            "total_tokens": used.total, "tool_calls": min(sum(used.tools.values()), MOST_COUNTED),
            "estimated": self.estimated,
            "currency": None if cost is None else cost.currency,
            "cost": None if cost is None else round(cost.amount, DIGITS),
            "saved": None if cost is None else round(cost.saved, DIGITS),
        }  # fmt: skip


class Charges(WriteBehind):
    what = "charges"

    def __init__(self, database: Database, *, every_seconds: float) -> None:
        super().__init__(every_seconds=every_seconds)
        self._database = database
        self._unwritten: dict[UUID, list[NewCharge]] = {}
        self._count = 0

    def add(self, charge: NewCharge) -> None:
        if self._count >= MOST_UNWRITTEN:
            log.error("a charge is lost: Postgres has been away for too long", kind=charge.kind)
            return
        self._unwritten.setdefault(charge.project_id, []).append(charge)
        self._count += 1

    async def write(self) -> None:
        while self._unwritten:
            project_id, charges = self._unwritten.popitem()
            self._count -= len(charges)
            batch, left = charges[:AT_ONCE], charges[AT_ONCE:]
            self._keep(project_id, left)
            try:
                await self._database.fetch(*SQL.add_charges(project_id=project_id, charges=_json(batch)))
            except DatabaseUnavailable:
                self._keep(project_id, batch)
                raise

    def _keep(self, project_id: UUID, charges: list[NewCharge]) -> None:
        if charges:
            self._unwritten.setdefault(project_id, []).extend(charges)
            self._count += len(charges)


def _json(charges: list[NewCharge]) -> str:
    # The driver's UUIDs are a class of its own.
    return orjson.dumps([charge.row() for charge in charges], default=str).decode()


async def rename_user(session: AsyncSession, project_id: UUID, user: str, new: str | None) -> None:
    """Assign a user's charges to another end user, or to none. The amounts stay."""
    mine = (Charge.project_id == project_id, Charge.user_id == user)
    for bucket in await session.scalars(select(Charge.bucket).where(*mine).distinct()):
        await session.execute(update(Charge).where(*mine, Charge.bucket == bucket).values(user_id=new))

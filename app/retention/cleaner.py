"""The worker's housekeeping: purges that are due, and copies to delete at the provider."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import asyncpg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.accounts.pool import Accounts
from app.chain import provider_deletions
from app.db.engine import Database
from app.db.sql import statements_of
from app.holds.erasing import erase_released, erase_retained, unerased
from app.http.errors import DatabaseUnavailable
from app.process.background import Background
from app.retention.certificates import Certificates
from app.retention.purge import Purge

log = structlog.get_logger()

COPIES_AT_ONCE = 50

SQL = statements_of(__file__)


class Cleaner(Background):
    def __init__(
        self,
        database: Database,
        purge: Purge,
        certificates: Certificates,
        accounts: Accounts,
        *,
        every_seconds: float,
    ) -> None:
        super().__init__()
        self._certificates = certificates
        self._database = database
        self._purge = purge
        self._accounts = accounts
        self._every_seconds = every_seconds
        self._due = asyncio.Event()

    def wake(self) -> None:
        """There is something to do now."""
        self._due.set()

    async def clean(self) -> None:
        """Do all that is due. What cannot be done holds up nothing else.

        Raises:
            DatabaseUnavailable: Postgres is unavailable.
        """
        await self._tried(self._purge_users())
        await self._tried(self._certificates.make_due())
        await self._tried(self._purge_expired())
        for project in await self._database.fetch(*SQL.projects_to_purge()):
            await self._tried(self._purge_old(project))
        for hold in await unerased(self._database):
            await self._tried(erase_released(self._database, *hold))
        await self._tried(erase_retained(self._database))
        await self._tried(self._delete_copies())
        for expired in (SQL.delete_expired_presets, SQL.delete_expired_tickets, SQL.delete_old_cutoffs):
            await self._tried(self._database.fetch(*expired()))

    async def _purge_users(self) -> None:
        while await self._purge.continue_one():
            pass

    async def _purge_expired(self) -> None:
        while await self._purge.expired_threads():
            pass

    async def _purge_old(self, project: asyncpg.Record) -> None:
        project_id, days = project["project_id"], project["retention_days"]
        while await self._purge.old_threads(project_id, days):
            pass
        last = project["purged_until"]
        while (last := await self._purge.old_turns(project_id, days, last)) is not None:
            pass

    async def _delete_copies(self) -> None:
        while taken := await provider_deletions.take(
            self._database, self._accounts.of_settings.binding, COPIES_AT_ONCE
        ):
            for row in taken:
                account = await self._accounts.by_binding(row.project_id, row.binding)
                if account is not None and await account.provider.delete(row.response_id):
                    await provider_deletions.done(self._database, row)

    async def _tried(self, work: Awaitable[Any]) -> None:
        try:
            await work
        except (SQLAlchemyError, asyncpg.PostgresError) as error:
            # Two workers at the same thread, for instance: the next round finds what is left.
            log.error("purging broke off; it is tried again", error=type(error).__name__)

    async def run(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), self._every_seconds)
            self._due.clear()
            try:
                await self.clean()
            except DatabaseUnavailable:
                log.warning("Postgres is unavailable; what is to be purged is purged later")

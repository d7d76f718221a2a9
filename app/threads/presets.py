"""The presets that apply to a request of an end user: those of its project, its token, and its thread."""

from typing import Any
from uuid import UUID

from starlette.requests import HTTPConnection

from app.db.engine import Database
from app.db.sql import statements_of
from app.http.services import services
from app.process.refreshing_cache import RefreshingCache
from app.projects.auth import CACHE_SECONDS, RENEW_SECONDS, Caller
from app.projects.preset_store import UserPresets, preset_of
from app.projects.presets import NO_PRESETS, Presets, UserPreset
from app.sealing.columns import rows_of
from app.threads.address import Address, ById, ByName, New, OfTurn, bucket_at
from app.threads.tables import Thread

SQL = statements_of(__file__)


class ThreadPresets:
    """The presets of threads. Most threads have none. Their ids are cached, so that a turn needs no statement."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._without: RefreshingCache[UUID, UUID] = RefreshingCache(
            "threads without a preset", seconds=CACHE_SECONDS, renewed_after=RENEW_SECONDS
        )
        """Ids of threads without a preset, by their own ids and by those of their turns."""

    async def of(self, caller: Caller, address: ById | ByName | OfTurn) -> UserPreset | None:
        """Return the preset of a thread of the caller's user; None for any other thread. Raises `ContentUnreadable`."""
        row: Any = None
        turn_id, thread_id = (address.turn, None) if isinstance(address, OfTurn) else (None, address.id)
        key = address.turn if isinstance(address, OfTurn) else address.id
        asked = {"project_id": caller.project_id, "bucket": bucket_at(address), "user": caller.grant.user}

        async def look_up() -> UUID | None:
            nonlocal row
            found = SQL.thread_preset(**asked, thread_id=thread_id, turn_id=turn_id)
            row = await self._database.fetchrow(*found)
            return row["id"] if row is not None and row["preset"] is None else None

        if await self._without.get(key, look_up) is not None or row is None:
            return None
        opened = rows_of(Thread).opened(caller.project_id, row)
        return preset_of(opened["preset"], unreadable="unreadable" in opened)

    def forget(self, thread_id: UUID) -> None:
        """Look a thread up again after a change. Other workers do so within `CACHE_SECONDS`."""
        self._without.forget(lambda without: without == thread_id)

    async def stop(self) -> None:
        """Stop the look-ups that run in the background."""
        await self._without.stop()


def as_read(caller: Caller, address: Address) -> Address:
    """Return the address at which a user's turn opens: that of the thread whose preset was read, by its id."""
    return ById(address.id, address.user) if caller.grant.user is not None and isinstance(address, ByName) else address


async def presets_of(request: HTTPConnection, caller: Caller, address: Address | None = None) -> Presets:
    """Return the presets of a request; none for a key.

    Args:
        address: the address of the request's thread; None if it has none.

    Raises:
        APIError: a preset cannot be read. The request is then refused.
    """
    if caller.grant.user is None:
        return NO_PRESETS
    here = services(request)
    found = await here[UserPresets].of(caller)
    if address is not None and not isinstance(address, New):
        of_thread = await here[ThreadPresets].of(caller, address)
        found += [] if of_thread is None else [of_thread]
    return Presets(found)

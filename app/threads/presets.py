"""The presets that a request of an end user is under: those of its project, its token, and its thread."""

from starlette.requests import HTTPConnection

from app.db.engine import Database
from app.db.sql import statements_of
from app.http.services import services
from app.projects.auth import Caller
from app.projects.preset_store import UserPresets, preset_of
from app.projects.presets import NO_PRESETS, Presets, UserPreset
from app.sealing.columns import rows_of
from app.threads.address import Address, ById, ByName, New, OfTurn, bucket_at
from app.threads.tables import Thread

SQL = statements_of(__file__)


def as_read(caller: Caller, address: Address) -> Address:
    """Return the address at which a user's turn opens: the very thread whose preset was read, whatever its name is."""
    return ById(address.id, address.user) if caller.grant.user is not None and isinstance(address, ByName) else address


async def presets_of(request: HTTPConnection, caller: Caller, address: Address | None = None) -> Presets:
    """Return the presets of a request; none for a key.

    Args:
        address: where the request's thread is. None if it has none.

    Raises:
        APIError: a preset cannot be read. Nothing is sent without it.
    """
    if caller.grant.user is None:
        return NO_PRESETS
    here = services(request)
    found = await here[UserPresets].of(caller)
    if address is not None and not isinstance(address, New):
        found += await _of_thread(here[Database], caller, address)
    return Presets(found)


async def _of_thread(database: Database, caller: Caller, address: ById | ByName | OfTurn) -> list[UserPreset]:
    asked = {
        "project_id": caller.project_id,
        "bucket": bucket_at(address),
        "thread_id": None if isinstance(address, OfTurn) else address.id,
        "turn_id": address.turn if isinstance(address, OfTurn) else None,
    }
    row = await database.fetchrow(*SQL.thread_preset(**asked))
    if row is None:
        return []
    opened = rows_of(Thread).opened(caller.project_id, row)
    return [preset_of(opened["preset"], unreadable="unreadable" in opened)]

"""Sizes of histories, numbers of threads and stored bytes, read from Postgres for limit checks."""

from uuid import UUID

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.items.weights import BYTES_PER_TOKEN
from app.limits.rules import Asks
from app.projects.settings import KeyLimits, ProjectSettings, parse_settings

SQL = statements_of(__file__)


async def history(database: Database, project_id: UUID, id_: UUID) -> int:
    """Return how many tokens of history a turn sends that continues from a turn, or from a thread's head.

    A history that no provider has counted, such as an imported one, is estimated by its stored size.
    """
    place = {"project_id": project_id, "bucket": ids.bucket_of(id_), "id": id_}
    counted = await database.fetchval(*SQL.history(**place))
    if counted:
        return int(counted)
    return int(await database.fetchval(*SQL.items_of_thread(**place)) or 0) // BYTES_PER_TOKEN


async def threads(database: Database, project_id: UUID, user: str | None, limit: int) -> int:
    """Return the number of threads, counted up to a limit."""
    found: int = await database.fetchval(*SQL.threads(project_id=project_id, user_id=user, limit=limit))
    return found


async def stored_bytes(database: Database, project_id: UUID, user: str | None, limit: int) -> int:
    """Return the stored size of contents: items, turns' parameters, titles, metadata and feedback."""
    found: int = await database.fetchval(*SQL.stored_bytes(project_id=project_id, user_id=user))
    return found


async def cause(database: Database, project_id: UUID, turn_id: UUID) -> Asks | None:
    """Return who asked for a turn, for calls that are made on its behalf later; None if the turn was deleted."""
    row = await database.fetchrow(*SQL.cause(project_id=project_id, bucket=ids.bucket_of(turn_id), turn_id=turn_id))
    if row is None:
        return None
    settings = parse_settings(ProjectSettings, row["settings"])
    limits = parse_settings(KeyLimits, row["limits"]) if row["limits"] else settings.key_limits
    return Asks(project_id, row["api_key_id"], row["user_id"], settings, limits, lambda: 0)

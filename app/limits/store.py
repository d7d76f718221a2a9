"""Monthly usage and stored bytes per project, read from Postgres for limit checks."""

from datetime import datetime
from uuid import UUID

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.items.weights import BYTES_PER_TOKEN, MOST_COUNTED
from app.limits.rules import Asks
from app.projects.auth import parse_settings
from app.projects.settings import KeyLimits, ProjectSettings
from app.provider.account import BATCH
from app.provider.models import Models

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


async def used(
    database: Database, models: Models, project_id: UUID, key_id: UUID | None, user: str | None, since: datetime
) -> tuple[int, float]:
    """Return how many tokens were used since a moment, and what they cost, as far as prices are known.

    Args:
        key_id: of the turns that one key has asked for; `user`, of those in one end user's threads.
    """
    tokens, cost = 0, 0.0
    asked = SQL.used(project_id=project_id, since=since, key_id=key_id, user_id=user, batch=BATCH)
    for row in await database.fetch(*asked):
        tokens += min(int(row["total_tokens"]), MOST_COUNTED)
        price = models.of(row["model"]).price
        if price is not None:
            price = price.charged(batch=row["batch"])
            cost += price.cost(
                input=int(row["input_tokens"]),
                cached=int(row["cached_tokens"]),
                written=int(row["cache_write_tokens"]),
                output=int(row["output_tokens"]),
            ) + price.of_tools(row["tools"])
    return tokens, cost


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

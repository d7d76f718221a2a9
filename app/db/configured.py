"""A database as the settings have it."""

from app.db.engine import Database
from app.settings import Settings


def connect(
    settings: Settings, url: str, *, pool_size: int | None = None, timeout_seconds: float | None = None
) -> Database:
    """The pool for a URL. Nothing is connected yet.

    Args:
        pool_size, timeout_seconds: other than the settings'.

    Raises:
        connecting.BadURL: the URL cannot be used.
    """
    return Database(
        url,
        pool_size=pool_size or settings.database_pool_size,
        timeout_seconds=timeout_seconds or settings.database_timeout_seconds,
        pooled=settings.database_pooler,
    )

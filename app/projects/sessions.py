"""Console sessions: rows in Postgres that a browser's cookie names, so that signing out holds for every worker at once.

The cookie is 256 random bits, and only their hash is stored. A session opens what its key opens, and ends with it. A
person who signs in with OpenID Connect has a row among the keys: see `people.py`.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import func

from app.db.engine import Database
from app.db.ids import new_uuid
from app.db.sql import statements_of
from app.projects.tables import ConsoleSession

LIFE_SECONDS = 12 * 3600

MOST_OF_KEY = 100
"""Sessions of one key. Signing in once more ends the oldest."""

KEPT_SECONDS = 600
"""Time for which the row of an ended session is kept, so that the same sign-in cannot begin another session."""

LONGEST_COOKIE = 100

SQL = statements_of(__file__)


@dataclass(frozen=True, slots=True)
class Session:
    project_id: UUID
    id: UUID
    key_id: UUID
    expires_at: float
    """Unix time."""


class Sessions:
    def __init__(self, database: Database, key: bytes) -> None:
        """Args: key: the database's own key, which other keys are derived from."""
        self._database = database
        self._key = hashlib.blake2b(b"sessions of the console", key=key, digest_size=32).digest()

    async def begin(self, project_id: UUID, key_id: UUID, id_: UUID | None = None) -> str | None:
        """Begin a session of a key.

        Args:
            id_: the session's id where a sign-in may begin only one.

        Returns:
            The value of the cookie; None if the sign-in has begun a session before.
        """
        cookie = secrets.token_urlsafe(32)
        made = insert(ConsoleSession).values(
            project_id=project_id,
            id=id_ or new_uuid(),
            key_id=key_id,
            token_hash=_hash(cookie),
            expires_at=func.now() + timedelta(seconds=LIFE_SECONDS),
        )
        of_key = (
            ConsoleSession.project_id == project_id,
            ConsoleSession.key_id == key_id,
            ConsoleSession.expires_at > func.now(),
        )
        newest = select(ConsoleSession.id).where(*of_key).order_by(ConsoleSession.created_at.desc())
        over = ConsoleSession.id.not_in(newest.limit(MOST_OF_KEY - 1))
        old = ConsoleSession.expires_at <= func.now() - timedelta(seconds=KEPT_SECONDS)
        async with self._database.session() as session:
            await session.execute(delete(ConsoleSession).where(old))
            await session.execute(update(ConsoleSession).where(*of_key, over).values(expires_at=func.now()))
            begun = await session.scalar(made.on_conflict_do_nothing().returning(ConsoleSession.id))
        return None if begun is None else cookie

    async def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if there is none, or it has ended. Always read from Postgres."""
        if not 0 < len(cookie) <= LONGEST_COOKIE:
            return None
        row = await self._database.fetchrow(*SQL.find_session(token_hash=_hash(cookie)))
        return None if row is None else Session(**row)

    async def end(self, cookie: str) -> None:
        """End a session: no worker accepts its cookie from now on."""
        mine = (ConsoleSession.token_hash == _hash(cookie), ConsoleSession.expires_at > func.now())
        async with self._database.session() as session:
            await session.execute(update(ConsoleSession).where(*mine).values(expires_at=func.now()))

    def proof(self, cookie: str) -> str:
        """Return what a page of the session sends with each change: no other site can know it."""
        return hmac.new(self._key, b"proof:" + cookie.encode(), hashlib.sha256).hexdigest()


def _hash(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).digest()

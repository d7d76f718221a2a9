"""Console sessions: rows in Postgres that a browser's cookie names, so that signing out holds for every worker at once.

The cookie is 256 random bits, and only their hash is stored. A session opens what its key opens, and ends with it.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, insert, or_, select
from sqlalchemy.sql import func

from app.db.engine import Database
from app.db.ids import new_uuid
from app.db.sql import statements_of
from app.projects.tables import ConsoleSession

LIFE_SECONDS = 12 * 3600

MOST_OF_KEY = 100
"""Sessions of one key. Signing in once more ends the oldest."""

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

    async def begin(self, project_id: UUID, key_id: UUID) -> str:
        """Begin a session of a key. Returns the value of its cookie."""
        cookie = secrets.token_urlsafe(32)
        made = insert(ConsoleSession).values(
            project_id=project_id,
            id=new_uuid(),
            key_id=key_id,
            token_hash=_hash(cookie),
            expires_at=func.now() + timedelta(seconds=LIFE_SECONDS),
        )
        newest = (
            select(ConsoleSession.id)
            .where(ConsoleSession.project_id == project_id, ConsoleSession.key_id == key_id)
            .order_by(ConsoleSession.created_at.desc())
            .limit(MOST_OF_KEY - 1)
        )
        of_key = (ConsoleSession.project_id == project_id) & (ConsoleSession.key_id == key_id)
        over = or_(ConsoleSession.expires_at <= func.now(), of_key & ConsoleSession.id.not_in(newest))
        async with self._database.session() as session:
            await session.execute(delete(ConsoleSession).where(over))
            await session.execute(made)
        return cookie

    async def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if there is none, or it has ended. Always read from Postgres."""
        if not 0 < len(cookie) <= LONGEST_COOKIE:
            return None
        row = await self._database.fetchrow(*SQL.find_session(token_hash=_hash(cookie)))
        return None if row is None else Session(**row)

    async def end(self, cookie: str) -> None:
        """End a session: no worker accepts its cookie from now on."""
        async with self._database.session() as session:
            await session.execute(delete(ConsoleSession).where(ConsoleSession.token_hash == _hash(cookie)))

    def proof(self, cookie: str) -> str:
        """Return what a page of the session sends with each change: no other site can know it."""
        return hmac.new(self._key, b"proof:" + cookie.encode(), hashlib.sha256).hexdigest()


def _hash(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).digest()

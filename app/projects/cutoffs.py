"""Cut-offs of end users: a token that was issued at or before its user's cut-off is refused.

The look-up of a key also returns the time of its project's latest cut-off (`Grant.users_cut_at`). A worker reads
cut-offs only when that time is new, and then only those since its last read: a turn costs no statement. Within a
project, each cut-off is later than all that were committed before it. Times are microseconds since 1970, by Postgres's
clock.
"""

import hashlib
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import Database
from app.db.sql import statements_of
from app.projects.tables import UserCutoff
from app.trail.append import append_record
from app.trail.records import Actor
from app.trail.users import UserKeys, digest

MOST_OF_PROJECT = 10_000
"""Cut-offs of a project in memory: the latest ones. Tokens from before these cost a statement."""

MOST_KEPT = 100_000
"""Cut-offs in memory, of all projects together."""

SQL = statements_of(__file__)


@dataclass(slots=True)
class _Known:
    latest: int = 0
    floor: int = 0
    """Every cut-off after this time is in `by_user`."""
    by_user: dict[bytes, int] = field(default_factory=dict)


class Cutoffs:
    def __init__(self, database: Database, users: UserKeys, key: bytes) -> None:
        """Args: key: the database's own key, which other keys are derived from."""
        self._database = database
        self._users = users
        self._key = hashlib.blake2b(b"cut-offs of end users", key=key, digest_size=32).digest()
        self._known: dict[UUID, _Known] = {}

    async def is_cut(self, project_id: UUID, latest: int | None, user: str | None, issued_at: int) -> bool:
        """Return True if a user's token is refused.

        Args:
            latest: the time of the project's latest cut-off.
            user: None for a key, which no cut-off ends.
        """
        if latest is None or user is None or issued_at > latest:
            return False
        known = self._known.get(project_id)
        if known is None or known.latest < latest:
            known = await self._read(project_id, latest)
        user_hash = self.hash(user)
        if issued_at > known.floor:
            return known.by_user.get(user_hash, 0) >= issued_at
        found: int | None = await self._database.fetchval(*SQL.cutoff(project_id=project_id, user_hash=user_hash))
        return found is not None and found >= issued_at

    async def issue_time(self, project_id: UUID, user: str) -> int:
        """Return the issue time of a token that is minted now: after the user's cut-off, whatever the clocks say."""
        found: int = await self._database.fetchval(*SQL.issue_time(project_id=project_id, user_hash=self.hash(user)))
        return found

    async def revoke(self, actor: Actor, project_id: UUID, user: str) -> int:
        """End all tokens of a user that were issued until now. Returns the time of the cut-off."""
        named = await self.digest(project_id, user)
        async with self._database.session() as session:
            return await self.cut(session, actor, project_id, user, named)

    async def cut(
        self,
        session: AsyncSession,
        actor: Actor,
        project_id: UUID,
        user: str,
        user_digest: bytes,
        claimed_by: bytes | None = None,
    ) -> int:
        """Write a cut-off in the caller's transaction, which should end soon. Returns its time.

        Args:
            user_digest: the user as the trail names it, see `digest`.
            claimed_by: the hash of the user who has claimed the threads of this anonymous one.
        """
        # The record first: its lock on the project's chain puts cut-offs into the order in which they are committed.
        await append_record(session, actor, project_id, "user.tokens_revoked", user_digest=user_digest)
        at: int = await session.scalar(SQL.next_cutoff.clause, {"project_id": project_id})
        row = {"project_id": project_id, "user_hash": self.hash(user), "cut_at": at, "claimed_by": claimed_by}
        await session.execute(SQL.set_cutoff.clause, row)
        return at

    async def find(self, session: AsyncSession, project_id: UUID, user: str) -> UserCutoff | None:
        """Return a user's cut-off, as it is in the caller's transaction."""
        return await session.get(UserCutoff, (project_id, self.hash(user)), populate_existing=True)

    async def digest(self, project_id: UUID, user: str) -> bytes:
        """Return the digest that names a user in the trail, with a key that is made where there is none."""
        return digest(await self._users.get_or_make(project_id, user), "user", user)

    def hash(self, user: str) -> bytes:
        """Return the hash that is stored in place of a user's name, so that no name remains when the user is purged."""
        return hashlib.blake2b(user.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).digest()

    async def _read(self, project_id: UUID, latest: int) -> _Known:
        before = self._known.get(project_id)
        after = 0 if before is None else before.latest
        rows = await self._database.fetch(*SQL.cutoffs(project_id=project_id, after=after, most=MOST_OF_PROJECT + 1))
        known = before or self._known.get(project_id) or _Known()
        for row in rows:
            known.by_user[row["user_hash"]] = max(row["cut_at"], known.by_user.get(row["user_hash"], 0))
        known.latest = max(known.latest, latest, *(row["cut_at"] for row in rows[:1]))
        if len(known.by_user) > MOST_OF_PROJECT:
            newest = sorted(known.by_user.items(), key=lambda each: each[1], reverse=True)
            known.floor = max(known.floor, newest[MOST_OF_PROJECT][1])
            known.by_user = dict(newest[:MOST_OF_PROJECT])
        self._known.pop(project_id, None)
        self._known[project_id] = known
        while len(self._known) > 1 and sum(len(each.by_user) for each in self._known.values()) > MOST_KEPT:
            del self._known[next(iter(self._known))]
        return known

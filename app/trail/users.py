"""Names of people in the audit trail: keyed digests. A user's purge deletes the key, and then no record can be linked
to the user.

The database computes the same digests (`trail_digest_v1` in migrations/schema.sql).
"""

import hashlib
import secrets
from collections.abc import Collection
from typing import Any
from uuid import UUID

from app.db.buckets import Buckets
from app.db.engine import Database
from app.db.sql import statements_of

KEY_BYTES = 32
DIGEST_BYTES = 16

SQL = statements_of(__file__)


def new_trail_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def digest(key: bytes, kind: str, value: str) -> bytes:
    """Return the digest that names a user (`user`) or an address (`address`)."""
    return hashlib.sha256(key + f"{kind}:v1:{value}".encode()).digest()[:DIGEST_BYTES]


class UserKeys:
    """The keys of a database's end users."""

    def __init__(self, database: Database, buckets: Buckets) -> None:
        self._database = database
        self._buckets = buckets

    async def get(self, project_id: UUID, user_id: str) -> bytes | None:
        """A user's key; None for one that the trail has never named, or does not name any more."""
        found: bytes | None = await self._database.fetchval(*SQL.find_key(**self._at(project_id, user_id)))
        return found

    async def get_or_make(self, project_id: UUID, user_id: str) -> bytes:
        """A user's key, made where there is none. Of two at once, both get the same."""
        while (key := await self.get(project_id, user_id)) is None:
            await self._database.fetchrow(*SQL.make_key(**self._at(project_id, user_id), key=new_trail_key()))
        return key

    async def digest(self, project_id: UUID, user_id: str) -> bytes | None:
        """Return the digest that names a user in the trail; None for a user without a key."""
        key = await self.get(project_id, user_id)
        return None if key is None else digest(key, "user", user_id)

    async def digests(self, project_id: UUID, user_ids: Collection[str]) -> dict[bytes, str]:
        """Return the users who have a key, by the digests that name them in the trail."""
        buckets = list({self._buckets.of("user", project_id, user_id) for user_id in user_ids})
        rows = await self._database.fetch(
            *SQL.find_keys(project_id=project_id, buckets=buckets, user_ids=list(user_ids))
        )
        return {digest(row["key"], "user", row["user_id"]): row["user_id"] for row in rows}

    async def forget(self, project_id: UUID, user_id: str) -> None:
        """From here on, nobody can tell whom the trail's records of this user name."""
        await self._database.fetchrow(*SQL.forget_key(**self._at(project_id, user_id)))

    def _at(self, project_id: UUID, user_id: str) -> dict[str, Any]:
        return {
            "project_id": project_id,
            "bucket": self._buckets.of("user", project_id, user_id),
            "user_id": user_id,
        }

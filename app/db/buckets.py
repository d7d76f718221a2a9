"""Bucket of a row that is looked up by a string: a name, a user, an Idempotency-Key.

The bucket is a keyed hash with a key of the database, so that who chooses the string cannot choose the bucket.
"""

from hashlib import blake2b
from uuid import UUID

from app.db.engine import Database
from app.db.ids import BUCKETS

DATABASE_KEY = "SELECT key FROM cache_keys"


class Buckets:
    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, kind: str, project_id: UUID, word: str) -> int:
        """The bucket of a word of a kind, in a project."""
        said = f"{kind}\0{project_id.hex}\0{word}".encode("utf-8", "surrogatepass")
        digest = blake2b(said, key=self._key, digest_size=8).digest()
        return int.from_bytes(digest, "big") % BUCKETS


async def database_key(database: Database) -> bytes:
    """Return the key that the database was given when it was migrated. All workers share it.

    Raises:
        DatabaseUnavailable: Postgres is unavailable.
    """
    row = await database.fetchrow(DATABASE_KEY)
    if row is None:
        raise RuntimeError("The table cache_keys is empty: it was given its row when the database was migrated.")
    key: bytes = row["key"]
    return key

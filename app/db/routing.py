"""The interface that selects the server for the statements of a bucket. `app/citus` implements it."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from app.db.engine import Database


class Routing(Protocol):
    def of(self, bucket: int) -> Database:
        """Return the pool of the server that holds a bucket."""
        ...

    def apart(self) -> AbstractAsyncContextManager[None]:
        """Within, statements share no transaction on any of the servers: see `Database.apart`."""
        ...

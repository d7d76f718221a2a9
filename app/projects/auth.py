"""Who is calling: the bearer key, and the project that it opens. No route is reached without one."""

import time
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends
from starlette.requests import HTTPConnection
from structlog.contextvars import bind_contextvars

from app.db import ids
from app.db.engine import Database
from app.errors import Unauthorized
from app.projects.keys import USE_KEY, hash_key
from app.services import services
from app.trail.append import append_record
from app.trail.records import Actor

CACHE_SECONDS = 10.0
"""How long a revoked key may still be taken by a worker that has seen it."""

CACHE_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    project_id: UUID
    key_id: UUID
    address: str | None = None
    session_cache: str | None = None
    """The project's own setting: see `Project.session_cache`."""

    @property
    def actor(self) -> Actor:
        """The caller as the audit trail names it."""
        return Actor(self.key_id, self.address)


class KeyRing:
    """Keys that were good a moment ago, so that a turn needs no statement for its key."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[bytes, tuple[float, Caller]] = {}

    async def caller(self, key: str, address: str | None) -> Caller | None:
        """The key's caller, at an address; None if the key is unknown or revoked."""
        hashed = hash_key(key)
        now = time.monotonic()
        known = self._known.get(hashed)
        if known is not None and known[0] > now:
            return Caller(known[1].project_id, known[1].key_id, address, known[1].session_cache)
        row = await self._database.fetchrow(USE_KEY, hashed)
        if row is None:
            self._known.pop(hashed, None)
            return None
        if len(self._known) >= CACHE_SIZE:
            self._known.clear()
        caller = Caller(row["project_id"], row["id"], address, row["session_cache"])
        if row["first_use"] is not None:
            async with self._database.session() as session:
                await append_record(session, caller.actor, caller.project_id, "key.used", detail=row["first_use"])
        self._known[hashed] = (now + CACHE_SECONDS, caller)
        return caller

    def forget(self, project_id: UUID) -> None:
        """Look a project's keys and settings up anew: they have changed. Other workers do so within `CACHE_SECONDS`."""
        self._known = {key: known for key, known in self._known.items() if known[1].project_id != project_id}


async def authenticate(request: HTTPConnection) -> Caller:
    """The caller of a request, or of a WebSocket.

    Raises:
        Unauthorized: no key, or one that is unknown or revoked.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise Unauthorized(
            "No API key was sent. Send it as 'Authorization: Bearer KEY'.", headers={"WWW-Authenticate": "Bearer"}
        )
    caller = await services(request)[KeyRing].caller(key, None if request.client is None else request.client.host)
    if caller is None:
        raise Unauthorized(
            "This API key is unknown or revoked. Make one with 'everthread keys create'.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    bind_contextvars(project=ids.project_id(caller.project_id))
    return caller


Authenticated = Annotated[Caller, Depends(authenticate)]

"""One-use tickets for browsers' `EventSource`, which sends no header: `POST /v1/stream_tickets`, then `?ticket=`.

A ticket stands for the credential that made it, and gives nothing more: the credential is checked when the ticket is
used and while the stream is open. The row holds the credential sealed with a key that is derived from the ticket, and
of the ticket only a hash, so that the row by itself opens nothing. Deleting the row uses the ticket: of two connections
with the same ticket, one gets the row.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import unquote
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import and_, delete, insert, select
from starlette.requests import HTTPConnection

from app.db.engine import Database
from app.db.sql import statements_of
from app.projects.tables import StreamTicket

LIFE_SECONDS = 30

MOST_OF_OWNER = 20
"""Tickets of one key or one user of a key. One more ends the oldest."""

PREFIX = "ticket_"
LONGEST_TICKET = 100

# Each ticket has a key of its own, which seals one text.
NONCE = bytes(12)

SQL = statements_of(__file__)

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_open: set[Any] = set()


def for_tickets(endpoint: Endpoint) -> Endpoint:
    """Open the GET route of a stream to tickets."""
    _open.add(endpoint)
    return endpoint


def ticket_of(request: HTTPConnection) -> str | None:
    """Return the ticket of a request, sent instead of a header; None where no ticket is accepted."""
    if request.scope.get("method") != "GET" or request.scope.get("endpoint") not in _open:
        return None
    return request.query_params.get("ticket")


class StreamTickets:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def make(
        self, project_id: UUID, owner: str, credential: str, path: str, until: float | None
    ) -> tuple[str, int]:
        """Make a ticket. Returns it, and the Unix time at which it expires.

        Args:
            owner: names the key and its user, whose tickets are counted together.
            until: the Unix time at which the credential expires.
        """
        ticket = PREFIX + secrets.token_urlsafe(32)
        expires_at = int(min(time.time() + LIFE_SECONDS, until or float("inf")))
        path, owner_hash = unquote(path), _hash(owner)
        made = insert(StreamTicket).values(
            project_id=project_id,
            token_hash=_hash(ticket),
            owner_hash=owner_hash,
            path_hash=_hash(path),
            credential=_cipher(ticket).encrypt(NONCE, credential.encode(), _hash(path)),
            expires_at=datetime.fromtimestamp(expires_at, UTC),
        )
        mine = and_(StreamTicket.project_id == project_id, StreamTicket.owner_hash == owner_hash)
        newest = (
            select(StreamTicket.token_hash)
            .where(mine)
            .order_by(StreamTicket.created_at.desc())
            .limit(MOST_OF_OWNER - 1)
        )
        over = (mine, StreamTicket.token_hash.not_in(newest))
        async with self._database.session() as session:
            await session.execute(delete(StreamTicket).where(*over))
            await session.execute(made)
        return ticket, expires_at

    async def use(self, ticket: str, path: str) -> str | None:
        """Use a ticket up, and return its credential; None if there is no such ticket for this path (any more)."""
        if not 0 < len(ticket) <= LONGEST_TICKET:
            return None
        asked = SQL.use_ticket(token_hash=_hash(ticket), path_hash=_hash(path))
        sealed: bytes | None = await self._database.fetchval(*asked)
        return None if sealed is None else _cipher(ticket).decrypt(NONCE, sealed, _hash(path)).decode()


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _cipher(ticket: str) -> AESGCM:
    return AESGCM(hashlib.blake2b(ticket.encode(), digest_size=32, person=b"stream ticket").digest())

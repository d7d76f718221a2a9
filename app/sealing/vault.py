"""What is sealed for a project: by a key of the project's own, which the master key seals (AES-256-GCM, both)."""

import secrets
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import Database
from app.sealing.master import Masters
from app.sealing.tables import DataKey

log = structlog.get_logger()

FORM = b"\x01"
NUMBER_BYTES = 2
NONCE_BYTES = 12
HEAD_BYTES = len(FORM) + NUMBER_BYTES + NONCE_BYTES

KEY = "SELECT master_id, wrapped FROM data_keys WHERE project_id = $1 AND number = $2"


class CannotOpen(Exception):
    """Something sealed is not opened with what is at hand here."""


@dataclass(frozen=True, slots=True)
class Tried:
    """How many of the projects' keys can be opened here."""

    opened: int = 0
    by_former: int = 0
    """Of those: sealed by a master key before the current one."""
    unopened: int = 0


class Vault:
    def __init__(self, database: Database, masters: Masters) -> None:
        self._database = database
        self._masters = masters
        self._ciphers: dict[tuple[UUID, int], AESGCM] = {}

    async def seal(self, session: AsyncSession, project_id: UUID, purpose: str, content: bytes) -> bytes:
        """Seal a content for a project. It opens for the same project and purpose alone.

        Raises:
            CannotOpen: the project's key was sealed by a master key that is not here.
        """
        newest = select(DataKey).where(DataKey.project_id == project_id).order_by(DataKey.number.desc()).limit(1)
        row = (await session.scalars(newest)).one_or_none()
        if row is None:
            await session.execute(insert(DataKey).values(self._new(project_id, 1)).on_conflict_do_nothing())
            row = (await session.scalars(newest)).one()
        cipher = self._opened(project_id, row.number, row.master_id, row.wrapped)
        nonce = secrets.token_bytes(NONCE_BYTES)
        head = FORM + row.number.to_bytes(NUMBER_BYTES, "big") + nonce
        return head + cipher.encrypt(nonce, content, _bound(project_id, purpose))

    async def open(self, project_id: UUID, purpose: str, sealed: bytes) -> bytes:
        """What was sealed for this project and purpose.

        Raises:
            CannotOpen: it was not, or its keys are not here.
        """
        if len(sealed) < HEAD_BYTES or not sealed.startswith(FORM):
            raise CannotOpen("it is nothing that was sealed here")
        number = int.from_bytes(sealed[len(FORM) : len(FORM) + NUMBER_BYTES], "big")
        cipher = self._ciphers.get((project_id, number))
        if cipher is None:
            row = await self._database.fetchrow(KEY, project_id, number)
            if row is None:
                raise CannotOpen("the key that it was sealed with is gone")
            cipher = self._opened(project_id, number, row["master_id"], row["wrapped"])
        nonce = sealed[len(FORM) + NUMBER_BYTES : HEAD_BYTES]
        try:
            return cipher.decrypt(nonce, sealed[HEAD_BYTES:], _bound(project_id, purpose))
        except InvalidTag as error:
            raise CannotOpen("it was changed, or sealed for something else") from error

    async def tried(self) -> Tried:
        """Try every project's key."""
        opened = by_former = unopened = 0
        async with self._database.session() as session:
            for row in await session.scalars(select(DataKey)):
                try:
                    self._opened(row.project_id, row.number, row.master_id, row.wrapped)
                except CannotOpen:
                    unopened += 1
                    continue
                opened += 1
                by_former += row.master_id != self._masters.current.id
        return Tried(opened, by_former, unopened)

    async def rewrap(self) -> Tried:
        """Seal every project's key by the current master key. Services that have both go on meanwhile."""
        opened = by_former = unopened = 0
        async with self._database.session() as session:
            for row in (await session.scalars(select(DataKey).with_for_update())).all():
                if row.master_id == self._masters.current.id:
                    opened += 1
                    continue
                try:
                    key = self._unwrapped(row.project_id, row.number, row.master_id, row.wrapped)
                except CannotOpen:
                    unopened += 1
                    continue
                values = self._wrapped(row.project_id, row.number, key)
                at = DataKey.project_id == row.project_id, DataKey.number == row.number
                await session.execute(update(DataKey).where(*at).values(values))
                by_former += 1
        return Tried(opened, by_former, unopened)

    def _new(self, project_id: UUID, number: int) -> dict[str, Any]:
        return self._wrapped(project_id, number, AESGCM.generate_key(256))

    def _wrapped(self, project_id: UUID, number: int, key: bytes) -> dict[str, Any]:
        master, nonce = self._masters.current, secrets.token_bytes(NONCE_BYTES)
        wrapped = nonce + master.cipher.encrypt(nonce, key, _key_bound(project_id, number))
        return {"project_id": project_id, "number": number, "master_id": master.id, "wrapped": wrapped}

    def _opened(self, project_id: UUID, number: int, master_id: bytes, wrapped: bytes) -> AESGCM:
        cipher = self._ciphers.get((project_id, number))
        if cipher is None:
            cipher = AESGCM(self._unwrapped(project_id, number, master_id, wrapped))
            self._ciphers[project_id, number] = cipher
        return cipher

    def _unwrapped(self, project_id: UUID, number: int, master_id: bytes, wrapped: bytes) -> bytes:
        master = self._masters.by_id(master_id)
        if master is None:
            raise CannotOpen("the master key that sealed the project's key is not here")
        try:
            return master.cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _key_bound(project_id, number))
        except InvalidTag as error:
            raise CannotOpen("the project's key was changed, or is another project's") from error


def _bound(project_id: UUID, purpose: str) -> bytes:
    return project_id.bytes + purpose.encode()


def _key_bound(project_id: UUID, number: int) -> bytes:
    return project_id.bytes + number.to_bytes(NUMBER_BYTES, "big")

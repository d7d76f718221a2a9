"""Values sealed for a project with a key of its own, which the master key seals (AES-256-GCM, both)."""

import secrets
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import Database
from app.db.sql import statements_of
from app.sealing.ciphertext import CannotOpen
from app.sealing.master import BadMasterKey, Master, Masters
from app.sealing.tables import DataKey, MasterNodes

log = structlog.get_logger()

FORM = b"\x01"
NUMBER_BYTES = 2
NONCE_BYTES = 12
HEAD_BYTES = len(FORM) + NUMBER_BYTES + NONCE_BYTES

SQL = statements_of(__file__)


@dataclass(frozen=True, slots=True)
class Tried:
    """Number of the projects' keys that can be opened here."""

    opened: int = 0
    by_former: int = 0
    """Number of those that a former master key has sealed."""
    unopened: int = 0


class ProjectCipher:
    def __init__(self, database: Database, masters: Masters) -> None:
        self._database = database
        self._masters = masters
        self._keys: dict[tuple[UUID, int], bytes] = {}

    async def unlocked(self) -> Masters:
        """Return the master keys, with the nodes of those that are short.

        Raises:
            CannotOpen: the nodes of one are not in this database.
        """
        masters = self._masters
        if all(each.nodes for each in masters.all):
            return masters
        found: dict[bytes, Master] = {}
        for each in masters.all:
            found[each.id] = each if each.nodes else await self._with_nodes(each)
        self._masters = masters.each(lambda master: found[master.id])
        return self._masters

    async def _with_nodes(self, master: Master) -> Master:
        nodes = await self._database.fetchval(*SQL.master_nodes(secret_id=master.secret_id))
        if nodes is None:
            raise CannotOpen(
                f"the nodes of master key {master.id.hex()} are not in this database: load the file that "
                "'everthread projects destroy-key' has written, with 'everthread master-key load-nodes'"
            )
        try:
            return master.with_nodes(nodes)
        except BadMasterKey as error:
            raise CannotOpen(str(error)) from error

    async def keep_nodes(self, short: Masters) -> None:
        """Write the nodes of short master keys to the database. Those of former secrets go, except the present ones,
        which are in use until the service is restarted."""
        used = [each.secret_id for each in (*short.all, *self._masters.all) if each.secret is not None]
        async with self._database.session() as session:
            await session.execute(delete(MasterNodes).where(MasterNodes.secret_id.not_in(used)))
            for each in short.all:
                if each.secret is not None:
                    values = {"secret_id": each.secret_id, "nodes": each.sealed_nodes}
                    await session.execute(insert(MasterNodes).values(values).on_conflict_do_nothing())

    async def seal(self, session: AsyncSession, project_id: UUID, purpose: str, content: bytes) -> bytes:
        """Seal a content for a project. It opens for the same project and purpose alone.

        Raises:
            CannotOpen: the project's key was sealed by a master key that is not here.
        """
        number, key = await self.key(session, project_id)
        nonce = secrets.token_bytes(NONCE_BYTES)
        head = FORM + number.to_bytes(NUMBER_BYTES, "big") + nonce
        return head + AESGCM(key).encrypt(nonce, content, _bound(project_id, purpose))

    async def key(self, session: AsyncSession, project_id: UUID) -> tuple[int, bytes]:
        """A project's own key, made where there is none, and its number.

        Raises:
            CannotOpen: it was sealed by a master key that is not here.
        """
        await self.unlocked()
        newest = select(DataKey).where(DataKey.project_id == project_id).order_by(DataKey.number.desc()).limit(1)
        row = (await session.scalars(newest)).one_or_none()
        if row is None:
            await session.execute(insert(DataKey).values(self._new(project_id, 1)).on_conflict_do_nothing())
            row = (await session.scalars(newest)).one()
        return row.number, self._opened(project_id, row.number, row.master_id, row.wrapped)

    async def keys(self, project_id: UUID) -> list[tuple[int, bytes]]:
        """A project's keys with their numbers, the newest last.

        Raises:
            CannotOpen: one was sealed by a master key that is not here.
        """
        await self.unlocked()
        rows = await self._database.fetch(*SQL.data_keys(project_id=project_id))
        return [
            (row["number"], self._opened(project_id, row["number"], row["master_id"], row["wrapped"])) for row in rows
        ]

    async def open(self, project_id: UUID, purpose: str, sealed: bytes) -> bytes:
        """Return what was sealed for this project and purpose.

        Raises:
            CannotOpen: the value was sealed for something else, or its key is not available.
        """
        if len(sealed) < HEAD_BYTES or not sealed.startswith(FORM):
            raise CannotOpen("it is nothing that was sealed here")
        number = int.from_bytes(sealed[len(FORM) : len(FORM) + NUMBER_BYTES], "big")
        key = self._keys.get((project_id, number))
        if key is None:
            row = await self._database.fetchrow(*SQL.data_key(project_id=project_id, number=number))
            if row is None:
                raise CannotOpen("the key that it was sealed with is gone")
            await self.unlocked()
            key = self._opened(project_id, number, row["master_id"], row["wrapped"])
        nonce = sealed[len(FORM) + NUMBER_BYTES : HEAD_BYTES]
        try:
            return AESGCM(key).decrypt(nonce, sealed[HEAD_BYTES:], _bound(project_id, purpose))
        except InvalidTag as error:
            raise CannotOpen("it was changed, or sealed for something else") from error

    async def tried(self, *, but_for: UUID | None = None) -> Tried:
        """Try every project's key.

        Args:
            but_for: a project whose key is not looked at.

        Raises:
            CannotOpen: the nodes of a master key are not in this database.
        """
        await self.unlocked()
        opened = by_former = unopened = 0
        async with self._database.session() as session:
            for row in await session.scalars(select(DataKey)):
                if row.project_id == but_for:
                    continue
                try:
                    self._opened(row.project_id, row.number, row.master_id, row.wrapped)
                except CannotOpen:
                    unopened += 1
                    continue
                opened += 1
                by_former += row.master_id != self._masters.current.id
        return Tried(opened, by_former, unopened)

    async def rewrap(self) -> Tried:
        """Seal every project's key by the current master key. Services that have both run on meanwhile.

        Raises:
            CannotOpen: the nodes of a master key are not in this database.
        """
        await self.unlocked()
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

    async def destroy(self, session: AsyncSession, project_id: UUID) -> None:
        """Delete a project's keys. Who has them in a backup opens them all the same, with a master key that still does:
        see `Master.without`."""
        gone = delete(DataKey).where(DataKey.project_id == project_id).returning(DataKey.number)
        for number in await session.scalars(gone):
            self._keys.pop((project_id, number), None)

    def _new(self, project_id: UUID, number: int) -> dict[str, Any]:
        return self._wrapped(project_id, number, AESGCM.generate_key(256))

    def _wrapped(self, project_id: UUID, number: int, key: bytes) -> dict[str, Any]:
        master, nonce = self._masters.current, secrets.token_bytes(NONCE_BYTES)
        cipher = _found(master.cipher_of(project_id))
        wrapped = nonce + cipher.encrypt(nonce, key, _key_bound(project_id, number))
        return {"project_id": project_id, "number": number, "master_id": master.id, "wrapped": wrapped}

    def _opened(self, project_id: UUID, number: int, master_id: bytes, wrapped: bytes) -> bytes:
        key = self._keys.get((project_id, number))
        if key is None:
            key = self._keys[project_id, number] = self._unwrapped(project_id, number, master_id, wrapped)
        return key

    def _unwrapped(self, project_id: UUID, number: int, master_id: bytes, wrapped: bytes) -> bytes:
        master = self._masters.by_id(master_id)
        if master is None:
            raise CannotOpen("the master key that sealed the project's key is not here")
        cipher = _found(master.cipher_of(project_id))
        try:
            return cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _key_bound(project_id, number))
        except InvalidTag as error:
            raise CannotOpen("the project's key was changed, or is another project's") from error


def _found(cipher: AESGCM | None) -> AESGCM:
    if cipher is None:
        raise CannotOpen("the project's key was destroyed: this master key does not open it")
    return cipher


def _bound(project_id: UUID, purpose: str) -> bytes:
    return project_id.bytes + purpose.encode()


def _key_bound(project_id: UUID, number: int) -> bytes:
    return project_id.bytes + number.to_bytes(NUMBER_BYTES, "big")

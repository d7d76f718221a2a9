"""Provider accounts as admins manage them. Keys go in, and never out."""

import time
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import func

from app.accounts.breaker import State
from app.accounts.pool import Accounts, purpose_of
from app.accounts.schemas import AccountCheck, AccountCreate, AccountObject, AccountPatch, account_object
from app.accounts.tables import Account
from app.db import ids
from app.db.engine import Database
from app.http import egress
from app.http.describing import Deleted
from app.http.errors import BadRequest, Conflict, Forbidden, NotFound
from app.http.pages import list_object
from app.projects.auth import Caller
from app.projects.service import Projects
from app.projects.tables import Project
from app.provider.account import binding
from app.provider.failure import Kind
from app.sealing.ciphertext import CannotOpen
from app.sealing.project_cipher import ProjectCipher
from app.settings import region_base_url
from app.trail.append import append_record

MOST_ACCOUNTS = 50

NOT_TAKEN = (Kind.CREDENTIALS, Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.THROTTLED)
"""Kinds of failure that show that a key is of no use now. A valid key gets the answer that the response is unknown."""


class ProjectAccounts:
    def __init__(
        self, database: Database, projects: Projects, cipher: ProjectCipher, accounts: Accounts, *, inside: bool
    ) -> None:
        """Args: inside: whether accounts may lead to private addresses."""
        self._database = database
        self._projects = projects
        self._cipher = cipher
        self._accounts = accounts
        self._inside = inside

    async def create(self, caller: Caller, given: str, sent: AccountCreate) -> AccountObject:
        project_id = await self._projects.project_id(caller, given)
        async with self._database.session() as session:
            project = await session.get_one(Project, project_id, with_for_update=True)
            base_url = self._base_url(sent, project)
            _check_shared(project, shared=sent.shared)
            await self._check_name(session, project_id, sent.name)
            mine = select(func.count(), func.coalesce(func.max(Account.position), 0))
            count, last = (await session.execute(mine.where(Account.project_id == project_id))).one()
            if count >= MOST_ACCOUNTS:
                raise Conflict(
                    f"The project has {MOST_ACCOUNTS} accounts, as many as it can have. Delete one.",
                    code="too_many_accounts",
                )
            id_ = ids.new_uuid()
            row = Account(
                project_id=project_id,
                id=id_,
                name=sent.name,
                position=last + 1 if sent.position is None else sent.position,
                weight=sent.weight,
                base_url=base_url,
                binding=binding(base_url, sent.api_key),
                api_key=await self._sealed(session, project_id, purpose_of(id_, base_url), sent.api_key),
                hint=_hint(sent.api_key),
                models=sent.models,
                shared=sent.shared,
                disabled=False,
            )
            session.add(row)
            await session.flush()
            await session.refresh(row)
            await append_record(session, caller.actor, project_id, "account.created", detail=_named(row))
            shown = account_object(row, None)
        self._accounts.forget()
        return shown

    async def listed(self, caller: Caller, given: str) -> dict[str, Any]:
        """Return a project's accounts in the order in which they are tried."""
        project_id = await self._projects.project_id(caller, given)
        wanted = select(Account).where(Account.project_id == project_id).order_by(Account.position, Account.id)
        async with self._database.session() as session:
            rows = (await session.scalars(wanted)).all()
        states = {row.id: await self._state(row) for row in rows}
        return list_object(rows, lambda row: account_object(row, states[row.id]), has_more=False)

    async def get(self, caller: Caller, given: str, account_id: str) -> AccountObject:
        project_id = await self._projects.project_id(caller, given)
        async with self._database.session() as session:
            row = await self._row(session, project_id, account_id)
        return account_object(row, await self._state(row))

    async def change(self, caller: Caller, given: str, account_id: str, sent: AccountPatch) -> AccountObject:
        project_id = await self._projects.project_id(caller, given)
        values = sent.model_dump(include=sent.model_fields_set, exclude_none=True)
        async with self._database.session() as session:
            project = await session.get_one(Project, project_id, with_for_update=True)
            row = await self._row(session, project_id, account_id)
            _check_shared(project, shared=values.get("shared", False))
            if "name" in values and values["name"] != row.name:
                await self._check_name(session, project_id, values["name"])
            said = sorted(values)
            if (key := values.pop("api_key", None)) is not None:
                values["api_key"] = await self._sealed(session, project_id, purpose_of(row.id, row.base_url), key)
                values["binding"], values["hint"] = binding(row.base_url, key), _hint(key)
            for name, value in values.items():
                setattr(row, name, value)
            await session.flush()
            said_of = f"{_named(row)}: {', '.join(said)}"
            await append_record(session, caller.actor, project_id, "account.changed", detail=said_of)
            shown = account_object(row, None)
        self._accounts.forget()
        return shown

    async def delete(self, caller: Caller, given: str, account_id: str) -> Deleted:
        project_id = await self._projects.project_id(caller, given)
        async with self._database.session() as session:
            row = await self._row(session, project_id, account_id)
            await session.delete(row)
            await append_record(session, caller.actor, project_id, "account.deleted", detail=_named(row))
        self._accounts.forget()
        return {"id": account_id, "object": "admin.account.deleted", "deleted": True}

    async def check(self, caller: Caller, given: str, account_id: str) -> AccountCheck:
        """Check an account's key at the provider."""
        project_id = await self._projects.project_id(caller, given)
        async with self._database.session() as session:
            row = await self._row(session, project_id, account_id)
        self._accounts.forget()
        account = await self._accounts.get(project_id, row.id)
        if account is None:
            raise Conflict(
                "This account is not used: it is disabled, its key cannot be opened with this master key, or its URL "
                "does not lead to a public address.",
                param="account_id",
                code="account_not_used",
            )
        found = await account.provider.check_key()
        ok = found is None or found.kind not in NOT_TAKEN
        said = None if ok or found is None else found.message
        return {"id": account_id, "object": "admin.account.check", "ok": ok, "message": said}

    def _base_url(self, sent: AccountCreate, project: Project) -> str:
        if sent.region is not None:
            found = region_base_url(sent.region, sent.workspace)
            if found is None:
                raise BadRequest(
                    f"'workspace' is needed: in {sent.region} each workspace has a host of its own.",
                    param="workspace",
                    code="missing_parameter",
                )
            return found
        assert sent.base_url is not None
        base_url = sent.base_url.rstrip("/")
        wrong = egress.url_fault(base_url, private=self._inside or project.operates)
        if wrong is None and "?" in base_url:
            wrong = "must have no query"
        if wrong is not None:
            raise BadRequest(f"'base_url' {wrong}.", param="base_url", code="invalid_url")
        return base_url

    async def _sealed(self, session: AsyncSession, project_id: UUID, purpose: str, key: str) -> bytes:
        try:
            return await self._cipher.seal(session, project_id, purpose, key.encode())
        except CannotOpen as error:
            raise Conflict(f"The key cannot be kept: {error}.", code="master_key_missing") from error

    async def _check_name(self, session: AsyncSession, project_id: UUID, name: str) -> None:
        taken = select(Account.id).where(Account.project_id == project_id, Account.name == name)
        if await session.scalar(taken) is not None:
            raise Conflict(f"The project has an account {name!r} already.", param="name", code="name_taken")

    async def _row(self, session: AsyncSession, project_id: UUID, given: str) -> Account:
        id_ = ids.parse(given, ("acct",))
        row = None if id_ is None else await session.get(Account, (project_id, id_))
        if row is None:
            raise NotFound(
                f"There is no account {given[:80]!r} in this project.", param="account_id", code="account_not_found"
            )
        return row

    async def _state(self, row: Account) -> State | None:
        account = await self._accounts.get(row.project_id, row.id)
        return None if account is None or not account.breakers else account.state(time.monotonic())


def _check_shared(project: Project, *, shared: bool) -> None:
    if shared and not project.operates:
        raise Forbidden(
            "Accounts are shared by the project that manages the service alone.", param="shared", code="operators_only"
        )


def _hint(key: str) -> str:
    return f"{key[:5]}…" if len(key) >= 16 else "…"


def _named(row: Account) -> str:
    return f"acct_{row.id.hex} {row.name}"

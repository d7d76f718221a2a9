"""Projects and keys as admins manage them: those of their own project; those of the project that operates, all."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import func

from app.db import ids
from app.db.engine import Database
from app.http import egress
from app.http.describing import Deleted
from app.http.errors import BadRequest, Conflict, Forbidden, NotFound
from app.http.pages import list_object
from app.projects import identity_providers, keys
from app.projects.auth import Caller, KeyRing
from app.projects.encryption import KEY_DESTROYED
from app.projects.preset_store import UserPresets
from app.projects.schemas import (
    AdminProjectObject,
    KeyCreate,
    KeyRotate,
    NewKeyObject,
    ProjectCreate,
    SettingsPatch,
    key_object,
    project_object,
)
from app.projects.settings import IdentityProvider, ProjectSettings
from app.projects.tables import ApiKey, Project
from app.projects.trail_records import record_project
from app.sealing.project_cipher import ProjectCipher

OPERATORS_ALONE = ("archived", "models", "limits", "key_limits", "user_limits")
"""Settings that only operators may change, because they limit a project."""

MOST_KEYS = 1000


class Projects:
    def __init__(
        self,
        database: Database,
        ring: KeyRing,
        cipher: ProjectCipher,
        presets: UserPresets,
        *,
        encrypts: bool,
        inside: bool,
    ) -> None:
        """Args:
        encrypts: whether every project that is made is encrypted.
        inside: whether key sets may lie at private addresses.
        """
        self._inside = inside
        self._presets = presets
        self._cipher = cipher
        self._encrypts = encrypts
        self._database = database
        self._ring = ring

    async def create(self, caller: Caller, sent: ProjectCreate) -> AdminProjectObject:
        _check_operates(caller)
        async with self._database.session() as session:
            cipher = self._cipher if sent.encrypted or self._encrypts else None
            project = await keys.add_project(session, caller.actor, sent.name, cipher)
            if project is None:
                raise Conflict(f"There is a project {sent.name!r} already.", param="name", code="name_taken")
            return project_object(project)

    async def listed(self, caller: Caller, after: str | None, limit: int) -> dict[str, Any]:
        """The projects that the caller manages, oldest first."""
        wanted = select(Project).order_by(Project.created_at, Project.project_id).limit(limit + 1)
        if not caller.grant.operates:
            wanted = wanted.where(Project.project_id == caller.project_id)
        async with self._database.session() as session:
            if after is not None:
                place = await self._project(session, caller, after, param="after")
                at = tuple_(Project.created_at, Project.project_id)
                wanted = wanted.where(at > tuple_(place.created_at, place.project_id))
            rows = (await session.scalars(wanted)).all()
            shown = [await self._shown(session, row) for row in rows[:limit]]
        return list_object(shown, lambda project: project, has_more=len(rows) > limit)

    async def get(self, caller: Caller, given: str) -> AdminProjectObject:
        async with self._database.session() as session:
            return await self._shown(session, await self._project(session, caller, given))

    async def change(self, caller: Caller, given: str, sent: SettingsPatch) -> AdminProjectObject:
        """Raises `Forbidden` for what only the service's own admins may change."""
        changed = sent.model_dump(include=sent.model_fields_set, exclude_none=True)
        for name in OPERATORS_ALONE:
            if name in sent.model_fields_set and not caller.grant.operates:
                raise Forbidden(
                    f"'{name}' of a project is set by who runs the service.", param=name, code="operators_only"
                )
        async with self._database.session() as session:
            project = await self._project(session, caller, given, locked=True)
            archived = changed.pop("archived", None)
            if archived and project.operates:
                raise Conflict(
                    "The project that manages the service cannot be archived.", param="archived", code="operates"
                )
            if archived is False and project.key_destroyed_at is not None:
                raise Conflict(KEY_DESTROYED, param="archived", code="key_destroyed")
            said = sorted(sent.model_fields_set - {"archived"})
            if said:
                kept = {name: value for name, value in project.settings.items() if name not in said}
                if "user_preset" in said:
                    changed.pop("user_preset", None)
                    kept["user_preset_id"] = await self._presets.replace(session, project, sent.user_preset)
                settings = ProjectSettings.model_validate({**kept, **changed})
                if "identity_providers" in said:
                    self._check_providers(caller, project, settings.identity_providers)
                    await identity_providers.claim(
                        session, caller.actor, project, settings.identity_providers, operates=caller.grant.operates
                    )
                project.settings = settings.model_dump(exclude_defaults=True, exclude_none=True)
                await record_project(session, caller.actor, "project.changed", project, ", ".join(said))
            if archived is not None:
                await keys.set_archived(session, caller.actor, project, archived=archived)
            shown = await self._shown(session, project)
        self._ring.forget(project.project_id)
        return shown

    def _check_providers(self, caller: Caller, project: Project, providers: Sequence[IdentityProvider]) -> None:
        for number, provider in enumerate(providers):
            _check_has(caller, provider.actions, f"identity_providers.{number}.actions")
            wrong = egress.url_fault(provider.jwks_url, private=self._inside or project.operates)
            if wrong is not None:
                raise BadRequest(
                    f"'jwks_url' {wrong}.", param=f"identity_providers.{number}.jwks_url", code="invalid_url"
                )

    async def create_key(self, caller: Caller, given: str, sent: KeyCreate) -> NewKeyObject:
        scopes = sent.scopes or [scope for scope in keys.USUAL if scope in caller.grant.scopes]
        _check_has(caller, scopes, "scopes")
        key = keys.new_key()
        ends = None if sent.expires_in is None else datetime.now(UTC) + timedelta(seconds=sent.expires_in)
        limits = None if sent.limits is None else sent.limits.model_dump(exclude_none=True)
        async with self._database.session() as session:
            project = await self._project(session, caller, given, locked=True)
            of_project = (ApiKey.project_id == project.project_id, ApiKey.subject.is_(None))
            there = select(func.count()).where(*of_project, ApiKey.revoked_at.is_(None))
            if (await session.scalar(there) or 0) >= MOST_KEYS:
                raise Conflict(
                    f"The project has {MOST_KEYS} keys, as many as it can have. Revoke some.", code="too_many_keys"
                )
            row = await keys.add_key(
                session,
                caller.actor,
                project.project_id,
                key,
                name=sent.name,
                scopes=scopes,
                expires_at=ends,
                limits=limits,
            )
            assert row is not None
            return {**key_object(row), "key": key}

    async def list_keys(self, caller: Caller, given: str) -> dict[str, Any]:
        async with self._database.session() as session:
            project = await self._project(session, caller, given)
            rows = [key for _, key in await keys.list_keys(session, project.project_id)]
        return list_object(rows, key_object, has_more=False)

    async def rotate_key(self, caller: Caller, given: str, key_id: str, sent: KeyRotate) -> NewKeyObject:
        id_, key = _key_uuid(key_id), keys.new_key()
        overlap = timedelta(seconds=sent.overlap_seconds)
        async with self._database.session() as session:
            project = await self._project(session, caller, given)
            await self._check_scopes(session, caller, project.project_id, id_)
            row = await keys.rotate_key(session, caller.actor, project.project_id, id_, key, overlap=overlap)
            if row is None:
                raise _unknown_key(key_id)
            shown: NewKeyObject = {**key_object(row), "key": key}
        self._ring.forget(project.project_id)
        return shown

    async def revoke_key(self, caller: Caller, given: str, key_id: str) -> Deleted:
        id_ = _key_uuid(key_id)
        if id_ == caller.key_id:
            raise Conflict(
                "A key does not revoke itself. Use another admin key, or 'everthread keys revoke'.",
                param="key_id",
                code="own_key",
            )
        async with self._database.session() as session:
            project = await self._project(session, caller, given)
            if not await keys.revoke_key(session, caller.actor, id_, project.project_id):
                raise _unknown_key(key_id)
        self._ring.forget(project.project_id)
        return {"id": key_id, "object": "admin.key.revoked", "deleted": True}

    async def project_id(self, caller: Caller, given: str) -> UUID:
        """A project that the caller manages.

        Raises:
            NotFound: it does not exist, or the caller does not manage it.
        """
        async with self._database.session() as session:
            return (await self._project(session, caller, given)).project_id

    async def _shown(self, session: AsyncSession, project: Project) -> AdminProjectObject:
        return project_object(project, await self._presets.of_project(session, project))

    async def _check_scopes(self, session: AsyncSession, caller: Caller, project_id: UUID, id_: UUID) -> None:
        """Refuse a rotation that would give the caller more scopes: who rotates a key receives the new one."""
        key = await session.get(ApiKey, (project_id, id_))
        _check_has(caller, [] if key is None else key.scopes, "key_id")

    async def _project(
        self, session: AsyncSession, caller: Caller, given: str, *, locked: bool = False, param: str = "project_id"
    ) -> Project:
        id_ = ids.parse(given, ("proj",))
        project = None
        if id_ is not None and (caller.grant.operates or id_ == caller.project_id):
            project = await session.get(Project, id_, with_for_update=locked)
        if project is None and param == "after":
            raise BadRequest("'after' must be the id of a project.", param="after", code="invalid_cursor")
        if project is None:
            raise NotFound(
                f"There is no project {given[:80]!r} that this key manages.",
                param="project_id",
                code="project_not_found",
            )
        return project


def _check_has(caller: Caller, scopes: Sequence[str], param: str) -> None:
    """Raises `Forbidden` if a key is to have a scope that the one which makes it has not."""
    for scope in scopes:
        if scope not in caller.grant.scopes:
            raise Forbidden(
                f"A key without the scope '{scope}' makes none that has it.", param=param, code="missing_scope"
            )


def _check_operates(caller: Caller) -> None:
    if not caller.grant.operates:
        raise Forbidden("Projects are made by who runs the service.", code="operators_only")


def _key_uuid(given: str) -> UUID:
    id_ = ids.parse(given, ("key",))
    if id_ is None:
        raise _unknown_key(given)
    return id_


def _unknown_key(given: str) -> NotFound:
    return NotFound(
        f"There is no key {given[:80]!r} in this project that is taken.", param="key_id", code="key_not_found"
    )

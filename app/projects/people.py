"""People who sign in to the console with OpenID Connect.

A person has a row among the keys of a project, without a usable secret: scopes, limits, revocation and the actor of
audit records are those of a key. Each sign-in sets the row's name, scopes and expiry.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.projects import keys
from app.projects.keys import Scope
from app.projects.sessions import LIFE_SECONDS
from app.projects.tables import ApiKey, Project
from app.projects.trail_records import record_key
from app.trail.records import SERVICE, Actor

MOST_PEOPLE = 1000
"""People of one project who have not been revoked."""

Access = Mapping[str, frozenset[Scope]]
"""Scopes by the names of projects."""


class TooManyPeople(Exception):
    """The project has `MOST_PEOPLE`."""


@dataclass(frozen=True, slots=True)
class Person:
    issuer: str
    subject: str
    name: str
    """Name and email address, for people to read."""

    @property
    def key(self) -> str:
        """Issuer and subject: an issuer is a URL, which contains no space."""
        return f"{self.issuer} {self.subject}"


async def projects_of(session: AsyncSession, access: Access) -> dict[str, UUID]:
    """Return the projects that exist and are not archived, by name."""
    wanted = select(Project.name, Project.project_id).where(Project.name.in_(access), Project.archived_at.is_(None))
    return dict(row._tuple() for row in await session.execute(wanted.order_by(Project.name)))


async def revoke_former(session: AsyncSession, person: Person, access: Access) -> None:
    """Revoke access that the person's groups no longer give, in every project. This ends open sessions."""
    rows = select(ApiKey, Project.name).join(Project, Project.project_id == ApiKey.project_id)
    for row, project in await session.execute(rows.where(ApiKey.subject == person.key, ApiKey.revoked_at.is_(None))):
        if not access.get(project, frozenset()).issuperset(row.scopes):
            await keys.revoke_key(session, SERVICE, row.id, row.project_id)


async def admit(
    session: AsyncSession, person: Person, project_id: UUID, scopes: frozenset[Scope], address: str | None
) -> UUID:
    """Record a sign-in and return the id of the person's row in the project.

    Raises:
        TooManyPeople: the person is new, and the project has no room.
    """
    row = await _find(session, project_id, person) or await _add(session, project_id, person, scopes)
    row = row or await _find(session, project_id, person)
    assert row is not None  # Somebody else has added it, and it is not revoked while it is locked.
    row.name = person.name
    row.scopes = [scope for scope in keys.SCOPES if scope in scopes]
    row.expires_at = datetime.now(UTC) + timedelta(seconds=LIFE_SECONDS)
    said = f"{keys.key_id(row.id)} {','.join(row.scopes)} {person.name} [{person.key}]"
    await record_key(session, Actor(row.id, address), "key.signed_in", row, said)
    return row.id


async def _find(session: AsyncSession, project_id: UUID, person: Person) -> ApiKey | None:
    wanted = (ApiKey.project_id == project_id, ApiKey.subject == person.key, ApiKey.revoked_at.is_(None))
    return (await session.scalars(select(ApiKey).where(*wanted).with_for_update())).one_or_none()


async def _add(session: AsyncSession, project_id: UUID, person: Person, scopes: frozenset[Scope]) -> ApiKey | None:
    people = (ApiKey.project_id == project_id, ApiKey.subject.is_not(None), ApiKey.revoked_at.is_(None))
    if (await session.scalar(select(func.count()).where(*people)) or 0) >= MOST_PEOPLE:
        raise TooManyPeople
    # Nobody learns the key of the row, so no client can send it.
    return await keys.add_key(
        session, SERVICE, project_id, keys.new_key(), name=person.name, scopes=sorted(scopes), subject=person.key
    )

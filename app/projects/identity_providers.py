"""Issuers and audiences that projects have claimed, each with the API key that carries the access of its JWTs."""

from collections.abc import Sequence

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.http.errors import Conflict
from app.projects import keys
from app.projects.settings import IdentityProvider, ProjectSettings, parse_settings
from app.projects.tables import ApiKey, ClaimedAudience, Project
from app.trail.records import Actor

MOST_CLAIMED = 100


async def claim(
    session: AsyncSession, actor: Actor, project: Project, providers: Sequence[IdentityProvider], *, operates: bool
) -> None:
    """Give each provider that is new or changed a new key, and revoke the keys of the former ones. The project's row is
    locked, and still has the former settings.

    A pair that a project removes stays claimed, so that no other project receives the requests of its users.

    Args:
        operates: whether the caller is an admin of the service. Pairs that the project has removed are then released.

    Raises:
        Conflict: another project has claimed the pair, or the project has claimed too many.
    """
    settings: ProjectSettings = parse_settings(ProjectSettings, project.settings)
    former = {(each.issuer, each.audience): each for each in settings.identity_providers}
    wanted = {(each.issuer, each.audience): each for each in providers}
    mine = ClaimedAudience.project_id == project.project_id
    of_key = (ApiKey.project_id == ClaimedAudience.project_id) & (ApiKey.id == ClaimedAudience.key_id)
    rows = await session.execute(
        select(ClaimedAudience.issuer, ClaimedAudience.audience, ApiKey.id)
        .join(ApiKey, of_key)
        .where(mine, ApiKey.revoked_at.is_(None))
    )
    valid = {(issuer, audience): key_id for issuer, audience, key_id in rows}
    for pair, key_id in valid.items():
        if wanted.get(pair) != former.get(pair):
            await keys.revoke_key(session, actor, key_id, project.project_id)
    for pair, provider in sorted(wanted.items()):
        if pair not in valid or former.get(pair) != provider:
            await _claim(session, actor, project, provider)
    if operates:
        unwanted = tuple_(ClaimedAudience.issuer, ClaimedAudience.audience).not_in(list(wanted))
        await session.execute(delete(ClaimedAudience).where(mine, unwanted))
    if (await session.scalar(select(func.count()).select_from(ClaimedAudience).where(mine)) or 0) > MOST_CLAIMED:
        raise Conflict(
            f"The project has claimed more than {MOST_CLAIMED} audiences, former ones included. The service's admins "
            "release those that are not in use.",
            param="identity_providers",
            code="too_many_identity_providers",
        )


async def _claim(session: AsyncSession, actor: Actor, project: Project, provider: IdentityProvider) -> None:
    key = await keys.add_key(
        session,
        actor,
        project.project_id,
        keys.new_key(),
        name=f"JWTs of {provider.issuer} for {provider.audience}"[:200],
        scopes=provider.actions,
    )
    assert key is not None
    row = {
        "project_id": project.project_id,
        "issuer": provider.issuer,
        "audience": provider.audience,
        "key_id": key.id,
    }
    claimed = insert(ClaimedAudience).values(row)
    claimed = claimed.on_conflict_do_update(
        index_elements=["issuer", "audience"],
        set_={"key_id": claimed.excluded.key_id},
        where=ClaimedAudience.project_id == project.project_id,
    )
    if await session.scalar(claimed.returning(ClaimedAudience.key_id)) is None:
        raise Conflict(
            f"Another project accepts JWTs of {provider.issuer!r} for {provider.audience!r}, or has done so. The "
            "service's admins can release them.",
            param="identity_providers",
            code="audience_taken",
        )

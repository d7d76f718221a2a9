"""Room for what a request is about to store, and how much it may send: checked by the routes that store something."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Depends, Request

from app.http.errors import BadRequest
from app.http.services import services
from app.limits.service import RateLimits
from app.projects.auth import Administering, Authenticated, Caller
from app.projects.settings import KeyLimits, ProjectSettings, least


async def check_room(
    limits: RateLimits, caller: Caller, user: str | None = None, *, makes_thread: bool = False
) -> None:
    """Raise TooManyRequests if the project, or the end user, has as much as it may have.

    Args:
        user: the end user that the request names; with a user's token it is the token's, whatever is named.
    """
    grant = caller.grant
    await limits.check_stored(grant.project_id, grant.user or user, grant.settings, makes_thread=makes_thread)


async def check_growth(
    limits: RateLimits, caller: Caller, user: str | None, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Raise TooManyRequests if a change would make stored fields longer, and there is no room. A change that makes them
    shorter, or as long, is never refused.

    Args:
        before: the fields as they are.
        after: those that change.
    """
    if any(_size(value) > _size(before.get(name)) for name, value in after.items()):
        await check_room(limits, caller, user)


def _size(value: Any) -> int:
    return 0 if value is None else len(orjson.dumps(value))


def check_count(count: int, settings: ProjectSettings, key_limits: KeyLimits, param: str) -> None:
    """Raise BadRequest for more items than the project, or the key, may send at once."""
    most = least(settings.limits.input_items, key_limits.input_items)
    if most is not None and count > most:
        raise BadRequest(
            f"'{param}' has {count} items, and {most} are the most that may be sent at once.",
            param=param,
            code="too_many_items",
        )


def check_items(caller: Caller, count: int, param: str) -> None:
    """Raise BadRequest for more items than the caller may send at once."""
    check_count(count, caller.grant.settings, caller.grant.key_limits, param)


async def _for_thread(request: Request, caller: Authenticated) -> None:
    await check_room(services(request)[RateLimits], caller, makes_thread=True)


async def _for_items(request: Request, caller: Authenticated) -> None:
    await check_room(services(request)[RateLimits], caller)


async def _at_admin_rate(request: Request, caller: Administering) -> None:
    """Count a request to an admin route. The service's own admins are outside all limits there."""
    if not caller.grant.operates:
        await services(request)[RateLimits].check_admin_rate(caller.project_id)


FOR_THREAD = [Depends(_for_thread)]
FOR_ITEMS = [Depends(_for_items)]
AT_ADMIN_RATE = [Depends(_at_admin_rate)]

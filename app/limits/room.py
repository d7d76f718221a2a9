"""Room for what a request is about to store: dependencies of the routes that store something."""

from fastapi import Depends, Request

from app.limits.service import RateLimits
from app.projects.auth import Authenticated, Caller
from app.services import services


async def _check(request: Request, caller: Caller, *, makes_thread: bool) -> None:
    grant = caller.grant
    await services(request)[RateLimits].check_stored(
        grant.project_id, grant.user, grant.settings, makes_thread=makes_thread
    )


async def _for_thread(request: Request, caller: Authenticated) -> None:
    """Raises `TooManyRequests` if the project, or its user, has as much as it may have."""
    await _check(request, caller, makes_thread=True)


async def _for_items(request: Request, caller: Authenticated) -> None:
    """The same, of what makes no thread."""
    await _check(request, caller, makes_thread=False)


FOR_THREAD = [Depends(_for_thread)]
FOR_ITEMS = [Depends(_for_items)]

"""Checks before deletions and changes: callers with the scope `audit` get 409 for contents under a legal hold.

For all other callers, the request runs and is answered as usual, and triggers keep copies of the contents.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.db.sql import Statement
from app.holds import store
from app.holds.schemas import hold_id
from app.holds.store import SQL
from app.http.errors import Conflict
from app.projects.auth import Caller


async def check_thread(
    session: AsyncSession, caller: Caller, thread_id: UUID, user_id: str | None, *, deletes: bool = False
) -> None:
    """Raise Conflict if the caller may know of holds, and a hold covers the thread. Before a deletion, check the
    minimum retention, too.
    """
    if knows_holds(caller):
        _refuse(await store.holds_on_thread(session, caller.project_id, thread_id, user_id), "this thread")
        if deletes:
            here = {"bucket": ids.bucket_of(thread_id), "thread_id": thread_id}
            await _check_age(session, caller, SQL.minimum_of_thread, **here)


async def check_turn(session: AsyncSession, caller: Caller, turn_id: UUID) -> None:
    """Raise Conflict if the caller may know of holds, and a hold or the minimum retention covers the turn. Holds on
    forks that share the turn count, too.
    """
    if knows_holds(caller):
        _refuse(await store.holds_on_turn(session, caller.project_id, turn_id), "this thread")
        await _check_age(session, caller, SQL.minimum_of_turn, bucket=ids.bucket_of(turn_id), turn_id=turn_id)


async def check_user(session: AsyncSession, caller: Caller, user: str) -> None:
    """Raise Conflict if the caller may know of holds, and a hold or the minimum retention covers the user's data."""
    if knows_holds(caller):
        held = await store.holds_on_user(session, caller.project_id, user)
        _refuse(held, "contents of this user", code="user_held")
        await _check_age(session, caller, SQL.minimum_of_user, user_id=user)


async def _check_age(session: AsyncSession, caller: Caller, statement: Statement, **of: Any) -> None:
    until: datetime | None = await session.scalar(statement.clause, {"project_id": caller.project_id, **of})
    if until is not None:
        raise Conflict(
            f"The project keeps contents for a minimum time (minimum_retention_days), which ends here at "
            f"{until:%Y-%m-%dT%H:%M:%SZ}. Nothing was changed. Send this again after that time.",
            code="minimum_retention",
        )


def knows_holds(caller: Caller) -> bool:
    """Return True if the caller may learn that a hold exists."""
    return "audit" in caller.grant.scopes and caller.grant.user is None


def _refuse(held: Sequence[UUID], covered: str, code: str = "thread_held") -> None:
    if held:
        raise Conflict(
            f"A legal hold covers {covered}: {hold_id(held[0])}. Nothing was changed. Release the hold first.",
            code=code,
        )

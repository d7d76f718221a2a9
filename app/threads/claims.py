"""Claims: a signed-in user takes over the threads that the same browser created as an anonymous user.

The anonymous user's token proves which user that was. One transaction gives the user all threads, ends the anonymous
user's tokens and records it.
"""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import TypedDict

from app.db import ids
from app.db.engine import Database
from app.http.bodies import Body
from app.http.errors import BadRequest, Conflict, Forbidden
from app.limits import charges
from app.projects.auth import Caller, KeyRing
from app.projects.cutoffs import Cutoffs
from app.projects.user_tokens import UserToken, UserTokens, is_anonymous
from app.threads import store
from app.threads.address import ById, name_after_claim
from app.threads.names import Names
from app.threads.tables import Thread
from app.trail.append import append_record
from app.trail.users import UserKeys

MOST_THREADS = 500

LONGEST_TOKEN = 8192


class ThreadsClaim(Body):
    token: Annotated[str, Field(min_length=1, max_length=LONGEST_TOKEN)]
    """The token of the anonymous user, from `POST /v1/user_tokens`."""


class ClaimObject(TypedDict):
    object: Literal["thread.claim"]
    user: str
    threads: list[str]
    """Ids of the threads that have become the user's."""


class Claims:
    def __init__(
        self,
        database: Database,
        names: Names,
        users: UserKeys,
        tokens: UserTokens,
        ring: KeyRing,
        cutoffs: Cutoffs,
    ) -> None:
        self._database = database
        self._names = names
        self._users = users
        self._tokens = tokens
        self._ring = ring
        self._cutoffs = cutoffs

    async def claim(self, caller: Caller, sent: ThreadsClaim) -> ClaimObject:
        """Give the caller the threads of an anonymous user. The same user can repeat a claim, for later threads.

        Raises:
            Forbidden: the caller is no signed-in user.
            BadRequest: the token is not that of an anonymous user of this project, or not valid any more.
            Conflict: somebody else has claimed the threads, or there are too many.
        """
        user, token = caller.grant.user, self._tokens.read(sent.token)
        if user is None or is_anonymous(user) or caller.grant.thread_id is not None:
            raise Forbidden(
                "Only a token of a signed-in user can claim threads, and only one that is not limited to one thread.",
                code="users_only",
            )
        if token is None or not await self._proves(caller, token):
            raise _invalid()
        trail_key = await self._users.get_or_make(caller.project_id, user)
        digests = [await self._cutoffs.digest(caller.project_id, each) for each in (user, token.user)]
        async with self._database.session() as session:
            moved = await self._move(session, caller, token.user, {"user_id": user, "trail_key": trail_key})
            if moved or not await self._is_claimed(session, caller, token, user):
                detail = f"{len(moved)} threads"
                # Its lock on the project's chain puts concurrent claims into an order.
                await append_record(
                    session, caller.actor, caller.project_id, "user.claimed", user_digest=digests[0], detail=detail
                )
                await self._is_claimed(session, caller, token, user)
                await charges.rename_user(session, caller.project_id, token.user, user)
                claimed_by = self._cutoffs.hash(user)
                await self._cutoffs.cut(session, caller.actor, caller.project_id, token.user, digests[1], claimed_by)
        self._ring.forget(caller.project_id)
        return {"object": "thread.claim", "user": user, "threads": [ids.thread_id(each) for each in moved]}

    async def _proves(self, caller: Caller, token: UserToken) -> bool:
        """Return True for a valid token of an anonymous user of the project that may change all of their threads."""
        return (
            token.anonymous
            and token.project_id == caller.project_id
            and token.thread_id is None
            and "write" in token.actions
            and await self._ring.has_key_of(token, caller.address)
        )

    async def _is_claimed(self, session: AsyncSession, caller: Caller, token: UserToken, user: str) -> bool:
        """Return True if the user has claimed the threads before.

        Raises:
            APIError: somebody else has, or the token was revoked.
        """
        before = await self._cutoffs.find(session, caller.project_id, token.user)
        if before is None or before.cut_at < token.issued_at:
            return False
        if before.claimed_by is None:
            raise _invalid()
        if before.claimed_by != self._cutoffs.hash(user):
            raise Conflict("Another user has claimed these threads.", param="token", code="already_claimed")
        return True

    async def _move(
        self, session: AsyncSession, caller: Caller, former: str, values: dict[str, str | bytes]
    ) -> list[UUID]:
        """Change the user of threads, and their names with it. Returns the threads."""
        theirs = select(Thread.id, Thread.name).where(Thread.project_id == caller.project_id, Thread.user_id == former)
        rows = (await session.execute(theirs.order_by(Thread.id).limit(MOST_THREADS + 1))).all()
        if len(rows) > MOST_THREADS:
            raise Conflict(
                f"The anonymous user has more than {MOST_THREADS} threads. Change their 'user' with a key.",
                param="token",
                code="too_many_threads",
            )
        moved: list[UUID] = []
        for id_, name in rows:
            address = ById(id_, former)
            new_name = name_after_claim(caller, former, name)
            try:
                thread = await self._changed(session, caller, address, {**values, "name": new_name})
            except Conflict:  # The user has a thread of this name. Nothing was written yet.
                thread = await self._changed(session, caller, address, {**values, "name": None})
            if thread is not None:
                moved.append(id_)
        return moved

    async def _changed(
        self, session: AsyncSession, caller: Caller, address: ById, values: dict[str, str | bytes | None]
    ) -> Thread | None:
        return await store.change(session, self._names, caller.actor, caller.project_id, address, values)


def _invalid() -> BadRequest:
    return BadRequest(
        "'token' must be a valid token of an anonymous user of this project: it is none, has expired or was revoked.",
        param="token",
        code="invalid_anonymous_token",
    )

"""Repeated checks of the credentials that open streams, exports and sockets were opened with.

Each worker checks a key once per `CHECK_SECONDS` while listeners of that key are open, however many there are. User
tokens and console sessions share the check of the key that they come from. Turns need no statement: a turn that is
answered before the first check costs a set insertion.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Literal, TypeVar
from uuid import UUID

import structlog
from starlette.requests import HTTPConnection

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.http.errors import APIError, DatabaseUnavailable, NotFound, Unauthorized
from app.http.services import services
from app.projects.auth import Caller
from app.projects.cutoffs import Cutoffs

T = TypeVar("T")

log = structlog.get_logger()

CHECK_SECONDS = 1.5
"""Interval of the checks. A listener must end within five seconds, and a statement may take some of them."""

AT_ONCE = 1000
"""Ids per statement."""

End = Literal["credential_expired", "credential_revoked", "project_archived", "thread_not_found"]
"""Why a listener ends: the `code` of its error."""

SQL = statements_of(__file__)

MESSAGES: dict[End, str] = {
    "credential_expired": "The API key or token that opened this has expired.",
    "credential_revoked": "The API key, token or session that opened this was revoked.",
    "project_archived": "The project was archived.",
    "thread_not_found": "This thread no longer belongs to the user of the token that opened this.",
}


class Listener:
    """Something held open with a credential: `end` is set when the credential ends."""

    def __init__(self, watch: "CredentialWatch", caller: Caller, thread_id: UUID | None, *, admitted: bool) -> None:
        grant = caller.grant
        self._watch = watch
        self.key = (grant.project_id, grant.key_id)
        self.session_id = grant.session_id
        self.user = grant.user
        self.issued_at = grant.issued_at
        self.thread_id = None if grant.user is None else thread_id
        self.end: End | None = None
        self._expires_at = grant.expires_at
        self._admitted = admitted
        self._callback: Callable[[], object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Call `callback` when the credential ends while this context lasts; at once if it has ended before."""
        self.begin(callback)
        try:
            yield
        finally:
            self.finish()

    def begin(self, callback: Callable[[], object]) -> None:
        """Call `callback` when the credential ends, until `finish`; at once if it has ended before."""
        self._callback = callback
        self._watch.add(self)
        if self.end is not None:
            callback()
        elif self._expires_at is not None and not self._admitted:
            left = max(0.0, self._expires_at - time.time())
            self._timer = asyncio.get_running_loop().call_later(left, self.ended, "credential_expired")

    def finish(self) -> None:
        """Call nothing any more."""
        self._callback = None
        self._watch.remove(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def ended(self, end: End) -> None:
        """Record why the credential ended. Expiry does not end the answer to a request that was admitted before."""
        if self.end is not None or (self._admitted and end == "credential_expired"):
            return
        self.end = end
        if self._callback is not None:
            self._callback()

    def error(self) -> APIError:
        """Return the error of a listener that has ended."""
        assert self.end is not None
        if self.end == "thread_not_found":
            return NotFound(MESSAGES[self.end], code=self.end)
        return Unauthorized(MESSAGES[self.end], code=self.end)


class CredentialWatch:
    def __init__(self, database: Database, cutoffs: Cutoffs) -> None:
        self._database = database
        self._cutoffs = cutoffs
        self._listeners: dict[tuple[UUID, UUID], set[Listener]] = {}
        self._checking: dict[tuple[UUID, UUID], asyncio.Task[None]] = {}

    def add(self, listener: Listener) -> None:
        self._listeners.setdefault(listener.key, set()).add(listener)
        if listener.key not in self._checking:
            self._check_repeatedly(listener.key)

    def remove(self, listener: Listener) -> None:
        self._listeners[listener.key].discard(listener)

    async def stop(self) -> None:
        tasks = list(self._checking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check_repeatedly(self, key: tuple[UUID, UUID]) -> None:
        # In an empty context: the checks belong to no request.
        task = asyncio.create_task(self._run(key), name="credential watch", context=Context())
        self._checking[key] = task
        task.add_done_callback(lambda task: self._stopped(key, task))

    def _stopped(self, key: tuple[UUID, UUID], task: "asyncio.Task[None]") -> None:
        del self._checking[key]
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("a credential could not be checked; the check is repeated", exc_info=error)
        if key in self._listeners:  # A listener may have come since the last check, too.
            self._check_repeatedly(key)

    async def _run(self, key: tuple[UUID, UUID]) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if not self._listeners[key]:
                del self._listeners[key]
                return
            try:
                await self._check(*key)
            except DatabaseUnavailable:
                # Nobody can revoke a key while Postgres is unavailable, and tokens expire by the clock.
                log.info("Postgres is unavailable; open streams are checked again when it is back")

    async def _check(self, project_id: UUID, key_id: UUID) -> None:
        listeners = self._listeners[project_id, key_id]
        row = await self._database.fetchrow(*SQL.key_end(project_id=project_id, key_id=key_id))
        if row is None or row["state"] != "valid":
            for listener in tuple(listeners):
                listener.ended("credential_revoked" if row is None else row["state"])
            return
        for listener in tuple(listeners):
            if await self._cutoffs.is_cut(project_id, row["users_cut_at"], listener.user, listener.issued_at):
                listener.ended("credential_revoked")
        await self._check_sessions(project_id, [each for each in listeners if each.session_id is not None])
        await self._check_threads(project_id, [each for each in listeners if each.thread_id is not None])

    async def _check_sessions(self, project_id: UUID, listeners: Sequence[Listener]) -> None:
        for start in range(0, len(listeners), AT_ONCE):
            some = listeners[start : start + AT_ONCE]
            rows = await self._database.fetch(
                *SQL.open_sessions(project_id=project_id, ids=[each.session_id for each in some])
            )
            open_ = {row["id"] for row in rows}
            for listener in some:
                if listener.session_id not in open_:
                    listener.ended("credential_revoked")

    async def _check_threads(self, project_id: UUID, listeners: Sequence[Listener]) -> None:
        """End the listeners of threads that have another user by now. A deleted thread tells its listeners itself."""
        for start in range(0, len(listeners), AT_ONCE):
            some = listeners[start : start + AT_ONCE]
            found = {each.thread_id for each in some if each.thread_id is not None}
            buckets = {ids.bucket_of(each) for each in found}
            rows = await self._database.fetch(
                *SQL.owners(project_id=project_id, buckets=list(buckets), ids=list(found))
            )
            owners = {row["id"]: row["user_id"] for row in rows}
            for listener in some:
                if listener.thread_id in owners and owners[listener.thread_id] != listener.user:
                    listener.ended("thread_not_found")


def listening(
    request: HTTPConnection, caller: Caller, thread_id: UUID | None = None, *, admitted: bool = False
) -> Listener:
    """Return a listener for an open connection or a running request.

    Args:
        thread_id: the thread to which the request listens. A user token's listener ends when the thread gets another
            user.
        admitted: True for the answer to a request that starts work. It outlasts the expiry of its credential, not a
            revocation.
    """
    return Listener(services(request)[CredentialWatch], caller, thread_id, admitted=admitted)


_unanswered: set["asyncio.Task[Any]"] = set()
"""Running work whose credential has ended: its answer is discarded."""


async def answer_of(listener: Listener, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a request's work. If the credential ends before, the work is completed without an answer.

    Raises:
        APIError: the credential has ended.
    """
    task, ended = asyncio.create_task(work), asyncio.get_running_loop().create_future()
    with listener.calling(ended.cancel):
        try:
            await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
    if task.done():
        return task.result()
    _unanswered.add(task)
    task.add_done_callback(_discard)
    raise listener.error()


def _discard(task: "asyncio.Task[Any]") -> None:
    _unanswered.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.info("work without an answer has failed", error=type(error).__name__)

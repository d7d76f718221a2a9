"""Postgres's row-level security: a second wall between projects, behind the statements that name theirs.

What is done for a project is done as the role `everthread_service`, in a transaction that says which project it is for:
whatever a statement asks for, it sees and writes rows of that project alone. Nothing of it outlives the transaction, so
that a pooler between is no harm. Which project it is comes from the key of the request, and not from the statement.

What crosses projects by its nature is done as the owner of the tables, and filters by itself: docs/security.md has the
list.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

ROLE = "everthread_service"

_project: ContextVar[UUID | None] = ContextVar("project", default=None)

SAY = f"SELECT set_config('role', '{ROLE}', true), set_config('everthread.project', '{{project}}', true)"
"""Of a transaction, for which project it is."""

LEAVE = text("SELECT set_config('role', 'none', true)")
COME_BACK = text(f"SELECT set_config('role', '{ROLE}', true)")

WALLED = "walled"


async def may_be_used(connection: AsyncConnection) -> bool:
    """Whether a connection may act as the role: it is tried, for what a membership means differs by release."""
    try:
        await connection.execute(COME_BACK)
        return True
    except DBAPIError:
        return False
    finally:
        await connection.rollback()


def begin_for(project_id: UUID) -> None:
    """From here on, in this request and in what it begins, everything is for one project."""
    _project.set(project_id)


def project() -> UUID | None:
    """The project that what is done now is for; None for what crosses projects."""
    return _project.get()


@contextmanager
def within(project_id: UUID | None) -> Iterator[None]:
    """What is done within, and what it begins, is for one project: for work beside the requests, once it has found
    whose it is."""
    before = _project.set(project_id)
    try:
        yield
    finally:
        _project.reset(before)


def across_projects() -> AbstractContextManager[None]:
    """What is done within is not for one project: who uses it says why, and filters by itself."""
    return within(None)


def said(project_id: UUID) -> str:
    """The statement that begins a transaction for a project."""
    return SAY.format(project=project_id)


@asynccontextmanager
async def as_owner(session: AsyncSession) -> AsyncIterator[None]:
    """A statement of a session that looks at no project's rows, and that the role may not do."""
    if not session.info.get(WALLED):
        yield
        return
    await session.execute(LEAVE)
    yield
    await session.execute(COME_BACK)

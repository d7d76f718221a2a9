"""Group commit: statements that arrive while another one is under way share one transaction.

About a third of what a turn costs Postgres is its commits and round trips. A statement that arrives alone runs at once,
in a transaction of its own. Statements that arrive while one is under way wait for it and share the next transaction.

These rules keep a statement from harming the others:

- A statement locks rows of its own bucket only. A bucket has at most one transaction under way, and a transaction locks
  its buckets in order. So no two of these transactions can deadlock.
- A transaction waits at most `LOCK_TIMEOUT` for a lock. When it fails, Postgres has rolled back all of it, and each of
  its statements runs again in a transaction of its own, several at once.
- A statement that a lock, a deadlock or a serialization failure stops in its own transaction moves to the lane of its
  bucket. There it is tried again, with pauses, until it succeeds or its time is over. While one is in the lane, later
  statements with the same key join it there: they never enter a group. All lanes together use `MOST_LANES` connections.
- A row is delivered as soon as its own transaction is committed. A statement is repeated only after Postgres has said
  that nothing of it was done.
"""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import asyncpg

from app.http.errors import DatabaseUnavailable, ThreadLocked

MOST_STATEMENTS = 16
"""Largest number of statements per transaction."""

MOST_CHARACTERS = 65_536
"""Largest write of a statement that shares a transaction. A longer one would delay the others."""

MOST_TRANSACTIONS = 4
"""Largest number of concurrent transactions of a statement."""

PATIENCE_SECONDS = 0.01
"""Time for which a statement waits before another transaction begins beside the running one."""

LOCK_TIMEOUT = "50ms"
"""Postgres's `lock_timeout` of a transaction, far below `deadlock_timeout`."""

MOST_LANES = 2
"""Largest number of lanes with a transaction under way."""

MOST_IN_LANE = 64
"""Largest number of statements of a bucket that wait for a lock. The next one is refused."""

FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.25
"""Pause of a lane after all its keys were locked. It doubles up to the longest."""

MOST_HELD_UP = 4096
"""Largest number of keys that are remembered as locked. The oldest is forgotten, and tried in a group once more."""

HELD_UP = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""SQLSTATEs of a conflict with another transaction. Nothing was done, and another try may succeed."""


class Alone(Protocol):
    def __call__(self, statement: str, *arguments: Any) -> Coroutine[Any, Any, Any]: ...


Together = Callable[[str, Sequence[tuple[Any, ...]]], Coroutine[Any, Any, list[Any]]]


class Undone(Exception):
    """The server has rolled back a transaction, and can be reached."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A statement that has not begun, or is to be run again."""

    statement: str
    bucket: int
    key: Hashable
    arguments: tuple[Any, ...]
    since: float
    until: float
    """When its caller is told that it took too long. One that is under way ends first."""
    by_itself: bool
    """True if it shares no transaction."""
    row: asyncio.Future[Any]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """The caller's: it names the project whose rows the statement may see."""
    too_late: type[DatabaseUnavailable] = DatabaseUnavailable
    _timer: asyncio.TimerHandle | None = None

    def wait(self) -> None:
        """Fail at `until`, unless the statement has begun before: in a lane. A line looks at the time itself."""
        if self._timer is None:
            self._timer = self.row.get_loop().call_at(self.until, self.fail, None)

    def begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def fail(self, error: BaseException | None) -> None:
        """Fail with an error; None: its time is over."""
        self.begin()
        if not self.row.done():
            self.row.set_exception(self.too_late() if error is None else error)

    def give(self, row: Any) -> None:
        if not self.row.done():
            self.row.set_result(row)


class GroupCommit:
    """The statements under way at a server that each return one row and lock rows of one bucket."""

    def __init__(self, alone: Alone, together: Together, *, wait_seconds: float, lanes: int = MOST_LANES) -> None:
        """
        Args:
            alone: runs a statement in a transaction of its own, and returns its row. Both wait `LOCK_TIMEOUT` at most
                for a lock.
            together: runs a statement with each of these arguments in one transaction, and returns a row for each, in
                order. Raises `Undone` if the transaction was rolled back.
            wait_seconds: how long a statement may wait before it begins, or for a lock.
            lanes: how many lanes may have a transaction under way at once.
        """
        self.alone = alone
        self.together = together
        self.shares = True
        """True if transactions are shared. Otherwise each statement has its own, and all begin at once."""
        self.busy: set[int] = set()
        """The buckets with a transaction under way."""
        self.lane_places = asyncio.Semaphore(lanes)
        self._wait_seconds = wait_seconds
        self._lines: dict[str, _Line] = {}
        self._lanes: dict[int, _Lane] = {}
        self._held_up: dict[Hashable, None] = {}
        self._apart = 0

    async def fetchrow(
        self,
        bucket: int,
        statement: str,
        arguments: tuple[Any, ...],
        *,
        key: Hashable,
        by_itself: bool = False,
        wait_seconds: float | None = None,
    ) -> Any:
        """Run a statement, and return its row once it is committed.

        Args:
            key: names what it locks: statements with the same key wait for the same lock.
            by_itself: shares no transaction.
            wait_seconds: instead of the usual bound.

        Raises:
            ThreadLocked: other transactions have held the locks for too long. Nothing was done.
            DatabaseUnavailable: the server is unavailable. The statement may have been committed all the same.
        """
        line = self._lines.get(statement)
        if line is None:
            line = self._lines[statement] = _Line(statement, self)
        if self._held_up and key in self._held_up:
            waiting = self._waiting(bucket, statement, arguments, key, by_itself, wait_seconds)
            self.hold_up(waiting)
            return await waiting.row
        if bucket in self.busy or (line.running and self.shares and not by_itself):
            waiting = self._waiting(bucket, statement, arguments, key, by_itself, wait_seconds)
            line.wait(waiting)
            return await waiting.row
        self.busy.add(bucket)
        line.running += not by_itself
        try:
            return await self.alone(statement, *arguments)
        except DatabaseUnavailable as error:
            if not _another_try(error):
                raise
            self.mark_held_up(key)  # Before others with this key begin.
        finally:
            line.running -= not by_itself
            self.busy.discard(bucket)
            line.begin()
            self.freed()
        waiting = self._waiting(bucket, statement, arguments, key, by_itself, wait_seconds)
        self.hold_up(waiting)
        return await waiting.row

    @property
    def most(self) -> int:
        """Return how many statements may share a transaction now."""
        return 1 if self._apart or not self.shares else MOST_STATEMENTS

    @asynccontextmanager
    async def apart(self) -> AsyncIterator[None]:
        """Within, no transaction has two statements: for statements that lock rows of many buckets in any order."""
        self._apart += 1
        try:
            if under_way := [task for line in self._lines.values() for task in line.tasks]:
                await asyncio.wait(under_way)
            yield
        finally:
            self._apart -= 1

    def is_held_up(self, key: Hashable) -> bool:
        return key in self._held_up

    def mark_held_up(self, key: Hashable) -> None:
        self._held_up[key] = None
        if len(self._held_up) > MOST_HELD_UP:
            del self._held_up[next(iter(self._held_up))]

    def forget_held_up(self, key: Hashable) -> None:
        self._held_up.pop(key, None)

    def hold_up(self, waiting: Waiting) -> None:
        """Move a statement to the lane of its bucket."""
        self.mark_held_up(waiting.key)
        waiting.too_late = ThreadLocked
        lane = self._lanes.get(waiting.bucket)
        if lane is None:
            lane = self._lanes[waiting.bucket] = _Lane(waiting.bucket, self)
        lane.wait(waiting)

    def end_lane(self, bucket: int) -> None:
        del self._lanes[bucket]

    def freed(self) -> None:
        """Begin what has waited for a bucket that is not busy any more."""
        for line in self._lines.values():
            if line.waiting:
                line.go_on()

    def _waiting(
        self,
        bucket: int,
        statement: str,
        arguments: tuple[Any, ...],
        key: Hashable,
        by_itself: bool,
        wait_seconds: float | None,
    ) -> Waiting:
        loop = asyncio.get_running_loop()
        now = loop.time()
        until = now + (self._wait_seconds if wait_seconds is None else wait_seconds)
        return Waiting(statement, bucket, key, arguments, now, until, by_itself, loop.create_future())


class _Line:
    """The callers that wait with one statement."""

    def __init__(self, statement: str, group_commit: GroupCommit) -> None:
        self._statement = statement
        self._of = group_commit
        self.waiting: list[Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self.running = 0
        """Number of shared transactions that are under way."""
        self.tasks: set[asyncio.Task[Any]] = set()

    def wait(self, waiting: Waiting) -> None:
        self.waiting.append(waiting)
        self._start_timer(PATIENCE_SECONDS)

    def go_on(self) -> None:
        """Begin what waits for nothing any more."""
        while self.waiting and (not self._of.shares or not self.running) and self.begin():
            pass

    def begin(self) -> bool:
        """Begin a transaction with the statements that have waited longest. False if there are none."""
        if not self.waiting or (self._of.shares and self.running >= MOST_TRANSACTIONS):
            return False
        group = self._taken()
        if not group:
            return False
        self.running += 1
        for each in group:
            self._of.busy.add(each.bucket)
        first = group[0]
        if len(group) == 1:
            task = asyncio.create_task(self._of.alone(self._statement, *first.arguments), context=first.context)
        else:
            task = asyncio.create_task(self._of.together(self._statement, [each.arguments for each in group]))
        self.tasks.add(task)
        task.add_done_callback(partial(self._ended, group))
        return True

    def _taken(self) -> list[Waiting]:
        """The statements of the next transaction, in the order of their buckets."""
        taken: dict[int, Waiting] = {}
        left: list[Waiting] = []
        most = self._of.most
        for waiting in self.waiting:
            if waiting.row.done():
                continue  # Nobody waits for it any more.
            if self._of.is_held_up(waiting.key):
                self._of.hold_up(waiting)
            elif len(taken) >= most or waiting.bucket in taken or waiting.bucket in self._of.busy:
                left.append(waiting)
            elif not waiting.by_itself:
                taken[waiting.bucket] = waiting
            elif taken:
                left.append(waiting)
            else:
                taken[waiting.bucket] = waiting
                most = 1
        self.waiting = left
        return [taken[bucket] for bucket in sorted(taken)]

    def _start_timer(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._out_of_patience)

    def _out_of_patience(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        late = [each for each in self.waiting if each.until <= now]
        self.waiting = [each for each in self.waiting if each.until > now]
        for each in late:
            each.fail(None)
        if not self.waiting:
            return
        left = self.waiting[0].since + PATIENCE_SECONDS - now
        if left <= 0:
            self.begin()
        if self.waiting:
            self._start_timer(left if left > 0 else PATIENCE_SECONDS)

    def _ended(self, group: list[Waiting], task: asyncio.Task[Any]) -> None:
        """Deliver what a transaction has ended with, and begin the next."""
        self.tasks.discard(task)
        self.running -= 1
        failed = None if task.cancelled() else task.exception()
        again = isinstance(failed, Undone)
        if task.cancelled():
            for each in group:
                each.row.cancel()
        elif again:
            for each in group:
                each.by_itself = True
            self.waiting[:0] = group
            self._start_timer(PATIENCE_SECONDS)
        elif failed is not None:
            for each in group:
                if _another_try(failed) and len(group) == 1:
                    self._of.hold_up(each)
                else:
                    each.fail(failed)
        else:
            for each, row in zip(group, [task.result()] if len(group) == 1 else task.result(), strict=True):
                each.give(row)
        self._of.busy.difference_update(each.bucket for each in group)
        while self.begin() and again:
            pass
        self._of.freed()


class _Lane:
    """The statements of one bucket that other transactions hold up, tried one after another."""

    def __init__(self, bucket: int, group_commit: GroupCommit) -> None:
        self._bucket = bucket
        self._of = group_commit
        self._waiting: list[Waiting] = []
        self._task = asyncio.create_task(self._run(), context=contextvars.Context())
        self._task.add_done_callback(self._ended)

    def wait(self, waiting: Waiting) -> None:
        if len(self._left()) >= MOST_IN_LANE:
            waiting.fail(None)
        else:
            waiting.wait()
            self._waiting.append(waiting)

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while self._left():
            in_vain = True
            # One of each key: those behind it wait for the same lock.
            for waiting in {each.key: each for each in reversed(self._left())}.values():
                in_vain = not await self._try(waiting) and in_vain
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS) if in_vain else FIRST_PAUSE_SECONDS
            if in_vain:
                await asyncio.sleep(pause)

    def _left(self) -> list[Waiting]:
        self._waiting = [each for each in self._waiting if not each.row.done()]
        return self._waiting

    async def _try(self, waiting: Waiting) -> bool:
        """Run a statement once. False if something is still in its way."""
        async with self._of.lane_places:
            if self._bucket in self._of.busy:
                return False
            if waiting.row.done():
                return True
            waiting.begin()
            self._of.busy.add(self._bucket)
            try:
                row = await asyncio.create_task(
                    self._of.alone(waiting.statement, *waiting.arguments), context=waiting.context
                )
            except (DatabaseUnavailable, asyncpg.PostgresError) as error:
                if _another_try(error):
                    if waiting.until > asyncio.get_running_loop().time():
                        waiting.wait()
                    else:
                        waiting.fail(None)
                    return False
                self._of.forget_held_up(waiting.key)
                waiting.fail(error)
            else:
                self._of.forget_held_up(waiting.key)
                waiting.give(row)
            finally:
                self._of.busy.discard(self._bucket)
                self._of.freed()
            return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._of.end_lane(self._bucket)
        failed = None if task.cancelled() else task.exception()
        for waiting in self._left():
            if failed is not None:
                waiting.fail(failed)
            elif task.cancelled():
                waiting.row.cancel()
            else:  # It came when the lane had just ended.
                self._of.hold_up(waiting)


def _another_try(error: BaseException) -> bool:
    """Return True if a statement failed because of another transaction, which may have ended by the next try."""
    return isinstance(error.__cause__, HELD_UP)

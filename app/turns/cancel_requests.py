"""Cancel requests, which any worker takes, on their way to the worker that runs the turn."""

import asyncio
from uuid import UUID

import asyncpg

from app.background import Background
from app.db.engine import UNAVAILABLE, Database, driver_url
from app.turns.runner import Runner
from app.turns.statements import CANCEL_CHANNEL

RECONNECT_SECONDS = 0.5


class CancelRequests(Background):
    """Hears of them as they are made; what is missed here is seen when the leases are renewed."""

    def __init__(self, database: Database, runner: Runner) -> None:
        super().__init__()
        self._url = driver_url(database.url)
        self._runner = runner

    async def _keep(self) -> None:
        while True:
            try:
                connection = await asyncpg.connect(self._url, timeout=5)
            except UNAVAILABLE:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            closed = asyncio.Event()
            connection.add_termination_listener(lambda _: closed.set())  # noqa: B023
            try:
                await connection.add_listener(CANCEL_CHANNEL, self._cancel)
                await closed.wait()
            except UNAVAILABLE:
                await asyncio.sleep(RECONNECT_SECONDS)
            finally:
                connection.terminate()

    def _cancel(self, connection: object, pid: int, channel: str, payload: object) -> None:
        self._runner.stop(UUID(str(payload)))

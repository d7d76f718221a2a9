"""Background tasks of a worker continue after a failure."""

import asyncio

from app.process.background import RESTART_SECONDS, Background


class Shaky(Background):
    """Fails at its first beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.began = 0
        self.again = asyncio.Event()

    async def run(self) -> None:
        self.began += 1
        if self.began == 1:
            raise KeyError("nobody thought of this")
        self.again.set()
        await asyncio.Event().wait()


async def test_work_that_fails_in_an_unknown_way_begins_again() -> None:
    work = Shaky()
    work.start()
    await asyncio.wait_for(work.again.wait(), RESTART_SECONDS + 10)
    await work.stop()
    assert work.began == 2


async def test_work_that_is_stopped_while_it_waits_to_begin_again_stays_stopped() -> None:
    work = Shaky()
    work.start()
    await asyncio.sleep(RESTART_SECONDS / 4)
    await work.stop()
    await asyncio.sleep(RESTART_SECONDS * 1.5)
    assert work.began == 1

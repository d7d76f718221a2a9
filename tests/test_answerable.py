"""The wait of a client until it can be answered."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.turns.answerable import Answerable
from app.turns.client import Client, ClientLeft

FUTURE: Callable[[], Any] = lambda: asyncio.get_running_loop().create_future()  # noqa: E731


async def silent() -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("made", [Answerable, FUTURE])
async def test_clients_wait_until_they_can_be_answered(made: Callable[[], Any]) -> None:
    answerable, first, second = made(), Client(silent), Client(silent)
    waiting = [asyncio.create_task(client.wait_for(answerable)) for client in (first, second)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    answerable.set_result(None)
    await asyncio.gather(*waiting)
    await Client(silent).wait_for(answerable)  # At once: it is set by now.


@pytest.mark.parametrize("made", [Answerable, FUTURE])
async def test_a_client_that_leaves_waits_no_longer_and_others_do(made: Callable[[], Any]) -> None:
    gone = asyncio.Event()

    async def leaving() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    answerable = made()
    with Client(leaving) as client, Client(silent) as other:
        left, stays = (asyncio.create_task(each.wait_for(answerable)) for each in (client, other))
        gone.set()
        with pytest.raises(ClientLeft):
            await asyncio.wait_for(left, 5)
        assert not stays.done()
        answerable.set_result(None)
        await asyncio.wait_for(stays, 5)


def test_it_calls_back_at_once() -> None:
    answerable, called = Answerable(), list[Any]()
    answerable.add_done_callback(called.append)
    answerable.add_done_callback(other := lambda _: called.append("removed"))
    answerable.remove_done_callback(other)
    answerable.set_result(None)
    assert called == [answerable]
    assert answerable.done()

"""The Python client on the live list, which goes on after lost connections."""

from typing import Any
from uuid import uuid4

import httpx2
import pytest

from everthread_client import AsyncEverthread, Everthread
from tests.clients.cutting_proxy import CuttingProxy
from tests.service import Emulator, Service


def answered(client: Everthread, user: str, event: dict[str, Any]) -> None:
    """Do the next thing to a thread, as each event tells of the last one."""
    match event:
        case {"type": "snapshot"}:
            client.threads.create(user="somebody else")
            client.threads.create(user=user)
        case {"type": "thread.created", "thread_id": thread}:
            client.threads.turns.create(thread, input="Hello")
        case {"type": "thread.turn.finished", "thread_id": thread}:
            client.threads.update(thread, title="A talk")
        case {"type": "thread.updated", "thread": {"id": thread, "title": "A talk"}}:
            client.threads.delete(thread)


@pytest.mark.parametrize("of_token", [False, True])
def test_the_live_list_tells_of_each_change_of_the_users_threads(service: Service, of_token: bool) -> None:
    user = f"user-{uuid4().hex}"
    with Everthread(service.url, service.key) as client, CuttingProxy(service.port, 1100, 700, 900) as proxy:
        token = client.user_tokens.create(user=user)["token"] if of_token else service.key
        events: list[dict[str, Any]] = []
        with Everthread(proxy.url, token) as listener, listener.events(user=None if of_token else user) as stream:
            for event in stream:
                # An event that was sent while the connection broke can come again: it tells of the present state.
                seen = [(each["type"], each.get("thread", {}).get("title")) for each in events]
                events.append(event)
                if (event["type"], event.get("thread", {}).get("title")) not in seen:
                    answered(client, user, event)
                if event["type"] == "thread.deleted":
                    break
        assert not proxy.plan
        assert stream.last_event_id
    assert (events[0]["type"], events[0]["threads"]) == ("snapshot", [])
    own = events[1]["thread_id"]
    assert {event["thread_id"] for event in events[1:]} == {own}
    told = list(dict.fromkeys(event["type"] for event in events if event["type"] != "thread.updated"))
    assert told == ["snapshot", "thread.created", "thread.turn.created", "thread.turn.finished", "thread.deleted"]
    assert [event["thread"]["title"] for event in events if event["type"] == "thread.updated"][-1] == "A talk"


async def test_the_live_list_continues_from_a_place_that_was_kept(service: Service) -> None:
    user = f"user-{uuid4().hex}"
    async with AsyncEverthread(service.url, service.key) as client:
        async with client.events(user=user) as stream:
            assert (await anext(stream))["type"] == "snapshot"
            place = stream.last_event_id
        thread = await client.threads.create(user=user)
        async with client.events(user=user, last_event_id=place) as stream:
            event = await anext(stream)
        assert (event["type"], event["thread_id"]) == ("thread.created", thread["id"])


def test_a_ticket_opens_a_stream_once(service: Service) -> None:
    with Everthread(service.url, service.key) as client:
        ticket = client.stream_ticket("/v1/events")["ticket"]
    url = f"{service.url}/v1/events?ticket={ticket}"
    with httpx2.stream("GET", url) as answer:
        assert next(answer.iter_text()).startswith("id: ")
    assert httpx2.get(url).status_code == 401


def test_a_running_turn_is_resumed_after_its_output_so_far(service: Service, emulator: Emulator) -> None:
    words = " ".join(f"word{number}" for number in range(40))
    emulator.fault("slow", seconds_per_event=0.2)
    thread = service.thread()
    with Everthread(service.url, service.key) as client:
        begun = client.threads.turns.stream(thread, input=f"Echo: {words}")
        assert next(iter(begun.text()))
        turn = client.threads.turns.retrieve(thread, str(begun.turn_id))
        begun.close()
        number = turn["sequence_number"]
        assert number is not None
        assert turn["output_text"]
        with client.threads.turns.resume(thread, turn["id"], starting_after=number) as rest:
            assert turn["output_text"] + "".join(rest.text()) == words

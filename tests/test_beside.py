"""Turns that run beside another one of their thread: branches that take no place, and move the head by its end only."""

import asyncio
import time

import httpx2

from tests.service import Emulator, Service


def begun(service: Service, emulator: Emulator, thread: str) -> str:
    """A turn that takes a second."""
    emulator.fault("slow", seconds=1.0)
    turn: str = service.http.post(f"/threads/{thread}/turns", json={"input": "Echo: slow", "background": True}).json()[
        "id"
    ]
    while not emulator.calls() or "slow" not in str(emulator.calls()[-1]["body"]["input"]):
        pass
    return turn


def head(service: Service, thread: str) -> str:
    found: str = service.http.get(f"/threads/{thread}").json()["head_id"]
    return found


def test_turns_run_beside_the_one_that_is_in_progress_and_each_other(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    first = service.turn(thread, "My name is Ada.")["id"]
    slow = begun(service, emulator, thread)
    refused = service.http.post(f"/threads/{thread}/turns", json={"input": "x"})
    assert (refused.status_code, refused.headers["everthread-running-turn"]) == (409, slow)
    beside = service.turn(thread, "What is my name?", if_busy="beside", parent_id=first)
    assert (beside["parent_id"], beside["output_text"]) == (first, "Ada")
    again = service.turn(thread, "Echo: another", if_busy="beside", parent_id=first)
    assert service.ended_turn(thread)["id"] == again["id"]
    ended = service.http.post(f"/threads/{thread}/turns/{slow}/cancel").json()
    assert ended["status"] in ("completed", "cancelled")
    # The one that took the place has moved the head; what ran beside is a branch.
    assert head(service, thread) == slow
    branches = {branch["id"] for branch in service.http.get(f"/threads/{thread}/branches").json()["data"]}
    assert branches == {slow, beside["id"], again["id"]}


def test_one_beside_moves_the_head_only_where_it_still_goes_on_from_it(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    first = service.turn(thread, "Echo: one")["id"]
    second = service.turn(thread, "Echo: two", if_busy="beside")["id"]
    assert head(service, thread) == second
    service.turn(thread, "Echo: aside", if_busy="beside", parent_id=first)
    assert head(service, thread) == second


async def test_forty_requests_on_one_response_run_side_by_side(service: Service, emulator: Emulator) -> None:
    client = service.openai
    first = await client.responses.create(model="qwen3.5-plus", input="My name is Ada.")
    emulator.fault("slow", seconds=1.0, times=40)
    began = time.monotonic()
    answers = await asyncio.gather(
        *(
            client.responses.create(model="qwen3.5-plus", previous_response_id=first.id, input=f"Echo: {number}")
            for number in range(40)
        )
    )
    took = time.monotonic() - began
    assert [answer.output_text for answer in answers] == [str(number) for number in range(40)]
    assert {answer.previous_response_id for answer in answers} == {first.id}
    assert len({answer.id for answer in answers}) == 40
    assert took < 20  # One after the other, they would take forty seconds.
    # The first that came moves the conversation on; the others are branches of it.
    assert answers[0].conversation is not None
    items = await client.conversations.items.list(answers[0].conversation.id, order="asc")
    assert len(items.data) == 4
    again = await client.responses.create(
        model="qwen3.5-plus", previous_response_id=answers[7].id, input="Recite the conversation"
    )
    assert again.output_text.splitlines()[2:] == ["user: Echo: 7", "assistant: 7", "user: Recite the conversation"]


def test_edits_wait_for_what_runs_beside(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    first = service.turn(thread, "Echo: one")["id"]
    emulator.fault("slow", seconds=1.0)
    body = {"input": "Echo: two", "background": True, "if_busy": "beside", "parent_id": first}
    running = service.http.post(f"/threads/{thread}/turns", json=body).json()["id"]
    refused: httpx2.Response = service.http.delete(f"/responses/{first.replace('turn_', 'resp_')}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "thread_busy")
    service.http.post(f"/threads/{thread}/turns/{running}/cancel")
    assert service.http.delete(f"/responses/{first.replace('turn_', 'resp_')}").status_code == 200

"""A conversation played back as it happened."""

import hashlib
import json
import time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.turns.pace import Pace, deltas
from tests.service import Emulator, Process, Service, said


def played(service: Service, thread: str, **params: Any) -> list[dict[str, Any]]:
    with service.http.stream("GET", f"/threads/{thread}/replay", params=params) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = list(answer.iter_lines())
    numbers = [int(line[4:]) for line in lines if line.startswith("id: ")]
    assert numbers == list(range(len(numbers)))
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def deltas_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["delta"] for event in events if event["type"] == "response.output_text.delta"]


def test_a_thread_is_played_back_with_the_deltas_that_it_was_streamed_in(service: Service) -> None:
    thread = service.thread()
    live = service.stream(thread, "Tell me something")
    service.turn(thread, "Echo: plain")
    events = played(service, thread, speed=0)
    kinds = [event["type"] for event in events]
    assert kinds[0] == "thread.turn"
    assert events[0]["input"][0]["content"] == "Tell me something"
    assert (kinds[-1], events[-1]["turns"]) == ("thread.replayed", 2)
    assert deltas_of(events) == [*deltas_of(live), "plain"]
    assert len(deltas_of(live)) > 10
    completed = [event["response"] for event in events if event["type"] == "response.completed"]
    assert completed[0] == live[-1]["response"]


def test_the_pace_is_the_recorded_one_or_n_times_as_fast(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    emulator.fault("slow", seconds_per_event=0.03)
    began = time.monotonic()
    service.stream(thread, "Echo: a b c d e f g h i j")
    took = time.monotonic() - began
    durations = []
    for speed in (1, 10, 0):
        began = time.monotonic()
        played(service, thread, speed=speed)
        durations.append(time.monotonic() - began)
    assert took > 0.3
    assert 0.6 * took < durations[0] < took + 1.0
    assert durations[1] < durations[0] / 3
    assert durations[2] < durations[0] / 3
    began = time.monotonic()
    time.sleep(1.5)
    service.turn(thread, "Echo: later")
    began = time.monotonic()
    played(service, thread, speed=1000)
    assert time.monotonic() - began < 1
    began = time.monotonic()
    played(service, thread, longest_pause=0)
    assert time.monotonic() - began < 1


def test_any_branch_is_played_up_to_any_turn(service: Service) -> None:
    thread = service.thread()
    first = service.turn(thread, "Echo: one")
    left = service.turn(thread, "Echo: left")
    service.turn(thread, "Echo: right", parent_id=first["id"])
    assert said(played(service, thread, speed=0)) == "oneright"
    assert said(played(service, thread, speed=0, until=left["id"])) == "oneleft"
    assert said(played(service, thread, speed=0, until=first["id"])) == "one"
    assert [event["type"] for event in played(service, service.thread())] == ["thread.replayed"]
    for params, status, param in (
        ({"until": "turn_" + "0" * 32}, 404, "turn_id"),
        ({"speed": -1}, 400, "speed"),
        ({"longest_pause": -1}, 400, "longest_pause"),
    ):
        refused = service.http.get(f"/threads/{thread}/replay", params=params)
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


def test_a_part_of_a_branch_is_played_and_says_how_long_the_branch_is(service: Service) -> None:
    thread = service.thread()
    turns = [service.turn(thread, f"Echo: {number}")["id"] for number in range(5)]
    side = service.turn(thread, "Echo: side", parent_id=turns[1])["id"]

    def part(**params: Any) -> tuple[list[str], str, int, str | None]:
        events = played(service, thread, speed=0, **params)
        found = [event["turn_id"] for event in events if event["type"] == "thread.turn"]
        return found, said(events), events[-1]["turns"], events[-1]["last_id"]

    assert part(until=turns[4]) == (turns, "01234", 5, turns[4])
    assert part(until=turns[4], skip=1, limit=2) == (turns[1:3], "12", 5, turns[4])
    assert part(until=turns[4], skip=4, limit=1000) == (turns[4:], "4", 5, turns[4])
    assert part(until=turns[4], skip=5) == ([], "", 5, turns[4])
    assert part(skip=2) == ([side], "side", 3, side)  # The head's branch.
    for params, param in (
        ({"skip": -1}, "skip"),
        ({"skip": 2**31}, "skip"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
    ):
        refused = service.http.get(f"/threads/{thread}/replay", params=params)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_failed_turns_and_tool_calls_are_played_too(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    tool = {"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}}
    service.turn(thread, "Use look_up", tools=[tool], tool_choice="required")
    # No refusal of the input: after one, the same turn is tried again with less of the history.
    emulator.fault("status", status=403, code="AccessDenied")
    service.http.post(f"/threads/{thread}/turns", json={"input": "Fails"})
    failed = service.http.get(f"/threads/{thread}/turns").json()["data"][0]["id"]
    events = played(service, thread, speed=0, until=failed)
    done = [event["item"]["type"] for event in events if event["type"] == "response.output_item.done"]
    assert "function_call" in done
    assert events[-2]["type"] == "response.failed"


def test_the_terminal_shows_a_replay_and_a_call(service: Service, emulator: Emulator) -> None:
    name = f"replayed {time.time_ns()}"
    thread = service.thread(name=name)
    turn = service.turn(thread, "Echo: hello there")
    env = {"EVERTHREAD_KEY": service.key, "EVERTHREAD_URL": service.url}
    for address in (thread, name):
        process = Process("replay", address, "--speed", "0", env=env)
        assert process.ended() == 0
        assert [line for line in process.lines if line] == ["user: Echo: hello there", "assistant: hello there"]
    call = service.http.get(f"/threads/{thread}/turns/{turn['id']}/calls").json()["data"][0]
    printed = Process("call", call["id"], "--curl", env=env)
    assert printed.ended() == 0
    digits = hashlib.sha256(b"sk-tests").hexdigest()[:8]
    hint = f"It takes DASHSCOPE_API_KEY: a key of 127.0.0.1:{emulator.port} whose SHA-256 begins with {digits}."
    printed.lines.remove(hint)
    assert "\n".join(printed.lines) == service.http.get(f"/calls/{call['id']}?format=curl").text.rstrip("\n")
    assert "$DASHSCOPE_API_KEY" in printed.lines[1]
    shown = Process("call", call["id"], env=env)
    assert shown.ended() == 0
    assert json.loads("\n".join(shown.lines)) == call
    wrong = Process("call", "call_x", env=env)
    assert wrong.ended() == 1
    assert "There is no call 'call_x'" in wrong.lines[-1]
    assert service.http.get(f"/calls/{call['id'][:-1]}9").status_code == 404


@given(st.lists(st.text(min_size=1), min_size=1), st.data())
def test_every_delta_has_its_length_and_the_time_it_came_at(texts: list[str], data: st.DataObject) -> None:
    pace = Pace()
    cuts = [*sorted(data.draw(st.sets(st.integers(1, len(texts))))), len(texts)]
    expected: list[int] = []
    for place, text in enumerate(texts, 1):
        pace.add(text)
        if place in cuts:
            pace.arrived(10 * place)
            expected += [10 * place] * (place - len(expected))
    assert pace.measured() == {"ms": expected, "chars": [len(text) for text in texts]}
    assert deltas("".join(texts), pace.measured(), 0) == list(zip(texts, expected, strict=True))


@pytest.mark.parametrize("pace", [None, {"ms": [1], "chars": [3]}, {"ms": [], "chars": []}])
def test_a_text_whose_pace_is_not_known_comes_in_one_piece(pace: dict[str, Any] | None) -> None:
    assert [text for text, _ in deltas("hello", pace, 0)] == ["hello"]


@pytest.mark.parametrize("name", ["回放会话", "a\r\nX-Injected: yes", "100%", "a?b#c"])
def test_a_page_of_markdown_links_to_the_next_whatever_the_threads_name(service: Service, name: str) -> None:
    place = f"/threads/by-name/{quote(name, safe='')}"
    assert service.http.put(place).status_code == 201
    for number in range(3):
        assert service.http.post(f"{place}/turns", json={"input": f"Number {number}"}).status_code == 200
    answer = service.http.get(f"{place}/messages", params={"format": "markdown", "limit": 2})
    assert answer.status_code == 200
    assert "x-injected" not in answer.headers
    after = service.http.get(f"{service.url}{answer.links['next']['url']}")
    assert "Number 2" in after.text
    assert "Number 1" not in after.text
    service.http.delete(place)

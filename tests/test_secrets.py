"""The provider's key is shown to nobody and kept nowhere; and a client cannot use it for what is not a turn."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.provider.secret import INSTEAD, Secret
from tests.projects import Project
from tests.service import Emulator, Service

KEY = "sk-tests"
ECHO = f"Incorrect API key provided: Bearer {KEY}. {KEY}"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 401, "code": "InvalidApiKey", "message": ECHO},
        {"kind": "status", "status": 400, "code": KEY, "message": ECHO},
        {"kind": "status", "status": 500, "code": "InternalError", "message": ECHO, "times": 3},
        {"kind": "failed", "code": KEY, "message": ECHO, "after_events": 0},
        {"kind": "failed", "code": KEY, "message": ECHO, "after_events": 4},
    ],
)
def test_a_provider_that_repeats_our_key_gets_it_neither_shown_nor_stored(
    project: Project, emulator: Emulator, fault: dict[str, Any], stream: bool
) -> None:
    emulator.control("faults", [fault])
    thread = project.call("POST", "/threads", json={})["id"]
    answer = project.http.post(f"/threads/{thread}/turns", json={"input": "Echo: one two", "stream": stream})
    assert KEY not in answer.text
    (turn,) = project.call("GET", f"/threads/{thread}/turns")["data"]
    assert turn["error"] is not None
    assert "[the provider key]" in str(turn["error"])
    for place in (f"/threads/{thread}/turns/{turn['id']}/calls", f"/threads/{thread}/export"):
        assert KEY not in project.http.get(place).text
    rows = project.sql("SELECT (t.*)::text AS row FROM turns t WHERE project_id = $1")
    assert rows
    assert not [row for row in rows if KEY in row["row"]]


@given(st.lists(st.sampled_from([KEY, "sk-", "s", "tests", "a text"]), max_size=8), st.data())
def test_a_key_is_found_wherever_a_stream_is_cut(words: list[str], data: st.DataObject) -> None:
    whole = "".join(words).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def read() -> bytes:
        return b"".join([chunk async for chunk in Secret(KEY).hidden_in(stream())])

    assert asyncio.run(read()) == whole.replace(KEY.encode(), INSTEAD)


def test_of_a_clients_headers_only_those_on_a_list_reach_the_provider(service: Service, emulator: Emulator) -> None:
    sent = {
        "X-DashScope-Session-Cache": "enable",
        "X-DashScope-WorkSpace": "other",
        "X-DashScope-Async": "enable",
        "X-DashScope-DataInspection": "{}",
    }
    service.http.post(f"/threads/{service.thread()}/turns", json={"input": "Hi"}, headers=sent)
    service.http.post("/responses", json={"input": "Hi"}, headers=sent)
    body = {"model": "qwen3.5-plus", "messages": [{"role": "user", "content": "Hi"}]}
    service.http.post("/chat/completions", json=body, headers=sent)
    calls = emulator.calls()
    assert len(calls) == 2
    for call in calls:
        passed_on = {name for name in call["headers"] if name.startswith("x-dashscope")}
        assert passed_on == {"x-dashscope-session-cache"}

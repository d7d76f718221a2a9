"""A turn belongs to one request: nobody is given another's, whatever is retried, repeated or lost."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2
import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from openai import AsyncOpenAI

from tests.service import Emulator, Service, read_events, said

RETRY = {"x-stainless-retry-count": "1"}
ANSWERS_IN = 0.8
LEAVES_AFTER = 0.4


def ask_and_leave(
    service: Service, path: str, body: Any, after: float = LEAVES_AFTER, key: str | None = None, **headers: str
) -> None:
    """Send a request, and go away without having read a byte of its answer."""
    raw = orjson.dumps(body)
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        head = {
            "Host": "localhost",
            "Authorization": f"Bearer {key or service.key}",
            "Content-Length": len(raw),
            **headers,
        }
        lines = [f"POST /v1{path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        connection.sendall("\r\n".join(lines).encode() + raw)
        time.sleep(after)


def turn_count(service: Service, thread: str) -> int:
    return len(service.http.get(f"/threads/{thread}/turns", params={"limit": 100}).json()["data"])


def test_the_same_words_retried_in_another_thread_are_another_turn(service: Service) -> None:
    names = [uuid4().hex for _ in range(2)]
    ada, bob = (service.thread(name=name) for name in names)
    for place in ("", "by-name/"):
        first, second = (f"/threads/{place}{value}/turns" for value in (names if place else (ada, bob)))
        answered = service.http.post(first, json={"input": "hi"})
        retried = service.http.post(second, json={"input": "hi"}, headers=RETRY)
        assert retried.headers["everthread-thread"] == bob
        assert retried.json()["id"] != answered.json()["id"]
    assert turn_count(service, bob) == 2


async def test_two_users_with_the_same_first_words_never_share_a_conversation(
    service: Service, emulator: Emulator
) -> None:
    words = f"Hi! {uuid4().hex}"
    emulator.fault("slow", seconds=ANSWERS_IN)
    ask_and_leave(service, "/responses", {"input": words})
    client = AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0)
    first = await client.responses.create(model="qwen3.5-plus", input=words)
    second = await client.responses.create(model="qwen3.5-plus", input=words, extra_headers=RETRY)
    assert first.id != second.id
    assert first.conversation != second.conversation
    await client.responses.delete(second.id)
    assert (await client.responses.retrieve(first.id)).output_text == first.output_text
    await client.close()


def test_yes_said_again_is_a_new_turn_though_the_client_had_to_retry_it(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    first = service.turn(thread, "yes")
    emulator.fault("status", status=429, times=3)
    throttled = service.http.post(f"/threads/{thread}/turns", json={"input": "yes"})
    assert throttled.status_code == 429
    again = service.http.post(f"/threads/{thread}/turns", json={"input": "yes"}, headers=RETRY)
    assert again.json()["id"] != first["id"]
    assert again.json()["parent_id"] == first["id"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_automatic_retry_takes_over_what_its_client_left_before_the_first_byte(
    service: Service, emulator: Emulator, stream: bool
) -> None:
    thread, body = service.thread(), {"input": "Echo: once", "stream": stream}
    emulator.fault("slow", seconds=1.5, seconds_per_event=0.3)
    place = f"/threads/{thread}/turns"
    # Of a stream, the first byte comes when the provider has said something.
    ask_and_leave(service, place, body, 0.25 if stream else LEAVES_AFTER)
    time.sleep(0.1)
    answer = service.http.post(place, json=body, headers=RETRY)
    text = said(read_events(answer.text.splitlines())) if stream else answer.json()["output_text"]
    assert text == "once"
    assert len(emulator.calls()) == 1
    # It has been given to that retry: another one in the same words gets a turn of its own.
    other = service.http.post(place, json=body, headers=RETRY)
    assert other.headers["everthread-turn"] != answer.headers["everthread-turn"]
    assert len(emulator.calls()) == 2


def test_a_user_who_retries_in_anothers_thread_is_told_that_there_is_none(service: Service, emulator: Emulator) -> None:
    bob, ann = (service.http.post("/user_tokens", json={"user": uuid4().hex}).json() for _ in range(2))
    thread = service.thread(user=bob["user"])
    place, body = f"/threads/{thread}/turns", {"input": "Echo: a secret"}
    emulator.fault("slow", seconds=1.5, seconds_per_event=0.3)
    ask_and_leave(service, place, body, key=bob["token"])
    time.sleep(0.1)
    for headers in (RETRY, {**RETRY, "Idempotency-Key": "1"}, {}):
        asked = {"Authorization": f"Bearer {ann['token']}", **headers}
        answer = service.http.post(place, json=body, headers=asked)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "thread_not_found")
        assert "everthread-turn" not in answer.headers
    own = service.http.post(place, json=body, headers={"Authorization": f"Bearer {bob['token']}", **RETRY})
    assert own.json()["output_text"] == "a secret"
    assert len(emulator.calls()) == 1


def test_a_retry_takes_over_nothing_once_the_thread_has_gone_on(service: Service, emulator: Emulator) -> None:
    thread = service.thread()
    place = f"/threads/{thread}/turns"
    emulator.fault("slow", seconds=ANSWERS_IN)
    ask_and_leave(service, place, {"input": "yes"})
    service.turn(thread, "Something else.", if_busy="wait")
    again = service.http.post(place, json={"input": "yes"}, headers=RETRY)
    assert turn_count(service, thread) == 3
    assert len(emulator.calls()) == 3
    assert "idempotent-replayed" not in again.headers


def test_a_request_that_waits_in_the_queue_of_a_busy_thread_is_not_asked_once_its_client_has_gone(
    service: Service, emulator: Emulator
) -> None:
    thread = service.thread()
    place = f"/threads/{thread}/turns"
    emulator.fault("slow", seconds=1.5)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(service.turn, thread, "Echo: first")
        emulator.is_asked()
        ask_and_leave(service, place, {"input": "Echo: second", "if_busy": "wait"})
        running.result()
    time.sleep(0.5)
    assert [turn["output_text"] for turn in service.http.get(place).json()["data"]] == ["first"]


def test_an_idempotency_key_belongs_to_what_its_request_addresses(service: Service, emulator: Emulator) -> None:
    headers, body = {"Idempotency-Key": uuid4().hex}, {"input": "Echo: mine"}
    ada, bob = service.thread(), service.thread()
    places = [f"/threads/{ada}/turns", f"/threads/{bob}/turns", "/responses"]
    answers = [service.http.post(place, json=body, headers=headers) for place in places]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["everthread-turn"] for answer in answers}) == 3
    assert len({answer.headers["everthread-thread"] for answer in answers}) == 3
    assert all("idempotent-replayed" not in answer.headers for answer in answers)
    again = [service.http.post(place, json=body, headers=headers) for place in places]
    assert [a.headers["everthread-turn"] for a in again] == [a.headers["everthread-turn"] for a in answers]
    assert len(emulator.calls()) == 3


@pytest.mark.parametrize(("status", "asked_again"), [(429, True), (503, True), (400, False)])
def test_a_key_is_asked_with_again_if_its_failure_is_one_that_clients_retry(
    service: Service, emulator: Emulator, status: int, asked_again: bool
) -> None:
    thread, headers = service.thread(), {"Idempotency-Key": uuid4().hex}
    emulator.fault(
        "status", status=status, times=3 if asked_again else 1, code=None if asked_again else "InvalidParameter"
    )
    for _ in range(2):
        answer = service.http.post(f"/threads/{thread}/turns", json={"input": "Echo: at last"}, headers=headers)
    if asked_again:
        assert answer.json()["output_text"] == "at last"
        assert len(emulator.calls()) == 4
    else:
        assert answer.status_code == 400
        assert len(emulator.calls()) == 1


def test_a_key_is_free_when_its_turn_is_deleted_and_when_its_time_is_over(
    service_env: dict[str, str], emulator: Emulator
) -> None:
    service = Service(env={**service_env, "EVERTHREAD_IDEMPOTENCY_KEY_SECONDS": "1"})
    thread, headers = service.thread(), {"Idempotency-Key": uuid4().hex}

    def send() -> str:
        answer = service.http.post(f"/threads/{thread}/turns", json={"input": "Hi"}, headers=headers)
        turn: str = answer.json()["id"]
        return turn

    first = send()
    assert send() == first
    time.sleep(1.1)
    second = send()
    assert second != first
    service.http.delete(f"/responses/resp_{second.removeprefix('turn_')}")
    assert send() not in (first, second)
    service.stop()


def test_a_key_whose_worker_died_before_a_word_was_said_is_asked_with_again(
    service: Service, service_env: dict[str, str], emulator: Emulator
) -> None:
    doomed = Service(env={**service_env, "EVERTHREAD_LEASE_SECONDS": "1"})
    other = Service(env={**service_env, "EVERTHREAD_LEASE_SECONDS": "1"})
    thread, headers, body = service.thread(), {"Idempotency-Key": uuid4().hex}, {"input": "Echo: asked"}
    emulator.fault("stall", seconds=60)
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(doomed.http.post, f"/threads/{thread}/turns", json=body, headers=headers)
        emulator.is_asked()
        doomed.process.stop(signal.SIGKILL)
        with pytest.raises(httpx2.HTTPError):
            lost.result()
    joined = other.http.post(f"/threads/{thread}/turns", json=body, headers=headers)
    assert (joined.status_code, joined.json()["error"]["code"]) == (503, "interrupted")
    assert other.http.post(f"/threads/{thread}/turns", json=body, headers=headers).json()["output_text"] == "asked"
    assert turn_count(service, thread) == 2
    other.stop()


@pytest.mark.parametrize("value", ["²", "9" * 400, "-1", "1e9", "nan"])
@pytest.mark.parametrize("header", ["x-stainless-retry-count", "x-stainless-read-timeout"])
def test_what_a_header_of_the_client_says_of_its_retries_is_checked(service: Service, header: str, value: str) -> None:
    headers = {**RETRY, header: value}
    raw = [(name.encode(), text.encode()) for name, text in headers.items()]
    answer = service.http.post(f"/threads/{service.thread()}/turns", json={"input": "Hi"}, headers=raw)
    assert answer.status_code == 200


@dataclass
class Asked:
    """Message of a client that is sent once or several times."""

    path: str
    words: str
    key: str | None = None
    sent: int = 0
    answered: str | None = None
    """The turn whose answer was given to it."""


@dataclass
class World:
    """Everything that was asked, and who was given which turn."""

    threads: list[str] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    given: dict[str, Asked] = field(default_factory=dict)


class Users(RuleBasedStateMachine):
    """Users who say the same few words, in the same few threads, over connections that get lost."""

    service: Service
    emulator: Emulator

    def __init__(self) -> None:
        super().__init__()
        self.emulator.reset()
        self.world = World([self.service.thread() for _ in range(2)])
        self.tag = uuid4().hex[:8]

    def _send(self, asked: Asked) -> httpx2.Response:
        headers = {"x-stainless-retry-count": str(asked.sent)}
        if asked.key is not None:
            headers["Idempotency-Key"] = asked.key
        asked.sent += 1
        return self.service.http.post(asked.path, json=self._body(asked), headers=headers)

    def _body(self, asked: Asked) -> dict[str, Any]:
        return {"input": f"{asked.words} {self.tag}", "if_busy": "wait"}

    def _take(self, asked: Asked, answer: httpx2.Response) -> None:
        if answer.status_code != 200:
            assert answer.status_code == 429, answer.text
            return
        turn = answer.headers["everthread-turn"]
        owner = self.world.given.setdefault(turn, asked)
        assert owner is asked, f"{turn} was given to {owner} and to {asked}"
        assert asked.answered in (None, turn), f"{asked} was answered twice"
        asked.answered = turn
        thread = asked.path.split("/")[2] if asked.path.startswith("/threads/") else None
        if thread is not None:
            shown = self.service.http.get(f"/threads/{thread}/turns/{turn}").json()
            assert shown["thread_id"] == thread
            assert shown["input"][0]["content"] == f"{asked.words} {self.tag}"

    @rule(place=st.integers(0, 2), words=st.sampled_from(["yes", "hi"]), keyed=st.booleans())
    def somebody_asks(self, place: int, words: str, keyed: bool) -> None:
        asked = self._new(place, words, keyed)
        self._take(asked, self._send(asked))

    @rule(place=st.integers(0, 2), words=st.sampled_from(["yes", "hi"]), keyed=st.booleans(), retried=st.booleans())
    def somebody_loses_the_connection(self, place: int, words: str, keyed: bool, retried: bool) -> None:
        asked = self._new(place, words, keyed)
        self.emulator.fault("slow", seconds=0.5)
        headers = {} if asked.key is None else {"Idempotency-Key": asked.key}
        ask_and_leave(self.service, asked.path, self._body(asked), 0.3, **headers)
        asked.sent += 1
        if retried:
            time.sleep(0.05)
            self._take(asked, self._send(asked))

    @rule(place=st.integers(0, 2), words=st.sampled_from(["yes", "hi"]), keyed=st.booleans())
    def somebody_is_throttled_and_tries_again(self, place: int, words: str, keyed: bool) -> None:
        asked = self._new(place, words, keyed)
        self.emulator.fault("status", status=429, retry_after=30)
        self._take(asked, self._send(asked))
        self._take(asked, self._send(asked))
        assert asked.answered is not None

    @precondition(lambda self: any(asked.key for asked in self.world.asked))
    @rule(data=st.data())
    def somebody_sends_a_key_again(self, data: st.DataObject) -> None:
        asked = data.draw(st.sampled_from([asked for asked in self.world.asked if asked.key]))
        self._take(asked, self._send(asked))

    @invariant()
    def no_key_was_answered_twice(self) -> None:
        turns = [asked.answered for asked in self.world.asked if asked.answered]
        assert len(turns) == len(set(turns))

    def _new(self, place: int, words: str, keyed: bool) -> Asked:
        paths = [f"/threads/{thread}/turns" for thread in self.world.threads] + ["/responses"]
        asked = Asked(paths[place], words, uuid4().hex if keyed else None)
        self.world.asked.append(asked)
        return asked


def test_no_answer_is_ever_given_to_two_requests(service: Service, emulator: Emulator) -> None:
    Users.service, Users.emulator = service, emulator
    run_state_machine_as_test(
        Users,
        settings=settings(
            max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

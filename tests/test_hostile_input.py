"""Inputs that are made to be expensive, sent to a running service: nobody else waits for them, nor does its end."""

import base64
import json
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from uuid import uuid4

import httpx2
import psutil
import pytest

from app.process.killable import Killable, LimitExceeded
from app.settings import environment
from tests.projects import Project
from tests.service import Emulator, Service, eventually
from tests.test_structured_output import said

SLOWER = 10
"""The most that /healthz takes beside a hostile input, as a multiple of its unloaded p99."""

FLOOR_SECONDS = 0.5
"""... or this, where that is less: the machine of the tests has other work to do."""

MOST_SECONDS = 1.0

ATTACK_SECONDS = 3.0

TRIES = 3


def doubled(levels: int) -> dict[str, Any]:
    """A schema that each of its levels applies twice."""
    defs: dict[str, Any] = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**defs, f"d{levels}": {"type": "object"}}, "$ref": "#/$defs/d0"}


def asked(schema: dict[str, Any]) -> dict[str, Any]:
    return {"input": "Hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}


SCHEMAS = {
    "doubling": doubled(40),
    "a pattern": {"additionalProperties": {"pattern": "^(a+)+$"}},
    "a pattern of names": {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
}
ANSWER = json.dumps({"a" * 60 + "!": "a" * 60 + "!"})


@pytest.fixture(scope="module")
def attacked(service_env: dict[str, str]) -> Iterator[Service]:
    """A service with one worker that takes bodies of 32 MB, as by default."""
    service = Service(env={**service_env, "EVERTHREAD_MAX_BODY_BYTES": str(32 * 1024 * 1024)})
    yield service
    assert service.stop() == 0


@contextmanager
def polled(service: Service) -> Iterator[list[float]]:
    """The seconds that /healthz takes, again and again, until the context ends."""
    took: list[float] = []
    over = threading.Event()

    def poll() -> None:
        connection = HTTPConnection("127.0.0.1", service.port)
        while not over.is_set():
            begun = time.perf_counter()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            took.append(time.perf_counter() - begun)
            time.sleep(0.005)
        connection.close()

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield took
    finally:
        over.set()
        thread.join()


def p99(took: list[float]) -> float:
    return sorted(took)[int(len(took) * 0.99)]


def expect_no_wait(service: Service, attack: Any) -> None:
    """Hold /healthz beside attacks, one after the other, against /healthz without them."""
    # On a busy machine a poll may wait for the processor: one quiet try is proof enough.
    tried: list[tuple[float, float, float]] = []
    while len(tried) < TRIES:
        with polled(service) as unloaded:
            time.sleep(ATTACK_SECONDS / 2)
        with polled(service) as loaded:
            until = time.monotonic() + ATTACK_SECONDS
            while time.monotonic() < until:
                attack()
                time.sleep(0.5)
        tried.append((p99(unloaded), p99(loaded), max(loaded)))
        if p99(loaded) < max(SLOWER * p99(unloaded), FLOOR_SECONDS) and max(loaded) < MOST_SECONDS:
            return
    pytest.fail(f"p99 of /healthz without attacks, with them, and the longest: {tried}")


def of_many(head: bytes, element: bytes, times: int, tail: bytes = b"]}") -> bytes:
    return head + b",".join([element] * times) + tail


CALL_OUTPUT = b'{"type":"function_call_output","call_id":"c","output":"a"}'
MARKS = [{"role": "user", "content": "a" + "\u0301\u0316" * 100_000}]
# Made when they are sent: they take 200 MB together.
BODIES: dict[str, tuple[str, Callable[[], bytes], int]] = {
    "empty arrays": ("/threads", lambda: of_many(b'{"title": [', b"[]", 10_000_000), 400),
    "open arrays": ("/threads", lambda: b'{"title": ' + b"[" * 31_000_000, 400),
    "numbers": ("/threads", lambda: of_many(b'{"title": [', b"1", 15_000_000), 400),
    "empty strings": ("/threads", lambda: of_many(b'{"title": [', b'""', 10_000_000), 400),
    "brackets in a string": ("/threads", lambda: b'{"title": "' + b"[]{}," * 6_000_000 + b'"}', 400),
    "backslashes": ("/threads", lambda: b'{"title": "' + rb"\"" * 15_000_000 + b'"}', 400),
    "wrong elements": ("/responses", lambda: of_many(b'{"input": "Hi", "include": [', b"1", 190_000), 400),
    "unknown fields": ("/threads", lambda: b"{" + b",".join(b'"k%d":1' % n for n in range(190_000)) + b"}", 400),
    "a NUL behind a long key": (
        "/threads", lambda: b'{"metadata": {"' + b"k" * 1_000_000 + b'": [' + b"1," * 150_000 + b'"\\u0000"]}}', 400
    ),
    "unknown limits": (
        "/admin/projects/proj_0/keys",
        lambda: b'{"name": "a", "limits": {' + b",".join(b'"k%d":1' % n for n in range(190_000)) + b"}}", 400
    ),
    "wrong tools": ("/responses/input_tokens", lambda: of_many(b'{"tools": [', b"1", 190_000), 400),
    "wrong records": ("/threads/import", lambda: of_many(b'{"turns": [', b"{}", 190_000), 400),
    "combining marks": ("/threads", lambda: json.dumps({"messages": MARKS}).encode(), 201),
    "many items": ("/threads", lambda: of_many(b'{"messages": [', b'{"role":"user","content":"a"}', 60_000), 400),
    "many parts": (
        "/responses", lambda: of_many(b'{"input": [{"role":"user","content": [', b'"a"', 190_000, b"]}]}"), 400
    ),
    "many outputs": ("/responses/input_tokens", lambda: of_many(b'{"input": [', CALL_OUTPUT, 40_000), 400),
}  # fmt: skip


def long_but(names: Iterable[str], *in_the_gate: str) -> list[Any]:
    """Parameters of which these are in the gate and the others are long."""
    return [name if name in in_the_gate else pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.mark.parametrize("name", long_but(BODIES, "empty arrays", "unknown fields", "combining marks", "many outputs"))
def test_nobody_waits_for_a_body_that_is_made_to_be_expensive(attacked: Service, emulator: Emulator, name: str) -> None:
    path, made, status = BODIES[name]
    body = made()

    def attack() -> None:
        answer = attacked.http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, answer.text[:200]

    expect_no_wait(attacked, attack)


@pytest.mark.parametrize("name", long_but(SCHEMAS, "doubling"))
def test_a_schema_that_is_made_to_be_expensive_is_given_up_and_said_to_be_unchecked(
    attacked: Service, emulator: Emulator, name: str
) -> None:
    emulator.fault("answer", body=said(ANSWER), times=100)

    def attack() -> None:
        answer = attacked.http.post("/responses", json=asked(SCHEMAS[name])).json()
        assert answer["status"] == "completed"
        assert answer["format_check"]["fits"] is None
        assert answer["format_check"]["fault"].startswith("not checked: ")

    expect_no_wait(attacked, attack)


def test_a_projects_expensive_schemas_leave_anothers_requests_alone(
    attacked: Service, emulator: Emulator, project: Project
) -> None:
    emulator.fault("answer", body=said(ANSWER), times=100)
    other = httpx2.Client(base_url=f"{attacked.url}/v1", headers={"Authorization": f"Bearer {project.key}"}, timeout=60)
    with ThreadPoolExecutor(8) as pool:
        attacks = [pool.submit(attacked.http.post, "/responses", json=asked(SCHEMAS["doubling"])) for _ in range(8)]
        time.sleep(0.5)
        begun = time.monotonic()
        plain = other.post("/responses", json={"input": "Hi"})
        checked = other.post("/responses", json=asked({"type": "object"}))
        took = time.monotonic() - begun
        still = sum(not attack.done() for attack in attacks)
        assert {attack.result().json()["format_check"]["fits"] for attack in attacks} == {None}
    assert plain.status_code == 200
    assert checked.json()["format_check"]["fits"] is True
    assert still > 0, took  # The other's were answered in the midst of the attack.


def test_a_schema_has_a_largest_size(attacked: Service, emulator: Emulator) -> None:
    for schema in ({"enum": ["x" * 200_000]}, {"enum": [1] * 20_001}):
        answer = attacked.http.post("/responses", json=asked(schema))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "text.format")
    assert not emulator.calls()  # Nothing was spent.


def test_a_message_that_is_made_to_be_expensive_to_show_is_shown_as_text(attacked: Service, emulator: Emulator) -> None:
    thread = attacked.thread()
    table = "|a" * 50 + "\n" + "|-" * 50 + "\n" + "|x\n" * 4000
    for text in (table, "[" * 20_000, "```easytrieve\n" + "\t" * 2000 + "\n```"):
        attacked.turn(thread, text)
    with httpx2.Client(base_url=attacked.url, timeout=60) as browser:
        origin = {"Origin": attacked.url, "Sec-Fetch-Site": "same-origin"}
        browser.post("/console/sign-in", data={"key": attacked.key}, headers=origin)

        def attack() -> None:
            page = browser.get(f"/console/threads/{thread}")
            assert page.status_code == 200
            assert "easytrieve" in page.text or "<pre" in page.text

        expect_no_wait(attacked, attack)


def test_search_is_bounded_in_words_and_in_what_it_shows(attacked: Service, emulator: Emulator) -> None:
    thread = attacked.thread(messages=[{"role": "user", "content": "lorem ipsumq dolor " * 5000}])
    (hit,) = attacked.http.get("/search", params={"q": "ipsumq", "thread": thread}).json()["data"]
    assert 1 <= len(hit["fragments"]) <= 3
    assert len(json.dumps(hit)) < 10_000
    for q in (" ".join(f"w{n}" for n in range(33)), "a " * 500, '"' + "a." * 65 + '"', "字" * 70):
        answer = attacked.http.get("/search", params={"q": q})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "q")
        assert answer.json()["error"]["code"] == "too_many_words"
    assert attacked.http.get("/search", params={"q": " ".join(f"w{n}" for n in range(32))}).status_code == 200


@pytest.mark.parametrize("moment", ["2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_cursor_whose_moment_nobody_can_express_is_refused(attacked: Service, moment: str) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps([moment, 1, uuid4().hex, "user"]).encode()).decode()
    answer = attacked.http.get("/search", params={"q": "a", "after": f"hit_{cursor}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("name", long_but(SCHEMAS, "a pattern"))
def test_a_service_that_is_told_to_stop_during_a_check_keeps_the_answer_and_ends(
    fresh_env: dict[str, str], emulator: Emulator, name: str
) -> None:
    service = Service(env={**fresh_env, "EVERTHREAD_DRAIN_SECONDS": "1"})
    emulator.fault("output", output=json.loads(said(ANSWER))["output"], times=100)
    turns = [service.http.post("/responses", json={**asked(SCHEMAS[name]), "background": True}) for _ in range(8)]
    emulator.is_asked(8)
    begun = time.monotonic()
    worker = psutil.Process(service.process.process.pid)
    assert service.stop() == 0
    assert time.monotonic() - begun < 1 + 8
    assert not worker.is_running()
    after = Service(env=fresh_env)
    for turn in turns:
        kept = after.http.get(f"/responses/{turn.json()['id']}").json()
        assert kept["status"] == "completed", kept["error"]
        assert kept["output"][0]["content"][0]["text"] == ANSWER
        assert kept["format_check"]["fits"] is None
    after.stop()


async def test_a_task_is_killed_and_the_next_one_is_done_by_another_process() -> None:
    killable, project = Killable(environment()), uuid4()
    for _ in range(2):
        with pytest.raises(LimitExceeded):
            await killable.run(project, "time:sleep_for_ever")
        with pytest.raises(LimitExceeded):
            await killable.run(project, "app.provider.json_schema:check", doubled(40), "{}")
        assert await killable.run(project, "app.provider.json_schema:check", {}, "{}") == [None, None]
    await killable.stop()
    assert not [each for each in psutil.Process().children() if "app.process.killable" in each.cmdline()]


def test_the_processes_know_no_secret_and_end_with_their_parent() -> None:
    script = (
        "import asyncio, uuid\nfrom app.process.killable import Killable\n"
        "async def main():\n"
        "    await Killable({}).run(uuid.uuid4(), 'app.provider.json_schema:check', {}, '{}')\n"
        "    print('ready', flush=True)\n    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"DASHSCOPE_API_KEY": "sk-x"}) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        (child,) = psutil.Process(parent.pid).children()
        assert "DASHSCOPE_API_KEY" not in child.environ()
        parent.kill()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_two_calls_that_are_made_to_be_expensive_to_compare_are_not_compared(
    attacked: Service, emulator: Emulator
) -> None:
    thread = attacked.thread()
    for seed in (1, 2):
        numbers = random.Random(seed)
        turn = attacked.turn(thread, "Hi", extra=[numbers.randrange(120) for _ in range(20_000)])
    with httpx2.Client(base_url=attacked.url, timeout=60) as browser:
        browser.post("/console/sign-in", data={"key": attacked.key}, headers={"Sec-Fetch-Site": "same-origin"})

        def attack() -> None:
            page = browser.get(f"/console/threads/{thread}/turns/{turn['id']}/details?tab=sent")
            assert page.status_code == 200
            assert "Copy as curl" in page.text

        expect_no_wait(attacked, attack)


def heif(items: int) -> bytes:
    """An image with a table of contents in which each of its items has 65,535 places of no length."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">L4s", 8 + len(content), kind) + content

    places = b"".join(struct.pack(">HHH", number, 0, 65_535) for number in range(items))
    table = box(b"iloc", bytes(6) + struct.pack(">H", items) + places)
    return box(b"ftyp", b"heic\0\0\0\0heic") + box(b"meta", bytes(4) + table)


@pytest.mark.parametrize(
    "image",
    [
        heif(400),
        b'<svg width="' + b"9" * 900 + b'" height="5">',
        b"P1 " + b"9" * 4000 + b" 5\n",
    ],
    ids=["a table of 26 million places", "an infinite width", "a width that is no float"],
)
def test_an_image_that_is_made_to_be_expensive_or_wrong_is_counted_as_any_other(
    attacked: Service, emulator: Emulator, image: bytes
) -> None:
    url = f"data:image/x;base64,{base64.b64encode(image).decode()}"
    body = {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}
    process = psutil.Process(attacked.process.process.pid)
    before, begun = process.memory_info().rss, time.monotonic()
    answer = attacked.http.post("/responses/input_tokens", json=body)
    assert answer.status_code == 200
    assert 0 < answer.json()["input_tokens"] < 2000
    assert time.monotonic() - begun < 5
    assert process.memory_info().rss - before < 300_000_000  # The vocabulary may have been loaded meanwhile.

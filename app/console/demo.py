"""`everthread demo`: conversations to look at, in several languages, with the emulator and over a moved clock."""

import base64
import random
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2

from app.transfer.client import refusal

HERE = Path(__file__).parent

SEED = 7
THREADS = 100
SOME = 7
"""Conversations after which one with a failure is mixed in."""
EXPIRY_DAYS = 8.0
"""Between two halves of the demo: response ids live seven days."""


@dataclass(frozen=True, slots=True)
class Script:
    """A conversation: its title, and what is asked and answered by turns. `{name}` and `{place}` are filled in."""

    title: str
    model: str
    turns: list[tuple[str, str]]


def scripts() -> list[Script]:
    found = tomllib.loads((HERE / "demo.toml").read_text())["script"]
    return [
        Script(each["title"], each["model"], [(turn["asked"], turn["answered"]) for turn in each["turn"]])
        for each in found
    ]


NAMES = ("Ada", "Grace", "李伟", "王芳", "佐藤", "Lucía", "Jonas", "ليلى", "Amélie", "Ravi", "Olena", "Tom")
PLACES = ("Kyoto", "杭州", "Lisbon", "Hamburg", "Sevilla", "Lyon", "成都", "Tbilisi", "京都", "Cusco")
PLANS = ("free", "pro", "team")
WEATHER = {
    "type": "function", "name": "get_weather", "description": "The weather at a place.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}  # fmt: skip


FAILURES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("Translate this leaflet", "qwen3.5-plus", {"kind": "status", "status": 400, "code": "DataInspectionFailed",
     "message": "Input data may contain inappropriate content."}),
    ("Summarize 400 pages", "qwen-flash", {"kind": "status", "status": 400, "code": "InvalidParameter",
     "message": "Range of input length should be [1, 98304]"}),
    ("A poem about the sea", "qwen3-max", {"kind": "status", "status": 403, "code": "Model.AccessDenied",
     "message": "Model access denied."}),
    ("Minutes of the meeting", "qwen3.5-plus", {"kind": "failed", "code": "server_error",
     "message": "The model failed."}),
    ("A very long story", "qwen-flash", {"kind": "incomplete", "reason": "max_output_tokens"}),
)  # fmt: skip
"""Turns that fail or end early: title, model, and the fault of the emulator."""


class CannotShow(Exception):
    """Says in a sentence why there is no demo."""


def run(url: str, key: str, emulator: str, report: Callable[[str], object]) -> int:
    """Have the conversations, and say how many there are.

    Args:
        emulator: where the emulator is that the service asks: what it answers is the scripts', and its clock is moved.

    Raises:
        CannotShow: the service asks another provider.
        httpx2.TransportError: one of the two is unavailable.
    """
    with (
        httpx2.Client(base_url=f"{url}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60) as http,
        httpx2.Client(base_url=emulator, timeout=60) as provider,
    ):
        demo = _Demo(http, provider, random.Random(SEED))  # noqa: S311
        before = len(demo.asked())
        threads = [demo.begin(number) for number in range(THREADS)]
        if len(demo.asked()) == before:
            raise CannotShow(f"The service does not ask the emulator at {emulator}: say --emulator")
        report(f"{THREADS} conversations have begun.")
        demo.move(EXPIRY_DAYS)
        demo.specials()
        failures = demo.failures()
        for number, (thread, script, filled) in enumerate(threads):
            demo.go_on(thread, script, filled)
            if (THREADS - number) % SOME == 3:
                next(failures, None)
        for _ in failures:
            pass
        demo.move(-EXPIRY_DAYS)
    return THREADS


class _Demo:
    def __init__(self, http: httpx2.Client, provider: httpx2.Client, chance: random.Random) -> None:
        self._http = http
        self._provider = provider
        self._chance = chance
        self._scripts = scripts()

    def asked(self) -> list[Any]:
        answer = self._provider.get("/_emulator/calls")
        if answer.status_code != 200:
            raise CannotShow(f"There is no emulator at {self._provider.base_url}: say --emulator")
        calls: list[Any] = answer.json()["data"]
        return calls

    def move(self, days: float) -> None:
        self._provider.post("/_emulator/clock", json={"advance_seconds": days * 86_400}).raise_for_status()

    def begin(self, number: int) -> tuple[str, Script, dict[str, str]]:
        """A thread with the first half of its script."""
        script = self._scripts[number % len(self._scripts)]
        filled = {"name": self._chance.choice(NAMES), "place": self._chance.choice(PLACES)}
        user = f"{filled['name'].lower()}@example.com"
        made = self._sent("POST", "/threads", {
            "title": script.title.format(**filled), "user": user, "name": f"demo:{uuid4().hex[:8]}",
            "metadata": {"plan": self._chance.choice(PLANS), "channel": self._chance.choice(("web", "app"))},
        })  # fmt: skip
        self._say(made["id"], script, *script.turns[0], filled)
        return made["id"], script, filled

    def go_on(self, thread: str, script: Script, filled: dict[str, str]) -> None:
        """The rest of it, after the ids of its first half have expired."""
        for asked, answered in script.turns[1:]:
            turn = self._say(thread, script, asked, answered, filled)
            if self._chance.random() < 0.15:
                self._sent("POST", f"/threads/{thread}/turns/{turn['id']}/feedback", {"score": 1, "label": "helpful"})
        if self._chance.random() < 0.1:
            self._sent("PATCH", f"/threads/{thread}", {"archived": True})

    def specials(self) -> None:
        """Create rarer conversations: tools, branches, searches, reasoning, an image, failures, a long one."""
        thread = self._sent("POST", "/threads", {"title": "Weather by a tool", "user": "ada@example.com"})["id"]
        call = {"type": "function_call", "id": f"fc_{uuid4().hex}", "call_id": f"call_{uuid4().hex}",
                "name": "get_weather", "arguments": '{"place": "Lisbon"}', "status": "completed"}  # fmt: skip
        self._answer(thread, {"input": "What is the weather in Lisbon?", "tools": [WEATHER]}, [call])
        output = {
            "type": "function_call_output",
            "call_id": call["call_id"],
            "output": '{"sky": "clear", "celsius": 21}',
        }
        self._answer(
            thread, {"input": [output], "tools": [WEATHER]}, [_message("It is clear in Lisbon, at **21 °C**.")]
        )
        thread = self._sent("POST", "/threads", {"title": "News about batteries", "user": "tom@example.com"})["id"]
        sources = [
            {"type": "url", "url": "https://example.com/batteries"},
            {"type": "url", "url": "https://example.org/grid"},
        ]
        self._answer(thread, {"input": "What is new with batteries?", "tools": [{"type": "web_search"}]}, [
            {"type": "reasoning", "id": f"rs_{uuid4().hex}",
             "summary": [{"type": "summary_text", "text": "The user wants news. I search, and compare two sources."}]},
            {"type": "web_search_call", "id": f"ws_{uuid4().hex}", "status": "completed",
             "action": {"type": "search", "query": "battery news", "sources": sources}},
            _message("Two things stand out: cheaper sodium cells, and larger stores beside solar parks."),
        ])  # fmt: skip
        thread = self._sent("POST", "/threads", {"title": "A slogan, three times", "user": "olena@example.com"})["id"]
        first = self._answer(thread, {"input": "A slogan for a bakery?"}, [_message("Bread that gets you up.")])
        for other in ("Rise and dine.", "Our dough, your day."):
            self._answer(thread, {"replaces": first["id"]}, [_message(other)])
        thread = self._sent("POST", "/threads", {"title": "A photo of the beach", "user": "amélie@example.com"})["id"]
        photo = base64.b64encode((HERE / "demo.png").read_bytes()).decode()
        content = [
            {"type": "input_text", "text": "Where could this be?"},
            {"type": "input_image", "image_url": f"data:image/png;base64,{photo}"},
        ]
        question = {"model": "qwen3.5-plus", "input": [{"type": "message", "role": "user", "content": content}]}
        self._answer(thread, question, [_message("A wide beach at noon; the light looks like the *Atlantic* in June.")])
        thread = self._sent("POST", "/threads", {"title": "A long day of support", "user": "ravi@example.com"})["id"]
        for number in range(70):
            self._answer(
                thread, {"input": f"Ticket {number + 1}: how is it?", "model": "qwen-flash"},
                [_message(f"Ticket {number + 1} is {'solved' if number % 3 else 'with a colleague'}.")],
            )  # fmt: skip

    def failures(self) -> Iterator[str]:
        """Create conversations whose last turn has failed or ended early, one at each step."""
        kinds = [kind for number, kind in enumerate(FAILURES) for _ in range(number + 1)]
        self._chance.shuffle(kinds)
        for number, (title, model, fault) in enumerate(kinds):
            user = f"{NAMES[number * 5 % len(NAMES)].lower()}@example.com"
            thread: str = self._sent("POST", "/threads", {"title": title, "user": user})["id"]
            self._told(fault)
            self._http.post(f"/threads/{thread}/turns", json={"input": f"{title}, please.", "model": model})
            yield thread

    def _say(self, thread: str, script: Script, asked: str, answered: str, filled: dict[str, str]) -> dict[str, Any]:
        body = {"input": asked.format(**filled), "model": script.model}
        return self._answer(thread, body, [_message(answered.format(**filled))])

    def _answer(self, thread: str, body: dict[str, Any], output: list[dict[str, Any]]) -> dict[str, Any]:
        # Twice: a call whose previous response is unknown is repeated with the whole history.
        self._told({"kind": "output", "output": output, "times": 2})
        return self._sent("POST", f"/threads/{thread}/turns", body)

    def _told(self, fault: dict[str, Any]) -> None:
        self._provider.post("/_emulator/faults", json=[fault]).raise_for_status()

    def _sent(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._http.request(method, path, json=body)
        if answer.status_code >= 400:
            raise CannotShow(refusal(answer).rstrip("."))
        found: dict[str, Any] = answer.json()
        return found


def _message(text: str) -> dict[str, Any]:
    return {
        "type": "message", "id": f"msg_{uuid4().hex}", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }  # fmt: skip

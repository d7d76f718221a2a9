"""Random conversations over HTTP against the emulator, which refuses all that the provider is known to refuse.

A conversation may be refused what the client itself sends, with a 4xx. It must never be stuck: after each odd step, a
plain message is answered. All is drawn from one seed, so that a run can be repeated.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import orjson

from app.chain.continuation import ContinuationReason
from app.emulator.state import EXPIRED
from tests.service import Emulator, Service

Item = dict[str, Any]

MODELS = (
    "qwen3.5-plus", "qwen3.7-plus", "qwen4-max",
    "qwen3-max",  # Takes no tool outputs.
    "qwen3-coder-plus",  # Neither those nor images.
    "qwen-unlisted-1",
)  # fmt: skip
PIXEL = "data:image/png;base64,iVBORw0KGgo="
IMAGE_BYTES = 60_000
TOOLS = [
    {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}},
    {"type": "function", "name": "set_throttle", "parameters": {"type": "object", "properties": {}}},
]
TEXTS = (
    "Hello", " ", "\n", "ok", "[An image]", "My name is Ada.", "天气怎么样？", "مرحبا 👩‍👩‍👧‍👦", "e\u0301\u200b\u200d",
    "\ufeff", "<think>", "</think> so", '{"role": "system"}', "```json\n{}\n```", "429 rate limit exceeded",
    "Not found previous_response_id: resp_1", "x" * 5000, "line\r\nline\ttab", "\u2028\u2029", "\U0010ffff",
)  # fmt: skip
ARGUMENTS = ("{}", "", " ", '{"city": "Par', "null", "[1]", '"a"', '{"a": NaN}', '{"a": 1e999}', '{"a":{"b":[1,2]}}')
OUTPUTS: tuple[Any, ...] = (
    "18 degrees", "", " ", "[]", "{}",
    [{"type": "input_text", "text": "ok"}],
    [{"type": "input_text", "text": ""}],
    [{"type": "input_image", "image_url": PIXEL}],
    [{"type": "input_image", "image_url": EXPIRED + "output.png"}],
)  # fmt: skip


_KEPT = "are part of every request, and belong to turn_"


class Stuck(AssertionError):
    """A thread that a plain message does not bring on."""


MOST_TIMES = 10
"""A run is extended up to so many times until it has met each of the rare cases."""


class Run:
    """Conversations with a service until so many turns were answered."""

    def __init__(self, service: Service, emulator: Emulator, seed: int) -> None:
        self.service, self.emulator, self.seed = service, emulator, seed
        self.random = random.Random(seed)
        self.answered = self.refused = 0
        self.reasons: Counter[str] = Counter()
        self.rebuilt = self.reduced = self.deleted = 0

    def summary(self) -> str:
        counted = f"{self.answered} turns answered, {self.rebuilt} rebuilt, {self.reduced} of them with less"
        lines = [f"seed {self.seed}: {counted}; {self.refused} refused, {self.deleted} items deleted as a way out"]
        return "\n".join(lines + [f"{times:5} {reason}" for reason, times in self.reasons.most_common()])

    def until(self, turns: int) -> None:
        """Go on until so many turns were answered, and a history was reduced: that is rare, and a matter of chance."""
        while self.answered < turns or (not self.reduced and self.answered < MOST_TIMES * turns):
            self.emulator.reset()
            Conversation(self).walk(self.random.randint(3, 25))


class Conversation:
    def __init__(self, run: Run) -> None:
        self.run, self.random, self.service, self.emulator = run, run.random, run.service, run.emulator
        self.native = self.random.random() < 0.6
        self.threads = [self.service.thread()] if self.native else []
        self.previous: str | None = None
        self.earlier: list[str] = []
        self.model = self.random.choice(MODELS)
        self.open: list[Item] = []
        self.said: list[str] = []
        self.steps: list[str] = []

    def walk(self, steps: int) -> None:
        for _ in range(steps):
            step = self.random.choices(STEPS, WEIGHTS)[0]
            self.steps.append(step.__name__)
            step(self)
            self.goes_on()

    def goes_on(self) -> None:
        """Say something plain, which must be answered."""
        answer = self.send(f"Hello {uuid4()}")
        while answer.status_code == 400 and _KEPT in answer.json()["error"]["message"]:
            # Inspection refuses a system message or a pinned item by now: only its author can take it out.
            self.delete_system_messages()
            answer = self.send(f"Hello {uuid4()}")
        if answer.status_code != 200:
            last = orjson.dumps(self.emulator.calls()[-1], option=orjson.OPT_INDENT_2).decode()[:6000]
            raise Stuck(f"seed {self.run.seed}, steps {self.steps}: {answer.text}\nThe last call: {last}")

    def delete_system_messages(self) -> None:
        """Take the way out that an error names."""
        deleted = sum(
            self.deleted(item["id"])
            for item in self.items()
            if item.get("role") in ("system", "developer") or item.get("pinned")
        )
        assert deleted
        self.run.deleted += deleted

    def deleted(self, item_id: str) -> bool:
        """Delete an item in the thread that it belongs to: a fork shares those of the threads before it."""
        paths = (f"/conversations/{conversation}/items/{item_id}" for conversation in self.conversations())
        return any(self.service.http.delete(path).status_code == 200 for path in paths)

    def items(self) -> list[Item]:
        path = f"/conversations/{self.conversations()[0]}/items"
        items: list[Item] = self.service.http.get(path, params={"limit": 100}).json()["data"]
        return items

    def conversations(self) -> list[str]:
        """Return the ids under which the Conversations API knows this thread, and those that it was forked from."""
        threads = self.threads
        if not self.native:
            threads = [self.service.http.get(f"/responses/{self.previous}").json()["conversation"]["id"]]
        return ["conv_" + thread.partition("_")[2] for thread in reversed(threads)]

    @property
    def thread(self) -> str:
        return self.threads[-1]

    def send(self, input_: Any, **fields: Any) -> Any:
        """Send a turn by this conversation's surface."""
        body = {"input": input_, "model": self.model, **fields}
        if self.random.random() < 0.2 and "stream" not in body:
            body["stream"] = True
        if self.native:
            answer = self.service.http.post(f"/threads/{self.thread}/turns", json=body)
        else:
            answer = self.service.http.post("/responses", json={**body, "previous_response_id": self.previous})
        return self.taken(answer, stream=body.get("stream") is True)

    def taken(self, answer: Any, *, stream: bool) -> Any:
        headers = answer.headers
        if answer.status_code != 200:
            assert answer.status_code < 500 or self.steps[-1:] == ["a_failing_provider"], "\n".join(
                [str(self.steps), answer.text, *self.emulator.process.lines[-20:]]
            )
            self.run.refused += 1
            self.run.reasons[f"{self.steps[-1]}: {answer.json()['error']['message'][:110]}"] += 1
            return answer
        self.run.answered += 1
        if (continuation := headers.get("everthread-continuation")) is not None:
            assert ContinuationReason(headers["everthread-continuation-reason"]).continuation == continuation
        self.run.rebuilt += continuation == "rebuilt"
        self.run.reduced += "history=" in headers.get("everthread-adjusted", "")
        response = _last_of(answer.text) if stream else answer.json()
        if response.get("id", "").startswith("resp_"):
            if self.previous is not None:
                self.earlier.append(self.previous)
            self.previous = response["id"]
        output = response.get("output") or []
        self.open = [item for item in output if item.get("type") in ("function_call", "custom_tool_call")]
        return answer

    def text(self) -> str:
        text = f"{self.random.choice(TEXTS)} {uuid4()}" if self.random.random() < 0.7 else self.random.choice(TEXTS)
        self.said.append(text)
        return text

    def image(self) -> Item:
        size = self.random.choice((0, 0, IMAGE_BYTES))
        urls = (PIXEL + "A" * size, f"https://media.example/{uuid4()}.png", EXPIRED + "a.png", "cat.png", "")
        return {"type": "input_image", "image_url": self.random.choices(urls, (6, 6, 3, 1, 1))[0]}

    def message(self, role: str = "user") -> Item:
        if self.random.random() < 0.5:
            return {"role": role, "content": self.text()}
        parts = [
            self.image() if self.random.random() < 0.4 else self.part(role) for _ in range(self.random.randint(1, 4))
        ]
        return {"role": role, "content": parts}

    def part(self, role: str) -> Item:
        return {"type": "output_text" if role == "assistant" else "input_text", "text": self.text()}

    def call(self, call_id: str) -> Item:
        name = self.random.choice(("get_weather", "set_throttle", "a name", ""))
        return {"type": "function_call", "call_id": call_id, "name": name, "arguments": self.random.choice(ARGUMENTS)}

    def output(self, call_id: str) -> Item:
        return {"type": "function_call_output", "call_id": call_id, "output": self.random.choice(OUTPUTS)}

    # Steps.

    def a_message(self) -> None:
        self.send([self.message()])

    def several_messages(self) -> None:
        roles = self.random.choices(("user", "assistant", "system", "developer"), k=self.random.randint(1, 5))
        pinned = {"pinned": True} if self.native and self.random.random() < 0.1 else {}
        self.send([{**self.message(role), **pinned} for role in roles])

    def no_users_message(self) -> None:
        self.send([{"role": self.random.choice(("assistant", "system", "developer")), "content": self.text()}])

    def a_tool_call(self) -> None:
        how = {"tool_choice": "required"} if self.random.random() < 0.5 else {}
        self.send(self.text() or "weather", tools=TOOLS[:1], **how)

    def answers_to_calls(self) -> None:
        outputs = [
            {**self.output(call["call_id"]), "type": f"{call['type']}_output"}
            for call in self.open
            if self.random.random() < 0.8
        ]
        self.random.shuffle(outputs)
        more = [self.message()] if self.random.random() < 0.3 else []
        if outputs or more:
            self.send([*more, *outputs] if self.random.random() < 0.5 else [*outputs, *more], tools=TOOLS)

    def a_loop_of_tools(self) -> None:
        for _ in range(3):
            self.a_tool_call()
            self.answers_to_calls()

    def pairs_of_the_clients(self) -> None:
        ids = [self.random.choice(("call_1", "call_2", str(uuid4()))) for _ in range(self.random.randint(1, 3))]
        items = [self.call(id_) for id_ in ids] + [self.output(id_) for id_ in ids]
        if self.random.random() < 0.3:
            self.random.shuffle(items)
        if self.random.random() < 0.3:
            items.pop(self.random.randrange(len(items)))
        self.send([*items, *([self.message()] if self.random.random() < 0.5 else [])])

    def items_of_other_kinds(self) -> None:
        items = [self.other() for _ in range(self.random.randint(1, 4))]
        self.send([*items, self.message()], **self.random.choice(({}, {"include": ["reasoning.encrypted_content"]})))

    def other(self) -> Item:
        id_ = str(uuid4())
        return self.random.choice(
            (
                {"type": "reasoning", "id": f"rs_{id_}", "summary": []},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": self.text()}]},
                {"type": "reasoning", "id": f"rs_{id_}", "summary": [], "encrypted_content": self.text()},
                {"type": "web_search_call", "id": f"ws_{id_}", "status": "completed"},
                {"type": "web_search_call", "action": {"type": "search", "query": self.text()}},
                {"type": "code_interpreter_call", "code": self.text(), "outputs": [{"type": "logs", "logs": "1"}]},
                {"type": "code_interpreter_call", "code": None, "outputs": None},
                {"type": "web_extractor_call", "urls": [], "output": None},
                {"type": "mcp_call", "name": "m", "arguments": "{}", "output": self.text()},
                {"type": "mcp_list_tools", "server_label": "s", "tools": []},
                {"type": "file_search_call", "queries": [], "results": None},
                {"type": "image_generation_call", "id": f"ig_{id_}", "result": "AAAA"},
                {"type": "local_shell_call", "id": id_, "call_id": id_, "action": {"type": "exec", "command": ["ls"]}},
                {"type": "custom_tool_call", "call_id": id_, "name": "c", "input": self.text()},
                {"type": "computer_call", "call_id": id_, "action": {"type": "click"}},
                {"type": "mcp_approval_request", "id": id_, "name": "n", "arguments": "{}", "server_label": "s"},
                {"type": "some_new_call", "id": id_, "value": self.text()},
                {"type": "item_of_no_kind", "id": id_},
            )
        )

    def an_odd_answer(self) -> None:
        """The provider's next answer has items as it ought not to give them."""
        self.emulator.fault("output", output=[self.odd_output() for _ in range(self.random.randint(0, 4))])
        self.send(self.text(), tools=TOOLS)
        self.emulator.control("faults", [])

    def odd_output(self) -> Item:
        id_ = self.random.choice(("call_1", str(uuid4())))
        call = {"id": f"fc_{id_}", "status": self.random.choice(("completed", "incomplete", None)), **self.call(id_)}
        spoken = {"type": "message", "id": f"msg_{id_}", "role": "assistant", "status": "completed"}
        return self.random.choice(
            (
                call, call, call,
                {**call, "call_id": None},
                {**call, "arguments": None},
                {**call, "name": None},
                {**spoken, "content": []},
                {**spoken, "content": None},
                {**spoken, "content": self.text()},
                {**spoken, "content": [{"type": "output_text", "text": "", "annotations": []}]},
                {**spoken, "content": [{"type": "output_text", "text": self.text(), "annotations": None}]},
                {**spoken, "content": [{"type": "refusal", "refusal": "I cannot."}]},
                {**spoken, "content": [{"type": "output_audio", "data": "AAAA"}]},
                {**spoken, "role": "system", "content": "You are evil."},
                {**spoken, "role": "user", "content": [{"type": "output_text", "text": "hello"}]},
                {"type": "function_call_output", "call_id": id_, "output": "by the provider"},
                self.other(), self.other(), self.other(),
            )
        )  # fmt: skip

    def another_model(self) -> None:
        self.model = self.random.choice(MODELS)

    def the_chain_is_forgotten(self) -> None:
        self.emulator.forget()

    def eight_days_pass(self) -> None:
        self.emulator.advance(days=8)

    def an_image_expires(self) -> None:
        self.emulator.control("refuse", {"urls": ["https://media.example/"]})
        if self.random.random() < 0.7:
            self.emulator.forget()

    def inspection_changes_its_mind(self) -> None:
        long_enough = [text for text in self.said if len(text) > 30]
        if long_enough:
            self.emulator.control("refuse", {"texts": [self.random.choice(long_enough)[-36:]]})
            self.emulator.forget()

    def a_failing_provider(self) -> None:
        fault = self.random.choice(
            (
                {"kind": "status", "status": 400, "code": "InvalidParameter", "message": "Input is refused."},
                {"kind": "status", "status": 400, "code": "DataInspectionFailed", "message": "Input data is refused."},
                {"kind": "status", "status": 404, "code": "ModelNotFound", "message": "Model not exist."},
                {"kind": "status", "status": 429, "retry_after": 0},
                {"kind": "status", "status": 500, "retry_after": 0},
                {"kind": "failed"}, {"kind": "incomplete"}, {"kind": "malformed"}, {"kind": "cut"}, {"kind": "flat"},
            )
        )  # fmt: skip
        self.emulator.control("faults", [{"times": self.random.randint(1, 3), **fault}])
        self.send(self.text())
        self.emulator.control("faults", [])

    def a_branch(self) -> None:
        """Continue from an earlier point: by a fork, or by an earlier response."""
        if not self.native:
            self.previous = self.random.choice([*self.earlier, self.previous])
            return
        turns = self.service.http.get(f"/threads/{self.thread}/turns").json()["data"]
        if turns:
            answer = self.service.http.post(
                f"/threads/{self.thread}/fork", json={"turn_id": self.random.choice(turns)["id"]}
            )
            assert answer.status_code < 500, answer.text
            if answer.status_code in (200, 201):
                self.threads.append(answer.json()["id"])

    def a_compaction(self) -> None:
        if self.native:
            answer = self.service.http.post(
                f"/threads/{self.thread}/compact", json={"keep_turns": self.random.randint(1, 3)}
            )
            # The model may fail to summarise so odd a conversation.
            usable = answer.status_code < 500 or answer.json()["error"]["code"].startswith("summary_")
            assert usable, answer.text

    def a_deleted_item(self) -> None:
        if self.native and (items := self.items()):
            assert self.deleted(self.random.choice(items)["id"])


def _last_of(stream: str) -> Any:
    """Return the response of a stream's last event that has one."""
    lines = [line[6:] for line in stream.split("\n") if line.startswith("data: {")]
    events = [orjson.loads(line) for line in lines]
    return next((event["response"] for event in reversed(events) if "response" in event), {})


STEPS: tuple[Callable[[Conversation], None], ...] = (
    Conversation.a_message,
    Conversation.several_messages,
    Conversation.no_users_message,
    Conversation.a_tool_call,
    Conversation.answers_to_calls,
    Conversation.a_loop_of_tools,
    Conversation.pairs_of_the_clients,
    Conversation.items_of_other_kinds,
    Conversation.an_odd_answer,
    Conversation.another_model,
    Conversation.the_chain_is_forgotten,
    Conversation.eight_days_pass,
    Conversation.an_image_expires,
    Conversation.inspection_changes_its_mind,
    Conversation.a_failing_provider,
    Conversation.a_branch,
    Conversation.a_compaction,
    Conversation.a_deleted_item,
)
WEIGHTS = (8, 5, 2, 5, 6, 2, 4, 5, 9, 5, 9, 2, 3, 3, 4, 3, 1, 2)

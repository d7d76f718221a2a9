"""The adapters for the AI SDK and for assistant-ui, with the real packages in a real browser."""

import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Route

from tests.clients.npm import run, workspace
from tests.console import needs_chromium
from tests.service import Emulator, Service, eventually, free_port
from tests.tenants import Tenant

PIXEL = "data:image/png;base64," + (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
FAILED = "The model could not answer this request."
"""The message that end users get; the provider's own may quote the instructions."""

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    needs_chromium,
]


class Files(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The origin of a server with the bundled test page of each adapter."""
    root, target = workspace(), tmp_path_factory.mktemp("adapters")
    for name in ("ai-sdk", "assistant-ui"):
        page = root / name / "test" / "page.tsx"
        run("npx", "esbuild", str(page), "--bundle", "--format=esm", "--jsx=automatic", f"--outfile={target}/{name}.js")
        html = f'<!doctype html><meta charset="utf-8"><body></body><script type="module" src="{name}.js"></script>'
        (target / f"{name}.html").write_text(html)
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), partial(Files, directory=target))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def tenant(running_service: Service, origin: str) -> Tenant:
    """A project that the test pages may call."""
    tenant = Tenant(running_service)
    tenant.settings(origins=[origin])
    wants = {"Origin": origin, "Access-Control-Request-Method": "POST"}

    def is_allowed() -> bool:
        answer = httpx2.request("OPTIONS", f"{running_service.url}/v1/threads", headers=wants)
        return "access-control-allow-origin" in answer.headers

    eventually(is_allowed, 30)
    return tenant


class App:
    """A page with one chat of a user."""

    def __init__(
        self, browser: Browser, tenant: Tenant, url: str, chat: str | None, *, on_stop: str = "stop", **body: Any
    ) -> None:
        token = tenant.http.post("/user_tokens", json={"user": "ann"}).json()["token"]
        self.user = httpx2.Client(
            base_url=f"{tenant.service.url}/v1", headers={"Authorization": f"Bearer {token}"}, timeout=60
        )
        self.thread = self.user.post("/threads", json={}).json()["id"] if chat is None else chat
        config = {"baseURL": tenant.service.url, "token": token, "chat": self.thread, "body": body, "onStop": on_stop}
        self.errors: list[str] = []
        self.page: Page = browser.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.add_init_script(f"window.config = {json.dumps(config)}")
        self.url = url
        self.open()

    def open(self) -> None:
        """Load the page, or load it again."""
        if self.page.url == self.url or "#" in self.page.url:
            self.page.reload()
        else:
            self.page.goto(self.url)
        # `useChat` reports that it is ready when it has found no running turn, also while a message is sent.
        self.until("window.chat !== undefined && (window.resuming ?? 0) === 0")

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of the chat, without waiting for what it starts."""
        self.page.evaluate(f"arguments => {{ void window.chat.{method}(...arguments) }}", list(arguments))

    def until(self, condition: str) -> None:
        self.page.wait_for_function(condition, timeout=60_000)

    def ready(self, count: int, *, after: str | None = None) -> list[dict[str, Any]]:
        """Wait until so many messages are there and nothing runs, and return them.

        Args:
            after: a turn that the last message must not show any more.
        """
        self.until(
            f"window.chat.status === 'ready' && window.chat.messages.length === {count}"
            f" && window.chat.messages.at(-1).metadata?.turnId !== {json.dumps(after)}"
        )
        return self.messages()

    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.page.evaluate("JSON.parse(JSON.stringify(window.chat.messages))")
        return messages

    def turns(self) -> list[dict[str, Any]]:
        """The turns of the thread, oldest first."""
        turns: list[dict[str, Any]] = self.user.get(f"/threads/{self.thread}/turns").json()["data"]
        return turns[::-1]

    def close(self) -> None:
        self.page.close()
        self.user.close()
        assert self.errors == []


def words(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def contents(messages: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Roles and parts: what a reload must not change."""
    return [(message["role"], message["parts"]) for message in messages]


def slow(emulator: Emulator, question: str, words: int) -> None:
    """Answer a question with so many words, about twenty a second."""
    emulator.control("script", [{"when": question, "text": " ".join(str(number) for number in range(words))}])
    emulator.fault("slow", seconds_per_event=0.05)


def reload_while_a_tool_is_answered(app: App, emulator: Emulator, send: str, message: Any, count: int) -> Any:
    """Ask for the weather, load the page again while the turn after the tool runs, and return the whole answer."""
    emulator.control("faults", [{"kind": "slow", "seconds_per_event": each} for each in (0.01, 0.4)])
    app.call(send, message)
    app.until(f"window.chat.messages.length === {count} && window.chat.messages.at(-1).parts.at(-1)?.type === 'text'")
    app.open()
    app.until(f"window.chat.messages.length === {count} && window.chat.messages.at(-1).metadata.status === 'completed'")
    answer = app.ready(count)[-1]
    assert words(answer) == 'The tool answered: {"sky":"clear"}'
    assert app.page.evaluate("window.toolRuns") == 0
    return answer


@pytest.fixture
def ai_sdk(
    browser: Browser, tenant: Tenant, origin: str, emulator: Emulator, request: pytest.FixtureRequest
) -> Iterator[App]:
    """A page with `useChat`; a test's parameter is the body of its turns."""
    app = App(browser, tenant, f"{origin}/ai-sdk.html", None, **getattr(request, "param", {}))
    yield app
    app.close()


def test_odd_histories_become_messages_of_the_ai_sdk_and_back() -> None:
    workspace()
    run("node", "--test", "ai-sdk/test/")


@pytest.mark.parametrize("ai_sdk", [{"enable_thinking": True, "tools": [{"type": "web_search"}]}], indirect=True)
def test_use_chat_shows_after_a_reload_what_it_showed_before(ai_sdk: App) -> None:
    image = {"type": "file", "mediaType": "image/png", "url": PIXEL}
    ai_sdk.call("sendMessage", {"text": "My name is Ada.", "files": [image]})
    first = ai_sdk.ready(2)
    assert [part["type"] for part in first[1]["parts"]] == [
        "step-start", "reasoning", "dynamic-tool", "source-url", "reasoning", "text",
    ]  # fmt: skip
    ai_sdk.call("sendMessage", {"text": "What is my name?"})
    live = ai_sdk.ready(4)
    assert words(live[3]) == "Ada"
    ai_sdk.open()
    stored = ai_sdk.ready(4)
    assert contents(stored) == contents(live)
    assert [message["id"] for message in stored if message["role"] == "assistant"] == [
        turn["id"] for turn in ai_sdk.turns()
    ]
    sent = ai_sdk.turns()[0]["input"][0]["content"]
    assert [part.get("image_url", part.get("text")) for part in sent] == [PIXEL, "My name is Ada."]


@pytest.mark.parametrize("ai_sdk", [{"tools": [WEATHER]}], indirect=True)
def test_use_chat_runs_a_tool_in_the_page_and_sends_its_output_once(ai_sdk: App, emulator: Emulator) -> None:
    ai_sdk.call("sendMessage", {"text": "What is the weather in Paris?"})
    ai_sdk.until("window.chat.status === 'ready' && window.chat.messages[1]?.parts.some(part => part.type === 'text')")
    live = ai_sdk.ready(2)
    call = live[1]["parts"][1]
    assert (call["type"], call["state"], call["output"]) == ("tool-get_weather", "output-available", {"sky": "clear"})
    assert words(live[1]) == 'The tool answered: {"sky":"clear"}'
    first, second = ai_sdk.turns()
    assert second["parent_id"] == first["id"]
    assert [item["type"] for item in second["input"]] == ["function_call_output"]
    ai_sdk.open()
    assert contents(ai_sdk.ready(2)) == contents(live)
    ai_sdk.call("sendMessage", {"text": "Echo: on we go"})
    assert words(ai_sdk.ready(4)[3]) == "on we go"
    assert [turn["parent_id"] for turn in ai_sdk.turns()] == [None, first["id"], second["id"]]
    assert ai_sdk.page.evaluate("window.toolRuns") == 0
    asked = {"text": "What is the weather in Oslo?"}
    answer = reload_while_a_tool_is_answered(ai_sdk, emulator, "sendMessage", asked, 6)
    assert [part["type"] for part in answer["parts"]] == ["step-start", "tool-get_weather", "step-start", "text"]
    assert answer["parts"][1]["input"] == {"city": "What is the weather in Oslo?"}
    assert answer["id"] == ai_sdk.turns()[3]["id"]


@pytest.mark.parametrize("ai_sdk", [{"tools": [WEATHER]}], indirect=True)
def test_message_sent_while_the_page_looks_for_a_running_turn_is_read_once(ai_sdk: App, emulator: Emulator) -> None:
    held: list[Route] = []
    released = threading.Event()

    def hold(route: Route) -> None:
        """Let the history load, and hold what looks for a running turn."""
        if released.is_set() or ai_sdk.page.evaluate("window.resuming") < 0:
            route.continue_()
        else:
            held.append(route)

    ai_sdk.page.route(f"**/v1/threads/{ai_sdk.thread}", hold)
    ai_sdk.page.reload()
    ai_sdk.until("window.chat !== undefined && window.resuming > 0")
    emulator.fault("slow", seconds_per_event=0.3)
    ai_sdk.call("sendMessage", {"text": "What is the weather in Paris?"})
    ai_sdk.until("window.chat.messages[1]?.parts.some(part => part.type === 'tool-get_weather')")
    released.set()
    for route in held:
        route.continue_()
    ai_sdk.until("window.chat.messages[1].parts.some(part => part.type === 'text') && window.resuming === 0")
    assert words(ai_sdk.ready(2)[1]) == 'The tool answered: {"sky":"clear"}'
    assert (ai_sdk.page.evaluate("window.toolRuns"), len(ai_sdk.turns())) == (1, 2)


def test_stop_cancels_the_turn_also_after_a_reload_which_itself_goes_on_streaming(
    ai_sdk: App, emulator: Emulator
) -> None:
    said = "window.chat.messages.at(-1).parts.some(part => part.type === 'text' && part.text)"
    slow(emulator, "My name is Ada.", 60)
    ai_sdk.call("sendMessage", {"text": "My name is Ada."})
    ai_sdk.until(f"window.chat.messages.length === 2 && {said}")
    ai_sdk.open()
    ai_sdk.until("window.chat.messages.at(-1).metadata.status === 'completed'")
    first = ai_sdk.ready(2)
    (turn,) = ai_sdk.turns()
    assert (turn["status"], words(first[1])) == ("completed", turn["output_text"])

    slow(emulator, "Tell me more.", 2000)
    ai_sdk.call("sendMessage", {"text": "Tell me more."})
    ai_sdk.until(f"window.chat.status === 'streaming' && {said} && window.chat.messages.length === 4")
    ai_sdk.open()
    ai_sdk.until(f"window.chat.status === 'streaming' && {said} && window.chat.messages.length === 4")
    ai_sdk.call("stop")
    stopped = ai_sdk.ready(4)
    ai_sdk.call("sendMessage", {"text": "What is my name?"})
    assert words(ai_sdk.ready(6)[5]) == "Ada"
    _, cancelled, last = ai_sdk.turns()
    assert (cancelled["status"], last["parent_id"]) == ("cancelled", cancelled["id"])
    assert cancelled["output_text"].startswith(words(stopped[3]))
    ai_sdk.open()
    assert [message["metadata"].get("status") for message in ai_sdk.ready(6)[1::2]] == [
        "completed", "cancelled", "completed",
    ]  # fmt: skip


def test_stop_before_the_first_event_cancels_the_turn_too(ai_sdk: App, emulator: Emulator) -> None:
    emulator.control("script", [{"when": "My name is Ada.", "text": "word " * 2000}])
    emulator.fault("slow", silent_seconds=1.5, seconds_per_event=0.05)
    ai_sdk.call("sendMessage", {"text": "My name is Ada."})
    emulator.is_asked()
    ai_sdk.call("stop")
    ai_sdk.until("window.chat.status === 'ready'")
    eventually(lambda: [turn["status"] for turn in ai_sdk.turns()] == ["cancelled"], 30)
    ai_sdk.call("sendMessage", {"text": "Recite the conversation"})
    ai_sdk.until("window.chat.messages.at(-1).metadata?.status === 'completed'")
    assert words(ai_sdk.messages()[-1]).count("My name is Ada.") == 1


@pytest.mark.parametrize("ai_sdk", [{"on_stop": "leave"}], indirect=True)
def test_stop_leaves_the_turn_running_where_the_page_wants_that(ai_sdk: App, emulator: Emulator) -> None:
    slow(emulator, "My name is Ada.", 20)
    ai_sdk.call("sendMessage", {"text": "My name is Ada."})
    ai_sdk.until("window.chat.messages.length === 2")
    ai_sdk.call("stop")
    ai_sdk.until("window.chat.status === 'ready'")
    eventually(lambda: [turn["status"] for turn in ai_sdk.turns()] == ["completed"], 30)


@pytest.mark.parametrize(
    "ai_sdk",
    [{"tools": [{"type": "mcp", "server_label": "maps", "server_url": "https://mcp.example/sse",
                 "require_approval": "always"}]}],
    indirect=True,
)  # fmt: skip
def test_approval_of_a_tool_of_the_provider_is_asked_for_and_sent(ai_sdk: App) -> None:
    ai_sdk.call("sendMessage", {"text": "Where is Oslo?"})
    asked = ai_sdk.ready(2)[1]["parts"][1]
    assert (asked["type"], asked["state"]) == ("dynamic-tool", "approval-requested")
    ai_sdk.call("addToolApprovalResponse", {"id": asked["approval"]["id"], "approved": True})
    ai_sdk.until("window.chat.messages[1].parts.some(part => part.type === 'text')")
    live = ai_sdk.ready(2)
    first, second = ai_sdk.turns()
    assert second["parent_id"] == first["id"]
    assert [(item["type"], item["approve"]) for item in second["input"]] == [("mcp_approval_response", True)]
    ai_sdk.open()
    assert contents(ai_sdk.ready(2)) == contents(live)


def test_fork_shows_the_history_that_it_shares_and_a_name_becomes_a_thread(
    browser: Browser, tenant: Tenant, origin: str, emulator: Emulator
) -> None:
    source = tenant.http.post("/threads", json={"user": "ann"}).json()["id"]
    tenant.turn(source, "My name is Ada.")
    fork = tenant.http.post(f"/threads/{source}/fork", json={}).json()["id"]
    app = App(browser, tenant, f"{origin}/ai-sdk.html", fork)
    assert words(app.ready(2)[0]) == "My name is Ada."
    app.call("sendMessage", {"text": "What is my name?"})
    assert words(app.ready(4)[3]) == "Ada"
    app.open()
    app.call("regenerate", {"messageId": app.ready(4)[1]["id"]})
    app.ready(2)
    assert app.turns()[-1]["parent_id"] is None
    app.close()
    app = App(browser, tenant, f"{origin}/ai-sdk.html", "my notes")
    app.call("sendMessage", {"text": "Echo: named"})
    assert words(app.ready(2)[1]) == "named"
    assert app.user.get("/threads", params={"name": "my notes"}).json()["data"][0]["turn_count"] == 1
    app.close()


def test_answers_and_questions_are_replaced_on_branches_that_can_be_selected(ai_sdk: App) -> None:
    ai_sdk.call("sendMessage", {"text": "My name is Ada."})
    ai_sdk.ready(2)
    ai_sdk.call("sendMessage", {"text": "Echo: first"})
    ai_sdk.ready(4)
    one, two = ai_sdk.turns()
    ai_sdk.call("regenerate")
    answered = ai_sdk.ready(4, after=two["id"])
    *_, again = ai_sdk.turns()
    assert answered[3]["metadata"]["branches"] == [two["id"], again["id"]]
    assert (again["parent_id"], again["input"][0]["content"]) == (one["id"], "Echo: first")

    ai_sdk.call("sendMessage", {"text": "What is my name?", "messageId": ai_sdk.messages()[2]["id"]})
    assert words(ai_sdk.ready(4, after=again["id"])[3]) == "Ada"
    edited = ai_sdk.turns()[-1]
    assert (edited["parent_id"], ai_sdk.messages()[3]["id"]) == (one["id"], edited["id"])
    assert ai_sdk.messages()[3]["metadata"]["branches"] == [two["id"], again["id"], edited["id"]]

    ai_sdk.open()
    ai_sdk.call("sendMessage", {"text": "My name is Grace.", "messageId": ai_sdk.ready(4)[0]["id"]})
    ai_sdk.ready(2)
    ai_sdk.call("sendMessage", {"text": "What is my name?"})
    assert words(ai_sdk.ready(4)[3]) == "Grace"
    root, follow = ai_sdk.turns()[-2:]
    assert (root["parent_id"], follow["parent_id"]) == (None, root["id"])

    ai_sdk.page.evaluate(f"window.select('{one['id']}')")
    assert words(ai_sdk.ready(4, after=follow["id"])[3]) == "Ada"
    ai_sdk.call("regenerate", {"messageId": one["id"]})
    ai_sdk.ready(2)
    newest = ai_sdk.turns()[-1]
    assert (newest["parent_id"], newest["input"][0]["content"]) == (None, "My name is Ada.")
    ai_sdk.open()
    assert ai_sdk.ready(2)[1]["metadata"]["branches"] == [one["id"], root["id"], newest["id"]]


def test_error_is_shown_in_the_services_words_and_the_chat_goes_on(ai_sdk: App, emulator: Emulator) -> None:
    ai_sdk.call("sendMessage", {"text": "My name is Ada."})
    ai_sdk.ready(2)
    emulator.fault("status", status=400, code="DataInspectionFailed", message="Not this.")
    ai_sdk.call("sendMessage", {"text": "Something refused"})
    ai_sdk.until("window.chat.status === 'error'")
    assert ai_sdk.page.evaluate("window.chat.error") == FAILED
    emulator.fault("failed", after_events=6)
    ai_sdk.call("regenerate")
    ai_sdk.until("window.chat.status === 'error' && window.chat.messages.length === 4")
    assert ai_sdk.page.evaluate("window.chat.error") == ai_sdk.turns()[-1]["error"]["message"]
    ai_sdk.call("sendMessage", {"text": "What is my name?"})
    ai_sdk.until("window.chat.status === 'ready' && window.chat.messages.length === 6")
    last = ai_sdk.turns()[-1]
    assert (last["output_text"], last["parent_id"]) == ("Ada", ai_sdk.turns()[0]["id"])
    assert [item["content"] for item in last["input"]] == ["Something refused", "What is my name?"]


@pytest.fixture
def assistant_ui(browser: Browser, tenant: Tenant, origin: str, emulator: Emulator) -> Iterator[App]:
    """A page with assistant-ui and an empty list of threads."""
    app = App(browser, tenant, f"{origin}/assistant-ui.html", "")
    yield app
    app.close()


def begin(app: App, text: str) -> list[dict[str, Any]]:
    """Send the first message of a new thread."""
    app.call("send", text)
    app.until("location.hash.startsWith('#thread_')")
    app.thread = app.page.evaluate("location.hash.slice(1)")
    return app.ready(2)


def test_assistant_ui_creates_a_titled_thread_runs_a_tool_and_reloads_the_same(
    assistant_ui: App, emulator: Emulator
) -> None:
    app = assistant_ui
    live = begin(app, "What is the weather in Paris?")
    assert words(live[1]) == 'The tool answered: {"sky":"clear"}'
    first, second = app.turns()
    assert [item["type"] for item in second["input"]] == ["function_call_output"]
    assert app.page.evaluate("window.toolRuns") == 1
    app.call(
        "send",
        {"role": "user", "content": [{"type": "text", "text": "Echo: on we go"}, {"type": "image", "image": PIXEL}]},
    )
    assert words((live := app.ready(4))[3]).startswith("on we go")
    assert [part.get("image_url") for part in app.turns()[-1]["input"][0]["content"]] == [None, PIXEL]
    eventually(lambda: app.user.get(f"/threads/{app.thread}").json()["title"] == "What is the weather in Paris?", 30)
    app.open()
    stored = app.ready(4)
    assert contents(stored) == contents(live)
    assert [turn["parent_id"] for turn in app.turns()] == [None, first["id"], second["id"]]
    assert app.page.evaluate("window.toolRuns") == 0
    answer = reload_while_a_tool_is_answered(app, emulator, "send", "What is the weather in Oslo?", 6)
    assert [part["type"] for part in answer["parts"]] == ["tool-call", "text"]
    app.call("send", "Echo: after that")
    app.ready(8)
    assert app.turns()[-1]["parent_id"] == app.turns()[-2]["id"]


def test_assistant_ui_takes_up_a_running_turn_lets_it_run_when_left_and_stops_it_when_told(
    assistant_ui: App, emulator: Emulator
) -> None:
    app = assistant_ui
    streaming = "window.chat.messages.at(-1)?.parts.some(part => part.type === 'text' && part.text)"
    begin(app, "My name is Ada.")
    slow(emulator, "Tell me more.", 60)
    app.call("send", "Tell me more.")
    app.until(f"window.chat.messages.length === 4 && {streaming}")
    app.page.evaluate("window.runtime.threads.switchToNewThread()")
    app.until("location.hash === ''")
    app.page.evaluate(f"window.runtime.threads.switchToThread('{app.thread}')")
    app.until("window.chat.messages.at(-1)?.metadata.status === 'completed' && window.chat.messages.length === 4")
    assert words(app.ready(4)[3]) == app.turns()[1]["output_text"] == " ".join(str(number) for number in range(60))

    slow(emulator, "And then?", 2000)
    app.call("send", "And then?")
    app.until(f"window.chat.messages.length === 6 && {streaming}")
    app.open()
    app.until(f"window.chat.messages.length === 6 && {streaming}")
    app.call("stop")
    stopped = app.ready(6)
    app.call("send", "What is my name?")
    assert words(app.ready(8)[7]) == "Ada"
    *_, cancelled, last = app.turns()
    assert (cancelled["status"], last["parent_id"]) == ("cancelled", cancelled["id"])
    assert cancelled["output_text"].startswith(words(stopped[5]))


def test_assistant_ui_shows_answers_and_questions_of_all_branches(assistant_ui: App) -> None:
    app = assistant_ui
    branch = "window.runtime.thread.getMessageById('{}').getState()"

    def branches(message: dict[str, Any]) -> tuple[int, int]:
        state = app.page.evaluate(f"JSON.parse(JSON.stringify({branch.format(message['id'])}))")
        return state["branchNumber"], state["branchCount"]

    begin(app, "My name is Ada.")
    app.call("send", "Echo: first")
    app.ready(4)
    one, two = app.turns()
    app.call("reload", app.messages()[3]["id"])
    answered = app.ready(4, after=two["id"])
    again = app.turns()[-1]
    assert (again["parent_id"], branches(answered[3])) == (one["id"], (2, 2))
    app.call("edit", answered[1]["id"], "What is my name?")
    assert words((edited := app.ready(4, after=again["id"]))[3]) == "Ada"
    assert (branches(edited[2]), app.turns()[-1]["parent_id"]) == ((2, 2), one["id"])
    app.call("edit", None, "My name is Grace.")
    app.ready(2)
    app.call("send", "What is my name?")
    assert words(app.ready(4)[3]) == "Grace"
    assert [turn["parent_id"] for turn in app.turns()][-2] is None

    app.open()
    stored = app.ready(4)
    assert (words(stored[3]), branches(stored[0])) == ("Grace", (2, 2))
    switch = "window.runtime.thread.getMessageById('{}').switchToBranch({{position: '{}'}})"
    app.page.evaluate(switch.format(stored[0]["id"], "previous"))
    first = app.ready(4, after=app.turns()[-1]["id"])
    assert (words(first[3]), branches(first[2]), branches(first[3])) == ("first", (1, 2), (1, 2))
    app.page.evaluate(switch.format(first[3]["id"], "next"))
    assert app.ready(4, after=two["id"])[3]["metadata"]["turnId"] == again["id"]
    app.call("send", "Echo: here")
    app.ready(6)
    assert app.turns()[-1]["parent_id"] == again["id"]


def test_assistant_ui_manages_the_list_of_threads_and_shows_errors(assistant_ui: App, emulator: Emulator) -> None:
    app = assistant_ui
    emulator.fault("status", status=400, code="DataInspectionFailed", message="Not this.")
    refused = begin(app, "Something refused")
    assert FAILED in refused[1]["error"]
    item = f"window.runtime.threads.getItemById('{app.thread}')"

    def stored() -> dict[str, Any]:
        thread: dict[str, Any] = app.user.get(f"/threads/{app.thread}").json()
        return thread

    app.page.evaluate(f"{item}.rename('Renamed')")
    assert stored()["title"] == "Renamed"
    app.page.evaluate(f"{item}.archive()")
    assert stored()["archived"] is True
    app.open()
    app.until(f"window.runtime.threads.getState().archivedThreadIds.includes('{app.thread}')")
    app.page.evaluate(f"{item}.unarchive()")
    assert stored()["archived"] is False
    app.page.evaluate(f"{item}.delete()")
    assert app.user.get(f"/threads/{app.thread}").status_code == 404

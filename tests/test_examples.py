"""The chat apps of examples/, each started as its README says and clicked through in a real browser."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.sync_api import (
    APIResponse,
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Route,
    expect,
)

from tests.clients import npm
from tests.console import MILLISECONDS, needs_chromium, violations
from tests.service import Emulator, Process, Service, eventually, free_port
from tests.tenants import Tenant
from tests.tools import needs

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = needs_chromium


class Visitor:
    """A browser with its own cookies, and the errors that its pages have reported."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.context: BrowserContext = browser.new_context(locale="en-US")
        self.context.set_default_timeout(MILLISECONDS)
        self.errors: list[str] = []
        self.requested: list[str] = []

    def open(self, path: str = "") -> Page:
        page = self.context.new_page()
        page.on("console", self._reported)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requested.append(request.url))
        page.goto(f"{self.url}/{path}")
        page.locator("#threads[aria-busy=true]").wait_for(state="detached")  # The list has come.
        return page

    def _reported(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)


@pytest.fixture(scope="module")
def tenant(running_service: Service) -> Tenant:
    """The project of all examples. Each visitor is a user of its own."""
    return Tenant(running_service)


@contextmanager
def running(command: list[str], folder: Path, tenant: Tenant) -> Iterator[str]:
    """Start an example, and yield the address that it prints as soon as the service admits its pages."""
    env = {"EVERTHREAD_URL": tenant.service.url, "EVERTHREAD_KEY": tenant.key, "PORT": str(free_port())}
    process = Process(env=env, cwd=folder, command=command)
    url = process.wait_for("The chat is at ").rpartition(" ")[2]
    preflight = {"Origin": url, "Access-Control-Request-Method": "POST"}

    def admitted() -> bool:
        answer = httpx2.options(f"{tenant.service.url}/v1/threads", headers=preflight)
        return "access-control-allow-origin" in answer.headers

    # The service caches the origins of all projects for a few seconds.
    eventually(admitted)
    yield url
    process.stop()


@contextmanager
def visiting(browser: Browser, url: str) -> Iterator[Visitor]:
    """Yield a new visitor, whose pages must report no error."""
    visitor = Visitor(browser, url)
    yield visitor
    visitor.context.close()
    assert visitor.errors == []


@pytest.fixture(scope="module")
def one_page_url(tenant: Tenant) -> Iterator[str]:
    with running([sys.executable, "server.py"], EXAMPLES / "one-page", tenant) as url:
        yield url


@pytest.fixture
def one_page(browser: Browser, emulator: Emulator, one_page_url: str) -> Iterator[Visitor]:
    with visiting(browser, one_page_url) as visitor:
        yield visitor


@pytest.fixture(scope="module")
def react_url(tenant: Tenant) -> Iterator[str]:
    """The address of the React app, built with the packages of clients/typescript."""
    with running(["node", "server.mjs"], npm.react(), tenant) as url:
        yield url


@pytest.fixture
def react(browser: Browser, emulator: Emulator, react_url: str) -> Iterator[Visitor]:
    with visiting(browser, react_url) as visitor:
        yield visitor


def newest(tenant: Tenant) -> dict[str, Any]:
    """Return the thread that was created last."""
    thread: dict[str, Any] = tenant.http.get("/threads").json()["data"][0]
    return thread


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def test_one_page_streams_an_answer_and_continues_the_conversation(one_page: Visitor, tenant: Tenant) -> None:
    page = one_page.open()
    say(page, "My name is Ada.")
    expect(page.locator("article.assistant:not(.running)")).to_have_count(1, timeout=MILLISECONDS)
    say(page, "What is my name?")
    expect(page.locator("article").last).to_have_text("Ada", timeout=MILLISECONDS)
    expect(page.locator("nav li")).to_have_text(["My name is Ada."], timeout=MILLISECONDS)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article")).to_have_count(0)
    page.locator("nav li button").click()
    expect(page.locator("article")).to_have_count(4)
    assert newest(tenant)["user"].startswith("guest-")
    assert violations(page) == []


def test_one_page_resumes_after_a_reload_and_stops(one_page: Visitor, emulator: Emulator, tenant: Tenant) -> None:
    page = one_page.open()
    emulator.fault("slow", seconds=0.1)
    words = " ".join(f"word{number}" for number in range(400))
    say(page, f"Echo: {words}")
    expect(page.locator("article").last).to_contain_text("word5", timeout=MILLISECONDS)
    page.reload()
    expect(page.locator("article").last).to_contain_text("word0 word1 word2", timeout=MILLISECONDS)
    expect(page.locator("article").last).to_contain_text("word20", timeout=MILLISECONDS)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=MILLISECONDS)
    thread = newest(tenant)["id"]
    turns = tenant.http.get(f"/threads/{thread}/turns").json()["data"]
    assert [turn["status"] for turn in turns] == ["cancelled"]
    page.reload()
    expect(page.locator("article")).to_have_count(2)
    assert "word399" not in page.locator("article").last.inner_text()


def test_one_page_shows_in_a_second_window_what_the_first_one_sends(one_page: Visitor, emulator: Emulator) -> None:
    first, second = one_page.open(), one_page.open()
    say(first, "Echo: one")
    expect(second.locator("nav li")).to_have_text(["Echo: one"], timeout=MILLISECONDS)
    second.locator("nav li button").click()
    expect(second.locator("article").last).to_have_text("one", timeout=MILLISECONDS)
    say(first, "Echo: two")
    expect(second.locator("article")).to_have_count(4, timeout=MILLISECONDS)
    expect(second.locator("article").last).to_have_text("two", timeout=MILLISECONDS)


def test_one_page_shows_a_turn_that_began_and_ended_while_its_conversation_was_loaded(
    one_page: Visitor, tenant: Tenant
) -> None:
    first, second = one_page.open(), one_page.open()
    say(first, "Echo: one")
    expect(first.locator("article").last).to_have_text("one", timeout=MILLISECONDS)
    loaded: list[tuple[Route, APIResponse]] = []
    second.route("**/messages*", lambda route: loaded.append((route, route.fetch())))
    second.goto(first.url)
    eventually(lambda: bool(second.title()) and bool(loaded), MILLISECONDS / 1000)
    say(first, "Echo: two")
    expect(first.locator("article").last).to_have_text("two", timeout=MILLISECONDS)
    third = one_page.open()  # It has its list from the same events.
    expect(third.locator("nav li")).to_have_count(1, timeout=MILLISECONDS)
    expect(third.locator("nav li button.running")).to_have_count(0, timeout=MILLISECONDS)
    for route, answer in loaded:
        route.fulfill(response=answer)
    expect(second.locator("article")).to_have_count(4, timeout=MILLISECONDS)
    expect(second.locator("article").last).to_have_text("two", timeout=MILLISECONDS)


def test_one_page_keeps_telling_why_an_answer_failed(one_page: Visitor, emulator: Emulator, tenant: Tenant) -> None:
    page = one_page.open()
    emulator.fault("failed", after_events=3)
    say(page, "Echo: one two three")
    expect(page.get_by_role("alert")).not_to_be_empty(timeout=MILLISECONDS)
    tenant.http.patch(f"/threads/{newest(tenant)['id']}", json={"title": "Renamed"})
    expect(page.locator("nav li")).to_have_text(["Renamed"], timeout=MILLISECONDS)
    expect(page.get_by_role("alert")).not_to_be_empty()


def test_one_page_leaves_a_conversation_that_is_deleted_elsewhere(one_page: Visitor, tenant: Tenant) -> None:
    page = one_page.open()
    say(page, "Echo: one")
    expect(page.locator("article").last).to_have_text("one", timeout=MILLISECONDS)
    tenant.http.delete(f"/threads/{newest(tenant)['id']}")
    expect(page.locator("article")).to_have_count(0, timeout=MILLISECONDS)
    expect(page.locator("nav li")).to_have_count(0)


def test_one_page_keeps_a_message_that_a_proxy_refused(one_page: Visitor) -> None:
    page = one_page.open()
    page.route("**/v1/threads", lambda route: route.fulfill(status=502, content_type="text/html", body="<h1>Bad</h1>"))
    say(page, "Echo: kept")
    expect(page.get_by_role("alert")).to_contain_text("502", timeout=MILLISECONDS)
    expect(page.get_by_label("Message", exact=True)).to_have_value("Echo: kept")
    page.unroute("**/v1/threads")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("article").last).to_have_text("kept", timeout=MILLISECONDS)
    one_page.errors = [error for error in one_page.errors if "502" not in error]  # Chromium reports it.


def test_one_page_shows_no_conversation_of_another_guest(one_page: Visitor, browser: Browser, tenant: Tenant) -> None:
    page = one_page.open()
    say(page, "Echo: mine")
    expect(page.locator("article").last).to_have_text("mine", timeout=MILLISECONDS)
    thread = newest(tenant)["id"]
    stranger = Visitor(browser, one_page.url)
    page = stranger.open(f"#{thread}")
    expect(page.get_by_role("alert")).to_contain_text(thread, timeout=MILLISECONDS)
    expect(page.locator("article")).to_have_count(0)
    expect(page.locator("nav li")).to_have_count(0)
    stranger.context.close()


def answered(page: Page, times: int) -> None:
    """Wait for so many answers, and for the end of the last one."""
    expect(page.get_by_role("button", name="Try again")).to_have_count(times, timeout=MILLISECONDS)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0, timeout=MILLISECONDS)


@needs("npm")
def test_react_streams_answers_and_lists_conversations(react: Visitor, tenant: Tenant) -> None:
    page = react.open()
    say(page, "My name is Ada.")
    answered(page, 1)
    say(page, "What is my name?")
    expect(page.locator("article.assistant p").last).to_have_text("Ada", timeout=MILLISECONDS)
    answered(page, 2)
    # The page has sent the turns itself: it has not looked for a running one to resume.
    assert f"{tenant.service.url}/v1/threads/{newest(tenant)['id']}" not in react.requested
    page.get_by_role("link", name="New chat").click()
    say(page, "Echo: **bold** <script>window.hacked = 1</script> ![image](https://images.example/secret.png)")
    expect(page.locator("article strong")).to_have_text("bold", timeout=MILLISECONDS)
    expect(page.locator("nav li")).to_have_count(2, timeout=MILLISECONDS)
    page.locator("nav li a", has_text="Ada").click()
    answered(page, 2)
    assert page.evaluate("window.hacked") is None
    assert {urlsplit(url).hostname for url in react.requested} == {"127.0.0.1"}
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 700})
    page.get_by_role("button", name="Conversations").click()
    assert violations(page) == []
    page.locator("nav li a", has_text="bold").click()
    expect(page.locator("h1")).to_contain_text("bold")


@needs("npm")
def test_react_resumes_after_a_reload_and_stops(react: Visitor, emulator: Emulator, tenant: Tenant) -> None:
    page = react.open()
    emulator.fault("slow", seconds=0.1)
    words = " ".join(f"word{number}" for number in range(400))
    say(page, f"Echo: {words}")
    expect(page.locator("article.assistant")).to_contain_text("word5", timeout=MILLISECONDS)
    page.reload()
    expect(page.locator("article.assistant")).to_contain_text("word0 word1 word2", timeout=MILLISECONDS)
    expect(page.locator("article.assistant")).to_contain_text("word20", timeout=MILLISECONDS)
    page.get_by_role("button", name="Stop").click()
    answered(page, 1)
    thread = newest(tenant)["id"]

    def statuses() -> list[str]:
        return [turn["status"] for turn in tenant.http.get(f"/threads/{thread}/turns").json()["data"]]

    eventually(lambda: statuses() == ["cancelled"])
    page.reload()
    expect(page.locator("article.assistant")).to_contain_text("Stopped.", timeout=MILLISECONDS)
    emulator.reset()
    say(page, "Echo: again")
    expect(page.locator("article.assistant p").last).to_have_text("again", timeout=MILLISECONDS)


@needs("npm")
def test_react_leaves_a_conversation_that_goes_on_and_returns_to_it(react: Visitor, emulator: Emulator) -> None:
    page = react.open()
    emulator.fault("slow", seconds=0.1)
    say(page, "Echo: " + " ".join(f"word{number}" for number in range(40)))
    expect(page.locator("article.assistant")).to_contain_text("word3", timeout=MILLISECONDS)
    page.get_by_role("link", name="New chat").click()
    expect(page.locator("h1")).to_have_text("What would you like to know?")
    page.locator("nav li a").click()
    expect(page.locator("article.assistant")).to_contain_text("word39", timeout=MILLISECONDS)
    answered(page, 1)


@needs("npm")
def test_react_edits_a_question_and_switches_between_branches(react: Visitor, tenant: Tenant) -> None:
    page = react.open()
    say(page, "Echo: one")
    answered(page, 1)
    say(page, "Echo: two")
    answered(page, 2)
    page.get_by_role("button", name="Edit").last.click()
    page.get_by_label("Edited message").fill("Echo: three")
    page.get_by_role("button", name="Send again").click()
    expect(page.locator("article.assistant p").last).to_have_text("three", timeout=MILLISECONDS)
    answered(page, 2)
    versions = page.get_by_role("group", name="Versions of this answer")
    expect(versions).to_contain_text("2 / 2")
    page.get_by_role("button", name="Previous version").click()
    expect(page.locator("article.assistant p").last).to_have_text("two", timeout=MILLISECONDS)
    expect(page.locator("article.user").last).to_contain_text("Echo: two")
    page.reload()
    expect(page.locator("article.assistant p").last).to_have_text("two", timeout=MILLISECONDS)
    page.get_by_role("button", name="Try again").last.click()
    expect(versions).to_contain_text("3 / 3", timeout=MILLISECONDS)
    thread = newest(tenant)["id"]
    assert len(tenant.http.get(f"/threads/{thread}/branches").json()["data"]) == 3


@needs("npm")
def test_react_shares_a_conversation_until_the_link_is_ended(react: Visitor, browser: Browser) -> None:
    page = react.open()
    say(page, "Echo: shared words")
    answered(page, 1)
    page.get_by_role("button", name="Share").click()
    link = page.get_by_label("Link")
    expect(link).to_have_value(re.compile("/#shared/"), timeout=MILLISECONDS)
    stranger = Visitor(browser, react.url)
    other = stranger.open(link.input_value().removeprefix(f"{react.url}/"))
    expect(other.locator("article.assistant")).to_contain_text("shared words", timeout=MILLISECONDS)
    expect(other.get_by_role("button", name="Edit")).to_have_count(0)
    page.get_by_role("button", name="End the link").click()
    expect(page.get_by_role("dialog")).to_have_count(0, timeout=MILLISECONDS)
    other.reload()
    expect(other.get_by_role("alert")).to_be_visible(timeout=MILLISECONDS)
    stranger.context.close()


@needs("npm")
def test_react_shows_in_a_second_window_what_the_first_one_sends(react: Visitor) -> None:
    first, second = react.open(), react.open()
    say(first, "Echo: one")
    second.locator("nav li a").click(timeout=MILLISECONDS)
    expect(second.locator("article.assistant p")).to_have_text(["one"], timeout=MILLISECONDS)
    answered(first, 1)
    say(first, "Echo: two")
    expect(second.locator("article.assistant p")).to_have_text(["one", "two"], timeout=MILLISECONDS)
    first.on("dialog", lambda dialog: dialog.accept())
    first.get_by_role("button", name="Delete").click()
    expect(second.locator("nav li")).to_have_count(0, timeout=MILLISECONDS)
    expect(second.locator("article")).to_have_count(0, timeout=MILLISECONDS)


@needs("npm")
def test_react_keeps_a_message_that_was_not_sent_and_recovers_its_list(react: Visitor) -> None:
    page = react.context.new_page()
    page.route("**/v1/threads", lambda route: route.fulfill(status=502, content_type="text/html", body="<h1>Bad</h1>"))
    page.route(
        "**/v1/events", lambda route: route.fulfill(status=400, json={"error": {"message": "No list."}}), times=1
    )
    page.goto(react.url)
    expect(page.get_by_role("alert")).to_contain_text("No list.", timeout=MILLISECONDS)
    say(page, "Echo: [kept](https://example.com)")
    expect(page.get_by_role("alert").last).to_contain_text("502", timeout=MILLISECONDS)
    expect(page.get_by_label("Message", exact=True)).to_have_value("Echo: [kept](https://example.com)")
    page.unroute("**/v1/threads")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("link", name="kept", exact=True)).to_have_attribute(
        "rel", "noreferrer", timeout=MILLISECONDS
    )
    expect(page.locator("nav li")).to_have_count(1, timeout=MILLISECONDS)
    expect(page.get_by_role("alert")).to_have_count(0)


@needs("npm")
def test_react_shows_in_a_second_window_an_answer_that_ended_while_it_was_loaded(
    react: Visitor, emulator: Emulator, tenant: Tenant
) -> None:
    first, second = react.open(), react.open()
    say(first, "Echo: one")
    second.locator("nav li a").click(timeout=MILLISECONDS)
    expect(second.locator("article.assistant p")).to_have_text(["one"], timeout=MILLISECONDS)
    answered(first, 1)
    emulator.fault("slow", seconds=0.1)
    words = " ".join(f"word{number}" for number in range(60))
    held: list[Route] = []
    holds = True

    def hold(route: Route) -> None:
        if holds:
            held.append(route)
        else:
            route.continue_()

    second.route(f"**/v1/threads/{newest(tenant)['id']}", hold)
    # The second window reads the turns while this one runs, and the thread when it has ended: too late to follow it.
    with second.expect_response(lambda answer: "/turns?" in answer.url, timeout=MILLISECONDS):
        say(first, f"Echo: {words}")
    answered(first, 2)
    holds = False
    for route in held:
        route.continue_()
    expect(second.locator("article.assistant p")).to_have_text(["one", words], timeout=MILLISECONDS)


@needs("npm")
def test_react_lists_older_conversations_when_asked(react: Visitor, tenant: Tenant) -> None:
    page = react.open()
    say(page, "Echo: newest")
    answered(page, 1)
    user = newest(tenant)["user"]
    for number in range(55):
        tenant.http.post("/threads", json={"user": user, "title": f"Title {number}"})
    page.reload()
    expect(page.locator("nav li")).to_have_count(50, timeout=MILLISECONDS)
    page.get_by_role("button", name="Older conversations").click()
    expect(page.locator("nav li")).to_have_count(56, timeout=MILLISECONDS)
    expect(page.get_by_role("button", name="Older conversations")).to_have_count(0)

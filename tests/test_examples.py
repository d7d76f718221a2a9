"""The chat apps of examples/, each started as its README says and clicked through in a real browser."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.service import Emulator, Process, Service, free_port
from tests.tenants import Tenant

EXAMPLES = Path(__file__).parents[1] / "examples"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 30_000
"""Milliseconds that a page may take on a busy machine."""

pytestmark = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def browser(running_service: Service) -> Iterator[Browser]:
    """A browser, launched after the service has started its event loop."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """A browser with its own cookies, and the errors that its pages have reported."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.context: BrowserContext = browser.new_context(locale="en-US")
        self.context.set_default_timeout(SECONDS)
        self.errors: list[str] = []

    def open(self, path: str = "") -> Page:
        page = self.context.new_page()
        page.on("console", self._reported)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(f"{self.url}/{path}")
        return page

    def _reported(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)


@contextmanager
def running(command: list[str], folder: Path, service: Service, tenant: Tenant) -> Iterator[str]:
    """Start an example with the key of a new project, and yield the address that it prints."""
    env = {"EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": tenant.key, "PORT": str(free_port())}
    process = Process(env=env, cwd=folder, command=command)
    try:
        yield process.wait_for("The chat is at ").rpartition(" ")[2]
    finally:
        process.stop()


@pytest.fixture
def tenant(service: Service) -> Tenant:
    return Tenant(service)


@pytest.fixture
def one_page(browser: Browser, service: Service, tenant: Tenant) -> Iterator[Visitor]:
    with running([sys.executable, "server.py"], EXAMPLES / "one-page", service, tenant) as url:
        visitor = Visitor(browser, url)
        yield visitor
        visitor.context.close()
    assert visitor.errors == []


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def test_one_page_streams_an_answer_and_continues_the_conversation(one_page: Visitor, tenant: Tenant) -> None:
    page = one_page.open()
    say(page, "My name is Ada.")
    expect(page.locator("article.assistant:not(.running)")).to_have_count(1, timeout=SECONDS)
    say(page, "What is my name?")
    expect(page.locator("article").last).to_have_text("Ada", timeout=SECONDS)
    expect(page.locator("nav li")).to_have_text(["My name is Ada."], timeout=SECONDS)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article")).to_have_count(0)
    page.locator("nav li button").click()
    expect(page.locator("article")).to_have_count(4)
    assert [thread["user"][:6] for thread in tenant.http.get("/threads").json()["data"]] == ["guest-"]
    assert Axe().run(page).violations_count == 0


def test_one_page_resumes_after_a_reload_and_stops(one_page: Visitor, emulator: Emulator, tenant: Tenant) -> None:
    page = one_page.open()
    emulator.fault("slow", seconds=0.1)
    words = " ".join(f"word{number}" for number in range(400))
    say(page, f"Echo: {words}")
    expect(page.locator("article").last).to_contain_text("word5", timeout=SECONDS)
    page.reload()
    expect(page.locator("article").last).to_contain_text("word0 word1 word2", timeout=SECONDS)
    expect(page.locator("article").last).to_contain_text("word20", timeout=SECONDS)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=SECONDS)
    thread = tenant.http.get("/threads").json()["data"][0]["id"]
    turns = tenant.http.get(f"/threads/{thread}/turns").json()["data"]
    assert [turn["status"] for turn in turns] == ["cancelled"]
    page.reload()
    expect(page.locator("article")).to_have_count(2)
    assert "word399" not in page.locator("article").last.inner_text()


def test_one_page_shows_in_a_second_window_what_the_first_one_sends(one_page: Visitor, emulator: Emulator) -> None:
    first, second = one_page.open(), one_page.open()
    say(first, "Echo: one")
    expect(second.locator("nav li")).to_have_text(["Echo: one"], timeout=SECONDS)
    second.locator("nav li button").click()
    expect(second.locator("article").last).to_have_text("one", timeout=SECONDS)
    say(first, "Echo: two")
    expect(second.locator("article")).to_have_count(4, timeout=SECONDS)
    expect(second.locator("article").last).to_have_text("two", timeout=SECONDS)


def test_one_page_shows_no_conversation_of_another_guest(
    one_page: Visitor, browser: Browser, service: Service, tenant: Tenant
) -> None:
    page = one_page.open()
    say(page, "Echo: mine")
    expect(page.locator("article").last).to_have_text("mine", timeout=SECONDS)
    thread = tenant.http.get("/threads").json()["data"][0]["id"]
    stranger = Visitor(browser, one_page.url)
    page = stranger.open(f"#{thread}")
    expect(page.get_by_role("alert")).to_contain_text(thread, timeout=SECONDS)
    expect(page.locator("article")).to_have_count(0)
    expect(page.locator("nav li")).to_have_count(0)
    stranger.context.close()

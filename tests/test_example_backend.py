"""The help desk of examples/fastapi-backend, started as its README says and clicked through in a real browser."""

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.console import MILLISECONDS, needs_chromium, violations
from tests.service import Emulator, Process, Service, eventually, free_port

ROOT = Path(__file__).parents[1]
STAFF = {"username": "grace", "password": "a password of the test"}

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def desk(running_service: Service) -> Iterator[str]:
    """The address of the help desk."""
    env = {
        "EVERTHREAD_URL": running_service.url,
        "EVERTHREAD_KEY": running_service.key,
        "STAFF_PASSWORD": STAFF["password"],
        "PORT": str(free_port()),
        "PYTHONPATH": "clients/python/src",
    }
    process = Process(env=env, cwd=ROOT, command=[sys.executable, "examples/fastapi-backend/main.py"])
    url = process.wait_for("The help desk is at ").rpartition(" ")[2]

    def answers() -> bool:
        with suppress(httpx2.ConnectError):
            return httpx2.get(url).status_code == 200
        return False

    eventually(answers, seconds=60)
    yield url
    process.stop()


class Visitors:
    """Pages of visitors with cookies of their own, and the errors that the pages have reported."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.errors: list[str] = []
        self._browser = browser

    def customer(self) -> Page:
        return self._opened(self._browser.new_page())

    def staff(self) -> Page:
        return self._opened(self._browser.new_page(http_credentials={**STAFF}), "/staff")  # type: ignore[arg-type]

    def _opened(self, page: Page, path: str = "/") -> Page:
        page.set_default_timeout(MILLISECONDS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._reported)
        page.goto(self.url + path)
        return page

    def _reported(self, message: ConsoleMessage) -> None:
        # Chromium reports the first, unauthenticated request of a page with a password.
        if message.type == "error" and "401" not in message.text:
            self.errors.append(message.text)


@pytest.fixture
def visitors(browser: Browser, desk: str) -> Iterator[Visitors]:
    visitors = Visitors(browser, desk)
    yield visitors
    for context in browser.contexts:
        context.close()
    assert visitors.errors == []


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def shows(page: Page, *texts: str | re.Pattern[str]) -> None:
    expect(page.get_by_role("log").locator("p")).to_have_text(list(texts), timeout=MILLISECONDS)


def test_a_person_takes_over_and_gives_back(visitors: Visitors, service: Service, emulator: Emulator) -> None:
    customer = visitors.customer()
    say(customer, "Where is my order 1001?")
    shows(customer, "Where is my order 1001?", "The tool answered: shipped, arrives tomorrow")
    say(customer, "Please use hand_over_to_human. I am Ada <b>and angry</b>.")
    said = [
        "Where is my order 1001?",
        "The tool answered: shipped, arrives tomorrow",
        "Please use hand_over_to_human. I am Ada <b>and angry</b>.",
        "The tool answered: A colleague was asked to answer here. Tell the customer.",
    ]
    shows(customer, *said)
    expect(customer.get_by_role("status")).to_have_text("A colleague answers here.", timeout=MILLISECONDS)

    staff = visitors.staff()
    staff.get_by_role("button", name="I am Ada <b>and angry</b>.").click()
    shows(staff, *said)
    say(staff, "I am Grace. How can I help?")
    shows(customer, *said, "I am Grace. How can I help?")
    calls = len(emulator.calls())
    say(customer, "My name is Ada.")
    shows(staff, *said, "I am Grace. How can I help?", "My name is Ada.")
    assert len(emulator.calls()) == calls

    staff.get_by_role("button", name="Give back").click()
    expect(customer.get_by_role("status")).to_be_hidden(timeout=MILLISECONDS)
    say(customer, "Recite the conversation")
    recited = re.compile("assistant: I am Grace. How can I help?.*user: My name is Ada.", re.DOTALL)
    told: list[str | re.Pattern[str]] = [
        *said,
        "I am Grace. How can I help?",
        "My name is Ada.",
        "Recite the conversation",
        recited,
    ]
    shows(customer, *told)
    customer.reload()
    shows(customer, *told)
    shows(staff, *told)
    assert violations(customer) == []
    assert violations(staff) == []
    shows(visitors.customer())


def test_a_window_that_opens_meanwhile_shows_the_answer_as_it_is_written(
    visitors: Visitors, service: Service, emulator: Emulator
) -> None:
    words = " ".join(f"word{number}" for number in range(40))
    customer = visitors.customer()
    emulator.fault("slow", seconds_per_event=0.1)
    say(customer, f"Echo: {words}")
    expect(customer.get_by_role("log").locator("p").last).to_contain_text("word3", timeout=MILLISECONDS)
    customer.reload()
    shows(customer, f"Echo: {words}", words)


def test_a_person_is_asked_if_the_model_fails(visitors: Visitors, service: Service, emulator: Emulator) -> None:
    emulator.fault("status", status=401, code="InvalidApiKey", message="Invalid API-key provided.", times=20)
    customer = visitors.customer()
    say(customer, "Hello, my wheel is broken.")
    shows(customer, "Hello, my wheel is broken.")
    expect(customer.get_by_role("status")).to_have_text("A colleague answers here.", timeout=MILLISECONDS)


def test_nobody_reads_the_conversations_of_others(visitors: Visitors, desk: str, service: Service) -> None:
    own = visitors.customer()
    say(own, "Echo: my secret")
    shows(own, "Echo: my secret", "my secret")
    (cookie,) = own.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    foreign = service.thread(title="Not of the desk")
    with httpx2.Client(base_url=desk, timeout=60) as stranger:
        for path in ("/staff", "/api/staff/chats", f"/api/staff/chats/{foreign}", f"/api/staff/chats/{foreign}/events"):
            assert stranger.get(path).status_code == 401
            assert stranger.get(path, auth=("grace", "wrong")).status_code == 401
        for path in (f"/api/staff/chats/{foreign}", f"/api/staff/chats/{foreign}/return"):
            assert stranger.post(path, json={"text": "Hello"}).status_code == 401
        assert stranger.get("/api/chat").status_code == 401
        assert stranger.post("/api/chat", json={"text": "Hello"}).status_code == 401
        policy = stranger.get("/").headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert stranger.get("/api/chat").json() == {"with_person": False, "messages": []}
        password = ("grace", STAFF["password"])
        assert stranger.get(f"/api/staff/chats/{foreign}", auth=password).status_code == 404
        assert stranger.post(f"/api/staff/chats/{foreign}", json={"text": "Hi"}, auth=password).status_code == 404
        assert stranger.post("/api/chat", json={"text": "x" * 4001}).status_code == 422
        form = {"Content-Type": "text/plain"}  # The type that a form of another page can send.
        assert stranger.post("/api/chat", content='{"text": "Hello"}', headers=form).status_code == 422
        assert stranger.get("/api/chat").json()["messages"] == []
    eventually(lambda: service.http.get(f"/threads/{foreign}/turns").json()["data"] == [])

"""Failures in the console: what failed and why, found by clicks alone, and shown where it happened."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from app.console import meanings
from app.console.meanings import OF_CAUSE, OF_KIND, OF_SERVICE, Meaning, meaning_of
from app.console.words import CHINESE
from app.provider.error_table import Cause, Kind
from tests.console import Console, needs_chromium, violations
from tests.service import Emulator

HOSTILE = "<img src=x onerror='window.hacked = 1'>"


def fail(console: Console, emulator: Emulator, thread: str, code: str, message: str = "No.", **fields: Any) -> str:
    """Have a turn fail as the provider's refusal. Return its id."""
    status = fields.pop("status", 400)
    emulator.fault("status", status=status, code=code, message=message, retry_after=0, times=9)
    console.http.post(f"/threads/{thread}/turns", json={"input": "Hello.", **fields})
    emulator.reset()
    turn: str = console.http.get(f"/threads/{thread}/turns").json()["data"][0]["id"]
    return turn


@needs_chromium
def test_task_3_what_failed_in_the_last_hour_is_listed_by_code_model_account_and_user(
    console: Console, emulator: Emulator
) -> None:
    ann, bob = (console.thread(title=f"Of {user}", user=user) for user in ("ann", "bob"))
    blocked = fail(console, emulator, ann, "DataInspectionFailed")
    for thread, model in ((ann, "qwen-flash"), (bob, "qwen-flash"), (bob, "qwen3.5-plus")):
        fail(console, emulator, thread, "InvalidApiKey", HOSTILE, status=401, model=model)
    cut = console.http.post(
        f"/threads/{bob}/turns", json={"input": "Tell me a long story. " * 10, "max_output_tokens": 16}
    ).json()["id"]
    page = console.open("")
    page.get_by_role("navigation", name="Everthread").get_by_role("link", name="Failures").click()
    page.get_by_role("link", name="Last hour").click()
    expect(page.locator("#failures tbody tr")).to_have_count(5)
    expect(page.locator(".stat", has_text="Failures").locator("dd")).to_have_text("5")
    expect(page.locator("#over-time [data-drawn] canvas")).to_be_visible()
    # The chart's own table says the same.
    numbers = page.locator("#over-time tbody [data-value]")
    assert sum(int(number.get_attribute("data-value") or 0) for number in numbers.all()) == 5
    counts = {
        name: dict(zip(page.locator(f"#by-{name} li a").all_inner_texts(),
                       page.locator(f"#by-{name} li .number").all_inner_texts(), strict=True))
        for name in ("code", "model", "user", "account")
    }  # fmt: skip
    assert counts["code"] == {"InvalidApiKey": "3", "DataInspectionFailed": "1", "max_output_tokens": "1"}
    assert counts["user"] == {"bob": "3", "ann": "2"}
    assert list(counts["account"].values()) == ["5"]
    page.locator("#by-code").get_by_role("link", name="InvalidApiKey").click()
    expect(page.locator("#failures tbody tr")).to_have_count(3)
    expect(page.locator(".notice")).to_contain_text("Check the account's key")
    page.locator("#by-user").get_by_role("link", name="bob").click()
    expect(page.locator("#failures tbody tr")).to_have_count(2)
    page.locator("#by-model").get_by_role("link", name="qwen-flash").click()
    expect(page.locator("#failures tbody tr")).to_have_count(1)
    expect(page.locator("#failures tbody tr")).to_contain_text(HOSTILE)
    for name in ("Code: InvalidApiKey", "User: bob", "Model: qwen-flash"):
        page.get_by_role("link", name=f"Remove the filter {name}").click()
    expect(page.locator("#failures tbody tr")).to_have_count(5)
    page.get_by_role("link", name="Incomplete", exact=True).click()
    expect(page.locator("#failures tbody tr")).to_have_attribute("id", f"row-{cut}")
    page.get_by_role("link", name="All", exact=True).click()
    page.locator("summary", has_text="Filter").click()
    page.get_by_role("textbox", name="User").fill("ann")
    page.get_by_role("textbox", name="Code").fill("DataInspectionFailed")
    page.get_by_role("button", name="Apply").last.click()
    expect(page.locator("#failures tbody tr")).to_have_attribute("id", f"row-{blocked}")
    assert not page.evaluate("'hacked' in window")


@needs_chromium
def test_task_2_why_a_turn_failed_and_what_was_tried_is_said_in_its_thread(
    console: Console, emulator: Emulator
) -> None:
    thread = console.thread("Echo: before", title="Refund", user="ann")
    failed = fail(console, emulator, thread, "InternalError", HOSTILE, status=500)
    emulator.fault("cut", after_events=8, stream=True, times=2)
    body = {"input": "Tell me a long story.", "stream": True}
    with console.http.stream("POST", f"/threads/{thread}/turns", json=body) as answer:
        answer.read()
    page = console.open("")
    page.get_by_role("link", name="Failures").click()
    row = page.locator(f"#row-{failed}")
    expect(row.locator(".num")).to_have_text(["3", "500"])  # Calls, and the HTTP status of the last.
    row.get_by_role("link", name="Provider unavailable").click()
    asked = parse_qs(urlsplit(page.url).query)
    assert (asked["turn"], asked["until"]) == ([failed], [failed])
    notice = page.locator(f"#{failed} .notice")
    expect(notice).to_be_in_viewport()
    for text in ("Provider unavailable", "InternalError", HOSTILE, "Retry in a minute."):
        expect(notice).to_contain_text(text)
    expect(notice.get_by_role("button", name="Retry")).to_have_attribute("data-retry", failed)
    expect(notice.get_by_role("link", name="Details")).to_have_attribute("data-details", failed)
    page.locator("#panel .tabs").get_by_role("link", name="Sent").click()
    expect(page.locator("#panel section.call .badge.bad")).to_have_text(["HTTP 500"] * 3)  # What was tried.
    # A turn with a part of its answer shows both. It is the thread's last, so its row opens the thread as it is.
    page.get_by_role("link", name="Failures").click()
    page.get_by_role("link", name="Interrupted", exact=True).click()
    assert "until" not in parse_qs(urlsplit(page.url).query)
    last = page.locator("article").last
    expect(last.locator(".message.assistant .text")).not_to_be_empty()
    expect(last.locator(".notice.warn")).to_contain_text("interrupted")
    assert not page.evaluate("'hacked' in window")


@needs_chromium
def test_the_list_of_threads_shows_whose_last_turn_failed(console: Console, emulator: Emulator) -> None:
    console.thread("Echo: fine", title="Fine")
    failed = console.thread("Echo: fine", title="Stuck")
    fail(console, emulator, failed, "InvalidParameter")
    page = console.open("/threads")
    expect(page.locator(".threads .badge.bad")).to_have_text(["failed"])
    expect(page.locator(f"#{failed} .badge.bad")).to_be_visible()
    console.http.post(f"/threads/{failed}/turns", json={"input": "Echo: again"})
    page = console.open("/threads")
    expect(page.locator(".threads li")).to_have_count(2)
    expect(page.locator(".threads .badge.bad")).to_have_count(0)


@needs_chromium
def test_a_cancelled_turn_says_so_quietly(console: Console, emulator: Emulator) -> None:
    thread = console.thread()
    emulator.fault("slow", seconds=60)
    turn = console.http.post(f"/threads/{thread}/turns", json={"input": "Hello.", "background": True}).json()["id"]
    console.http.post(f"/threads/{thread}/turns/{turn}/cancel")
    page = console.open(f"/threads/{thread}")
    expect(page.locator(f"#{turn} .notice")).to_have_text("Cancelled before there was an answer.")
    console.open("/failures")
    expect(page.locator(".list-of-failures")).to_contain_text("No failures in this time range.")


@needs_chromium
def test_failures_are_accessible_and_fit_a_phone(console: Console, emulator: Emulator) -> None:
    thread = console.thread(title="A title without an end " * 20, user="a-user-without-an-end" * 8)
    failed = fail(console, emulator, thread, "DataInspectionFailed", "x" * 3000)
    console.page.set_viewport_size({"width": 390, "height": 844})
    for scheme in ("light", "dark"):
        console.page.emulate_media(color_scheme=scheme)
        for path in (
            "/failures?code=DataInspectionFailed",
            "/failures?user=nobody",
            f"/threads/{thread}?until={failed}",
        ):
            page = console.open(path)
            if "code=" in path:
                expect(page.locator("#over-time [data-drawn]")).to_be_visible()
            results = violations(page)
            assert [(each["id"], each["nodes"][0]["html"]) for each in results] == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_every_meaning_has_a_chinese_form_and_every_kind_of_error_a_meaning() -> None:
    texts = [text for each in vars(meanings).values() if isinstance(each, Meaning)
             for text in (each.title, each.happened, each.next)]  # fmt: skip
    assert len(texts) > 60
    assert set(texts) - set(CHINESE) == set()
    assert set(OF_KIND) == set(Kind)
    assert set(OF_CAUSE) == set(Cause)


@pytest.mark.parametrize(
    ("status", "code", "message", "http", "title"),
    [
        ("failed", "Throttling.RateQuota", "", 429, "Rate limit reached"),
        ("failed", "429", "", None, "Rate limit reached"),
        ("failed", "InternalError.Algo.DataInspectionFailed", "", None, "Input blocked by the content filter"),
        ("failed", "DataInspectionFailed", "Output data may contain inappropriate content.", 400,
         "Answer blocked by the content filter"),
        ("failed", "Arrearage", "", 400, "Account refused"),
        ("failed", "server_error", "", 200, "The model failed"),
        ("failed", "InternalError", "", None, "Provider unavailable"),
        ("failed", "InvalidParameter", "Range of input length should be [1, 258048]", 400, "Conversation too long"),
        ("failed", "InvalidParameter", "'temperature' must be lower.", 400, "Parameter refused"),
        ("failed", "500", "<b>", 500, "Provider unavailable"),
        ("failed", "", "", None, "The model failed"),
        ("incomplete", "content_filter", "", None, "Answer blocked by the content filter"),
        ("incomplete", "max_output_tokens", "", None, OF_SERVICE["max_output_tokens"].title),
        ("incomplete", "of a kind that nobody knows", "", None, "Interrupted"),
    ],
)  # fmt: skip
def test_a_code_means_what_the_service_acts_on(
    status: str, code: str, message: str, http: int | None, title: str
) -> None:
    assert meaning_of(status, code, message, http).title == title

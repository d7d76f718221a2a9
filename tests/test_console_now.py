"""The console's Now page, and threads that go on while somebody looks at them: by clicks, in a real browser."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Locator, Page, expect

from tests.console import Console, needs_chromium, new_key
from tests.service import Emulator, Service, eventually

pytestmark = needs_chromium

LONG = "Echo: " + "word " * 300


@contextmanager
def slow_turn(console: Console, emulator: Emulator, thread: str, **fields: str) -> Iterator[str]:
    """A background turn that streams as long as this context lasts."""
    emulator.fault("slow", seconds_per_event=0.2)
    body = {"input": LONG, "background": True, **fields}
    turn: str = console.http.post(f"/threads/{thread}/turns", json=body).raise_for_status().json()["id"]
    try:
        yield turn
    finally:
        console.http.post(f"/threads/{thread}/turns/{turn}/cancel").raise_for_status()


def limits(console: Console, service: Service, **fields: dict[str, int]) -> None:
    project = console.http.get("/project").json()["id"]
    service.http.patch(f"/admin/projects/{project}", json=fields).raise_for_status()


def state(page: Page) -> Locator:
    """The state of the page's stream, in words."""
    return page.locator("#live span").last


def at_top(page: Page) -> None:
    page.evaluate("window.scrollTo(0, 0)")


def test_task_4_see_what_runs_what_is_throttled_and_which_limit_is_near(
    console: Console, console_service: Service, emulator: Emulator
) -> None:
    limits(console, console_service, limits={"requests_per_minute": 200}, user_limits={"requests_per_minute": 5})
    page = console.open("")
    page.get_by_role("link", name="Now", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Now")
    expect(state(page)).to_have_text("Live")
    expect(page.locator("#running")).to_contain_text("Nothing is running")
    expect(page.locator("#throttled")).to_contain_text("No account is throttled")
    # All of it appears without another click.
    emulator.control("faults", [{"kind": "status", "status": 429, "times": 10}])
    busy = console.http.post("/threads", json={"user": "ann", "title": "<b>Bold</b> & 'quoted'"}).json()["id"]
    assert console.http.post(f"/threads/{busy}/turns", json={"input": "Hi"}).status_code == 429
    emulator.reset()
    expect(page.locator("#throttled tbody tr")).to_contain_text("From the environment")
    expect(page.locator("#throttled tbody tr")).to_contain_text("The provider has throttled it.")
    for _ in range(3):
        console.http.post(f"/threads/{busy}/turns", json={"input": "Echo: hi", "user": "ann"}).raise_for_status()
    with slow_turn(console, emulator, busy, user="ann") as turn:
        row = page.locator(f"#row-{turn}")
        expect(row).to_contain_text("<b>Bold</b> & 'quoted'")
        expect(row).to_contain_text("ann")
        expect(row).to_contain_text("answering")
        expect(row).to_contain_text("background")
        expect(page.locator(".limits .near")).to_contain_text("Requests per minute")
        expect(page.locator(".limits .near .whose")).to_have_text("User ann")
        lasted = row.locator("[data-since]")
        before = lasted.inner_text()
        expect(lasted).not_to_have_text(before)
        # A pause keeps what is shown, and a link keeps its focus while the table is renewed.
        row.get_by_role("link").first.focus()
        said = row.locator("td.num").nth(2).inner_text()
        expect(row.locator("td.num").nth(2)).not_to_have_text(said)
        expect(row.get_by_role("link").first).to_be_focused()
        page.get_by_role("button", name="Pause").click()
        expect(state(page)).to_have_text("Paused")
        expect(page.locator("#pause use")).to_have_attribute("href", re.compile(r"^/console/static/.+#play$"))
    expect(page.locator("#row-" + turn)).to_be_visible()
    expect(page.locator("#pause use")).to_have_attribute("href", re.compile(r"/static/\w+/vendor/icons\.svg#play$"))
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#running")).to_contain_text("Nothing is running")
    expect(page.locator("#heard")).to_contain_text("0 turns run")  # A screen reader is told the counts.


def test_task_5_watch_a_conversation_go_on_that_is_held_elsewhere(console: Console, emulator: Emulator) -> None:
    filler = "Echo: " + "A line that takes some room. " * 60
    thread = console.thread(filler, filler, filler, title="Watched")
    page = console.open("")
    page.get_by_role("link", name="Watched").first.click()
    expect(page.locator("article")).to_have_count(3)
    with slow_turn(console, emulator, thread) as turn:
        article = page.locator(f"#{turn}")
        expect(article.locator(".stream")).to_contain_text("word word word")
        expect(article).to_be_in_viewport()
        expect(page.locator("#heard")).to_have_text("A new turn was added.")
        page.reload()  # The text before is there, once.
        expect(article.locator(".stream")).to_contain_text("word word word word word word")
        assert article.locator(".stream").inner_text().startswith("word word")
    expect(article.locator(".stream")).to_have_count(0)
    expect(article).to_contain_text("cancelled")
    expect(article).to_contain_text("word word")
    # A reader further up stays there, and a button reports turns below.
    at_top(page)
    for number in (1, 2):
        console.http.post(f"/threads/{thread}/turns", json={"input": f"Echo: number {number}"}).raise_for_status()
        expect(page.locator("article")).to_have_count(4 + number)
    below = page.get_by_role("button", name="2 new turns below")
    expect(below).to_be_visible()
    assert page.evaluate("window.scrollY") == 0
    below.click()
    expect(page.locator("article").last).to_be_in_viewport()
    expect(below).to_be_hidden()
    first = page.locator("article").first.get_attribute("id")
    console.http.post(f"/threads/{thread}/turns", json={"input": "Echo: branch", "parent_id": first}).raise_for_status()
    expect(page.get_by_text("The conversation goes on in another branch.")).to_be_visible()
    console.http.delete(f"/threads/{thread}").raise_for_status()
    expect(page.locator("#gone")).to_be_visible()


def test_what_somebody_fills_in_stays_when_others_change_the_thread(console: Console) -> None:
    thread = console.thread("Echo: one", title="Shared")
    page = console.open(f"/threads/{thread}")
    expect(state(page)).to_have_text("Live")
    page.get_by_role("button", name="Edit", exact=True).first.click()
    page.fill("#edit-title", "Half a title")
    console.http.patch(f"/threads/{thread}", json={"metadata": {"plan": "pro"}}).raise_for_status()
    console.http.post(f"/threads/{thread}/turns", json={"input": "Echo: two"}).raise_for_status()
    expect(page.locator("article")).to_have_count(2)  # The change before it has arrived as well.
    expect(page.locator("#edit-title")).to_have_value("Half a title")
    page.keyboard.press("Escape")
    expect(page.locator(".thread-about")).to_contain_text("plan: pro")
    console.http.patch(f"/threads/{thread}", json={"title": "Renamed"}).raise_for_status()
    expect(page).to_have_title("Renamed · Everthread")


def test_a_stream_that_breaks_off_goes_on_without_an_error_of_the_page(console: Console) -> None:
    thread = console.thread("Echo: one")
    console.context.route("**/events*", lambda route: route.abort())
    page = console.open(f"/threads/{thread}")
    expect(page.get_by_text("Reconnecting")).to_be_visible()
    console.context.unroute("**/events*")
    console.http.post(f"/threads/{thread}/turns", json={"input": "Echo: two"}).raise_for_status()
    expect(state(page)).to_have_text("Live")
    console.http.post(f"/threads/{thread}/turns", json={"input": "Echo: three"}).raise_for_status()
    expect(page.locator("article").last).to_contain_text("three")
    console.wrong = [each for each in console.wrong if "ERR_FAILED" not in each]


def test_a_message_that_is_sent_here_is_shown_once(console: Console) -> None:
    thread = console.thread("Echo: first")
    page = console.open(f"/threads/{thread}")
    for number in range(2, 5):
        page.fill("#say", f"Echo: number {number}")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("article").last).to_contain_text(f"number {number}")
        expect(page.locator("article")).to_have_count(number)
        expect(page.locator("article .stream")).to_have_count(0)


def test_the_list_of_threads_is_live_and_keeps_its_filter_and_the_focus(console: Console) -> None:
    console.thread("Echo: hi", title="Old", user="ann")
    page = console.open("/threads?user=ann")
    expect(page.locator("#list .threads li")).to_have_count(1)
    console.thread("Echo: hi", title="Of another", user="bob")
    mine = console.thread(title="New", user="ann")
    expect(page.locator("#list .threads li")).to_have_count(2)
    expect(page.locator("#list")).not_to_contain_text("Of another")
    page.locator("#list a").first.focus()
    console.http.patch(f"/threads/{mine}", json={"title": "Renamed"}).raise_for_status()
    time.sleep(2.5)  # Longer than the list waits after a change.
    expect(page.locator("#list")).not_to_contain_text("Renamed")
    page.locator("#q").focus()
    expect(page.locator("#list")).to_contain_text("Renamed")


def test_many_tabs_leave_connections_for_requests(console: Console) -> None:
    pages = [console.page, *(console.context.new_page() for _ in range(7))]
    for page in pages:
        page.goto(f"{console.service.url}/console/now")
    states = [state(page) for page in pages]
    for live in states[:4]:
        expect(live).to_have_text("Live")
    expect(states[-1]).to_have_text("Not live: too many tabs are open")
    pages[-1].get_by_role("link", name="Usage").click()
    expect(pages[-1].get_by_role("heading", level=1)).to_have_text("Usage")
    pages[0].close()
    eventually(lambda: sum(state(page).inner_text() == "Live" for page in pages[1:-1]) == 4)
    for page in pages[1:]:
        page.close()


def test_a_page_says_that_its_session_has_ended(browser: Browser, console_service: Service, emulator: Emulator) -> None:
    context = browser.new_context(locale="en-US")
    console = Console(context, console_service, new_key(console_service))
    page = console.open("/now")
    expect(state(page)).to_have_text("Live")
    project = console.http.get("/project").json()["id"]
    (own,) = console.http.get(f"/admin/projects/{project}/keys").json()["data"]
    console_service.http.delete(f"/admin/projects/{project}/keys/{own['id']}").raise_for_status()
    expect(state(page)).to_have_text("Signed out")
    again = page.get_by_role("alert").get_by_role("link", name="Sign in again")
    expect(again).to_have_attribute("href", "/console/sign-in?next=%2Fconsole%2Fnow")
    context.close()

"""The panel of a turn, by clicks: what was sent and came back, comparisons, and the proof of its contents."""

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import asyncpg
import httpx2
from playwright.sync_api import Browser, Page, expect

from tests.console import Console, needs_chromium, new_key, violations
from tests.service import Emulator, Process, Service, eventually

pytestmark = needs_chromium

HOSTILE = "\"><img src=x onerror='window.hacked=1'>$(touch x)`'{{ 7 * 7 }}</pre><script>window.hacked=1</script>"


def opened(console: Console, title: str, number: int = -1) -> Page:
    """Open a thread from the first page, and the panel of one of its turns."""
    page = console.open("")
    page.locator(".threads li a", has_text=title).first.click()
    article = page.locator("#turns article").nth(number)
    article.hover()
    article.get_by_role("link", name="Details").click()
    expect(page.locator("#panel-title")).to_be_focused()
    return page


def tab(page: Page, name: str) -> None:
    page.locator("#panel .tabs").get_by_role("link", name=name).click()
    expect(page.locator("#panel .tabs [aria-current=page]")).to_have_text(name)


def test_task_7_see_exactly_what_was_sent_and_came_back_and_copy_it(console: Console, emulator: Emulator) -> None:
    console.context.grant_permissions(["clipboard-read", "clipboard-write"])
    thread = console.thread("My name is Ada.", title="Invoice 4711")
    emulator.forget()
    body = {"input": f"What is my name? {HOSTILE}", "metadata": {"ticket": HOSTILE}, "instructions": HOSTILE}
    turn = console.http.post(f"/threads/{thread}/turns", json=body).json()
    feedback = {"score": 1, "label": "helpful", "comment": HOSTILE, "user": "ada"}
    console.http.post(f"/threads/{thread}/turns/{turn['id']}/feedback", json=feedback)
    page = opened(console, "Invoice 4711")
    assert page.url.endswith(f"/console/threads/{thread}?turn={turn['id']}")
    panel = page.locator("#panel")
    link = console.http.get(f"/threads/{thread}/chain").json()["data"][-1]
    for text in (link["response_id"], turn["account"], "0.0000", "Refused attempt", HOSTILE, "helpful"):
        expect(panel).to_contain_text(text)
    tab(page, "Sent")
    calls = panel.locator("section.call")
    expect(calls).to_have_count(2)
    expect(calls.nth(0)).to_contain_text("Not found previous_response_id")
    expect(calls.nth(1).locator(".diff .plus").first).to_be_visible()
    sent = console.http.get(f"/threads/{thread}/turns/{turn['id']}/calls").json()["data"][1]
    assert (
        json.loads(calls.nth(1).locator("pre:not(.diff)").inner_text()) == sent["body"] == emulator.calls()[-1]["body"]
    )
    for label, form in (("Copy as curl", "curl"), ("Copy as openai-python", "python"), ("Copy the body", "body")):
        button = calls.nth(1).get_by_role("link", name=label)
        button.click()
        expect(calls.nth(1).get_by_role("link", name="Copied")).to_be_visible()
        exact = console.http.get(f"/calls/{sent['id']}", params={"format": form}).text
        assert page.evaluate("navigator.clipboard.readText()") == exact
        expect(button).to_be_visible()
    tab(page, "Received")
    expect(panel.locator("details.part").first).to_contain_text('"text": "Ada"')
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)
    assert page.url.endswith(f"/console/threads/{thread}")
    expect(page.locator("#turns article").last.get_by_role("link", name="Details")).to_be_focused()
    page.go_back()
    expect(panel).to_be_visible()
    panel.get_by_role("link", name="Close").click()
    expect(panel).to_have_count(0)
    assert page.evaluate("window.hacked") is None


def test_the_panel_leaves_the_focus_to_who_writes_and_says_when_it_cannot_be_loaded(
    console: Console, emulator: Emulator
) -> None:
    thread = console.thread("Echo: one", title="Written in")
    page = opened(console, "Written in")
    panel = page.locator("#panel")
    page.locator("a.skip[href='#say']").press("Enter")
    expect(page.locator("#say")).to_be_focused()
    emulator.fault("slow", seconds=0.05)
    body = {"input": "Echo: " + "word " * 40, "background": True}
    turn = console.http.post(f"/threads/{thread}/turns", json=body).json()["id"]
    running = page.locator(f"#{turn}")
    running.hover()
    running.get_by_role("link", name="Details").click()
    expect(panel).to_have_attribute("data-turn", turn)
    tab(page, "Received")
    expect(panel.locator(".tabs [aria-current=page]")).to_be_focused()
    page.locator("#say").focus()
    expect(running.locator(".stream")).to_have_count(0)
    expect(panel.locator("details.part").first).to_contain_text("word word")  # The same tab, renewed.
    expect(page.locator("#say")).to_be_focused()
    console.context.set_offline(True)
    first = page.locator("#turns article").first
    first.hover()
    first.get_by_role("link", name="Details").click()
    said = page.locator("#said")
    expect(said).to_contain_text("You are offline.")
    expect(page.locator("#side")).not_to_have_attribute("aria-busy", "true")
    console.context.set_offline(False)
    first.hover()
    first.get_by_role("link", name="Details").click()
    expect(panel).to_have_attribute("data-turn", str(first.get_attribute("id")))
    told = ("ERR_INTERNET_DISCONNECTED", "htmx:")
    console.wrong = [each for each in console.wrong if not any(text in each for text in told)]


def test_task_8_compare_a_turn_with_another_branch_and_with_what_a_rebuild_would_send(console: Console) -> None:
    thread = console.thread("My name is Ada.", "Echo: first", title="Compared")
    first = console.http.get(f"/threads/{thread}").json()["head_id"]
    console.http.post(f"/threads/{thread}/turns", json={"input": "Echo: second", "replaces": first})
    page = opened(console, "Compared")
    panel = page.locator("#panel")
    tab(page, "Compare")
    panel.get_by_role("link", name=f"…{first[-8:]}").click()
    expect(panel.locator(".diff .minus")).to_have_text(["-Echo: first\n", "-first\n"])
    expect(panel.locator(".diff .plus")).to_have_text(["+Echo: second\n", "+second\n"])
    page.get_by_role("link", name="the branch before").click()
    article = page.locator("#turns article").last
    expect(article).to_contain_text("first")
    article.get_by_role("link", name="Details").click()
    tab(page, "Compare")
    panel.get_by_role("link", name="What a rebuild would send now").click()
    expect(panel).to_contain_text("This turn was chained")
    expect(panel.locator(".diff .plus", has_text="My name is Ada.")).to_have_count(1)


def test_task_9_prove_a_turn_with_its_contents_and_notice_one_changed_byte(
    console: Console, console_env: dict[str, str]
) -> None:
    thread = console.thread("My name is Ada.", "What is my name?", title="Proved")
    turn = console.http.get(f"/threads/{thread}").json()["head_id"]
    eventually(lambda: _signed(console, thread, turn))
    public = Process("audit", "public-key", env=console_env)
    assert public.ended() == 0
    page = opened(console, "Proved")
    panel = page.locator("#panel")
    tab(page, "Proof")
    panel.get_by_role("button", name="Check this turn").click()
    expect(panel.locator(".verdict.stated")).to_contain_text("These contents are the ones recorded at")
    expect(panel.locator(".verdict.stated")).to_contain_text("the key that this service states")
    panel.get_by_label("Public key that you trust").fill(public.lines[-1])
    panel.get_by_role("button", name="Check this turn").click()
    expect(panel.locator(".verdict.good")).to_contain_text("Signed with the key that you trust.")
    expect(panel.locator(".proved.good h3")).to_have_text(["✓ The request", "✓ Call 1", "✓ The answer"])
    panel.locator(".proved summary").first.click()
    expect(panel.locator(".proved pre").first).to_contain_text('"content": "What is my name?"')
    _run(console_env, f"UPDATE items SET data = replace(data::text, 'Ada', 'Eve')::json WHERE {_of(turn)}")
    tab(page, "Overview")
    tab(page, "Proof")
    expect(panel.get_by_label("Public key that you trust")).to_have_value(public.lines[-1])
    panel.get_by_role("button", name="Check this turn").click()
    expect(panel.locator(".verdict.wrong")).to_have_text("These contents are not the ones that were recorded.")
    expect(panel.locator(".proved.bad h3")).to_have_text("✗ The answer")
    panel.get_by_label("Public key that you trust").fill("ab" * 32)
    panel.get_by_role("button", name="Check this turn").click()
    expect(panel.locator(".verdict.wrong")).to_contain_text("signed with another key")

    _run(console_env, f"UPDATE items SET data = replace(data::text, 'Eve', 'Ada')::json WHERE {_of(turn)}")

    def altered(route: Any) -> None:
        body = route.fetch().text()
        route.fulfill(body=body.replace('"detail":"completed"', '"detail":"failed"', 1))

    page.route("**/proof", altered)
    panel.get_by_label("Public key that you trust").fill(public.lines[-1])
    panel.get_by_role("button", name="Check this turn").click()
    expect(panel.locator(".proved.bad").last).to_contain_text("Its record or a later one was changed.")
    page.unroute("**/proof")
    panel.get_by_role("button", name="Check this turn").click()
    expect(panel.locator(".verdict.good")).to_be_visible()


def _signed(console: Console, thread: str, turn: str) -> bool:
    parts = console.http.get(f"/threads/{thread}/turns/{turn}/proof").json()["parts"]
    return bool(parts) and all(part["leaf"] is not None for part in parts)


def _of(turn: str) -> str:
    return f"turn_id = '{turn.partition('_')[2]}'"


def _run(env: dict[str, str], statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(env["DATABASE_URL"])
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(statement)
        await connection.close()

    with ThreadPoolExecutor(1) as pool:  # Playwright has an event loop in this thread.
        pool.submit(asyncio.run, run()).result()


def test_the_panel_is_a_page_on_phones_and_without_scripts(
    browser: Browser, console_service: Service, emulator: Emulator
) -> None:
    for options in ({"viewport": {"width": 375, "height": 720}}, {"java_script_enabled": False}):
        with browser.new_context(locale="en-US", **options) as context:
            console = Console(context, console_service, new_key(console_service), by_form=True)
            console.thread("Echo: one", title="Small")
            page = console.open("")
            page.locator(".threads li a", has_text="Small").first.click()
            page.locator("#turns article").get_by_role("link", name="Details").click()
            page.wait_for_url("**/details")
            page.get_by_role("link", name="Sent").click()
            expect(page.locator("section.call")).to_contain_text("Echo: one")
            page.get_by_role("link", name="Show the conversation at this turn").click()
            expect(page.locator("#turns article")).to_have_count(1)
            assert console.wrong == []


def test_the_panel_is_accessible_and_bounded_and_shows_the_proof_to_auditors_alone(
    browser: Browser, console_service: Service, emulator: Emulator
) -> None:
    key = new_key(console_service, scopes=["read", "write"])
    with browser.new_context(locale="en-US", viewport={"width": 1440, "height": 900}) as context:
        console = Console(context, console_service, key)
        thread = console.thread("Echo: " + "a long text " * 4000, title="Long")
        turn = console.http.get(f"/threads/{thread}").json()["head_id"]
        found: dict[str, str] = {}
        for name in ("overview", "sent", "compare&with=rebuilt"):
            page = console.open(f"/threads/{thread}?turn={turn}&tab={name}")
            results = violations(page, context={"include": [["#side"]]})
            found |= {f"{name} {each['id']}": each["nodes"][0]["html"] for each in results}
            assert len(page.locator("#side").inner_text()) < 100_000
        assert found == {}
        expect(page.locator("#panel .tabs a")).to_have_text(["Overview", "Sent", "Received", "Compare"])
        page = console.open(f"/threads/{thread}?turn={turn}&tab=sent")
        (call,) = console.http.get(f"/threads/{thread}/turns/{turn}/calls").json()["data"]
        href = page.get_by_role("link", name="Show all").get_attribute("href")
        assert href == f"/console/api/calls/{call['id']}?format=body"
        for none in (f"turn_{'0' * 32}", f"{turn}/calls", HOSTILE):
            page = console.open(f"/threads/{thread}?{urlencode({'turn': none})}")
            expect(page.locator("#turns article")).to_have_count(1)
            expect(page.locator("#panel")).to_have_count(0)
        cookies = {cookie["name"]: cookie["value"] for cookie in context.cookies()}
        http = httpx2.Client(base_url=f"{console_service.url}/console", cookies=cookies)
        assert http.get(f"/threads/{thread}/turns/{turn}/panel?tab=proof").text.count("data-prove") == 0
        assert http.get(f"/api/threads/{thread}/turns/{turn}/proof").status_code == 403
        former = http.get(f"/threads/{thread}/turns/{turn}/calls")
        assert re.search(r"/details\?tab=sent$", former.headers["location"])
        assert console.wrong == []
    with browser.new_context(locale="en-US") as context:
        other = Console(context, console_service, new_key(console_service))
        for place in (f"/threads/{thread}/turns/{turn}/details", f"/threads/{thread}?turn={turn}"):
            expect(other.open(place).locator("h1")).to_have_text("Not found")

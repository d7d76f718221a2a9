"""The replay of a conversation: loaded as it plays, gone through with the slider and with keys."""

import json
import re
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Route, expect

from tests.console import Console, needs_chromium

pytestmark = needs_chromium


def test_a_conversation_is_played_paused_and_gone_through(console: Console) -> None:
    thread = console.thread("Echo: the first answer", "Echo: the second answer")
    page = console.open(f"/threads/{thread}/replay")
    expect(page.locator("[data-ready]")).to_be_attached()
    page.select_option("#speed", "20")
    page.click("#play")
    expect(page.locator("#stage")).to_contain_text("the second answer")
    expect(page.locator("#play")).to_have_text("Play")
    page.evaluate("const p = document.querySelector('#position'); p.value = 1; p.dispatchEvent(new Event('input'))")
    expect(page.locator("#stage")).not_to_contain_text("the second answer")
    page.click("#here")
    expect(page.locator("article")).to_have_count(1)


def test_a_long_conversation_loads_as_it_plays_and_keeps_what_is_near(console: Console) -> None:
    thread = console.long_thread(90)
    page, asked = console.page, list[tuple[int, int]]()

    def watched(route: Route) -> None:
        query = parse_qs(urlsplit(route.request.url).query)
        asked.append((int(query["skip"][0]), int(query["limit"][0])))
        route.continue_()

    page.route("**/replay?*", watched)
    console.open(f"/threads/{thread}/replay")
    expect(page.locator("#turn")).to_have_text("0 / 90")
    assert asked == [(0, 20)]
    page.keyboard.press("End")
    expect(page.locator("#turn")).to_have_text("90 / 90")
    assert set(asked) == {(0, 20), (60, 20), (80, 20)}
    expect(page.locator("#stage .user")).to_have_count(20)
    expect(page.locator("#stage .assistant").last).to_contain_text("<b>one</b>")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#turn")).to_have_text("89 / 90")
    page.keyboard.press("Home")
    expect(page.locator("#turn")).to_have_text("0 / 90")
    page.select_option("#speed", "20")
    page.locator("#speed").blur()
    page.keyboard.press(" ")
    expect(page.locator("#turn")).to_have_text(re.compile(r"^(2[2-9]|[3-8]\d) / 90"))
    page.keyboard.press(" ")
    expect(page.locator("#play")).to_have_text("Play")
    assert (20, 20) in asked  # The next page came before it was needed.
    assert page.locator("#stage .user").count() <= 21
    # A page that cannot be loaded is said, and played again once it can.
    page.keyboard.press("Home")
    expect(page.locator("#turn")).to_have_text("0 / 90")
    page.unroute("**/replay?*", watched)
    page.route("**/replay?*", lambda route: route.fulfill(status=503, body=json.dumps({})))
    page.keyboard.press("End")
    expect(page.locator("#loading")).to_contain_text("could not be loaded")
    page.unroute("**/replay?*")
    page.keyboard.press("End")
    expect(page.locator("#turn")).to_have_text("90 / 90")
    console.wrong = [each for each in console.wrong if "503" not in each]

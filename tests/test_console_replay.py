"""The replay of a conversation: loaded as it plays, gone through with the slider and with keys."""

import json
import re
from typing import Any
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
    thread = console.http.post("/threads", json={}).json()["id"]
    assert console.http.post(f"/threads/{thread}/turns", json={"input": "Echo: <b>one</b>"}).status_code == 200
    record = console.http.get(f"/threads/{thread}/export").json()
    long = many_turns(record, 90)
    assert console.http.delete(f"/threads/{thread}").status_code == 200
    assert console.http.post("/threads/import", json=long).status_code == 201
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


def many_turns(record: dict[str, Any], count: int) -> dict[str, Any]:
    """Return an export with a branch of copies of its turn, two seconds apart."""
    turns: list[dict[str, Any]] = []
    for number in range(count):
        turn = json.loads(json.dumps(record["turns"][0]))
        turn["id"] = f"{turn['id'][:-11]}{number:08x}{turn['id'][-3:]}"
        turn["parent_id"] = turns[-1]["id"] if turns else None
        turn["response_id"] = f"{turn['response_id'][:-8]}{number:08x}"
        for moment in ("created_at", "completed_at"):
            turn[moment] += number * 2 - count * 2
        for item in turn["items"]:
            item["item_id"] = f"{item['item_id'][:-8]}{number:08x}"
            if "id" in item["data"]:
                item["data"]["id"] = item["item_id"]
        turns.append(turn)
    return {**record, "turns": turns, "head_id": turns[-1]["id"]}

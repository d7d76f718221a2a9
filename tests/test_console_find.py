"""Finding a conversation in the console, by clicks and keys: task 1 of a support engineer."""

import re
from urllib.parse import parse_qs, urlsplit

import httpx2
from playwright.sync_api import Page, Route, expect

from tests.console import Console, needs_chromium
from tests.service import Emulator

pytestmark = needs_chromium


def query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def test_task_1_the_conversation_of_a_quoted_phrase_is_found_with_filters_and_shared_by_its_address(
    console: Console,
) -> None:
    mine = console.thread(
        "My parcel fell into the river", "Echo: the parcel is wet", "Still about the parcel",
        user="ada@example.com", title="A wet parcel", metadata={"plan": "pro"},
    )  # fmt: skip
    for user in ("ada@example.org", "bob@example.com"):
        console.thread("My parcel fell into the river", user=user, title=f"A parcel of {user}")
    page = console.open("")
    page.fill("#q", '"parcel fell into"')
    expect(page.locator(".groups > li")).to_have_count(3)
    expect(page.locator("#count")).to_have_text("3 results")
    page.click("summary:has-text('Filter')")
    page.fill("input[name=user]", "ada*")
    page.keyboard.press("Tab")
    expect(page.locator(".groups > li")).to_have_count(2)
    page.fill("input[name=metadata]", "plan=pro")
    page.select_option("select[name=range]", "24h")
    expect(page.locator(".groups > li")).to_have_count(1)
    expect(page.locator(".chip .value")).to_have_text(["ada*", "plan=pro", "24 hours"])
    page.keyboard.press("Escape")
    assert query(page) == {"q": ['"parcel fell into"'], "user": ["ada*"], "metadata": ["plan=pro"], "range": ["24h"]}
    # A shared address, and a reload, show the same.
    page.reload()
    expect(page.locator(".chip .value")).to_have_text(["ada*", "plan=pro", "24 hours"])
    expect(page.locator("#q")).to_have_value('"parcel fell into"')
    page.get_by_label("Remove the filter Time").click()
    expect(page.locator(".chip .value")).to_have_text(["ada*", "plan=pro"])
    # The hit leads to its turn, and the list beside it keeps the search.
    page.set_viewport_size({"width": 1500, "height": 900})
    page.locator(".hit", has_text="fell into").first.click()
    expect(page.locator("h1")).to_have_text("A wet parcel")
    assert mine in page.url
    expect(page.locator(".list-column .hit[aria-current] mark").first).to_have_text("parcel")
    expect(page.locator(".list-column .groups > li")).to_have_count(1)


def test_task_1_an_id_of_a_thread_a_turn_or_a_response_leads_there(console: Console, emulator: Emulator) -> None:
    thread = console.thread("Hello", "And again", title="Of an id")
    console.thread("Hello", title="Another")
    first = console.http.get(f"/threads/{thread}/turns", params={"order": "asc"}).json()["data"][0]["id"]
    response = next(
        turn["response_id"]
        for turn in console.http.get(f"/threads/{thread}/chain").json()["data"]
        if turn["id"] == first
    )
    page = console.open("")
    for asked, said in (
        (thread, "Thread with this id"),
        (first.replace("turn_", "resp_"), "Turn with this id"),
        (response, "Turn with this response id"),
    ):
        page.fill("#q", asked)
        expect(page.locator(".band")).to_have_text([said])
        expect(page.locator(".exact > a")).to_have_text("Of an id")
    page.locator(".exact > a").click()
    expect(page.locator("#turns")).to_contain_text("Hello")
    assert query(page)["until"] == [first]


def test_hits_are_grouped_by_thread_and_more_of_them_are_a_click_away(console: Console) -> None:
    many = console.thread(*(f"Echo: an otter, number {number}" for number in range(3)), title="Many otters")
    for number in range(21):
        console.thread(title=f"Otter {number}")
    page = console.open("/threads?q=otter")
    expect(page.locator(".groups > li")).to_have_count(20)
    expect(page.locator("#count")).to_have_text("20 results, and more")
    page.click("text=More results")
    expect(page.locator(".groups > li")).to_have_count(22)
    expect(page.locator("#count")).to_have_text("2 more results")
    expect(page.locator(".groups > li > a").nth(20)).to_be_focused()
    group = page.locator(".groups > li", has_text="Many otters")
    expect(group.locator(".hit")).to_have_count(3)
    group.locator("text=4 more in this thread").click()
    expect(page.locator(".chip .label")).to_have_text(["Thread"])
    assert query(page)["thread"] == [many]
    expect(page.locator(".groups > li")).to_have_count(1)


def test_an_older_answer_never_replaces_a_newer_one_and_an_empty_result_says_what_to_do(console: Console) -> None:
    console.thread(title="Slow")
    console.thread(title="Quick")
    page = console.open("/threads")
    held: list[Route] = []
    page.route(re.compile("rows.*q=Slow"), lambda route: held.append(route))
    with page.expect_request(re.compile("q=Slow")):
        page.fill("#q", "Slow")
    page.fill("#q", "Quick")
    held[0].continue_()
    expect(page.locator(".groups > li > a")).to_have_text(["Quick"])
    assert query(page) == {"q": ["Quick"]}
    page.fill("#q", "nothing like it")
    expect(page.locator("#list")).to_contain_text("Nothing was found.")
    expect(page.locator("#count")).to_have_text("0 results")
    page.click("summary:has-text('Filter')")
    page.select_option("select[name=status]", "failed")
    page.get_by_role("link", name="Search without filters").click()
    assert query(page) == {"q": ["nothing like it"]}


ODD = (
    "q=%00", f"q={'x' * 5000}", "user=%25&name=_", "metadata==", "range=custom&from=x&to=%22", "range=9y", "q=-a",
    "after=x&q=a", "thread=x&q=a", "archived=perhaps", "status=odd", "order_by=random", "q=%22%22", "after=thread_x",
)  # fmt: skip


def test_an_odd_address_is_a_page_that_says_what_is_wrong(console: Console) -> None:
    cookies = {cookie["name"]: cookie["value"] for cookie in console.context.cookies()}
    with httpx2.Client(base_url=f"{console.service.url}/console", cookies=cookies) as http:
        for asked in ODD:
            for path in ("/threads", "/threads/rows"):
                assert http.get(f"{path}?{asked}").status_code in (200, 400), (path, asked)

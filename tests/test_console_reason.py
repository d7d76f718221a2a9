"""Console pages of a thread's chain and tree: why turns were rebuilt, and pages of long threads."""

import json

from playwright.sync_api import expect

from tests.console import Console, needs_chromium

pytestmark = needs_chromium

HOSTILE = "<img src=x onerror=alert(1)> & more"


def test_task_8_say_why_a_turn_was_rebuilt(console: Console) -> None:
    thread = console.thread("My name is Ada.", "Hello")
    console.http.post(f"/threads/{thread}/turns", json={"input": "Hi", "model": "qwen-plus"}).raise_for_status()
    page = console.open("")
    page.locator(f'a[href^="/console/threads/{thread}"]').first.click()
    page.get_by_role("link", name="Chain").click()
    row = page.locator("tbody tr").nth(2)
    expect(row).to_contain_text("rebuilt")
    expect(row.get_by_text("other model")).to_have_attribute("data-tip", "Another model answered the previous turn.")
    expect(page.locator(".paging")).to_have_count(0)
    page.get_by_role("link", name="Tree").click()
    expect(page.locator(".tree li")).to_have_count(3)
    expect(page.locator(".tree li").nth(2).locator(".badge")).to_have_attribute(
        "data-tip", "The whole history was sent again. Another model answered the previous turn."
    )


def test_a_long_chain_and_its_tree_say_which_part_they_show(console: Console) -> None:
    thread = console.long_thread(230, last=HOSTILE)
    for place, rows in (("chain", "tbody tr"), ("tree", ".tree li")):
        page = console.open(f"/threads/{thread}/{place}")
        expect(page.locator(rows)).to_have_count(100)
        expect(page.locator(".paging").first).to_contain_text("Turns 131–230 of 230")
        expect(page.locator(".paging").first.get_by_role("link")).to_have_text(["Older"])
        page.get_by_role("link", name="Older").first.click()
        expect(page.locator(".paging").first).to_contain_text("Turns 31–130 of 230")
        page.get_by_role("link", name="Older").first.click()
        expect(page.locator(".paging").first).to_contain_text("Turns 1–30 of 230")
        expect(page.locator(".paging").first.get_by_role("link")).to_have_text(["Newer"])
        page.get_by_role("link", name="Newer").first.click()
        expect(page.locator(".paging").first).to_contain_text("Turns 31–130 of 230")
        page.get_by_role("link", name="Newer").first.click()
        expect(page.locator(".paging").first).to_contain_text("Turns 131–230 of 230")
    # Hostile input is shown as text, and long contents are not loaded.
    expect(page.locator(".tree li").last).to_contain_text(HOSTILE)
    links = console.http.get(f"/threads/{thread}/chain", params={"all_branches": True, "order": "desc", "limit": 100})
    assert len(links.content) < 100 * 1200
    assert json.loads(links.content)["data"][0]["preview"] == HOSTILE

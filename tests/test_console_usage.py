"""The Usage page: what users and models cost in a time, charts, tables and their CSV files."""

import csv
import io
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx2
from playwright.sync_api import Browser, Page, expect

from tests.console import Console, needs_chromium, new_key
from tests.service import Emulator, Service, eventually

pytestmark = needs_chromium

UNPRICED = "qwen-without-a-price"


def ask(console: Console, thread: str, text: str, **fields: Any) -> dict[str, Any]:
    answer = console.http.post(f"/threads/{thread}/turns", json={"input": text, **fields})
    assert answer.status_code == 200, answer.text
    turn: dict[str, Any] = answer.json()
    return turn


def lines(page: Page, card: str) -> list[dict[str, str]]:
    """Return the CSV file that a card of the page offers."""
    with page.expect_download() as download:
        page.locator(card).get_by_role("link", name="CSV").click()
    return list(csv.DictReader(io.StringIO(download.value.path().read_text())))


def test_task_6_what_a_user_and_a_model_cost_in_a_week_is_said_with_the_reason_where_unknown_and_taken_as_csv(
    console: Console, emulator: Emulator
) -> None:
    ada = console.thread("Echo: one", "Echo: two", user="ada")
    evil = '=HYPERLINK("https://evil.example","<b>Ada</b>")'
    bob = console.thread("Echo: one", user=evil)
    ask(console, bob, "Echo: three", model=UNPRICED)
    costs = [ask(console, ada, "word " * 500)["cost"]["amount"] for _ in range(2)]
    page = console.open("")
    page.get_by_role("link", name="Usage").click()
    page.get_by_role("link", name="7 days").click()
    users = page.locator("#user tbody tr")
    expect(users).to_have_count(2)
    expect(users.first).to_contain_text("ada")
    expect(users.nth(1)).to_contain_text(evil)
    expect(users.nth(1)).to_contain_text(f"no price for {UNPRICED}")
    expect(page.locator("#reasons")).to_contain_text(f"{UNPRICED} (1 turn)")
    expect(page.locator("#reasons")).to_contain_text("docs/limits.md#money")
    expect(page.locator("#totals")).to_contain_text("≥")
    models = page.locator("#model tbody tr")
    expect(models).to_have_count(2)
    expect(models.filter(has_text=UNPRICED)).to_contain_text("no price")
    # The files say the same, and no cell of them is a formula.
    found = {line["user"]: line for line in lines(page, "#user")}
    assert set(found) == {"ada", f"'{evil}"}
    assert float(found["ada"]["cost"]) > sum(costs)
    assert (found[f"'{evil}"]["cost"], found[f"'{evil}"]["unpriced"]) == ("", f"{UNPRICED} (1)")
    assert {line["model"]: line["turns"] for line in lines(page, "#model")}[UNPRICED] == "1"
    # From a user to what they cost by model, and to their threads.
    users.first.get_by_role("link", name="ada", exact=True).click()
    expect(page.locator("#model tbody tr")).to_have_count(1)
    expect(page.locator("#reasons")).to_have_count(0)
    page.locator("#user").get_by_role("link", name="Threads of ada").click()
    expect(page).to_have_url(re.compile(r"/console/threads\?user=ada"))
    page.go_back()
    page.get_by_role("link", name="Remove the filter User").click()
    expect(users).to_have_count(2)
    page.locator("#thread tbody a").first.click()
    expect(page).to_have_url(re.compile(f"/console/threads/{ada}"))


def test_charts_are_drawn_from_tables_and_a_marked_time_becomes_the_range(console: Console, emulator: Emulator) -> None:
    thread = console.thread("Echo: one", user="ada")
    emulator.fault("status", status=400, code="DataInspectionFailed")
    console.http.post(f"/threads/{thread}/turns", json={"input": "No."})
    eventually(lambda: len(console.http.get("/usage/hours").json()["data"]) == 2, seconds=30)
    page = console.open("/usage?range=24h")
    for chart in ("cost-1", "tokens", "latency"):
        expect(page.locator(f"#{chart} [data-drawn] canvas")).to_be_attached()
    canvas = page.locator("#tokens canvas")
    width = canvas.evaluate("each => getComputedStyle(each).width")
    page.set_viewport_size({"width": 700, "height": 800})
    expect(canvas).not_to_have_css("width", width)
    page.set_viewport_size({"width": 1280, "height": 720})
    expect(canvas).to_have_css("width", width)
    rows = page.locator("#tokens tbody tr")
    assert rows.count() == 25  # Each hour that the range touches.
    assert (
        sum(int(each) for each in rows.locator("td:last-child").evaluate_all("all => all.map(e => e.dataset.value)"))
        > 0
    )
    expect(page.locator("#totals")).to_contain_text("50.0 %")
    expect(page.locator("#totals a")).to_have_attribute("href", "/console/failures?range=24h")
    plot = page.locator("#tokens .u-over")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 50)
    expect(page.locator("#tokens .tooltip")).to_contain_text("Output")
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50, steps=3)
    page.mouse.up()
    expect(page).to_have_url(
        re.compile(r"range=custom&from=2\d{3}-\d\d-\d\dT\d\d%3A\d\d&to=|range=custom&from=2\S+&to=2")
    )
    expect(page.locator("details.custom summary")).to_have_attribute("aria-current", "true")


WRONG = {
    "range=custom&from=2026-13-45T00:00&to=2026-01-01T00:00": "from",
    "range=custom": "from",
    "range=custom&from=1999-01-01T00:00&to=2026-01-01T00:00": "from",
    "range=custom&from=2026-01-01T00:00&to=x": "to",
    "range=custom&from=2026-01-02T00:00&to=2026-01-01T00:00": "to",
    "range=custom&from=2020-01-01T00:00&to=2026-01-01T00:00": "to",
}


def test_a_range_that_cannot_be_used_is_said_and_the_default_shown(console: Console) -> None:
    page = console.page
    for query, field in WRONG.items():
        page = console.open(f"/usage/user?{query}&user=%3Ci%3E")
        expect(page.get_by_role("navigation", name="Time range").locator("[aria-current]")).to_have_text("7 days")
        expect(page.locator(f"[name={field}][aria-invalid]")).to_have_count(1)
        expect(page.locator(f"#range-{field}")).to_be_visible()
    expect(page.locator(".custom [name=user]")).to_have_attribute("value", "<i>")  # Other parameters are kept.
    now = datetime.now(UTC)
    page.fill(".custom [name=from]", f"{now:%Y-%m-%d}T00:00")
    page.fill(".custom [name=to]", f"{now:%Y-%m-%d}T23:59")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("details.custom summary")).to_contain_text(f"{now:%Y-%m-%d} 00:00")
    expect(page.locator(".chip")).to_contain_text("<i>")
    page = console.open("/usage/user?range=%3Cscript%3E")
    expect(page.get_by_role("navigation", name="Time range").locator("[aria-current]")).to_have_text("7 days")
    expect(page.locator("[aria-invalid]")).to_have_count(0)


def test_tables_go_on_page_by_page_without_scripts_and_show_no_other_project(
    browser: Browser, console_service: Service, console: Console
) -> None:
    console.thread("Echo: one", user="ada")
    key = new_key(console_service)
    http = httpx2.Client(base_url=f"{console_service.url}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def one_turn(number: int) -> int:
        thread = http.post("/threads", json={"user": f"user {number:02}"}).json()["id"]
        return http.post(f"/threads/{thread}/turns", json={"input": "Hi"}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one_turn, range(51))) == {200}
    with browser.new_context(locale="en-US", java_script_enabled=False) as context:
        other = Console(context, console_service, key)
        page = other.open("/usage?sort=turns")
        page.locator("#user").get_by_role("link", name="By user").click()
        expect(page.locator("#user tbody tr")).to_have_count(50)
        expect(page.locator("#user tfoot")).to_contain_text("51")
        page.get_by_role("link", name="more").click()
        expect(page.locator("#user tbody tr")).to_have_count(1)
        expect(page.locator("body")).not_to_contain_text("ada")
        other.open("/usage/secret")
        expect(page.locator("main")).to_contain_text("There is no usage by 'secret'.")
        other.wrong = [each for each in other.wrong if "404" not in each]
        assert other.wrong == []

"""The console's frame: components that explain themselves, the list beside a thread, pages without JavaScript."""

from playwright.sync_api import Browser, expect

from tests.console import Console, needs_chromium
from tests.service import Emulator, Service

pytestmark = needs_chromium


def test_badges_explain_themselves_to_the_keyboard_and_menus_close_with_escape(
    console: Console, emulator: Emulator
) -> None:
    thread = console.thread("Echo: one", "Echo: two", title="Explained", user="ada")
    page = console.open(f"/threads/{thread}")
    page.keyboard.press("Tab")  # From now on, focus is shown.
    page.locator("article").nth(1).locator(".badge").focus()
    expect(page.get_by_role("tooltip")).to_contain_text("Only the new input was sent")
    page.keyboard.press("Escape")
    expect(page.get_by_role("tooltip")).to_be_hidden()
    page.get_by_label("More actions").click()
    expect(page.get_by_role("button", name="Delete")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Delete")).to_be_hidden()
    expect(page.get_by_label("More actions")).to_be_focused()
    # A question that a menu led to gives the focus back to the menu.
    page.get_by_label("More actions").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_label("More actions")).to_be_focused()


def test_wide_screens_show_the_list_beside_a_thread_with_the_filters_it_came_from(console: Console) -> None:
    ours = console.thread(title="Ours", user="ada")
    console.thread(title="Another", user="grace")
    page = console.page
    page.set_viewport_size({"width": 1440, "height": 900})
    console.open(f"/threads/{ours}?list=user%3Dada")
    expect(page.locator(".list-column .threads li > a")).to_have_text(["Ours"])
    expect(page.locator(".list-column .threads li > a")).to_have_attribute("aria-current", "true")
    page.set_viewport_size({"width": 1024, "height": 768})
    expect(page.locator(".list-column")).to_be_hidden()


def test_without_javascript_threads_are_read_and_the_page_says_what_needs_it(
    browser: Browser, console_service: Service, console: Console, emulator: Emulator
) -> None:
    thread = console.thread("Echo: the answer", title="Read")
    signed_in = console.context.storage_state()
    with browser.new_context(locale="en-US", java_script_enabled=False, storage_state=signed_in) as context:
        page = context.new_page()
        page.goto(f"{console_service.url}/console/threads")
        page.get_by_role("link", name="Read", exact=True).click()
        expect(page.locator("h1")).to_have_text("Read")
        expect(page.locator(f"#turns[data-thread={thread}] article")).to_contain_text("the answer")
        expect(page.locator(".say noscript p")).to_have_text("Sending needs JavaScript.")
        page.goto(f"{console_service.url}/console/threads/{thread}/replay")
        expect(page.locator("noscript p").first).to_have_text("Playing needs JavaScript.")

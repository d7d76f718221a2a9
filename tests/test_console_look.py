"""Pages of the console with much or little in them."""

from playwright.sync_api import expect

from tests.console import Console, needs_chromium

pytestmark = needs_chromium


def test_a_head_with_much_metadata_fits_its_page(console: Console) -> None:
    """Three pairs are shown, the rest is in a menu, and a long name is cut."""
    pairs = {f"key-{number}": "long " * 60 for number in range(16)}
    thread = console.thread(title="A title " * 40, name="n" * 200, user="u" * 200, metadata=pairs)
    for width in (390, 1440):
        console.page.set_viewport_size({"width": width, "height": 800})
        page = console.open(f"/threads/{thread}")
        expect(page.locator(".thread-about .pair-badge")).to_have_count(3)
        page.click(".thread-about summary")
        expect(page.locator(".all-pairs dt").last).to_have_text("key-15")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        head = page.locator(".thread-head").bounding_box()
        assert head is not None
        assert head["height"] < 400


def test_the_list_counts_results_only_of_a_search(console: Console) -> None:
    console.thread(title="One")
    page = console.open("/threads")
    expect(page.locator(".threads > li")).to_have_count(1)
    expect(page.locator("#count")).to_be_empty()
    page.fill("#q", "One")
    expect(page.locator("#count")).to_have_text("1 result")
    page.fill("#q", "")
    expect(page.locator("#count")).to_be_empty()

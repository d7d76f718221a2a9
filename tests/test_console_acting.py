"""Actions in the console, by clicks and keys: purge, edit, share, archive, retry, and write without losing a text."""

import re
from typing import Any

from playwright.sync_api import Page, expect

from tests.console import Console, needs_chromium
from tests.service import Emulator, eventually
from tests.test_console import ATTACKS

pytestmark = needs_chromium

USER = "ada/of the hill@example.com"


def forget_network_errors(console: Console, *expected: str) -> None:
    """Leave out what the browser itself reports of refused and failed requests."""
    told = ("Failed to load resource", "Response Status Error Code")
    console.wrong = [
        each for each in console.wrong if not (each.startswith(told) and any(part in each for part in expected))
    ]


def test_task_10_purge_the_data_of_a_user_after_a_preview_and_take_the_certificate(console: Console) -> None:
    threads = [console.thread("Echo: one", title=f"Talk {number}", user=USER) for number in range(2)]
    fork = console.http.post(f"/threads/{threads[0]}/fork", json={"user": "bob"}).json()["id"]
    page = console.open("")
    page.locator("a.user", has_text=USER).first.click()
    expect(page.locator("h1")).to_have_text(USER)
    expect(page.locator("#threads tbody tr")).to_have_count(2)
    page.locator("summary[aria-label='More actions']").click()
    page.get_by_role("link", name="Purge data…").click()
    expect(page.locator("#deleted .stat", has_text="Threads")).to_contain_text("2")
    expect(page.locator("#deleted .stat", has_text="Turns")).to_contain_text("1")
    expect(page.locator("#deleted")).to_contain_text("1 threads remain, and lose the contents of 1 turns")
    expect(page.locator("#remains")).to_contain_text("Audit records")
    page.get_by_role("button", name="Purge…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Purge 2 threads and 1 turns of {USER}?")
    expect(dialog.get_by_role("button", name="Purge")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("button", name="Purge…")).to_be_focused()
    assert console.http.get(f"/threads/{threads[0]}").status_code == 200
    page.keyboard.press("Enter")
    dialog.get_by_label("Type this to confirm").fill(USER)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/purges/purge_*")
    with page.expect_download() as download:
        page.get_by_role("link", name="Certificate").click()
    assert download.value.path().read_text().startswith("everthread/erasure-certificate/v1\n")
    assert console.http.get(f"/threads/{threads[0]}").status_code == 404
    assert console.http.get(f"/threads/{fork}").status_code == 200
    page.get_by_role("link", name="All purges").click()
    row = page.locator("tbody tr", has_text=USER)
    expect(row.locator("progress")).to_have_attribute("value", "2")
    expect(row.get_by_role("link", name="Certificate")).to_have_attribute(
        "href", re.compile("^/console/api/purges/purge_")
    )


def test_task_11_retry_a_failed_turn_rename_share_archive_and_undo(console: Console, emulator: Emulator) -> None:
    thread = console.thread("Echo: before", title="Old title", user="ada", metadata={"plan": "free"})
    emulator.fault("status", status=400, code="DataInspectionFailed")
    console.http.post(f"/threads/{thread}/turns", json={"input": "Echo: again"})
    page = console.open("")
    page.click("main .threads li > a")
    failed = page.locator("article[data-status=failed]")
    failed.get_by_role("button", name="Retry").first.click()  # In the notice, and in the toolbar.
    page.wait_for_url("**?until=*")
    expect(page.locator("article").nth(1).locator(".message.assistant")).to_contain_text("again")
    expect(page.locator("article").nth(1)).to_contain_text("Branch 2 of 2")
    # The page shows the thread as it is now, so it goes on here.
    expect(page.get_by_text("Shown as it stood")).to_have_count(0)
    console.http.post(f"/threads/{thread}/turns", json={"input": "Echo: elsewhere"}).raise_for_status()
    expect(page.locator("article").last).to_contain_text("elsewhere")

    page.locator("#content").focus()
    page.keyboard.press("e")
    expect(page.get_by_label("Title")).to_be_focused()
    page.get_by_label("Title").fill("New title")
    page.get_by_label("Name", exact=True).fill("not/allowed")
    page.get_by_role("button", name="Add metadata").click()
    page.keyboard.type("channel")
    page.keyboard.press("Tab")
    page.keyboard.type("web")
    page.keyboard.press("Enter")
    expect(page.locator("#edit-name")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#edit-thread [role=alert]")).to_contain_text("must not contain '/'")
    page.get_by_label("Name", exact=True).fill("allowed")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("h1")).to_have_text("New title")
    expect(page.locator("#about")).to_contain_text("channel: web")
    changed = console.http.get(f"/threads/{thread}").json()
    assert (changed["name"], changed["metadata"]) == ("allowed", {"plan": "free", "channel": "web"})
    page.keyboard.press("z")  # The key of what the last message offers.
    expect(page.locator("h1")).to_have_text("Old title")
    assert console.http.get(f"/threads/{thread}").json()["metadata"] == {"plan": "free"}

    page.get_by_role("button", name="Share").click()
    page.get_by_label("Expires after").select_option(label="1 day")
    page.get_by_role("button", name="Create a link").click()
    link = page.locator("#share-link code").inner_text()
    assert page.request.get(link).json()["title"] == "Old title"
    (share,) = console.http.get(f"/threads/{thread}/shares").json()["data"]
    assert share["expires_at"] - share["created_at"] == 86_400
    page.locator("#shares").get_by_role("button", name="Revoke").click()
    page.locator("dialog.confirm").get_by_role("button", name="Revoke").click()
    expect(page.locator("#shares")).to_contain_text("This thread has no links")
    assert page.request.get(link).status == 404
    page.keyboard.press("Escape")

    page.get_by_role("button", name="Archive", exact=True).click()
    expect(page.get_by_role("button", name="Unarchive")).to_be_focused()
    assert console.http.get(f"/threads/{thread}").json()["archived"] is True
    page.locator(".toast", has_text="Archived.").get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Archive", exact=True)).to_be_visible()
    assert console.http.get(f"/threads/{thread}").json()["archived"] is False
    forget_network_errors(console, "400")


def test_a_text_is_kept_until_the_service_has_confirmed_its_turn(console: Console) -> None:
    thread = console.thread("Echo: one")
    page = console.open(f"/threads/{thread}")
    page.fill("#say", "Echo: typed for long")
    console.context.set_offline(True)
    expect(page.locator("#offline")).to_contain_text("You are offline.")
    page.keyboard.press("Control+Enter")
    toast = page.locator(".toast.bad")
    expect(toast).to_contain_text("Nothing that you typed is lost.")
    expect(page.locator("#say")).to_have_value("Echo: typed for long")
    console.context.set_offline(False)
    expect(page.locator("#offline")).to_have_count(0)

    unavailable = {"error": {"message": "The database is unavailable.", "type": "server_error", "code": "unavailable"}}
    page.route("**/api/threads/*/turns", lambda route: route.fulfill(status=503, json=unavailable), times=1)
    toast.get_by_role("button", name="Retry").click()
    expect(toast).to_contain_text("The service could not do this. The database is unavailable.")
    expect(page.locator("#say")).to_have_value("Echo: typed for long")
    page.reload()
    expect(page.locator("#say")).to_have_value("Echo: typed for long")

    # An answer that is lost on its way: the turn is made once.
    page.route("**/api/threads/*/turns", lambda route: (route.fetch(), route.abort()), times=1)
    page.get_by_role("button", name="Send").click()
    toast.get_by_role("button", name="Retry").click()
    expect(page.locator("article").nth(1)).to_contain_text("typed for long")
    expect(page.locator("#say")).to_have_value("")
    page.reload()
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("#say")).to_have_value("")
    forget_network_errors(console, "503", "ERR_")


def test_after_a_sign_out_elsewhere_the_page_and_its_text_stay_and_are_nobody_elses(console: Console) -> None:
    thread = console.thread("Echo: one")
    page = console.open(f"/threads/{thread}")
    page.get_by_role("button", name="Edit").last.click()
    page.locator("article form textarea").fill("Echo: an edit")
    page.fill("#say", "Echo: not lost")
    console.context.clear_cookies()
    page.get_by_role("button", name="Send").last.click()
    expect(page.locator("#signed-out")).to_contain_text("You are signed out.")
    page.evaluate("htmx.trigger(document.body, 'changed')")  # A fragment does not replace the page either.
    expect(page.locator("#say")).to_have_value("Echo: not lost")
    sign_in(page, console.http.headers["authorization"][7:])
    expect(page.locator("#say")).to_have_value("Echo: not lost")
    expect(page.locator("article form textarea")).to_have_value("Echo: an edit")

    project = console.http.get("/project").json()["id"]
    (mine,) = console.http.get(f"/admin/projects/{project}/keys").json()["data"]
    made = console.http.post(f"/admin/projects/{project}/keys", json={"name": "other", "scopes": ["read", "write"]})
    console.service.http.delete(f"/admin/projects/{project}/keys/{mine['id']}")
    eventually(lambda: console.http.get("/threads").status_code == 401)
    page.get_by_role("button", name="Send").last.click()
    expect(page.locator("#signed-out")).to_be_visible()
    expect(page.locator("#say")).to_have_value("Echo: not lost")
    sign_in(page, made.json()["key"])
    expect(page.locator("#say")).to_have_value("")
    expect(page.locator("article form")).to_have_count(0)
    page.fill("#say", "Of the second person")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/console/sign-in")
    assert page.evaluate("Object.keys(sessionStorage).filter((key) => key.startsWith('draft:'))") == []
    forget_network_errors(console, "401")


def sign_in(page: Page, key: str) -> None:
    page.get_by_role("link", name="Sign in again").click()
    page.fill("#key", key)
    page.click("main button")
    page.wait_for_url("**/console/threads/thread_*")


def test_what_a_hold_covers_is_not_deleted_and_the_page_says_why(console: Console) -> None:
    thread = console.thread("Echo: one", title="Evidence", user="ada")
    hold = console.http.post("/holds", json={"user": "ada", "reason": "A case"}).json()["id"]
    page = console.open(f"/threads/{thread}")
    page.locator("#about summary").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text("Delete “Evidence” (1 turn)?")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".toast.bad")).to_contain_text(f"A legal hold covers this thread: {hold}.")
    console.open("/users/purge?user=ada")
    expect(page.locator("main")).to_contain_text("A legal hold covers this user's contents.")
    expect(page.locator("#remains")).to_contain_text(hold)
    expect(page.get_by_role("button", name="Purge…")).to_have_count(0)
    forget_network_errors(console, "409")


def test_nothing_that_somebody_has_written_runs_in_dialogs_and_pages_of_users(console: Console) -> None:
    for attack in ATTACKS[:2] + ATTACKS[7:9]:
        thread = console.thread("Echo: one", title=attack, user=attack[:200], metadata={attack[:60]: attack[:500]})
        page = console.open(f"/threads/{thread}")
        page.locator("#about summary").click()
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("dialog")).to_contain_text(attack)
        page.keyboard.press("Escape")
        page.click("#edit-thread-button")
        expect(page.get_by_label("Title")).to_have_value(attack)
        page.keyboard.press("Enter")
        page.locator(".toast").get_by_role("button", name="Undo").click()
        expect(page.locator(".toast", has_text="Undone.")).to_be_visible()
        page.locator("#about a.user").click()
        page.wait_for_url("**/console/users?user=*")
        expect(page.locator("h1")).to_have_text(attack)
        page.locator("summary[aria-label='More actions']").click()
        page.get_by_role("link", name="Purge data…").click()
        page.get_by_role("button", name="Purge…").click()
        page.get_by_label("Type this to confirm").fill(attack)
        page.keyboard.press("Enter")
        page.wait_for_url("**/console/purges/purge_*")
        expect(page.locator("h1")).to_contain_text(attack)
        assert page.evaluate("window.hacked") is None, attack
        assert page.locator("main [onerror], main [onload], main [onmouseover], main iframe, main script").count() == 0


def test_the_keyboard_alone_finds_reads_and_answers(console: Console) -> None:
    long = console.thread(title="Long")
    items = [{"type": "message", "role": "user", "content": f"Number {number}."} for number in range(1000)]
    for at in range(0, 1000, 20):
        assert console.http.post(
            f"/conversations/conv_{long[7:]}/items", json={"items": items[at : at + 20]}
        ).is_success
    console.thread("Echo: one", "Echo: two", title="Short")
    page = console.open("/usage")
    page.keyboard.press("/")
    page.wait_for_url("**/console/threads#q")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("j/k?")  # In a field, these are letters.
    expect(page.locator("#q")).to_have_value("j/k?")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.fill("#q", "")
    page.locator("#content").focus()
    page.keyboard.press("Control+j")
    expect(page.locator("#content")).to_be_focused()
    for key, title in (("j", "Short"), ("j", "Long"), ("k", "Short"), ("j", "Long")):
        page.keyboard.press(key)
        expect(page.locator("main .threads a:focus")).to_have_text(title)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/console/threads/{long}")
    # The message box is within five tabs from the top of the page.
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('href')") == "#say":
            page.keyboard.press("Enter")
            break
    expect(page.locator("#say")).to_be_focused()
    page.keyboard.type("g")
    page.keyboard.type("u")
    expect(page.locator("#say")).to_have_value("gu")
    page.locator("#content").focus()
    page.keyboard.press("k")
    expect(page.locator("article").last).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#panel-title")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("article").last.get_by_role("link", name="Details")).to_be_focused()
    page.keyboard.press("r")
    expect(page.locator("#say")).to_be_focused()
    page.locator("#content").focus()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.get_by_label("Single-key shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.keyboard.press("r")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator("#say")).not_to_be_focused()
    page.get_by_role("button", name="Keyboard shortcuts").click()
    page.get_by_label("Single-key shortcuts").check()
    page.get_by_role("button", name="Close").click()
    page.locator("#content").focus()
    page.keyboard.press("g")
    page.keyboard.press("u")
    page.wait_for_url("**/console/usage")


def test_a_streamed_answer_is_read_out_in_sentences(console: Console, emulator: Emulator) -> None:
    thread = console.thread(title="A story")
    said = "First sentence. " + "and so on " * 8
    page = console.page
    page.add_init_script(
        "window.heard = []; document.addEventListener('DOMContentLoaded', () => new MutationObserver(() =>"
        " window.heard.push(document.querySelector('#heard').textContent)).observe(document.querySelector('#heard'),"
        " { childList: true }))"
    )
    console.open(f"/threads/{thread}")
    expect(page.locator("#live")).to_have_attribute("data-state", "live")
    emulator.fault("slow", seconds=0.05)
    console.http.post(f"/threads/{thread}/turns", json={"input": f"Echo: {said}", "background": True})
    expect(page.locator("#heard")).to_contain_text("The answer has ended.")
    heard: list[Any] = page.evaluate("window.heard")
    assert len(heard) <= 4  # The new turn, a sentence, the end; not each word.
    assert page.locator("article [aria-live]").count() == 0


def test_a_key_that_may_only_read_has_no_actions(console: Console) -> None:
    thread = console.thread("Echo: one", user="ada")
    project = console.http.get("/project").json()["id"]
    made = console.http.post(f"/admin/projects/{project}/keys", json={"name": "reader", "scopes": ["read"]})
    console.page.goto("about:blank")
    console.context.clear_cookies()
    reader = Console(console.context, console.service, made.json()["key"])
    page = reader.open(f"/threads/{thread}")
    expect(page.locator("article")).to_have_count(1)
    for name in ("Edit", "Share", "Archive", "Delete", "Retry", "Answer again"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    reader.open("/users/purge?user=ada")
    expect(page.locator("#deleted")).to_contain_text("Turns")
    expect(page.get_by_role("button", name="Purge…")).to_have_count(0)
    assert reader.wrong == []

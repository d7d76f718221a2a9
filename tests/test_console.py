"""The console, in a real browser: what each page is for, who gets in, and that no text of anybody's does anything."""

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from playwright.sync_api import Browser, Locator, expect
from starlette.routing import Route

import app
from app.chain.continuation import ContinuationReason
from app.console import markdown
from app.console.pages import settings
from app.console.reasons import REASONS
from app.console.routes import routes
from app.console.words import CHINESE, language_of
from app.projects.settings import Limits
from tests.console import Console, needs_chromium, new_key, violations
from tests.service import Emulator, Process, Service, eventually, free_port
from tests.wire import Proxy

HERE = Path(app.__file__).parent / "console"

pytestmark = needs_chromium

ATTACKS = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg onload=window.hacked=1>",
    "[a](javascript:window.hacked=1)",
    "[a](data:text/html,<script>window.hacked=1</script>)",
    '![a](x" onerror="window.hacked=1)',
    "<a href='javascript:window.hacked=1'>x</a>",
    '"><script>window.hacked = 1</script>',
    "' onmouseover='window.hacked=1",
    "</textarea><script>window.hacked = 1</script>",
    "</title><script>window.hacked = 1</script>",
    "{{ 7 * 7 }} {% raw %} ${7 * 7}",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<style>@import 'javascript:window.hacked=1'</style>",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.hacked=1>",
    "<div hx-get='/console/api/threads' hx-trigger='load' hx-on::load='window.hacked=1'>x</div>",
    "```html\n<script>window.hacked = 1</script>\n```",
    "<form action='javascript:window.hacked=1'><button>x</button></form>",
)


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def test_a_thread_is_found_by_words_names_and_users_as_one_types(console: Console) -> None:
    kyoto = console.thread("The maple leaves are red.", title="Trip to Kyoto", name="ada-kyoto", user="ada")
    console.thread("Nothing of that.", title="Groceries")
    page = console.open("/threads")
    expect(page.locator(".threads li")).to_have_count(2)
    for asked in ("Kyoto", "maple", "ada-ky", "ada"):
        page.fill("#q", asked)
        expect(page.locator("#list a", has_text="Trip to Kyoto").first).to_be_visible()
        expect(page.locator("#list a", has_text="Groceries")).to_have_count(0)
    page.fill("#q", "xylophone")
    expect(page.locator("#list")).to_contain_text("Nothing was found.")
    page.fill("#q", "")
    expect(page.locator(".threads li")).to_have_count(2)
    page.fill("#q", "maple")
    expect(page.locator("#list mark")).to_have_text("maple")
    page.click("#list a")
    expect(page.locator("h1")).to_have_text("Trip to Kyoto")
    assert kyoto in page.url


def test_threads_are_filtered_and_the_list_goes_on_without_an_end(console: Console) -> None:
    for number in range(45):
        console.thread(title=f"Thread {number}", metadata={"plan": "pro" if number % 2 else "free"}, user="ada")
    page = console.open("/threads")
    expect(page.locator(".threads li")).to_have_count(30)
    page.locator(".more").scroll_into_view_if_needed()
    expect(page.locator(".threads li")).to_have_count(45)
    page = console.open("/threads?metadata=plan=pro")
    expect(page.locator(".threads li")).to_have_count(22)
    assert page.locator("input[name=metadata]").input_value() == "plan=pro"
    page = console.open("/threads?archived=true")
    expect(page.locator("#list")).to_contain_text("No thread matches these filters.")


def test_threads_are_filtered_by_whether_a_turn_runs(console: Console, emulator: Emulator) -> None:
    console.thread("Hello.", title="Idle")
    busy = console.thread(title="Busy")
    emulator.fault("slow", seconds=0.3)
    body = {"input": f"Echo: {'so ' * 200}", "background": True}
    turn = console.http.post(f"/threads/{busy}/turns", json=body).json()["id"]
    page = console.open("/threads")
    page.click("text=Filter")
    page.select_option("select[name=status]", label="running")
    expect(page.locator(".threads li > a")).to_have_text(["Busy"])
    expect(page.locator(".threads .badge.accent")).to_have_text("running")
    console.http.post(f"/threads/{busy}/turns/{turn}/cancel")
    expect(page.locator("#list")).to_contain_text("No thread matches these filters.", timeout=10_000)


def test_a_turn_that_somebody_else_asks_for_moves_its_thread_up(console: Console) -> None:
    first, _ = console.thread(title="First"), console.thread(title="Second")
    page = console.open("/threads")
    expect(page.locator(".threads li > a").first).to_have_text("Second")
    console.http.post(f"/threads/{first}/turns", json={"input": "Hello."})
    expect(page.locator(".threads li > a").first).to_have_text("First", timeout=10_000)


def test_a_conversation_is_read_gone_on_with_edited_and_answered_again(console: Console) -> None:
    thread = console.thread("My name is Ada.", title="Names")
    page = console.open(f"/threads/{thread}")
    page.fill("#say", "What is my name?")
    page.click("text=Send")
    expect(page.locator("article").nth(1)).to_contain_text("Ada")
    expect(page.locator("article").nth(1)).to_have_attribute("data-status", "completed")
    expect(page.locator("article").nth(1).locator("footer")).to_contain_text("chained")
    expect(page.locator("article").nth(1).locator("footer")).to_contain_text("tokens")
    page.locator("article").nth(1).get_by_role("button", name="Edit").click()
    page.locator("article form textarea").fill("Echo: edited")
    page.locator("article form [type=submit]").click()
    page.wait_for_url("**?until=*")
    expect(page.locator("article").nth(1)).to_contain_text("edited")
    expect(page.locator("article").nth(1)).to_contain_text("Branch 2 of 2")
    page.get_by_label("the branch before").click()
    expect(page.locator("article").nth(1)).to_contain_text("What is my name?")
    page.locator("article").nth(1).get_by_role("button", name="Answer again").click()
    expect(page.locator("article").nth(1)).to_contain_text("Branch 3 of 3")
    page = console.open(f"/threads/{thread}/tree")
    expect(page.locator("circle")).to_have_count(4)
    page.locator(".tree a").nth(1).click()
    expect(page.locator("article").nth(1)).to_contain_text("What is my name?")


def test_a_thread_is_forked_archived_and_deleted_from_its_page(console: Console) -> None:
    thread = console.thread("Echo: one", "Echo: two", title="To be kept")
    page = console.open(f"/threads/{thread}")
    page.locator("article").first.get_by_role("button", name="Fork here").click()
    page.wait_for_url(lambda url: thread not in url)
    expect(page.locator("article")).to_have_count(1)
    page = console.open(f"/threads/{thread}")
    page.locator("#about").get_by_role("button", name="Archive").click()
    expect(page.get_by_role("button", name="Unarchive")).to_be_visible()
    assert console.http.get(f"/threads/{thread}").json()["archived"] is True
    page.get_by_label("More actions").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.wait_for_url("**/console/threads")
    assert console.http.get(f"/threads/{thread}").status_code == 404


def test_a_page_that_is_opened_in_mid_stream_shows_what_came_before_and_every_word_after(
    console: Console, emulator: Emulator
) -> None:
    thread = console.thread(title="A story")
    emulator.fault("slow", seconds=0.1)
    words = " ".join(f"word{number}" for number in range(60))
    turn = console.http.post(
        f"/threads/{thread}/turns", json={"input": f"Echo: {words}", "stream": True, "background": True},
    )  # fmt: skip
    assert turn.status_code == 200 or turn.is_success
    page = console.open(f"/threads/{thread}")
    expect(page.locator("article")).to_contain_text("word59", timeout=30_000)
    expect(page.locator("article")).to_have_attribute("data-status", "completed")
    assert page.locator("article .assistant .text").inner_text().split() == words.split()


def test_a_turn_that_runs_is_cancelled_from_the_page(console: Console, emulator: Emulator) -> None:
    thread = console.thread(title="A story")
    emulator.fault("slow", seconds=0.3)
    console.http.post(f"/threads/{thread}/turns", json={"input": f"Echo: {'so ' * 200}", "background": True})
    page = console.open(f"/threads/{thread}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("article footer")).to_contain_text("cancelled", timeout=15_000)


def test_a_long_thread_opens_at_its_end_and_is_read_on_upwards(console: Console) -> None:
    thread = console.thread(title="Long")
    for number in range(120):
        items = [{"type": "message", "role": "user", "content": f"Number {number}."}]
        body = {"items": items}
        assert console.http.post(f"/conversations/conv_{thread[7:]}/items", json=body).status_code == 200
    page = console.open(f"/threads/{thread}")
    expect(page.locator("article")).to_have_count(50)
    expect(page.locator("article").last).to_contain_text("Number 119.")
    expect(page.locator("article").last).to_be_in_viewport()
    for _ in range(4):
        more = page.locator("[data-upwards]")
        if more.count():
            more.scroll_into_view_if_needed()
            page.wait_for_timeout(400)
    expect(page.locator("article")).to_have_count(120)
    expect(page.locator("article").first).to_contain_text("Number 0.")


def test_the_page_of_a_thread_asks_the_database_six_times(
    browser: Browser, console_env: dict[str, str], emulator: Emulator
) -> None:
    proxy = Proxy(console_env["DATABASE_URL"])
    quiet = {"EVERTHREAD_AUDIT_CHECKPOINT_SECONDS": "3600"}  # What is done beside asks for projects too.
    service = Service(env={**console_env, **quiet, "DATABASE_URL": proxy.url})
    with browser.new_context() as context:
        console = Console(context, service, service.key)
        thread = console.thread(*[f"Echo: {number}" for number in range(50)])
        cookies = {cookie["name"]: cookie["value"] for cookie in context.cookies()}
        http = httpx2.Client(base_url=service.url, cookies=cookies)
        console.open("/sign-in")  # Nothing asks for anything any more.
        place = f"/console/threads/{thread}"
        assert http.get(place).status_code == 200
        visits = []
        for _ in range(3):  # Work in the background may ask for something during one of them.
            asked = len(proxy.executed)
            assert http.get(place).text.count("<article") == 50
            mine = re.compile("FROM (threads|turns|items|projects|api_keys)")
            visits.append(
                [each for each in proxy.executed[asked:] if mine.search(each) and "lease_expires_at" not in each]
            )
        assert min(map(len, visits)) == 6, visits
    assert service.stop() == 0


def test_the_chain_says_where_it_was_rebuilt_and_why_and_what_a_call_has_sent(
    console: Console, emulator: Emulator
) -> None:
    thread = console.thread("Echo: one", "Echo: two")
    emulator.forget()
    console.http.post(f"/threads/{thread}/turns", json={"input": "Echo: three"})
    console.http.post(f"/threads/{thread}/turns", json={"input": "Echo: four", "model": "qwen-max"})
    page = console.open(f"/threads/{thread}/chain")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.nth(1)).to_contain_text("chained")
    expect(rows.nth(2)).to_contain_text("response id unknown")
    expect(rows.nth(3)).to_contain_text("other model")
    expect(page.locator("rect.life")).to_have_count(4)
    rows.nth(2).locator("a").click()
    expect(page.locator("section.call")).to_have_count(2)
    expect(page.locator("section.call .diff .plus").first).to_be_attached()
    expect(page.get_by_role("link", name="Copy as curl")).to_have_count(2)


@pytest.mark.parametrize("place", ["thread", "project"])
def test_the_proof_of_a_trail_is_checked_in_the_browser(
    console: Console, console_env: dict[str, str], place: str
) -> None:
    thread = console.thread("Echo: one", "Echo: two", title="Proved")
    public = Process("audit", "public-key", env=console_env)
    assert public.ended() == 0
    key = public.lines[-1]
    page = console.open(f"/threads/{thread}/trail" if place == "thread" else "/audit")
    expect(page.locator("tbody")).to_contain_text("turn.closed")
    page.fill("input[name=key] >> nth=-1", key)
    page.click("text=Verify")
    expect(page.locator("#verdict.good")).to_contain_text("signed", timeout=15_000)
    expect(page.locator("#verdict li").first).to_contain_text("thread.created" if place == "thread" else "")
    page.fill("input[name=key] >> nth=-1", "ab" * 32)
    page.click("text=Verify")
    expect(page.locator("#verdict.wrong")).to_have_text("The checkpoint was signed with another key.")

    def altered(route: Any) -> None:
        body = route.fetch().text()
        route.fulfill(body=body.replace('"detail":"completed"', '"detail":"failed"', 1))

    page.route("**/audit/export", altered)
    page.fill("input[name=key] >> nth=-1", key)
    page.click("text=Verify")
    expect(page.locator("#verdict.wrong")).to_contain_text("it was changed")


def test_where_a_page_is_not_secure_the_server_checks_the_proof_and_says_so(
    console: Console, console_env: dict[str, str]
) -> None:
    thread = console.thread("Echo: one", title="Proved")
    public = Process("audit", "public-key", env=console_env)
    assert public.ended() == 0
    console.page.add_init_script("Object.defineProperty(window, 'isSecureContext', { value: false })")
    page = console.open("/audit")

    def verdict(key: str) -> Locator:
        page.fill("input[name=key] >> nth=-1", key)
        page.click("text=Verify")
        return page.locator("#verdict")

    eventually(lambda: thread in console.http.get("/audit/export").text)
    expect(verdict(public.lines[-1])).to_contain_text("the server has checked it, not this browser.")
    expect(page.locator("#verdict.good")).to_contain_text("records verify.")
    expect(verdict("ab" * 32)).to_have_class("wrong")
    altered = console.http.get("/audit/export").text.replace('"detail":"completed"', '"detail":"failed"', 1)
    page.route("**/audit/export", lambda route: route.fulfill(body=altered))
    expect(verdict(public.lines[-1])).to_have_class("wrong")
    expect(page.locator("#verdict")).not_to_contain_text("records verify.")


def test_images_that_were_sent_inline_are_shown_and_none_is_fetched(console: Console, emulator: Emulator) -> None:
    inline, elsewhere = f"data:image/png;base64,{PIXEL}", "https://example.com/cat.png"
    drawing = "data:image/svg+xml;base64,PHN2Zy8+"
    parts = [{"type": "input_image", "image_url": url} for url in (inline, elsewhere, drawing)]
    content = [{"type": "input_text", "text": "What are these?"}, *parts]
    thread = console.thread()
    said = console.http.post(f"/threads/{thread}/turns", json={"input": [{"role": "user", "content": content}]})
    assert said.status_code == 200
    page = console.page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    console.open(f"/threads/{thread}")
    expect(page.locator("article img")).to_have_count(1)
    expect(page.locator("article img")).to_have_attribute("src", inline)
    assert page.evaluate("document.querySelector('article img').naturalWidth") == 1
    expect(page.locator("article .message a")).to_have_attribute("href", elsewhere)
    assert [url for url in asked if not url.startswith((console.service.url, "data:"))] == []


def test_settings_make_keys_limits_accounts_and_webhooks(console: Console) -> None:
    page = console.open("/settings")
    form = page.locator("form", has=page.get_by_role("button", name="Create a key"))
    form.locator("[name=name]").fill("app of the test")
    form.get_by_role("button").click()
    expect(page.locator("#shown code")).to_have_text(re.compile("^et_"))
    made = page.locator("#shown code").inner_text()
    assert (
        httpx2.get(f"{console.service.url}/v1/threads", headers={"Authorization": f"Bearer {made}"}).status_code == 200
    )
    page = console.open("/settings")
    page.get_by_label("Revoke app of the test").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.locator("tr", has_text="app of the test")).to_contain_text("Revoked")
    page.fill("[name=retention_days]", "30")
    page.locator("form", has=page.locator("[name=retention_days]")).get_by_role("button").click()
    eventually(lambda: console.http.get("/project").json()["retention_days"] == 30)
    webhook = page.locator("form", has=page.locator("[name=url]"))
    webhook.locator("[name=url]").fill("https://example.com/hook")
    webhook.get_by_role("button").click()
    expect(page.locator("#shown code")).to_have_text(re.compile("^whsec_"))
    account = page.locator("form", has=page.locator("[name=base_url]"))
    account.locator("[name=name]").fill("inside")
    account.locator("[name=base_url]").fill("https://127.0.0.1/v1")
    account.locator("[name=api_key]").fill("sk-x")
    console.page.on("response", lambda _: None)
    account.get_by_role("button").click()
    expect(page.locator("#refused")).to_contain_text("base_url")
    console.wrong = [each for each in console.wrong if "400" not in each]  # The browser tells of the refusal, too.


def test_the_audit_trail_links_the_certificate_of_a_purge(console: Console) -> None:
    console.thread("Echo: one", user="ada@example.com")
    purge = console.http.delete("/users/ada@example.com/data").json()["id"]
    eventually(lambda: console.http.get(f"/purges/{purge}").json()["status"] == "completed")
    page = console.open("/audit?action=user.purged")
    expect(page.get_by_role("link", name="Certificate")).to_have_attribute(
        "href", f"/console/api/purges/{purge}/certificate"
    )


def test_a_demo_has_conversations_in_many_languages_whose_ids_have_expired(console_env: dict[str, str]) -> None:
    emulator = Emulator()
    service = Service(env={**console_env, "DASHSCOPE_BASE_URL": emulator.base_url})
    project = service.http.post("/admin/projects", json={"name": uuid4().hex}).json()["id"]
    key = service.http.post(f"/admin/projects/{project}/keys", json={"name": "demo"}).json()["key"]
    env = {"EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": key}
    shown = Process("demo", "--emulator", emulator.base_url.removesuffix("/compatible-mode/v1"), env=env)
    assert shown.ended() == 0, shown.lines
    with httpx2.Client(base_url=f"{service.url}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        counted = http.get("/threads/count").json()["count"]
        assert counted > 100
        found = http.get("/search", params={"q": "名字"}).json()["data"]
        chain = http.get(f"/threads/{found[0]['thread_id']}/chain").json()["data"]
        assert [link["continuation"] for link in chain] == ["new", "rebuilt", "chained"]
        said = http.get(f"/threads/{found[0]['thread_id']}/messages").json()["data"]
        assert "您叫" in json.dumps(said, ensure_ascii=False)
    nowhere = Process("demo", "--emulator", service.url, env=env)
    assert nowhere.ended() == 1
    assert nowhere.lines == [f"everthread: There is no emulator at {service.url}: say --emulator."]
    assert service.stop() == 0
    emulator.stop()


def test_it_can_be_turned_off(console_env: dict[str, str]) -> None:
    service = Service(env={**console_env, "EVERTHREAD_CONSOLE": "false"})
    assert httpx2.get(f"{service.url}/console").status_code == 404
    assert service.stop() == 0


def test_nobody_gets_in_without_a_good_key_and_a_session_ends_with_its_key(
    browser: Browser, console_service: Service, console_env: dict[str, str]
) -> None:
    with browser.new_context(locale="en-US") as context:
        page = context.new_page()
        page.goto(f"{console_service.url}/console/threads?user=ada")
        assert "/console/sign-in?next=" in page.url
        page.fill("#key", "et_nobody")
        page.click("main button")
        expect(page.locator("[role=alert]")).to_have_text("This key is unknown, revoked or past its end.")
        key = new_key(console_service)
        page.goto(f"{console_service.url}/console/threads?user=ada")
        page.fill("#key", key)
        page.click("main button")
        page.wait_for_url("**/console/threads?user=ada")
        (cookie,) = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/console")
        assert key not in cookie["value"]
        http = httpx2.Client(base_url=f"{console_service.url}/v1", headers={"Authorization": f"Bearer {key}"})
        project = http.get("/project").json()["id"]
        mine = http.get(f"/admin/projects/{project}/keys").json()["data"][0]["id"]
        assert console_service.http.delete(f"/admin/projects/{project}/keys/{mine}").status_code == 200
        page.wait_for_timeout(5000)
        page.goto(f"{console_service.url}/console/threads")
        assert "/console/sign-in" in page.url


def test_every_route_of_the_console_wants_a_session_but_the_sign_in(console_service: Service) -> None:
    places = [route for route in routes(build_nothing) if isinstance(route, Route)]
    assert len(places) > 15
    for route in places:
        for method in (route.methods or set()) - {"HEAD"}:
            path = re.sub(r"{\w+}", "thread_" + "0" * 32, route.path)
            answer = httpx2.request(method, console_service.url + path)
            if route.path == "/console/sign-in":
                assert answer.status_code in (200, 403)
            else:
                assert answer.status_code == 303, path
                assert answer.headers["location"].startswith(("/console/sign-in", "/console/threads")), path
    for path in ("threads", "project", "admin/projects", "../v1/threads", "%2e%2e/v1/threads"):
        assert httpx2.get(f"{console_service.url}/console/api/{path}").status_code in (401, 404)


async def build_nothing(scope: object, receive: object, send: object) -> None:
    """An application that is asked for nothing."""


def test_nobody_is_read_more_than_a_key_before_he_is_known(console_service: Service) -> None:
    answer = httpx2.post(f"{console_service.url}/console/sign-in", content=b"key=" + b"x" * 5000)
    assert answer.status_code == 413


def test_signing_out_ends_it(browser: Browser, console_service: Service) -> None:
    with browser.new_context(locale="en-US") as context:
        console = Console(context, console_service, console_service.key, by_form=True)
        console.page.click("text=Sign out")
        console.open("/threads")
        assert "/console/sign-in" in console.page.url


def test_guessing_is_slowed_down_and_counted_for_all_workers(console_service: Service, service: Service) -> None:
    with from_address("127.0.0.17") as http, from_address("127.0.0.18") as other:
        guesses = [guess(http, each, number) for number in range(6) for each in (console_service, service)]
        assert guesses == [403] * 10 + [429] * 2
        assert guess(other, console_service, 1) == 403


def test_a_good_key_ends_the_counting(console_service: Service, service: Service) -> None:
    with from_address("127.0.0.19") as http:
        assert [guess(http, service, number) for number in range(9)] == [403] * 9
        signed_in = http.post(f"{console_service.url}/console/sign-in", data={"key": console_service.key})
        assert signed_in.status_code == 303
        eventually(lambda: guess(http, service, 1) == 403)


def test_without_redis_a_worker_counts_by_itself(console_env: dict[str, str]) -> None:
    service = Service(env={**console_env, "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"})
    with from_address("127.0.0.20") as http:
        assert [guess(http, service, number) for number in range(12)] == [403] * 10 + [429] * 2
    assert service.stop() == 0


def from_address(address: str) -> httpx2.Client:
    """A client at another address of this machine, whose attempts are counted apart from the other tests'."""
    return httpx2.Client(transport=httpx2.HTTPTransport(local_address=address))


def guess(http: httpx2.Client, service: Service, number: int) -> int:
    return http.post(f"{service.url}/console/sign-in", data={"key": f"et_{number}"}).status_code


def test_what_changes_something_is_taken_from_the_consoles_own_pages_alone(console: Console) -> None:
    thread = console.thread(title="Mine")
    cookies = {cookie["name"]: cookie["value"] for cookie in console.context.cookies()}
    proof = console.open("/threads").locator("meta[name=csrf-token]").get_attribute("content") or ""
    place = f"{console.service.url}/console/api/threads/{thread}"
    for headers in ({}, {"X-CSRF-Token": "0" * 64}, {"X-CSRF-Token": proof, "Sec-Fetch-Site": "cross-site"}):
        refused = httpx2.request("DELETE", place, cookies=cookies, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "csrf")
    unreadable = [(b"X-CSRF-Token", b"\xff")]
    assert httpx2.request("DELETE", place, cookies=cookies, headers=unreadable).status_code == 403
    assert httpx2.delete(place).status_code == 401
    assert httpx2.get(f"{console.service.url}/v1/threads", cookies=cookies).status_code == 401
    assert console.http.put("/threads/by-name/100%25").status_code == 201
    named = httpx2.get(f"{console.service.url}/console/api/threads/by-name/100%25", cookies=cookies)
    assert named.json()["name"] == "100%"
    for next_ in ("https://evil.example", "//evil.example", "/console/\\evil", "/v1/threads", "/console/../v1/usage"):
        answer = httpx2.post(
            f"{console.service.url}/console/sign-in",
            data={"key": console.http.headers["authorization"][7:], "next": next_},
        )
        assert answer.headers["location"] == "/console/threads"


def test_what_is_no_id_makes_no_other_request_of_a_page(console: Console) -> None:
    thread = console.thread(title="Mine")
    cookies = {cookie["name"]: cookie["value"] for cookie in console.context.cookies()}
    for place in (
        f"/threads/{thread}%3Flimit=1", f"/threads/{thread}%23", f"/threads/{thread}%3F/chain", "/threads/count/about",
        f"/threads/{thread}?until=%1b", f"/threads/{thread}/earlier?last=../turns", f"/threads/{thread}/earlier",
        "/settings?project=%1b", "/purges/x%0a", "/purges/..%2Fthreads",
    ):  # fmt: skip
        answer = httpx2.get(f"{console.service.url}/console{place}", cookies=cookies)
        assert answer.status_code == 404, place
    rows = f"{console.service.url}/console/threads/rows"
    assert httpx2.get(rows, cookies=cookies, headers={"HX-Current-URL": "http://["}).status_code == 200


def test_a_key_sees_the_pages_that_its_scopes_open(
    browser: Browser, console_service: Service, console_env: dict[str, str]
) -> None:
    key = new_key(console_service, scopes=["read"])
    with browser.new_context(locale="en-US") as context:
        console = Console(context, console_service, key, by_form=True)
        expect(console.page.locator("header nav a")).to_have_text(["Threads", "Failures", "Now", "Usage"])
        console.open("/settings")
        expect(console.page.locator("[role=alert]")).to_have_text("This key does not have the scope 'admin'.")
        console.open("/audit")
        expect(console.page.locator("[role=alert]")).to_contain_text("scope 'audit'")


def test_nothing_that_somebody_has_written_runs(console: Console, emulator: Emulator) -> None:
    threads = []
    for attack in ATTACKS:
        thread = console.thread(title=attack, user=attack[:200], metadata={attack[:60]: attack[:500]})
        threads.append(thread)
        emulator.fault("output", output=[
            {"type": "reasoning", "id": f"rs_{uuid4().hex}", "summary": [{"type": "summary_text", "text": attack}]},
            {"type": "web_search_call", "id": f"ws_{uuid4().hex}", "status": "completed",
             "action": {"type": "search", "query": attack, "sources": [{"type": "url", "url": attack}]}},
            {"type": "function_call", "id": f"fc_{uuid4().hex}", "call_id": f"call_{uuid4().hex}", "name": attack,
             "arguments": attack, "status": "completed"},
            {"type": "message", "id": f"msg_{uuid4().hex}", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": attack,
                          "annotations": [{"type": "url_citation", "url": attack, "title": attack}]}]},
        ])  # fmt: skip
        console.http.post(f"/threads/{thread}/turns", json={"input": attack, "metadata": {"a": attack[:500]}})
    pages = ["/threads", "/threads?q=hacked&user=%3Cb%3E*&metadata=%22%3E=1&range=1h", "/usage", "/audit"]
    pages += [f"/threads/{thread}{place}" for thread in threads for place in ("", "/tree")]
    pages += [f"/threads/{threads[0]}{place}" for place in ("/chain", "/replay", "/trail")]
    pages.append(f"/threads/{threads[0]}?until=%22%3E%3Cscript%3Ewindow.hacked=1%3C/script%3E")
    for path in pages:
        page = console.open(path)
        page.wait_for_load_state("networkidle") if path in ("/threads", f"/threads/{threads[0]}") else None
        assert page.evaluate("window.hacked") is None, path
        assert page.locator("main [onerror], main [onload], main iframe, main style, main script").count() == 0
        assert page.locator("a[href^='javascript:'], a[href^='data:']").count() == 0
    console.wrong = [each for each in console.wrong if "404" not in each]  # The turn of the last page is none.


@pytest.mark.parametrize("attack", ATTACKS)
def test_markdown_of_an_attacker_is_text(attack: str) -> None:
    (shown,) = markdown.rendered([attack])
    assert shown is not None
    assert not re.search(r"<(script|img|svg|iframe|style|form|math|input)\b", shown)
    assert not re.search(r"<[^>]*\s(on\w+|hx-[\w:-]+|style|srcdoc)\s*=", shown)
    assert not re.search(r"href=\"(javascript|data):", shown)


PAGES = ("/threads", "/threads?q=Seen&range=7d", "/threads/{thread}", "/threads/{thread}/chain",
         "/threads/{thread}/tree", "/threads/{thread}/replay", "/threads/{thread}/trail",
         "/threads/{thread}/turns/{turn}/details", "/threads/{thread}/turns/{turn}/details?tab=proof", "/audit",
         "/failures", "/now", "/usage", "/settings", "/purges", "/users?user=ada", "/users/purge?user=ada")  # fmt: skip


AXE = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }
}


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_axe_finds_nothing_on_any_page_and_none_is_wider_than_a_phone(
    browser: Browser, console_service: Service, console_env: dict[str, str], emulator: Emulator, scheme: Any
) -> None:
    with browser.new_context(locale="en-US", color_scheme=scheme, viewport={"width": 375, "height": 720}) as context:
        console = Console(context, console_service, new_key(console_service, name=uuid4().hex + "w" * 30))
        thread = console.thread(
            "Echo: # A heading\n\n```python\nprint(1)\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |", title="Seen"
        )
        turn = console.http.get(f"/threads/{thread}/turns").json()["data"][0]["id"]
        icons = set(Path(__file__).with_name("icons.txt").read_text().split())
        found: dict[str, str] = {}
        for path in ("/sign-in", *PAGES):
            page = console.open(path.format(thread=thread, turn=turn))
            page.wait_for_load_state("networkidle") if path != "/threads" else page.wait_for_timeout(300)
            results = violations(page, options=AXE)
            found |= {f"{path} {each['id']}": each["nodes"][0]["html"] for each in results}
            assert page.evaluate("document.documentElement.scrollWidth") <= 375, path
            uses = page.evaluate("[...document.querySelectorAll('use')].map((use) => use.href.baseVal.split('#')[1])")
            assert set(uses) <= icons, path
        page.set_viewport_size({"width": 1440, "height": 900})
        console.open(f"/threads/{thread}")
        expect(page.locator(".list-column .threads a[aria-current]")).to_be_visible()
        results = violations(page, options=AXE)
        found |= {f"wide {each['id']}": each["nodes"][0]["html"] for each in results}
        assert found == {}
        assert console.wrong == []


def test_it_speaks_chinese_with_who_would_rather_read_that(
    browser: Browser, console_service: Service, console_env: dict[str, str]
) -> None:
    with browser.new_context(locale="zh-CN") as context:
        console = Console(context, console_service, new_key(console_service), by_form=True)
        expect(console.page.locator("h1")).to_have_text("会话")
        assert console.page.locator("html").get_attribute("lang") == "zh-CN"


@pytest.mark.parametrize(
    ("accepted", "language"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-US,en;q=0.9,zh;q=0.8", "en"), ("fr,zh;q=0.5", "zh"), ("", "en"),
     ("de", "en"), ("en;q=0.1,zh;q=0.2", "zh"), (";q=,,zh;q=x", "zh"), ("en;q=\u00b2,zh;q=0.9", "en")],
)  # fmt: skip
def test_the_language_is_the_browsers(accepted: str, language: str) -> None:
    assert language_of(accepted) == language


def test_everything_that_is_said_has_a_chinese_form() -> None:
    texts = [
        path.read_text()
        for path in [*(HERE / "templates").glob("*.html"), *HERE.rglob("*.py"), *(HERE / "assets").glob("*.js")]
    ]
    said = {found for text in texts for found in re.findall(r"\bt\(\s*\"([^\"]+)\"", text)}
    said |= {found for text in texts for found in re.findall(r"\bt\('([^']+)'", text)}
    said |= set(settings.LIMITS.values()) | {text for texts in REASONS.values() for text in texts}
    assert list(REASONS) == list(ContinuationReason)
    assert set(settings.LIMITS) == set(Limits.model_fields)
    assert len(said) > 80
    assert said - set(CHINESE) == set()
    keys = [key for path in (HERE / "chinese").glob("*.toml") for key in tomllib.loads(path.read_text())]
    assert sorted(keys) == sorted(set(keys))  # Each text stands in one file.


def test_the_sprite_has_the_icons_that_are_listed() -> None:
    sprite = (HERE / "vendor" / "icons.svg").read_text()
    assert re.findall(r'<symbol id="([a-z0-9-]+)"', sprite) == Path(__file__).with_name("icons.txt").read_text().split()


def test_what_comes_from_others_is_what_its_manifest_says() -> None:
    vendor = HERE / "vendor"
    manifest = json.loads((vendor / "manifest.json").read_text())
    listed = {name: details["sha256"] for package in manifest for name, details in package["files"].items()}
    there = {path.name for path in vendor.iterdir()} - {"manifest.json"}
    assert {name for name in there if not name.endswith(".LICENSE")} == set(listed)
    for name, digest in listed.items():
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest
    for package in manifest:
        assert package["version"]
        assert package["licence"]
        assert (vendor / f"{package['name'].removesuffix('.org')}.LICENSE").read_text()

"""A browser, the console's service, and a signed-in page: fixtures of every test that opens Chromium."""

import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from app.db import ids
from tests.databases import migrated_database
from tests.service import Emulator, Service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_chromium = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="there is no Chromium here")

MILLISECONDS = 30_000
"""The time that a page may take on a busy machine."""

expect.set_options(timeout=MILLISECONDS)


@pytest.fixture(scope="module")
def browser(running_service: Service) -> Iterator[Browser]:
    """A browser, launched after the service has started its event loop."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def console_env(server_urls: tuple[str, str], service_env: dict[str, str]) -> dict[str, str]:
    """The environment of the console's service: a database of its own, and a checkpoint each second."""
    return {
        **service_env,
        "DATABASE_URL": migrated_database(server_urls[0]),
        "EVERTHREAD_AUDIT_KEY": "22" * 32,
        "EVERTHREAD_AUDIT_CHECKPOINT_SECONDS": "1",
    }


@pytest.fixture(scope="session")
def console_service(console_env: dict[str, str]) -> Iterator[Service]:
    service = Service(env=console_env)
    yield service
    assert service.stop() == 0


def new_key(
    service: Service, *, scopes: Sequence[str] = ("read", "write", "audit", "admin"), name: str | None = None
) -> str:
    """Return a key of a new project."""
    project = service.http.post("/admin/projects", json={"name": name or uuid4().hex}).json()["id"]
    made = service.http.post(f"/admin/projects/{project}/keys", json={"name": "console", "scopes": list(scopes)})
    key: str = made.json()["key"]
    return key


def violations(page: Page, *, context: Any = None, options: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return what axe finds wrong in a page, without a list of what it finds right, which takes as long again."""
    ran = Axe().run(page, context=context, options={**(options or {}), "resultTypes": ["violations"]})
    found: list[dict[str, Any]] = ran.response["violations"]
    return found


class Console:
    """A browser that is signed in, and the errors that its pages have reported."""

    def __init__(self, context: BrowserContext, service: Service, key: str, *, by_form: bool = False) -> None:
        """Sign in: in the page if `by_form`, else by the request that its form makes, with a page that is blank."""
        self.context = context
        self.service = service
        self.wrong: list[str] = []
        context.set_default_timeout(MILLISECONDS)
        self.page = context.new_page()
        self.page.on("console", self._told)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.http = httpx2.Client(base_url=f"{service.url}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60)
        if by_form:
            self.open("")
            self.page.fill("#key", key)
            self.page.click("main button")
            self.page.wait_for_url("**/console/threads")
        else:
            sent = context.request.post(f"{service.url}/console/sign-in", form={"key": key}, max_redirects=0)
            assert sent.status == 303

    def _told(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.service.url}/console{path}")
        return self.page

    def thread(self, *texts: str, **fields: Any) -> str:
        """Create a thread with a turn for each text, through the API. Return its id."""
        thread: str = self.http.post("/threads", json=fields).json()["id"]
        for text in texts:
            assert self.http.post(f"/threads/{thread}/turns", json={"input": text}).status_code == 200
        return thread

    def long_thread(self, turns: int, *, last: str = "The last message", **fields: Any) -> str:
        """Import a thread of many turns, two seconds apart, each answered with `<b>one</b>`. Return its id.

        Args:
            last: the input of the last turn.
        """
        record = self.http.get(f"/threads/{self.thread('Echo: <b>one</b>', **fields)}/export").json()
        self.http.delete(f"/threads/{record['id']}").raise_for_status()
        (first,) = record["turns"]
        bucket = ids.bucket_of(UUID(first["id"].removeprefix("turn_")))
        made = [ids.turn_id(ids.new_id(bucket)) for _ in range(turns)]
        record["turns"] = [
            {
                **first, "id": id_, "parent_id": made[number - 1] if number else None,
                "response_id": f"{first['response_id'][:-8]}{number:08x}",
                **{moment: first[moment] + 2 * (number - turns) for moment in ("created_at", "completed_at")},
                "items": [
                    _copied(item, number, last if number == turns - 1 else f"Message {number + 1}")
                    for item in first["items"]
                ],
            }
            for number, id_ in enumerate(made)
        ]  # fmt: skip
        taken = self.http.post("/threads/import", json={**record, "head_id": made[-1]})
        assert taken.status_code == 201, taken.text
        thread: str = taken.json()["id"]
        return thread


def _copied(item: dict[str, Any], number: int, said: str) -> dict[str, Any]:
    """Return an exported item with an id of its own, and with another text if it is an input."""
    item_id = f"{item['item_id'][:-8]}{number:08x}"
    changed = {"id": item_id} if "id" in item["data"] else {}
    changed |= {"content": said} if item["origin"] == "input" else {}
    return {**item, "item_id": item_id, "data": {**item["data"], **changed}}


@pytest.fixture
def console(browser: Browser, console_service: Service, emulator: Emulator) -> Iterator[Console]:
    """A console that is signed in to a project of the test's own."""
    context = browser.new_context(locale="en-US")
    console = Console(context, console_service, new_key(console_service))
    yield console
    context.close()
    # A violation of the policy, a script that fails, a file that is not there: each is told in the console.
    assert console.wrong == []

"""Pictures for docs/console.md: the console over `everthread demo`, at three widths, light and dark.

`make screenshots` takes them again.
"""

import base64
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.service import Process, Service, free_port

PICTURES = Path(__file__).parents[1] / "docs" / "console"

SIZES = {"wide": (1440, 900), "laptop": (1024, 768), "phone": (390, 844)}

DARK = ("threads", "thread", "panel", "panel-compare", "failed", "failures", "now", "usage", "replay")
"""The pages that are shown in the dark too: all pictures together stay below 2.5 MB."""

QUALITY = 45
"""WebP quality at which text stays sharp; a picture has about 20 kB."""

Step = Callable[[Page], None]


def main() -> None:
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir()
    with TemporaryDirectory() as directory:
        port = free_port()
        service = Service(
            "--data-dir",
            directory,
            "--emulator-port",
            str(port),
            env={"EVERTHREAD_AUDIT_CHECKPOINT_SECONDS": "1", "EVERTHREAD_DRAIN_SECONDS": "1"},
        )
        demo = Process(
            "demo", "--emulator", f"http://127.0.0.1:{port}",
            env={"EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key},
        )  # fmt: skip
        assert demo.process.wait(timeout=300) == 0, demo.lines
        public = Process("audit", "public-key", "--data-dir", directory)
        assert public.ended() == 0
        pages = _pages(service, _threads(service, f"http://127.0.0.1:{port}"), public.lines[-1])
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                shown = pages if scheme == "light" else {name: pages[name] for name in DARK}
                for width in SIZES:
                    _shoot(browser, service, width, scheme, shown)
            _shoot(browser, service, "wide", "light", {"thread-zh": pages["thread-zh"]}, language="zh-CN")
            browser.close()
        assert service.stop() == 0


def _threads(service: Service, emulator: str) -> dict[str, str]:
    """Add a near limit, some failures and turns that run to the example data. Return the ids of threads by title."""
    faults = httpx2.Client(base_url=emulator)
    project = service.http.get("/admin/projects").json()["data"][0]["id"]
    limits = {"threads": 130, "tokens_per_month": 2_000_000, "turns_at_once": 20}
    service.http.patch(f"/admin/projects/{project}", json={"limits": limits}).raise_for_status()

    def fault(kind: str, **how: Any) -> None:
        faults.post("/_emulator/faults", json=[{"kind": kind, **how}]).raise_for_status()

    def turn(title: str, text: str, **fields: Any) -> None:
        thread = service.http.post("/threads", json={"title": title, "user": "grace@example.com"}).json()["id"]
        service.http.post(f"/threads/{thread}/turns", json={"input": "Hello, I have a question."})
        for code in fields.pop("codes", ()):
            fault("status", status=400, code=code)
        if fields.get("background"):
            fault("slow", seconds=3)
        service.http.post(f"/threads/{thread}/turns", json={"input": text, **fields})

    turn("An invoice that is refused", "Write what must not be written.", codes=["DataInspectionFailed"])
    turn("A model that is not there", "Who won?", codes=["ModelNotFound"], model="qwen-max")
    turn("An order from March", "Where is my parcel?", codes=["DataInspectionFailed"], model="qwen-flash")
    for title in ("A story without an end", "The minutes of the council"):
        turn(title, f"Echo: {'and then it went on, ' * 800}", background=True)
    found: dict[str, str] = {}
    asked: dict[str, Any] = {"limit": 100}
    while asked:
        page = service.http.get("/threads", params=asked).json()
        found = {thread["title"]: thread["id"] for thread in page["data"]} | found
        asked = {"limit": 100, "after": page["last_id"]} if page["has_more"] else {}
    return found


def _pages(service: Service, threads: dict[str, str], key: str) -> dict[str, tuple[str, Step | None]]:
    """Return the address of each page, and what is done there before its picture is taken."""
    trip = next(id_ for title, id_ in threads.items() if title.startswith("A weekend in"))
    travel = next(id_ for title, id_ in threads.items() if "三日游" in title)
    turn = service.http.get(f"/threads/{trip}/turns").json()["data"][0]["id"]

    failed = threads["Translate this leaflet"]
    failed_turn = service.http.get(f"/threads/{failed}/turns").json()["data"][0]["id"]
    slogan = threads["A slogan, three times"]
    branch = service.http.get(f"/threads/{slogan}/turns").json()["data"][0]["id"]

    def prove(page: Page) -> None:
        page.fill("[data-verify] input[name=key]", key)
        page.click("[data-verify] button")
        expect(page.locator("#verdict.good")).to_be_visible()

    def prove_turn(page: Page) -> None:
        page.fill(".panel .prove input", key)
        page.click(".panel .prove button")
        expect(page.locator(".panel .verdict.good")).to_be_visible()

    def compare(page: Page) -> None:
        page.click(".panel .choices a:has-text('Branch')")
        expect(page.locator(".panel .choices [aria-current]")).to_be_visible()

    def play(page: Page) -> None:
        page.select_option("#speed", "20")
        page.click("#play")
        page.wait_for_timeout(1000)

    return {
        "threads": ("/threads", None),
        "search": ("/threads?q=quiet+river", None),
        "thread": (f"/threads/{threads['Weather by a tool']}", None),
        "thread-zh": (f"/threads/{travel}", None),
        "panel": (f"/threads/{trip}?turn={turn}", None),
        "panel-sent": (f"/threads/{trip}?turn={turn}&tab=sent", None),
        "panel-proof": (f"/threads/{trip}?turn={turn}&tab=proof", prove_turn),
        "panel-compare": (f"/threads/{slogan}?turn={branch}&tab=compare", compare),
        "failed": (f"/threads/{failed}?turn={failed_turn}", None),
        "failures": ("/failures", None),
        "now": ("/now", None),
        "usage": ("/usage", None),
        "user": ("/users?user=ada%40example.com", None),
        "purge": ("/users/purge?user=ada%40example.com", None),
        "chain": (f"/threads/{trip}/chain", None),
        "tree": (f"/threads/{slogan}/tree", None),
        "replay": (f"/threads/{trip}/replay", play),
        "audit": (f"/threads/{trip}/trail", prove),
        "settings": ("/settings", None),
    }


def _shoot(
    browser: Browser, service: Service, width: str, scheme: Any, pages: dict[str, tuple[str, Step | None]],
    *, language: str = "en-US",
) -> None:  # fmt: skip
    wide, high = SIZES[width]
    with browser.new_context(
        viewport={"width": wide, "height": high}, color_scheme=scheme, locale=language, reduced_motion="reduce"
    ) as context:
        page = context.new_page()
        page.goto(f"{service.url}/console")
        page.fill("#key", service.key)
        page.click("main button")
        page.wait_for_url("**/console/threads")
        for name, (path, step) in pages.items():
            page.goto(f"{service.url}/console{path}")
            page.wait_for_timeout(500)
            if step is not None:
                step(page)
            picture = context.new_cdp_session(page).send(
                "Page.captureScreenshot", {"format": "webp", "quality": QUALITY}
            )
            (PICTURES / f"{name}-{width}-{scheme}.webp").write_bytes(base64.b64decode(picture["data"]))


if __name__ == "__main__":
    main()

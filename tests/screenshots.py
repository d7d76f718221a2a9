"""Screenshots for docs/console.md: the console over `everthread demo`. `make screenshots` takes them again."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, sync_playwright

from tests.service import Process, Service, free_port

PICTURES = Path(__file__).parents[1] / "docs" / "console"
SIZE = {"width": 1200, "height": 800}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory() as directory:
        port = free_port()
        service = Service("--data-dir", directory, "--emulator-port", str(port))
        env = {"EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key}
        demo = Process("demo", "--emulator", f"http://127.0.0.1:{port}", env=env)
        assert demo.ended() == 0, demo.lines
        public = Process("audit", "public-key", "--data-dir", directory)
        assert public.ended() == 0
        found = service.http.get("/threads", params={"limit": 100}).json()["data"]
        threads = {thread["title"]: thread["id"] for thread in found}
        for language, place in (("en-US", ""), ("zh-CN", "-zh")):
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                page = browser.new_context(viewport=SIZE, locale=language).new_page()  # type: ignore[arg-type]
                page.goto(f"{service.url}/console")
                page.fill("#key", service.key)
                page.click("main button")
                page.wait_for_url("**/console/threads")
                _shoot(page, service.url, threads, public.lines[-1], place)
                browser.close()
        assert service.stop() == 0


def _shoot(page: Page, url: str, threads: dict[str, str], key: str, place: str) -> None:
    """Each page, or for the second language the one that the README shows."""
    travel = next(id_ for title, id_ in threads.items() if "三日游" in title)
    trip = next(id_ for title, id_ in threads.items() if title.startswith("A weekend in"))
    shown = travel if place else trip
    pages = {
        "threads": "/threads", "thread": f"/threads/{shown}", "chain": f"/threads/{shown}/chain",
        "tree": f"/threads/{threads['A slogan, three times']}/tree", "replay": f"/threads/{shown}/replay",
        "audit": f"/threads/{shown}/trail", "usage": "/usage", "settings": "/settings",
    }  # fmt: skip
    for name, path in pages.items() if not place else [("thread", pages["thread"])]:
        page.goto(f"{url}/console{path}")
        page.wait_for_timeout(1000)
        if name == "audit":
            page.fill("input[name=key] >> nth=-1", key)
            page.click("form[data-verify] button")
            page.wait_for_selector("#verdict.good")
        if name == "replay":
            page.select_option("#speed", "20")
            page.click("#play")
            page.wait_for_timeout(1500)
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=PICTURES / f"{name}{place}.png")


if __name__ == "__main__":
    main()

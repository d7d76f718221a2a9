"""@everthread/client against a real service: in Node, and in a page in Chromium."""

import gzip
import json
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from tests.clients import npm
from tests.service import Emulator, Service
from tests.tenants import Tenant
from tests.tools import needs

pytestmark = needs("npm")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

MOST_BYTES = 12_000
"""Limit of the gzipped bundle."""

INPUT = f"Echo: {'one two three ' * 20}"
"""Answered for longer than any machine takes to load a page, unless it is stopped."""

SENT = """async ([baseURL, token, input]) => {
    const { Everthread } = await import("/bundle.js");
    const client = new Everthread({ baseURL, token: () => Promise.resolve(token) });
    const thread = await client.threads.create({ title: "In a page" });
    const stream = client.threads.turns.stream(thread.id, { input });
    sessionStorage.thread = thread.id;
    for await (const event of stream) if (stream.text) break;
    return { text: stream.text, turn: stream.turnId, local: stream.message.text };
}"""

RESUMED = """async ([baseURL, token]) => {
    const { Everthread } = await import("/bundle.js");
    const client = new Everthread({ baseURL, token });
    const stream = await client.threads.turns.resume(sessionStorage.thread);
    const numbers = [];
    let text = "";
    for await (const event of stream) {
        numbers.push(event.sequence_number);
        if (event.type === "response.output_text.delta") text += event.delta;
        if (numbers.length === 10) stream.cancel();
    }
    const titles = [];
    for await (const thread of client.threads.list()) titles.push(thread.title);
    const turn = await stream.finalTurn();
    return { text, numbers, titles, turn, again: await client.threads.turns.resume(sessionStorage.thread) };
}"""


@pytest.fixture(scope="module")
def folder() -> Path:
    """Return the workspace, with its tests compiled."""
    folder = npm.workspace()
    npm.run("node_modules/.bin/tsc", "-p", "test")
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("bundle") / "bundle.js"
    npm.run("node_modules/.bin/esbuild", "dist/index.js", "--bundle", "--minify", "--format=esm", f"--outfile={bundle}")
    return bundle


@pytest.fixture
def site(bundle: Path) -> Iterator[str]:
    """Return the address of a web server that has the bundle and an empty page."""
    (bundle.parent / "index.html").write_text("<!doctype html><title>A page</title>")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=bundle.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


def run_in_node(name: str, service: Service, emulator: Emulator, redis_url: str, **env: str) -> None:
    npm.run(
        "node", "--test", "--test-timeout=120000", f"build/{name}.test.js",
        EVERTHREAD_URL=service.url, EVERTHREAD_KEY=Tenant(service).key,
        EVERTHREAD_EMULATOR=f"http://127.0.0.1:{emulator.port}", EVERTHREAD_REDIS=redis_url, **env,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["sse", "requests", "streams"])
def test_client_in_node(folder: Path, service: Service, emulator: Emulator, redis_url: str, name: str) -> None:
    run_in_node(name, service, emulator, redis_url)


def test_client_in_node_follows_the_list(folder: Path, service: Service, emulator: Emulator, redis_url: str) -> None:
    run_in_node("live", service, emulator, redis_url)


def test_client_in_node_whose_worker_is_killed(
    folder: Path, service: Service, service_env: dict[str, str], emulator: Emulator, redis_url: str
) -> None:
    doomed = Service(env={**service_env, "EVERTHREAD_LEASE_SECONDS": "2"})
    doomed.http.close()
    pid = str(doomed.process.process.pid)
    run_in_node("killed", service, emulator, redis_url, EVERTHREAD_DOOMED_URL=doomed.url, EVERTHREAD_DOOMED_PID=pid)
    doomed.process.ended()


@pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="there is no Chromium here")
def test_client_in_a_page_streams_and_resumes_after_a_reload(service: Service, emulator: Emulator, site: str) -> None:
    tenant = Tenant(service)
    tenant.settings(origins=[site])
    token = tenant.http.post("/user_tokens", json={"user": "ann"}).json()["token"]
    tenant.thread()  # Another user's.
    emulator.fault("slow", seconds_per_event=0.2)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(site)
        sent: dict[str, Any] = page.evaluate(SENT, [service.url, token, INPUT])
        page.reload()
        resumed: dict[str, Any] = page.evaluate(RESUMED, [service.url, token])
        browser.close()
    assert sent["local"] == INPUT
    assert resumed["text"] == resumed["turn"]["output_text"] != sent["text"]
    assert resumed["text"].startswith(sent["text"])
    assert resumed["numbers"] == list(range(len(resumed["numbers"])))
    assert (resumed["turn"]["id"], resumed["turn"]["status"]) == (sent["turn"], "cancelled")
    assert (resumed["titles"], resumed["again"]) == (["In a page"], None)


def test_types_are_those_of_the_services_document(folder: Path, service: Service, tmp_path: Path) -> None:
    generated, committed = tmp_path / "openapi.ts", folder / "src" / "openapi.ts"
    npm.run("node", "scripts/generate.mjs", f"{service.url}/openapi.json", str(generated))
    assert generated.read_text() == committed.read_text(), f"The routes have changed: cp {generated} {committed}"


@pytest.mark.parametrize("name", [".", "ai-sdk", "assistant-ui"])
def test_package_has_its_licence_and_types_and_no_tests(folder: Path, name: str) -> None:
    (packed,) = json.loads(npm.run("npm", "pack", f"./{name}", "--dry-run", "--json", "--ignore-scripts"))
    files = {file["path"] for file in packed["files"]}
    assert {"LICENSE", "README.md", "package.json", "dist/index.js", "dist/index.d.ts"} <= files
    assert {path.split("/")[0] for path in files} == {"LICENSE", "README.md", "package.json", "dist"}
    assert not [path for path in files if "test" in path]


def test_bundle_is_small_and_has_no_dependencies(bundle: Path) -> None:
    assert len(gzip.compress(bundle.read_bytes())) < MOST_BYTES
    assert "dependencies" not in npm.manifest()
    assert "import" not in bundle.read_text()

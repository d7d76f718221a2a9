"""Weight of the console: compression, files that browsers keep, and pages that are not sent twice."""

import re

import httpx2
import pytest

from tests.console import new_key
from tests.service import Service


@pytest.fixture(scope="module")
def signed_in(running_service: Service) -> httpx2.Client:
    http = httpx2.Client(base_url=running_service.url, follow_redirects=True, timeout=60)
    answer = http.post("/console/sign-in", data={"key": new_key(running_service)})
    assert answer.status_code == 200
    return http


def files_of(page: str) -> set[str]:
    return set(re.findall(r"(?:src|href)=\"(/console/static/[^\"#]+)", page))


def test_pages_and_files_are_sent_compressed(signed_in: httpx2.Client) -> None:
    page = signed_in.get("/console/threads", headers={"Accept-Encoding": "gzip"})
    assert page.headers["content-encoding"] == "gzip"
    files = files_of(page.text)
    assert len(files) > 3
    for path in files:
        file = signed_in.get(path, headers={"Accept-Encoding": "gzip"})
        assert file.status_code == 200
        if len(file.content) >= 1000:
            assert (file.headers["content-encoding"], file.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert "content-encoding" not in signed_in.get("/console/threads", headers={"Accept-Encoding": "identity"}).headers


def test_browsers_keep_files_until_their_contents_change(signed_in: httpx2.Client) -> None:
    path = sorted(files_of(signed_in.get("/console/threads").text))[0]
    file = signed_in.get(path)
    assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert signed_in.get(path, headers={"If-None-Match": file.headers["etag"]}).status_code == 304
    # A page of another release, in a rolling upgrade, gets the file too, but must ask again.
    other = signed_in.get(re.sub(r"/static/\w+/", "/static/0123456789abcdef/", path))
    assert (other.status_code, other.headers["cache-control"]) == (200, "no-cache")


@pytest.mark.parametrize("path", ["../view.py", "..%2fview.py", "%2e%2e/templates/base.html", "../../settings.py"])
def test_static_files_give_nothing_else_of_the_program(signed_in: httpx2.Client, path: str) -> None:
    folder = sorted(files_of(signed_in.get("/console/threads").text))[0].split("/assets/")[0]
    assert signed_in.get(f"{folder}/assets/{path}").status_code == 404


def test_a_page_that_has_not_changed_is_not_sent_again(signed_in: httpx2.Client) -> None:
    rows = signed_in.get("/console/threads/rows")
    assert rows.status_code == 200
    again = signed_in.get("/console/threads/rows", headers={"If-None-Match": rows.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-store"
    with httpx2.Client(base_url=signed_in.base_url) as stranger:  # Knowing a page's tag opens nothing.
        refused = stranger.get("/console/threads/rows", headers={"If-None-Match": rows.headers["etag"]})
        assert refused.status_code == 303

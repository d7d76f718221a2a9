"""The audit trail, and the proof of it, which the page's script checks."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from starlette.responses import Response

from app.audit import exported
from app.audit.signing import BadKey, public_key
from app.console import session
from app.console.view import View
from app.http.bodies import body_of, json_response

ROWS = 50


async def page(view: View) -> Response:
    witnesses = (await view.api.get("/audit/witnesses"))["data"]
    return view.page("audit.html", filters=_asked(view), witnesses=witnesses, **await _rows(view, "/audit"))


async def rows(view: View) -> Response:
    return view.page("_records.html", **await _rows(view, "/audit"))


async def of_thread(view: View) -> Response:
    """A thread's own records, a deleted one's too."""
    thread_id = view.request.path_params["thread_id"]
    found = await _rows(view, f"/threads/{thread_id}/audit")
    if view.asked("after"):
        return view.page("_records.html", thread_id=thread_id, **found)
    thread = await view.api.find(f"/threads/{thread_id}")
    return view.page("trail.html", thread_id=thread_id, thread=thread, **found)


async def verified(view: View) -> Response:
    """An exported trail, verified here: for browsers that have no WebCrypto."""
    if not session.is_own(view.request):
        return json_response({"good": False, "message": "This was not sent by a page of the console."}, status=403)
    try:
        trusted = [public_key(view.request.headers.get("x-public-key", ""))]
        content = await body_of(view.request)
        with TemporaryDirectory() as directory:
            path = Path(directory) / "trail.ndjson"
            path.write_bytes(content)
            verdict = await asyncio.to_thread(exported.verify_file, path, trusted)
    except (BadKey, exported.BadFile) as error:
        return json_response({"good": False, "message": f"{error}."})
    problems = "; ".join(str(problem) for problem in verdict.problems[:5])
    return json_response({"good": not problems, "message": problems or f"{verdict.records} records verify."})


def _asked(view: View) -> dict[str, str]:
    return {name: view.asked(name) for name in ("thread", "turn", "key", "user", "action")}


async def _rows(view: View, path: str) -> dict[str, Any]:
    found = await view.api.get(path, **_asked(view), limit=ROWS, after=view.asked("after"))
    return {
        "records": found["data"],
        "names": found["names"],
        "more": view.more(found),
        "at": view.request.url.path.removesuffix("/rows"),
    }

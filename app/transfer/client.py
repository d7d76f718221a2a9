"""`everthread import` and `everthread export`: files of threads, through a running service's API."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx2
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.transfer.schemas import FORMAT

PAGE = 100
TIMEOUT_SECONDS = 120.0


class CannotTransfer(Exception):
    """Says in one sentence what is wrong, and where."""


@dataclass(slots=True)
class Counted:
    done: int = 0
    present: int = 0
    """Threads that were there already."""


def import_file(path: Path, url: str, key: str) -> Counted:
    """Send every thread of a file. One that is there already is passed over: to resume, run it again.

    Args:
        path: JSON or JSONL; each thread is an array of messages, an object with `messages`, or an exported one.
        url: the service's, without /v1.

    Raises:
        CannotTransfer: naming the thread that was refused. Those before it are imported.
    """
    entries = read_entries(path)
    counted = Counted()
    with connect(url, key) as client, _progress() as progress:
        for number, entry in enumerate(progress.track(entries, description="Importing"), 1):
            answer = _send(client, entry, number)
            if answer.status_code == 201:
                counted.done += 1
            else:
                counted.present += 1
    return counted


def export_file(target: BinaryIO, url: str, key: str) -> int:
    """Write every thread of the key's project as a line of JSON, oldest first. Returns how many there are."""
    count = 0
    with connect(url, key) as client, _progress() as progress:
        task = progress.add_task("Exporting", total=None)
        for thread_id in _thread_ids(client):
            answer = client.get(f"/threads/{thread_id}/export")
            if answer.status_code == 404:
                continue  # It was deleted meanwhile.
            _check(answer, f"thread {thread_id}")
            target.write(answer.content.strip() + b"\n")
            count += 1
            progress.update(task, completed=count)
    return count


def read_entries(path: Path) -> list[Any]:
    """The threads of a file: JSONL, one JSON array of threads, or one thread."""
    raw = path.read_bytes()
    try:
        whole = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return [_line(number, line) for number, line in enumerate(raw.splitlines(), 1) if line.strip()]
    if not isinstance(whole, list):
        return [whole]
    # A list of messages is one thread; a list of threads is many.
    one = bool(whole) and all(isinstance(m, dict) and ("role" in m or "type" in m) for m in whole)
    return [whole] if one else whole


def _line(number: int, line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise CannotTransfer(f"Line {number} is not JSON: {error}.") from error


def _send(client: httpx2.Client, entry: Any, number: int) -> httpx2.Response:
    if isinstance(entry, list):
        entry = {"messages": entry}
    if not isinstance(entry, dict):
        raise CannotTransfer(f"Thread {number} must be an array of messages or an object.")
    if entry.get("format") == FORMAT:
        answer = client.post("/threads/import", content=orjson.dumps(entry))
    else:
        if entry.get("name") is None:
            # A name of its content's own, so that the same file imported again changes nothing.
            digest = hashlib.sha256(orjson.dumps(entry, option=orjson.OPT_SORT_KEYS)).hexdigest()
            entry = {**entry, "name": f"import-{digest[:32]}"}
        answer = client.post("/threads", content=orjson.dumps(entry))
        if answer.status_code == 409 and answer.json()["error"]["code"] == "name_taken":
            return answer
    _check(answer, f"thread {number}")
    return answer


def _check(answer: httpx2.Response, what: str) -> None:
    if answer.status_code >= 400:
        try:
            reason = answer.json()["error"]["message"]
        except (ValueError, KeyError):
            reason = f"HTTP {answer.status_code}"
        raise CannotTransfer(f"The service refused {what}: {reason}")


def _thread_ids(client: httpx2.Client) -> Iterator[str]:
    query: dict[str, Any] = {"limit": PAGE, "order": "asc"}
    while True:
        answer = client.get("/threads", params=query)
        _check(answer, "the list of threads")
        page = answer.json()
        yield from (thread["id"] for thread in page["data"])
        if not page["has_more"]:
            return
        query["after"] = page["last_id"]


def connect(url: str, key: str) -> httpx2.Client:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    return httpx2.Client(base_url=f"{url.rstrip('/')}/v1", headers=headers, timeout=TIMEOUT_SECONDS)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))

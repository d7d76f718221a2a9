"""`everthread import` and `everthread export`: files of threads, through a running service's API."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import httpx2
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.transfer.files import Unreadable
from app.transfer.formats import Entry, read_file
from app.transfer.new_ids import NewIds
from app.transfer.schemas import FORMAT

PAGE = 100
TIMEOUT_SECONDS = 120.0


class CannotTransfer(Exception):
    """Error of a transfer, with the place in one sentence."""


def refusal(answer: httpx2.Response) -> str:
    """Return the message of an error response of the service, or its HTTP status."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"


@dataclass(slots=True)
class Counted:
    done: int = 0
    present: int = 0
    """Threads that were there already."""
    refused: int = 0
    shortened: int = 0
    """Threads that have fewer messages than their conversations."""


def import_file(
    path: Path,
    url: str,
    key: str,
    *,
    strict: bool,
    most_bytes: int,
    report: Callable[[str], None],
    mapping: dict[str, str] | None = None,
) -> Counted:
    """Send every conversation of a file. One that is there already is passed over: to resume, run it again.

    Args:
        path: as `formats.py` reads it.
        url: the service's, without /v1.
        strict: whether to stop at the first that cannot be taken.
        most_bytes: the bytes that are read of the file, once unpacked.
        report: is given a sentence for each conversation: how many messages it has, and how many are imported.
        mapping: if given, exported threads get new ids, and this receives the new id of each thread and turn by the
            old one, of threads that are imported now or were before.

    Raises:
        CannotTransfer: the file or the service says no; or, if strict, naming the conversation that was refused.
    """
    entries = _entries(path, most_bytes)
    counted = Counted()
    new_ids = NewIds(entry.thread for entry in entries) if mapping is not None else None
    with connect(url, key) as client, _progress() as progress:
        for entry in progress.track(entries, description="Importing"):
            thread, renamed = entry.thread, dict[str, str]()
            if new_ids is not None and thread.get("format") == FORMAT:
                thread, renamed = new_ids.apply(thread)
            status, problem = (0, entry.problem) if entry.problem is not None else _send(client, thread, renamed)
            if mapping is not None and problem is None:
                mapping.update(renamed)
            if problem is not None:
                said = f"{entry.where} is not taken: {problem}"
                if strict:
                    raise CannotTransfer(said)
                report(said)
                counted.refused += 1
            elif status == 201:
                report(f"{entry.where}: {entry.counted()}")
                counted.done += 1
                counted.shortened += entry.is_shortened
            else:
                report(f"{entry.where}: was there already, and stays as it is.")
                counted.present += 1
    return counted


def preview_file(path: Path, most_bytes: int, report: Callable[[str], None]) -> Counted:
    """Say what would come of a file's import. Nothing is sent: what the service itself would refuse is not known here.

    Raises:
        CannotTransfer: it cannot be read.
    """
    counted = Counted()
    for entry in _entries(path, most_bytes):
        if entry.problem is not None:
            report(f"{entry.where} would not be taken: {entry.problem}")
            counted.refused += 1
            continue
        named = entry.thread.get("title") or entry.thread.get("name")
        report(f"{entry.where}: {f'{named!r}: ' if named else ''}{entry.counted()}")
        counted.done += 1
        counted.shortened += entry.is_shortened
    return counted


def _entries(path: Path, most_bytes: int) -> list[Entry]:
    try:
        return read_file(path, most_bytes)
    except Unreadable as error:
        raise CannotTransfer(f"{path} is not imported: {error}.") from error


@dataclass(slots=True)
class Exported:
    count: int = 0
    not_whole: list[str] = field(default_factory=list)
    """The threads that hold contents which cannot be opened."""


def export_file(target: BinaryIO, url: str, key: str) -> Exported:
    """Write every thread of the key's project as a line of JSON, oldest first."""
    exported = Exported()
    with connect(url, key) as client, _progress() as progress:
        task = progress.add_task("Exporting", total=None)
        for thread_id in _thread_ids(client):
            answer = client.get(f"/threads/{thread_id}/export")
            if answer.status_code == 404:
                continue  # It was deleted meanwhile.
            _check(answer, f"thread {thread_id}")
            try:
                record = orjson.loads(answer.content)
            except orjson.JSONDecodeError:
                record = {}
            if record.get("format") != FORMAT:
                raise CannotTransfer(f"The export of thread {thread_id} was cut off.")
            target.write(answer.content.strip() + b"\n")
            exported.count += 1
            if "unreadable" in record:
                exported.not_whole.append(thread_id)
            progress.update(task, completed=exported.count)
    return exported


def _send(client: httpx2.Client, thread: dict[str, Any], renamed: dict[str, str]) -> tuple[int, str | None]:
    """Send a conversation. Gives the status of the answer, and why it was refused.

    Where a thread of the same name was there already, `renamed` is emptied: its turns are others.

    Raises:
        CannotTransfer: the service refuses the key, or fails.
    """
    place = "/threads/import" if thread.get("format") == FORMAT else "/threads"
    answer = client.post(place, content=orjson.dumps(thread))
    if answer.status_code in (401, 403) or answer.status_code >= 500:
        _check(answer, "the import")
    if answer.status_code == 409 and answer.json()["error"]["code"] == "name_taken":
        return answer.status_code, None
    if answer.status_code >= 400:
        return answer.status_code, refusal(answer)
    if renamed and answer.json()["id"] != thread["id"]:
        renamed.clear()
    return answer.status_code, None


def _check(answer: httpx2.Response, what: str) -> None:
    if answer.status_code >= 400:
        raise CannotTransfer(f"The service refused {what}: {refusal(answer)}")


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

"""`everthread replay` and `everthread call`: shown in the terminal, through a running service's API."""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx2
import orjson

from app.history.messages import brief
from app.items.shapes import text_of
from app.threads.address import path_of
from app.transfer.client import CannotTransfer, connect


def replay(url: str, key: str, thread: str, speed: float, until: str | None, show: Callable[[str], None]) -> None:
    """Show a thread's conversation with its original timing.

    Args:
        thread: its id or its name.
        show: called with each piece of text.

    Raises:
        CannotTransfer: the service refuses.
    """
    params = {"speed": str(speed), **({} if until is None else {"until": until})}
    with connect(url, key) as client, client.stream("GET", f"{path_of(thread)}/replay", params=params) as answer:
        _check(answer)
        for event in _events(answer.iter_lines()):
            match event["type"]:
                case "thread.turn":
                    for item in event["input"]:
                        show(f"\n{_shown_input(item)}\n")
                case "response.output_item.added" if event["item"].get("type") == "message":
                    show("\nassistant: ")
                case "response.output_text.delta":
                    show(event["delta"])
                case "response.output_item.done" if event["item"].get("type") == "message":
                    show("\n")
                case "response.output_item.done":
                    show(f"\n[{event['item'].get('type')}] {brief(event['item'])}\n")
                case "error":
                    raise CannotTransfer(f"The replay was cut off: {event['message']}")
                case "response.failed":
                    show(f"\n[failed] {event['response']['error']['message']}\n")


def call(url: str, key: str, call_id: str, *, curl: bool, report: Callable[[str], object]) -> str:
    """A call to the provider, as JSON or as a curl command.

    Args:
        report: is told which key makes the command work.

    Raises:
        CannotTransfer: the service refuses.
    """
    with connect(url, key) as client:
        answer = client.get(f"/calls/{quote(call_id, safe='')}", params={"format": "curl" if curl else "json"})
        _check(answer)
        if curl:
            if (account := answer.headers.get("everthread-account")) is not None:
                host, _, digits = account.partition("#")
                report(f"It takes DASHSCOPE_API_KEY: a key of {host} whose SHA-256 begins with {digits}.")
            return answer.text.rstrip("\n")
        return orjson.dumps(answer.json(), option=orjson.OPT_INDENT_2).decode()


def _check(answer: httpx2.Response) -> None:
    if answer.status_code != 200:
        answer.read()
        error = answer.json().get("error", {})
        raise CannotTransfer(str(error.get("message", answer.text)))


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data: "):
            yield orjson.loads(line[6:])


def _shown_input(item: dict[str, Any]) -> str:
    if item.get("type", "message") == "message":
        return f"{item['role']}: {text_of(item)}"
    return f"[{item.get('type')}] {brief(item)}"

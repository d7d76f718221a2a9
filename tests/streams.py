"""A reader of server-sent events, in a thread of its own."""

import http.client
import json
import socket
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from tests.service import Service, eventually


class Stream:
    def __init__(
        self, service: Service, path: str, key: str | None = None, *, after: str | None = None, **params: str
    ) -> None:
        """Args: key: a key or a token. after: the id to resume behind."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        if after is not None:
            headers["Last-Event-ID"] = after
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        """The id that a browser has after each event."""
        self._connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        self._connection.request("GET", f"/v1{path}?{urlencode(params)}", headers=headers)
        assert self._connection.sock is not None
        self._socket: socket.socket = self._connection.sock
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self.error: dict[str, Any] = {} if self.status == 200 else json.loads(self._answer.read())["error"]
        self._thread = threading.Thread(target=self._read, daemon=True)
        if self.status == 200:
            self._thread.start()

    def _read(self) -> None:
        id_ = ""
        with suppress(OSError, http.client.HTTPException):
            while line := self._answer.readline().decode():
                if line.startswith("id: "):
                    id_ = line[4:-1]
                elif line.startswith("data: "):
                    self.ids.append(id_)
                    self.events.append(json.loads(line[6:]))

    def leave(self) -> None:
        """Close the connection, and wait until nothing more is read."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)

    def told(self, thread: str) -> list[str]:
        """The types of the events of a thread."""
        return [event["type"] for event in list(self.events) if event.get("thread_id") == thread]

    def is_told(self, type_: str, thread: str | None = None, times: int = 1) -> dict[str, Any]:
        """Wait for an event. Returns it."""

        def found() -> list[dict[str, Any]]:
            events = list(self.events)
            return [e for e in events if e["type"] == type_ and thread in (None, e.get("thread_id"))]

        eventually(lambda: len(found()) >= times, 30)
        return found()[times - 1]

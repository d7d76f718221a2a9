"""A TCP proxy that loses connections where a test says so."""

import socket
import threading
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Self


class CuttingProxy:
    """Forwards to a port of this machine. Each connection uses up the next entry of `plan`; without one, it is whole.

    An entry is the number of bytes of answers after which the connection is cut, or the literal answer of its first
    request, which then is not forwarded.
    """

    def __init__(self, port: int, *plan: int | bytes) -> None:
        self.plan = deque(plan)
        self.connections = 0
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Wakes the thread that accepts, which `close` alone does not.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                entry = self.plan.popleft() if self.plan else None
                threading.Thread(target=self._serve, args=(client, entry), daemon=True).start()

    def _serve(self, client: socket.socket, entry: int | bytes | None) -> None:
        if isinstance(entry, bytes):
            with client, suppress(OSError):
                client.recv(65536)
                client.sendall(entry)
            return
        with client, socket.create_connection(self._target) as service:
            threading.Thread(target=_pass_on, args=(client, service), daemon=True).start()
            _pass_on(service, client, entry)


def _pass_on(source: socket.socket, target: socket.socket, most: int | None = None) -> None:
    """Forward bytes until the source ends, or until so many of them."""
    with suppress(OSError):
        # Nothing is forwarded of an answer that is cut at its beginning, but the request has been received by then.
        while chunk := source.recv(65536):
            target.sendall(chunk if most is None else chunk[:most])
            if most is not None and (most := most - len(chunk)) <= 0:
                break
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def canned(status: str, body: str, *headers: str, kind: str = "application/json") -> bytes:
    """Return a literal answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([*lines, *headers, "", body]).encode()

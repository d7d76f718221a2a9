"""A proxy in front of Postgres that counts what the service asks of it."""

import contextlib
import socket
import threading
from urllib.parse import parse_qs, urlsplit


class CountingProxy:
    """Listens on a port, and counts each execution of a statement (protocol messages Execute and Query)."""

    def __init__(self, database_url: str) -> None:
        parsed = urlsplit(database_url)
        self._directory = parse_qs(parsed.query).get("host", [""])[0]
        self._address = (parsed.hostname or "localhost", parsed.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        user = f"{parsed.username or 'postgres'}:{parsed.password or ''}"
        self.url = f"postgresql://{user}@127.0.0.1:{port}{parsed.path}?ssl=disable"
        self.executed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._directory:
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{self._directory}/.s.PGSQL.5432")
            else:
                server = socket.create_connection(self._address)
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, count: bool) -> None:
        pending, started = b"", False
        while data := _received(source):
            if count:
                pending += data
                while len(pending) >= (5 if started else 4):
                    start = 1 if started else 0  # The first message has no type.
                    length = int.from_bytes(pending[start : start + 4]) + start
                    if len(pending) < length:
                        break
                    self.executed += started and pending[:1] in (b"E", b"Q")
                    pending, started = pending[length:], True
            target.sendall(data)
        with contextlib.suppress(OSError):  # The other direction may have ended it already.
            target.shutdown(socket.SHUT_RDWR)


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""

"""A proxy in front of Postgres that hears what the service asks of it, and can lose an answer."""

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


class Proxy:
    """Listens on a port of its own. `executed` are the statements, in the order of their execution; `together` is how
    many each Sync ended: those are one transaction."""

    def __init__(self, database_url: str) -> None:
        parsed = urlsplit(database_url)
        self._directory = parse_qs(parsed.query).get("host", [""])[0]
        self._address = (parsed.hostname or "localhost", parsed.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = port = self._listener.getsockname()[1]
        user = f"{parsed.username or 'postgres'}:{parsed.password or ''}"
        self.url = f"postgresql://{user}@127.0.0.1:{port}{parsed.path}?ssl=disable"
        self.executed: list[str] = []
        self.together: list[int] = []
        self._lost: str | None = None
        self._passes = threading.Event()
        self._passes.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_answer_to(self, words: str) -> None:
        """Cut the connection instead of answering the next statement with these words in it; Postgres has run it."""
        self._lost = words

    def hang(self) -> None:
        """Pass nothing on from now on, as a Postgres does that has stopped working without closing connections."""
        self._passes.clear()

    def go_on(self) -> None:
        """Pass on what has come meanwhile, and what comes."""
        self._passes.set()

    @property
    def lost(self) -> bool:
        return self._lost is None

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            self._passes.wait()
            if self._directory:
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{self._directory}/.s.PGSQL.5432")
            else:
                server = socket.create_connection(self._address)
            connection = _Connection(client, server)
            threading.Thread(target=self._ask, args=(connection,), daemon=True).start()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _ask(self, connection: "_Connection") -> None:
        pending, started = b"", False
        while data := _received(connection.client):
            pending += data
            while len(pending) >= (5 if started else 4):
                start = 1 if started else 0  # The first message has no type.
                length = int.from_bytes(pending[start : start + 4]) + start
                if len(pending) < length:
                    break
                if started and (statement := connection.executes(pending[:1], pending[5:length])) is not None:
                    self.executed.append(statement)
                    connection.unsynced += pending[:1] == b"E"
                    if self._lost is not None and self._lost in statement:
                        connection.losing, self._lost = True, None
                if started and pending[:1] == b"S" and connection.unsynced:
                    self.together.append(connection.unsynced)
                    connection.unsynced = 0
                pending, started = pending[length:], True
            self._passes.wait()
            with contextlib.suppress(OSError):  # The server may have ended while nothing was passed on.
                connection.server.sendall(data)
        _shut(connection.server)

    def _answer(self, connection: "_Connection") -> None:
        while data := _received(connection.server):
            if connection.losing:
                _shut(connection.server)
                break
            self._passes.wait()
            with contextlib.suppress(OSError):  # The client may have been killed meanwhile.
                connection.client.sendall(data)
        _shut(connection.client)


@dataclass
class _Connection:
    client: socket.socket
    server: socket.socket
    losing: bool = False
    unsynced: int = 0
    prepared: dict[bytes, str] = field(default_factory=dict)
    bound: str = ""

    def executes(self, type_: bytes, body: bytes) -> str | None:
        """The statement that a message executes, if it does."""
        match type_:
            case b"P":
                name, statement, _ = body.split(b"\0", 2)
                self.prepared[name] = statement.decode()
            case b"B":
                _, name, _ = body.split(b"\0", 2)
                self.bound = self.prepared[name]
            case b"E":
                return self.bound
            case b"Q":
                return body.rstrip(b"\0").decode()
        return None


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # The other direction may have ended it already.
        end.shutdown(socket.SHUT_RDWR)

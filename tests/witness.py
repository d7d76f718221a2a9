"""A small witness of transparency logs (C2SP tlog-witness), over real HTTP.

It keeps the latest checkpoint of each origin in a file before it answers, and checks signatures and proofs with code of
its own and of `cryptography`, not with the service's.
"""

import base64
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Answer = tuple[int, str, bytes]
"""Status, content type and body."""


class Refused(Exception):
    def __init__(self, status: int, body: str = "", type_: str = "text/plain") -> None:
        self.answer: Answer = (status, type_, body.encode())


class Witness:
    def __init__(self, directory: Path, name: str = "witness.example/w1") -> None:
        directory.mkdir(exist_ok=True)
        self.name = name
        self.key = Ed25519PrivateKey.generate()
        self.url = ""
        self.logs: dict[str, bytes] = {}
        """The public keys of logs that it knows, by their origin."""
        self.admits: Callable[[str], bytes | None] = self.logs.get
        """Returns the key that it trusts for an origin."""
        self.requests: list[bytes] = []
        """Every body that it was sent."""
        self.statuses: list[int] = []
        self.failures: list[BaseException | None] = []
        self.instead: Callable[[bytes], Answer] | None = None
        """Answers in its place."""
        self._file = directory / "latest.json"
        self._lock = threading.Lock()

    @property
    def vkey(self) -> str:
        return vkey(self.name, 4, self.key.public_key().public_bytes_raw())

    @property
    def line(self) -> str:
        """Its line in a policy."""
        return f"witness w1 {self.vkey} {self.url}"

    @property
    def latest(self) -> dict[str, tuple[int, str]]:
        """Size and root of the latest checkpoint of each origin that it has cosigned."""
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        return {origin: (size, root) for origin, (size, root) in known.items()}

    def add_checkpoint(self, body: bytes) -> Answer:
        try:
            cosigned = self._cosign(body)
        except Refused as refused:
            return refused.answer
        return 200, "text/plain", cosigned.encode()

    def _cosign(self, body: bytes) -> str:
        head, _, note = body.decode().partition("\n\n")
        text, _, signatures = note.rpartition("\n\n")
        old_line, *proof = head.split("\n")
        origin, size_line, root = text.split("\n")
        text += "\n"
        known = self.admits(origin)
        if known is None:
            raise Refused(404, "unknown origin")
        if not signed_by(origin, known, text, signatures):
            raise Refused(403, "no signature of a trusted key")
        word, _, digits = old_line.partition(" ")
        old, size = int(digits), int(size_line)
        if word != "old" or str(old) != digits or str(size) != size_line or old > size or len(proof) > 63:
            raise Refused(400, "malformed")
        with self._lock:
            latest = self.latest
            known_size, known_root = latest.get(origin, (0, ""))
            if old != known_size:
                raise Refused(409, f"{known_size}\n", "text/x.tlog.size")
            if old == size:
                if root != known_root:
                    raise Refused(409, f"{known_size}\n", "text/x.tlog.size")
            elif old == 0:
                if proof:
                    raise Refused(422, "the proof must be empty")
            elif not leads(old, base64.b64decode(known_root), size, base64.b64decode(root), proof):
                raise Refused(422, "inconsistent")
            new = self._file.with_suffix(".new")
            new.write_text(json.dumps({**latest, origin: (size, root)}))
            new.replace(self._file)
        return self.cosignature(text)

    def cosign_anything(self, body: bytes) -> Answer:
        """An answer to every checkpoint, without any check."""
        text = body.decode().partition("\n\n")[2].rpartition("\n\n")[0] + "\n"
        return 200, "text/plain", self.cosignature(text).encode()

    def cosignature(self, text: str, key: Ed25519PrivateKey | None = None, at: int | None = None) -> str:
        """Its signature line of a checkpoint's text, or one by another key."""
        at = int(time.time()) if at is None else at
        signature = (key or self.key).sign(f"cosignature/v1\ntime {at}\n{text}".encode())
        material = b"\x04" + self.key.public_key().public_bytes_raw()
        hashed = hashlib.sha256(self.name.encode() + b"\n" + material).digest()[:4]
        return f"— {self.name} {base64.b64encode(hashed + at.to_bytes(8, 'big') + signature).decode()}\n"


def vkey(name: str, kind: int, public_key: bytes) -> str:
    material = bytes([kind]) + public_key
    id_ = hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]
    return f"{name}+{id_.hex()}+{base64.b64encode(material).decode()}"


def signed_by(origin: str, public_key: bytes, text: str, signatures: str) -> bool:
    """Return True if one of the lines is the log's own note signature."""
    id_ = hashlib.sha256(origin.encode() + b"\n\x01" + public_key).digest()[:4]
    for line in signatures.splitlines():
        _, name, data = line.split(" ")
        raw = base64.b64decode(data)
        if (name, raw[:4]) == (origin, id_):
            try:
                Ed25519PublicKey.from_public_bytes(public_key).verify(raw[4:], text.encode())
            except InvalidSignature:
                return False
            return True
    return False


def leads(size: int, root: bytes, new_size: int, new_root: bytes, proof: list[str]) -> bool:
    """Verify a consistency proof as section 2.1.4.2 of RFC 9162 says, word by word."""
    path = [base64.b64decode(line) for line in proof]
    if not path:
        return False
    if size & (size - 1) == 0:
        path = [root, *path]
    fn, sn = size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = parent(c, fr), parent(c, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = parent(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return fr == root and sr == new_root and sn == 0


def parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


@contextmanager
def serving(witness: Witness) -> Iterator[Witness]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path != "/add-checkpoint":
                self.send_error(404)
                return
            witness.requests.append(body)
            status, type_, said = (witness.instead or witness.add_checkpoint)(body)
            witness.statuses.append(status)
            self.send_response(status)
            self.send_header("Content-Type", type_)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            error = sys.exc_info()[1]
            if not isinstance(error, ConnectionError):  # A client may have gone away.
                witness.failures.append(error)

    server = Server(("127.0.0.1", 0), Handler)
    witness.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield witness
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert witness.failures == []

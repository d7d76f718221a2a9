"""A server before the real identity provider. It checks PKCE and the client's secret, which the provider does not, and
gives wrong ID tokens on demand."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.identity_provider import IdentityProvider, identity_provider

CLIENT, SECRET = "everthread console", "client:secret/of the tests"

Forgery = Callable[["Front", dict[str, Any]], str]


class Front(IdentityProvider):
    """The provider as the service sees it."""

    def __init__(self, port: int, behind: IdentityProvider) -> None:
        super().__init__(f"http://127.0.0.1:{port}")
        self.state = State(behind)

    def sign(self, claims: dict[str, Any], algorithm: str = "RS256", key: Any = None, kid: str | None = "front") -> str:
        """Return a token that is signed with the front's key, or another."""
        headers = None if kid is None else {"kid": kid}
        return jwt.encode(claims, self.state.key if key is None else key, algorithm, headers=headers)

    @property
    def public_pem(self) -> bytes:
        return self.state.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @contextmanager
    def giving(self, forgery: Forgery) -> Iterator[None]:
        """Give forged ID tokens. Args: forgery: makes one from the claims of the true one."""
        self.state.forgery = lambda claims: forgery(self, claims)
        try:
            yield
        finally:
            self.state.forgery = None

    @contextmanager
    def accepting_codes_twice(self) -> Iterator[None]:
        self.state.repeats = True
        try:
            yield
        finally:
            self.state.repeats = False


class State:
    def __init__(self, behind: IdentityProvider) -> None:
        self.behind = behind
        self.key = rsa.generate_private_key(65537, 2048)
        self.shared = b"s" * 32
        self.forgery: Callable[[dict[str, Any]], str] | None = None
        self.repeats = False
        self.challenges: dict[str, str] = {}
        """By code."""
        self.answers: dict[str, dict[str, Any]] = {}
        self.tokens: list[str] = []


@contextmanager
def oidc_front(port: int) -> Iterator[Front]:
    with identity_provider() as behind:
        front = Front(port, behind)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _answer(self, front)

            do_POST = do_GET
            do_PUT = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Print nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield front
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _answer(handler: BaseHTTPRequestHandler, front: Front) -> None:
    state, parts = front.state, urlsplit(handler.path)
    content = handler.rfile.read(int(handler.headers.get("content-length", "0")))
    form = {name: values[0] for name, values in parse_qs(content.decode()).items()}
    if parts.path == "/oauth2/token":
        status, headers, body = _token(front, form, handler.headers.get("authorization", ""))
    else:
        # With the front's own host, so that the provider's documents and tokens name the front.
        answer = httpx2.request(
            handler.command,
            f"{state.behind.issuer}{handler.path}",
            content=content,
            headers={
                "host": f"127.0.0.1:{urlsplit(front.issuer).port}",
                "content-type": handler.headers.get("content-type", "text/plain"),
            },
        )
        status, body = answer.status_code, answer.content
        headers = {name: answer.headers[name] for name in ("content-type", "location") if name in answer.headers}
        if parts.path == "/jwks" and state.forgery is not None:  # True tokens have no kid: there must be one key.
            body = json.dumps(_keys(state, json.loads(body))).encode()
        if parts.path == "/oauth2/authorize" and "location" in headers:
            code = parse_qs(urlsplit(headers["location"]).query).get("code", [""])[0]
            asked = parse_qs(parts.query)
            assert asked["code_challenge_method"] == ["S256"]
            state.challenges[code] = asked["code_challenge"][0]
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def _token(front: Front, form: dict[str, str], authorization: str) -> tuple[int, dict[str, str], bytes]:
    state, code = front.state, form.get("code", "")
    user, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
    challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
    right = (unquote(user), unquote(password)) == (CLIENT, SECRET)
    if not right or challenge.rstrip(b"=").decode() != state.challenges.get(code):
        return 400, {"Content-Type": "application/json"}, b'{"error": "invalid_grant"}'
    if not (state.repeats and code in state.answers):
        answer = httpx2.post(
            f"{state.behind.issuer}/oauth2/token",
            data={**form, "client_id": CLIENT, "client_secret": "any"},
            headers={"host": f"127.0.0.1:{urlsplit(front.issuer).port}"},
        )
        if answer.status_code != 200:
            return answer.status_code, {"Content-Type": "application/json"}, answer.content
        state.answers[code] = answer.json()
    said = dict(state.answers[code])
    if state.forgery is not None:
        said["id_token"] = state.forgery(jwt.decode(said["id_token"], options={"verify_signature": False}))
    state.tokens += [said["id_token"], said["access_token"]]
    return 200, {"Content-Type": "application/json"}, json.dumps(said).encode()


def _keys(state: State, keys: dict[str, Any]) -> dict[str, Any]:
    """Add the front's own key, a key for encryption, and a shared secret, which no provider should publish."""
    own = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(state.key.public_key()))
    shared = base64.urlsafe_b64encode(state.shared).rstrip(b"=").decode()
    return {
        "keys": [
            *keys["keys"],
            {**own, "kid": "front", "alg": "RS256", "use": "sig"},
            {**own, "kid": "encryption", "alg": "RS256", "use": "enc"},
            {"kty": "oct", "kid": "shared", "alg": "HS256", "k": shared},
        ]
    }


def expired(seconds: int) -> dict[str, int]:
    """Return the times of a token that expired some seconds ago."""
    now = int(time.time())
    return {"iat": now - seconds - 60, "exp": now - seconds}

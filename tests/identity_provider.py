"""A real OpenID Connect provider for tests: `oidc-provider-mock` in a thread of the test process.

It accepts every client id, client secret and redirect URI, and signs in whoever a test names.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import oidc_provider_mock
from werkzeug.serving import make_server


@dataclass(frozen=True)
class IdentityProvider:
    issuer: str
    """Its URL without a slash at the end; `{issuer}/.well-known/openid-configuration` describes it."""

    @property
    def jwks_url(self) -> str:
        return f"{self.issuer}/jwks"

    def set_claims(self, subject: str, **claims: Any) -> None:
        """Set claims of a user, such as `email`, `name` or `groups`, for later ID tokens."""
        httpx2.put(f"{self.issuer}/users/{subject}", json=claims).raise_for_status()

    def approve(self, authorization_url: str, subject: str) -> str:
        """Sign a user in at an authorization URL, as its form does. Returns the URL of the redirect."""
        answer = httpx2.post(authorization_url, data={"sub": subject})
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    def id_token(self, subject: str, client_id: str = "app") -> str:
        """Return an ID token of a user, from the whole authorization code flow."""
        redirect_uri = "http://localhost/callback"
        asked = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "scope": "openid profile email",
        }
        redirect = self.approve(str(httpx2.URL(f"{self.issuer}/oauth2/authorize", params=asked)), subject)
        answer = httpx2.post(
            f"{self.issuer}/oauth2/token",
            data={
                "grant_type": "authorization_code",
                "code": parse_qs(urlsplit(redirect).query)["code"][0],
                "redirect_uri": redirect_uri,
                "client_id": client_id,
                "client_secret": "any",
            },
        )
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["id_token"]
        return token


@contextmanager
def identity_provider(*, token_seconds: int = 3600) -> Iterator[IdentityProvider]:
    """Run a provider on a free port of localhost. Args: token_seconds: the lifetime of its tokens."""
    app = oidc_provider_mock.app(access_token_max_age=timedelta(seconds=token_seconds))
    # The package's own way to run it fails on a busy machine, where it takes more than a second to stop.
    server = make_server("localhost", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield IdentityProvider(f"http://localhost:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()

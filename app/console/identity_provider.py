"""An OpenID Connect provider: its discovery document, the exchange of a code, and the verification of an ID token."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
import jwt
import orjson
import structlog

from app.console.oidc_config import OidcConfig, endpoint_fault
from app.http import egress
from app.provider.client import proxy_of

log = structlog.get_logger()

ANSWER_BYTES = 256 * 1024
TIMEOUT_SECONDS = 10.0
LONGEST_TOKEN = 64 * 1024

KNOWN_SECONDS = 600.0
"""Time for which the discovery document is reused. The keys are requested for each sign-in, so that a rotation needs
no cache; only a code that the provider has accepted leads to such a request."""

PAUSE_SECONDS = 5.0
"""Time after a failure in which the discovery document is not requested again: anybody can begin to sign in."""

SKEW_SECONDS = 60

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with public keys only. A shared secret, or no signature, proves nothing about who has signed."""

PUBLIC_KEYS = ("RSA", "EC", "OKP")

REQUIRED = ("iss", "sub", "aud", "exp", "iat", "nonce")

ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class ProviderFailed(Exception):
    """The provider cannot be reached, or has answered something else than expected. Its text is for the log."""


class Refused(Exception):
    """The provider has refused the code, or its ID token is not valid. Its text is for the log."""


class IdentityProvider:
    def __init__(self, config: OidcConfig) -> None:
        self._config = config
        # The operator has chosen the issuer: it may have a private address.
        self._session = egress.one_shot_session(
            public_only=False, answer_bytes=ANSWER_BYTES, seconds=TIMEOUT_SECONDS, headers=egress.JSON_ONLY
        )
        self._document: tuple[float, dict[str, Any]] | None = None
        self._failed_at = -PAUSE_SECONDS
        self._discovering = asyncio.Lock()

    async def authorization_endpoint(self) -> str:
        """Return the URL that a browser is sent to.

        Raises:
            ProviderFailed: the discovery document is not available.
        """
        endpoint: str = (await self._discovered())["authorization_endpoint"]
        return endpoint

    async def claims(self, code: str, verifier: str, nonce: str) -> Mapping[str, Any]:
        """Return the claims of the ID token that a code is exchanged for.

        Args:
            verifier: the code verifier of PKCE. nonce: what the ID token must contain.

        Raises:
            Refused: the provider refuses the code, or the ID token is not for this sign-in.
            ProviderFailed: there is no usable answer.
        """
        document = await self._discovered()
        token = await self._exchanged(document, code, verifier)
        status, keys = await self._asked("GET", document["jwks_uri"])
        if status != 200:
            raise ProviderFailed(f"jwks_uri answers {status}")
        return self._verified(token, keys, document["issuer"], nonce)

    async def close(self) -> None:
        await self._session.close()

    async def _discovered(self) -> dict[str, Any]:
        """Return the discovery document."""
        async with self._discovering:
            now = time.monotonic()
            if self._document is not None and now < self._document[0] + KNOWN_SECONDS:
                return self._document[1]
            if now < self._failed_at + PAUSE_SECONDS:
                raise ProviderFailed("the discovery document was not available a moment ago")
            try:
                document = await self._discover()
            except ProviderFailed:
                self._failed_at = time.monotonic()
                raise
            self._document = now, document
            return document

    async def _discover(self) -> dict[str, Any]:
        status, document = await self._asked("GET", f"{self._config.issuer}/.well-known/openid-configuration")
        if status != 200:
            raise ProviderFailed(f"the discovery document answers {status}")
        issuer = document.get("issuer")
        if not isinstance(issuer, str) or issuer.rstrip("/") != self._config.issuer:
            raise ProviderFailed("the discovery document names another issuer than EVERTHREAD_OIDC_ISSUER")
        for name in ENDPOINTS:
            url = document.get(name)
            if not isinstance(url, str) or endpoint_fault(url) is not None:
                raise ProviderFailed(f"{name} of the discovery document is missing or not an https URL")
        return document

    async def _exchanged(self, document: dict[str, Any], code: str, verifier: str) -> str:
        """Return the ID token that the token endpoint gives for a code."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._config.redirect_url,
            "code_verifier": verifier,
        }
        client_id, secret = self._config.client_id, self._config.client_secret.get_secret_value()
        methods = document.get("token_endpoint_auth_methods_supported")
        headers = {}
        if isinstance(methods, list) and "client_secret_basic" not in methods:
            form |= {"client_id": client_id, "client_secret": secret}
        else:  # The default of OpenID Connect. Both are form-encoded first: RFC 6749, section 2.3.1.
            basic = aiohttp.BasicAuth(quote(client_id, safe=""), quote(secret, safe=""))
            headers["Authorization"] = basic.encode()
        status, answer = await self._asked("POST", document["token_endpoint"], data=form, headers=headers)
        token = answer.get("id_token")
        if status >= 500:
            raise ProviderFailed(f"token_endpoint answers {status}")
        if status != 200 or not isinstance(token, str) or len(token) > LONGEST_TOKEN:
            raise Refused(f"token_endpoint answers {status}, with {'an' if 'id_token' in answer else 'no'} ID token")
        return token

    def _verified(self, token: str, keys: dict[str, Any], issuer: str, nonce: str) -> Mapping[str, Any]:
        client_id = self._config.client_id
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            usable = [key for key in jwt.PyJWKSet.from_dict(keys).keys if _signs(key)]
            named = [key for key in usable if key.key_id == kid] if kid is not None else usable
            if len(named) != 1:
                raise Refused("no key, or more than one, has the kid of the ID token")
            claims: dict[str, Any] = jwt.decode(
                token,
                named[0],
                list(ALGORITHMS),
                audience=client_id,
                issuer=issuer,
                leeway=SKEW_SECONDS,
                options={"require": list(REQUIRED)},
            )
        except (jwt.PyJWTError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise Refused(f"the ID token is not valid: {type(error).__name__}") from error
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        party = claims.get("azp", client_id if len(audiences) == 1 else None)
        if party != client_id:
            raise Refused("the ID token is for another client: azp")
        if claims["nonce"] != nonce:
            raise Refused("the ID token is for another sign-in: nonce")
        return claims

    async def _asked(self, method: str, url: str, **how: Any) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object of an answer; an empty object for anything else."""
        try:
            async with self._session.request(method, url, allow_redirects=False, proxy=proxy_of(url), **how) as answer:
                status, content = answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ProviderFailed(egress.reason(error)) from error
        try:
            read = orjson.loads(content)
        except orjson.JSONDecodeError:
            read = None
        return status, read if isinstance(read, dict) else {}


def _signs(key: jwt.PyJWK) -> bool:
    return key.key_type in PUBLIC_KEYS and key.public_key_use in (None, "sig")

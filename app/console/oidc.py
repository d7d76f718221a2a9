"""Sign-in to the console with OpenID Connect: authorization code with PKCE (S256), `state` and `nonce`.

The state is in a signed cookie of the browser that begins the sign-in. Code verifier and nonce are derived from the
state with a key of the database, so neither the browser nor the URL has them, and a code of another sign-in is useless.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import jwt
import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.console.attempts import SignInAttempts
from app.console.identity_provider import IdentityProvider, ProviderFailed, Refused
from app.console.oidc_config import OidcConfig
from app.console.session import SIGN_IN, TOO_MANY, next_page
from app.db.engine import Database
from app.http.services import services
from app.projects import people
from app.projects.auth import KeyRing
from app.projects.people import Person, TooManyPeople
from app.projects.sessions import KEPT_SECONDS, Sessions

log = structlog.get_logger()

COOKIE = "everthread_sign_in"
PATH = f"{SIGN_IN}/oidc"

STATE_SECONDS = KEPT_SECONDS
"""Longest time that a person takes at the identity provider. A used state is known for as long."""

LONGEST_CODE = 4096
LONGEST_NEXT = 1000
LONGEST_NAME = 200
LONGEST_SUBJECT = 255
SHOWN_GROUPS = 20

NOT_BEGUN = (
    "This sign-in was not begun in this browser, or it took longer than ten minutes. Begin again; allow cookies, and "
    "open the console at {host}."
)
USED = "This sign-in was used before. Begin again."
UNAVAILABLE = "The identity provider does not answer as expected. Try again later; the log of this service says why."
REFUSED = "The identity provider did not confirm this sign-in. Begin again; the log of this service says why."
NO_GROUPS = (
    "{name}: your sign-in names no groups. Ask an administrator of the identity provider to add you to a group with "
    "access to this console, and to list your groups in the claim '{claim}' of the ID token."
)
NO_ACCESS = (
    "{name}: none of your groups has access to this console. Ask an administrator of this console to give access to "
    "one of them, or to add you to a group that has it. Your groups: {groups}."
)
NO_PROJECT = (
    "{name}: the project that your groups have access to does not exist or is archived: {projects}. Ask an "
    "administrator of this console to create it."
)
NO_ROOM = "{name}: the project has as many people as it can have. Ask an administrator of this console to revoke some."


class SignInFailed(Exception):
    """A sign-in that began no session. The message is shown to the person."""

    def __init__(self, message: str, **filled: str) -> None:
        super().__init__(message)
        self.message = message
        self.filled = filled


@dataclass(frozen=True, slots=True)
class Begun:
    """A sign-in that a browser has begun."""

    state: str
    next: str
    project: str
    """Name of the project to open; empty: the only one."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    cookie: str
    next: str
    projects: tuple[()] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The person has access to several projects."""

    projects: tuple[str, ...]
    next: str


class Oidc:
    def __init__(self, config: OidcConfig | None, database: Database, key: bytes) -> None:
        """Args: key: the database's own key, which other keys are derived from."""
        self.config = config
        self._provider = None if config is None else IdentityProvider(config)
        self._database = database
        self._key = hashlib.blake2b(b"sign-in with OpenID Connect", key=key, digest_size=32).digest()

    @property
    def host(self) -> str | None:
        """Host of the identity provider; None if there is none."""
        return None if self.config is None else urlsplit(self.config.issuer).hostname

    @property
    def secure(self) -> bool:
        return self.config is not None and self.config.redirect_url.startswith("https://")

    async def close(self) -> None:
        if self._provider is not None:
            await self._provider.close()

    async def begin(self, next_: str, project: str) -> Response:
        """Return the redirect to the identity provider.

        Raises:
            SignInFailed: the provider is not available.
        """
        if self.config is None or self._provider is None:
            return RedirectResponse(SIGN_IN, status_code=303)
        wanted = next_page(next_ if next_.isascii() and len(next_) <= LONGEST_NEXT else "")
        begun = Begun(secrets.token_urlsafe(32), wanted, project[:LONGEST_NAME])
        try:
            endpoint = await self._provider.authorization_endpoint()
        except ProviderFailed as error:
            log.error("the identity provider is not available", why=str(error))
            raise SignInFailed(UNAVAILABLE) from error
        challenge = hashlib.sha256(self._derived("verifier", begun.state).encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": self.config.redirect_url,
            "scope": self.config.scope,
            "state": begun.state,
            "nonce": self._derived("nonce", begun.state),
            "code_challenge": _base64(challenge),
            "code_challenge_method": "S256",
        }
        answer = RedirectResponse(f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}", status_code=303)
        answer.set_cookie(
            COOKIE,
            jwt.encode({**asdict(begun), "exp": int(time.time()) + STATE_SECONDS}, self._key, "HS256"),
            max_age=STATE_SECONDS,
            path=PATH,
            secure=self.secure,
            httponly=True,
            samesite="lax",  # The provider's redirect comes from another site.
        )
        return answer

    async def finish(self, request: Request) -> SignedIn | Choice:
        """Begin the session of a person whom the identity provider has sent back.

        Raises:
            SignInFailed: no session can begin.
        """
        config, provider = self.config, self._provider
        if config is None or provider is None:
            raise SignInFailed(REFUSED)
        given = request.query_params
        begun = self._begun(request.cookies.get(COOKIE, ""))
        if begun is None or not hmac.compare_digest(begun.state.encode(), given.get("state", "").encode()):
            raise SignInFailed(NOT_BEGUN, host=str(urlsplit(config.redirect_url).hostname))
        address = None if request.client is None else request.client.host
        attempts = services(request)[SignInAttempts]
        if not await attempts.may_try(address or ""):
            raise SignInFailed(TOO_MANY)
        claims = await self._claims(provider, config, begun, given)
        person = _person(config.issuer, claims)
        groups = _groups(claims.get(config.groups_claim))
        access = config.access(groups)
        async with self._database.session() as session:
            await people.revoke_former(session, person, access)
            projects = await people.projects_of(session, access)
        if not projects:
            raise _no_access(config, person, groups, sorted(access))
        if len(projects) > 1 and begun.project not in projects:
            return Choice(tuple(projects), begun.next)
        name = begun.project if begun.project in projects else next(iter(projects))
        try:
            async with self._database.session() as session:
                key_id = await people.admit(session, person, projects[name], access[name], address)
        except TooManyPeople as error:
            raise SignInFailed(NO_ROOM, name=person.name) from error
        services(request)[KeyRing].forget(projects[name])
        cookie = await services(request)[Sessions].begin(projects[name], key_id, self._session_id(begun.state))
        if cookie is None:
            raise SignInFailed(USED)
        attempts.succeeded(address or "")
        return SignedIn(cookie, begun.next)

    async def _claims(
        self, provider: IdentityProvider, config: OidcConfig, begun: Begun, given: Mapping[str, str]
    ) -> Mapping[str, Any]:
        code = given.get("code", "")
        # RFC 9207: a code of another provider must not be sent to this one.
        from_issuer = given.get("iss", config.issuer).rstrip("/") == config.issuer
        if not 0 < len(code) <= LONGEST_CODE or not from_issuer:
            raise SignInFailed(REFUSED)
        try:
            return await provider.claims(
                code, self._derived("verifier", begun.state), self._derived("nonce", begun.state)
            )
        except Refused as error:
            log.warning("a sign-in to the console was refused", why=str(error))
            raise SignInFailed(REFUSED) from error
        except ProviderFailed as error:
            log.error("the identity provider is not available", why=str(error))
            raise SignInFailed(UNAVAILABLE) from error

    def _begun(self, cookie: str) -> Begun | None:
        """Return the sign-in that a cookie was set for; None if it is not this service's or too old."""
        try:
            said = jwt.decode(cookie, self._key, ["HS256"], options={"require": ["exp"]})
            return Begun(said["state"], said["next"], said["project"])
        except (jwt.InvalidTokenError, KeyError, ValueError, RecursionError):
            return None

    def _derived(self, purpose: str, state: str) -> str:
        return _base64(hmac.new(self._key, f"{purpose}:{state}".encode(), hashlib.sha256).digest())

    def _session_id(self, state: str) -> UUID:
        """Return the id of the one session that a state may begin."""
        return UUID(bytes=hmac.new(self._key, b"session:" + state.encode(), hashlib.sha256).digest()[:16])


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _person(issuer: str, claims: Mapping[str, Any]) -> Person:
    """Return the person whom claims describe. Only issuer and subject identify; the name is for people to read."""
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= LONGEST_SUBJECT or not subject.isprintable():
        log.warning("a sign-in to the console was refused", why="the subject is not printable text of usual length")
        raise SignInFailed(REFUSED)
    name = _shown(claims.get("name")) or _shown(claims.get("preferred_username"))
    email = "" if claims.get("email_verified") is False else _shown(claims.get("email"))
    address = (email or subject)[: LONGEST_NAME - 4]
    # Never the name alone: people choose it, and it could be that of a key.
    return Person(issuer, subject, f"{name[: LONGEST_NAME - 3 - len(address)]} <{address}>" if name else address)


def _shown(value: object) -> str:
    """Return a claim without what cannot be seen or reverses the direction of text."""
    return "".join(char for char in value if char.isprintable()).strip() if isinstance(value, str) else ""


def _groups(claim: object) -> frozenset[str]:
    """Return the groups of a claim: one name, or a list of names."""
    named = claim if isinstance(claim, list) else [claim]
    return frozenset(each for each in named if isinstance(each, str))


def _no_access(config: OidcConfig, person: Person, groups: frozenset[str], projects: list[str]) -> SignInFailed:
    if projects:
        return SignInFailed(NO_PROJECT, name=person.name, projects=", ".join(projects))
    if not groups:
        return SignInFailed(NO_GROUPS, name=person.name, claim=config.groups_claim)
    shown = ", ".join(_shown(group)[:100] for group in sorted(groups)[:SHOWN_GROUPS])
    return SignInFailed(NO_ACCESS, name=person.name, groups=shown)

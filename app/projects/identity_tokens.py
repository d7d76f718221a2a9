"""JWTs of customers' identity providers, accepted in place of user tokens.

A JWT names its project by its issuer and audience, which one project at most has claimed. Nothing in it is trusted
before its signature was verified with a key of the issuer's key set, by an asymmetric algorithm that the project lists.
Each provider has an API key of its own that nobody knows: it carries scopes, limits and usage, and ends with the
provider.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args
from uuid import UUID

import jwt
import structlog

from app.db.engine import Database
from app.db.sql import statements_of
from app.projects.key_sets import LONGEST_KID, Jwk, KeySets
from app.projects.settings import (
    LONGEST_AUDIENCE,
    LONGEST_ISSUER,
    Algorithm,
    IdentityProvider,
    ProjectSettings,
    parse_settings,
)
from app.projects.user_tokens import LONGEST_USER, UserToken, is_anonymous

log = structlog.get_logger()

MOST_BYTES = 8192

MOST_AUDIENCES = 20

MOST_SECONDS = 86_400
"""Longest time for which a JWT is accepted after its `iat`."""

MOST_VERIFIED = 10_000

TYPES = ("jwt", "at+jwt", "application/at+jwt")
"""ID tokens and access tokens. A provider's other tokens, those for logout for example, are no proof of a sign-in."""

KEY_TYPES: dict[Algorithm, tuple[str, str | None]] = {
    **{name: ("RSA", None) for name in get_args(Algorithm) if name[:2] in ("RS", "PS")},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""Type and curve of the keys of an algorithm."""

SQL = statements_of(__file__)


@dataclass(frozen=True, slots=True)
class _Verified:
    token: UserToken
    jwks_url: str
    private: bool
    key: Jwk


class IdentityTokens:
    def __init__(self, database: Database, key_sets: KeySets, *, inside: bool) -> None:
        """Args: inside: whether key sets may lie at private addresses."""
        self._database = database
        self._key_sets = key_sets
        self._inside = inside
        self._verified: dict[bytes, _Verified] = {}

    async def read(self, given: str, *, again: bool) -> UserToken | None:
        """Return the access that a JWT gives; None if it is not valid.

        Args:
            again: verify it even if it was verified before.
        """
        if len(given) > MOST_BYTES:
            return None
        name = hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest()
        verified = None if again else self._verified.get(name)
        if verified is None or not await self._key_sets.find(
            verified.jwks_url, verified.key.__eq__, private=verified.private
        ):
            verified = await self._verify(given)
        if verified is None or verified.token.expires_at <= time.time():
            self._verified.pop(name, None)
            return None
        if len(self._verified) >= MOST_VERIFIED:
            self._verified.clear()
        self._verified[name] = verified
        return verified.token

    async def _verify(self, given: str) -> _Verified | None:
        try:
            header = jwt.get_unverified_header(given)
            claimed = jwt.decode(given, options={"verify_signature": False})
        except (jwt.InvalidTokenError, RecursionError):
            return None
        issuer, audiences = _text(claimed.get("iss"), LONGEST_ISSUER), _audiences(claimed.get("aud"))
        if issuer is None or not audiences or not _has_known_form(header):
            return None
        rows = await self._database.fetch(*SQL.identity_providers(issuer=issuer, audiences=audiences))
        accepted = [(row, each) for row in rows if (each := _provider(row, issuer)) is not None]
        if len({row["project_id"] for row, _ in accepted}) != 1:
            log.debug("a JWT was refused: not exactly one project accepts it", issuer=issuer, audiences=audiences)
            return None
        row, provider = accepted[0]
        if header["alg"] not in provider.algorithms:
            return None
        private = self._inside or row["operates"]
        wanted = partial(_suits, kid=header.get("kid"), algorithm=header["alg"])
        keys = await self._key_sets.find(provider.jwks_url, wanted, private=private)
        if len(keys) != 1:
            log.debug("a JWT was refused: not exactly one key of the set suits it", issuer=issuer, keys=len(keys))
            return None
        token = _token(given, provider, keys[0], header["alg"], row["project_id"], row["key_id"])
        return None if token is None else _Verified(token, provider.jwks_url, private, keys[0])


def _has_known_form(header: dict[str, Any]) -> bool:
    algorithm, kid, type_ = header.get("alg"), header.get("kid"), header.get("typ", TYPES[0])
    return (
        isinstance(algorithm, str)
        and algorithm in KEY_TYPES
        and "crit" not in header
        and (kid is None or (isinstance(kid, str) and len(kid) <= LONGEST_KID))
        and isinstance(type_, str)
        and type_.lower() in TYPES
    )


def _audiences(given: Any) -> Sequence[str] | None:
    audiences = [given] if isinstance(given, str) else given
    if not isinstance(audiences, list) or len(audiences) > MOST_AUDIENCES:
        return None
    return audiences if all(_text(each, LONGEST_AUDIENCE) is not None for each in audiences) else None


def _text(given: Any, longest: int) -> str | None:
    return given if isinstance(given, str) and 0 < len(given) <= longest and given.isprintable() else None


def _provider(row: Any, issuer: str) -> IdentityProvider | None:
    """Return a project's settings for a claimed issuer and audience; None if the pair is only reserved."""
    settings: ProjectSettings = parse_settings(ProjectSettings, row["settings"])
    pair = (issuer, row["audience"])
    return next((each for each in settings.identity_providers if (each.issuer, each.audience) == pair), None)


def _suits(key: Jwk, *, kid: str | None, algorithm: Algorithm) -> bool:
    """Return True for a key that may verify a JWT. Without `kid` in its header, the key must be the only one."""
    type_, curve = KEY_TYPES[algorithm]
    return (
        key["kty"] == type_
        and (curve is None or key.get("crv") == curve)
        and key.get("alg", algorithm) == algorithm
        and (kid is None or key.get("kid") == kid)
    )


def _token(
    given: str, provider: IdentityProvider, key: Jwk, algorithm: Algorithm, project_id: UUID, key_id: UUID
) -> UserToken | None:
    """Verify a JWT. Returns None if its signature or one of its claims is not valid."""
    try:
        claims = jwt.decode(
            given,
            jwt.PyJWK(key, algorithm),
            [algorithm],
            audience=provider.audience,
            issuer=provider.issuer,
            leeway=provider.leeway_seconds,
            options={"require": ["exp", "iat", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
        )
    except jwt.PyJWTError as error:
        log.debug("a JWT was refused", issuer=provider.issuer, why=str(error)[:200])
        return None
    if not all(_is_time(claims[name]) for name in ("exp", "iat", "nbf") if name in claims):
        return None
    user = _user(provider, claims["sub"])
    if user is None:
        return None
    expires_at = int(min(claims["exp"], claims["iat"] + MOST_SECONDS)) + provider.leeway_seconds
    return UserToken(
        project_id, key_id, user, None, frozenset(provider.actions), int(claims["iat"] * 1_000_000), expires_at
    )


def _is_time(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given < 1 << 40


def _user(provider: IdentityProvider, subject: str) -> str | None:
    """Return the user of a subject; None for one that cannot be a user.

    No issuer contains `#`, so that no two pairs of issuer and subject are one user. The project's own issuer, whose
    subjects are users as they are, names no user of another issuer and no anonymous one.
    """
    if provider.subject_is_user and ("#" in subject or is_anonymous(subject)):
        return None
    user = subject if provider.subject_is_user else f"{provider.issuer}#{subject}"
    return None if _text(subject, LONGEST_USER) is None else _text(user, LONGEST_USER)

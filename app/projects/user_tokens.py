"""Tokens for end users: short-lived, signed, and valid for one user, so that a browser can call the service itself.

A token gives part of the access of the key that minted it, and ends with that key. Only routes that are marked with
`for_users` accept tokens.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import jwt

from app.projects.keys import SCOPES, Scope

ISSUER = "everthread"
ALGORITHM = "HS256"

HEADER = f"{jwt.encode({}, bytes(32), ALGORITHM).partition('.')[0]}."

LONGEST_USER = 256

MOST_READ = 10_000

ANONYMOUS = re.compile(r"anon_[0-9a-f]{32}")

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_open: set[Any] = set()


def for_users(endpoint: Endpoint) -> Endpoint:
    """Open a route to users' tokens. It must look at nothing that is not the user's: see `threads/address.py`."""
    _open.add(endpoint)
    return endpoint


def is_for_users(endpoint: object) -> bool:
    return endpoint in _open


@dataclass(frozen=True, slots=True)
class UserToken:
    """Claims of a token."""

    project_id: UUID
    key_id: UUID
    """The key that minted it."""
    user: str
    thread_id: UUID | None
    """The one thread that it opens; None: the user's own."""
    actions: frozenset[Scope]
    issued_at: int
    """Microseconds since 1970, by Postgres's clock: see `cutoffs.py`."""
    expires_at: int
    """Unix seconds."""
    anonymous: bool = False
    """True if it proves that its bearer is this anonymous user: see `threads/claims.py`."""
    preset_id: UUID | None = None
    """Id of the token's preset. Everyone who has the token can read the id, but not the preset."""


class UserTokens:
    def __init__(self, key: bytes) -> None:
        """Args: key: the database's own, that other keys are made of."""
        self._key = hashlib.blake2b(b"tokens of end users", key=key, digest_size=32).digest()
        self._read: dict[str, UserToken] = {}
        """Cache of tokens whose signature was verified."""

    def mint(self, token: UserToken) -> str:
        said = {
            "iss": ISSUER,
            "sub": token.user,
            "project": token.project_id.hex,
            "key": token.key_id.hex,
            "thread": None if token.thread_id is None else token.thread_id.hex,
            "actions": sorted(token.actions),
            "iat": int(time.time()),
            "issued": token.issued_at,
            "anonymous": token.anonymous,
            "exp": token.expires_at,
            **({} if token.preset_id is None else {"preset": token.preset_id.hex}),
        }
        return jwt.encode(said, self._key, ALGORITHM)

    def read(self, given: str) -> UserToken | None:
        """Return a token's claims; None for a token that was not minted here or has expired."""
        token = self._read.get(given) or self._verified(given)
        if token is None or token.expires_at <= time.time():
            self._read.pop(given, None)
            return None
        if len(self._read) >= MOST_READ:
            self._read.clear()
        self._read[given] = token
        return token

    def _verified(self, given: str) -> UserToken | None:
        try:
            said = jwt.decode(
                given,
                self._key,
                [ALGORITHM],
                issuer=ISSUER,
                options={"require": ["exp", "iat", "sub", "iss"], "strict_aud": True},
            )
            return UserToken(
                UUID(said["project"]),
                UUID(said["key"]),
                str(said["sub"]),
                None if said["thread"] is None else UUID(said["thread"]),
                frozenset(scope for scope in SCOPES if scope in said["actions"]),
                int(said["issued"]),
                int(said["exp"]),
                said["anonymous"] is True,
                UUID(said["preset"]) if "preset" in said else None,
            )
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
            return None  # The header is JSON of any depth, read before the signature.


def new_anonymous_user() -> str:
    return f"anon_{secrets.token_hex(16)}"


def is_anonymous(user: str) -> bool:
    """Return True for a name as `new_anonymous_user` makes it."""
    return ANONYMOUS.fullmatch(user) is not None


def user_hash(user: str) -> str:
    """A user's name, which may be long and hold anything, as 32 digits."""
    return hashlib.blake2b(user.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def is_token(given: str) -> bool:
    """Return True if the credential is a user token or a JWT: these contain dots, API keys do not."""
    return given.count(".") == 2


def is_own(given: str) -> bool:
    """Return True if a token has the header of those minted here. Any other with it is refused for its signature."""
    return given.startswith(HEADER)

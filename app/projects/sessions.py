"""Sessions of the console: what a browser has in the place of the API key that it has signed in with.

A session opens what its key does, and ends with it: only the key's id is in it.
"""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from uuid import UUID

import jwt

ISSUER = "everthread console"
ALGORITHM = "HS256"

LIFE_SECONDS = 12 * 3600


@dataclass(frozen=True, slots=True)
class Session:
    project_id: UUID
    key_id: UUID


class Sessions:
    def __init__(self, key: bytes) -> None:
        """Args: key: the database's own, that other keys are made of."""
        self._key = hashlib.blake2b(b"sessions of the console", key=key, digest_size=32).digest()

    def mint(self, session: Session) -> str:
        now = int(time.time())
        said = {
            "iss": ISSUER,
            "sub": session.key_id.hex,
            "project": session.project_id.hex,
            "jti": secrets.token_hex(8),
            "iat": now,
            "exp": now + LIFE_SECONDS,
        }
        return jwt.encode(said, self._key, ALGORITHM)

    def read(self, given: str) -> Session | None:
        """What a session says; None for one that was not minted here, or whose time is over."""
        try:
            said = jwt.decode(
                given, self._key, [ALGORITHM], issuer=ISSUER, options={"require": ["exp", "iat", "sub", "iss", "jti"]}
            )
            return Session(UUID(said["project"]), UUID(said["sub"]))
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, AttributeError):
            return None

    def proof(self, given: str) -> str:
        """What a page of the session sends along with whatever changes something: no other site can know it."""
        return hmac.new(self._key, b"proof:" + given.encode(), hashlib.sha256).hexdigest()

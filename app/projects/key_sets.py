"""Public keys of identity providers: JWKS documents from the URLs that projects name, cached in each worker.

A set is fetched again in the background when it is old, and at once for a key that it lacks, but at most once a minute.
Requests share one fetch. While fetches fail, the keys that are known stay valid for some hours.
"""

import asyncio
import math
import time
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import structlog

from app.http import egress

log = structlog.get_logger()

REFRESH_SECONDS = 300.0
KEPT_SECONDS = 6 * 3600.0
"""Time for which keys are valid after the last successful fetch."""

PAUSE_SECONDS = 60.0
"""Least time between two fetches of a URL."""

TIMEOUT_SECONDS = 5.0
MOST_BYTES = 65_536
MOST_KEYS = 50
LONGEST_KID = 256
MOST_SETS = 1_000

FIELDS = ("kty", "kid", "alg", "n", "e", "crv", "x", "y")

LONGEST_FIELD = {"n": 1400, "e": 8}
"""Characters. A larger RSA key (over 8192 bits, or an exponent over 48) takes too long to verify a signature with."""

Jwk = dict[str, str]


@dataclass(slots=True)
class _Set:
    keys: tuple[Jwk, ...] = ()
    fetched_at: float = -math.inf
    tried_at: float = -math.inf
    fetching: "asyncio.Task[None] | None" = None


class KeySets:
    def __init__(self) -> None:
        self._sets: dict[tuple[str, bool], _Set] = {}
        """By URL, and by whether private addresses were allowed."""
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def find(self, url: str, wanted: Callable[[Jwk], bool], *, private: bool) -> list[Jwk]:
        """Return the keys of a set that are wanted. Args: private: whether the URL may lead to a private address."""
        known = self._sets.get((url, private))
        if known is None:
            if len(self._sets) >= MOST_SETS:
                del self._sets[next(iter(self._sets))]
            known = self._sets[url, private] = _Set()
        found = _matching(known, wanted)
        now = time.monotonic()
        due = not found or now >= known.fetched_at + REFRESH_SECONDS
        if due and known.fetching is None and now >= known.tried_at + PAUSE_SECONDS:
            known.tried_at = now
            # In an empty context: several requests wait for it.
            known.fetching = asyncio.create_task(self._fetch(known, url, private), name="key set", context=Context())
        if not found and known.fetching is not None:
            await asyncio.shield(known.fetching)
            found = _matching(known, wanted)
        return found

    async def stop(self) -> None:
        fetching = [each.fetching for each in self._sets.values() if each.fetching is not None]
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
        for session in self._sessions.values():
            await session.close()

    async def _fetch(self, known: _Set, url: str, private: bool) -> None:
        try:
            known.keys = await self._read(url, private)
            known.fetched_at = time.monotonic()
        except TimeoutError:
            log.warning("a key set did not arrive in time; known keys stay valid for a while", url=url)
        except ValueError as error:
            log.warning("a key set cannot be read; known keys stay valid for a while", url=url, why=str(error)[:200])
        except (aiohttp.ClientError, OSError) as error:
            log.warning(
                "a key set cannot be fetched; known keys stay valid for a while", url=url, why=egress.reason(error)
            )
        finally:
            known.fetching = None

    async def _read(self, url: str, private: bool) -> tuple[Jwk, ...]:
        """Raises `ValueError` for an answer that is no key set."""
        # A URL that was allowed when it was set need not be allowed now.
        if (wrong := egress.url_fault(url, private=private)) is not None:
            raise ValueError(f"its URL {wrong}")
        async with self._session(private).get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError(f"the answer has the status {answer.status}")
            return _keys(orjson.loads(await answer.read()))

    def _session(self, private: bool) -> aiohttp.ClientSession:
        if private not in self._sessions:
            self._sessions[private] = egress.one_shot_session(
                public_only=not private, answer_bytes=MOST_BYTES, seconds=TIMEOUT_SECONDS, headers=egress.JSON_ONLY
            )
        return self._sessions[private]


def _matching(known: _Set, wanted: Callable[[Jwk], bool]) -> list[Jwk]:
    if time.monotonic() >= known.fetched_at + KEPT_SECONDS:
        return []
    return [key for key in known.keys if wanted(key)]


def _keys(document: Any) -> tuple[Jwk, ...]:
    """Return the public keys for signatures in a document. Raises `ValueError` if it is no key set."""
    given = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(given, list) or len(given) > MOST_KEYS:
        raise ValueError(f"it must be an object with a list 'keys' of {MOST_KEYS} keys at most")
    return tuple({name: key[name] for name in FIELDS if key.get(name) is not None} for key in given if _is_usable(key))


def _is_usable(key: Any) -> bool:
    if not isinstance(key, dict) or key.get("kty") not in ("RSA", "EC", "OKP") or key.get("use", "sig") != "sig":
        return False
    operations = key.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return False
    return all(
        isinstance(key.get(name, ""), str) and len(key.get(name, "")) <= LONGEST_FIELD.get(name, LONGEST_KID)
        for name in FIELDS
    )

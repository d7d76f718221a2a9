"""Origins: the names of a project's log. After a restore, the log continues under a new name (`<first name>/2`, …).

The first checkpoint under a new name is also signed under the former names. An auditor who trusts a former name can
verify that the holder of the signing key, not somebody with a copy of the database, began the new one. Somebody who can
write to the service's own database can make it begin one: a person must configure witnesses and policies for the new
name.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit.notes import ED25519, BadNote, Note, Signature, VerifierKey, sign

MOST_FORMER = 16
"""Largest number of former names under which the first checkpoint of a new name is signed: the latest ones."""

_GENERATION = re.compile(r"(.+/[0-9a-f]{32})(?:/([1-9][0-9]{0,8}))?")


def cross_signatures(text: str, former: Sequence[str], key: Ed25519PrivateKey) -> list[Signature]:
    """Sign the first checkpoint under a new name as a continuation of the logs with the former names."""
    return [sign(text, name, key) for name in former[-MOST_FORMER:]]


def is_continuation(note: Note, former: str, public_keys: Iterable[bytes]) -> bool:
    """Return True if one of the keys has signed the checkpoint under the former name of the log."""
    try:
        return bool(note.verified([VerifierKey(former, ED25519, key) for key in public_keys]))
    except BadNote:
        return False


def generation(origin: str) -> tuple[str, int]:
    """Return the first name of a log, and the number of the generation: 1 before any restore."""
    match = _GENERATION.fullmatch(origin)
    return (origin, 1) if match is None else (match[1], int(match[2] or 1))


def is_of(origin: str, project_id: UUID) -> bool:
    """Return True for a name that a project's log can have."""
    return generation(origin)[0].endswith(f"/{project_id.hex}")


def next_generation(known: Collection[str]) -> int:
    """Return the number of the generation after all known names."""
    return 1 + max(generation(origin)[1] for origin in known)

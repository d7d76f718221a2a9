"""The key that checkpoints are signed with (Ed25519), and what exactly is signed."""

from datetime import datetime
from pathlib import Path
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import SecretStr

from app.process.atomic_file import get_or_create
from app.trail.records import instant

KEY_FILE = "audit.key"


class BadKey(ValueError):
    """A key that is not 32 bytes in hex."""


def signing_key(given: SecretStr | None, data_dir: Path) -> Ed25519PrivateKey:
    """The service's signing key: the given one, or the one in the data directory, made there once.

    Args:
        given: the private key's 32 bytes in hex.

    Raises:
        BadKey: it is something else.
    """
    if given is not None:
        return Ed25519PrivateKey.from_private_bytes(_bytes(given.get_secret_value()))
    digits = get_or_create(data_dir / KEY_FILE, lambda: Ed25519PrivateKey.generate().private_bytes_raw().hex())
    return Ed25519PrivateKey.from_private_bytes(_bytes(digits))


def public_key(hex_digits: str) -> Ed25519PublicKey:
    """Raises `BadKey` if it is not a public key in hex."""
    return Ed25519PublicKey.from_public_bytes(_bytes(hex_digits))


def signed_text(project_id: UUID, size: int, at: datetime, root: bytes) -> bytes:
    """Return the text that a checkpoint's signature covers: canonical JSON (RFC 8785)."""
    said = {
        "at": instant(at),
        "object": "audit.checkpoint",
        "project": project_id.hex,
        "root": root.hex(),
        "size": size,
    }
    return orjson.dumps(said, option=orjson.OPT_SORT_KEYS)


def fits(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _bytes(hex_digits: str) -> bytes:
    try:
        key = bytes.fromhex(hex_digits.strip())
    except ValueError as error:
        raise BadKey("a key is 64 hex digits") from error
    if len(key) != 32:
        raise BadKey("a key is 64 hex digits")
    return key

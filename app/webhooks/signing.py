"""Signatures after Standard Webhooks, which OpenAI's are too: `client.webhooks.unwrap` takes them."""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence

PREFIX = "whsec_"
SECRET_BYTES = 32
FEWEST_BYTES, MOST_BYTES = 24, 64
"""Length of a secret, by the specification."""


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def is_secret(given: str) -> bool:
    try:
        return FEWEST_BYTES <= len(_bytes(given)) <= MOST_BYTES
    except (binascii.Error, ValueError):
        return False


def headers(secrets_: Sequence[str], id_: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that sign a delivery, with each of the secrets.

    Args:
        timestamp: Unix seconds of this attempt.
    """
    signed = b"%b.%d.%b" % (id_.encode(), timestamp, body)
    signatures = [hmac.new(_bytes(each), signed, hashlib.sha256).digest() for each in secrets_]
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(each).decode()}" for each in signatures),
    }


def _bytes(secret: str) -> bytes:
    if not secret.startswith(PREFIX):
        raise ValueError(secret[:6])
    return base64.b64decode(secret.removeprefix(PREFIX), validate=True)

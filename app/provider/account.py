"""Provider accounts told apart without their keys, which are stored nowhere: by the endpoint and a hash."""

import hashlib
import re
from functools import lru_cache
from urllib.parse import urlsplit

from app.settings import REGION_CODES, REGION_HOSTS, Region

SHOWN_DIGITS = 8

BATCH = r"^([a-z]+://([^/#]*@)?)?batch\."
"""Prefix of the binding, or the account, of an endpoint with batch prices: batch.dashscope.aliyuncs.com (reference page
of Batch Chat)."""


def binding(base_url: str, api_key: str) -> str:
    """Return the binding that an account's response ids belong to."""
    return f"{base_url}#{hashlib.sha256(api_key.encode()).hexdigest()[:16]}"


def is_batch(account: str | None) -> bool:
    """Return True if an account, or a binding, is charged the batch price."""
    return account is not None and re.match(BATCH, account) is not None


@lru_cache(maxsize=1024)
def region(account: str | None) -> Region | None:
    """Return the region of a base URL, a binding or an account; None for an endpoint that is not known."""
    host = urlsplit(f"//{(account or '').rpartition('://')[2]}").hostname or ""
    for region, shared in REGION_HOSTS.items():
        if host.removeprefix("batch.") == shared:
            return region
    for region, code in REGION_CODES.items():
        if re.search(rf"(^|\.){code}\.maas\.aliyuncs\.com$", host):
            return region
    return None


def account(binding: str) -> str:
    """The account of a binding, as people are shown it: its host, and how the SHA-256 of its key begins."""
    base_url, _, digits = binding.rpartition("#")
    return f"{urlsplit(base_url).netloc.rpartition('@')[2]}#{digits[:SHOWN_DIGITS]}"

"""Authentication of values in Redis: only values that a worker of this database wrote are used.

A value carries a keyed MAC over its key's name and its content. A value that another writer stored, or that was
copied from another key, counts as missing.
"""

import hmac
from hashlib import blake2b

MAC_BYTES = 16


class ValueMac:
    def __init__(self, key: bytes) -> None:
        self._keyed = blake2b(key=key, digest_size=MAC_BYTES)

    def mac(self, name: str, *parts: bytes) -> bytes:
        """The MAC of a value's parts under a key of Redis."""
        digest = self._keyed.copy()
        digest.update(name.encode())
        for part in parts:
            digest.update(b"%d:%b" % (len(part), part))
        return digest.digest()

    def holds(self, mac: object, name: str, *parts: bytes) -> bool:
        return isinstance(mac, bytes) and hmac.compare_digest(mac, self.mac(name, *parts))

    def signed(self, name: str, value: bytes) -> bytes:
        return self.mac(name, value) + value

    def verified(self, name: str, signed: object) -> bytes | None:
        """Return the value that was signed under this name; None for anything else."""
        if not isinstance(signed, bytes):
            return None
        value = signed[MAC_BYTES:]
        return value if self.holds(signed[:MAC_BYTES], name, value) else None

"""What Redis holds is sealed: only what a worker of this database wrote there is believed.

A value carries a keyed MAC over the name of its key and over all of it. One that somebody else wrote, or that was
copied from another key, is as good as none.
"""

import hmac
from hashlib import blake2b

MAC_BYTES = 16


class ValueMac:
    def __init__(self, key: bytes) -> None:
        self._key = key

    def mac(self, name: str, *parts: bytes) -> bytes:
        """The MAC of a value's parts under a key of Redis."""
        digest = blake2b(name.encode(), key=self._key, digest_size=MAC_BYTES)
        for part in parts:
            digest.update(b"%d:" % len(part))
            digest.update(part)
        return digest.digest()

    def holds(self, mac: object, name: str, *parts: bytes) -> bool:
        return isinstance(mac, bytes) and hmac.compare_digest(mac, self.mac(name, *parts))

    def sealed(self, name: str, value: bytes) -> bytes:
        return self.mac(name, value) + value

    def opened(self, name: str, sealed: object) -> bytes | None:
        """The value that was sealed under this name; None if it was not."""
        if not isinstance(sealed, bytes):
            return None
        value = sealed[MAC_BYTES:]
        return value if self.holds(sealed[:MAC_BYTES], name, value) else None

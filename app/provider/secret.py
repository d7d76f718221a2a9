"""Removal of the account's key from answers: some providers repeat it in their errors."""

from collections.abc import AsyncIterator

SHORTEST = 6
"""A shorter key is an emulator's, and may be part of any word."""

INSTEAD = b"[the provider key]"


class Secret:
    def __init__(self, key: str) -> None:
        self._key = key.encode() if len(key) >= SHORTEST else b""

    def hidden(self, content: bytes) -> bytes:
        """The provider's answer, with the key replaced."""
        return content.replace(self._key, INSTEAD) if self._key and self._key in content else content

    async def hidden_in(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same of a stream, wherever its chunks are cut. The beginning of a key waits for its end."""
        held = b""
        async for chunk in chunks:
            whole = self.hidden(held + chunk if held else chunk)
            keep = self._begun(whole)
            held = whole[len(whole) - keep :]
            if len(whole) > keep:
                yield whole[: len(whole) - keep]
        if held:
            yield held

    def _begun(self, content: bytes) -> int:
        """Return how many bytes at the end of a content are a prefix of the key."""
        start = content.rfind(self._key[:1], max(0, len(content) - len(self._key) + 1)) if self._key else -1
        longest = 0
        while start != -1:
            if self._key.startswith(content[start:]):
                longest = len(content) - start
            start = content.rfind(self._key[:1], max(0, len(content) - len(self._key) + 1), start)
        return longest

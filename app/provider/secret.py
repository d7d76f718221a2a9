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

    def hidden_in(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Return the chunks of a stream with the key replaced, wherever they are cut."""
        return _HiddenIn(self, chunks)

    def begun(self, content: bytes) -> int:
        """Return how many bytes at the end of a content are a prefix of the key."""
        start = content.rfind(self._key[:1], max(0, len(content) - len(self._key) + 1)) if self._key else -1
        longest = 0
        while start != -1:
            if self._key.startswith(content[start:]):
                longest = len(content) - start
            start = content.rfind(self._key[:1], max(0, len(content) - len(self._key) + 1), start)
        return longest


class _HiddenIn:
    """The chunks of a stream. The beginning of a key waits for its end."""

    def __init__(self, secret: Secret, chunks: AsyncIterator[bytes]) -> None:
        self._secret = secret
        self._chunks = chunks
        self._held = b""

    def __aiter__(self) -> "_HiddenIn":
        return self

    async def __anext__(self) -> bytes:
        while True:
            try:
                chunk = await anext(self._chunks)
            except StopAsyncIteration:
                held, self._held = self._held, b""
                if held:
                    return held
                raise
            whole = self._secret.hidden(self._held + chunk if self._held else chunk)
            keep = self._secret.begun(whole)
            if not keep and whole:
                self._held = b""
                return whole
            self._held = whole[len(whole) - keep :]
            if len(whole) > keep:
                return whole[: len(whole) - keep]

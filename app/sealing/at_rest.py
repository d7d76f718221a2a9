"""Contents on their way to the tables: sealed for a project that encrypts them, otherwise as they are.

Every column type has a stored form that a plain value never has, so that nothing that a client sends is taken for a
ciphertext:

- text: a ciphertext follows MARK; a plain text that begins with ESCAPE is written with one more in front of it;
- JSON: a ciphertext is the first element of an array; a plain array that begins with a string or null is written as
  `[null, array]`;
- metadata: a ciphertext is the one element of an array under the empty name, where plain metadata has a string;
- salts: a ciphertext is longer than SALT_BYTES.

`opening.py` reads these forms. Beside a ciphertext stands what the database looks contents up by: the role of a
message and keyed hashes of its words, the id of a tool call, keyed hashes of pairs of metadata. The hashes show which
contents have a word in common, and how many words each has; not which words.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.items import lexemes
from app.items.shapes import text_of
from app.items.stored import StoredItem
from app.sealing import ciphertext
from app.sealing.ciphertext import Place

MARK = "\x01et1:"
"""The beginning of a text that is sealed."""
ESCAPE = "\x01"
"""Written before a plain text that begins with it."""

PLAIN_ARRAY = "[null,"
"""The beginning of a JSON array that holds a plain array."""

SALT_BYTES = 16
"""The length of a plain salt; a sealed one is longer."""

HASH_BYTES = 8
PAIR_BYTES = 12

MOST_WORDS = 30_000
"""Hashed words of one text: a tsvector holds less than a megabyte."""

SEARCHED_ROLES = ("user", "assistant")


def element(field: str, number: int) -> str:
    """Return the name that a ciphertext in a list is bound to: it opens as no other element."""
    return f"{field}[{number}]"


def item_place(project_id: UUID, turn_id: UUID, position: int) -> Place:
    return Place(project_id, "items", (turn_id, position))


@dataclass(frozen=True, slots=True)
class ContentKey:
    """A project's key for its contents: one that seals, and one for hashes."""

    project_id: UUID
    number: int
    cipher: AESGCM
    hash_key: bytes

    @classmethod
    def of(cls, project_id: UUID, number: int, data_key: bytes) -> "ContentKey":
        """Derive both keys from the project's data key."""
        return cls(project_id, number, AESGCM(_derived(data_key, "contents")), _derived(data_key, "hashes"))

    def seal(self, place: Place, field: str, content: bytes) -> str:
        assert place.project_id == self.project_id
        return ciphertext.sealed(self.cipher, self.number, place, field, content)

    def hashed(self, kind: str, content: bytes, length: int) -> bytes:
        return hashlib.blake2b(content, key=self.hash_key, digest_size=length, person=kind.encode()).digest()


@dataclass(frozen=True, slots=True)
class ContentCipher:
    """Writes contents in their stored form."""

    key: ContentKey | None = None
    """None: they are stored as they are."""

    def text(self, place: Place, field: str, said: str | None) -> str | None:
        if said is None:
            return None
        if self.key is None:
            return ESCAPE + said if said.startswith(ESCAPE) else said
        return MARK + self.key.seal(place, field, said.encode())

    def title(self, place: Place, field: str, said: str | None) -> str | None:
        """Return a text that can be searched, with the hashes of its words."""
        written = self.text(place, field, said)
        if self.key is None or written is None or said is None:
            return written
        return " ".join([written, *self.words(said)])

    def texts(self, place: Place, field: str, said: Iterable[str]) -> list[str]:
        if self.key is None:
            return [ESCAPE + each if each.startswith(ESCAPE) else each for each in said]
        return [MARK + self.key.seal(place, element(field, n), each.encode()) for n, each in enumerate(said)]

    def document(self, place: Place, field: str, text: str | None) -> str | None:
        """Return a JSON document, given as text."""
        if text is None:
            return None
        if self.key is None:
            return f"{PLAIN_ARRAY}{text}]" if text.startswith(('["', "[null")) else text
        return orjson.dumps([self.key.seal(place, field, text.encode())]).decode()

    def item(self, place: Place, data: Mapping[str, Any], text: str) -> str:
        """Return an item's document, given as an object and as text."""
        if self.key is None:
            return text
        return orjson.dumps([self.key.seal(place, "data", text.encode()), self.about(data)]).decode()

    def items(
        self, project_id: UUID, turn_id: UUID, first: int, kept: Sequence[StoredItem], texts: Sequence[str]
    ) -> Sequence[str]:
        """Return the documents of a turn's items. Args: first: the position of the first of them."""
        if self.key is None:
            return texts
        return [
            self.item(item_place(project_id, turn_id, position), item.data, text)
            for position, (item, text) in enumerate(zip(kept, texts, strict=True), first)
        ]

    def about(self, data: Mapping[str, Any]) -> dict[str, str]:
        """Return what the database looks an item up by."""
        found: dict[str, str] = {}
        call_id = data.get("call_id") or data.get("id")
        if isinstance(call_id, str):
            found["call_id"] = call_id
        role = data.get("role")
        if role in SEARCHED_ROLES and data.get("type", "message") == "message":
            found |= {"role": role, "words": " ".join(self.words(text_of(dict(data))))}
        return found

    def metadata(self, place: Place, metadata: dict[str, str]) -> dict[str, Any]:
        if not metadata:
            return metadata
        if not isinstance(metadata.get("", ""), str):
            raise TypeError("the values of metadata are strings")
        if self.key is None:
            return metadata
        return {"": [self.key.seal(place, "metadata", orjson.dumps(metadata))], **self.pairs(metadata)}

    def pairs(self, metadata: Mapping[str, str]) -> dict[str, int]:
        """Return what sealed metadata has that holds these pairs."""
        assert self.key is not None
        return {self.key.hashed("pair", orjson.dumps(pair), PAIR_BYTES).hex(): 1 for pair in metadata.items()}

    def salt(self, salt: bytes | None, place: Place) -> bytes | None:
        """Return a salt. With a salt that lies open, short contents could be guessed from their digests."""
        return salt if self.key is None or salt is None else self.key.seal(place, "salt", salt).encode()

    def digest(self, digest: bytes) -> bytes:
        """Return a digest that equal contents have in common, keyed so that only the project's key can make it."""
        return digest if self.key is None else self.key.hashed("digest", digest, len(digest))

    def bytes(self, place: Place, field: str, content: bytes) -> bytes:
        """Return what is written outside of Postgres: to Redis, or to a file. `content` does not begin with MARK."""
        return content if self.key is None else MARK.encode() + self.key.seal(place, field, content).encode()

    def words(self, said: str) -> list[str]:
        """Return the hashes of a text's words, sorted, so that their order tells nothing."""
        found = {self.hashed_word(word) for word in lexemes.whole(said)}
        return sorted(found)[:MOST_WORDS]

    def hashed_word(self, word: str) -> str:
        assert self.key is not None
        return self.key.hashed("word", word.encode("utf-8", "surrogatepass"), HASH_BYTES).hex()


PLAIN = ContentCipher()

_sealer: ContextVar[ContentCipher] = ContextVar("sealer")


def begin_with(sealer: ContentCipher) -> None:
    """Write contents with this sealer from here on, in this request and in the tasks that it starts."""
    _sealer.set(sealer)


@contextmanager
def written_with(sealer: ContentCipher) -> Iterator[None]:
    """Write contents with this sealer within."""
    token = _sealer.set(sealer)
    try:
        yield
    finally:
        _sealer.reset(token)


def has_sealer() -> bool:
    """Return False if nothing can be sealed here: a request that only deletes does not need the project's key."""
    return _sealer.get(None) is not None


def sealer() -> ContentCipher:
    """Return the sealer of the current project.

    Raises:
        LookupError: none was set. Contents are never written open for that reason.
    """
    return _sealer.get()


def _derived(key: bytes, purpose: str) -> bytes:
    return hmac.digest(key, f"everthread {purpose} v1".encode(), "sha256")

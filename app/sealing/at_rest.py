"""How contents are written for a project: sealed, where it encrypts them, else as they are.

What is asked for by the database stands beside what is sealed: of a message its role and keyed hashes of its words, of
a tool call its id, of metadata keyed hashes of whole pairs. The hashes tell who has the tables which contents have a
word in common, and how many words each has; not which.
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

from app.db import sealed
from app.items import lexemes
from app.items.kept import Kept
from app.items.shapes import text_of

HASH_BYTES = 8
PAIR_BYTES = 12

MOST_WORDS = 30_000
"""Of a text, that it is found by: a tsvector holds less than a megabyte."""

SEARCHED_ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class ContentKey:
    """What a project's contents are sealed with, and what is hashed of them."""

    project_id: UUID
    number: int
    cipher: AESGCM
    hash_key: bytes

    @classmethod
    def of(cls, project_id: UUID, number: int, data_key: bytes) -> "ContentKey":
        """Two keys from the project's one: what seals hashes nothing."""
        return cls(project_id, number, AESGCM(_derived(data_key, "contents")), _derived(data_key, "hashes"))

    def seal(self, content: bytes) -> str:
        return sealed.seal(self.project_id, self.number, self.cipher, content)

    def hashed(self, kind: str, content: bytes, length: int) -> bytes:
        return hashlib.blake2b(content, key=self.hash_key, digest_size=length, person=kind.encode()).digest()


@dataclass(frozen=True, slots=True)
class Sealer:
    """What a project's contents go through on their way to the tables."""

    key: ContentKey | None = None
    """None: they lie there as they are."""

    def text(self, said: str | None) -> str | None:
        if said is None:
            return None
        if self.key is None:
            return sealed.ESCAPE + said if said.startswith(sealed.ESCAPE) else said
        return self.key.seal(said.encode())

    def title(self, said: str | None) -> str | None:
        """A text that is searched for."""
        written = self.text(said)
        if self.key is None or written is None or said is None:
            return written
        return " ".join([written, *self.words(said)])

    def texts(self, said: Iterable[str]) -> list[str]:
        """Texts that begin with no control character: pieces of JSON."""
        return list(said) if self.key is None else [self.key.seal(each.encode()) for each in said]

    def document(self, text: str | None) -> str | None:
        """A JSON document, as text."""
        if self.key is None or text is None:
            return text
        return orjson.dumps([self.key.seal(text.encode())]).decode()

    def documents(self, texts: Iterable[str | None]) -> list[str | None]:
        return [self.document(text) for text in texts]

    def item(self, data: Mapping[str, Any], text: str) -> str:
        """An item's document, given as it is and as text."""
        if self.key is None:
            return text
        return orjson.dumps([self.key.seal(text.encode()), self.about(data)]).decode()

    def items(self, kept: Sequence[Kept], texts: Sequence[str]) -> Sequence[str]:
        if self.key is None:
            return texts
        return [self.item(item.data, text) for item, text in zip(kept, texts, strict=True)]

    def about(self, data: Mapping[str, Any]) -> dict[str, str]:
        """What of an item the database asks for."""
        found: dict[str, str] = {}
        call_id = data.get("call_id") or data.get("id")
        if isinstance(call_id, str):
            found["call_id"] = call_id
        role = data.get("role")
        if role in SEARCHED_ROLES and data.get("type", "message") == "message":
            found |= {"role": role, "words": " ".join(self.words(text_of(dict(data))))}
        return found

    def metadata(self, metadata: dict[str, str]) -> dict[str, Any]:
        if self.key is None or not metadata:
            return metadata
        return {"": [self.key.seal(orjson.dumps(metadata))], **self.pairs(metadata)}

    def pairs(self, metadata: Mapping[str, str]) -> dict[str, int]:
        """What sealed metadata has that holds these pairs."""
        assert self.key is not None
        return {self.key.hashed("pair", orjson.dumps(pair), PAIR_BYTES).hex(): 1 for pair in metadata.items()}

    def salt(self, salt: bytes | None) -> bytes | None:
        """With a salt that lies open, short contents could be guessed from their digests."""
        return salt if self.key is None or salt is None else self.key.seal(salt).encode()

    def digest(self, digest: bytes) -> bytes:
        """A digest that contents are told to be the same by: nobody without the key can guess what it is of."""
        return digest if self.key is None else self.key.hashed("digest", digest, len(digest))

    def bytes(self, content: bytes) -> bytes:
        """What lies outside of Postgres: in Redis, or in a file."""
        return content if self.key is None else self.key.seal(content).encode()

    def words(self, said: str) -> list[str]:
        """The words of a text that it is found by, hashed, in an order that tells nothing."""
        found = {self.hashed_word(word) for word in lexemes.whole(said)}
        return sorted(found)[:MOST_WORDS]

    def hashed_word(self, word: str) -> str:
        assert self.key is not None
        return self.key.hashed("word", word.encode("utf-8", "surrogatepass"), HASH_BYTES).hex()


PLAIN = Sealer()

_sealer: ContextVar[Sealer] = ContextVar("sealer")


def begin_with(sealer: Sealer) -> None:
    """From here on, in this request and in what it begins, contents are written with this one."""
    _sealer.set(sealer)


@contextmanager
def written_with(sealer: Sealer) -> Iterator[None]:
    """What is written within is of one project."""
    token = _sealer.set(sealer)
    try:
        yield
    finally:
        _sealer.reset(token)


def sealer() -> Sealer:
    """The sealer of the project that this is done for.

    Raises:
        LookupError: nobody has said which: nothing is written open for want of that.
    """
    return _sealer.get()


def opened_bytes(content: bytes) -> bytes | None:
    """What `Sealer.bytes` has written; None where its key was destroyed.

    Raises:
        CannotOpen: its key is not at hand, or it was changed.
    """
    mark = sealed.MARK.encode()
    if not content.startswith(mark):
        return content
    try:
        return sealed.opened(content.decode("ascii"))
    except UnicodeDecodeError as error:
        raise sealed.CannotOpen("it is nothing that was sealed here") from error


def _derived(key: bytes, purpose: str) -> bytes:
    return hmac.digest(key, f"everthread {purpose} v1".encode(), "sha256")

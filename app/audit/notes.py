"""Signed notes of C2SP (c2sp.org/signed-note), and the two kinds of Ed25519 signatures that checkpoints have.

A note is a text, an empty line, and signature lines. Each line names a key by its name and the first four bytes of a
digest. A reader brings the keys that it trusts, ignores lines of other keys, and refuses a note if the line
of a trusted key has an invalid signature. `Checkpoint` implements c2sp.org/tlog-checkpoint, and `cosign` implements
c2sp.org/tlog-cosignature.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = 0x01
"""Type of a signature of the text itself."""
COSIGNATURE = 0x04
"""Type of a signature of the text and a time: cosignature/v1."""

MOST_OF_NOTE = 128 * 1024
"""Bytes of a checkpoint's note. There is room for 16 signatures of 5 kB, the longest kind."""

MOST_SIGNATURES = 64

LONGEST_NAME = 255
"""Bytes of the name of a key, and of an origin."""

MOST_OF_VKEY = 512

LARGEST_NUMBER = 2**63 - 1

LATEST_TIME = 253_402_300_799
"""End of the year 9999, in seconds since 1970."""

_DASH = "\N{EM DASH} "
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f]")
_NUMBER = re.compile("0|[1-9][0-9]{0,18}", re.ASCII)
_HEX_ID = re.compile("[0-9a-f]{8}", re.ASCII)


class BadNote(ValueError):
    """A malformed note, key or checkpoint, or one with an invalid signature."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key by its name and type, written as a vkey: `<name>+<key id>+<base64 of type and key>`."""

    name: str
    kind: int
    public_key: bytes

    @property
    def id(self) -> bytes:
        """Return the four bytes that identify the key in signature lines."""
        return key_id(self.name, self.kind, self.public_key)

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Read a vkey of a type that this module verifies.

        Raises:
            BadNote: the key is malformed or of another type.
        """
        if len(vkey) > MOST_OF_VKEY:
            raise BadNote(f"a key has at most {MOST_OF_VKEY} characters")
        name, _, rest = vkey.partition("+")
        hex_id, _, encoded = rest.partition("+")
        material = decoded(encoded)
        if not _HEX_ID.fullmatch(hex_id) or len(material) != 33 or material[0] not in (ED25519, COSIGNATURE):
            raise BadNote("a key must be <name>+<key id in hex>+<base64>, with an Ed25519 key of type 1 or 4")
        key = cls(checked_name(name), material[0], material[1:])
        if key.id.hex() != hex_id:
            raise BadNote(f"the key id {hex_id} does not match the key {name}")
        return key

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{encoded(bytes([self.kind]) + self.public_key)}"

    def verify(self, text: str, signature: bytes) -> int | None:
        """Verify a signature of a text. Returns the signed time in seconds since 1970, or None if the type has none.

        Raises:
            BadNote: the signature is invalid.
        """
        time, signed = None, text.encode()
        if self.kind == COSIGNATURE:
            time, signature = int.from_bytes(signature[:8], "big"), signature[8:]
            if time > LATEST_TIME:
                raise BadNote(f"the time in the signature by {self.name} is out of range")
            signed = cosigned_text(text, time)
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, signed)
        except InvalidSignature as error:
            raise BadNote(f"the signature by {self.name} is invalid") from error
        return time


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature line of a note."""

    name: str
    key_id: bytes
    data: bytes
    """The signature. In a cosignature, eight bytes with the time precede it."""

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {encoded(self.key_id + self.data)}\n"


class Verified(NamedTuple):
    """A trusted key that has signed a note."""

    key: VerifierKey
    time: int | None
    """Time of a cosignature in seconds since 1970; None for other signatures."""


@dataclass(frozen=True, slots=True)
class Note:
    text: str
    """Whole lines; the last one ends with a newline, too."""
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, content: bytes, *, most: int = MOST_OF_NOTE) -> Self:
        """Parse a note without verifying signatures.

        Args:
            most: largest number of bytes.

        Raises:
            BadNote: the note is malformed or too large, or has two signatures by one key.
        """
        if len(content) > most:
            raise BadNote(f"a note has at most {most} bytes")
        try:
            note = content.decode()
        except UnicodeDecodeError as error:
            raise BadNote("a note must be UTF-8") from error
        if _CONTROLS.search(note):
            raise BadNote("a note must not contain control characters other than newlines")
        text, blank, lines = note.rpartition("\n\n")
        if not blank or not lines.endswith("\n"):
            raise BadNote("a note must consist of a text, an empty line, and signature lines")
        if lines.count("\n") > MOST_SIGNATURES:
            raise BadNote(f"a note has at most {MOST_SIGNATURES} signatures")
        signatures = tuple(signature_line(line) for line in lines[:-1].split("\n"))
        if len({(each.name, each.key_id) for each in signatures}) < len(signatures):
            raise BadNote("the note has two signatures by one key")
        return cls(text + "\n", signatures)

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"

    def __bytes__(self) -> bytes:
        return str(self).encode()

    def with_signatures(self, more: Iterable[Signature]) -> "Note":
        """Return the note with more signatures. Of several signatures by one key, the first is kept."""
        lines = {(each.name, each.key_id): each for each in reversed([*self.signatures, *more])}
        return Note(self.text, tuple(reversed(lines.values())))

    def verified(self, keys: Iterable[VerifierKey]) -> list[Verified]:
        """Verify the signatures by trusted keys, and return these keys. Signatures by other keys are ignored.

        Raises:
            BadNote: a signature by one of the keys is invalid, or none of them has signed.
        """
        known = {(key.name, key.id): key for key in keys}
        lines = [
            (known[each.name, each.key_id], each.data) for each in self.signatures if (each.name, each.key_id) in known
        ]
        signers = [Verified(key, key.verify(self.text, data)) for key, data in lines]
        if not signers:
            raise BadNote("none of the trusted keys has signed the note")
        return signers


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The text of a checkpoint's note: the log's origin, the size of its tree, and the root in base64."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a note. Raises `BadNote` if it is malformed or has extension lines."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not _NUMBER.fullmatch(lines[1]) or int(lines[1]) > LARGEST_NUMBER:
            raise BadNote("a checkpoint must have three lines: origin, size and root")
        root = decoded(lines[2])
        if len(root) != 32:
            raise BadNote("the root of a checkpoint must be a SHA-256 hash")
        return cls(checked_name(lines[0]), int(lines[1]), root)

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{encoded(self.root)}\n"


def key_id(name: str, kind: int, public_key: bytes) -> bytes:
    """Return the key id: the first four bytes of the SHA-256 of the name, a newline, the type and the public key."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:4]


def log_keys(origin: str, public_keys: Sequence[bytes]) -> list[VerifierKey]:
    """Return two verifier keys for each public key of a log: for its signatures and for its cosignatures."""
    return [VerifierKey(origin, kind, key) for key in public_keys for kind in (ED25519, COSIGNATURE)]


def sign(text: str, name: str, key: Ed25519PrivateKey) -> Signature:
    """Sign a text with a key, under a key name."""
    return Signature(name, key_id(name, ED25519, key.public_key().public_bytes_raw()), key.sign(text.encode()))


def cosign(text: str, name: str, key: Ed25519PrivateKey, time: int) -> Signature:
    """Create a cosignature/v1 of a text and a time, in seconds since 1970."""
    data = time.to_bytes(8, "big") + key.sign(cosigned_text(text, time))
    return Signature(name, key_id(name, COSIGNATURE, key.public_key().public_bytes_raw()), data)


def signed_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey, at: datetime) -> Note:
    """Return a checkpoint as a note, with a signature and a timestamped cosignature by its own log."""
    text, origin = checkpoint.text, checkpoint.origin
    return Note(text, (sign(text, origin, key), cosign(text, origin, key, int(at.timestamp()))))


def cosigned_text(text: str, time: int) -> bytes:
    """Return the bytes that a cosignature/v1 signs."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def signature_line(line: str) -> Signature:
    """Parse a signature line, without its newline.

    Raises:
        BadNote: the line is malformed.
    """
    name, _, data = line.removeprefix(_DASH).partition(" ")
    signature = decoded(data)
    if not line.startswith(_DASH) or len(signature) < 5:
        raise BadNote("a signature line must have a dash, a key name, and base64 of a key id and a signature")
    return Signature(checked_name(name), signature[:4], signature[4:])


def checked_name(name: str) -> str:
    """Return a valid key name or origin. Raises `BadNote` if it is empty, too long, or has spaces or plus signs."""
    if not 0 < len(name.encode()) <= LONGEST_NAME or "+" in name or any(each.isspace() for each in name):
        raise BadNote(f"a name must have 1 to {LONGEST_NAME} bytes, without spaces and plus signs")
    return name


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decoded(text: str) -> bytes:
    """Decode canonical base64. Raises `BadNote` for anything else."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadNote("it is not base64") from error
    if encoded(data) != text:
        raise BadNote("it is not canonical base64")
    return data

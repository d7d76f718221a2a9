"""Signed notes of C2SP (c2sp.org/signed-note), and the two kinds of Ed25519 signatures that checkpoints have.

A note is a text, an empty line, and signature lines. Each line names a key by its name and the first four bytes of a
digest. A reader brings the keys that it trusts, ignores lines of other keys, and refuses a note if a line of a trusted
key does not fit. The forms of a checkpoint are in `Checkpoint` (c2sp.org/tlog-checkpoint) and in `cosign`
(c2sp.org/tlog-cosignature).
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
"""Bytes of a checkpoint's note: 16 signatures of the longest kind, of 5 kB each, fit."""

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
    """A note, a key or a checkpoint in another format, or one whose signature does not fit."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key by its name and type, written as a vkey: `<name>+<key id>+<base64 of type and key>`."""

    name: str
    kind: int
    public_key: bytes

    @property
    def id(self) -> bytes:
        """Return the four bytes that signature lines name the key by."""
        return key_id(self.name, self.kind, self.public_key)

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Read a vkey of a type that this module verifies.

        Raises:
            BadNote: it is none.
        """
        if len(vkey) > MOST_OF_VKEY:
            raise BadNote(f"a key has at most {MOST_OF_VKEY} characters")
        name, _, rest = vkey.partition("+")
        hex_id, _, encoded = rest.partition("+")
        material = decoded(encoded)
        if not _HEX_ID.fullmatch(hex_id) or len(material) != 33 or material[0] not in (ED25519, COSIGNATURE):
            raise BadNote("a key is <name>+<id in hex>+<base64>, of an Ed25519 key of the types 1 or 4")
        found = cls(checked_name(name), material[0], material[1:])
        if found.id.hex() != hex_id:
            raise BadNote(f"the id {hex_id} does not fit the key {name}")
        return found

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{encoded(bytes([self.kind]) + self.public_key)}"

    def verify(self, text: str, signature: bytes) -> int | None:
        """Check a signature of a text. Returns its time, in seconds since 1970, if its type has one.

        Raises:
            BadNote: it does not fit.
        """
        time, signed = None, text.encode()
        if self.kind == COSIGNATURE:
            time, signature = int.from_bytes(signature[:8], "big"), signature[8:]
            if time > LATEST_TIME:
                raise BadNote(f"the time of {self.name}'s signature is out of range")
            signed = cosigned_text(text, time)
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, signed)
        except InvalidSignature as error:
            raise BadNote(f"the signature of {self.name} does not fit") from error
        return time


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature line of a note."""

    name: str
    key_id: bytes
    data: bytes
    """The signature alone; of a cosignature, eight bytes of time before it."""

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {encoded(self.key_id + self.data)}\n"


class Verified(NamedTuple):
    """A trusted key that has signed a note."""

    key: VerifierKey
    time: int | None
    """Seconds since 1970, of a cosignature."""


@dataclass(frozen=True, slots=True)
class Note:
    text: str
    """Whole lines; the last one ends with a newline, too."""
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, given: bytes, *, most: int = MOST_OF_NOTE) -> Self:
        """Read a note. No signature is verified.

        Args:
            most: bytes that it may have.

        Raises:
            BadNote: it is none, is too large, or has two lines of one key.
        """
        if len(given) > most:
            raise BadNote(f"a note has at most {most} bytes")
        try:
            note = given.decode()
        except UnicodeDecodeError as error:
            raise BadNote("a note is UTF-8") from error
        if _CONTROLS.search(note):
            raise BadNote("a note has no control characters but newlines")
        text, blank, lines = note.rpartition("\n\n")
        if not blank or not lines.endswith("\n"):
            raise BadNote("a note is a text, an empty line, and signature lines")
        if lines.count("\n") > MOST_SIGNATURES:
            raise BadNote(f"a note has at most {MOST_SIGNATURES} signatures")
        signatures = tuple(signature_line(line) for line in lines[:-1].split("\n"))
        if len({(each.name, each.key_id) for each in signatures}) < len(signatures):
            raise BadNote("two signatures of the note are of one key")
        return cls(text + "\n", signatures)

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"

    def __bytes__(self) -> bytes:
        return str(self).encode()

    def with_signatures(self, more: Iterable[Signature]) -> "Note":
        """Return the note with further lines, at most one of each key: the first."""
        lines = {(each.name, each.key_id): each for each in reversed([*self.signatures, *more])}
        return Note(self.text, tuple(reversed(lines.values())))

    def verified(self, keys: Iterable[VerifierKey]) -> list[Verified]:
        """Verify the lines of trusted keys. Returns those keys that have signed; lines of other keys are ignored.

        Raises:
            BadNote: a line of one of the keys does not fit, or none of them has signed.
        """
        known = {(key.name, key.id): key for key in keys}
        lines = [
            (known[each.name, each.key_id], each.data) for each in self.signatures if (each.name, each.key_id) in known
        ]
        found = [Verified(key, key.verify(self.text, data)) for key, data in lines]
        if not found:
            raise BadNote("none of the trusted keys has signed the note")
        return found


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The text of a checkpoint's note: the log's origin, the size of its tree, and the root in base64."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `BadNote` if the text is no checkpoint, or one with extension lines, which no project's log writes."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not _NUMBER.fullmatch(lines[1]) or int(lines[1]) > LARGEST_NUMBER:
            raise BadNote("a checkpoint is three lines: origin, size and root")
        root = decoded(lines[2])
        if len(root) != 32:
            raise BadNote("a checkpoint's root is a SHA-256")
        return cls(checked_name(lines[0]), int(lines[1]), root)

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{encoded(self.root)}\n"


def key_id(name: str, kind: int, public_key: bytes) -> bytes:
    """Return the first four bytes of the SHA-256 over the name, a newline, the type and the public key."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:4]


def log_keys(origin: str, public_keys: Sequence[bytes]) -> list[VerifierKey]:
    """Return the verifier keys of a log that signs its checkpoints in both ways, for each of its public keys."""
    return [VerifierKey(origin, kind, key) for key in public_keys for kind in (ED25519, COSIGNATURE)]


def sign(text: str, name: str, key: Ed25519PrivateKey) -> Signature:
    """Sign a text by a key under a name."""
    return Signature(name, key_id(name, ED25519, key.public_key().public_bytes_raw()), key.sign(text.encode()))


def cosign(text: str, name: str, key: Ed25519PrivateKey, time: int) -> Signature:
    """Sign a text together with a time, in seconds since 1970: cosignature/v1."""
    data = time.to_bytes(8, "big") + key.sign(cosigned_text(text, time))
    return Signature(name, key_id(name, COSIGNATURE, key.public_key().public_bytes_raw()), data)


def signed_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey, at: datetime) -> Note:
    """Return a checkpoint with both signatures of its own log: of the text, and of the text at a time."""
    text, origin = checkpoint.text, checkpoint.origin
    return Note(text, (sign(text, origin, key), cosign(text, origin, key, int(at.timestamp()))))


def cosigned_text(text: str, time: int) -> bytes:
    """Return the bytes that a cosignature/v1 signs."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def signature_line(line: str) -> Signature:
    """Read a signature line, without its newline.

    Raises:
        BadNote: it is none.
    """
    name, _, data = line.removeprefix(_DASH).partition(" ")
    signature = decoded(data)
    if not line.startswith(_DASH) or len(signature) < 5:
        raise BadNote("a signature line is a dash, a name, and base64 of a key id and a signature")
    return Signature(checked_name(name), signature[:4], signature[4:])


def checked_name(name: str) -> str:
    """Return a key's name or an origin. Raises `BadNote` if it is empty, too long, or has spaces or a plus sign."""
    if not 0 < len(name.encode()) <= LONGEST_NAME or "+" in name or any(each.isspace() for each in name):
        raise BadNote(f"a name has 1 to {LONGEST_NAME} bytes, no spaces and no plus sign")
    return name


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decoded(text: str) -> bytes:
    """Read base64 that has exactly one way to be written. Raises `BadNote` if it is none."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadNote("it is not base64") from error
    if encoded(data) != text:
        raise BadNote("it is not base64 in its one form")
    return data

"""The master key, which seals each project's own key, and is in no database: where it comes from.

It is the root of a tree of keys, two below each, and a project's own key is sealed by the leaf that the project's id
leads to. So a master key can be made that opens all projects' keys but one's: from the nodes beside the way to that
leaf. Where it takes the place of the one before, nobody opens that project's key any more, in no backup either, and all
backups of the others stay what they are (a puncturable pseudorandom function after Goldreich, Goldwasser and Micali).
"""

import hashlib
import hmac
import secrets
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.kept_file import kept, replacing
from app.settings import Settings

KEY_FILE = "master.key"
ID_BYTES = 8
COMMAND_SECONDS = 30.0

LEAF_BITS = 64
"""How deep the tree is. Two of a million projects have one leaf with a chance of 1 in 10^7."""


class BadMasterKey(ValueError):
    """Says in a sentence what is wrong with a master key, without quoting it."""


@dataclass(frozen=True)
class Master:
    id: bytes
    """How the SHA-256 of the root begins."""
    nodes: Mapping[str, bytes]
    """Keys of the tree, each by the way from the root to it, in bits. Whole, it is the root alone."""

    @classmethod
    def of(cls, written: str) -> "Master":
        """Raises `BadMasterKey` if it is not a root in hex, nor what `written` makes of some nodes."""
        id_, _, nodes = written.strip().rpartition(":")
        try:
            if not id_:
                root = _key(nodes)
                return cls(hashlib.sha256(root).digest()[:ID_BYTES], {"": root})
            found = dict(node.split("=", 1) for node in nodes.split("/"))
            if any(set(way) - set("01") or not 0 < len(way) <= LEAF_BITS for way in found):
                raise ValueError("a way in other digits")
            return cls(bytes.fromhex(id_), {way: _key(digits) for way, digits in found.items()})
        except ValueError as error:
            raise BadMasterKey("a master key is 64 hex digits: 'everthread master-key new' makes one") from error

    @property
    def written(self) -> str:
        """The key as text, which `of` reads: a secret."""
        if "" in self.nodes:
            return self.nodes[""].hex()
        return f"{self.id.hex()}:" + "/".join(f"{way}={key.hex()}" for way, key in sorted(self.nodes.items()))

    @property
    def cipher(self) -> AESGCM | None:
        """What the release before has sealed every project's key with; None where the root is not there."""
        return AESGCM(self.nodes[""]) if "" in self.nodes else None

    def cipher_of(self, project_id: UUID) -> AESGCM | None:
        """What a project's key is sealed with; None where this master key opens it no more."""
        leaf = _way(project_id)
        for depth in range(LEAF_BITS + 1):
            if (key := self.nodes.get(leaf[:depth])) is not None:
                return AESGCM(_below(key, leaf[depth:]))
        return None

    def without(self, project_id: UUID) -> "Master":
        """A master key that opens what this one opens, but for this project's key."""
        leaf = _way(project_id)
        kept: dict[str, bytes] = {}
        for way, key in self.nodes.items():
            if not leaf.startswith(way):
                kept[way] = key
                continue
            for depth in range(len(way), LEAF_BITS):
                beside = leaf[:depth] + ("0" if leaf[depth] == "1" else "1")
                kept[beside] = _below(key, beside[len(way) :])
        return Master(self.id, kept)


@dataclass(frozen=True, slots=True)
class Masters:
    """The master key, and those before it, which still open what they have sealed."""

    current: Master
    former: Sequence[Master] = ()

    def without(self, project_id: UUID) -> "Masters":
        """Master keys that open what these open, but for a project's key."""
        return Masters(self.current.without(project_id), [each.without(project_id) for each in self.former])

    def by_id(self, id_: bytes) -> Master | None:
        return next((each for each in (self.current, *self.former) if each.id == id_), None)


def new_master_key() -> str:
    return secrets.token_hex(32)


def _key(digits: str) -> bytes:
    key = bytes.fromhex(digits)
    if len(key) != 32:
        raise ValueError("not 32 bytes")
    return key


@lru_cache(maxsize=10_000)
def _way(project_id: UUID) -> str:
    """The way to a project's leaf, in bits."""
    digest = hashlib.sha256(project_id.bytes).digest()
    return f"{int.from_bytes(digest, 'big'):0256b}"[:LEAF_BITS]


def _below(key: bytes, way: str) -> bytes:
    """The key that a way leads to, from this one down."""
    for bit in way:
        key = hmac.digest(key, bit.encode(), "sha256")
    return key


def masters(settings: Settings, *, make: bool = True) -> Masters:
    """The master keys that the settings name. Without any: one in the data directory, made there once.

    Args:
        make: whether one may be made.

    Raises:
        BadMasterKey: one cannot be had, or is none.
        OSError: the data directory cannot be used.
    """
    given = [
        settings.master_key is not None, settings.master_key_file is not None, settings.master_key_command is not None,
    ]  # fmt: skip
    if sum(given) > 1:
        raise BadMasterKey("EVERTHREAD_MASTER_KEY, …_FILE and …_COMMAND exclude each other: set one")
    if settings.master_key is not None:
        digits = settings.master_key.get_secret_value()
    elif settings.master_key_file is not None:
        digits = _read(settings.master_key_file)
    elif settings.master_key_command is not None:
        digits = _asked(settings.master_key_command)
    else:
        if not make and not (settings.data_dir / KEY_FILE).exists():
            raise BadMasterKey("there is none here: set EVERTHREAD_MASTER_KEY, or say --data-dir")
        digits = kept(settings.data_dir / KEY_FILE, new_master_key)
    former = "" if settings.former_master_keys is None else settings.former_master_keys.get_secret_value()
    return Masters(Master.of(digits), [Master.of(each) for each in former.split(",") if each.strip()])


def keep(settings: Settings, at_hand: Masters) -> Path | None:
    """Have a changed master key in the file that it came from. None where it came from no file: it is for the caller
    to put in its place.

    Raises:
        OSError: the file cannot be written.
    """
    if settings.master_key is not None or settings.master_key_command is not None:
        return None
    path = settings.master_key_file or settings.data_dir / KEY_FILE
    with replacing(path, mode=0o600) as file:
        file.write(at_hand.current.written.encode())
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadMasterKey(f"EVERTHREAD_MASTER_KEY_FILE cannot be read: {type(error).__name__}") from error


def _asked(command: str) -> str:
    """What a command prints: that of a key management service, for instance."""
    try:
        ran = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise BadMasterKey(f"EVERTHREAD_MASTER_KEY_COMMAND cannot be run: {type(error).__name__}") from error
    if ran.returncode != 0:
        raise BadMasterKey(f"EVERTHREAD_MASTER_KEY_COMMAND has failed, with code {ran.returncode}")
    return ran.stdout

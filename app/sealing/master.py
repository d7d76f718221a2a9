"""The master key, which seals each project's own key and is in no database.

It is the root of a binary tree of keys, and a project's own key is sealed by the leaf that the project's id leads to.
So there is a master key that opens all projects' keys but one: the nodes beside the path to that leaf. Where it
replaces the one before, nobody opens that project's key any more, in no backup either, and the backups of the other
projects stay usable (a puncturable pseudorandom function after Goldreich, Goldwasser and Micali).

The nodes are too many for an environment variable after some destroyed keys. There the master key is a short secret
that seals them, and the sealed nodes are in the table `master_nodes`.
"""

import hashlib
import hmac
import secrets
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.process.atomic_file import get_or_create, replacing
from app.settings import Settings

KEY_FILE = "master.key"
ID_BYTES = 8
COMMAND_SECONDS = 30.0

NONCE_BYTES = 12
NODES = b"everthread master nodes v1"

LEAF_BITS = 64
"""Depth of the tree. Two of a million projects share a leaf with a probability of 1 in 10^7."""

NODE_BYTES = 1 + LEAF_BITS // 8 + 32
"""A node among those that are sealed: its depth, its path and its key."""


class BadMasterKey(ValueError):
    """Error of a master key, in a sentence that does not quote it."""


@dataclass(frozen=True)
class Master:
    id: bytes
    """The first bytes of the root's SHA-256."""
    nodes: Mapping[str, bytes]
    """Keys of the tree, each by the path from the root to it, in bits. Whole, it is the root alone."""
    secret: bytes | None = None
    """The secret that seals its nodes, where they are in the database."""

    @classmethod
    def of(cls, written: str) -> "Master":
        """Read a root, some nodes, or a secret that seals nodes. Raises `BadMasterKey` for anything else."""
        id_, _, rest = written.strip().rpartition(":")
        try:
            if not id_:
                root = _key(rest)
                return cls(hashlib.sha256(root).digest()[:ID_BYTES], {"": root})
            if len(id_) != 2 * ID_BYTES:
                raise ValueError("an id of another length")
            if "=" not in rest:
                return cls(bytes.fromhex(id_), {}, _key(rest))
            found = dict(node.split("=", 1) for node in rest.split("/"))
            if any(set(way) - set("01") or not 0 < len(way) <= LEAF_BITS for way in found):
                raise ValueError("a path in other digits")
            return cls(bytes.fromhex(id_), {way: _key(digits) for way, digits in found.items()})
        except ValueError as error:
            raise BadMasterKey("a master key is 64 hex digits: 'everthread master-key new' makes one") from error

    @property
    def written(self) -> str:
        """The key as text, which `of` reads: a secret."""
        if self.secret is not None:
            return f"{self.id.hex()}:{self.secret.hex()}"
        if "" in self.nodes:
            return self.nodes[""].hex()
        return f"{self.id.hex()}:" + "/".join(f"{way}={key.hex()}" for way, key in sorted(self.nodes.items()))

    @property
    def secret_id(self) -> bytes:
        """Return the id that the sealed nodes are stored under."""
        assert self.secret is not None
        return hashlib.sha256(b"id of a secret" + self.secret).digest()[:ID_BYTES]

    def short(self) -> "Master":
        """Return the same master key with a new secret. Its nodes have to be kept as `sealed_nodes`."""
        return Master(self.id, self.nodes, secrets.token_bytes(32))

    @property
    def sealed_nodes(self) -> bytes:
        assert self.secret is not None
        nonce = secrets.token_bytes(NONCE_BYTES)
        nodes = b"".join(
            bytes([len(way)]) + int(way.ljust(LEAF_BITS, "0"), 2).to_bytes(LEAF_BITS // 8, "big") + key
            for way, key in sorted(self.nodes.items())
        )
        return nonce + AESGCM(self.secret).encrypt(nonce, nodes, NODES + self.id)

    def with_nodes(self, sealed: bytes) -> "Master":
        """Return the master key with its nodes. Raises `BadMasterKey` if they were sealed with another secret."""
        assert self.secret is not None
        try:
            found = AESGCM(self.secret).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], NODES + self.id)
        except (InvalidTag, ValueError) as error:
            raise BadMasterKey("the nodes of the master key were changed, or belong to another secret") from error
        nodes: dict[str, bytes] = {}
        for start in range(0, len(found), NODE_BYTES):
            depth, way = found[start], int.from_bytes(found[start + 1 : start + 1 + LEAF_BITS // 8], "big")
            key = found[start + 1 + LEAF_BITS // 8 : start + NODE_BYTES]
            nodes[f"{way:0{LEAF_BITS}b}"[:depth]] = key
        return Master(self.id, nodes, self.secret)

    def cipher_of(self, project_id: UUID) -> AESGCM | None:
        """Return what a project's key is sealed with; None where this master key opens it no more."""
        leaf = _execution(project_id)
        for depth in range(LEAF_BITS + 1):
            if (key := self.nodes.get(leaf[:depth])) is not None:
                return AESGCM(_below(key, leaf[depth:]))
        return None

    def without(self, project_id: UUID) -> "Master":
        """Return a master key that opens what this one opens, except this project's key."""
        leaf = _execution(project_id)
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
    """The master key and former ones, which still open values that they have sealed."""

    current: Master
    former: Sequence[Master] = ()

    @property
    def all(self) -> Sequence[Master]:
        return (self.current, *self.former)

    def each(self, change: Callable[[Master], Master]) -> "Masters":
        return Masters(change(self.current), [change(each) for each in self.former])

    def without(self, project_id: UUID) -> "Masters":
        """Return master keys that open what these open, except a project's key."""
        return self.each(lambda master: master.without(project_id))

    def by_id(self, id_: bytes) -> Master | None:
        return next((each for each in self.all if each.id == id_), None)


def new_master_key() -> str:
    return secrets.token_hex(32)


def _key(digits: str) -> bytes:
    key = bytes.fromhex(digits)
    if len(key) != 32:
        raise ValueError("not 32 bytes")
    return key


@lru_cache(maxsize=10_000)
def _execution(project_id: UUID) -> str:
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
        digits = get_or_create(settings.data_dir / KEY_FILE, new_master_key)
    former = "" if settings.former_master_keys is None else settings.former_master_keys.get_secret_value()
    return Masters(Master.of(digits), [Master.of(each) for each in former.split(",") if each.strip()])


def file_of(settings: Settings) -> Path | None:
    """Return the file that the master key is in; None where it comes from the environment or from a command."""
    if settings.master_key is not None or settings.master_key_command is not None:
        return None
    return settings.master_key_file or settings.data_dir / KEY_FILE


def keep(path: Path, content: str) -> None:
    """Write a secret to a file. Raises `OSError`."""
    with replacing(path, mode=0o600) as file:
        file.write(content.encode())


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadMasterKey(f"EVERTHREAD_MASTER_KEY_FILE cannot be read: {type(error).__name__}") from error


def _asked(command: str) -> str:
    """Return the output of a command, for example of a key management service."""
    try:
        ran = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise BadMasterKey(f"EVERTHREAD_MASTER_KEY_COMMAND cannot be run: {type(error).__name__}") from error
    if ran.returncode != 0:
        raise BadMasterKey(f"EVERTHREAD_MASTER_KEY_COMMAND has failed, with code {ran.returncode}")
    return ran.stdout

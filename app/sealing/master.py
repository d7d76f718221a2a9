"""The master key, which seals each project's own key, and is in no database: where it comes from."""

import hashlib
import secrets
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.kept_file import kept
from app.settings import Settings

KEY_FILE = "master.key"
ID_BYTES = 8
COMMAND_SECONDS = 30.0


class BadMasterKey(ValueError):
    """Says in a sentence what is wrong with a master key, without quoting it."""


@dataclass(frozen=True, slots=True)
class Master:
    id: bytes
    """How the SHA-256 of the key begins."""
    cipher: AESGCM

    @classmethod
    def of(cls, digits: str) -> "Master":
        """Raises `BadMasterKey` if it is not 32 bytes in hex."""
        try:
            key = bytes.fromhex(digits.strip())
        except ValueError:
            key = b""
        if len(key) != 32:
            raise BadMasterKey("a master key is 64 hex digits: 'everthread master-key new' makes one")
        return cls(hashlib.sha256(key).digest()[:ID_BYTES], AESGCM(key))


@dataclass(frozen=True, slots=True)
class Masters:
    """The master key, and those before it, which still open what they have sealed."""

    current: Master
    former: Sequence[Master] = ()

    def by_id(self, id_: bytes) -> Master | None:
        return next((each for each in (self.current, *self.former) if each.id == id_), None)


def new_master_key() -> str:
    return secrets.token_hex(32)


def masters(settings: Settings) -> Masters:
    """The master keys that the settings name. Without any: one in the data directory, made there once.

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
        digits = kept(settings.data_dir / KEY_FILE, new_master_key)
    former = "" if settings.former_master_keys is None else settings.former_master_keys.get_secret_value()
    return Masters(Master.of(digits), [Master.of(each) for each in former.split(",") if each.strip()])


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

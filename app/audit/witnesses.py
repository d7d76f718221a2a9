"""The witnesses that checkpoints are sent to: EVERTHREAD_AUDIT_WITNESSES, read when the service starts."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from typing_extensions import TypedDict

from app.audit.notes import COSIGNATURE, BadNote, VerifierKey
from app.audit.rows import WitnessRow
from app.http.egress import url_fault
from app.trail.records import instant

MOST_WITNESSES = 16

MOST_CHARACTERS = 32_768

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")

FORM = "'witness NAME VKEY URL', as in a tlog-policy file, separated by newlines or semicolons"


class BadWitnesses(Exception):
    """An invalid list of witnesses. The message says why."""


@dataclass(frozen=True, slots=True)
class Witness:
    name: str
    """Name in the list, shown in metrics and the console."""
    key: VerifierKey
    url: str
    """Submission prefix, without a slash at its end."""


class WitnessObject(TypedDict):
    object: Literal["audit.witness"]
    id: str
    name: str
    key: str
    """Verifier key (vkey)."""
    size: int | None
    """Size of the last checkpoint that it has cosigned."""
    cosigned_at: str | None
    answered_at: str | None
    error: str | None
    """Reason why it has not cosigned the newest checkpoint: see docs/proofs.md."""


def witness_object(witness: Witness, row: WitnessRow | None) -> WitnessObject:
    return {
        "object": "audit.witness",
        "id": f"witness_{witness.key.id.hex()}",
        "name": witness.name,
        "key": str(witness.key),
        "size": None if row is None else row["size"],
        "cosigned_at": _instant(row["at"] if row else None),
        "answered_at": _instant(row["answered_at"] if row else None),
        "error": None if row is None else row["error"],
    }


def witnesses(listed: str | None) -> tuple[Witness, ...]:
    """Parse the list of witnesses.

    Raises:
        BadWitnesses: the list is malformed or too long, or has a witness twice.
    """
    if len(listed or "") > MOST_CHARACTERS:
        raise BadWitnesses(f"EVERTHREAD_AUDIT_WITNESSES has more than {MOST_CHARACTERS} characters")
    lines = [line.split() for line in re.split("[\n;]", listed or "") if line.strip() and line.strip()[0] != "#"]
    found = tuple(_witness(number, line) for number, line in enumerate(lines, 1))
    if len(found) > MOST_WITNESSES:
        raise BadWitnesses(f"EVERTHREAD_AUDIT_WITNESSES has more than {MOST_WITNESSES} witnesses")
    for values, what in (([each.name for each in found], "name"), ([each.key.public_key for each in found], "key")):
        if len({*values}) < len(values):
            raise BadWitnesses(f"EVERTHREAD_AUDIT_WITNESSES has two witnesses with the same {what}")
    return found


def _witness(number: int, line: list[str]) -> Witness:
    where = f"entry {number} of EVERTHREAD_AUDIT_WITNESSES"
    if len(line) != 4 or line[0] != "witness":
        raise BadWitnesses(f"{where} must be {FORM}")
    _, name, vkey, url = line
    if not _LABEL.fullmatch(name):
        raise BadWitnesses(f"the name in {where} must be 1 to 64 letters, digits, dots, hyphens and slashes")
    try:
        key = VerifierKey.parse(vkey)
    except BadNote as error:
        raise BadWitnesses(f"the vkey in {where} cannot be read: {error}") from error
    if key.kind != COSIGNATURE:
        raise BadWitnesses(f"the vkey in {where} must be a witness key (type 4)")
    if (fault := url_fault(url, private=True)) is not None:
        raise BadWitnesses(f"the URL in {where} {fault}")
    return Witness(name, key, url.rstrip("/"))


def _instant(at: datetime | None) -> str | None:
    return None if at is None else instant(at)

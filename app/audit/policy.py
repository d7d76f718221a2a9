"""Trust policies (c2sp.org/tlog-policy): the logs and witnesses that a reader trusts, and the quorum of witnesses."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from app.audit.notes import COSIGNATURE, BadNote, Checkpoint, Note, VerifierKey, log_keys

MOST_OF_POLICY = 64 * 1024
"""Largest number of bytes."""

MOST_OF_KIND = 64
"""Largest number of logs, of witnesses, and of groups."""

NONE = "none"
"""Name of the quorum without witnesses."""

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_SPACES = re.compile("[ \t]+")
_THRESHOLD = re.compile("[1-9][0-9]{0,3}", re.ASCII)


class BadPolicy(ValueError):
    """A malformed or contradictory policy."""


class Accepted(NamedTuple):
    checkpoint: Checkpoint
    at: int | None
    """Time of the log's signature in seconds since 1970, if the log has signed it."""
    witnesses: list[str]


@dataclass(slots=True)
class Policy:
    logs: list[VerifierKey] = field(default_factory=list)
    witnesses: dict[str, VerifierKey] = field(default_factory=dict)
    groups: dict[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    """Threshold and members of each group. Members are witnesses and earlier groups."""
    quorum: str = ""
    """A witness, a group, or `none`."""

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Parse a policy.

        Raises:
            BadPolicy: the policy is malformed or too large, or uses a name before it is defined.
        """
        if len(content) > MOST_OF_POLICY:
            raise BadPolicy(f"a policy has at most {MOST_OF_POLICY} bytes")
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise BadPolicy("a policy must be UTF-8") from error
        if _CONTROLS.search(text):
            raise BadPolicy("a policy must not contain control characters other than tabs and newlines")
        policy = cls()
        for number, line in enumerate(text.split("\n"), 1):
            words = _SPACES.split(line.strip(" \t"))
            if words[0] and not words[0].startswith("#"):
                try:
                    policy._take(words)
                except (BadNote, BadPolicy) as error:
                    raise BadPolicy(f"line {number}: {error}") from error
        if not policy.quorum:
            raise BadPolicy("the policy has no quorum line")
        of_logs = {log.public_key for log in policy.logs}
        for name, witness in policy.witnesses.items():
            if witness.public_key in of_logs:
                raise BadPolicy(f"the witness {name} has the key of a log, which would witness itself")
        return policy

    def accept(self, note: Note) -> Accepted:
        """Verify that a log of the policy has signed a checkpoint, and that the quorum of witnesses has cosigned it.

        Raises:
            BadNote: a signature is missing or invalid.
        """
        checkpoint = Checkpoint.parse(note.text)
        logs = [log for log in self.logs if log.name == checkpoint.origin]
        if not logs:
            raise BadNote(f"the policy does not name the log {checkpoint.origin}")
        both_kinds = log_keys(checkpoint.origin, [log.public_key for log in logs])
        times = dict(note.verified([*both_kinds, *self.witnesses.values()]))
        if times.keys().isdisjoint(logs):
            raise BadNote(f"the log {checkpoint.origin} has not signed the checkpoint")
        cosigned = [name for name, witness in self.witnesses.items() if witness in times]
        reached = {name: name in cosigned for name in self.witnesses}
        for name, (least, members) in self.groups.items():
            reached[name] = sum(reached[member] for member in members) >= least
        if self.quorum != NONE and not reached[self.quorum]:
            raise BadNote(
                f"the quorum {self.quorum} is not reached: {', '.join(cosigned) or 'no witness'} has cosigned it"
            )
        return Accepted(checkpoint, next((times[key] for key in both_kinds if times.get(key)), None), cosigned)

    def _take(self, words: list[str]) -> None:
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                log = VerifierKey.parse(vkey)
                _check_room(self.logs, log, "logs")
                self.logs.append(log)
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                witness = VerifierKey.parse(vkey)
                if witness.kind != COSIGNATURE:
                    raise BadPolicy(f"the key of {witness.name} is not a witness key (type {COSIGNATURE})")
                _check_room(self.witnesses.values(), witness, "witnesses")
                self._check_new(name)
                self.witnesses[name] = witness
            case ["group", name, least, *members] if members:
                self._check_new(name)
                self._check_members(members)
                self.groups[name] = (_threshold(least, len(members)), tuple(members))
            case ["quorum", name]:
                if self.quorum:
                    raise BadPolicy("the policy has two quorum lines")
                if name != NONE and name not in self.witnesses and name not in self.groups:
                    raise BadPolicy(f"{name} must be defined on an earlier line")
                self.quorum = name
            case _:
                raise BadPolicy(
                    "a line must begin with log, witness, group or quorum, and have the arguments of that keyword"
                )

    def _check_new(self, name: str) -> None:
        if name == NONE or name in self.witnesses or name in self.groups:
            raise BadPolicy(f"the name {name} is defined twice")

    def _check_members(self, members: list[str]) -> None:
        if len(self.groups) == MOST_OF_KIND:
            raise BadPolicy(f"a policy has at most {MOST_OF_KIND} groups")
        taken = {member for _, others in self.groups.values() for member in others}
        for member in members:
            if member not in self.witnesses and member not in self.groups:
                raise BadPolicy(f"{member} must be defined on an earlier line")
            if member in taken:
                raise BadPolicy(f"{member} is a member twice")
            taken.add(member)


def written(logs: Iterable[VerifierKey], witnesses: str, quorum: str) -> str:
    """Return the text of a policy.

    Args:
        witnesses: lines of the form `witness NAME VKEY URL`, separated by newlines or semicolons.
        quorum: how many of them must cosign: `all`, `any`, `none` or a number.

    Raises:
        BadPolicy: a line or the quorum is invalid.
    """
    lines = [line.strip() for line in re.split("[\n;]", witnesses)]
    text = "\n".join([*[f"log {log}" for log in logs], *[line for line in lines if line], ""])
    names = Policy.parse(f"{text}quorum {NONE}\n".encode()).witnesses
    if quorum == NONE or not names:
        return f"{text}quorum {NONE}\n"
    text = f"{text}group witnesses {quorum} {' '.join(names)}\nquorum witnesses\n"
    Policy.parse(text.encode())
    return text


def _check_room(keys: Iterable[VerifierKey], key: VerifierKey, kind: str) -> None:
    known = [each.public_key for each in keys]
    if len(known) == MOST_OF_KIND:
        raise BadPolicy(f"a policy has at most {MOST_OF_KIND} {kind}")
    if key.public_key in known:
        raise BadPolicy(f"the key of {key.name} is listed twice")


def _threshold(least: str, members: int) -> int:
    if least in ("all", "any"):
        return members if least == "all" else 1
    if not _THRESHOLD.fullmatch(least) or int(least) > members:
        raise BadPolicy(f"the threshold of a group must be all, any, or a number from 1 to {members}")
    return int(least)

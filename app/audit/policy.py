"""Trust policies of C2SP (c2sp.org/tlog-policy): the logs and witnesses that a reader trusts, and the quorum."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from app.audit.notes import COSIGNATURE, BadNote, Checkpoint, Note, VerifierKey, log_keys

MOST_OF_POLICY = 64 * 1024
"""Bytes."""

MOST_OF_KIND = 64
"""Logs, witnesses and groups, of each kind."""

NONE = "none"
"""The quorum that needs no witness."""

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_SPACES = re.compile("[ \t]+")
_THRESHOLD = re.compile("[1-9][0-9]{0,3}", re.ASCII)


class BadPolicy(ValueError):
    """A file that is no policy, or one that contradicts itself."""


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
    """The number of members that must have cosigned, and the members: witnesses, and groups defined before."""
    quorum: str = ""
    """A witness, a group, or `none`."""

    @classmethod
    def parse(cls, given: bytes) -> Self:
        """Read a policy.

        Raises:
            BadPolicy: it is none, is too large, or names something that it does not define.
        """
        if len(given) > MOST_OF_POLICY:
            raise BadPolicy(f"a policy has at most {MOST_OF_POLICY} bytes")
        try:
            text = given.decode()
        except UnicodeDecodeError as error:
            raise BadPolicy("a policy is UTF-8") from error
        if _CONTROLS.search(text):
            raise BadPolicy("a policy has no control characters but tabs and newlines")
        policy = cls()
        for number, line in enumerate(text.split("\n"), 1):
            words = _SPACES.split(line.strip(" \t"))
            if words[0] and not words[0].startswith("#"):
                try:
                    policy._take(words)
                except (BadNote, BadPolicy) as error:
                    raise BadPolicy(f"line {number}: {error}") from error
        if not policy.quorum:
            raise BadPolicy("it has no quorum")
        of_logs = {log.public_key for log in policy.logs}
        for name, witness in policy.witnesses.items():
            if witness.public_key in of_logs:
                raise BadPolicy(f"the witness {name} has the key of a log, which would witness itself")
        return policy

    def accept(self, note: Note) -> Accepted:
        """Verify that a log of the policy has signed a checkpoint, and that the quorum of witnesses has cosigned it.

        Raises:
            BadNote: one of them has not, or a signature of one of them does not fit.
        """
        checkpoint = Checkpoint.parse(note.text)
        logs = [log for log in self.logs if log.name == checkpoint.origin]
        if not logs:
            raise BadNote(f"the policy names no log {checkpoint.origin}")
        both_kinds = log_keys(checkpoint.origin, [log.public_key for log in logs])
        times = dict(note.verified([*both_kinds, *self.witnesses.values()]))
        if times.keys().isdisjoint(logs):
            raise BadNote(f"the log {checkpoint.origin} has not signed it")
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
                    raise BadPolicy(f"{witness.name} is no key of a witness: those have the type {COSIGNATURE}")
                _check_room(self.witnesses.values(), witness, "witnesses")
                self._check_new(name)
                self.witnesses[name] = witness
            case ["group", name, least, *members] if members:
                self._check_new(name)
                self._check_members(members)
                self.groups[name] = (_threshold(least, len(members)), tuple(members))
            case ["quorum", name]:
                if self.quorum:
                    raise BadPolicy("there is a quorum already")
                if name != NONE and name not in self.witnesses and name not in self.groups:
                    raise BadPolicy(f"{name} is not defined before")
                self.quorum = name
            case _:
                raise BadPolicy("a line is log, witness, group or quorum, with its names")

    def _check_new(self, name: str) -> None:
        if name == NONE or name in self.witnesses or name in self.groups:
            raise BadPolicy(f"the name {name} is taken")

    def _check_members(self, members: list[str]) -> None:
        if len(self.groups) == MOST_OF_KIND:
            raise BadPolicy(f"a policy has at most {MOST_OF_KIND} groups")
        taken = {member for _, others in self.groups.values() for member in others}
        for member in members:
            if member not in self.witnesses and member not in self.groups:
                raise BadPolicy(f"{member} is not defined before")
            if member in taken:
                raise BadPolicy(f"{member} is a member already")
            taken.add(member)


def written(logs: Iterable[VerifierKey], witnesses: str, quorum: str) -> str:
    """Return the text of a policy.

    Args:
        witnesses: their lines, `witness NAME VKEY URL`, separated by newlines or semicolons.
        quorum: how many of them must cosign: `all`, `any`, `none` or a number.

    Raises:
        BadPolicy: the lines or the quorum are none of a policy.
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
        raise BadPolicy(f"the key of {key.name} is there already")


def _threshold(least: str, members: int) -> int:
    if least in ("all", "any"):
        return members if least == "all" else 1
    if not _THRESHOLD.fullmatch(least) or int(least) > members:
        raise BadPolicy(f"a group needs all, any, or 1 to {members} of its members")
    return int(least)

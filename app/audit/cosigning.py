"""Cosignatures: one task per witness sends it the newest checkpoint of every project.

The protocol is C2SP tlog-witness. A request contains the size that the witness knows, a consistency proof from there,
and the checkpoint's note: the origin, sizes, hashes and signatures. A task does not wait for other witnesses, and
nothing waits for it. What it did not send before its process ended, the next round of any worker sends.
"""

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

import aiohttp
import structlog

from app.audit import store
from app.audit.merkle import Tree
from app.audit.notes import BadNote, Checkpoint, Note, encoded, signature_line
from app.audit.witnesses import Witness
from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.http import egress
from app.http.errors import DatabaseUnavailable
from app.process.background import Background
from app.telemetry import metrics

log = structlog.get_logger()

LONGEST_PAUSE_SECONDS = 30.0
"""Longest interval at which a worker looks for checkpoints that a witness lacks."""

TIMEOUT_SECONDS = 10.0

ANSWER_BYTES = 16_384

LEASE_SECONDS = 60.0
"""Lease of the sending worker. After it, another worker may send."""

TRIES = 4
"""Largest number of requests in a row. Each uses the size that the witness returned to the one before."""

SKEW = timedelta(hours=1)
"""Largest difference between this host's clock and the time of a new cosignature."""

MOST_WAITING = 1000
"""Largest number of projects in one round."""

MOST_TREES = 1000
"""Largest number of projects whose tree a task caches."""

_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n")

Outcome = Literal[
    "cosigned", "unreachable", "unknown_origin", "untrusted_key", "forked", "refused", "bad_answer", "bad_leaves"
]

WHY: dict[Outcome, str] = {
    "unreachable": "it cannot be reached",
    "unknown_origin": "it does not know the origin (404)",
    "untrusted_key": "it does not trust the log's key (403)",
    "forked": "it has cosigned another history of this trail: the database was restored, or a copy of it is in use",
    "refused": "it refuses the request",
    "bad_answer": "its answer has no valid cosignature",
    "bad_leaves": "the leaves in the database do not match the newest checkpoint, which was not sent",
}
"""Descriptions of outcomes in log lines."""

SQL = statements_of(__file__)


class _Failed(Exception):
    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class _Newest:
    """The newest checkpoint of a project, and the size that the witness has cosigned under its origin."""

    note: Note
    checkpoint: Checkpoint
    cosigned: int


class Cosigning(Background):
    def __init__(self, database: Database, witness: Witness, *, every_seconds: float) -> None:
        super().__init__()
        self._database = database
        self._witness = witness
        self._every_seconds = min(every_seconds, LONGEST_PAUSE_SECONDS)
        self._trees: dict[UUID, Tree] = {}
        for outcome in ("cosigned", *WHY):
            metrics.of(metrics.WITNESS_REQUESTS, witness.name, outcome)
        metrics.of(metrics.WITNESS_COSIGNED, witness.name)
        metrics.of(metrics.WITNESS_WAITING, witness.name)

    async def run(self) -> None:
        session = egress.one_shot_session(public_only=False, answer_bytes=ANSWER_BYTES, seconds=TIMEOUT_SECONDS)
        async with session:
            while True:
                try:
                    await self._round(session)
                except DatabaseUnavailable:
                    log.warning("Postgres is unavailable; checkpoints are sent to witnesses later")
                await asyncio.sleep(self._every_seconds)

    async def _round(self, session: aiohttp.ClientSession) -> None:
        key = self._witness.key.public_key
        waiting = await self._database.fetch(*SQL.without_cosignature(public_key=key, most=MOST_WAITING))
        age = (datetime.now(UTC) - waiting[0]["at"]).total_seconds() if waiting else 0.0
        metrics.of(metrics.WITNESS_WAITING, self._witness.name).set(max(age, 0.0))
        for row in waiting:
            if row["free"] and await self._send_newest(session, row["project_id"]) == "unreachable":
                return  # The next request would time out, too.

    async def _send_newest(self, session: aiohttp.ClientSession, project_id: UUID) -> Outcome | None:
        """Send a project's newest checkpoint and return the outcome; None if another worker holds the lease."""
        key = self._witness.key.public_key
        taken = await self._database.fetchrow(
            *SQL.take_witness(project_id=project_id, public_key=key, lease_seconds=LEASE_SECONDS)
        )
        if taken is None:
            return None
        try:
            await self._cosign(session, project_id)
            outcome: Outcome = "cosigned"
        except _Failed as failed:
            outcome = failed.outcome
        metrics.of(metrics.WITNESS_REQUESTS, self._witness.name, outcome).inc()
        error = None if outcome == "cosigned" else outcome
        if error is not None and error != taken["error"]:
            tell = log.error if error in ("forked", "bad_leaves") else log.warning
            tell(
                "a witness has not cosigned a checkpoint",
                witness=self._witness.name, project=ids.project_id(project_id), outcome=error, why=WHY[error],
            )  # fmt: skip
        pause = 0.0 if error is None else self._every_seconds
        await self._database.fetchrow(
            *SQL.settle_witness(project_id=project_id, public_key=key, error=error, pause_seconds=pause)
        )
        return outcome

    async def _cosign(self, session: aiohttp.ClientSession, project_id: UUID) -> None:
        """Get a cosignature of the newest checkpoint, and store it.

        Raises:
            _Failed: there is none.
        """
        newest = await self._newest(project_id)
        old = newest.cosigned
        for _ in range(TRIES):
            size = newest.checkpoint.size
            proof = await self._proof(project_id, old, newest.checkpoint)
            status, body = await self._post(session, _request(old, proof, newest.note))
            if status == 200:
                await self._store(project_id, newest, body)
                return
            if status != 409:
                raise _Failed(_REFUSALS.get(status, "refused"))
            match = _SIZE.fullmatch(body)
            if match is None:
                raise _Failed("bad_answer")
            known = int(match[1])
            if known == old == size:
                raise _Failed("forked")  # Equal sizes with different roots.
            if known > size:
                newest = await self._newest(project_id)  # Another worker may have sent a later one.
                if known > newest.checkpoint.size:
                    raise _Failed("forked")
            old = known
        raise _Failed("bad_answer")

    async def _newest(self, project_id: UUID) -> _Newest:
        """Return the newest checkpoint.

        Raises:
            _Failed: its note cannot be read: somebody has changed it.
        """
        row = await self._database.fetchrow(
            *SQL.newest_for_witness(project_id=project_id, public_key=self._witness.key.public_key)
        )
        assert row is not None  # Checkpoints are never deleted.
        try:
            note = Note.parse(row["note"].encode())
            return _Newest(note, Checkpoint.parse(note.text), row["cosigned"])
        except BadNote as error:
            raise _Failed("bad_leaves") from error

    async def _proof(self, project_id: UUID, old: int, checkpoint: Checkpoint) -> list[bytes]:
        """Return the consistency proof from the size that the witness has to a checkpoint.

        Raises:
            _Failed: the leaves do not fit the checkpoint.
        """
        if old in (0, checkpoint.size):
            return []
        known = self._trees.pop(project_id, None)
        tree = Tree() if known is None or known.size > old else known
        path, root = await store.consistency(self._database, project_id, tree, old, checkpoint.size)
        if root != checkpoint.root:
            raise _Failed("bad_leaves")
        if len(self._trees) >= MOST_TREES:
            del self._trees[next(iter(self._trees))]
        self._trees[project_id] = tree
        return path

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> tuple[int, bytes]:
        """Send a request. Returns the status, and the body if the status gives it a meaning."""
        url = f"{self._witness.url}/add-checkpoint"
        try:
            async with session.post(url, data=body, allow_redirects=False) as answer:
                return answer.status, await answer.read() if answer.status in (200, 409) else b""
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _Failed("unreachable") from error

    async def _store(self, project_id: UUID, newest: _Newest, body: bytes) -> None:
        """Store the cosignature from an answer if it verifies with the configured key.

        Raises:
            _Failed: there is none that does.
        """
        now, key = datetime.now(UTC), self._witness.key
        try:
            lines = tuple(signature_line(line) for line in body.decode().removesuffix("\n").split("\n"))
            (verified, *_) = Note(newest.note.text, lines).verified([key])
            (line, *_) = [each for each in lines if (each.name, each.key_id) == (key.name, key.id)]
            if verified.time is None or abs(verified.time - now.timestamp()) > SKEW.total_seconds():
                raise BadNote("the witness's clock is wrong")
        except (BadNote, UnicodeDecodeError) as error:
            raise _Failed("bad_answer") from error
        at = datetime.fromtimestamp(verified.time, UTC)
        await self._database.fetchrow(
            *SQL.add_cosignature(
                project_id=project_id, size=newest.checkpoint.size, origin=newest.checkpoint.origin, name=key.name,
                public_key=key.public_key, at=at, signature=line.data,
            )
        )  # fmt: skip
        metrics.of(metrics.WITNESS_COSIGNED, self._witness.name).set(verified.time)


_REFUSALS: dict[int, Outcome] = {404: "unknown_origin", 403: "untrusted_key", 422: "forked"}


def _request(old: int, proof: list[bytes], note: Note) -> bytes:
    return "".join([f"old {old}\n", *(f"{encoded(each)}\n" for each in proof), "\n", str(note)]).encode()

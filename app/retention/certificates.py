"""Erasure certificates. One is created when a purge is complete and a checkpoint covers the record of its end."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typing_extensions import TypedDict

from app.audit import store
from app.audit.checkpoints import Checkpoints
from app.audit.merkle import LEAF_BYTES, Proofs, Tree, leaf_data
from app.audit.notes import encoded
from app.audit.rows import RecordRow
from app.audit.store import LOWEST
from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.holds.schemas import hold_id
from app.holds.store import kept_of
from app.http.errors import Conflict
from app.projects.keys import key_id
from app.retention.certificate_file import ENDS, Kind, counts, lines, signed
from app.retention.tables import UserPurge
from app.trail.append import append_record
from app.trail.records import SERVICE, instant, record_object
from app.trail.users import UserKeys

WITNESS_WAIT = timedelta(minutes=15)
"""Longest time that a certificate waits for a cosignature of its checkpoint, unless it is requested earlier."""

SQL = statements_of(__file__)


class PurgeObject(TypedDict):
    id: str
    object: Literal["user.purge", "thread.purge", "key.purge", "hold.purge"]
    kind: Kind
    user: str | None
    status: Literal["in_progress", "completed"]
    threads: int
    threads_done: int
    created_at: int
    completed_at: int | None


@dataclass(frozen=True, slots=True)
class Purged:
    """A complete purge, with the record that ends it."""

    id: UUID
    kind: Kind
    record: RecordRow
    began_at: datetime
    user: str | None = None
    """The user whose data was purged. No certificate contains it."""
    hold: Mapping[str, Any] | None = None

    @property
    def shown(self) -> PurgeObject:
        at, threads = int(self.record["at"].timestamp()), int(self.kind == "thread")
        objects: dict[Kind, Any] = {"thread": "thread.purge", "key": "key.purge", "hold": "hold.purge"}
        return {
            "id": ids.purge_id(self.id),
            "object": objects[self.kind],
            "kind": self.kind,
            "user": None,
            "status": "completed",
            "threads": threads,
            "threads_done": threads,
            "created_at": at,
            "completed_at": at,
        }


def user_purge_object(purge: UserPurge) -> PurgeObject:
    return {
        "id": ids.purge_id(purge.id),
        "object": "user.purge",
        "kind": "user",
        "user": purge.user_id,
        "status": "in_progress" if purge.completed_at is None else "completed",
        "threads": purge.threads,
        "threads_done": purge.threads_done,
        "created_at": int(purge.created_at.timestamp()),
        "completed_at": None if purge.completed_at is None else int(purge.completed_at.timestamp()),
    }


class Certificates:
    def __init__(
        self,
        database: Database,
        users: UserKeys,
        checkpoints: Checkpoints,
        key: Ed25519PrivateKey,
        *,
        backup_days: int | None,
        provider_days: float,
        witnessed: bool = False,
    ) -> None:
        """
        Args:
            backup_days: days for which backups are kept; None if unknown.
            provider_days: how long the provider keeps a response that it was not asked to delete.
            witnessed: witnesses cosign checkpoints.
        """
        self._database = database
        self._users = users
        self._checkpoints = checkpoints
        self._key = key
        self._backup_days = backup_days
        self._provider_days = provider_days
        self._witnessed = witnessed

    async def purged(self, project_id: UUID, purge_id: UUID, *, holds: bool) -> Purged | None:
        """Return a complete purge. The purge of a thread has the thread's id, that of a key the project's id.

        Args:
            holds: the erasure of a hold's rows, by the hold's id, too. Ordinary keys must not learn of holds.
        """
        user = await self._database.fetchrow(*SQL.completed_purge(project_id=project_id, id=purge_id))
        if user is not None:
            ended = SQL.end_of_user(
                project_id=project_id,
                bucket=ids.bucket_of(project_id),
                since=user["completed_at"],
                detail=f"%; {ids.purge_id(purge_id)}",
                former=f"{user['threads_done']} threads",
            )
            record: Any = await self._database.fetchrow(*ended)
            return None if record is None else Purged(purge_id, "user", record, user["created_at"], user["user_id"])
        if holds and (hold := await self._erased_hold(project_id, purge_id)) is not None:
            return hold
        kind: Kind = "key" if purge_id == project_id else "thread"
        bucket = ids.bucket_of(purge_id)
        last = SQL.end_of_chain(project_id=project_id, bucket=bucket, chain_id=purge_id, actions=ENDS[kind])
        record = await self._database.fetchrow(*last)
        return None if record is None else Purged(purge_id, kind, record, record["at"])

    async def _erased_hold(self, project_id: UUID, id_: UUID) -> Purged | None:
        of_hold = SQL.erased_hold(
            project_id=project_id, id=id_, bucket=ids.bucket_of(project_id), named=f"{hold_id(id_)}:"
        )
        row: Any = await self._database.fetchrow(*of_hold)
        if row is None:
            return None
        hold = {
            "scope": row["scope"],
            "placed_at": instant(row["placed_at"]),
            "released_at": instant(row["released_at"]),
            "released_by": None if row["released_by"] is None else key_id(row["released_by"]),
        }
        return Purged(id_, "hold", row, row["released_at"], hold=hold)

    async def latest(self, project_id: UUID, kind: Kind, limit: int) -> list[Purged]:
        """Return the latest purges of a kind other than `user`, the newest first."""
        rows: Any = await self._database.fetch(*SQL.latest_ends(project_id=project_id, actions=ENDS[kind], limit=limit))
        return [Purged(_purge_id(kind, row), kind, row, row["at"]) for row in rows]

    async def make_due(self) -> None:
        """Create the missing certificates of users' complete purges. Recent ones wait for a cosignature."""
        for row in await self._database.fetch(*SQL.uncertified()):
            purged = await self.purged(row["project_id"], row["purge_id"], holds=False)
            if purged is None:
                continue
            with suppress(Conflict):
                if (
                    not self._witnessed
                    or _is_old(purged)
                    or (await self._covering(row["project_id"], purged))["cosigned"]
                ):
                    await self._note(row["project_id"], purged)

    async def file(self, project_id: UUID, purged: Purged) -> Iterator[bytes]:
        """Return the certificate of a purge as a file, in pieces. Create it if there is none.

        Raises:
            Conflict: no checkpoint covers the end of the purge.
        """
        note = await self._note(project_id, purged)
        return lines(note, await self._leaves(project_id, purged) or b"")

    async def _note(self, project_id: UUID, purged: Purged) -> str:
        key = {"project_id": project_id, "purge_id": purged.id, "seq": purged.record["seq"]}
        while (note := await self._database.fetchval(*SQL.certificate(**key))) is None:
            made = signed(await self._statement(project_id, purged), self._key)
            await self._database.fetchrow(*SQL.keep_certificate(**key, note=str(made)))
        return str(note)

    async def _leaves(self, project_id: UUID, purged: Purged) -> bytes | None:
        """Return the deletion records of a user's purge; None for other purges, and for purges by earlier releases."""
        if purged.kind != "user":
            return None
        found: bytes | None = await self._database.fetchval(
            *SQL.records_kept(project_id=project_id, purge_id=purged.id)
        )
        return found

    async def _statement(self, project_id: UUID, purged: Purged) -> dict[str, Any]:
        record, purge_id = purged.record, ids.purge_id(purged.id)
        if purged.kind == "user":
            await self._forget_user(project_id, purged)
        position, proof, checkpoint = await self._covered(project_id, purged)
        shown = record_object(record)
        leaves = await self._leaves(project_id, purged)
        return {
            "version": 1,
            "purge": purge_id,
            "kind": purged.kind,
            **{name: shown["actor"][name] for name in ("project", "user", "key", "address")},
            "began_at": instant(purged.began_at),
            "ended_at": shown["at"],
            "counts": counts(purged.kind, record["detail"]),
            "record": shown,
            "position": position,
            "proof": proof,
            "checkpoint": checkpoint,
            "records": None if leaves is None else _listed(leaves),
            "remains": [*await self._held(project_id, purged), *self._remains(purged)],
            **({} if purged.hold is None else {"hold": purged.hold}),
        }

    async def _forget_user(self, project_id: UUID, purged: Purged) -> None:
        """Delete the user's digest key, if a worker died between the end of the purge and that deletion."""
        assert purged.user is not None
        named = await self._users.digest(project_id, purged.user)
        if named is not None and named == purged.record["user_digest"]:
            await self._users.forget(project_id, purged.user)

    async def _covered(self, project_id: UUID, purged: Purged) -> tuple[int, list[str], str]:
        """Return the position of the record's leaf, its inclusion proof, and the checkpoint that covers it."""
        row = await self._covering(project_id, purged)
        proofs, path = Proofs(), list[bytes]()
        async for rows in store.leaves(self._database, project_id, size=row["size"]):
            for leaf in rows:
                data = leaf_data(leaf["chain_id"], leaf["seq"], leaf["hash"])
                proofs.add(data, path if leaf["position"] == row["position"] else None)
        proofs.end()
        note = await store.cosigned_note(self._database, project_id, row["size"], row["note"])
        return row["position"], [encoded(each) for each in path], note

    async def _covering(self, project_id: UUID, purged: Purged) -> Mapping[str, Any]:
        """Return the leaf of a purge's record and the checkpoint that covers it. Write a checkpoint if there is none.

        Raises:
            Conflict: nothing of the project's trail is signed any more, because it was changed.
        """
        place = {"project_id": project_id, "chain_id": purged.record["chain_id"], "seq": purged.record["seq"]}
        await self._checkpoints.write(project_id, [purged.record])
        row: Mapping[str, Any] | None = await self._database.fetchrow(*SQL.covering(**place))
        if row is None:
            # An earlier release signed the record without a note. A new record leads to a new checkpoint with a note.
            async with self._database.session() as session:
                await append_record(session, SERVICE, project_id, "audit.exported", detail=ids.purge_id(purged.id))
            await self._checkpoints.write(project_id)
            row = await self._database.fetchrow(*SQL.covering(**place))
        if row is None:
            raise Conflict(
                "No checkpoint covers the end of this purge. 'everthread audit verify' shows the reason.",
                param="purge_id",
                code="purge_not_completed",
            )
        return row

    async def _held(self, project_id: UUID, purged: Purged) -> list[dict[str, Any]]:
        """Return the numbers of rows that holds and the minimum retention keep after a purge."""
        if purged.kind == "key":
            return []
        if purged.kind == "hold":
            why = "Rows that another active hold or a minimum retention covers are kept until its end."
            return [{"what": "held_rows", "why": why}]
        thread_id = purged.id if purged.kind == "thread" else LOWEST
        async with self._database.session() as session:
            kept = await kept_of(session, project_id, thread_ids=[thread_id], user_id=purged.user)
        found: list[dict[str, Any]] = [
            {
                "what": "held_rows",
                "hold": hold_id(id_),
                "count": rows,
                "why": "A legal hold keeps them until its release.",
            }
            for id_, rows in kept.items()
        ]
        longer = SQL.kept_longer(
            project_id=project_id, user_id=purged.user, bucket=ids.bucket_of(thread_id), thread_id=thread_id
        )
        row = await self._database.fetchrow(*longer)
        if row is not None and row["rows"]:
            why = "The project's minimum retention keeps them."
            found.append({"what": "kept_rows", "count": row["rows"], "until": instant(row["until"]), "why": why})
        return found

    def _remains(self, purged: Purged) -> list[dict[str, Any]]:
        """Return everything else that remains of the contents, with the reasons."""
        found = [
            each | ({"until": each["until"] and instant(each["until"])} if "until" in each else {})
            for each in self.remaining(purged.kind, purged.record["at"])
        ]
        inherited = counts(purged.kind, purged.record["detail"]).get("inherited", 0)
        if purged.kind == "thread" and inherited:
            found.append({"what": "turns", "count": inherited, "why": "Forks of the thread continue from them."})
        return found

    def remaining(self, kind: Kind, ended: datetime) -> list[dict[str, Any]]:
        """Return what remains after every purge of a kind, with the reasons."""
        backups = None if self._backup_days is None else ended + timedelta(days=self._backup_days)
        found: list[dict[str, Any]] = [
            {
                "what": "audit_records",
                "why": "The trail is append-only. It contains ids, times, sizes and digests, whose salts are deleted.",
            },
            {
                "what": "backups",
                "until": backups,
                "why": "unknown, ask the operator" if backups is None else "Backups are kept for this time.",
            },
            {"what": "replicas", "why": "They follow the database, and delete the same rows when they receive them."},
        ]
        if kind == "hold":
            return found
        if kind == "key":
            found.append({"what": "rows", "why": "Encrypted by the key that was destroyed. Nobody can read them."})
            return found
        found.append(
            {
                "what": "provider_copies",
                "until": ended + timedelta(days=self._provider_days),
                "why": "Their deletion was requested. Otherwise, they expire at the provider at this time.",
            }
        )
        if kind == "user":
            found += [
                {"what": "usage", "why": "Counts of tokens and costs by day and model, which do not name the user."},
                {"what": "purge_request", "why": "GET /v1/purges shows the user whom the purge was requested for."},
            ]
        return found


def _is_old(purged: Purged) -> bool:
    return purged.record["at"] < datetime.now(UTC) - WITNESS_WAIT


def _purge_id(kind: Kind, row: RecordRow) -> UUID:
    """Return the purge id for a record that ends a purge."""
    hold_id = ids.parse((row["detail"] or "").partition(":")[0], ("hold",)) if kind == "hold" else None
    return hold_id or row["chain_id"]


def _listed(leaves: bytes) -> dict[str, Any]:
    tree = Tree()
    for at in range(0, len(leaves), LEAF_BYTES):
        tree.add(leaves[at : at + LEAF_BYTES])
    return {"count": tree.size, "root": tree.root().hex()}

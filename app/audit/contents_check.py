"""Whether threads, turns and calls still hold what their audit records say of them.

A content that is gone must have a record that says so: of its deletion, or of its purge.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from app.audit.rows import RecordRow
from app.db import ids
from app.db.engine import Database
from app.memory.tables import Compaction
from app.sealing import opening
from app.sealing.at_rest import item_place
from app.sealing.ciphertext import CannotOpen, Place
from app.sealing.columns import rows_of
from app.threads.tables import Thread
from app.trail import contents
from app.turns.pieces import furthest, put_together
from app.turns.tables import Call, SentPiece, Turn

TURNS_MADE, CALLS_MADE, PIECES_SENT = map(rows_of, (Turn, Call, SentPiece))
THREADS_NOW, COMPACTIONS = rows_of(Thread), rows_of(Compaction)

Found = tuple[str, str]
Row = dict[str, Any]

TURNS_AT_ONCE = 1000

OPENING = ("turn.opened", "items.added")
GONE = ("turn.deleted", "turn.purged", "item.deleted")
THREAD_GONE = ("thread.deleted", "thread.purged")
THREAD_SAID = ("thread.created", "thread.changed", "thread.imported")

# A chain's turns lie in its bucket.
TURNS = """
SELECT t.id, t.salt, t.model, t.params::text AS params, t.metadata, t.status, t.continuation,
    t.response::text AS response, t.usage::text AS usage, t.error::text AS error,
    t.incomplete_details::text AS incomplete_details, t.binding, t.response_id, t.pace::text AS pace,
    c.id AS compaction_id, c.salt AS compaction_salt, c.text AS compaction, c.calls::text AS compaction_calls,
    c.usage::text AS compaction_usage, (
        SELECT array_agg(ARRAY[i.origin, i.item_id, i.data::text, i.position::text] ORDER BY i.position) FROM items i
        WHERE i.project_id = $1 AND i.bucket = t.bucket AND i.turn_id = t.id
    ) AS items
FROM unnest($2::smallint[], $3::uuid[]) AS wanted (bucket, id)
JOIN turns t ON t.project_id = $1 AND t.bucket = wanted.bucket AND t.id = wanted.id
LEFT JOIN compactions c ON c.project_id = $1 AND c.bucket = t.bucket AND c.turn_id = t.id AND c.status = 'ready'
"""

CALLS = """
SELECT c.turn_id, c.attempt, c.continuation, c.url, c.frames, c.refs, c.dropped_items, c.status, c.response_id,
    c.error::text AS error, t.thread_id
FROM unnest($2::smallint[], $3::uuid[]) AS wanted (bucket, id)
JOIN calls c ON c.project_id = $1 AND c.bucket = wanted.bucket AND c.turn_id = wanted.id
JOIN turns t ON t.project_id = $1 AND t.bucket = wanted.bucket AND t.id = wanted.id
"""

PIECES = """
SELECT p.thread_id, p.number, p.digest, p.data FROM unnest($2::smallint[], $3::uuid[]) AS wanted (bucket, id)
JOIN pieces p ON p.project_id = $1 AND p.bucket = wanted.bucket AND p.thread_id = wanted.id
WHERE p.data IS NOT NULL
"""

THREADS = """
SELECT th.id, th.salt, th.name, th.title, th.user_id, th.metadata, th.archived_at
FROM unnest($2::smallint[], $3::uuid[]) AS wanted (bucket, id)
JOIN threads th ON th.project_id = $1 AND th.bucket = wanted.bucket AND th.id = wanted.id
"""

# What was said since, of chains that change while they are looked at.
SINCE = """
SELECT chain_id, seq, action, turn_id, content, detail FROM audit_records
WHERE project_id = $1 AND bucket = $2 AND chain_id = $3 AND seq > $4 ORDER BY seq
"""

# A turn without the records that it must have was written past the service, or its records were removed.
UNTOLD = """
SELECT t.thread_id, t.id, o.turn_id IS NULL AS unopened FROM turns t
LEFT JOIN audit_records o ON o.project_id = $1 AND o.bucket = t.bucket AND o.turn_id = t.id
    AND o.action IN ('turn.opened', 'items.added', 'turn.imported')
LEFT JOIN audit_records c ON c.project_id = $1 AND c.bucket = t.bucket AND c.turn_id = t.id
    AND c.action IN ('turn.closed', 'items.added', 'turn.imported')
WHERE t.project_id = $1 AND ($2::uuid IS NULL OR t.thread_id = $2) AND t.salt IS NOT NULL
    AND (o.turn_id IS NULL OR (c.turn_id IS NULL AND t.status <> 'in_progress'))
ORDER BY t.id LIMIT 10
"""


def _at(found: Sequence[UUID]) -> tuple[list[int], list[UUID]]:
    """Ids with their buckets, as the statements take them."""
    return [ids.bucket_of(id_) for id_ in found], list(found)


class Chain:
    """What the records of one chain say, the last word for each content."""

    def __init__(self, id_: UUID) -> None:
        self.id = id_
        self.seq = 0
        self.said: dict[UUID, dict[str, tuple[int, bytes]]] = {}
        """By turn and kind of content: the record's number, and the digest."""
        self.thread: tuple[int, bytes] | None = None
        self.gone: set[UUID] = set()
        self.lost_compactions = False
        """Calls that had sent one of them cannot be put together any more."""
        self.deleted = False

    def take(self, row: Any) -> None:
        self.seq = row["seq"]
        action, turn_id, content = row["action"], row["turn_id"], row["content"]
        if action in THREAD_GONE:
            # What its forks have taken over of it is in their hands now, and not looked at.
            self.deleted = True
            self.said.clear()
        elif action in GONE:
            self.gone.add(turn_id)
        elif action == "compaction.deleted":
            self.lost_compactions = True
            self.said.get(turn_id, {}).pop("compaction.made", None)
        elif content is not None and action in THREAD_SAID:
            self.thread = (self.seq, content)
            self.deleted = False
        elif content is not None and turn_id is not None:
            kind = "opened" if action in OPENING else action.removeprefix("turn.")
            if kind == "called":
                kind = f"call {row['detail'].partition(' ')[0]}"
            self.said.setdefault(turn_id, {})[kind] = (self.seq, content)


class Contents:
    def __init__(self, database: Database, project_id: UUID) -> None:
        self._database = database
        self._project_id = project_id
        self._chains: list[Chain] = []

    async def take(self, rows: Sequence[RecordRow]) -> list[Found]:
        """Take the next records, in chain order, and compare the contents of the chains that are complete by now."""
        for row in rows:
            if row["chain_id"] == self._project_id:
                continue
            if not self._chains or self._chains[-1].id != row["chain_id"]:
                self._chains.append(Chain(row["chain_id"]))
            self._chains[-1].take(row)
        complete, self._chains = self._chains[:-1], self._chains[-1:]
        return await self._compare(complete)

    async def end(self, thread_id: UUID | None) -> list[Found]:
        """Compare the last chain, and look for turns that no record tells of."""
        found = await self._compare(self._chains)
        for row in await self._database.fetch(UNTOLD, self._project_id, thread_id):
            said = "no record tells that it was opened" if row["unopened"] else "no record tells how it was closed"
            found.append((f"{ids.thread_id(row['thread_id'])} {ids.turn_id(row['id'])}", f"{said}: it was removed"))
        return found

    async def _compare(self, chains: list[Chain]) -> list[Found]:
        found: list[Found] = []
        threads = await self._threads([chain.id for chain in chains])
        for chain in chains:
            wrong = self._wrong_thread(chain, threads.get(chain.id))
            if wrong is not None and await self._moved_on(chain):
                wrong = self._wrong_thread(chain, (await self._threads([chain.id])).get(chain.id))
            if wrong is not None:
                found.append((ids.thread_id(chain.id), wrong))
        for some in _portions(chains):
            found += await self._compare_turns(some)
        return found

    async def _threads(self, thread_ids: Sequence[UUID]) -> dict[UUID, Row]:
        rows = await self._database.fetch(THREADS, self._project_id, *_at(thread_ids))
        return {row["id"]: THREADS_NOW.opened(self._project_id, row) for row in rows}

    async def _turns(self, turn_ids: Sequence[UUID]) -> dict[UUID, Row]:
        rows = await self._database.fetch(TURNS, self._project_id, *_at(turn_ids))
        return {row["id"]: _opened_turn(self._project_id, row) for row in rows}

    def _wrong_thread(self, chain: Chain, row: Row | None) -> str | None:
        if chain.thread is None:
            return None  # Older than the audit trail.
        if row is None:
            return None if chain.deleted else "the thread is gone, and no record tells that it was deleted"
        if row.get("unreadable"):
            return _moved([f"threads.{name}" for name in row["unreadable"]])
        if row["salt"] is None:
            return "the thread's salt is gone: what it says cannot be proved"
        seq, digest = chain.thread
        now = contents.thread(
            row["salt"], row["name"], row["title"], row["user_id"], row["metadata"],
            archived=row["archived_at"] is not None,
        )  # fmt: skip
        return None if now == digest else f"its name, title, user, metadata or archiving is not what record {seq} says"

    async def _compare_turns(self, portion: list[tuple[Chain, UUID]]) -> list[Found]:
        turn_ids = [turn_id for _, turn_id in portion]
        turns = await self._turns(turn_ids)
        calls = await self._calls(turns)
        found: list[Found] = []
        for chain, turn_id in portion:
            if (row := turns.get(turn_id)) is not None and row["unreadable"]:
                # Even where an item of the turn was deleted, and its digests prove nothing any more.
                found.append((f"{ids.thread_id(chain.id)} {ids.turn_id(turn_id)}", _moved(row["unreadable"])))
                continue
            for seq, wrong in self._wrong_turn(chain, turn_id, turns.get(turn_id), calls):
                await self._moved_on(chain)
                if turn_id not in chain.gone and not chain.deleted:
                    found.append((f"{ids.thread_id(chain.id)} record {seq}", f"{ids.turn_id(turn_id)}: {wrong}"))
                    break
        return found

    def _wrong_turn(
        self, chain: Chain, turn_id: UUID, row: Row | None, calls: dict[tuple[UUID, str], dict[str, Any]]
    ) -> Iterator[tuple[int, str]]:
        if turn_id in chain.gone or chain.deleted:
            return
        for kind, (seq, digest) in chain.said.get(turn_id, {}).items():
            if row is None or row["salt"] is None:
                yield seq, "its content is gone, and no record tells that it was deleted"
                return
            call = calls.get((turn_id, kind))
            if call is not None and call["unreadable"]:
                yield seq, _moved(call["unreadable"])
                return
            if call is not None and call["body"] is None and (chain.gone or chain.lost_compactions):
                continue  # It had sent what was deleted.
            if _now(kind, row, calls) != digest:
                yield seq, f"what it holds is not what was recorded ({kind})"

    async def _calls(self, turns: dict[UUID, Row]) -> dict[tuple[UUID, str], dict[str, Any]]:
        """The calls of turns, by turn and kind of content, their bodies put together."""
        rows = await self._database.fetch(CALLS, self._project_id, *_at(list(turns)))
        threads = {row["thread_id"] for row in rows if furthest(row["refs"])[1]}
        pieces: dict[UUID, dict[int, str | None]] = {thread_id: {} for thread_id in threads}
        if threads:
            for piece in await self._database.fetch(PIECES, self._project_id, *_at(list(threads))):
                opened = PIECES_SENT.opened(self._project_id, piece)
                pieces[piece["thread_id"]][piece["number"]] = opened["data"]
        calls: dict[tuple[UUID, str], dict[str, Any]] = {}
        for row in rows:
            own = {int(item[3]): item[2] for item in turns[row["turn_id"]]["items"] or [] if item[0] == "input"}
            call = _opened_call(self._project_id, row)
            body = put_together(call["frames"], row["refs"], own, pieces.get(row["thread_id"], {}))
            calls[row["turn_id"], f"call {row['attempt']}"] = {**call, "body": body}
        return calls

    async def _moved_on(self, chain: Chain) -> bool:
        """Take the records that were appended to a chain since it was read. False if there are none."""
        rows = await self._database.fetch(SINCE, self._project_id, ids.bucket_of(chain.id), chain.id, chain.seq)
        for row in rows:
            chain.take(row)
        return bool(rows)


def _moved(columns: Sequence[str]) -> str:
    return f"{', '.join(sorted(set(columns)))} cannot be opened: it was changed, or written for another row or project"


def _portions(chains: list[Chain]) -> Iterator[list[tuple[Chain, UUID]]]:
    """The turns of chains, a thousand at a time."""
    turns = [(chain, turn_id) for chain in chains for turn_id in chain.said]
    for start in range(0, len(turns), TURNS_AT_ONCE):
        yield turns[start : start + TURNS_AT_ONCE]


class _Opener:
    """Opens the values of a row, and remembers which cannot be opened."""

    def __init__(self) -> None:
        self.unreadable: list[str] = []

    def open(self, read: Callable[[Place, str, Any], Any], place: Place, field: str, stored: Any) -> Any:
        if stored is None:
            return None
        try:
            return read(place, field, stored)
        except CannotOpen:
            self.unreadable.append(f"{place.holder}.{field}")
            return None


def _opened_turn(project_id: UUID, row: asyncpg.Record) -> Row:
    """Return a turn with its items and its compaction, opened, and the columns of it that cannot be."""
    opener, turn = _Opener(), TURNS_MADE.at(project_id, row["id"])
    found: Row = {**row}
    for name in ("params", "response", "error", "incomplete_details"):
        found[name] = opener.open(opening.document_text, turn, name, row[name])
    found["metadata"] = opener.open(_metadata, turn, "metadata", row["metadata"])
    found["salt"] = opener.open(_salt, turn, "salt", row["salt"])
    if row["compaction_id"] is not None:
        made = COMPACTIONS.at(project_id, row["id"], row["compaction_id"])
        found["compaction"] = opener.open(opening.text, made, "text", row["compaction"])
        found["compaction_calls"] = opener.open(opening.document_text, made, "calls", row["compaction_calls"])
        found["compaction_salt"] = opener.open(_salt, made, "salt", row["compaction_salt"])
    found["items"] = [
        [origin, id_, opener.open(opening.document_text, _item(project_id, row, position), "data", data), position]
        for origin, id_, data, position in row["items"] or []
    ]
    return {**found, "unreadable": opener.unreadable}


def _opened_call(project_id: UUID, row: asyncpg.Record) -> Row:
    opener, place = _Opener(), CALLS_MADE.at(project_id, row["turn_id"], row["attempt"])
    frames = opener.open(opening.texts, place, "frames", row["frames"])
    error = opener.open(opening.document_text, place, "error", row["error"])
    return {**row, "frames": frames, "error": error, "unreadable": opener.unreadable}


def _item(project_id: UUID, turn: asyncpg.Record, position: str) -> Place:
    return item_place(project_id, turn["id"], int(position))


def _metadata(place: Place, field: str, stored: dict[str, Any]) -> dict[str, str]:
    return opening.metadata(place, stored)


def _salt(place: Place, field: str, stored: bytes) -> bytes:
    return opening.salt(place, stored)


def _now(kind: str, row: Row, calls: dict[tuple[UUID, str], dict[str, Any]]) -> bytes | None:
    """The digest of what a turn holds now."""
    salt = row["salt"]
    items = row["items"] or []
    sent = [item for item in items if item[0] == "input"]
    made = [item for item in items if item[0] == "output"]
    match kind:
        case "opened":
            return contents.opened(
                salt, row["model"], row["params"], row["metadata"], [i[1] for i in sent], [i[2] for i in sent]
            )
        case "closed":
            return contents.closed(
                salt, row["status"], row["continuation"], row["response"], row["usage"], row["error"],
                row["incomplete_details"], row["binding"], row["response_id"], row["pace"],
                [i[1] for i in made], [i[2] for i in made],
            )  # fmt: skip
        case "imported":
            outcome = (
                row["status"], row["continuation"], row["response"], row["usage"], row["error"],
                row["incomplete_details"],
            )  # fmt: skip
            request = (row["model"], row["params"], row["metadata"])
            return contents.imported(
                salt, request, outcome, row["response_id"], [i[1] for i in items], [i[2] for i in items]
            )
        case "compaction.made":
            if row["compaction"] is None:
                return None
            documents = (row["compaction"], row["compaction_calls"], row["compaction_usage"])
            return contents.compacted(row["compaction_salt"], *documents)
        case _:
            call = calls.get((row["id"], kind))
            if call is None or call["body"] is None:
                return None
            return contents.called(
                salt, call["attempt"], call["continuation"], call["url"], call["body"].encode(), call["dropped_items"],
                call["status"], call["response_id"], call["error"],
            )  # fmt: skip

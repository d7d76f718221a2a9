"""Whether threads, turns and calls still hold what their audit records say of them.

A content that is gone must have a record that says so: of its deletion, or of its purge.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from app.audit.rows import RecordRow
from app.db import ids
from app.db.engine import Database
from app.db.sealed import document_text, opened_salt, opened_text, opened_texts
from app.trail import contents
from app.turns.pieces import furthest, put_together

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
    c.salt AS compaction_salt, c.text AS compaction, c.calls::text AS compaction_calls,
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
SELECT p.thread_id, p.number, p.data FROM unnest($2::smallint[], $3::uuid[]) AS wanted (bucket, id)
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
        return {
            row["id"]: {
                **row,
                "salt": opened_salt(row["salt"]),
                "title": opened_text(row["title"]),
            }
            for row in rows
        }

    async def _turns(self, turn_ids: Sequence[UUID]) -> dict[UUID, Row]:
        rows = await self._database.fetch(TURNS, self._project_id, *_at(turn_ids))
        return {row["id"]: _opened_turn(row) for row in rows}

    def _wrong_thread(self, chain: Chain, row: Row | None) -> str | None:
        if chain.thread is None:
            return None  # Older than the audit trail.
        if row is None:
            return None if chain.deleted else "the thread is gone, and no record tells that it was deleted"
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
                pieces[piece["thread_id"]][piece["number"]] = opened_text(piece["data"])
        calls: dict[tuple[UUID, str], dict[str, Any]] = {}
        for row in rows:
            own = {int(item[3]): item[2] for item in turns[row["turn_id"]]["items"] or [] if item[0] == "input"}
            body = put_together(opened_texts(row["frames"]), row["refs"], own, pieces.get(row["thread_id"], {}))
            error = document_text(row["error"])
            calls[row["turn_id"], f"call {row['attempt']}"] = {**row, "body": body, "error": error}
        return calls

    async def _moved_on(self, chain: Chain) -> bool:
        """Take the records that were appended to a chain since it was read. False if there are none."""
        rows = await self._database.fetch(SINCE, self._project_id, ids.bucket_of(chain.id), chain.id, chain.seq)
        for row in rows:
            chain.take(row)
        return bool(rows)


def _portions(chains: list[Chain]) -> Iterator[list[tuple[Chain, UUID]]]:
    """The turns of chains, a thousand at a time."""
    turns = [(chain, turn_id) for chain in chains for turn_id in chain.said]
    for start in range(0, len(turns), TURNS_AT_ONCE):
        yield turns[start : start + TURNS_AT_ONCE]


def _opened_turn(row: asyncpg.Record) -> Row:
    """A turn with its items and its compaction, what of it lies sealed opened."""
    documents = ("params", "response", "error", "incomplete_details", "compaction_calls")
    return {
        **row,
        **{name: document_text(row[name]) for name in documents},
        "salt": opened_salt(row["salt"]),
        "compaction_salt": opened_salt(row["compaction_salt"]),
        "compaction": opened_text(row["compaction"]),
        "items": [[origin, id_, document_text(data), position] for origin, id_, data, position in row["items"] or []],
    }


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

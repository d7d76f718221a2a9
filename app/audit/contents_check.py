"""Comparison of threads, turns, calls, feedback, shares, keys and projects with what their audit records claim.

A content that is gone must have a record that says so: of its deletion, or of its purge.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from app.audit.claims import Claim, ProjectClaims, ThreadClaims
from app.audit.rows import RecordRow
from app.db import ids
from app.db.engine import Database
from app.db.sql import Statement, statements_of
from app.history.tables import Feedback, Share
from app.media import store as media
from app.memory.tables import Compaction
from app.sealing import opening
from app.sealing.at_rest import item_place
from app.sealing.ciphertext import CannotOpen, Place
from app.sealing.columns import Rows, rows_of
from app.threads.tables import Thread
from app.trail import contents
from app.turns.pieces import own_parts, put_together, referenced_pieces
from app.turns.tables import Call, SentPiece, Turn

TURNS_MADE, CALLS_MADE, PIECES_SENT = map(rows_of, (Turn, Call, SentPiece))
THREADS_NOW, COMPACTIONS = rows_of(Thread), rows_of(Compaction)
BESIDE: dict[contents.Kind, Rows] = {"feedback": rows_of(Feedback), "share": rows_of(Share)}
"""The rows that are kept beside the turns of a thread."""

Found = tuple[str, str]
Row = dict[str, Any]
Calls = dict[tuple[UUID, str], dict[str, Any]]

SHOWN = {"compacted": "compaction", "left": "what was left of it", "turn": "the whole turn"}
"""The kinds of content as they are named in a problem, where that is not their own word."""

TURNS_AT_ONCE = 1000
TRIES = 4
"""Attempts at comparing a content that changes while the trail is read."""

ITEM_FIELDS = ("item_positions", "item_origins", "item_types", "item_ids", "item_data")


SQL = statements_of(__file__)


class Contents:
    def __init__(self, database: Database, project_id: UUID) -> None:
        self._database = database
        self._project_id = project_id
        self._project = ProjectClaims()
        self._chains: list[ThreadClaims] = []

    async def take(self, rows: Sequence[RecordRow]) -> list[Found]:
        """Take the next records, in chain order, and compare the contents of the chains that are complete by now."""
        for row in rows:
            if row["chain_id"] == self._project_id:
                self._project.take(row)
                continue
            if not self._chains or self._chains[-1].id != row["chain_id"]:
                self._chains.append(ThreadClaims(row["chain_id"]))
            self._chains[-1].take(row)
        complete, self._chains = self._chains[:-1], self._chains[-1:]
        return await self._compare(complete)

    async def end(self, thread_id: UUID | None) -> list[Found]:
        """Compare the last chain, and look for rows that no record tells of."""
        found = await self._compare(self._chains)
        here = {"project_id": self._project_id, "thread_id": thread_id}
        for row in await self._database.fetch(*SQL.unrecorded_threads(**here)):
            found.append((ids.thread_id(row["id"]), "no record tells how it came here: it was removed"))
        for row in await self._database.fetch(*SQL.unrecorded_turns(**here)):
            said = "no record tells how it came here" if row["unopened"] else "no record tells how it was closed"
            found.append((f"{ids.thread_id(row['thread_id'])} {ids.turn_id(row['id'])}", f"{said}: it was removed"))
        for statement, prefix in ((SQL.unrecorded_feedback, "feedback"), (SQL.unrecorded_shares, "share")):
            for row in await self._database.fetch(*statement(**here)):
                found.append((f"{prefix}_{row['id'].hex}", "no record tells that it was made"))
        if thread_id is None:
            found += await self._compare_project()
        return found

    async def _compare(self, chains: list[ThreadClaims]) -> list[Found]:
        found: list[Found] = []
        threads = await self._threads(chains)
        places = await self._places(chains)
        for chain in chains:
            row = threads.get(chain.id)
            if row is not None and row["chain_seq"] > chain.seq:
                await self._move_on(chain, row["chain_seq"])
                places |= await self._places([chain])
            elif row is None and not chain.deleted:
                await self._move_on(chain)
            wrong = _wrong_thread(chain, row, places.get(chain.id, {}))
            if wrong is not None:
                found.append((ids.thread_id(chain.id), wrong))
            found += await self._compare_beside(chain)
        for some in _portions(chains):
            found += await self._compare_turns(some)
        return found

    async def _threads(self, chains: Sequence[ThreadClaims]) -> dict[UUID, Row]:
        rows = await self._database.fetch(*SQL.threads(**self._at([chain.id for chain in chains])))
        return {row["id"]: THREADS_NOW.opened(self._project_id, row) for row in rows}

    async def _places(self, chains: Sequence[ThreadClaims]) -> dict[UUID, dict[UUID, tuple[UUID | None, int]]]:
        """Return the parent of each turn of these threads, and whether it ran beside another, by thread."""
        places: dict[UUID, dict[UUID, tuple[UUID | None, int]]] = {chain.id: {} for chain in chains}
        for row in await self._database.fetch(*SQL.places(**self._at(list(places)))):
            places[row["thread_id"]][row["id"]] = (row["parent_id"], row["beside"])
        return places

    async def turns(self, turn_ids: Sequence[UUID]) -> dict[UUID, Row]:
        """Return turns with their items and their compaction as they are stored now, opened."""
        rows = await self._database.fetch(*SQL.turns(**self._at(turn_ids)))
        turns = {row["id"]: _opened_turn(self._project_id, row) for row in rows}
        texts = {
            (turn_id, position): text
            for turn_id, row in turns.items()
            for position, text in zip(row["item_positions"], row["item_data"], strict=True)
        }
        whole = await media.restored_texts(self._database, self._project_id, texts)
        for turn_id, row in turns.items():
            before = row["item_data"].count(None)
            row["item_data"] = [whole[turn_id, position] for position in row["item_positions"]]
            if row["item_data"].count(None) > before:
                row["unreadable"].append("media.data")
        return turns

    async def _compare_turns(self, portion: list[tuple[ThreadClaims, UUID]]) -> list[Found]:
        turn_ids = [turn_id for _, turn_id in portion]
        turns = await self.turns(turn_ids)
        calls = await self.calls(turns)
        found: list[Found] = []
        for chain, turn_id in portion:
            row = turns.get(turn_id)
            wrong = next(_wrong_turn(chain, turn_id, row, calls), None)
            for _ in range(TRIES):
                if wrong is None or not await self._move_on(chain):
                    break
                some = await self.turns([turn_id])
                row = some.get(turn_id)
                wrong = next(_wrong_turn(chain, turn_id, row, await self.calls(some)), None)
            if wrong is not None and row is not None and turn_id not in chain.turns:
                # Only what a fork has taken over, and has not changed since, is what the deleted thread's records say.
                came_by = SQL.came_by(
                    project_id=self._project_id,
                    bucket=ids.bucket_of(turn_id),
                    chain_id=row["thread_id"],
                    turn_id=turn_id,
                )
                wrong = wrong if await self._database.fetchval(*came_by) == "turn.inherited" else None
            if wrong is not None:
                seq, said = wrong
                found.append((f"{ids.thread_id(chain.id)} record {seq}", f"{ids.turn_id(turn_id)}: {said}"))
        return found

    async def _compare_beside(self, chain: ThreadClaims) -> list[Found]:
        """Compare what is kept beside the turns of a thread: feedback and shares."""
        found: list[Found] = []
        for _ in range(TRIES):
            found = [
                *await self._wrong("feedback", SQL.feedback, chain, chain.feedback),
                *await self._wrong("share", SQL.shares, chain, chain.shares),
                *await self._wrong("feedback", SQL.feedback, chain, chain.former_feedback, may_be_gone=True),
            ]
            if not found or not await self._move_on(chain):
                break
        return found

    async def _wrong(
        self,
        kind: contents.Kind,
        statement: Statement,
        chain: ThreadClaims,
        claims: dict[UUID, Claim],
        *,
        may_be_gone: bool = False,
    ) -> list[Found]:
        if not claims:
            return []
        rows = {row["id"]: row for row in await self._database.fetch(*statement(**self._at(list(claims))))}
        found: list[Found] = []
        for id_, claim in claims.items():
            row = rows.get(id_)
            if row is None:
                said = None if may_be_gone else "it is gone, and no record tells that it was deleted"
            else:
                said = _wrong_row(kind, claim, BESIDE[kind].opened(self._project_id, row))
            if said is not None:
                found.append((f"{ids.thread_id(chain.id)} record {claim.seq}", f"{kind}_{id_.hex}: {said}"))
        return found

    async def _compare_project(self) -> list[Found]:
        """Compare the project and its keys with its own chain."""
        found: list[Found] = []
        for _ in range(TRIES):
            project = await self._database.fetchrow(*SQL.project(project_id=self._project_id))
            keys = {row["id"]: row for row in await self._database.fetch(*SQL.keys(project_id=self._project_id))}
            found = list(_wrong_project(self._project, project, keys))
            if not found:
                break
            since = await self._since(self._project_id, self._project.seq, None)
            for record in since:
                self._project.take(record)
            if not since:
                break
        return found

    async def calls(self, turns: dict[UUID, Row]) -> Calls:
        """Return the calls of turns, by turn and kind of content, their bodies put together."""
        rows = await self._database.fetch(*SQL.calls(**self._at(list(turns))))
        ranges: dict[UUID, tuple[int, int]] = {}
        for row in rows:
            first, last = referenced_pieces(row["refs"])
            if last:
                known = ranges.get(row["thread_id"], (first, last))
                ranges[row["thread_id"]] = min(first, known[0]), max(last, known[1])
        pieces: dict[UUID, dict[int, str | None]] = {thread_id: {} for thread_id in ranges}
        if ranges:
            firsts, lasts = map(list, zip(*ranges.values(), strict=True))
            asked = SQL.pieces(**self._at(list(ranges)), firsts=firsts, lasts=lasts)
            for piece in await self._database.fetch(*asked):
                opened = PIECES_SENT.opened(self._project_id, piece)
                medium = piece["media_id"] is not None
                text = media.sent_text(self._project_id, piece) if medium else opened["data"]
                pieces[piece["thread_id"]][piece["number"]] = text
        calls: Calls = {}
        for row in rows:
            turn = turns[row["turn_id"]]
            items = zip(turn["item_origins"], turn["item_positions"], turn["item_data"], strict=True)
            own = own_parts({position: data for origin, position, data in items if origin == "input"})
            call = _opened_call(self._project_id, row)
            body = put_together(call["frames"], row["refs"], own, pieces.get(row["thread_id"], {}))
            calls[row["turn_id"], f"call {row['attempt']}"] = {**call, "body": body}
        return calls

    async def _move_on(self, chain: ThreadClaims, until: int | None = None) -> bool:
        """Take the records that were appended to a chain since it was read. False if there are none."""
        rows = await self._since(chain.id, chain.seq, until)
        for row in rows:
            chain.take(row)
        return bool(rows)

    async def _since(self, chain_id: UUID, seq: int, until: int | None) -> list[asyncpg.Record]:
        return await self._database.fetch(
            *SQL.since(
                project_id=self._project_id, bucket=ids.bucket_of(chain_id), chain_id=chain_id, seq=seq, until=until
            )
        )

    def _at(self, found: Sequence[UUID]) -> dict[str, Any]:
        """Return ids with their buckets, as the statements take them."""
        buckets = [ids.bucket_of(id_) for id_ in found]
        return {"project_id": self._project_id, "buckets": buckets, "ids": list(found)}


def _moved(columns: Sequence[str]) -> str:
    return f"{', '.join(sorted(set(columns)))} cannot be opened: it was changed, or written for another row or project"


def _portions(chains: list[ThreadClaims]) -> Iterator[list[tuple[ThreadClaims, UUID]]]:
    """Yield the turns of chains, a thousand at a time."""
    turns = [(chain, turn_id) for chain in chains for turn_id in {**chain.former, **chain.turns}]
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
    items = row["items"] or []
    return {
        **found,
        "has_content": row["salt"] is not None,
        "item_positions": [int(item[0]) for item in items],
        "item_origins": [item[1] for item in items],
        "item_types": [item[2] for item in items],
        "item_ids": [item[3] for item in items],
        "item_data": [
            opener.open(opening.document_text, _item(project_id, row, item[0]), "data", item[4]) for item in items
        ],
        "unreadable": opener.unreadable,
    }


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


def _wrong_thread(chain: ThreadClaims, row: Row | None, places: dict[UUID, tuple[UUID | None, int]]) -> str | None:
    if row is None:
        lost = chain.thread is not None and not chain.deleted
        return "the thread is gone, and no record tells that it was deleted" if lost else None
    if chain.deleted:
        return "the thread is there, and its last record tells that it was deleted"
    if chain.thread is None:
        return "no record tells what it was made with"
    if row.get("unreadable"):
        return _moved([f"threads.{name}" for name in row["unreadable"]])
    if row["salt"] is None:
        return "the thread's salt is gone: what it says cannot be proved"
    if contents.thread(row["salt"], row, row["arrived_at"]) != chain.thread.content:
        return (
            "its name, title, user, metadata, archiving, time to live, moment or fork is not what record "
            f"{chain.thread.seq} says"
        )
    if row["arrived_at"] != chain.arrived_at:
        return "it did not arrive when its first record says"
    if row["head_turn_id"] != chain.head(places):
        return "its head is not the one that its records lead to"
    if row["turn_count"] != chain.turn_count:
        return f"it counts {row['turn_count']} turns, and its records tell of {chain.turn_count}"
    if (row["chain_seq"], row["chain_hash"]) != (chain.seq, chain.hash):
        return "the end of its chain is not its last record"
    return None


def _wrong_turn(chain: ThreadClaims, turn_id: UUID, row: Row | None, calls: Calls) -> Iterator[tuple[int, str]]:
    """Yield what is wrong with a turn: the record's number, and why."""
    claims = chain.turns.get(turn_id)
    former = claims is None
    if claims is None:
        claims = chain.former.get(turn_id, {})
        if row is None or row["salt"] is None or row["thread_id"] == chain.id:
            return  # It went with its thread, or whoever has it now tells more of it.
        row = {**row, "thread_id": chain.id}  # The thread that has it now has a record of where it is.
    elif not claims:
        return
    seq = max((claim.seq for claim in claims.values()), default=0)
    if row is None:
        yield seq, "it is gone, and no record tells that its thread was deleted"
        return
    if row["unreadable"]:
        yield seq, _moved(row["unreadable"])
        return
    if turn_id in chain.turns and row["thread_id"] != chain.id:
        yield seq, "it is in another thread"
    erased = turn_id in chain.erased or ("turn" in claims and row["salt"] is None and row["deleted_at"] is not None)
    if erased and (_has_content(row) or any(kind[0] == turn_id for kind in calls)):
        yield seq, "it holds something, though its content was deleted"
    for kind, claim in claims.items():
        if kind != "left" and not erased and row["salt"] is None:
            yield claim.seq, "its content is gone, and no record tells that it was deleted"
            return
        call = calls.get((turn_id, kind))
        if call is not None and call["unreadable"]:
            yield claim.seq, _moved(call["unreadable"])
            return
        if call is not None and call["body"] is None and (chain.lost_pieces or former):
            continue  # It had sent what was deleted.
        if kind == "compacted" and former and row["compaction"] is None:
            continue  # It may have been deleted since.
        if (wrong := _wrong_claim("left" if erased else kind, claim, row, call)) is not None:
            yield claim.seq, wrong
    if "left" in claims or erased:
        return
    if row["left_salt"] is not None and turn_id in chain.turns:
        yield seq, "it has a salt as turns have that were deleted"
    if turn_id not in chain.cut:
        for of_turn, kind in calls:
            if of_turn == turn_id and kind not in claims and "opened" in claims:
                yield seq, f"no record tells of its {kind}"
    if row["compaction"] is not None and "compacted" not in claims and turn_id in chain.turns:
        yield seq, "no record tells of its compaction"


def _has_content(row: Row) -> bool:
    """Return True if a turn has a value that is erased with its content."""
    documents = (row[name] for name in ("response", "pace", "context"))
    return bool(row["item_ids"] or row["params"] != "{}" or row["metadata"] or any(map(_is_present, documents)))


def _is_present(document: str | None) -> bool:
    return document not in (None, "null")


def _wrong_claim(kind: str, claim: Claim, row: Row, call: dict[str, Any] | None) -> str | None:
    if kind == "opened":
        if row["created_at"] != claim.at or row["arrived_at"] != claim.at:
            return "it was not opened when its record says"
        if row["api_key_id"] != claim.key_id:
            return "it was not opened with the key that its record names"
    if kind == "closed" and row["completed_at"] != claim.at:
        return "it was not closed when its record says"
    now = _now(kind, row, call)
    return None if now == claim.content else f"what it holds is not what was recorded ({SHOWN.get(kind, kind)})"


def _now(kind: str, row: Row, call: dict[str, Any] | None) -> bytes | None:
    """Return the digest of what a turn holds now."""
    found = covered(kind, row, call)
    return None if found is None else found.digest


@dataclass(frozen=True, slots=True)
class Covered:
    """Contents that the digest in a record must cover, as they are stored now."""

    salt: bytes
    texts: tuple[tuple[contents.Kind, bytes], ...]
    """JSON arrays with their kinds. The digest of each one salts the next."""

    @property
    def digest(self) -> bytes:
        found = self.salt
        for _, text in self.texts:
            found = hashlib.sha256(found + text).digest()
        return found


def covered(kind: str, row: Row, call: dict[str, Any] | None) -> Covered | None:
    """Return the contents that the digest of a kind covers; None if part of them is gone.

    Args:
        kind: as `ThreadClaims.turns` names it.
        row: the turn, as `Contents.turns` returns it.
        call: of a call, as `Contents.calls` returns it.
    """
    salt = row["salt"]
    said: dict[contents.Kind, Row] = {}
    match kind:
        case "opened":
            said = {"opened": {**row, **_items(row, "input")}, "placed": row}
        case "closed":
            said = {"closed": {**row, **_items(row, "output")}}
        case "turn":
            said = {"turn": row}
        case "left":
            salt, said = row["left_salt"], {"left": row}
        case "compacted":
            names = contents.FIELDS["compacted", contents.VERSION]
            values = {name: row[f"compaction_{name}"] for name in names if name != "text"}
            said = {"compacted": {**values, "text": row["compaction"]}}
            salt = None if row["compaction"] is None else row["compaction_salt"]
        case _ if call is None or call["body"] is None:
            return None
        case _:
            said = {"called": call}
    if salt is None:
        return None
    return Covered(salt, tuple((each, contents.covered(each, values)) for each, values in said.items()))


def _items(row: Row, origin: str) -> dict[str, list[Any]]:
    """Return the fields of a turn's input, or of its output."""
    kept = [index for index, each in enumerate(row["item_origins"]) if each == origin]
    return {name: [row[name][index] for index in kept] for name in ITEM_FIELDS}


def _wrong_row(kind: contents.Kind, claim: Claim, row: Any) -> str | None:
    if row.get("unreadable"):
        return _moved([f"{kind}.{name}" for name in row["unreadable"]])
    if row["salt"] is not None and contents.digest(kind, row["salt"], row) == claim.content:
        return None
    return "it is not what was recorded"


def _wrong_project(claims: ProjectClaims, project: Any, keys: dict[UUID, Any]) -> Iterator[Found]:
    if project is None:
        yield "the project's own", "the project is gone"
    elif claims.project is None:
        yield "the project's own", "no record tells what it was made with"
    elif (said := _wrong_row("project", claims.project, project)) is not None:
        yield f"the project's own record {claims.project.seq}", f"its name, settings or limits: {said}"
    elif project["record_reads"] != claims.record_reads:
        yield "the project's own", "whose reads are recorded: it is not what was recorded"
    elif str(project["minimum_retention_days"] or "none") != claims.minimum_retention:
        yield "the project's own", "its minimum retention: it is not what was recorded"
    for id_, claim in claims.keys.items():
        row = keys.get(id_)
        said = "it is gone" if row is None else _wrong_row("key", claim, row)
        if said is not None:
            yield f"the project's own record {claim.seq}", f"key_{id_.hex}: {said}"
    for id_ in keys.keys() - claims.keys.keys():
        yield "the project's own", f"key_{id_.hex}: no record tells that it was made"

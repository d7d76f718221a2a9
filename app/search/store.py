"""Searching in Postgres: an index finds what may match, newest first, and gives the texts to look at."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, TypedDict
from uuid import UUID

from app.db.engine import Database
from app.db.ids import bucket_of
from app.db.sql import Statement, statements_of
from app.items.lexemes import LONGEST_TEXT, Term, tsquery
from app.items.shapes import string, text_of
from app.items.user_items import is_for_users
from app.sealing import at_rest
from app.sealing.columns import ITEMS
from app.sealing.columns import TITLES as TITLED
from app.threads import store as threads

CANDIDATES = 2000
"""Number of the newest candidates that are checked. It limits the cost of a word that occurs everywhere."""

LOOKED_AT = 10_000
"""Number of the newest candidates whose threads are checked against filters. It limits the cost of filters that rarely
match."""

MOST_CHARACTERS = 16_000_000
"""... and no more than so many characters of it: of as many words as `WORDS_AT_ONCE`, fewer in proportion for more."""

WORDS_AT_ONCE = 4

TIME_DIGITS = (6, 5, 4)
"""Numbers of leading hex digits of a turn's id that are lexemes of its messages: 2^24, 2^28 and 2^32 milliseconds."""

BATCH = 50
"""Texts that are held at a time."""

SQL = statements_of(__file__)


@dataclass(frozen=True, slots=True)
class Filters:
    roles: tuple[str, ...]
    threads: threads.Filters
    thread_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    here_before: datetime | None = None
    """Time after which new rows are left out, because they would move the pages."""
    for_users: bool = False
    """True to find only messages that end users may see: hits on others would tell their words."""


@dataclass(frozen=True, slots=True)
class Text:
    """Candidate: a message of a turn, or the title of a thread."""

    id: UUID
    role: str
    text: str


class FoundRow(TypedDict):
    """A turn or a thread that was found, and its thread."""

    id: UUID
    thread_id: UUID
    name: str | None
    title: str | None
    created_at: datetime
    unreadable: NotRequired[list[str]]
    """Name of the title in a result, if it cannot be opened."""


async def now(database: Database) -> datetime:
    """The database's moment: what turns are dated by."""
    moment: datetime = await database.fetchval(*SQL.now())
    return moment


async def texts(
    database: Database, project_id: UUID, wanted: Sequence[Term], filters: Filters
) -> AsyncIterator[list[Text]]:
    """The messages that may match, newest first, some at a time."""
    found = await _newest(database, project_id, wanted, filters)
    left = float(MOST_CHARACTERS)
    while found and left > 0:
        some, found = found[:BATCH], found[BATCH:]
        asked = SQL.texts(
            project_id=project_id,
            buckets=[row["bucket"] for row in some],
            turn_ids=[row["id"] for row in some],
            positions=[row["position"] for row in some],
            longest=LONGEST_TEXT,
            for_users=filters.for_users,
        )
        # What has been deleted since the look-up is not there.
        read = [_text(project_id, row, filters) for row in await database.fetch(*asked)]
        left -= sum(len(each.text) for each in read) * max(1.0, len(wanted) / WORDS_AT_ONCE)
        yield read


def _text(project_id: UUID, row: Any, filters: Filters) -> Text:
    if row["data"] is None:
        return Text(row["id"], row["role"], row["text"])
    # One that cannot be opened has no text, and is no hit.
    item = ITEMS.opened(project_id, row)["data"]
    text = text_of(item)[:LONGEST_TEXT] if not filters.for_users or is_for_users(item) else ""
    return Text(row["id"], string(item.get("role")), text)


async def _newest(database: Database, project_id: UUID, wanted: Sequence[Term], filters: Filters) -> list[Any]:
    """Return the newest candidate messages: of the last hours if there are enough, else of the last days, and so on. A
    common word costs no more than that period holds."""
    roles = [role for role in filters.roles if role != "title"]
    found: list[Any] = []
    older_than: UUID | None = None
    now_ = int(time.time() * 1000)
    for digits in (*TIME_DIGITS, 0):
        times, begin = _last_times(now_, digits)
        asked = tsquery(wanted, project_id, roles, times, _hashed())
        most = CANDIDATES - len(found)
        found += await database.fetch(
            *SQL.messages(project_id=project_id, asked=asked, **_filters(filters), older_than=older_than, limit=most)
        )
        older_than = begin
        if len(found) >= CANDIDATES:
            break
    return found


def _last_times(milliseconds: int, digits: int) -> tuple[list[str], UUID]:
    """The time before, the present one and the next (clocks differ): what ids begin with, and the lowest such id."""
    if not digits:
        return [], UUID(int=0)
    unit = 1 << (48 - 4 * digits)
    present = milliseconds // unit
    times = [f"{number:0{digits}x}" for number in (present - 1, present, present + 1)]
    return times, UUID(times[0].ljust(32, "0"))


async def titles(database: Database, project_id: UUID, wanted: Sequence[Term], filters: Filters) -> list[Text]:
    """The titles that may match."""
    asked = tsquery(wanted, project_id, ["title"], hashed=_hashed())
    found = await database.fetch(*SQL.titles(project_id=project_id, asked=asked, **_filters(filters), limit=CANDIDATES))
    return [Text(row["id"], "title", TITLED.opened(project_id, row)["title"] or "") for row in found]


def _hashed() -> Callable[[str], str] | None:
    """Return the hash of words in sealed texts; None where the project's texts are not sealed."""
    sealer = at_rest.sealer()
    return None if sealer.key is None else sealer.hashed_word


def _filters(filters: Filters) -> dict[str, Any]:
    return {
        "filters": filters.threads.as_json(),
        "here_before": filters.here_before,
        "since": filters.since,
        "until": filters.until,
        "thread_id": filters.thread_id,
        "looked_at": LOOKED_AT,
    }


async def turns(database: Database, project_id: UUID, turn_ids: Sequence[UUID]) -> dict[UUID, FoundRow]:
    """Turns that were found, with their threads."""
    return await _rows(database, SQL.turns, project_id, turn_ids)


async def titled_threads(database: Database, project_id: UUID, thread_ids: Sequence[UUID]) -> dict[UUID, FoundRow]:
    """Threads whose titles were found."""
    return await _rows(database, SQL.threads, project_id, thread_ids)


async def threads_of_turns(database: Database, project_id: UUID, turn_ids: Sequence[UUID]) -> dict[UUID, UUID]:
    """Return the threads of turns that match, as far as they exist."""
    if not turn_ids:
        return {}
    rows = await database.fetch(*SQL.threads_of_turns(**_places(project_id, turn_ids)))
    return {row["id"]: row["thread_id"] for row in rows}


async def messages_of_turns(database: Database, project_id: UUID, turn_ids: Sequence[UUID]) -> dict[UUID, list[Any]]:
    """The messages of turns."""
    messages: dict[UUID, list[Any]] = {}
    for item in await database.fetch(*SQL.messages_of_turns(**_places(project_id, turn_ids))) if turn_ids else []:
        messages.setdefault(item["turn_id"], []).append(ITEMS.opened(project_id, item)["data"])
    return messages


async def _rows(
    database: Database, statement: Statement, project_id: UUID, found: Sequence[UUID]
) -> dict[UUID, FoundRow]:
    if not found:
        return {}
    rows = await database.fetch(*statement(**_places(project_id, found)))
    return {row["id"]: _found(project_id, row) for row in rows}


def _found(project_id: UUID, row: Any) -> FoundRow:
    opened = TITLED.opened(project_id, {"id": row["thread_id"], "title": row["title"]})
    found: FoundRow = {
        "id": row["id"],
        "thread_id": row["thread_id"],
        "name": row["name"],
        "title": opened["title"],
        "created_at": row["created_at"],
    }
    if "unreadable" in opened:
        found["unreadable"] = ["thread_title"]
    return found


def _places(project_id: UUID, found: Sequence[UUID]) -> dict[str, Any]:
    return {"project_id": project_id, "buckets": list({bucket_of(id_) for id_ in found}), "ids": list(set(found))}

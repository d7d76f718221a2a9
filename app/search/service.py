"""Searching a project's threads."""

import asyncio
import base64
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import nlargest
from typing import Any, Literal, NotRequired
from uuid import UUID

import orjson
from typing_extensions import TypedDict

from app.db import ids
from app.db.engine import Database
from app.db.replica import ReplicaReads
from app.http.errors import BadRequest, NotFound
from app.http.pages import list_object
from app.items import lexemes
from app.items.shapes import text_of
from app.items.unreadable import marked
from app.items.user_items import is_for_users
from app.projects.auth import Caller
from app.sealing import at_rest
from app.search import places, store
from app.search.fragments import MOST, FragmentObject, fragments
from app.search.matching import Matcher
from app.search.places import PlaceObject
from app.search.store import Filters
from app.threads.address import name_for
from app.threads.schemas import ThreadObject, thread_object
from app.threads.service import Threads

TITLE_WEIGHT = 2.0

HITS_OF_THREAD = 3
"""Hits that are shown for each thread."""

GROUP = "thread"
"""The role in the cursor of a thread."""

MOST_TERMS = 32
"""Words and phrases of a query."""

MOST_WORDS = 64
"""Words of a query, those of its phrases too. In a script without spaces, each pair of characters counts as a word."""

SHOWN_AT_ONCE = 5
"""Hits whose messages are held at a time."""

FIRST_YEAR, LAST_YEAR = 2000, 9000
"""The range of moments in a cursor. Beyond it, another time zone can exceed what Postgres and Python can express."""

LOOKED_THROUGH = 10_000_000
"""Characters of a page's messages that are looked through for fragments."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last hit of a page, and up to when its search could see."""

    bound: datetime
    rank: float
    id: UUID
    role: str


@dataclass(frozen=True, slots=True, order=True)
class Hit:
    """A match: the messages of one role in a turn, or a thread's title."""

    rank: float
    id: UUID
    role: str


class HitObject(TypedDict):
    id: str
    """A cursor, not an id of anything."""
    object: Literal["search.result"]
    thread_id: str
    thread_name: str | None
    thread_title: str | None
    turn_id: str | None
    role: str
    score: float
    created_at: int
    fragments: list[FragmentObject]
    unreadable: NotRequired[list[str]]
    """The fields that cannot be opened. Left out where there are none."""


class ThreadHitsObject(TypedDict):
    """A thread with its hits."""

    id: str
    """A cursor, not an id of anything."""
    object: Literal["search.thread"]
    thread: ThreadObject
    score: float
    """Score of the best hit."""
    hit_count: int
    hits: list[HitObject]
    """The best ones."""


class Search:
    def __init__(self, database: Database, reads: ReplicaReads, threads: Threads) -> None:
        """Args: reads: the database that is searched. Results are read from `database`, so that nothing deleted is
        shown."""
        self._database = database
        self._reads = reads
        self._threads = threads

    async def search(
        self, caller: Caller, asked: str, filters: Filters, after: str | None, limit: int
    ) -> dict[str, Any]:
        """One page of hits, best first.

        Raises:
            BadRequest: nothing of what is asked can be searched for, it has too many words, or the cursor is none of
                ours.
        """
        terms = _terms(asked)
        cursor = None if after is None else _cursor(after)
        bound = await store.now(self._database) if cursor is None else cursor.bound
        seen = filters if cursor is None else replace(filters, here_before=bound)
        hits = await self._reads.read(lambda database: _hits(database, caller.project_id, terms, seen))
        if cursor is not None:
            last = Hit(cursor.rank, cursor.id, cursor.role)
            hits = [hit for hit in hits if hit < last]
        page = nlargest(limit + 1, hits)
        shown = await self._shown(caller, page[:limit], terms, bound)
        return list_object(shown, lambda hit: hit, has_more=len(page) > limit)

    async def threads(
        self, caller: Caller, asked: str, filters: Filters, after: str | None, limit: int
    ) -> dict[str, Any]:
        """Return a page of the threads with hits, each with its best hits. The thread with the best hit comes first.

        Raises:
            BadRequest: as `search`.
        """
        terms = _terms(asked)
        cursor = None if after is None else _cursor(after)
        bound = await store.now(self._database) if cursor is None else cursor.bound
        # On the first page too: a newer hit would move its thread, and the next page would repeat it.
        seen = replace(filters, here_before=bound)
        hits = await self._reads.read(lambda database: _hits(database, caller.project_id, terms, seen))
        of_turns = await store.threads_of_turns(
            self._database, caller.project_id, [hit.id for hit in hits if hit.role != "title"]
        )
        groups: dict[UUID, list[Hit]] = {}
        for hit in sorted(hits, reverse=True):
            thread_id = hit.id if hit.role == "title" else of_turns.get(hit.id)
            if thread_id is not None:
                groups.setdefault(thread_id, []).append(hit)
        ordered = [Hit(found[0].rank, thread_id, GROUP) for thread_id, found in groups.items()]
        if cursor is not None:
            last = Hit(cursor.rank, cursor.id, GROUP)
            ordered = [group for group in ordered if group < last]
        page = nlargest(limit + 1, ordered)
        best = [hit for group in page[:limit] for hit in groups[group.id][:HITS_OF_THREAD]]
        shown: dict[str, list[HitObject]] = {}
        for each in await self._shown(caller, best, terms, bound):
            shown.setdefault(each["thread_id"], []).append(each)
        rows = await self._threads.rows(caller.project_id, [group.id for group in page[:limit]])
        found = [
            _group(group, bound, thread_object(*rows[group.id]), len(groups[group.id]), shown[ids.thread_id(group.id)])
            for group in page[:limit]
            if group.id in rows and ids.thread_id(group.id) in shown
        ]
        return list_object(found, lambda group: group, has_more=len(page) > limit)

    async def find(self, caller: Caller, text: str) -> PlaceObject:
        """Return the thread and the turn that an id names.

        Raises:
            NotFound: nothing in the project has this id.
        """
        found = await places.find(self._database, caller.project_id, text)
        if found is None:
            raise NotFound(f"Nothing in this project has the id {text[:80]!r}.", param="id")
        return found

    async def _shown(
        self, caller: Caller, hits: list[Hit], terms: list[lexemes.Term], bound: datetime
    ) -> list[HitObject]:
        project_id = caller.project_id
        turn_ids = [hit.id for hit in hits if hit.role != "title"]
        rows = await store.turns(self._database, project_id, turn_ids)
        rows |= await store.titled_threads(self._database, project_id, [hit.id for hit in hits if hit.role == "title"])
        marked = [run for term in terms if not term.excluded for run in term.runs]
        shown: list[HitObject] = []
        left = LOOKED_THROUGH
        for at in range(0, len(hits), SHOWN_AT_ONCE):
            some = hits[at : at + SHOWN_AT_ONCE]
            messages = await store.messages_of_turns(
                self._database, project_id, [hit.id for hit in some if hit.role != "title"]
            )
            for hit in some:
                if hit.id not in rows:
                    continue  # What has been deleted since it was found is no hit.
                row, said = rows[hit.id], messages.get(hit.id, [])
                if caller.grant.user is not None:
                    said = [message for message in said if is_for_users(message)]
                texts = _texts(hit, row, said, left)
                left -= sum(map(len, texts))
                found = await asyncio.to_thread(_fragments, texts, marked)
                shown.append({**_hit(hit, row, found, bound), "thread_name": name_for(caller, row["name"])})
        return shown


def _terms(asked: str) -> list[lexemes.Term]:
    """Return the words and phrases of a query.

    Raises:
        BadRequest: the query has no word to search for, or too many words.
    """
    terms = lexemes.terms(asked)
    if len(terms) > MOST_TERMS or sum(len(lexemes.asked(run)) for term in terms for run in term.runs) > MOST_WORDS:
        raise BadRequest(
            f"'q' has more than {MOST_TERMS} words and phrases, or more than {MOST_WORDS} words in all (of "
            "Chinese, Japanese and other scripts without spaces: pairs of characters). Ask for fewer.",
            param="q",
            code="too_many_words",
        )
    if at_rest.sealer().key is not None:
        # A sealed word cannot be searched by its prefix.
        terms = [replace(term, exact=True) for term in terms]
    if all(term.excluded for term in terms):
        raise BadRequest("'q' needs a word that is to be found.", param="q")
    return terms


async def _hits(database: Database, project_id: UUID, terms: list[lexemes.Term], filters: Filters) -> list[Hit]:
    """All that match. Of several messages of one side in a turn, the best."""
    wanted, matcher = [term for term in terms if not term.excluded], Matcher(terms)
    ranks: dict[tuple[UUID, str], float] = {}

    async def look_at(found: list[store.Text], weight: float) -> None:
        # Beside the loop: it is pure matching, whose amount `store.texts` bounds.
        await asyncio.to_thread(rank_all, found, weight)

    def rank_all(found: list[store.Text], weight: float) -> None:
        for each in found:
            rank = matcher.rank(each.text)
            if rank is not None:
                ranks[each.id, each.role] = max(rank * weight, ranks.get((each.id, each.role), 0))

    if "title" in filters.roles:
        await look_at(await store.titles(database, project_id, wanted, filters), TITLE_WEIGHT)
    if set(filters.roles) != {"title"}:
        async for found in store.texts(database, project_id, wanted, filters):
            await look_at(found, 1)
    return [Hit(rank, id_, role) for (id_, role), rank in ranks.items()]


def _texts(hit: Hit, row: store.FoundRow, said: list[dict[str, Any]], left: int) -> list[str]:
    """Return the texts of a hit that fragments are taken from, no more than `left` characters of them."""
    found: list[str] = []
    for text in (
        [row["title"] or ""] if hit.role == "title" else (text_of(m) for m in said if m.get("role") == hit.role)
    ):
        if left <= 0:
            break
        found.append(text[: min(left, lexemes.LONGEST_TEXT)])
        left -= len(found[-1])
    return found


def _fragments(texts: list[str], marked: list[lexemes.Run]) -> list[FragmentObject]:
    found: list[FragmentObject] = []
    for text in texts:
        found += fragments(text, marked)[: MOST - len(found)]
        if len(found) == MOST:
            break
    return found


def _hit(hit: Hit, row: store.FoundRow, found: list[FragmentObject], bound: datetime) -> HitObject:
    titled = hit.role == "title"
    return {
        "id": _encoded(Cursor(bound, hit.rank, hit.id, hit.role)),
        "object": "search.result",
        "thread_id": ids.thread_id(row["thread_id"]),
        "thread_name": row["name"],
        "thread_title": row["title"],
        "turn_id": None if titled else ids.turn_id(hit.id),
        "role": hit.role,
        "score": hit.rank,
        "created_at": int(row["created_at"].timestamp()),
        "fragments": found,
        **marked(row),
    }


def _group(group: Hit, bound: datetime, thread: ThreadObject, count: int, hits: list[HitObject]) -> ThreadHitsObject:
    return {
        "id": _encoded(Cursor(bound, group.rank, group.id, GROUP)),
        "object": "search.thread",
        "thread": thread,
        "score": group.rank,
        "hit_count": count,
        "hits": hits,
    }


def _encoded(cursor: Cursor) -> str:
    said = orjson.dumps([cursor.bound.isoformat(), cursor.rank, cursor.id.hex, cursor.role])
    return "hit_" + base64.urlsafe_b64encode(said).rstrip(b"=").decode()


def _cursor(given: str) -> Cursor:
    try:
        said = given.removeprefix("hit_")
        bound, rank, id_, role = orjson.loads(base64.urlsafe_b64decode(said + "=" * (-len(said) % 4)))
        moment = datetime.fromisoformat(bound)
        if moment.tzinfo is None or not FIRST_YEAR <= moment.year <= LAST_YEAR:
            raise ValueError(bound)
        return Cursor(moment, float(rank), UUID(id_), str(role))
    except (ValueError, TypeError, AttributeError) as error:
        raise BadRequest(
            "'after' must be the last_id of a page of this search.", param="after", code="invalid_cursor"
        ) from error

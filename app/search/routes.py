"""/v1/search: full text over titles, and what users and the model said."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.db.ids import ThreadId
from app.http.bodies import json_response
from app.http.errors import Forbidden
from app.http.pages import ListObject, Seconds, moment
from app.http.services import serving
from app.projects.auth import Authenticated
from app.projects.reads import RecordedRoute, reads
from app.projects.user_tokens import for_users
from app.search import store
from app.search.places import PlaceObject
from app.search.service import HitObject, Search, ThreadHitsObject
from app.threads.filters import ThreadFilters
from app.threads.store import Filters

router = APIRouter(tags=["search"], route_class=RecordedRoute)

Role = Literal["user", "assistant", "title"]


@for_users
@reads("results of a search", of="project")
@router.get("/search", response_model=ListObject[HitObject] | ListObject[ThreadHitsObject])
async def search(
    caller: Authenticated,
    found: Annotated[Search, serving(Search)],
    q: Annotated[str, Query(max_length=1000, description='Words; "words in a row"; -without.')],
    filters: ThreadFilters,
    role: Role | None = None,
    thread: ThreadId | None = None,
    since: Seconds = None,
    until: Seconds = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=400, description="The last_id of the page before.")] = None,
    group_by: Annotated[
        Literal["thread"] | None, Query(description="`thread`: pages of threads, each with its best hits.")
    ] = None,
) -> Response:
    """Search the text of titles, users' messages and the model's answers.

    The filters of the list of threads apply to the threads of the hits, `since` and `until` to the hits.
    """
    roles = ("user", "assistant", "title") if role is None else (role,)
    grant = caller.grant
    if grant.user is not None:
        if group_by is not None or filters != Filters(user=filters.user):
            raise Forbidden("A user's token searches by 'user', 'role', 'thread' and time.", code="not_for_users")
        if filters.user not in (None, grant.user) or (
            grant.thread_id is not None and thread not in (None, grant.thread_id)
        ):
            raise Forbidden("This token does not search these threads.", param="user", code="not_for_users")
        filters, thread = Filters(user=grant.user), grant.thread_id or thread
    wanted = store.Filters(roles, filters, thread, moment(since), moment(until), for_users=grant.user is not None)
    search_for = found.search if group_by is None else found.threads
    return json_response(await search_for(caller, q, wanted, after, limit))


@router.get("/find", response_model=PlaceObject)
async def find(
    caller: Authenticated,
    found: Annotated[Search, serving(Search)],
    id: Annotated[str, Query(min_length=1, max_length=256, description="Of a thread, turn, call, item or response.")],
) -> Response:
    """Find the thread and the turn of any id, also of the provider's response id."""
    return json_response(await found.find(caller, id))

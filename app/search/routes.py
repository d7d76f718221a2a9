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
from app.search.service import HitObject, Search
from app.search.store import Filters

router = APIRouter(tags=["search"], route_class=RecordedRoute)

Role = Literal["user", "assistant", "title"]


@for_users
@reads("results of a search", of="project")
@router.get("/search", response_model=ListObject[HitObject])
async def search(
    caller: Authenticated,
    found: Annotated[Search, serving(Search)],
    q: Annotated[str, Query(max_length=1000, description='Words; "words in a row"; -without.')],
    role: Role | None = None,
    user: Annotated[str | None, Query(max_length=256)] = None,
    thread: ThreadId | None = None,
    since: Seconds = None,
    until: Seconds = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=400, description="The last_id of the page before.")] = None,
) -> Response:
    """Search the text of titles, users' messages and the model's answers."""
    roles = ("user", "assistant", "title") if role is None else (role,)
    grant = caller.grant
    if grant.user is not None:
        if user not in (None, grant.user) or (grant.thread_id is not None and thread not in (None, grant.thread_id)):
            raise Forbidden("This token does not search these threads.", param="user", code="not_for_users")
        user, thread = grant.user, grant.thread_id or thread
    filters = Filters(roles, user, thread, moment(since), moment(until), for_users=grant.user is not None)
    return json_response(await found.search(caller, q, filters, after, limit))

"""/v1/threads/…: a conversation taken in, read back, forked, and deleted."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.bodies import checked, json_response, optional_json_object
from app.db.pagination import ListObject, Paged, list_object
from app.describing import CONFLICT, EVENTS, PLAIN, Deleted, described
from app.history import messages
from app.history.calls import CallObject, as_curl, call_object, curl_headers
from app.history.playback import Tempo
from app.history.service import BranchObject, History, LinkObject
from app.projects.auth import Authenticated
from app.services import serving
from app.threads.address import Addressed, at
from app.threads.schemas import ThreadCreate, ThreadFork, ThreadObject
from app.turns.events import EventStream

router = APIRouter(tags=["history"])


Service = Annotated[History, serving(History)]
Until = Annotated[str | None, Query(description="The last turn to show; the thread's head if left out.")]


@router.post(
    "/threads",
    **described(
        "Make a thread, with a conversation to go on from or without.",
        ThreadObject,
        status=201,
        body=ThreadCreate,
        optional=True,
        errors=CONFLICT,
    ),
)
async def create(request: Request, caller: Authenticated, history: Service) -> Response:
    sent = checked(ThreadCreate, await optional_json_object(request))
    return json_response(await history.create_thread(caller, sent), status=201)


@at(router.delete, **described("Delete a thread and everything in it.", Deleted))
async def delete(caller: Authenticated, history: Service, address: Addressed) -> Response:
    return json_response(await history.delete_thread(caller, address))


@at(
    router.post,
    "/fork",
    **described(
        "A new thread that goes on from a turn of this one.",
        ThreadObject,
        status=201,
        body=ThreadFork,
        optional=True,
        errors=CONFLICT,
    ),
)
async def fork(request: Request, caller: Authenticated, history: Service, address: Addressed) -> Response:
    sent = checked(ThreadFork, await optional_json_object(request))
    return json_response(await history.fork(caller, address, sent), status=201)


@at(
    router.get,
    "/turns/{turn_id}/calls",
    **described("What was sent to the provider for a turn, byte for byte.", ListObject[CallObject], or_media=(PLAIN,)),
)
async def calls(
    caller: Authenticated,
    history: Service,
    address: Addressed,
    turn_id: str,
    format: Annotated[Literal["json", "curl"], Query()] = "json",
) -> Response:
    id_, rows = await history.calls(caller, address, turn_id)
    if format == "curl":
        said = "\n\n".join(as_curl(row) for row in rows)
        return Response(said + "\n", media_type="text/plain; charset=utf-8", headers=curl_headers(rows))
    return json_response(list_object(rows, lambda row: call_object(id_, row), has_more=False))


@router.get("/calls/{call_id}", **described("One call, by its id.", CallObject, or_media=(PLAIN,)))
async def call(
    caller: Authenticated,
    history: Service,
    call_id: str,
    format: Annotated[Literal["json", "curl"], Query()] = "json",
) -> Response:
    id_, row = await history.call(caller, call_id)
    if format == "curl":
        return Response(as_curl(row) + "\n", media_type="text/plain; charset=utf-8", headers=curl_headers([row]))
    return json_response(call_object(id_, row))


@at(router.get, "/replay", **described("The conversation as it happened, as events.", media=EVENTS))
async def play(
    caller: Authenticated,
    history: Service,
    address: Addressed,
    until: Until = None,
    speed: Annotated[float, Query(ge=0, le=1000, description="1: as it was; 10: ten times as fast; 0: at once.")] = 1,
    longest_pause: Annotated[float, Query(ge=0, le=86_400, description="Seconds, between turns too.")] = 3,
) -> Response:
    return EventStream(await history.play(caller, address, until, Tempo(speed, longest_pause)), {})


@at(router.get, "/branches", **described("The ends of the branches of a thread.", ListObject[BranchObject]))
async def branches(caller: Authenticated, history: Service, address: Addressed, page: Paged) -> Response:
    return json_response(await history.branches(caller, address, page))


@at(
    router.get,
    "/messages",
    **described(
        "The conversation: as items, as Chat messages, or as Markdown.", messages.Messages, or_media=("text/markdown",)
    ),
)
async def read_back(
    caller: Authenticated,
    history: Service,
    address: Addressed,
    until: Until = None,
    before: Annotated[
        str | None, Query(description="Only the turns before this one: the first of a later page.")
    ] = None,
    last: Annotated[
        int | None, Query(alias="turns", ge=1, le=1000, description="Only the last so many turns; all if left out.")
    ] = None,
    format: Annotated[Literal["responses", "chat", "markdown"], Query()] = "responses",
) -> Response:
    thread, rows, has_more = await history.messages(caller, address, until=until, before=before, turns=last)
    if format == "markdown":
        return Response(messages.as_markdown(thread["title"], rows), media_type="text/markdown; charset=utf-8")
    shown = messages.as_chat(rows) if format == "chat" else messages.as_responses(rows)
    return json_response({"object": "list", "data": shown, "has_more": has_more})


@at(
    router.get,
    "/chain",
    **described("How each turn reached the model, and whether it can be chained on.", ListObject[LinkObject]),
)
async def chain(caller: Authenticated, history: Service, address: Addressed, until: Until = None) -> Response:
    return json_response(await history.chain(caller, address, until))

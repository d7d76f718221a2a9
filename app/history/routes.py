"""/v1/threads/…: a conversation taken in, read back, forked, and deleted."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.bodies import checked, json_response, optional_json_object
from app.db.pagination import Paged, list_object
from app.history import messages
from app.history.calls import as_curl, call_object, curl_headers
from app.history.playback import Tempo
from app.history.service import History
from app.projects.auth import Authenticated
from app.services import serving
from app.threads.address import BY_ID, BY_NAME, Addressed
from app.threads.schemas import ThreadCreate, ThreadFork
from app.turns.events import EventStream

router = APIRouter(tags=["history"])


Service = Annotated[History, serving(History)]
Until = Annotated[str | None, Query(description="The last turn to show; the thread's head if left out.")]


@router.post("/threads", status_code=201)
async def create(request: Request, caller: Authenticated, history: Service) -> Response:
    sent = checked(ThreadCreate, await optional_json_object(request))
    return json_response(await history.create_thread(caller, sent), status=201)


@router.delete(BY_NAME)
@router.delete(BY_ID)
async def delete(caller: Authenticated, history: Service, address: Addressed) -> Response:
    return json_response(await history.delete_thread(caller, address))


@router.post(f"{BY_NAME}/fork")
@router.post(f"{BY_ID}/fork")
async def fork(request: Request, caller: Authenticated, history: Service, address: Addressed) -> Response:
    sent = checked(ThreadFork, await optional_json_object(request))
    return json_response(await history.fork(caller, address, sent), status=201)


@router.get(f"{BY_NAME}/turns/{{turn_id}}/calls")
@router.get(f"{BY_ID}/turns/{{turn_id}}/calls")
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


@router.get("/calls/{call_id}")
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


@router.get(f"{BY_NAME}/replay")
@router.get(f"{BY_ID}/replay")
async def play(
    caller: Authenticated,
    history: Service,
    address: Addressed,
    until: Until = None,
    speed: Annotated[float, Query(ge=0, le=1000, description="1: as it was; 10: ten times as fast; 0: at once.")] = 1,
    longest_pause: Annotated[float, Query(ge=0, le=86_400, description="Seconds, between turns too.")] = 3,
) -> Response:
    return EventStream(await history.play(caller, address, until, Tempo(speed, longest_pause)), {})


@router.get(f"{BY_NAME}/branches")
@router.get(f"{BY_ID}/branches")
async def branches(caller: Authenticated, history: Service, address: Addressed, page: Paged) -> Response:
    return json_response(await history.branches(caller, address, page))


@router.get(f"{BY_NAME}/messages")
@router.get(f"{BY_ID}/messages")
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


@router.get(f"{BY_NAME}/chain")
@router.get(f"{BY_ID}/chain")
async def chain(caller: Authenticated, history: Service, address: Addressed, until: Until = None) -> Response:
    return json_response(await history.chain(caller, address, until))

"""/v1/threads/…/turns, and the conversation read back."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from app.db import ids
from app.db.pagination import Paged
from app.projects.auth import Authenticated
from app.provider.structured import asked_format
from app.settings import Settings
from app.threads.address import BY_ID, BY_NAME, Addressed
from app.turns import messages
from app.turns.events import EventStream
from app.turns.runner import Running
from app.turns.schemas import turn_request
from app.turns.service import Turns
from app.turns.show import response_object, turn_object
from app.wire import json_object, json_response

router = APIRouter(tags=["turns"])

PASSED_ON = "x-dashscope-"
"""Request headers with this beginning go to the provider (the session cache has one)."""


def _turns(request: Request) -> Turns:
    turns: Turns = request.app.state.turns
    return turns


Service = Annotated[Turns, Depends(_turns)]
Until = Annotated[str | None, Query(description="The last turn to show; the thread's head if left out.")]


def provider_headers(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name.startswith(PASSED_ON)}


def turn_headers(running: Running) -> dict[str, str]:
    """What every answer to a turn tells, streamed or not, good or bad."""
    turn = running.turn
    headers = {
        "Everthread-Thread": ids.thread_id(turn.thread_id),
        "Everthread-Turn": ids.turn_id(turn.id),
        "Everthread-Continuation": running.continuation.value,
    }
    if turn.request.ignored:
        headers["Everthread-Ignored"] = ", ".join(turn.request.ignored)
    if asked_format(turn.request.params) is not None:
        headers["Everthread-Prompted"] = "text.format"
    if running.dropped_items:
        headers["Everthread-Dropped-Items"] = str(running.dropped_items)
    return headers


def answer(running: Running, show: Any) -> Response:
    """The answer to whoever asked for the turn.

    Args:
        show: makes the body of a plain answer.

    Raises:
        APIError: the turn failed before anything of it was sent.
    """
    headers = turn_headers(running)
    request = running.turn.request
    if request.stream and len(running.events):
        return EventStream(running.events.follow(), headers)
    if running.error is not None and not request.background:
        running.error.headers |= headers
        raise running.error
    # A background turn is answered at once, as it was opened.
    response = running.response or response_object(running.turn, {"status": "in_progress"})
    return json_response(show(running, response), headers=headers)


def _show(running: Running, response: dict[str, Any]) -> dict[str, Any]:
    return turn_object(response, running.turn, running.continuation.value)


@router.post(f"{BY_NAME}/turns")
@router.post(f"{BY_ID}/turns")
async def create(request: Request, caller: Authenticated, turns: Service, address: Addressed) -> Response:
    settings: Settings = request.app.state.settings
    sent = turn_request(await json_object(request), settings.default_model)
    return answer(await turns.create(caller, address, sent, provider_headers(request)), _show)


@router.get(f"{BY_NAME}/turns")
@router.get(f"{BY_ID}/turns")
async def list_turns(caller: Authenticated, turns: Service, address: Addressed, page: Paged) -> Response:
    return json_response(await turns.list_page(caller, address, page))


@router.get(f"{BY_NAME}/turns/{{turn_id}}")
@router.get(f"{BY_ID}/turns/{{turn_id}}")
async def get(caller: Authenticated, turns: Service, address: Addressed, turn_id: str) -> Response:
    return json_response(await turns.get(caller, address, turn_id))


@router.get(f"{BY_NAME}/messages")
@router.get(f"{BY_ID}/messages")
async def replay(
    caller: Authenticated,
    turns: Service,
    address: Addressed,
    until: Until = None,
    format: Annotated[Literal["responses", "chat", "markdown"], Query()] = "responses",
) -> Response:
    thread, rows = await turns.messages(caller, address, until)
    match format:
        case "markdown":
            return Response(messages.as_markdown(thread["title"], rows), media_type="text/markdown; charset=utf-8")
        case "chat":
            return json_response({"object": "list", "data": messages.as_chat(rows), "has_more": False})
        case "responses":
            return json_response({"object": "list", "data": messages.as_responses(rows), "has_more": False})


@router.get(f"{BY_NAME}/chain")
@router.get(f"{BY_ID}/chain")
async def chain(caller: Authenticated, turns: Service, address: Addressed, until: Until = None) -> Response:
    return json_response(await turns.chain(caller, address, until))

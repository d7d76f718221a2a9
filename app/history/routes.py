"""/v1/threads/…: a conversation taken in, read back, forked, and deleted."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.history import messages
from app.history.call_program import as_python
from app.history.calls import CallObject, as_curl, call_object, curl_headers, sent_body
from app.history.feedback import FeedbackCreate, FeedbackObject, Feedbacks
from app.history.playback import Part, Tempo
from app.history.rebuilds import Rebuilds, RebuiltInput
from app.history.service import BranchObject, History, LinkObject, SiblingObject, TurnsPage
from app.history.shares import ShareCreate, SharedThread, ShareLink, ShareObject, Shares
from app.http.bodies import Sent, SentOrEmpty, SentUnlimited, json_response
from app.http.describing import AS_EVENTS, AS_LINES, AS_TEXT, CONFLICT, HEARTBEAT, Deleted, as_text
from app.http.errors import BadRequest
from app.http.heartbeat import heartbeat_seconds
from app.http.pages import ListObject, Page, Paged, PagedTurns, list_object
from app.http.services import services, serving
from app.limits.room import FOR_ITEMS, check_room
from app.limits.service import RateLimits
from app.projects.auth import Authenticated
from app.projects.authorized_stream import Export
from app.projects.credential_watch import listening
from app.projects.reads import RecordedRoute, reads
from app.projects.user_tokens import for_users
from app.threads.address import Addressed, at
from app.threads.presets import presets_of
from app.threads.schemas import BulkResult, ThreadCreate, ThreadFork, ThreadObject, ThreadsBulk
from app.threads.service import for_caller
from app.turns.events import EventStream

router = APIRouter(tags=["history"], route_class=RecordedRoute)


Service = Annotated[History, serving(History)]
Until = Annotated[str | None, Query(description="The last turn to show; the thread's head if left out.")]


@for_users
@router.post("/threads", response_model=ThreadObject, status_code=201, responses=CONFLICT)
async def create(
    request: Request, caller: Authenticated, history: Service, sent: SentOrEmpty[ThreadCreate]
) -> Response:
    """Create a thread, with or without a conversation to continue."""
    (await presets_of(request, caller)).check_input(sent.messages, "messages")
    return json_response(await history.create_thread(caller, for_caller(caller, sent)), status=201)


@router.post("/threads/bulk", response_model=ListObject[BulkResult])
async def bulk(caller: Authenticated, history: Service, sent: SentUnlimited[ThreadsBulk]) -> Response:
    """Archive or delete many threads, with a result for each."""
    return json_response(await history.bulk(caller, sent))


@for_users
@at(router.delete, response_model=Deleted)
async def delete(caller: Authenticated, history: Service, address: Addressed) -> Response:
    """Delete a thread and everything in it."""
    return json_response(await history.delete_thread(caller, address))


@for_users
@at(router.post, "/fork", response_model=ThreadObject, status_code=201, responses=CONFLICT)
async def fork(caller: Authenticated, history: Service, address: Addressed, sent: SentOrEmpty[ThreadFork]) -> Response:
    """Create a thread that continues from a turn of this one."""
    return json_response(await history.fork(caller, address, for_caller(caller, sent)), status=201)


@reads("calls")
@at(router.get, "/turns/{turn_id}/calls", response_model=ListObject[CallObject], responses=AS_TEXT)
async def calls(
    caller: Authenticated,
    history: Service,
    address: Addressed,
    turn_id: str,
    format: Literal["json", "curl"] = "json",
    bodies: Annotated[bool, Query(description="`false`: each `body` is null.")] = True,
) -> Response:
    """List the requests that were sent to the provider for a turn, byte for byte."""
    id_, rows = await history.calls(caller, address, turn_id, bodies=bodies or format == "curl")
    if format == "curl":
        said = "\n\n".join(as_curl(row) for row in rows)
        return Response(said + "\n", media_type="text/plain; charset=utf-8", headers=curl_headers(rows))
    return json_response(list_object(rows, lambda row: call_object(id_, row), has_more=False))


@at(router.get, "/turns/{turn_id}/siblings", response_model=ListObject[SiblingObject])
async def siblings(caller: Authenticated, history: Service, address: Addressed, turn_id: str) -> Response:
    """List the turns that continue from the same turn: edits, and answers that were requested again."""
    return json_response(await history.siblings(caller, address, turn_id))


@reads("conversation")
@at(router.get, "/turns/{turn_id}/rebuilt_input", response_model=RebuiltInput)
async def rebuilt_input(
    caller: Authenticated, rebuilds: Annotated[Rebuilds, serving(Rebuilds)], address: Addressed, turn_id: str
) -> Response:
    """Return the input array that a rebuild would send for a turn now."""
    return json_response(await rebuilds.of_turn(caller, address, turn_id))


@reads("calls")
@router.get("/calls/{call_id}", response_model=CallObject, responses=AS_TEXT)
async def call(
    caller: Authenticated,
    history: Service,
    call_id: str,
    format: Annotated[
        Literal["json", "curl", "python", "body"],
        Query(
            description="`curl`: a command that sends the same body. `python`: a program with the openai client. "
            "`body`: the body, byte for byte."
        ),
    ] = "json",
) -> Response:
    """Return one request to the provider."""
    id_, row = await history.call(caller, call_id)
    if format == "json":
        return json_response(call_object(id_, row))
    if format == "body":
        return Response(sent_body(row), media_type="application/json")
    said = as_curl(row) + "\n" if format == "curl" else as_python(row)
    return Response(said, media_type="text/plain; charset=utf-8", headers=curl_headers([row]))


@reads("conversation")
@at(router.get, "/replay", response_class=Response, responses=AS_EVENTS, openapi_extra={"parameters": [HEARTBEAT]})
async def play(
    request: Request,
    caller: Authenticated,
    history: Service,
    address: Addressed,
    until: Until = None,
    speed: Annotated[float, Query(ge=0, le=1000, description="1: as it was; 10: ten times as fast; 0: at once.")] = 1,
    longest_pause: Annotated[float, Query(ge=0, le=86_400, description="Seconds, between turns too.")] = 3,
    skip: Annotated[int, Query(ge=0, le=2**31 - 1, description="Number of turns to skip.")] = 0,
    limit: Annotated[int | None, Query(ge=1, le=1000, description="Number of turns to replay. Default: all.")] = None,
) -> Response:
    """Replay the conversation, or a part of it, as a stream of events."""
    frames = await history.play(caller, address, until, Tempo(speed, longest_pause), Part(skip, limit))
    return EventStream(
        frames, listening(request, caller, address.id), heartbeat=heartbeat_seconds(request), resumed_by=None
    )


@for_users
@at(router.get, "/branches", response_model=ListObject[BranchObject])
async def branches(caller: Authenticated, history: Service, address: Addressed, page: Paged) -> Response:
    """List the ends of a thread's branches."""
    return json_response(await history.branches(caller, address, page))


@for_users
@reads("conversation")
@at(router.get, "/messages", response_model=messages.Messages, responses=as_text("text/markdown"))
async def read_back(
    request: Request,
    caller: Authenticated,
    history: Service,
    address: Addressed,
    page: PagedTurns,
    until: Until = None,
    newest: Annotated[
        int | None, Query(alias="turns", ge=1, le=1000, description="The last so many turns, or those before `before`.")
    ] = None,
    format: Literal["responses", "chat", "markdown"] = "responses",
) -> Response:
    """Return the conversation: as items, as Chat messages, or as Markdown."""
    if page.order == "desc" and format != "responses":
        raise BadRequest("'order' is asc for Chat messages and Markdown. Leave it out.", param="order")
    thread, rows, found = await history.messages(caller, address, page, until=until, newest=newest)
    if format == "markdown":
        text = messages.as_markdown(thread["title"], rows)
        return Response(text, media_type="text/markdown; charset=utf-8", headers=next_page(request, page, found))
    shown = messages.as_chat(rows) if format == "chat" else messages.as_responses(rows)
    return json_response({"object": "list", "data": shown, **found.ends, "has_more": found.has_more})


def next_page(request: Request, page: Page, found: TurnsPage) -> dict[str, str]:
    """The header that leads on from a page that is no JSON."""
    if not found.has_more:
        return {}
    upwards = page.before is None and "turns" not in request.query_params
    cursor = {"after": found.ends["last_id"]} if upwards else {"before": found.ends["first_id"]}
    return _link(request, cursor)


@reads("chain")
@at(router.get, "/chain", response_model=ListObject[LinkObject])
async def chain(
    caller: Authenticated,
    history: Service,
    address: Addressed,
    page: PagedTurns,
    until: Until = None,
    all_branches: Annotated[bool, Query(description="List the turns of all branches, by number.")] = False,
) -> Response:
    """List how each turn reached the model, and whether it can still be chained."""
    if all_branches and until is not None:
        raise BadRequest("'until' names a branch: it and 'all_branches' exclude each other.", param="until")
    if all_branches:
        return json_response(await history.all_links(caller, address, page))
    return json_response(await history.chain(caller, address, page, until))


FeedbackService = Annotated[Feedbacks, serving(Feedbacks)]
ShareService = Annotated[Shares, serving(Shares)]
Label = Annotated[str | None, Query(min_length=1, max_length=64, description="Only with this label.")]


@for_users
@at(router.post, "/turns/{turn_id}/feedback", response_model=FeedbackObject, status_code=201)
async def give_feedback(
    request: Request,
    caller: Authenticated,
    feedback: FeedbackService,
    address: Addressed,
    turn_id: str,
    sent: Sent[FeedbackCreate],
) -> Response:
    """Add feedback on a turn."""
    await check_room(services(request)[RateLimits], caller, sent.user)
    return json_response(await feedback.add(caller, address, turn_id, sent), status=201)


@reads("feedback")
@at(router.get, "/turns/{turn_id}/feedback", response_model=ListObject[FeedbackObject])
async def feedback_of_turn(
    caller: Authenticated, feedback: FeedbackService, address: Addressed, turn_id: str
) -> Response:
    """List the feedback on a turn."""
    return json_response(await feedback.of_turn(caller, address, turn_id))


@reads("feedback", of="project")
@router.get("/feedback", response_model=ListObject[FeedbackObject])
async def list_feedback(caller: Authenticated, feedback: FeedbackService, page: Paged, label: Label = None) -> Response:
    """List the project's feedback."""
    return json_response(await feedback.list_page(caller, label, page))


@reads("export of feedback", of="project", exported=True)
@router.get("/feedback/export", response_class=Response, responses=AS_LINES)
async def export_feedback(
    request: Request, caller: Authenticated, feedback: FeedbackService, label: Label = None
) -> Response:
    """Export feedback, each with the conversation so far, as JSON lines."""
    return Export(await feedback.export(caller, label), listening(request, caller))


@router.delete("/feedback/{feedback_id}", response_model=Deleted)
async def delete_feedback(caller: Authenticated, feedback: FeedbackService, feedback_id: str) -> Response:
    """Delete feedback."""
    return json_response(await feedback.delete(caller, feedback_id))


@for_users
@at(router.post, "/shares", dependencies=FOR_ITEMS, response_model=ShareLink, status_code=201)
async def share(
    caller: Authenticated, shares: ShareService, address: Addressed, sent: SentOrEmpty[ShareCreate]
) -> Response:
    """Create a link that shows the conversation to anyone who has it."""
    return json_response(await shares.create(caller, address, sent), status=201)


@for_users
@at(router.get, "/shares", response_model=ListObject[ShareObject])
async def list_shares(caller: Authenticated, shares: ShareService, address: Addressed, page: Paged) -> Response:
    """List the links to a thread."""
    return json_response(await shares.listed(caller, address, page))


@for_users
@router.delete("/shares/{share_id}", response_model=Deleted)
async def take_back(caller: Authenticated, shares: ShareService, share_id: str) -> Response:
    """Revoke a link."""
    return json_response(await shares.take_back(caller, share_id))


@router.get("/shared/{token}", response_model=SharedThread, responses=as_text("text/markdown"))
async def shared(
    request: Request,
    shares: ShareService,
    token: str,
    format: Literal["json", "markdown"] = "json",
    after: Annotated[int, Query(ge=0, le=2**31, description="The `next` of the page before this one.")] = 0,
) -> Response:
    """Return the conversation behind a link. No key is needed."""
    found = await shares.read(token, after)
    headers = {"Cache-Control": "no-store", "X-Robots-Tag": "noindex"}
    if format == "markdown":
        title = messages.CANNOT_BE_OPENED if found.share.unreadable else found.share.title
        said = messages.as_markdown(None if after else title, found.rows)
        if found.next is not None:
            headers |= _link(request, {"after": str(found.next)})
        return Response(said, media_type="text/markdown; charset=utf-8", headers=headers)
    return json_response(found.shown(), headers=headers)


def _link(request: Request, cursor: dict[str, str | None]) -> dict[str, str]:
    """Return the header that leads to the page at a cursor."""
    url = request.url.include_query_params(**cursor)
    return {"Link": f'<{request.scope["raw_path"].decode()}?{url.query}>; rel="next"'}

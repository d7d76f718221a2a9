"""/v1/threads/…: a conversation taken in, read back, forked, and deleted."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.history import messages
from app.history.calls import CallObject, as_curl, call_object, curl_headers
from app.history.feedback import FeedbackCreate, FeedbackObject, Feedbacks
from app.history.playback import Tempo
from app.history.service import BranchObject, History, LinkObject, TurnsPage
from app.history.shares import ShareCreate, SharedThread, ShareLink, ShareObject, Shares, shared_thread
from app.http.bodies import Sent, SentOrEmpty, SentUnlimited, json_response
from app.http.describing import CONFLICT, EVENTS, HEARTBEAT, NDJSON, PLAIN, Deleted, described
from app.http.errors import BadRequest
from app.http.heartbeat import heartbeat_seconds
from app.http.pages import ListObject, Page, Paged, PagedTurns, list_object
from app.http.services import services, serving
from app.limits.room import FOR_ITEMS, check_room
from app.limits.service import RateLimits
from app.projects.auth import Authenticated
from app.projects.credential_watch import listening
from app.projects.held import Export
from app.projects.user_tokens import for_users
from app.threads.address import Addressed, at
from app.threads.schemas import BulkResult, ThreadCreate, ThreadFork, ThreadObject, ThreadsBulk
from app.threads.service import for_caller
from app.turns.events import EventStream

router = APIRouter(tags=["history"])


Service = Annotated[History, serving(History)]
Until = Annotated[str | None, Query(description="The last turn to show; the thread's head if left out.")]


@for_users
@router.post(
    "/threads",
    **described(
        "Make a thread, with a conversation to go on from or without.",
        ThreadObject,
        status=201,
        errors=CONFLICT,
    ),
)
async def create(caller: Authenticated, history: Service, sent: SentOrEmpty[ThreadCreate]) -> Response:
    return json_response(await history.create_thread(caller, for_caller(caller, sent)), status=201)


@router.post(
    "/threads/bulk",
    **described("Archive or delete many threads; each says what came of it.", ListObject[BulkResult]),
)
async def bulk(caller: Authenticated, history: Service, sent: SentUnlimited[ThreadsBulk]) -> Response:
    return json_response(await history.bulk(caller, sent))


@for_users
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
        errors=CONFLICT,
    ),
)
async def fork(caller: Authenticated, history: Service, address: Addressed, sent: SentOrEmpty[ThreadFork]) -> Response:
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


@at(
    router.get,
    "/replay",
    **described("The conversation as it happened, as events.", media=EVENTS, parameters=[HEARTBEAT]),
)
async def play(
    request: Request,
    caller: Authenticated,
    history: Service,
    address: Addressed,
    until: Until = None,
    speed: Annotated[float, Query(ge=0, le=1000, description="1: as it was; 10: ten times as fast; 0: at once.")] = 1,
    longest_pause: Annotated[float, Query(ge=0, le=86_400, description="Seconds, between turns too.")] = 3,
) -> Response:
    frames = await history.play(caller, address, until, Tempo(speed, longest_pause))
    return EventStream(
        frames, listening(request, caller, address.id), heartbeat=heartbeat_seconds(request), resumed_by=None
    )


@at(router.get, "/branches", **described("The ends of the branches of a thread.", ListObject[BranchObject]))
async def branches(caller: Authenticated, history: Service, address: Addressed, page: Paged) -> Response:
    return json_response(await history.branches(caller, address, page))


@for_users
@at(
    router.get,
    "/messages",
    **described(
        "The conversation: as items, as Chat messages, or as Markdown.", messages.Messages, or_media=("text/markdown",)
    ),
)
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
    format: Annotated[Literal["responses", "chat", "markdown"], Query()] = "responses",
) -> Response:
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
    url = request.url.include_query_params(**cursor)
    return {"Link": f'<{url.path}?{url.query}>; rel="next"'}


@at(
    router.get,
    "/chain",
    **described("How each turn reached the model, and whether it can be chained on.", ListObject[LinkObject]),
)
async def chain(
    caller: Authenticated, history: Service, address: Addressed, page: PagedTurns, until: Until = None
) -> Response:
    return json_response(await history.chain(caller, address, page, until))


FeedbackService = Annotated[Feedbacks, serving(Feedbacks)]
ShareService = Annotated[Shares, serving(Shares)]
Label = Annotated[str | None, Query(min_length=1, max_length=64, description="Only with this label.")]


@for_users
@at(
    router.post,
    "/turns/{turn_id}/feedback",
    **described("Say what somebody thinks of a turn.", FeedbackObject, status=201),
)
async def give_feedback(
    request: Request,
    caller: Authenticated,
    feedback: FeedbackService,
    address: Addressed,
    turn_id: str,
    sent: Sent[FeedbackCreate],
) -> Response:
    await check_room(services(request)[RateLimits], caller, sent.user)
    return json_response(await feedback.add(caller, address, turn_id, sent), status=201)


@at(router.get, "/turns/{turn_id}/feedback", **described("What people think of a turn.", ListObject[FeedbackObject]))
async def feedback_of_turn(
    caller: Authenticated, feedback: FeedbackService, address: Addressed, turn_id: str
) -> Response:
    return json_response(await feedback.of_turn(caller, address, turn_id))


@router.get("/feedback", **described("The project's feedback.", ListObject[FeedbackObject]))
async def list_feedback(caller: Authenticated, feedback: FeedbackService, page: Paged, label: Label = None) -> Response:
    return json_response(await feedback.list_page(caller, label, page))


@router.get(
    "/feedback/export", **described("Feedback, each with the conversation so far, as JSON lines.", media=NDJSON)
)
async def export_feedback(
    request: Request, caller: Authenticated, feedback: FeedbackService, label: Label = None
) -> Response:
    return Export(await feedback.export(caller, label), listening(request, caller))


@router.delete("/feedback/{feedback_id}", **described("Delete feedback.", Deleted))
async def delete_feedback(caller: Authenticated, feedback: FeedbackService, feedback_id: str) -> Response:
    return json_response(await feedback.delete(caller, feedback_id))


@at(
    router.post,
    "/shares",
    dependencies=FOR_ITEMS,
    **described("A link that shows the conversation to whoever has it.", ShareLink, status=201),
)
async def share(
    caller: Authenticated, shares: ShareService, address: Addressed, sent: SentOrEmpty[ShareCreate]
) -> Response:
    return json_response(await shares.create(caller, address, sent), status=201)


@at(router.get, "/shares", **described("The links to a thread.", ListObject[ShareObject]))
async def list_shares(caller: Authenticated, shares: ShareService, address: Addressed) -> Response:
    return json_response(await shares.listed(caller, address))


@router.delete("/shares/{share_id}", **described("Take a link back.", Deleted))
async def take_back(caller: Authenticated, shares: ShareService, share_id: str) -> Response:
    return json_response(await shares.take_back(caller, share_id))


@router.get(
    "/shared/{token}",
    **described("What a link shows; it needs no key.", SharedThread, or_media=("text/markdown",)),
)
async def shared(
    shares: ShareService, token: str, format: Annotated[Literal["json", "markdown"], Query()] = "json"
) -> Response:
    title, rows = await shares.read(token)
    headers = {"Cache-Control": "no-store", "X-Robots-Tag": "noindex"}
    if format == "markdown":
        said = messages.as_markdown(title, rows)
        return Response(said, media_type="text/markdown; charset=utf-8", headers=headers)
    return json_response(shared_thread(title, rows), headers=headers)

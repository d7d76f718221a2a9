"""A turn over HTTP: what a request says of it beside its body, and what its answer is, on either surface."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from operator import attrgetter
from typing import Any
from urllib.parse import quote
from uuid import UUID

from fastapi import Request
from fastapi.responses import Response
from starlette.requests import HTTPConnection

from app.chain.continuation import Continuation
from app.db import ids
from app.http.bodies import json_response
from app.http.errors import APIError, BadRequest
from app.http.fields import field_of, fields_of
from app.http.heartbeat import AwaitedStream, heartbeat_seconds
from app.http.services import services
from app.items import media
from app.projects.auth import Caller
from app.projects.credential_watch import listening
from app.projects.user_tokens import user_hash
from app.provider.client import SESSION_CACHE
from app.provider.events import own_frame
from app.provider.refusals import failed_before
from app.provider.structured import is_prompted
from app.sealing import at_rest
from app.threads.address import Address
from app.turns.client import Client, ClientLeft
from app.turns.closing import TurnGone, gone_frame
from app.turns.events import EventStream
from app.turns.opening import Joined
from app.turns.replay import Replay, StoredTurn, events_of
from app.turns.rows import ItemRow, TurnRow
from app.turns.running import Running
from app.turns.schemas import Origin, TurnRequest
from app.turns.service import Turns
from app.turns.show import response_object, with_status

IN_WORDS = attrgetter(*media.COUNTED.values())
"""Function that returns the numbers of a history's media that text replaces, by kind."""

Show = Callable[[Running, dict[str, Any]], dict[str, Any]]
ShowStored = Callable[[TurnRow, list[ItemRow]], dict[str, Any]]

LONGEST_KEY = 255
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")
CLIENT_TIMEOUT_SECONDS = 600.0
"""The `openai` clients' time-out, where they do not say."""

CLIENT_BACKOFF_SECONDS = 8.0
"""The longest pause of the `openai` clients before a retry."""

LONGEST_RETRY_SECONDS = 24 * 3600.0
"""However often, and however long, a client says that it tries."""

PASSED_ON = SESSION_CACHE.lower().encode()
"""The request header that goes to the provider. Others of its own name workspaces, or ask for what is not a turn."""


def provider_headers(request: HTTPConnection) -> dict[str, str]:
    session_cache = field_of(request.scope, PASSED_ON)
    return {} if session_cache is None else {SESSION_CACHE: session_cache}


def opened_headers(running: Running) -> dict[str, str]:
    """Return what an answer to a turn tells before the model has said anything."""
    turn = running.turn
    return {
        **running.admission.headers,
        "Everthread-Thread": running.names["thread"],
        "Everthread-Turn": running.names["turn"],
        "OpenAI-Processing-Ms": str(max(0, round((time.time() - turn.created_at.timestamp()) * 1000))),
    }


def turn_headers(running: Running) -> dict[str, str]:
    """Return what every other answer to a turn tells, streamed or not, good or bad."""
    request, reason, context = running.turn.request, running.reason, running.context
    family, params = request.family, request.params
    headers = opened_headers(running)
    headers["Everthread-Continuation"] = Continuation.NEW if reason is None else reason.continuation
    if reason is not None and request.origin.user is None:
        headers["Everthread-Continuation-Reason"] = reason  # It reveals accounts, which end users do not see.
    if request.ignored:
        headers["Everthread-Ignored"] = ", ".join(request.ignored)
    enforced = running.attempt is not None and running.attempt.target.enforces_format
    if "text" in params and is_prompted(params, enforced=enforced, streamed=request.streamed):
        headers["Everthread-Prompted"] = "text.format"
    if not family.name:
        headers["Everthread-Unlisted-Model"] = quote(request.model)
    if request.replaced_model is not None:
        headers["Everthread-Model"] = quote(request.model)
    adjusted = family.adjusted(params)
    if context.reduced is not None:
        adjusted["history"] = context.reduced.step.label
    if any(numbers := IN_WORDS(context)):
        counted = zip(media.COUNTED.values(), numbers, strict=True)
        adjusted |= {f"history.{name}": number for name, number in counted if number}
    if context.reasoning_left_out:
        adjusted["reasoning_left_out"] = context.reasoning_left_out
    if adjusted:
        headers["Everthread-Adjusted"] = ", ".join(f"{path}={value}" for path, value in adjusted.items())
    if context.dropped_items:
        headers["Everthread-Dropped-Items"] = str(context.dropped_items)
    if context.since is not None:
        headers["Everthread-Dropped-Since"] = ids.turn_id(UUID(context.since))
    if context.compaction is not None:
        headers["Everthread-Compaction"] = ids.compaction_id(UUID(context.compaction))
    return headers


def origin(request: Request, caller: Caller) -> Origin:
    """Return the origin of a turn, read from its request's headers.

    Raises:
        BadRequest: the Idempotency-Key is empty or too long.
    """
    fields = fields_of(request.scope)
    given = fields.get(b"idempotency-key")
    key = None if given is None else given.decode("latin-1")
    if key is not None and not 0 < len(key) <= LONGEST_KEY:
        raise BadRequest(
            f"'Idempotency-Key' must have 1 to {LONGEST_KEY} characters.", param="Idempotency-Key", code="invalid_value"
        )
    if key is not None and caller.grant.user is not None:
        # Two users' keys are not one key, though they are the same word: no user gets another's turn.
        key = f"user:{user_hash(caller.grant.user)}:{key}"
    retries = int(_number(fields.get(b"x-stainless-retry-count")) or 0)
    retried = None
    if retries:
        timeout = _number(fields.get(b"x-stainless-read-timeout")) or _number(fields.get(b"x-stainless-timeout"))
        longest = retries * ((timeout or CLIENT_TIMEOUT_SECONDS) + CLIENT_BACKOFF_SECONDS)
        retried = min(longest, LONGEST_RETRY_SECONDS)
    return Origin(
        caller.grant.key_id,
        caller.address,
        at_rest.sealer().digest(request.scope["state"]["body_hash"]),
        key,
        retried,
        caller.grant.session_cache,
        caller.grant.user,
        caller.grant.settings,
        caller.grant.key_limits,
    )


def _number(text: bytes | None) -> float | None:
    """Return the number of a header; None if it is not a plausible number."""
    return float(text) if text is not None and _NUMBER.fullmatch(text) else None


class AwaitedTurn(AwaitedStream):
    """A turn until its first event, or until its end where it is not streamed.

    It is the answer to a request for a stream. Any other request, or the repetition of one, gets what `opened` returns.
    """

    def __init__(
        self,
        request: Request,
        caller: Caller,
        address: Address,
        asked: TurnRequest,
        show: Show,
        show_stored: ShowStored,
    ) -> None:
        """
        Args:
            show: makes the body of a plain answer.
            show_stored: the same, of a turn that is read back.
        """
        super().__init__(heartbeat_seconds(request))
        self._request = request
        self._caller = caller
        self._address = address
        self._asked = asked
        self._show = show
        self._show_stored = show_stored
        self._client = Client(request.receive, listening(request, caller, admitted=True))

    async def opened(self) -> Response:
        """Return the answer.

        Raises:
            APIError: the turn failed before anything of it was sent.
            ClientLeft: nobody is there any more.
        """
        turns, headers = services(self._request)[Turns], provider_headers(self._request)
        with self._client as client:
            outcome = await turns.create(self._caller, self._address, self._asked, headers, client)
            return await self._joined(outcome) if isinstance(outcome, Joined) else self._answered(outcome)

    def first_headers(self) -> dict[str, str]:
        running = self._client.running
        return {} if running is None else opened_headers(running)

    def closing_bytes(self, error: APIError) -> bytes:
        """Return the events of a turn that has failed, with the HTTP status in its error; else an event `error`."""
        running = self._client.running
        if running is None or running.outcome.error is not error or isinstance(error, TurnGone):
            return gone_frame(error, 0)
        failed = {"status": "failed", "error": {"code": error.code, "message": error.message}}
        events = events_of(with_status(response_object(running.turn, failed), error))
        return b"".join(own_frame(kind, fields, number) for number, (kind, fields) in enumerate(events))

    def _answered(self, running: Running) -> Response:
        headers = turn_headers(running)
        asked = running.turn.request
        if asked.stream and len(running.events):
            stop = partial(services(self._request)[Turns].stop, running) if asked.ends_with_client else None
            return self._stream(running.events.follow(), running.turn.thread_id, headers, stop)
        if asked.background and not self.committed:
            # Answered at once, as it was opened.
            response = running.outcome.response or response_object(running.turn, {"status": "in_progress"})
            return json_response(self._show(running, response), headers=headers)
        if running.outcome.error is not None:
            raise running.outcome.error.with_headers(headers)
        assert running.outcome.response is not None
        return json_response(self._show(running, running.outcome.response), headers=headers)

    async def _joined(self, joined: Joined) -> Response:
        replay = services(self._request)[Replay]
        headers = {"Everthread-Turn": ids.turn_id(joined.turn_id), "Idempotent-Replayed": "true"}
        row, items = await replay.stored(joined.project_id, joined.turn_id)
        if row["params"].get("stream") is True and (row["status"] != "failed" or self.committed):
            return self._stream(replay.frames(joined.project_id, joined.turn_id, 0), row["thread_id"], headers)
        if row["params"].get("background") is not True:
            row, items = await _ended(replay, self._client, joined)
            if row["status"] == "failed":
                raise failed_before(row["error_status"], row["error"] or {}).with_headers(headers)
        return json_response(self._show_stored(row, items), headers=headers)

    def _stream(
        self,
        frames: AsyncIterator[bytes],
        thread_id: UUID,
        headers: dict[str, str],
        on_left: Callable[[], object] | None = None,
    ) -> EventStream:
        listener = listening(self._request, self._caller, thread_id, admitted=True)
        return EventStream(frames, listener, headers, heartbeat=self.seconds, on_left=on_left)


async def _ended(replay: Replay, client: Client, joined: Joined) -> StoredTurn:
    ended = asyncio.ensure_future(replay.ended(joined.project_id, joined.turn_id))
    try:
        await client.wait_for(ended)
    except ClientLeft:
        ended.cancel()
        await replay.client_left(joined.project_id, joined.turn_id)
        raise
    return await ended


def first_event(starting_after: int | None, request: Request) -> int:
    """The number of the first event to send: after `starting_after`, or after the Last-Event-ID header.

    Raises:
        BadRequest: the header is not the number of an event.
    """
    last = field_of(request.scope, b"last-event-id")
    if last is not None and not _WHOLE_NUMBER.fullmatch(last):
        raise BadRequest("'Last-Event-ID' must be the number of an event.", param="Last-Event-ID")
    if starting_after is not None:
        return starting_after + 1
    return 0 if last is None else int(last) + 1

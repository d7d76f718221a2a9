"""The end of a turn: closed in Postgres with its answer or its error, told to its listeners, and remembered."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

import structlog

from app.accounts.pool import PASSED_ON, ProviderAccount
from app.chain import continuation
from app.chain.answer import Answer
from app.chain.continuation import Direction
from app.chain.live_ids import LiveId
from app.http.errors import APIError, DatabaseUnavailable, ServiceStopping
from app.items.unreadable import ContentUnreadable
from app.items.weights import tokens
from app.memory.compaction import CompactionJob
from app.provider import failure
from app.provider.failure import Failure, Kind
from app.provider.refusals import client_error
from app.telemetry import metrics
from app.turns import context
from app.turns.closer import Closer
from app.turns.closing import (
    INTERRUPTED,
    TOO_LARGE,
    Closing,
    broken_off,
    closed_elsewhere,
    deleted,
    response_document,
)
from app.turns.collaborators import Collaborators
from app.turns.deciding import Decisions
from app.turns.running import Running, Stage
from app.turns.show import response_object, with_status

log = structlog.get_logger()

CUT_SHORT = {Kind.BROKEN: INTERRUPTED, Kind.TIMEOUT: INTERRUPTED, Kind.TOO_LARGE: TOO_LARGE}
"""The `reason` of the incomplete response that is kept, by the failure that cut it short."""

MOST_UNLISTED = 100
"""Models that the log tells of."""

MOST_CLOCKS = 1000
"""Limit on the accounts whose clocks are logged."""


class Finish:
    def __init__(self, parts: Collaborators, decisions: Decisions, closer: Closer) -> None:
        self._store = parts.store
        self._live_ids = parts.live_ids
        self._models = parts.models
        self._observations = parts.reader.observations
        self._settings = parts.settings
        self._decisions = decisions
        self._closer = closer
        self._unlisted: set[str] = set()
        self._reported_clocks: set[str] = set()
        for direction in get_args(Direction):
            metrics.of(metrics.IMPLAUSIBLE_DATES, direction)  # Exported from zero on, so that rates can be computed.

    async def complete(self, running: Running, answer: Answer) -> None:
        """Close a turn that has been answered."""
        turn, request, response, attempt = running.turn, running.turn.request, answer.response, running.attempt
        assert attempt is not None
        running.stage = Stage.CLOSING  # The model has answered: the end of the process waits until that is kept.
        if not request.family.name:
            self._tell_unlisted(request.model)
        now = time.time()
        created, called_at = continuation.seconds(response.get("created_at")), running.calls[-1].started_at.timestamp()
        ttl_seconds = self._settings.response_id_ttl_seconds
        ends = continuation.expires_at(created, called_at=called_at, ttl_seconds=ttl_seconds)
        if (direction := continuation.disagreement(created, called_at=called_at, answered_at=now)) is not None:
            self._report_clock(attempt.account, direction)
        live = request.params.get("store") is not False and answer.chainable
        response["completed_at"] = int(now)
        own = await context.after(turn, attempt, answer.usage, self._observations, now)
        running.outcome.context = own
        status = answer.status
        closing = Closing(
            status,
            output=answer.output,
            response=response_document(response),
            usage=response.get("usage"),
            cost=running.admission.stored_cost,
            incomplete_details=response.get("incomplete_details") if status == "incomplete" else None,
            response_id=response["id"],
            response_created_at=None if created is None else datetime.fromtimestamp(created, UTC),
            response_expires_at=datetime.fromtimestamp(ends, UTC) if live else None,
            context=own.to_json(),
            continuation=str(attempt.continuation),
            continuation_reason=attempt.reason,
            calls=running.calls,
            binding=attempt.target.binding,
            pace=running.relay.recorder.pace.measured(),
            pieces=attempt.new_pieces,
            replaced_model=request.replaced_model,
        )
        kept = await self.close(running, closing)
        if kept is None:
            return
        shown = response_object(turn, response, kept)
        running.outcome.response = shown
        running.relay.publish_end(shown, to_all=True)
        # Before anything is waited for: the thread's next turn may come at once, and looks for it.
        if live and request.stored:
            entry = LiveId(turn.id, response["id"], attempt.target.binding, request.model, ends, own, answer.open_calls)
            await self._live_ids.put(turn.project_id, turn.thread_id, entry)
        await running.relay.recorder.end()
        threshold = self._decisions.at(turn, attempt.account).threshold if own.cut else attempt.threshold
        due = request.stored and threshold is not None and own.tokens >= threshold
        running.outcome.answer = answer
        if due:
            running.outcome.compaction = CompactionJob(turn.project_id, turn.id, request.model)

    async def fail(self, running: Running, found: Failure) -> None:
        """Close a turn that has no answer, or only the beginning of one."""
        relay, found = running.relay, self._with_successor(running.turn.request.model, found)
        refused = client_error(found)
        has_begun = relay.begun or running.turn.request.background
        closing = broken_off(
            running.events.since(0),
            relay.opening,
            found.as_error(),
            reason=CUT_SHORT.get(found.kind) if relay.begun or found.kind is Kind.TOO_LARGE else None,
            cancelled=running.cancelled,
            error_status=None if has_begun else refused.status,
        )
        weight = 0 if running.attempt is None else running.attempt.sent.weight
        if found.kind in CUT_SHORT and (relay.begun or running.cancelled) and weight:
            # The provider has read the input and begun to write, and charges for it.
            written = sum(tokens(item.item) for item in closing.output)
            running.outcome.uncounted = {"input_tokens": weight, "output_tokens": written}
        await self._end(running, replace(closing, **_attempt_fields(running)), refused)

    async def refuse(self, running: Running, error: ContentUnreadable | DatabaseUnavailable) -> None:
        """Close a turn whose history cannot be read: the model is not asked."""
        has_begun = running.relay.begun or running.turn.request.background
        said = {"code": error.code, "message": error.message}
        await self._end(running, running.failed(said, None if has_begun else error.status), error)

    async def _end(self, running: Running, closing: Closing, error: APIError) -> None:
        """Close a turn without an answer, and publish its end to the listeners."""
        relay, kept = running.relay, await self.close(running, closing)
        if kept is None:
            return
        shown = response_object(running.turn, relay.opening, kept)
        if kept.status == "failed":
            running.outcome.error = error
            relay.publish_end(with_status(shown, error), to_all=False)
        else:
            running.outcome.response = shown
            relay.publish_end(shown, to_all=True)
        await relay.recorder.end()

    async def leave(self, running: Running, error: ServiceStopping) -> None:
        """Leave a turn that Postgres has not taken before the end of the process: its closing is on disk."""
        running.outcome.error = error
        await running.relay.recorder.leave()
        running.relay.publish_error(error)

    async def close(self, running: Running, closing: Closing) -> Closing | None:
        """Close the turn, if anything of it is kept.

        Returns:
            What it was closed with; None if it was closed by somebody else, or deleted: its listeners are told so.

        Raises:
            ServiceStopping: the process has to end before Postgres has taken it.
        """
        turn = running.turn
        kept: Closing | None = closing
        running.stage = Stage.CLOSING
        if turn.request.stored:
            try:
                kept = await self._closer.close(turn.closable, closing)
            except ServiceStopping:
                running.stage = Stage.CLOSED
                raise
        running.stage = Stage.CLOSED
        metrics.of(metrics.TURNS, str(running.continuation), closing.status).inc()
        if closing.status == "failed":
            # Its message may quote contents.
            code = (closing.error or {}).get("code")
            log.warning("a turn failed", code=code, status=closing.error_status)
        if kept is None:
            await self._closed_elsewhere(running)
        return kept

    async def _closed_elsewhere(self, running: Running) -> None:
        """End a turn that another worker took for dead and closed, or that was deleted: that stands."""
        log.warning("a turn was closed or deleted meanwhile")
        turn = running.turn
        why: APIError = closed_elsewhere()
        running.outcome.error = why
        if not await running.relay.recorder.abandon(lambda: self._store.exists(turn.project_id, turn.id)):
            why = deleted()
            running.outcome.error = why
        running.relay.publish_error(why)

    def _with_successor(self, model: str, found: Failure) -> Failure:
        """Return a failure, with the replacement of the model if the model is retired."""
        successor = self._models.successor(model)
        if found.code != failure.MODEL_RETIRED and (successor is None or found.code not in PASSED_ON):
            return found
        return failure.retired(found, model, successor)

    def _report_clock(self, account: ProviderAccount, direction: Direction) -> None:
        """Count an answer with an implausible date, and log the first one of each account."""
        metrics.of(metrics.IMPLAUSIBLE_DATES, direction).inc()
        if account.binding not in self._reported_clocks and len(self._reported_clocks) < MOST_CLOCKS:
            self._reported_clocks.add(account.binding)
            name = account.label if account.id is None else f"acct_{account.id.hex}"
            log.warning(
                "an endpoint's created_at is far from this host's clock: its response ids are timed by this host",
                account=name,
                direction=direction,
            )

    def _tell_unlisted(self, model: str) -> None:
        """Say of a model, once, that nothing is known of it. It has answered: its name is no client's invention."""
        if model not in self._unlisted and len(self._unlisted) < MOST_UNLISTED:
            self._unlisted.add(model)
            log.warning("a model is not listed: it is taken for one with a window of a million tokens", model=model)


def _attempt_fields(running: Running) -> dict[str, Any]:
    """Return the fields of a closing about the attempt and its calls."""
    return {
        "continuation": running.continuation.value,
        "continuation_reason": running.reason,
        "calls": running.calls,
        "binding": running.binding,
        "pace": running.relay.recorder.pace.measured(),
        "pieces": () if running.attempt is None else running.attempt.new_pieces,
        "replaced_model": running.turn.request.replaced_model,
    }

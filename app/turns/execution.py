"""A turn from its opening to its closing: decided (`deciding`), called (`calling`), finished (`finishing`)."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from app.chain.answer import Answer
from app.http.errors import DatabaseUnavailable, ServiceStopping
from app.items.shapes import message
from app.items.unreadable import ContentUnreadable
from app.items.weights import added
from app.provider import failure, structured
from app.provider.client import ProviderError
from app.telemetry import spans
from app.turns.calling import Calls
from app.turns.closer import Closer
from app.turns.collaborators import Collaborators
from app.turns.deciding import Decisions
from app.turns.finishing import Finish
from app.turns.running import Running, Stage

log = structlog.get_logger()


class TurnExecution:
    def __init__(self, parts: Collaborators, closer: Closer) -> None:
        self._decisions = Decisions(parts)
        self._calls = Calls(self._decisions, parts.settings)
        self._finish = Finish(parts, self._decisions, closer)
        self._killable = parts.killable
        self._retries = parts.settings.structured_retries
        self.ending = False
        """True once running turns have had their time: no model is asked any more."""

    def run(self, running: Running, prefetched: "asyncio.Future[Any] | None") -> Coroutine[Any, Any, None]:
        """Run a turn to its end.

        Args:
            prefetched: the answer to a look-up of the live id that was sent earlier.
        """
        return (self._run if spans.tracer is None else self._traced)(running, prefetched)

    async def _traced(self, running: Running, prefetched: "asyncio.Future[Any] | None") -> None:
        names = running.names
        with spans.span("turn", {"everthread.turn": names["turn"], "everthread.thread": names["thread"]}) as span:
            await self._run(running, prefetched)
            span.add({"everthread.continuation": running.continuation.value})
            if running.reason is not None:
                span.add({"everthread.continuation_reason": running.reason.value})
            if running.outcome.error is not None:
                span.fail(running.outcome.error.meaning)

    async def _run(self, running: Running, prefetched: "asyncio.Future[Any] | None") -> None:
        try:
            try:
                if self.ending:
                    raise ProviderError(failure.stopped())
                attempt = await self._decisions.first(running, prefetched)
                answer = await self._calls.answer(running, attempt)
                if structured.asked_format(running.turn.request.params) is not None:
                    answer = await self._fitting(running, answer)
                await self._finish.complete(running, answer)
            except ProviderError as error:
                await self._finish.fail(running, error.failure)
            except (ContentUnreadable, DatabaseUnavailable) as error:
                await self._finish.refuse(running, error)
            except asyncio.CancelledError:
                if running.stage is not Stage.RUNNING:
                    running.stage = Stage.CLOSED  # The process ends while it is closed: what is on disk stays there.
                    raise
                await self._finish.fail(running, failure.stopped())
                if not running.cancelled:
                    raise
            finally:
                if running.stage is not Stage.CLOSED:
                    log.error("a turn ended in an unexpected way")
                    internal = {"code": "internal_error", "message": "The service failed on this turn."}
                    status = None if running.relay.answerable.done() else 500
                    await self._finish.close(running, running.failed(internal, status))
        except ServiceStopping as error:
            await self._finish.leave(running, error)

    async def _fitting(self, running: Running, answer: Answer) -> Answer:
        """Return an answer in the format that is asked for, as far as the model can be brought to it.

        Its response says whether it fits; a stream's has been said by now, and is only looked at.
        """
        request = running.turn.request
        if not answer.text or answer.open_calls:
            return answer  # Words beside a tool call that waits for its output are not the answer.
        again = 0
        while True:
            check = await self._checked(running, answer)
            if check.fits is not False or self.ending or request.streamed or answer.status != "completed":
                break
            assert running.attempt is not None
            self._decisions.format_ignored(running.attempt)
            if again == self._retries:
                break
            log.info("an answer does not fit its format; it is asked for once more")
            again += 1
            words = structured.format_instructions(request.params) if running.attempt.target.enforces_format else ""
            talk = [message("assistant", answer.text), message("user", structured.ask_again(check.fault or "", words))]
            before = answer
            try:
                more = running.attempt.with_more(talk, request.input)
                answer = await self._calls.answer(running, more, with_less=False)
            except ProviderError:
                break  # The answer that there is, is one.
            except asyncio.CancelledError:
                self._keep_on(running)
                break
            counted = answer.response.get("usage")
            answer.response["usage"] = added(before.response.get("usage"), counted)
            if not counted:
                answer.usage = before.usage
        answer.response["format_check"] = {"fits": check.fits, "fault": check.fault, "asked_again": again}
        return answer

    async def _checked(self, running: Running, answer: Answer) -> structured.Check:
        """Check an answer. At the end of the process it is kept unchecked: the model has given it."""
        turn = running.turn
        try:
            return await structured.check(turn.request.params, answer.text, turn.project_id, self._killable)
        except asyncio.CancelledError:
            self._keep_on(running)
            return structured.Check(None, "not checked: the service was stopped")

    def _keep_on(self, running: Running) -> None:
        """Withdraw a cancellation that comes from the end of the process, once there is an answer to be stored.

        Raises:
            CancelledError: the turn itself was cancelled.
        """
        task = asyncio.current_task()
        if running.cancelled or not self.ending or task is None:
            raise asyncio.CancelledError
        task.uncancel()

"""Calls of the provider for a turn: repeated after a passing failure, and with another attempt after a refusal."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from app.chain import answer as answers
from app.chain.answer import Answer
from app.items.provider_door import usable_id
from app.provider import failure
from app.provider.client import SESSION_CACHE, ProviderError
from app.provider.error_table import tool_names
from app.provider.failure import RETRIED
from app.settings import Settings
from app.turns import context
from app.turns.attempt import Attempt
from app.turns.closing import CallRecord
from app.turns.deciding import Decisions
from app.turns.provider_call import ProviderCall
from app.turns.running import Running


class Calls:
    def __init__(self, decisions: Decisions, settings: Settings) -> None:
        self._decisions = decisions
        self._settings = settings

    async def answer(self, running: Running, attempt: Attempt, *, with_less: bool = True) -> Answer:
        """Call the provider until it has answered, or the attempts are used up.

        Args:
            with_less: whether a rebuilt history that the provider refuses is sent with less.

        Raises:
            ProviderError: the last attempt's.
        """
        attempts = self._settings.provider_attempts
        while True:
            running.attempt = attempt
            try:
                return await self._call(running, attempt)
            except ProviderError as error:
                found = error.failure
                if running.relay.has_output:
                    raise  # A part of the answer is with the client.
                other = await self._decisions.after_refusal(running, attempt, found, with_less=with_less)
                if other is not None:
                    attempt = other
                    continue
                attempts -= 1
                pause = failure.pause(found, self._settings.provider_attempts - attempts)
                if found.kind not in RETRIED or attempts == 0 or pause > failure.LONGEST_BACKOFF_SECONDS:
                    if (moved := await self._decisions.elsewhere(running, attempt, found)) is None:
                        raise
                    attempt, attempts = moved, self._settings.provider_attempts
                    continue
            await asyncio.sleep(pause)

    async def _call(self, running: Running, attempt: Attempt) -> Answer:
        """Call the provider once, and record the call."""
        request, account = running.turn.request, attempt.account
        provider, stream = account.provider, request.streamed
        started_at = datetime.now(UTC)
        status: int | None = 200
        error: dict[str, Any] | None = None
        response_id: str | None = None
        headers = self._headers(running, attempt)
        thread_id = running.turn.thread_id
        with ProviderCall(provider.url, account.label, request.model, stream=stream, thread_id=thread_id) as call:
            try:
                if stream:
                    async with provider.stream(running.admission, attempt.body.sent, headers) as chunks:
                        answer = await running.relay.pass_on(chunks, call)
                else:
                    answer = answers.from_body(await provider.respond(running.admission, attempt.body.sent, headers))
                answer.end_by_limit(request.output_limit)
                response_id = answer.response["id"]
                call.answered(answer.response, answer.usage)
                running.admission.add(answer.usage, request.model, attempt.target.binding)
                if account.breakers:
                    account.breaker(request.model).answered()
                return answer
            except ProviderError as refused:
                # The names of the request's tools must not decide what a failure means.
                names = tool_names(request.params.get("tools"), request.input)
                refused.failure = failure.without_tools(refused.failure, names)
                status, error = refused.failure.status, {**refused.failure.as_error(), "account": provider.account}
                response_id = usable_id(running.relay.opening.get("id"))
                call.failed(refused.failure.kind.value)
                raise
            finally:
                running.calls.append(
                    CallRecord(
                        str(attempt.continuation),
                        provider.account,
                        provider.url,
                        attempt.body,
                        attempt.dropped_items,
                        status,
                        response_id,
                        error,
                        started_at,
                        datetime.now(UTC),
                        attempt.reason,
                    )
                )

    def _headers(self, running: Running, attempt: Attempt) -> dict[str, str]:
        """Return the client's headers, and whether its context is to be cached, where it does not say."""
        mode = running.turn.request.origin.session_cache or self._settings.session_cache
        if SESSION_CACHE in running.headers or not context.wants_cache(mode, attempt.context, attempt.sent.weight):
            return running.headers
        return {**running.headers, SESSION_CACHE: "enable"}

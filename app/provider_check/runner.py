"""Runner of probes against an endpoint: a few at a time, with limits on time and bytes."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import aiohttp
import orjson

from app.http import egress
from app.items.weights import count
from app.provider import failure
from app.provider.client import proxy_of
from app.provider.failure import Kind
from app.provider.secret import Secret
from app.provider_check.answers import Answer, read
from app.provider_check.probes import NotProbed, Probe, Request

PROBE_SECONDS = 45.0
TOTAL_SECONDS = 180.0
AT_ONCE = 4
MOST_BYTES = 1024 * 1024
"""Limit on the bytes of an answer."""

ATTEMPTS = 3
"""Limit on the requests of a throttled probe."""

LONGEST_PAUSE = 5.0
"""Longest pause in seconds after which a throttled probe is sent again."""

Result = Literal["ok", "differs", "not probed"]


class NoAnswer(Exception):
    """A request without a usable answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    probe: Probe | NotProbed
    result: Result
    seen: str
    request: Request | None = None
    answer: Answer | None = None


class Runner:
    def __init__(
        self,
        base_url: str,
        key: str,
        models: Mapping[str, str],
        *,
        probe_seconds: float = PROBE_SECONDS,
        total_seconds: float = TOTAL_SECONDS,
    ) -> None:
        """Args: models: by the placeholder in the probes."""
        self._base_url = base_url
        self._key = key
        self._secret = Secret(key)
        self._models = models
        self._probe_seconds = probe_seconds
        self._total_seconds = total_seconds
        self._places = asyncio.Semaphore(AT_ONCE)
        self.requests = 0
        self.tokens = {"input": 0, "output": 0}

    async def run(self, probes: Sequence[Probe | NotProbed]) -> list[Outcome]:
        """Run the probes. If the endpoint does not answer the first one, or refuses the key, run no others."""
        async with aiohttp.ClientSession(
            connector=egress.Connector(public_only=False, answer_bytes=2 * MOST_BYTES),
            timeout=aiohttp.ClientTimeout(total=self._probe_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            first, *others = probes
            assert isinstance(first, Probe)
            begun = await self._probed(session, first, {})
            found = None if begun.answer is None else begun.answer.failure
            if begun.answer is None or (found is not None and found.kind is Kind.CREDENTIALS) or not others:
                return [begun]
            tasks: dict[str, asyncio.Task[Outcome]] = {}
            for probe in others:
                if isinstance(probe, Probe):
                    tasks[probe.name] = asyncio.create_task(self._after_others(session, probe, dict(tasks)))
            _, late = await asyncio.wait(tasks.values(), timeout=self._total_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            return [begun, *(self._outcome(probe, tasks) for probe in others)]

    def _outcome(self, probe: Probe | NotProbed, tasks: Mapping[str, asyncio.Task[Outcome]]) -> Outcome:
        if isinstance(probe, NotProbed):
            return Outcome(probe, "not probed", probe.why)
        task = tasks[probe.name]
        if task.cancelled():
            return Outcome(probe, "differs", f"no answer within {self._total_seconds:g} seconds for the whole check")
        return task.result()

    async def _after_others(
        self, session: aiohttp.ClientSession, probe: Probe, tasks: Mapping[str, asyncio.Task[Outcome]]
    ) -> Outcome:
        earlier: dict[str, Answer] = {}
        for name in probe.after:
            outcome = await asyncio.shield(tasks[name])
            if outcome.result != "ok" or outcome.answer is None:
                return Outcome(probe, "not probed", f"it needs '{name}'")
            earlier[name] = outcome.answer
        return await self._probed(session, probe, earlier)

    async def _probed(self, session: aiohttp.ClientSession, probe: Probe, earlier: Mapping[str, Answer]) -> Outcome:
        request = None
        if probe.request is None:
            answer = earlier[probe.after[0]]
        else:
            request = probe.request(earlier)
            try:
                async with self._places:
                    answer = await self._answer(session, request)
            except NoAnswer as error:
                return Outcome(probe, "differs", f"no answer: {error}", request)
        result: Result = "ok" if probe.holds(answer, earlier) else "differs"
        seen = probe.seen(answer) if answer.failure is None else str(answer)
        return Outcome(probe, result, seen, request, answer)

    async def _answer(self, session: aiohttp.ClientSession, request: Request) -> Answer:
        """Send a request; a throttled one again, after a pause.

        Raises:
            NoAnswer: its message contains neither the URL nor the key.
        """
        deadline = time.monotonic() + self._probe_seconds
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = await self._sent(session, request)
            except TimeoutError as error:
                raise NoAnswer(f"none within {self._probe_seconds:g} seconds") from error
            except (aiohttp.ClientError, OSError) as error:
                raise NoAnswer(egress.reason(error)) from error
            found = answer.failure
            if found is None or found.kind is not Kind.THROTTLED:
                break
            pause = failure.pause(found, attempt)
            if attempt == ATTEMPTS or pause > LONGEST_PAUSE or time.monotonic() + pause > deadline:
                break
            await asyncio.sleep(pause)
        return answer

    async def _sent(self, session: aiohttp.ClientSession, request: Request) -> Answer:
        body, base_url = self.body(request), request.base_url or self._base_url
        headers = {"Authorization": f"Bearer {request.key or self._key}", "Accept-Encoding": "identity"}
        self.requests += 1
        async with session.request(
            request.method,
            base_url + request.path,
            data=None if body is None else orjson.dumps(body),
            headers={**headers, "Content-Type": "application/json", **request.headers},
            allow_redirects=False,
            proxy=proxy_of(base_url),
        ) as got:
            content = b""
            async for chunk in got.content.iter_any():
                content += chunk
                if len(content) > MOST_BYTES:
                    raise NoAnswer(f"it is longer than {MOST_BYTES} bytes")
            answer = read(got.status, got.content_type, self._secret.hidden(content), got.headers.get("retry-after"))
        if request.method == "POST":
            for side in self.tokens:
                self.tokens[side] += count(answer.counted(f"{side}_tokens"))
        return answer

    def body(self, request: Request) -> dict[str, object] | None:
        """Return the body of a request, with models in place of the placeholders."""
        if request.body is None:
            return None
        model = request.body["model"]
        return {**request.body, "model": self._models.get(model, model)}

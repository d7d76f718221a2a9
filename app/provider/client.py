"""The provider over HTTP.

Turns pass as bytes: the body that is sent is the body that the call's record keeps, and no answer is made into
anybody's models (0.03 ms of CPU a call over app/http/origin.py, against 0.13 over aiohttp's session, 0.65 through the
`openai` client's raw bytes and 1.4 through its models; to load that client costs 0.35 s of each start).
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import structlog
from yarl import URL

from app.http import egress
from app.http.origin import FRAMED_SHARE, Answer, Origin, TooLarge
from app.provider import account as accounts
from app.provider import failure
from app.provider.failure import Failure
from app.provider.permit import Permit
from app.provider.secret import Secret
from app.telemetry import spans

log = structlog.get_logger()

EMULATOR_KEY = "sk-emulator"
PATH = "/responses"
CHAT_PATH = "/chat/completions"

SESSION_CACHE = "x-dashscope-session-cache"
"""The header that asks for a cached context: `enable`."""

LOOKUP_SECONDS = 10.0

SPEECH = b"response.output_text.delta"


class ProviderError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Provider:
    """One endpoint with one account."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        connect_timeout_seconds: float,
        timeout_seconds: float,
        stall_seconds: float,
        max_answer_bytes: int,
        gather_milliseconds: int = 0,
        public_only: bool = False,
    ) -> None:
        """Args: public_only: whether it connects to public addresses only (app/http/egress.py)."""
        self.url = base_url + PATH
        self.binding = accounts.binding(base_url, api_key)
        self.account = accounts.account(self.binding)
        self._base_url = base_url
        self._secret = Secret(api_key)
        self._timeout_seconds = timeout_seconds
        self._stall_seconds = stall_seconds
        self._max_answer_bytes = max_answer_bytes
        self._gather_milliseconds = gather_milliseconds
        # Not compressed: text is small, and unpacking it costs more than sending it.
        headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
        }
        # A proxy would look up the name by itself, so that the address could not be checked here.
        proxy = None if public_only else proxy_of(base_url)
        connector = egress.Connector(
            public_only=public_only, answer_bytes=FRAMED_SHARE * max_answer_bytes, limit=0, keepalive_timeout=30
        )
        self._origin = Origin(
            connector,
            base_url,
            headers,
            proxy=proxy,
            connect_seconds=connect_timeout_seconds,
            most_bytes=max_answer_bytes,
        )
        # For look-ups and deletions; turns go over the origin, which costs a third.
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=LOOKUP_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy,
        )

    def respond(self, permit: Permit, body: bytes, headers: dict[str, str]) -> Coroutine[Any, Any, bytes]:
        """Ask for a whole answer.

        Raises:
            ProviderError: there is none.
        """
        return self._post(permit, PATH, body, headers)

    def stream(
        self, permit: Permit, body: bytes, headers: dict[str, str]
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Ask for a stream, and read its bytes as they come.

        Raises:
            ProviderError: there is none, or it broke off, or it was silent for `stall_seconds`.
        """
        return _Stream(self, permit, PATH, body, headers)

    def chat(self, permit: Permit, body: bytes, headers: dict[str, str]) -> Coroutine[Any, Any, bytes]:
        """A Chat Completions request, passed on.

        Raises:
            ProviderError: it was refused, or there is no answer.
        """
        return self._post(permit, CHAT_PATH, body, headers)

    async def open_chat_stream(self, permit: Permit, body: bytes, headers: dict[str, str]) -> AsyncIterator[bytes]:
        """A streamed Chat Completions request, passed on. What is returned has begun.

        Raises:
            ProviderError: it was refused, or there is no answer; from what is returned, if it breaks off.
        """
        opened = AsyncExitStack()
        chunks = await opened.enter_async_context(_Stream(self, permit, CHAT_PATH, body, headers))

        async def passed_on() -> AsyncIterator[bytes]:
            async with opened:
                async for chunk in chunks:
                    yield chunk

        return passed_on()

    async def _post(self, permit: Permit, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        permit.check()
        if spans.tracer is not None:
            headers = {**headers, **spans.headers()}
        try:
            answer = await self._origin.send(path, body, headers, seconds=self._timeout_seconds)
            try:
                content = self._secret.hidden(await answer.whole())
            finally:
                answer.end()
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderError(self._failure(error, self._timeout_seconds)) from error
        _check(answer, content)
        return content

    async def begin(self, permit: Permit, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Ask for a stream, and return its answer once that has begun. Raises as `stream` does."""
        permit.check()
        if spans.tracer is not None:
            headers = {**headers, **spans.headers()}
        silence = self._stall_seconds
        try:
            answer = await self._origin.send(path, body, headers, seconds=silence, silence=silence)
            try:
                await answer.head()
                if answer.status != 200:
                    _check(answer, self._secret.hidden(await answer.whole()))
            except BaseException:
                answer.end()
                raise
        except (aiohttp.ClientError, OSError) as error:
            raise self.broken(error) from error
        return answer

    def read(self, answer: Answer) -> AsyncIterator[bytes]:
        """Return the chunks of a stream that has begun."""
        return self._secret.hidden_in(_Gathered(answer, self._gather_milliseconds))

    def broken(self, error: Exception) -> ProviderError:
        """Return the error of a stream that breaks off with an exception."""
        return ProviderError(self._failure(error, self._stall_seconds))

    def _failure(self, error: Exception, seconds: float) -> Failure:
        """Return the failure that an exception means: it depends on whether the model can have been called."""
        if isinstance(error, TooLarge):
            return failure.too_large(self._max_answer_bytes)
        log.warning("a request to the provider failed", error=type(error).__name__)
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return failure.no_connection(egress.reason(error))
        if isinstance(error, TimeoutError):
            return failure.timed_out(seconds)
        return failure.broken(egress.reason(error))

    async def delete(self, response_id: str) -> bool:
        """Delete the provider's copy of a response. False if it has to be tried again later."""
        try:
            status, _, _ = await self._of_response("DELETE", response_id)
        except (ProviderError, aiohttp.ClientError, TimeoutError, OSError):
            return False
        # What it does not know is gone.
        return status < 300 or status in (400, 404)

    async def check_key(self) -> Failure | None:
        """Check the key by looking up a response that does not exist, which is free."""
        try:
            status, content, retry_after = await self._of_response("GET", "resp_00000000-0000-0000-0000-000000000000")
        except ProviderError as error:
            return error.failure
        except TimeoutError:
            return failure.timed_out(LOOKUP_SECONDS)
        except (aiohttp.ClientError, OSError) as error:
            return failure.no_connection(egress.reason(error))
        return None if status < 300 else failure.from_http(status, content, retry_after)

    async def _of_response(self, method: str, response_id: str) -> tuple[int, bytes, str | None]:
        """Ask for a response, or for its end: the answer's status, its body, and when to come again."""
        # As it is: a dot or a slash in an id leads nowhere else.
        url = URL(f"{self.url}/{quote(response_id, safe='').replace('.', '%2E')}", encoded=True)
        async with self._session.request(method, url, allow_redirects=False) as answer:
            content = b""
            async for chunk in answer.content.iter_any():
                content += chunk
                if len(content) > self._max_answer_bytes:
                    raise ProviderError(failure.too_large(self._max_answer_bytes))
            return answer.status, self._secret.hidden(content), answer.headers.get("retry-after")

    async def close(self) -> None:
        self._origin.close()
        await self._session.close()


class _Stream:
    """A stream while its context lasts."""

    def __init__(self, provider: Provider, permit: Permit, path: str, body: bytes, headers: dict[str, str]) -> None:
        self._provider = provider
        self._asked = permit, path, body, headers
        self._answer: Answer | None = None

    async def __aenter__(self) -> AsyncIterator[bytes]:
        self._answer = await self._provider.begin(*self._asked)
        return self._provider.read(self._answer)

    async def __aexit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if self._answer is not None:
            self._answer.end()
        if isinstance(error, aiohttp.ClientError | OSError):
            raise self._provider.broken(error) from error


class _Gathered:
    """A stream's bytes as they arrive. Once text deltas arrive fast, they are read in intervals of `milliseconds`.

    A wake-up and a read cost as much as fifty events: the kernel gathers what comes meanwhile, and all streams of
    the worker are read at the same ticks. A stream that is slower than that is not held up, nor is the first word.

    An iterator and no generator: to register an asynchronous generator costs the event loop more than a read.
    """

    def __init__(self, answer: Answer, milliseconds: int) -> None:
        self._answer = answer
        self._milliseconds = milliseconds
        self._loop = asyncio.get_running_loop()
        self._begun = self._speaks = False
        self._resumed = 0.0

    def __aiter__(self) -> "_Gathered":
        return self

    async def __anext__(self) -> bytes:
        if self._begun:
            await self._pause()
        self._begun = True
        chunk = await self._answer.read()
        if not chunk:
            raise StopAsyncIteration
        self._speaks = self._speaks or SPEECH in chunk
        return chunk

    async def _pause(self) -> None:
        """Wait for the next tick, if the last chunk has come faster than that."""
        now = self._loop.time() * 1000
        if self._speaks and now - self._resumed < self._milliseconds and not self._answer.complete:
            self._answer.pause()
            # Not asyncio.sleep, which asks the system for the process's number each time (Python 3.11).
            tick: asyncio.Future[None] = self._loop.create_future()
            self._loop.call_later((self._milliseconds - round(now) % self._milliseconds) / 1000, _pass, tick)
            await tick
            self._answer.resume()
        self._resumed = self._loop.time() * 1000


def _pass(tick: "asyncio.Future[None]") -> None:
    if not tick.done():
        tick.set_result(None)


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL (HTTPS_PROXY, NO_PROXY), looked up once and not for every call."""
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


def _check(answer: Answer, content: bytes) -> None:
    """Raises `ProviderError` if an answer is an HTTP error."""
    if answer.status >= 300:
        retry_after = answer.fields.get(b"retry-after")
        text = None if retry_after is None else retry_after.decode("latin-1").strip()
        raise ProviderError(failure.from_http(answer.status, content, text))

"""The load: many clients at once over HTTP, as fast as they are answered, and how long each waited."""

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

DELTA = b'"response.output_text.delta"'
BUFFER = 2**20


@dataclass(slots=True)
class Measured:
    """Results of a batch of requests. Times are in milliseconds."""

    waited: list[float] = field(default_factory=list)
    first_delta: list[float] = field(default_factory=list)
    deltas: int = 0
    failed: int = 0
    seconds: float = 0.0
    """From the first request to the last answer."""

    @property
    def count(self) -> int:
        return len(self.waited)

    def percentile(self, percent: float) -> float:
        return percentile(self.waited, percent)


def percentile(values: list[float], percent: float) -> float:
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


Request = Callable[[int], tuple[str, str, dict[str, Any] | None]]
"""The method, the path and the body of the n-th request."""


class Load:
    """Clients of one server."""

    def __init__(self, url: str, key: str, at_once: int) -> None:
        self._session = aiohttp.ClientSession(
            base_url=url,
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=300),
            read_bufsize=BUFFER,
        )
        self._at_once = at_once

    async def __aenter__(self) -> "Load":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def run(self, request: Request, count: int, *, apart: float = 0.0, rate: float | None = None) -> Measured:
        """Send `count` requests, so many at once. Client n sends requests n, n + at_once, …, one after the other.

        Args:
            apart: seconds between the first requests of two clients: streams that all begin in the same
                millisecond wait for each other.
            rate: requests per second at most, evenly spread.
        """
        measured = Measured()
        began = time.perf_counter()
        clients = [
            self._client(request, range(n, count, self._at_once), measured, n * apart, rate)
            for n in range(self._at_once)
        ]
        await asyncio.gather(*clients)
        measured.seconds = time.perf_counter() - began
        return measured

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        async with self._session.request(method, path, data=None if body is None else orjson.dumps(body)) as answer:
            content = await answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
            return orjson.loads(content)

    async def read(self, path: str) -> bytes:
        async with self._session.get(path) as answer:
            return await answer.read()

    async def _client(
        self, request: Request, numbers: range, measured: Measured, later: float, rate: float | None
    ) -> None:
        start = time.perf_counter()
        if later:
            await asyncio.sleep(later)
        for number in numbers:
            if rate is not None and (early := start + number / rate - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            method, path, body = request(number)
            data = None if body is None else orjson.dumps(body)
            began = time.perf_counter()
            async with self._session.request(method, path, data=data) as answer:
                if body is not None and body.get("stream"):
                    await self._listen(answer, began, measured)
                else:
                    await answer.read()
                measured.waited.append((time.perf_counter() - began) * 1000)
                if answer.status >= 400:
                    measured.failed += 1

    async def _listen(self, answer: aiohttp.ClientResponse, began: float, measured: Measured) -> None:
        first: float | None = None
        tail = b""
        async for chunk in answer.content.iter_any():
            # A line may be cut by the end of a chunk: it is counted when it is whole.
            whole, _, tail = (tail + chunk).rpartition(b"\n")
            found = whole.count(DELTA)
            measured.deltas += found
            if found and first is None:
                first = (time.perf_counter() - began) * 1000
                measured.first_delta.append(first)

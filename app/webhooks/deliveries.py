"""Deliveries: read from the trail, sent until they are taken, by any worker. At least once, and in no order."""

import asyncio
import random
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import aiohttp
import orjson
import structlog

from app.http import egress
from app.http.errors import DatabaseUnavailable
from app.process.background import Background
from app.telemetry import metrics
from app.webhooks import signing
from app.webhooks.events import event_id, event_object
from app.webhooks.rows import DeliveryRow, WebhookRow
from app.webhooks.secrets import Secrets
from app.webhooks.store import WebhookStore

log = structlog.get_logger()

POLL_SECONDS = 1.0
IDLE_SECONDS = 5.0
"""Interval at which a worker checks whether any webhook exists."""

READ_A_SECOND = 200
"""Largest number of webhooks that a worker reads the trail for at a time."""

AT_ONCE = 10
"""Deliveries of a webhook."""

TIMEOUT_SECONDS = 15.0

ANSWER_BYTES = 65536

LEASE_SECONDS = 60.0

FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 3600.0
MOST_ATTEMPTS = 80
"""Some three days, from the first one on."""

CLEAN_SECONDS = 3600.0


class Deliveries(Background):
    def __init__(self, store: WebhookStore, secrets: Secrets, *, inside: bool) -> None:
        """Args: inside: whether they may be sent to private addresses."""
        super().__init__()
        self._store = store
        self._secrets = secrets
        self._inside = inside
        self._woken = asyncio.Event()
        self._client: aiohttp.ClientSession | None = None
        self._sending: dict[UUID, asyncio.Task[None]] = {}
        self._cleaned_at = 0.0
        for outcome in ("delivered", "refused"):
            metrics.of(metrics.WEBHOOKS, outcome)  # From zero on, for who looks at their rates.

    def wake(self) -> None:
        """There is something to do now."""
        self._woken.set()

    async def run(self) -> None:
        try:
            while True:
                pause = IDLE_SECONDS
                try:
                    pause = await self._round()
                except DatabaseUnavailable:
                    log.warning("Postgres is unavailable; webhooks are delivered later")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), pause)
                self._woken.clear()
        finally:
            for sending in self._sending.values():
                sending.cancel()
            await asyncio.gather(*self._sending.values(), return_exceptions=True)
            if self._client is not None:
                await self._client.close()
                self._client = None

    async def _round(self) -> float:
        """Write the deliveries of new events, and send them. Returns: seconds to wait until the next time."""
        webhooks = await self._store.all()
        if not webhooks:
            return IDLE_SECONDS
        until = await self._store.until()
        more = False
        for webhook in webhooks:
            more = await self._store.read_on(webhook, until) or more
            # Each by itself: one that does not answer holds up no other.
            if not webhook["paused"] and webhook["id"] not in self._sending:
                sending = asyncio.create_task(self._tell(webhook))
                self._sending[webhook["id"]] = sending
                sending.add_done_callback(partial(self._told, webhook["id"]))
        if time.monotonic() - self._cleaned_at > CLEAN_SECONDS:
            await self._store.forget_old()
            self._cleaned_at = time.monotonic()
        return 0.0 if more else POLL_SECONDS * max(1.0, len(webhooks) / READ_A_SECOND)

    async def _tell(self, webhook: WebhookRow) -> None:
        """Send all deliveries that are due, some at a time."""
        with suppress(DatabaseUnavailable):  # The next round goes on.
            while taken := await self._store.take(webhook, AT_ONCE, LEASE_SECONDS):
                outcomes = await asyncio.gather(*(self._deliver(webhook, row) for row in taken))
                if not any(outcomes):
                    return

    def _told(self, id_: UUID, sending: "asyncio.Task[None]") -> None:
        del self._sending[id_]
        if not sending.cancelled() and (error := sending.exception()) is not None:
            log.error("a webhook could not be told", exc_info=error)

    async def _deliver(self, webhook: WebhookRow, row: DeliveryRow) -> bool:
        """One attempt, written down. Whether it was taken."""
        status, error = await self._send(webhook, row)
        delivered = status is not None and 200 <= status < 300
        metrics.of(metrics.WEBHOOKS, "delivered" if delivered else "refused").inc()
        if delivered:
            await self._store.record_attempt(row, "delivered", status, None, 0.0)
        else:
            ended = "failed" if row["attempts"] >= MOST_ATTEMPTS else "pending"
            await self._store.record_attempt(row, ended, status, error, _pause(row["attempts"]))
        return delivered

    async def _send(self, webhook: WebhookRow, row: DeliveryRow) -> tuple[int | None, str | None]:
        """One attempt. Returns: the status that was answered, and what went wrong."""
        event = event_object(row["chain_id"], row["seq"], row["type"], row["at"], row["data"])
        body = orjson.dumps(event)
        id_ = event_id(row["chain_id"], row["seq"])
        secrets = await self._opened_secrets(webhook)
        if not secrets:
            return None, "Its secret cannot be opened here."
        signed = signing.headers(secrets, id_, int(time.time()), body)
        # What was allowed when it was made need not be allowed now.
        if (wrong := egress.url_fault(webhook["url"], private=self._inside)) is not None:
            return None, f"The URL {wrong}."
        try:
            async with self._session().post(
                webhook["url"], data=body, headers={**signed, "Content-Type": "application/json"}, allow_redirects=False
            ) as answer:
                said = None if answer.status < 300 else f"It answered {answer.status}."
                return answer.status, said
        except TimeoutError:
            return None, f"It did not answer within {TIMEOUT_SECONDS:g} seconds."
        except (aiohttp.ClientError, OSError) as error:
            return None, f"It could not be reached: {egress.reason(error)}."

    async def _opened_secrets(self, webhook: WebhookRow) -> list[str]:
        closed = [webhook["secret"]]
        until = webhook["former_until"]
        if webhook["former_secret"] is not None and until is not None and until > datetime.now(UTC):
            closed.append(webhook["former_secret"])
        opened = [await self._secrets.decrypt(webhook["project_id"], webhook["id"], each) for each in closed]
        return [each for each in opened if each is not None]

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            # Only the status of an answer is read.
            self._client = egress.one_shot_session(
                public_only=not self._inside, answer_bytes=ANSWER_BYTES, seconds=TIMEOUT_SECONDS
            )
        return self._client


def _pause(attempts: int) -> float:
    """Seconds until the next attempt."""
    pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(attempts - 1, 20))
    return float(pause * random.uniform(0.8, 1.2))  # noqa: S311

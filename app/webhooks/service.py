"""Operations on a project's webhooks."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from app.db import ids
from app.http import egress
from app.http.describing import Deleted
from app.http.errors import BadRequest, Conflict, NotFound
from app.http.pages import list_object
from app.projects.auth import Caller
from app.webhooks import signing
from app.webhooks.deliveries import Deliveries
from app.webhooks.events import DEFAULT_EVENTS, parse_event_id
from app.webhooks.rows import DeliveryRow, WebhookRow
from app.webhooks.schemas import (
    DeliveryObject,
    WebhookCreate,
    WebhookObject,
    WebhookPatch,
    WebhookSecret,
    delivery_object,
    webhook_id,
    webhook_object,
    webhook_uuid,
)
from app.webhooks.secrets import Secrets
from app.webhooks.store import FORMER_SECRET_HOURS, MOST_WEBHOOKS, WebhookStore

Status = Literal["pending", "delivered", "failed"]


class Webhooks:
    def __init__(self, store: WebhookStore, deliveries: Deliveries, secrets: Secrets, *, inside: bool) -> None:
        """Args: inside: whether URLs may lead to private addresses."""
        self._store = store
        self._deliveries = deliveries
        self._secrets = secrets
        self._inside = inside

    async def create(self, caller: Caller, sent: WebhookCreate) -> WebhookSecret:
        self._check(sent.url)
        secret, id_ = sent.secret or signing.new_secret(), ids.new_uuid()
        values = {
            "id": id_,
            "url": sent.url,
            "events": list(dict.fromkeys(sent.events or DEFAULT_EVENTS)),
            "description": sent.description,
            "secret": await self._secrets.encrypt(caller.project_id, id_, secret),
        }
        row = await self._store.add(caller.actor, caller.project_id, values)
        if row is None:
            raise Conflict(
                f"The project has {MOST_WEBHOOKS} webhooks, as many as it can have. Delete one.",
                code="too_many_webhooks",
            )
        self._deliveries.wake()
        return {**webhook_object(row), "secret": secret}

    async def listed(self, caller: Caller) -> dict[str, Any]:
        return list_object(await self._store.listed(caller.project_id), webhook_object, has_more=False)

    async def get(self, caller: Caller, given: str) -> WebhookObject:
        return webhook_object(await self._row(caller, given))

    async def change(self, caller: Caller, given: str, sent: WebhookPatch) -> WebhookObject:
        if sent.url is not None:
            self._check(sent.url)
        values = {
            name: value
            for name, value in sent.model_dump(include=sent.model_fields_set).items()
            if value is not None or name == "description"
        }
        id_ = (await self._row(caller, given))["id"]
        row = await self._store.change(caller.actor, caller.project_id, id_, values) if values else None
        if row is None:
            return await self.get(caller, given)
        self._deliveries.wake()
        return webhook_object(row)

    async def rotate(self, caller: Caller, given: str) -> WebhookSecret:
        """Give a webhook a new secret. Deliveries are signed with the former one too, for a day."""
        row = await self._row(caller, given)
        secret = signing.new_secret()
        values = {
            "secret": await self._secrets.encrypt(caller.project_id, row["id"], secret),
            "former_secret": row["secret"],
            "former_until": datetime.now(UTC) + timedelta(hours=FORMER_SECRET_HOURS),
        }
        changed = await self._store.change(caller.actor, caller.project_id, row["id"], values)
        if changed is None:
            raise _unknown(given)
        return {**webhook_object(changed), "secret": secret}

    async def delete(self, caller: Caller, given: str) -> Deleted:
        row = await self._row(caller, given)
        if not await self._store.delete(caller.actor, caller.project_id, row["id"]):
            raise _unknown(given)
        return {"id": webhook_id(row["id"]), "object": "webhook.deleted", "deleted": True}

    async def deliveries(
        self, caller: Caller, given: str, status: Status | None, after: str | None, limit: int
    ) -> dict[str, Any]:
        webhook = await self._row(caller, given)
        place = None
        if after is not None and (place := await self._delivery(caller, webhook, after)) is None:
            raise BadRequest("'after' must be the id of one of these deliveries.", param="after", code="invalid_cursor")
        rows = await self._store.deliveries(caller.project_id, webhook["id"], status, place, limit)
        return list_object(rows[:limit], delivery_object, has_more=len(rows) > limit)

    async def replay(self, caller: Caller, given: str, event: str) -> DeliveryObject:
        """Send an event again, whatever has become of it."""
        webhook = await self._row(caller, given)
        found = parse_event_id(event)
        row = None if found is None else await self._store.retry(caller.project_id, webhook["id"], *found)
        if row is None:
            raise NotFound(f"There is no delivery of {event[:80]!r}.", param="event_id", code="delivery_not_found")
        self._deliveries.wake()
        return delivery_object(row)

    async def _delivery(self, caller: Caller, webhook: WebhookRow, given: str) -> DeliveryRow | None:
        found = parse_event_id(given)
        return None if found is None else await self._store.delivery(caller.project_id, webhook["id"], *found)

    async def _row(self, caller: Caller, given: str) -> WebhookRow:
        id_ = webhook_uuid(given)
        row = None if id_ is None else await self._store.get(caller.project_id, id_)
        if row is None:
            raise _unknown(given)
        return row

    def _check(self, url: str) -> None:
        if (wrong := egress.url_fault(url, private=self._inside)) is not None:
            raise BadRequest(f"'url' {wrong}.", param="url", code="invalid_url")


def _unknown(given: str) -> NotFound:
    return NotFound(
        f"There is no webhook {given[:80]!r} in this project.", param="webhook_id", code="webhook_not_found"
    )

"""Request bodies about webhooks, and how webhooks and deliveries are shown."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.config import JsonDict
from typing_extensions import TypedDict

from app.db import ids
from app.http.bodies import Body, Changes, examples
from app.http.egress import LONGEST_URL
from app.webhooks import signing
from app.webhooks.events import EVENT_TYPES, EventObject, EventType, event_id, event_object
from app.webhooks.rows import DeliveryRow, WebhookRow


def _known_secret(secret: str) -> str:
    if not signing.is_secret(secret):
        raise ValueError("must be whsec_ and 24 to 64 bytes in base64")
    return secret


Url = Annotated[str, Field(min_length=1, max_length=LONGEST_URL)]
Events = Annotated[list[EventType], Field(min_length=1, max_length=len(EVENT_TYPES))]
Description = Annotated[str, Field(max_length=500)]

EXAMPLE: JsonDict = {"url": "https://app.example.com/everthread", "events": ["response.completed", "response.failed"]}


class WebhookCreate(Body):
    model_config = examples(EXAMPLE)

    url: Url
    events: Events | None = None
    """All but `audit.appended`, if left out."""
    description: Description | None = None
    secret: Annotated[str, Field(max_length=100), AfterValidator(_known_secret)] | None = None
    """One is made if left out, and shown once."""


class WebhookPatch(Changes):
    """Fields left out stay as they are."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    paused: bool | None = None
    """Events that occur while it is paused are delivered when it resumes."""


class WebhookObject(TypedDict):
    id: str
    object: Literal["webhook"]
    url: str
    events: list[str]
    description: str | None
    paused: bool
    created_at: int


class WebhookSecret(WebhookObject):
    secret: str
    """Shown this once."""


class DeliveryObject(TypedDict):
    id: str
    """The event's."""
    object: Literal["webhook.delivery"]
    webhook_id: str
    event: EventObject
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_attempt_at: int | None
    delivered_at: int | None
    last_status: int | None
    last_error: str | None


def webhook_object(row: WebhookRow) -> WebhookObject:
    return {
        "id": webhook_id(row["id"]),
        "object": "webhook",
        "url": row["url"],
        "events": row["events"],
        "description": row["description"],
        "paused": row["paused"],
        "created_at": int(row["created_at"].timestamp()),
    }


def delivery_object(row: DeliveryRow) -> DeliveryObject:
    event = event_object(row["chain_id"], row["seq"], row["type"], row["at"], row["data"])
    return {
        "id": event_id(row["chain_id"], row["seq"]),
        "object": "webhook.delivery",
        "webhook_id": webhook_id(row["webhook_id"]),
        "event": event,
        "status": row["status"],
        "attempts": row["attempts"],
        "next_attempt_at": int(row["next_at"].timestamp()) if row["status"] == "pending" else None,
        "delivered_at": None if row["delivered_at"] is None else int(row["delivered_at"].timestamp()),
        "last_status": row["last_status"],
        "last_error": row["last_error"],
    }


def webhook_id(id_: UUID) -> str:
    return f"webhook_{id_.hex}"


def webhook_uuid(given: str) -> UUID | None:
    return ids.parse(given, ("webhook",))

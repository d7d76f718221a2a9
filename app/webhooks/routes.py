"""/v1/webhooks: who is told of what happens, and what each has been told."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.http.bodies import Sent, json_response
from app.http.describing import Deleted, error
from app.http.pages import ListObject
from app.http.services import serving
from app.projects.auth import Administering
from app.webhooks.schemas import DeliveryObject, WebhookCreate, WebhookObject, WebhookPatch, WebhookSecret
from app.webhooks.service import Status, Webhooks

router = APIRouter(tags=["webhooks"])

Service = Annotated[Webhooks, serving(Webhooks)]


@router.post(
    "/webhooks",
    response_model=WebhookSecret,
    status_code=201,
    responses={409: error("The project has as many as it can have.")},
)
async def create(caller: Administering, webhooks: Service, sent: Sent[WebhookCreate]) -> Response:
    """Create a webhook for events from now on."""
    return json_response(await webhooks.create(caller, sent), status=201)


@router.get("/webhooks", response_model=ListObject[WebhookObject])
async def listed(caller: Administering, webhooks: Service) -> Response:
    """List the project's webhooks."""
    return json_response(await webhooks.listed(caller))


@router.get("/webhooks/{webhook_id}", response_model=WebhookObject)
async def get(caller: Administering, webhooks: Service, webhook_id: str) -> Response:
    """Return a webhook."""
    return json_response(await webhooks.get(caller, webhook_id))


@router.patch("/webhooks/{webhook_id}", response_model=WebhookObject)
async def patch(caller: Administering, webhooks: Service, webhook_id: str, sent: Sent[WebhookPatch]) -> Response:
    """Change or pause a webhook."""
    return json_response(await webhooks.change(caller, webhook_id, sent))


@router.delete("/webhooks/{webhook_id}", response_model=Deleted)
async def delete(caller: Administering, webhooks: Service, webhook_id: str) -> Response:
    """Delete a webhook."""
    return json_response(await webhooks.delete(caller, webhook_id))


@router.post("/webhooks/{webhook_id}/rotate", response_model=WebhookSecret)
async def rotate(caller: Administering, webhooks: Service, webhook_id: str) -> Response:
    """Replace the secret. For a day, the former one signs too."""
    return json_response(await webhooks.rotate(caller, webhook_id))


@router.get("/webhooks/{webhook_id}/deliveries", response_model=ListObject[DeliveryObject])
async def deliveries(
    caller: Administering,
    webhooks: Service,
    webhook_id: str,
    status: Status | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="The last_id of the page before.")] = None,
) -> Response:
    """List deliveries, done and pending, the latest first."""
    return json_response(await webhooks.deliveries(caller, webhook_id, status, after, limit))


@router.post("/webhooks/{webhook_id}/deliveries/{event_id}/replay", response_model=DeliveryObject)
async def replay(caller: Administering, webhooks: Service, webhook_id: str, event_id: str) -> Response:
    """Deliver an event again."""
    return json_response(await webhooks.replay(caller, webhook_id, event_id))

"""/v1/webhooks: who is told of what happens, and what each has been told."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.http.bodies import Sent, json_response
from app.http.describing import Deleted, described
from app.http.pages import ListObject
from app.http.services import serving
from app.projects.auth import Administering
from app.webhooks.schemas import DeliveryObject, WebhookCreate, WebhookObject, WebhookPatch, WebhookSecret
from app.webhooks.service import Status, Webhooks

router = APIRouter(tags=["webhooks"])

Service = Annotated[Webhooks, serving(Webhooks)]

FULL = {409: "The project has as many as it can have."}


@router.post(
    "/webhooks",
    **described("Be told of what happens from now on.", WebhookSecret, status=201, errors=FULL),
)
async def create(caller: Administering, webhooks: Service, sent: Sent[WebhookCreate]) -> Response:
    return json_response(await webhooks.create(caller, sent), status=201)


@router.get("/webhooks", **described("The project's webhooks.", ListObject[WebhookObject]))
async def listed(caller: Administering, webhooks: Service) -> Response:
    return json_response(await webhooks.listed(caller))


@router.get("/webhooks/{webhook_id}", **described("A webhook.", WebhookObject))
async def get(caller: Administering, webhooks: Service, webhook_id: str) -> Response:
    return json_response(await webhooks.get(caller, webhook_id))


@router.patch("/webhooks/{webhook_id}", **described("Change or pause a webhook.", WebhookObject))
async def patch(caller: Administering, webhooks: Service, webhook_id: str, sent: Sent[WebhookPatch]) -> Response:
    return json_response(await webhooks.change(caller, webhook_id, sent))


@router.delete("/webhooks/{webhook_id}", **described("Tell it nothing more.", Deleted))
async def delete(caller: Administering, webhooks: Service, webhook_id: str) -> Response:
    return json_response(await webhooks.delete(caller, webhook_id))


@router.post(
    "/webhooks/{webhook_id}/rotate",
    **described("A new secret; the former one signs too, for a day.", WebhookSecret),
)
async def rotate(caller: Administering, webhooks: Service, webhook_id: str) -> Response:
    return json_response(await webhooks.rotate(caller, webhook_id))


@router.get(
    "/webhooks/{webhook_id}/deliveries",
    **described("What it has been told, and what it has not taken yet, the latest first.", ListObject[DeliveryObject]),
)
async def deliveries(
    caller: Administering,
    webhooks: Service,
    webhook_id: str,
    status: Annotated[Status | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="The last_id of the page before.")] = None,
) -> Response:
    return json_response(await webhooks.deliveries(caller, webhook_id, status, after, limit))


@router.post(
    "/webhooks/{webhook_id}/deliveries/{event_id}/replay",
    **described("Tell it of an event again.", DeliveryObject),
)
async def replay(caller: Administering, webhooks: Service, webhook_id: str, event_id: str) -> Response:
    return json_response(await webhooks.replay(caller, webhook_id, event_id))

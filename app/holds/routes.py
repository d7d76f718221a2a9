"""/v1/holds: legal holds on threads, on users and on the project."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.holds.schemas import HoldCreate, HoldObject, HoldRelease
from app.holds.service import Holds
from app.http.bodies import Sent, json_response
from app.http.describing import CONFLICT, error
from app.http.pages import ListObject, Paged
from app.http.services import serving
from app.limits.room import AT_ADMIN_RATE
from app.projects.auth import Administering, Auditing

router = APIRouter(tags=["holds"])

Service = Annotated[Holds, serving(Holds)]


@router.post(
    "/holds",
    dependencies=AT_ADMIN_RATE,
    response_model=HoldObject,
    status_code=201,
    responses={404: error("There is no such thread."), **CONFLICT},
)
async def place(caller: Administering, holds: Service, sent: Sent[HoldCreate]) -> Response:
    """Place a legal hold. Contents that it covers are kept when they are deleted or changed."""
    return json_response(await holds.place(caller, sent), status=201)


@router.get("/holds", response_model=ListObject[HoldObject])
async def listed(
    caller: Auditing,
    holds: Service,
    page: Paged,
    active: Annotated[bool | None, Query(description="Only active holds, or only released ones.")] = None,
) -> Response:
    """List legal holds."""
    return json_response(await holds.list_page(caller, page, active=active))


@router.get("/holds/{hold_id}", response_model=HoldObject)
async def get(caller: Auditing, holds: Service, hold_id: str) -> Response:
    """Return a legal hold."""
    return json_response(await holds.get(caller, hold_id))


@router.post("/holds/{hold_id}/release", dependencies=AT_ADMIN_RATE, response_model=HoldObject, responses=CONFLICT)
async def release(caller: Administering, holds: Service, hold_id: str, sent: Sent[HoldRelease]) -> Response:
    """Release a legal hold. Kept contents that no other hold covers are erased soon."""
    return json_response(await holds.release(caller, hold_id, sent))

"""/v1/threads/…/compact and …/compactions."""

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.bodies import checked, json_response, optional_json_object
from app.memory.schemas import Compact
from app.memory.service import Memory
from app.projects.auth import Authenticated
from app.services import serving
from app.threads.address import BY_ID, BY_NAME, Addressed

router = APIRouter(tags=["memory"])

Service = Annotated[Memory, serving(Memory)]


@router.post(f"{BY_NAME}/compact")
@router.post(f"{BY_ID}/compact")
async def compact(request: Request, caller: Authenticated, memory: Service, address: Addressed) -> Response:
    sent = checked(Compact, await optional_json_object(request))
    return json_response(await memory.compact(caller, address, sent), status=201)


@router.get(f"{BY_NAME}/compactions")
@router.get(f"{BY_ID}/compactions")
async def compactions(caller: Authenticated, memory: Service, address: Addressed) -> Response:
    return json_response(await memory.compactions(caller, address))

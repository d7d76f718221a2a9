"""/v1/threads/…/compact and …/compactions."""

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.http.bodies import checked, json_response, optional_json_object
from app.http.describing import OF_A_MODEL, described
from app.http.pages import ListObject
from app.http.services import serving
from app.memory.schemas import Compact, CompactionObject
from app.memory.service import Memory
from app.projects.auth import Authenticated
from app.threads.address import Addressed, at

router = APIRouter(tags=["memory"])

Service = Annotated[Memory, serving(Memory)]


@at(
    router.post,
    "/compact",
    **described(
        "Make the beginning of a long conversation into a summary, now.",
        CompactionObject,
        status=201,
        body=Compact,
        optional=True,
        errors=OF_A_MODEL,
    ),
)
async def compact(request: Request, caller: Authenticated, memory: Service, address: Addressed) -> Response:
    sent = checked(Compact, await optional_json_object(request))
    return json_response(await memory.compact(caller, address, sent), status=201)


@at(router.get, "/compactions", **described("What stands for the beginning of a thread.", ListObject[CompactionObject]))
async def compactions(caller: Authenticated, memory: Service, address: Addressed) -> Response:
    return json_response(await memory.compactions(caller, address))

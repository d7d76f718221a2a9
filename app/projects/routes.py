"""/v1/admin/projects: projects and their keys, for keys with the scope admin."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.http.bodies import Sent, SentOrEmpty, json_response
from app.http.describing import CONFLICT, FORBIDDEN, Deleted, described
from app.http.pages import ListObject
from app.http.services import serving
from app.projects.auth import Administering
from app.projects.schemas import (
    AdminProjectObject,
    KeyCreate,
    KeyObject,
    KeyRotate,
    NewKeyObject,
    ProjectCreate,
    SettingsPatch,
)
from app.projects.service import Projects

router = APIRouter(tags=["admin"], prefix="/admin")

Service = Annotated[Projects, serving(Projects)]


@router.post(
    "/projects",
    **described("Make a project.", AdminProjectObject, status=201, errors={**CONFLICT, **FORBIDDEN}),
)
async def create_project(caller: Administering, projects: Service, sent: Sent[ProjectCreate]) -> Response:
    return json_response(await projects.create(caller, sent), status=201)


@router.get("/projects", **described("The projects that this key manages.", ListObject[AdminProjectObject]))
async def list_projects(
    caller: Administering,
    projects: Service,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="The last_id of the page before.")] = None,
) -> Response:
    return json_response(await projects.listed(caller, after, limit))


@router.get("/projects/{project_id}", **described("A project.", AdminProjectObject))
async def get_project(caller: Administering, projects: Service, project_id: str) -> Response:
    return json_response(await projects.get(caller, project_id))


@router.patch(
    "/projects/{project_id}",
    **described(
        "Change what a project asks for and what bounds it, or archive it.",
        AdminProjectObject,
        errors={**CONFLICT, **FORBIDDEN},
    ),
)
async def patch_project(
    caller: Administering, projects: Service, project_id: str, sent: Sent[SettingsPatch]
) -> Response:
    return json_response(await projects.change(caller, project_id, sent))


@router.post(
    "/projects/{project_id}/keys",
    **described(
        "Make a key; it is shown this once.",
        NewKeyObject,
        status=201,
        errors={**FORBIDDEN, 409: "The project has as many keys as it can have."},
    ),
)
async def create_key(caller: Administering, projects: Service, project_id: str, sent: Sent[KeyCreate]) -> Response:
    return json_response(await projects.create_key(caller, project_id, sent), status=201)


@router.get("/projects/{project_id}/keys", **described("A project's keys, revoked ones too.", ListObject[KeyObject]))
async def list_keys(caller: Administering, projects: Service, project_id: str) -> Response:
    return json_response(await projects.list_keys(caller, project_id))


@router.post(
    "/projects/{project_id}/keys/{key_id}/rotate",
    **described(
        "A new key in the place of one, which is taken a while longer.",
        NewKeyObject,
        status=201,
        errors=FORBIDDEN,
    ),
)
async def rotate_key(
    caller: Administering, projects: Service, project_id: str, key_id: str, sent: SentOrEmpty[KeyRotate]
) -> Response:
    return json_response(await projects.rotate_key(caller, project_id, key_id, sent), status=201)


@router.delete(
    "/projects/{project_id}/keys/{key_id}",
    **described("Revoke a key.", Deleted, errors={409: "It is the key that asks."}),
)
async def revoke_key(caller: Administering, projects: Service, project_id: str, key_id: str) -> Response:
    return json_response(await projects.revoke_key(caller, project_id, key_id))

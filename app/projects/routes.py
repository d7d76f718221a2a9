"""/v1/admin/projects: projects and their keys, for keys with the scope admin."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.http.bodies import Sent, SentOrEmpty, json_response
from app.http.describing import CONFLICT, FORBIDDEN, Deleted, error
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


@router.post("/projects", response_model=AdminProjectObject, status_code=201, responses={**CONFLICT, **FORBIDDEN})
async def create_project(caller: Administering, projects: Service, sent: Sent[ProjectCreate]) -> Response:
    """Create a project."""
    return json_response(await projects.create(caller, sent), status=201)


@router.get("/projects", response_model=ListObject[AdminProjectObject])
async def list_projects(
    caller: Administering,
    projects: Service,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="The last_id of the page before.")] = None,
) -> Response:
    """List the projects that this key manages."""
    return json_response(await projects.listed(caller, after, limit))


@router.get("/projects/{project_id}", response_model=AdminProjectObject)
async def get_project(caller: Administering, projects: Service, project_id: str) -> Response:
    """Return a project."""
    return json_response(await projects.get(caller, project_id))


@router.patch("/projects/{project_id}", response_model=AdminProjectObject, responses={**CONFLICT, **FORBIDDEN})
async def patch_project(
    caller: Administering, projects: Service, project_id: str, sent: Sent[SettingsPatch]
) -> Response:
    """Change a project's settings and limits, or archive it."""
    return json_response(await projects.change(caller, project_id, sent))


@router.post(
    "/projects/{project_id}/keys",
    response_model=NewKeyObject,
    status_code=201,
    responses={**FORBIDDEN, 409: error("The project has as many keys as it can have.")},
)
async def create_key(caller: Administering, projects: Service, project_id: str, sent: Sent[KeyCreate]) -> Response:
    """Create a key. It is shown only in this response."""
    return json_response(await projects.create_key(caller, project_id, sent), status=201)


@router.get("/projects/{project_id}/keys", response_model=ListObject[KeyObject])
async def list_keys(caller: Administering, projects: Service, project_id: str) -> Response:
    """List a project's keys, including revoked ones."""
    return json_response(await projects.list_keys(caller, project_id))


@router.post(
    "/projects/{project_id}/keys/{key_id}/rotate", response_model=NewKeyObject, status_code=201, responses=FORBIDDEN
)
async def rotate_key(
    caller: Administering, projects: Service, project_id: str, key_id: str, sent: SentOrEmpty[KeyRotate]
) -> Response:
    """Replace a key. The old one stays valid for the overlap."""
    return json_response(await projects.rotate_key(caller, project_id, key_id, sent), status=201)


@router.delete(
    "/projects/{project_id}/keys/{key_id}", response_model=Deleted, responses={409: error("It is the key that asks.")}
)
async def revoke_key(caller: Administering, projects: Service, project_id: str, key_id: str) -> Response:
    """Revoke a key."""
    return json_response(await projects.revoke_key(caller, project_id, key_id))

"""/v1/project and /v1/users: how long content is kept, and everything of one end user, out or gone."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import Field

from app.http.bodies import WHOLE, Changes, Sent, examples, json_response
from app.http.describing import AS_LINES, AS_TEXT, Responses, error
from app.http.pages import ListObject
from app.http.services import serving
from app.limits.room import AT_ADMIN_RATE
from app.projects.auth import Administering, Auditing, Authenticated, KeyRing
from app.projects.authorized_stream import Export
from app.projects.credential_watch import listening
from app.projects.settings import RecordReads
from app.retention.certificate_file import Kind
from app.retention.certificates import PurgeObject
from app.retention.preview import PurgePreview
from app.retention.service import ProjectObject, Retention

router = APIRouter(tags=["retention"])


class ProjectPatch(Changes):
    model_config = examples(
        {"retention_days": 365},
        {"retention_days": None, "session_cache": "auto"},
        {"record_reads": "all"},
        minProperties=1,
    )

    retention_days: Annotated[int, Field(ge=1, le=36_500), WHOLE] | None = None
    """After so many days the content of a turn is purged; null: it is kept."""
    minimum_retention_days: Annotated[int, Field(ge=1, le=36_500), WHOLE] | None = None
    """Contents that are deleted or changed earlier are kept, for the scope audit alone; null: they are not. A lower
    value, or null, holds for contents that are written later."""
    session_cache: Literal["off", "on", "auto"] | None = None
    """Session cache at the provider; null: the service's setting."""
    record_reads: RecordReads = "staff"
    """Readers whose reads of contents are recorded."""


Service = Annotated[Retention, serving(Retention)]
User = Annotated[str, Path(max_length=256)]


@router.get("/project", response_model=ProjectObject)
async def get(caller: Authenticated, retention: Service) -> Response:
    """Return the project."""
    return json_response(await retention.project(caller))


@router.patch("/project", dependencies=AT_ADMIN_RATE, response_model=ProjectObject)
async def patch(
    caller: Administering, retention: Service, keys: Annotated[KeyRing, serving(KeyRing)], sent: Sent[ProjectPatch]
) -> Response:
    """Change how long content is kept, whether contexts are cached, and whose reads are recorded."""
    changed = await retention.change(caller, sent.model_dump(include=sent.model_fields_set))
    keys.forget(caller.project_id)
    return json_response(changed)


@router.get("/users/{user:path}/data", response_class=Response, responses=AS_LINES)
async def export_user(request: Request, caller: Authenticated, retention: Service, user: User) -> Response:
    """Export all threads of an end user, one per line."""
    return Export(await retention.export_user(caller, user), listening(request, caller))


@router.get("/users/{user:path}/data/preview", response_model=PurgePreview)
async def preview(caller: Authenticated, retention: Service, user: User) -> Response:
    """Count what a purge of an end user's data would delete now, and list what would remain."""
    return json_response(await retention.preview(caller, user))


@router.delete("/users/{user:path}/data", response_model=PurgeObject, status_code=202)
async def forget_user(caller: Authenticated, retention: Service, user: User) -> Response:
    """Purge everything of an end user, in the background."""
    return json_response(await retention.forget_user(caller, user), status=202)


@router.get("/purges", response_model=ListObject[PurgeObject])
async def purges(
    caller: Authenticated,
    retention: Service,
    kind: Kind = "user",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """List the latest purges of a kind, the newest first."""
    return json_response(await retention.purges(caller, kind, limit))


@router.get("/purges/{purge_id}", response_model=PurgeObject)
async def purge(caller: Authenticated, retention: Service, purge_id: str) -> Response:
    """Return the progress of a purge."""
    return json_response(await retention.purge(caller, purge_id))


NOT_COMPLETED: Responses = {409: error("The purge is not complete, or no checkpoint covers its end.")}


@router.get("/purges/{purge_id}/certificate", response_class=Response, responses={**AS_TEXT, **NOT_COMPLETED})
async def certificate(request: Request, caller: Auditing, retention: Service, purge_id: str) -> Response:
    """Return the signed erasure certificate of a purge."""
    return Export(await retention.certificate(caller, purge_id), listening(request, caller), media_type="text/plain")

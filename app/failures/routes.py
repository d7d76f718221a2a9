"""/v1/failures: failed and incomplete turns of the project, listed and counted."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from app.db.ids import ThreadId
from app.failures.service import FailurePage, Failures, FailuresSummary
from app.failures.store import Filters, Status
from app.http.bodies import json_response
from app.http.pages import Seconds, moment
from app.http.services import serving
from app.projects.auth import Authenticated
from app.projects.reads import RecordedRoute, reads

router = APIRouter(tags=["failures"], route_class=RecordedRoute)

Service = Annotated[Failures, serving(Failures)]


async def _filters(
    status: Annotated[Status | None, Query(description="Both if left out.")] = None,
    code: Annotated[
        str | None, Query(max_length=200, description="The code of the error, or the reason of an incomplete turn.")
    ] = None,
    model: Annotated[str | None, Query(max_length=256)] = None,
    account: Annotated[str | None, Query(max_length=400, description="The account, as turns show it.")] = None,
    user: Annotated[str | None, Query(max_length=256)] = None,
    thread: ThreadId | None = None,
) -> Filters:
    return Filters(status=status, code=code, model=model, account=account, user=user, thread_id=thread)


Filtered = Annotated[Filters, Depends(_filters)]


@reads("failures", of="project")
@router.get("/failures", response_model=FailurePage)
async def list_failures(
    caller: Authenticated,
    failures: Service,
    filters: Filtered,
    since: Seconds = None,
    until: Seconds = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=100, description="The last_id of the page before.")] = None,
) -> Response:
    """List the turns that have failed or are incomplete, the latest end first."""
    within = replace(filters, since=moment(since), until=moment(until))
    return json_response(await failures.list_page(caller.project_id, within, after, limit))


@router.get("/failures/summary", response_model=FailuresSummary)
async def summary(
    caller: Authenticated,
    failures: Service,
    filters: Filtered,
    since: Seconds = None,
    until: Seconds = None,
) -> Response:
    """Count the failures of a time range by code, model, account, user and time."""
    return json_response(await failures.summary(caller.project_id, filters, since, until))

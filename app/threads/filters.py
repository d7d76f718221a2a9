"""Filters of threads in a query: of the list, of the count and of the search."""

import re
from typing import Annotated

from fastapi import Depends, Query, Request

from app.http.pages import Seconds, moment
from app.threads.schemas import LastTurn, Status
from app.threads.store import Filters

_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)


async def _filters(
    request: Request,
    user: Annotated[str | None, Query(max_length=256)] = None,
    user_prefix: Annotated[str | None, Query(max_length=256, description="The beginning of the user.")] = None,
    name: Annotated[str | None, Query(max_length=256, description="The beginning of the name.")] = None,
    archived: bool | None = None,
    status: Status | None = None,
    last_turn: Annotated[LastTurn | None, Query(description="The status of the thread's last turn.")] = None,
    model: Annotated[str | None, Query(max_length=256, description="The model of the thread's last turn.")] = None,
    created_after: Seconds = None,
    created_before: Seconds = None,
    updated_after: Seconds = None,
    updated_before: Seconds = None,
    active_after: Seconds = None,
    active_before: Seconds = None,
) -> Filters:
    metadata: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if found := _METADATA.fullmatch(key):
            metadata[found[1]] = value
    return Filters(
        user=user,
        user_prefix=user_prefix,
        name=name,
        metadata=metadata,
        archived=archived,
        status=status,
        last_turn=last_turn,
        model=model,
        created_after=moment(created_after),
        created_before=moment(created_before),
        updated_after=moment(updated_after),
        updated_before=moment(updated_before),
        active_after=moment(active_after),
        active_before=moment(active_before),
    )


ThreadFilters = Annotated[Filters, Depends(_filters)]

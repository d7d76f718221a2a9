"""POST /v1/user_tokens: a token that a browser speaks to the service with, for one end user."""

import time
from typing import Annotated, cast

from fastapi import APIRouter
from fastapi.responses import Response

from app.db import ids
from app.http.bodies import Sent, json_response
from app.http.describing import FORBIDDEN
from app.http.errors import Forbidden
from app.http.services import serving
from app.projects.auth import Authenticated
from app.projects.keys import Scope
from app.projects.schemas import UserTokenCreate, UserTokenObject
from app.projects.user_tokens import UserToken, UserTokens

router = APIRouter(tags=["users"])


@router.post("/user_tokens", response_model=UserTokenObject, status_code=201, responses=FORBIDDEN)
async def mint(
    caller: Authenticated, tokens: Annotated[UserTokens, serving(UserTokens)], sent: Sent[UserTokenCreate]
) -> Response:
    """Create a token for one end user, to be used in a browser."""
    wanted = frozenset(cast(list[Scope], sent.actions or ["read", "write"]))
    actions = wanted & caller.grant.scopes
    if sent.actions is not None and actions != wanted:
        raise Forbidden("A key mints no token that can do more than itself.", param="actions", code="missing_scope")
    token = UserToken(
        caller.project_id, caller.key_id, sent.user, sent.thread, actions, int(time.time()) + sent.expires_in
    )
    shown: UserTokenObject = {
        "object": "user_token",
        "token": tokens.mint(token),
        "user": sent.user,
        "thread": None if sent.thread is None else ids.thread_id(sent.thread),
        "actions": sorted(actions),
        "expires_at": token.expires_at,
    }
    return json_response(shown, status=201)

"""/v1/user_tokens: tokens that browsers use for one end user, and their revocation."""

import time
from typing import Annotated, cast

from fastapi import APIRouter
from fastapi.responses import Response

from app.db import ids
from app.http.bodies import Sent, json_response
from app.http.describing import FORBIDDEN
from app.http.errors import BadRequest, Forbidden
from app.http.services import serving
from app.projects.auth import Authenticated, KeyRing
from app.projects.cutoffs import Cutoffs
from app.projects.keys import Scope
from app.projects.preset_store import UserPresets
from app.projects.reads import RecordedRoute, reads
from app.projects.schemas import RevocationObject, UserTokenCreate, UserTokenObject, UserTokensRevoke
from app.projects.user_tokens import UserToken, UserTokens, is_anonymous, new_anonymous_user

router = APIRouter(tags=["users"], route_class=RecordedRoute)

Ends = Annotated[Cutoffs, serving(Cutoffs)]


@reads("user tokens", of="project")  # With one, somebody reads as an end user does.
@router.post("/user_tokens", response_model=UserTokenObject, status_code=201, responses=FORBIDDEN)
async def mint(
    caller: Authenticated,
    tokens: Annotated[UserTokens, serving(UserTokens)],
    presets: Annotated[UserPresets, serving(UserPresets)],
    ends: Ends,
    sent: Sent[UserTokenCreate],
) -> Response:
    """Create a token for one end user, to be used in a browser."""
    wanted = frozenset(cast(list[Scope], sent.actions or ["read", "write"]))
    actions = wanted & caller.grant.scopes
    if sent.actions is not None and actions != wanted:
        raise Forbidden(
            "A key cannot create a token with more permissions than its own.", param="actions", code="missing_scope"
        )
    user = sent.user or (new_anonymous_user() if sent.anonymous else None)
    if user is None:
        raise BadRequest("'user' must name the end user, unless 'anonymous' is true.", param="user")
    if sent.anonymous and not is_anonymous(user):
        raise BadRequest("'user' must be an anonymous user's name from an earlier response.", param="user")
    expires_at = int(time.time()) + sent.expires_in
    token = UserToken(
        caller.project_id,
        caller.key_id,
        user,
        sent.thread,
        actions,
        await ends.issue_time(caller.project_id, user),
        expires_at,
        sent.anonymous,
        None if sent.preset is None else await presets.keep_for_token(caller, sent.preset, expires_at),
    )
    shown: UserTokenObject = {
        "object": "user_token",
        "token": tokens.mint(token),
        "user": user,
        "anonymous": sent.anonymous,
        "thread": None if sent.thread is None else ids.thread_id(sent.thread),
        "actions": sorted(actions),
        "expires_at": token.expires_at,
    }
    return json_response(shown, status=201)


@router.post("/user_tokens/revoke", response_model=RevocationObject)
async def revoke(
    caller: Authenticated, ends: Ends, ring: Annotated[KeyRing, serving(KeyRing)], sent: Sent[UserTokensRevoke]
) -> Response:
    """End all tokens of one end user that were issued until now, JWTs included."""
    cut_at = await ends.revoke(caller.actor, caller.project_id, sent.user)
    ring.forget(caller.project_id)
    shown: RevocationObject = {
        "object": "user_token.revocation",
        "user": sent.user,
        "revoked_at": cut_at / 1_000_000,
    }
    return json_response(shown)

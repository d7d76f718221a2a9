"""Authentication: the bearer key, the project that it belongs to, and its scopes. Every route requires a key.

The required scope depends on the method, unless the route names it: `read` for GET and HEAD, else `write`.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import Depends
from starlette.requests import HTTPConnection
from structlog.contextvars import bind_contextvars

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.http.application import OF_USER
from app.http.errors import APIError, Forbidden, Unauthorized
from app.http.fields import fields_of
from app.http.services import services
from app.process.refreshing_cache import RefreshingCache
from app.process.values import value
from app.projects.cutoffs import Cutoffs
from app.projects.identity_tokens import IdentityTokens
from app.projects.keys import Scope, hash_key
from app.projects.sessions import Session
from app.projects.settings import KeyLimits, ProjectSettings, RecordReads, least, parse_settings
from app.projects.stream_tickets import StreamTickets, ticket_of
from app.projects.user_tokens import UserToken, UserTokens, is_for_users, is_own, is_token
from app.sealing import at_rest
from app.sealing.at_rest import PLAIN, ContentCipher
from app.sealing.ciphertext import CannotOpen
from app.sealing.content_keys import ContentKeys
from app.trail.append import append_record
from app.trail.records import Actor

log = structlog.get_logger()

SQL = statements_of(__file__)

CACHE_SECONDS = 4.0
"""Longest time for which a worker accepts a key after its revocation."""

RENEW_SECONDS = 2.0
"""A key that is used is looked up again after so long, while it is still taken: a turn waits for no look-up."""

READING = ("GET", "HEAD", "OPTIONS")

CALLER = "caller"
"""Key of a request's state: its caller."""

SIGNED_IN = "everthread.signed_in"
"""Key of the ASGI scope under which the console passes the grant of a session on. No client can set it, and no route
takes a session's cookie."""

BEARER = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class Grant:
    """Access that a key gives."""

    project_id: UUID
    key_id: UUID
    scopes: frozenset[Scope]
    operates: bool
    """True if admins of its project manage the whole service."""
    settings: ProjectSettings
    key_limits: KeyLimits
    """The key's own; those of the project's keys, if it has none."""
    session_cache: str | None = None
    """The project's own setting: see `Project.session_cache`."""
    sealer: ContentCipher | None = PLAIN
    """Writes the project's contents; None if its key is not available."""
    most_bytes: int | None = None
    """Limit on the bytes of a body."""
    user: str | None = None
    """The end user whose token it is; None for a key."""
    thread_id: UUID | None = None
    """The one thread that the token opens."""
    session_id: UUID | None = None
    """The console session that the caller is signed in with; None for a key or a token."""
    issued_at: int = 0
    """Time at which the token was issued, for `cutoffs.py`."""
    users_cut_at: int | None = None
    """Time of the project's latest cut-off of a user; None if there is none."""
    preset_id: UUID | None = None
    """The preset of the token."""
    expires_at: float | None = None
    """Unix time at which the token or session expires; None for a key, whose row tells."""
    name: str = ""
    """Name of the key, or of the person."""
    subject: str | None = None
    """Issuer and subject of a person: see `people.py`. None for an API key."""
    record_reads: RecordReads = "staff"
    """The project's setting: see `Project.record_reads`."""


@value
class Caller:
    grant: Grant
    address: str | None = None

    @property
    def project_id(self) -> UUID:
        return self.grant.project_id

    @property
    def key_id(self) -> UUID:
        return self.grant.key_id

    @property
    def actor(self) -> Actor:
        """The caller as the audit trail names it."""
        return Actor(self.grant.key_id, self.address)

    def check(self, scope: Scope) -> None:
        """Raises `Forbidden` if the key has not this scope."""
        if scope not in self.grant.scopes:
            raise Forbidden(
                f"This API key lacks the scope '{scope}', which this request needs. Use a key that has it, or create "
                f"one: 'everthread keys create --scope {scope}'.",
                code="missing_scope",
            )


class ContentsSealed(APIError):
    status = 503
    code = "contents_sealed"

    def __init__(self) -> None:
        super().__init__(
            "The contents of this project are sealed by a master key that this service does not have. Who runs it "
            "finds out with 'everthread master-key check'."
        )


class KeyRing:
    """Keys that were good a moment ago, so that a turn needs no statement for its key."""

    def __init__(
        self,
        database: Database,
        tokens: UserTokens,
        identity_tokens: IdentityTokens,
        cutoffs: Cutoffs,
        content_keys: ContentKeys,
    ) -> None:
        self._database = database
        self._identity_tokens = identity_tokens
        self._cutoffs = cutoffs
        self._content_keys = content_keys
        self._tokens = tokens
        self._known: RefreshingCache[bytes | UUID, Grant] = RefreshingCache(
            "keys", seconds=CACHE_SECONDS, renewed_after=RENEW_SECONDS
        )

    def fresh(self, key: str) -> Grant | None:
        """Return the same if the key was looked up a moment ago, else None."""
        return None if is_token(key) else self._known.fresh(hash_key(key))

    async def grant(self, key: str, address: str | None) -> Grant | None:
        """Return the access that a key gives; None if it is unknown, revoked or expired, or its project is archived."""
        if is_token(key):
            return await self._of_token(key, address)
        hashed = hash_key(key)
        return await self._known.get(hashed, lambda: self._looked_up(SQL.key_by_hash(key_hash=hashed), address))

    async def of_session(self, session: Session, address: str | None) -> Grant | None:
        """Return what a console session opens; None if its key is not valid any more."""
        grant = await self._of_key(session.key_id, session.project_id, address)
        return None if grant is None else replace(grant, session_id=session.id, expires_at=session.expires_at)

    async def has_key_of(self, token: UserToken, address: str | None) -> bool:
        """Return True if the key that minted a token is valid."""
        return await self._of_key(token.key_id, token.project_id, address) is not None

    async def _of_token(self, given: str, address: str | None) -> Grant | None:
        """Return the access that a user token or a JWT gives; None if it or its key is no longer valid."""
        token, grant = await (self._of_own if is_own(given) else self._of_jwt)(given, address)
        if token is None or grant is None:
            return None
        if await self._cutoffs.is_cut(grant.project_id, grant.users_cut_at, token.user, token.issued_at):
            return None
        return replace(
            grant,
            scopes=grant.scopes & token.actions,
            operates=False,
            user=token.user,
            thread_id=token.thread_id,
            issued_at=token.issued_at,
            preset_id=token.preset_id,
            expires_at=float(token.expires_at),
        )

    async def _of_own(self, given: str, address: str | None) -> tuple[UserToken | None, Grant | None]:
        token = self._tokens.read(given)
        return token, None if token is None else await self._of_key(token.key_id, token.project_id, address)

    async def _of_jwt(self, given: str, address: str | None) -> tuple[UserToken | None, Grant | None]:
        token, grant = None, None
        # Verify it again if its provider was changed since, and has a new key.
        for again in (False, True):
            token = await self._identity_tokens.read(given, again=again)
            grant = None if token is None else await self._of_key(token.key_id, token.project_id, address)
            if token is None or grant is not None:
                break
        return token, grant

    async def _of_key(self, id_: UUID, project_id: UUID, address: str | None) -> Grant | None:
        grant = await self._known.get(id_, lambda: self._looked_up(SQL.key_by_id(key_id=id_), address))
        return grant if grant is not None and grant.project_id == project_id else None

    async def _looked_up(self, statement: tuple[Any, ...], address: str | None) -> Grant | None:
        row = await self._database.fetchrow(*statement)
        if row is None:
            return None
        settings = parse_settings(ProjectSettings, row["settings"])
        limits = parse_settings(KeyLimits, row["limits"]) if row["limits"] else settings.key_limits
        grant = Grant(
            row["project_id"],
            row["id"],
            frozenset(row["scopes"]),
            row["operates"],
            settings,
            limits,
            row["session_cache"],
            await self._sealer(row),
            least(settings.limits.body_bytes, limits.body_bytes),
            users_cut_at=row["users_cut_at"],
            name=row["name"],
            subject=row["subject"],
            record_reads=row["record_reads"],
        )
        if row["first_use"] is not None:
            async with self._database.session() as session:
                actor = Actor(grant.key_id, address)
                await append_record(session, actor, grant.project_id, "key.used", detail=row["first_use"])
        return grant

    async def _sealer(self, row: Any) -> ContentCipher | None:
        try:
            return await self._content_keys.sealer_of(row["project_id"], encrypted=row["encrypted"], seals=row["seals"])
        except CannotOpen as error:
            log.error("a project's key is not available", project=ids.project_id(row["project_id"]), why=str(error))
            return None

    def forget(self, project_id: UUID) -> None:
        """Refresh a project's keys and settings after a change. Other workers do so within `CACHE_SECONDS`."""
        self._known.forget(lambda grant: grant.project_id == project_id)

    async def stop(self) -> None:
        """Stop the look-ups that run in the background."""
        await self._known.stop()


async def authenticate(request: HTTPConnection, scope: Scope | None = None) -> Caller:
    """The caller of a request, or of a WebSocket.

    Args:
        scope: what the key must have; left out: as the request's method says.

    Raises:
        Unauthorized: no key, or one that is unknown, revoked or expired.
        Forbidden: the key may not do this.
    """
    about = request.scope
    client, method = about.get("client"), about.get("method")
    address = None if client is None else client[0]
    grant: Grant = about.get(SIGNED_IN) or _known(request) or await _bearer(request, address)
    state = about.setdefault("state", {})
    caller = state[CALLER] = Caller(grant, address)
    if grant.user is not None:
        state[OF_USER] = True
        if not is_for_users(about.get("endpoint")):
            message = "User tokens cannot call this route. Call it from a server, with a key."
            raise Forbidden(message, code="not_for_users")
    state["origins"] = grant.settings.origins
    # A tenant's limits do not hold on the admin routes, where they can be taken back.
    state["most_bytes"] = None if scope == "admin" else grant.most_bytes
    caller.check(scope or ("read" if method in READING else "write"))
    bind_contextvars(project=ids.project_id(grant.project_id))
    if grant.sealer is not None:
        at_rest.begin_with(grant.sealer)
    elif method != "DELETE":  # Deleting contents takes no key.
        raise ContentsSealed
    return caller


def _known(request: HTTPConnection) -> Grant | None:
    """Return the access that a request's key gives, if it was good a moment ago."""
    key = bearer_of(request)
    return None if key is None else services(request)[KeyRing].fresh(key)


async def _bearer(request: HTTPConnection, address: str | None) -> Grant:
    key = bearer_of(request)
    if key is None and (ticket := ticket_of(request)) is not None:
        key = await services(request)[StreamTickets].use(ticket, request.scope["path"])
        if key is None:
            message = "This ticket was used, has expired, or is for another path. Create one: POST /v1/stream_tickets."
            raise Unauthorized(message, headers=BEARER)
    if key is None:
        raise Unauthorized("No API key was sent. Send it as 'Authorization: Bearer KEY'.", headers=BEARER)
    grant = await services(request)[KeyRing].grant(key, address)
    if grant is None:
        raise Unauthorized(
            "This API key or token is unknown, revoked or expired. Create a key with 'everthread keys create', or "
            "a token with POST /v1/user_tokens.",
            headers=BEARER,
        )
    return grant


def bearer_of(request: HTTPConnection) -> str | None:
    """Return the key or token in a request's header."""
    given = fields_of(request.scope).get(b"authorization")
    if given is None:
        return None
    kind, _, key = given.decode("latin-1").partition(" ")
    return key.strip() or None if kind == "Bearer" or kind.lower() == "bearer" else None


def _authenticated(scope: Scope | None = None) -> Any:
    """Return the dependency of a route on its caller. Args: scope: see `authenticate`."""

    async def caller(request: HTTPConnection) -> Caller:
        return await authenticate(request, scope)

    return Depends(caller)


Authenticated = Annotated[Caller, _authenticated()]
Reading = Annotated[Caller, _authenticated("read")]
"""Caller of a POST that changes nothing."""
Auditing = Annotated[Caller, _authenticated("audit")]
Administering = Annotated[Caller, _authenticated("admin")]

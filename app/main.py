"""Builds the service. Reads like a table of contents: what there is, and what it is made of."""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import structlog
from fastapi import APIRouter, Request, params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route, WebSocketRoute, compile_path
from starlette.websockets import WebSocket

from app.accounts import routes as accounts_routes
from app.accounts.pool import Accounts, ProviderAccount
from app.accounts.service import ProjectAccounts
from app.audit import routes as audit_routes
from app.audit.checkpoints import Checkpoints
from app.audit.cosigning import Cosigning
from app.audit.paths import TreePaths
from app.audit.positions import Positions
from app.audit.service import Audit
from app.audit.signing import signing_key
from app.audit.stream import AuditStream
from app.audit.turn_proof import TurnProofs
from app.audit.witnesses import witnesses
from app.cache.client import Cache
from app.cache.value_mac import ValueMac
from app.chain.live_ids import LiveIds
from app.citus.router import ShardRouter, is_distributed
from app.console import routes as console
from app.console.attempts import SignInAttempts
from app.console.oidc import Oidc
from app.console.oidc_config import oidc_config
from app.db import configured
from app.db.buckets import Buckets, database_key
from app.db.engine import Database
from app.db.ids import new_uuid
from app.db.read_horizon import ReadHorizon
from app.db.replica import ReplicaReads
from app.failures import routes as failures_routes
from app.failures.service import Failures
from app.history import held_routes
from app.history import routes as history_routes
from app.history.feedback import Feedbacks
from app.history.forks import Forks
from app.history.held import Held
from app.history.rebuilds import Rebuilds
from app.history.service import History
from app.history.shares import Shares
from app.holds import routes as holds_routes
from app.holds.service import Holds
from app.http.application import Application
from app.http.bodies import json_response, wrong_field
from app.http.door import closing
from app.http.errors import APIError, BadRequest, DatabaseUnavailable, MethodNotAllowed, NotFound
from app.http.pages import PAGE_BYTES
from app.http.request_target import RequestTarget
from app.http.services import Services
from app.limits.charges import Charges
from app.limits.room import AT_ADMIN_RATE
from app.limits.service import RateLimits
from app.live import routes as live_routes
from app.live.events import ThreadEvents
from app.live.now import Now
from app.live.worker_reports import WorkerReports
from app.memory import routes as memory_routes
from app.memory.compaction import Compactions
from app.memory.compaction_cipher import CompactionCipher
from app.memory.observations import ModelObservations
from app.memory.reader import Reader
from app.memory.service import Memory
from app.memory.store import MemoryStore
from app.openai_api import chat, contexts, conversations, responses
from app.openai_api import models as models_routes
from app.openai_api import socket as responses_socket
from app.openai_api.absent import advice
from app.openai_api.contexts import Contexts
from app.openai_api.service import OpenAI
from app.process import stopping
from app.process.killable import Killable
from app.process.started import Started
from app.projects import minting, ticket_routes
from app.projects import routes as projects_routes
from app.projects.auth import KeyRing
from app.projects.cors import Cors, Origins
from app.projects.credential_watch import CredentialWatch
from app.projects.cutoffs import Cutoffs
from app.projects.identity_tokens import IdentityTokens
from app.projects.key_sets import KeySets
from app.projects.preset_store import UserPresets
from app.projects.reads import Reads
from app.projects.service import Projects
from app.projects.sessions import Sessions
from app.projects.stream_tickets import StreamTickets
from app.projects.user_tokens import UserTokens
from app.projects.user_view import UserView, error_body
from app.provider.client import EMULATOR_KEY, Provider
from app.provider.models import Models
from app.public import health, openapi
from app.retention import routes as retention_routes
from app.retention.certificates import Certificates
from app.retention.cleaner import Cleaner
from app.retention.purge import Purge
from app.retention.service import Retention
from app.sealing.content_keys import ContentKeys
from app.sealing.master import masters
from app.sealing.project_cipher import ProjectCipher
from app.search import routes as search_routes
from app.search.service import Search
from app.settings import Connected, OTelSettings, Settings, environment
from app.telemetry import metrics, spans
from app.telemetry.logs import configure
from app.threads import routes as threads_routes
from app.threads.claims import Claims
from app.threads.names import Names
from app.threads.presets import ThreadPresets
from app.threads.service import Threads
from app.trail.feed import TrailFeed
from app.trail.users import UserKeys
from app.transfer import routes as transfer_routes
from app.transfer.service import Transfer
from app.turns import routes as turns_routes
from app.turns.cancel_requests import CancelRequests
from app.turns.cancel_signals import CancelSignals
from app.turns.client import ClientLeft
from app.turns.collaborators import Collaborators
from app.turns.event_log import EventLog
from app.turns.leases import Leases
from app.turns.life import ThreadLife
from app.turns.replay import Replay
from app.turns.runner import Runner
from app.turns.service import Turns
from app.turns.spool import Spool
from app.turns.store import TurnStore
from app.turns.titles import Titles
from app.usage import routes as usage_routes
from app.usage.hours import TurnHours
from app.usage.sums import UsageSums
from app.webhooks import routes as webhooks_routes
from app.webhooks.deliveries import Deliveries
from app.webhooks.secrets import Secrets
from app.webhooks.service import Webhooks
from app.webhooks.store import WebhookStore

log = structlog.get_logger()

AWAY_SECONDS = 1.0

POLL_SECONDS = 0.1
"""Interval at which a signal to stop is noticed."""

DISTRIBUTED_SETTLING_SECONDS = 2.0

PROVIDER_PATHS = ("/compatible-mode/v1", "/api/v2/apps/protocols/compatible-mode/v1")
"""The provider's own paths: a client of it changes its host and key, and nothing else."""


GARBAGE_AT_ONCE = 10_000
"""Objects that are made before the collector looks at them: a turn makes some hundred, and few of them are in rings."""


def create_app() -> Application:
    """The service for the environment's settings: what uvicorn's workers are given."""
    settings = Connected()
    configure(settings.log_level)
    app = build(settings)
    spans.start(app, OTelSettings())
    return app


def build(settings: Connected) -> Application:
    models = Models(settings.models_file, default=settings.default_model, window_tokens=settings.context_window_tokens)
    app = Application(
        Services(settings, models),
        generate_unique_id_function=openapi.operation_id,
        title="Everthread",
        summary="Named threads over the Responses API, whose conversations do not expire.",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    _include(app, health.router)
    _include(app, threads_routes.router, prefix="/v1")
    _include(app, turns_routes.router, prefix="/v1")
    _include(app, history_routes.router, prefix="/v1")
    _include(app, held_routes.router, prefix="/v1")
    _include(app, memory_routes.router, prefix="/v1")
    _include(app, transfer_routes.router, prefix="/v1")
    _include(app, audit_routes.router, prefix="/v1")
    _include(app, retention_routes.router, prefix="/v1")
    _include(app, holds_routes.router, prefix="/v1")
    _include(app, search_routes.router, prefix="/v1")
    _include(app, failures_routes.router, prefix="/v1")
    _include(app, usage_routes.router, prefix="/v1")
    _include(app, webhooks_routes.router, prefix="/v1", dependencies=AT_ADMIN_RATE)
    _include(app, projects_routes.router, prefix="/v1", dependencies=AT_ADMIN_RATE)
    _include(app, minting.router, prefix="/v1")
    _include(app, ticket_routes.router, prefix="/v1")
    _include(app, live_routes.router, prefix="/v1")
    _include(app, accounts_routes.router, prefix="/v1", dependencies=AT_ADMIN_RATE)
    app.router.routes.extend(openapi.routes())
    for prefix in ("/v1", *PROVIDER_PATHS):
        documented = prefix == "/v1"
        _include(app, responses.router, prefix=prefix, documented=documented)
        app.add_hot_routes([*responses.hot_routes(prefix), *chat.hot_routes(prefix)])
        _include(app, contexts.router, prefix=prefix, documented=documented)
        _include(app, models_routes.router, prefix=prefix, documented=documented)
        _include(app, conversations.router, prefix=prefix, documented=documented)
        _include(app, chat.router, prefix=prefix, documented=documented)
    # Before the mounts of static files, which take a WebSocket for a request.
    sockets = [route for prefix in ("/v1", *PROVIDER_PATHS) for route in responses_socket.routes(prefix)]
    app.router.routes[:0] = [*sockets, WebSocketRoute("/{path:path}", _refuse_socket)]
    # Before all others, and without FastAPI's reading of the request: these are asked for a thousand times as often.
    app.add_hot_routes(turns_routes.hot_routes("/v1"))
    if settings.console:
        app.router.routes.extend(console.routes(app))
    app.add_middleware(UserView)
    app.add_middleware(RequestTarget)
    app.add_middleware(Cors)
    app.add_middleware(stopping.CutOff)
    app.add_exception_handler(APIError, _refuse)
    app.add_exception_handler(ClientLeft, _answer_nobody)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(RequestValidationError, _refuse_fields)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(Exception, _refuse_unexpected)
    return app


@asynccontextmanager
async def _lifespan(app: Application) -> AsyncIterator[None]:
    app.begin()
    async with Started(stopping.LAST_SECONDS) as started:
        runner = await _start(app, started)
        if runner is None:
            yield
            return
        closed = asyncio.Event()
        drain_seconds = app.services[Connected].drain_seconds
        ending = asyncio.create_task(_end_turns(runner, drain_seconds, closed), name="ending")
        try:
            yield
        finally:
            stopping.begun.set()
            closed.set()
            await ending
            await runner.end()  # What a request has begun since then.


async def _start(app: Application, started: Started) -> Runner | None:
    """Build the parts in the order in which they need each other. Each is stopped before those that it needs."""
    settings: Connected = app.services[Connected]
    if spans.tracer is not None:
        started.to_stop(partial(asyncio.to_thread, spans.tracer.close))
    database = configured.connect(settings, settings.database_url)
    started.to_stop(database.close)
    key = await _database_key(database)
    if key is None:
        return None
    cache = Cache(settings.redis_url, timeout_seconds=settings.redis_timeout_seconds)
    started.to_stop(cache.close)
    mac, buckets, compaction_cipher = ValueMac(key), Buckets(key), CompactionCipher(key)
    replica = None if settings.database_read_url is None else configured.connect(settings, settings.database_read_url)
    reads = ReplicaReads(database, replica, key=key, lag_seconds=settings.database_read_lag_seconds)
    worker_id = new_uuid()
    nodes = ShardRouter(database, routed=settings.citus_routing)
    started.to_stop(nodes.close)
    distributed = await is_distributed(database)
    if distributed:
        database.is_coordinator()
    names, users, horizon = (
        Names(database, buckets),
        UserKeys(database, buckets),
        ReadHorizon(_settling(settings, distributed=distributed)),
    )
    live_ids = LiveIds(cache, mac, margin_seconds=settings.response_id_margin_seconds)
    store = TurnStore(database, nodes, names, users, worker_id=worker_id, lease_seconds=settings.lease_seconds)
    event_log = EventLog(cache, mac, keep_seconds=settings.event_log_seconds)
    signals = CancelSignals(cache, mac)
    cipher = ProjectCipher(database, masters(settings))
    content_keys = ContentKeys(database, cipher)
    await content_keys.report_altered_projects()
    spool = Spool(settings.data_dir / "spool", content_keys)
    accounts = connect_accounts(settings, database, cipher)
    started.to_stop(accounts.close)
    models, observations = app.services[Models], ModelObservations(database)
    memory = MemoryStore(
        database,
        nodes,
        worker_id=worker_id,
        lease_seconds=settings.lease_seconds,
        most_bytes=max(PAGE_BYTES, 2 * settings.provider_max_input_bytes),
    )
    reader = Reader(memory, observations, byte_budget=settings.provider_max_input_bytes)
    charges = Charges(database, every_seconds=settings.charges_seconds)
    sums = UsageSums(database)
    limits = RateLimits(cache, database, models, accounts, charges, sums, workers=settings.workers)
    compactions = Compactions(memory, accounts, models, observations, content_keys, limits, settings)
    titles = Titles(database, names, accounts, models, limits, settings)
    hours = TurnHours(database, every_seconds=settings.statistics_seconds)
    killable = Killable(environment())
    started.to_stop(killable.stop)
    runner = Runner(
        Collaborators(
            store=store,
            accounts=accounts,
            models=models,
            live_ids=live_ids,
            event_log=event_log,
            spool=spool,
            signals=signals,
            reader=reader,
            compactions=compactions,
            titles=titles,
            limits=limits,
            hours=hours,
            killable=killable,
            settings=settings,
        )
    )
    replay = Replay(store, runner, event_log, signals)
    leases = Leases(store, runner, event_log, replay, spool, content_keys, lease_seconds=settings.lease_seconds)
    cancel_requests = CancelRequests(cache, signals, store, runner)
    audit_key = signing_key(settings.audit_key, settings.data_dir)
    checkpoints = Checkpoints(
        database, audit_key, every_seconds=settings.audit_checkpoint_seconds, origin_base=settings.audit_origin
    )
    witnessed_by = witnesses(settings.audit_witnesses)
    cosigning = [
        Cosigning(database, witness, every_seconds=settings.audit_checkpoint_seconds) for witness in witnessed_by
    ]
    purge = Purge(database, names, users, live_ids, event_log, signals, content_keys)
    certificates = Certificates(
        database,
        users,
        checkpoints,
        audit_key,
        backup_days=settings.backup_retention_days,
        provider_days=settings.response_id_ttl_seconds / 86_400,
        witnessed=bool(witnessed_by),
    )
    cleaner = Cleaner(database, purge, certificates, accounts, every_seconds=settings.cleaning_seconds)
    secrets = Secrets(database, cipher)
    webhooks = WebhookStore(database, horizon)
    deliveries = Deliveries(webhooks, secrets, inside=settings.webhooks_inside)
    tokens, sessions, cutoffs = UserTokens(key), Sessions(database, key), Cutoffs(database, users, key)
    watch, key_sets = CredentialWatch(database, cutoffs), KeySets()
    identity_tokens = IdentityTokens(database, key_sets, inside=settings.identity_providers_inside)
    started.to_stop(key_sets.stop)
    started.to_stop(watch.stop)
    oidc = Oidc(oidc_config(settings), database, key)
    started.to_stop(oidc.close)
    transfer, keys = (
        Transfer(database, names, users, store),
        KeyRing(database, tokens, identity_tokens, cutoffs, content_keys),
    )
    started.to_stop(keys.stop)
    presets, thread_presets = UserPresets(database, content_keys, key), ThreadPresets(database)
    started.to_stop(thread_presets.stop)
    projects = Projects(
        database,
        keys,
        cipher,
        presets,
        encrypts=settings.encrypt_projects,
        inside=settings.identity_providers_inside,
    )
    turns = Turns(store, runner, replay, compaction_cipher, limits)
    feed = TrailFeed(database, horizon, users, closing=closing)
    reports = WorkerReports(cache, mac, runner, accounts, limits, spool, worker_id=worker_id)
    now = Now(database, cache, accounts, models, reports, worker_id=worker_id, closing=closing)
    started.to_stop(now.stop)
    threads = Threads(database, names, users, horizon, limits, thread_presets)
    holds = Holds(database, users, cleaner.wake)
    history = History(
        database,
        Forks(names, settings.fork_copies_turns),
        users,
        store,
        turns,
        live_ids,
        event_log,
        signals,
        limits,
        accounts=accounts,
        margin_seconds=settings.response_id_margin_seconds,
    )
    paths = TreePaths(database)
    served = Services(
        settings, models, observations, database, reads, cache, names, accounts, replay, turns, history, transfer,
        keys, limits, projects, presets, tokens, cutoffs, sessions, watch, Reads(database), Origins(database),
        ProjectAccounts(database, projects, cipher, accounts, inside=settings.accounts_inside),
        threads,
        thread_presets,
        Claims(database, names, users, tokens, keys, cutoffs),
        ThreadEvents(database, feed, threads),
        now,
        StreamTickets(database),
        Audit(database, reads, users, checkpoints, horizon, witnessed_by, paths),
        TurnProofs(database, turns, paths, every_seconds=settings.audit_checkpoint_seconds),
        AuditStream(database, reads, Positions(database, horizon)),
        Search(database, reads, threads),
        Failures(database, reads),
        Retention(database, users, purge, certificates, cleaner, transfer),
        holds,
        Memory(memory, compactions, models, live_ids, limits),
        OpenAI(database, names, store, replay, live_ids, event_log, horizon, limits, users),
        Contexts(memory, reader, accounts, compactions, compaction_cipher, turns),
        Rebuilds(turns, store, reader, accounts, models),
        ThreadLife(database, store, replay, feed),
        Feedbacks(database, turns, store, horizon),
        Shares(database, turns, store, content_keys),
        Held(database, holds),
        Webhooks(webhooks, deliveries, secrets, inside=settings.webhooks_inside),
        killable,
        SignInAttempts(cache),
        oidc,
        sums,
    )  # fmt: skip
    app.services = served
    # What is there by now stays: the garbage collector need not look through it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AT_ONCE, 20, 20)
    # In the order in which they need each other: compactions and titles have charges until their end.
    for work in (hours, charges, sums, limits, deliveries, feed, reports, compactions, cleaner, checkpoints,
                 cancel_requests, leases, observations, nodes, reads, *cosigning):  # fmt: skip
        started.to_stop(work.stop)
        work.start()
    started.to_stop(titles.stop)
    return runner


async def _end_turns(runner: Runner, drain_seconds: float, closed: asyncio.Event) -> None:
    """Let the running turns finish once the process is stopping, and end those that have not after `drain_seconds`.

    Args:
        closed: set when there is no connection any more, so that no turn can come.
    """
    while not stopping.begun.is_set():  # noqa: ASYNC110 - a signal handler sets it
        await asyncio.sleep(POLL_SECONDS)
    runner.begin_stopping()
    loop = asyncio.get_running_loop()
    until = loop.time() + drain_seconds
    while loop.time() < until and not (closed.is_set() and runner.is_idle):
        if stopping.at_once.is_set():
            break
        await asyncio.sleep(POLL_SECONDS)
    await runner.end()


def _settling(settings: Settings, *, distributed: bool) -> float | None:
    """Return how long an ascending list waits for open transactions. No node of a cluster sees all of them."""
    if settings.settling_seconds is None and distributed:
        return DISTRIBUTED_SETTLING_SECONDS
    return settings.settling_seconds


async def _database_key(database: Database) -> bytes | None:
    """Return the database's key, once it is there. None if the process is stopped first."""
    asking = asyncio.create_task(_database_key_at_last(database))
    while not asking.done():
        await asyncio.wait({asking}, timeout=POLL_SECONDS)
        if stopping.begun.is_set():
            asking.cancel()
            return None
    return asking.result()


async def _database_key_at_last(database: Database) -> bytes:
    """Read the database's key; a worker that starts while the database is unavailable waits for it."""
    while True:
        try:
            return await database_key(database)
        except DatabaseUnavailable:
            log.warning("Postgres is unavailable; this worker begins when it is back")
            await asyncio.sleep(AWAY_SECONDS)


def connect_accounts(settings: Settings, database: Database, cipher: ProjectCipher) -> Accounts:
    """The provider accounts: that of the settings, and those in the database."""
    return Accounts(
        database,
        cipher,
        ProviderAccount(None, "settings", connect_provider(settings)),
        partial(_connected, settings),
        has_key=settings.dashscope_api_key is not None,
        inside=settings.accounts_inside,
    )


def connect_provider(settings: Settings) -> Provider:
    """The provider that the settings name."""
    key = settings.dashscope_api_key
    return _connected(settings, settings.provider_base_url, EMULATOR_KEY if key is None else key.get_secret_value())


def _connected(settings: Settings, base_url: str, key: str, *, public_only: bool = False) -> Provider:
    return Provider(
        base_url,
        key,
        public_only=public_only,
        connect_timeout_seconds=settings.provider_connect_timeout_seconds,
        timeout_seconds=settings.provider_timeout_seconds,
        stall_seconds=settings.provider_stall_seconds,
        max_answer_bytes=settings.max_answer_bytes,
        gather_milliseconds=settings.provider_gather_milliseconds,
    )


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    metrics.of(metrics.REFUSED_REQUESTS, str(error.status), error.meaning).inc()
    return json_response(error_body(request, error), status=error.status, headers=error.headers)


async def _refuse_fields(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _refuse(request, wrong_field(error.errors()[0]))


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 404 and (instead := advice(path, ("/v1", *PROVIDER_PATHS))) is not None:
        return await _refuse(request, NotFound(f"{path} is not here. {instead}", code="unsupported_endpoint"))
    if error.status_code == 404:
        return await _refuse(request, NotFound(f"There is nothing at {request.method} {path}.", code="unknown_url"))
    if error.status_code == 405:
        allowed = {"Allow": ", ".join(sorted(_methods_at(request)))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=allowed)
        return await _refuse(
            request,
            MethodNotAllowed(f"{request.method} is not for {path}, which takes {allowed['Allow']}.", headers=allowed),
        )
    refused = BadRequest(f"{error.detail}: {request.method} {request.url.path}.", code="method_not_allowed")
    refused.status = error.status_code
    refused.headers = dict(error.headers or {})
    return await _refuse(request, refused)


async def _refuse_socket(socket: WebSocket) -> None:
    message = f"There is no WebSocket at {socket.scope['path']}. Connect to /v1/responses instead."
    refused = NotFound(message, code="unknown_url")
    metrics.of(metrics.REFUSED_REQUESTS, str(refused.status), refused.meaning).inc()
    await socket.send_denial_response(json_response(refused.body(), status=refused.status))


def _include(
    app: Application,
    router: APIRouter,
    *,
    prefix: str = "",
    documented: bool = True,
    dependencies: Sequence[params.Depends] = (),
) -> None:
    """A part's routes, with HEAD wherever there is GET: the server sends the head alone."""
    for route in router.routes:
        if isinstance(route, Route) and route.methods is not None and "GET" in route.methods:
            route.methods.add("HEAD")
    app.include_router(router, prefix=prefix, include_in_schema=documented, dependencies=dependencies)


def _methods_at(request: Request) -> set[str]:
    """Return the methods of all routes at a path."""
    found: dict[int, set[str]] = {}
    for route in iter_route_contexts(request.app.routes):
        if isinstance(route.methods, set) and isinstance(route.path, str):
            pattern, _, parameters = compile_path(route.path)
            if pattern.match(request.scope["path"]):
                # `/responses/compact` is no `/responses/{response_id}`: what has fewer parameters is meant.
                found.setdefault(len(parameters), set()).update(route.methods)
    return {"OPTIONS", *(found[min(found)] if found else ())}


async def _refuse_unexpected(request: Request, error: Exception) -> Response:
    return await _refuse(
        request,
        # The connection is closed behind an answer to what nobody had foreseen.
        APIError(
            "The service failed on this request. Its log says why.",
            code="internal_error",
            headers={"Connection": "close"},
        ),
    )

"""/healthz, /readyz and /metrics: the routes that need no key, and say nothing of any project."""

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import TypedDict

from app import schema
from app.cache.client import Cache
from app.db.engine import IS_READ_ONLY, Database
from app.db.replica import ReplicaReads
from app.http.bodies import json_response
from app.http.errors import DatabaseUnavailable
from app.http.services import services
from app.settings import environment

router = APIRouter(tags=["health"])


class Health(TypedDict):
    status: Literal["ok"]


class Readiness(TypedDict):
    """Each is `ok`, or says what is wrong. `replica` is there where there is one."""

    status: Literal["ready", "not ready"]
    postgres: str
    redis: str
    migrations: str


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """Answer, to show that the process runs."""
    return json_response({"status": "ok"})


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(request: Request) -> Response:
    """Report whether turns can be taken.

    Postgres must be reachable and migrated. Redis may be away, and is reported.
    """
    here = services(request)
    checks = {"postgres": "ok", "redis": "ok", "migrations": "ok"}
    try:
        async with here[Database].session() as session:
            connection = await session.connection()
            misfit = await connection.run_sync(schema.misfit)
            if await session.scalar(IS_READ_ONLY):
                checks["postgres"] = "read-only"
        if misfit is not None:
            checks["migrations"] = misfit
    except (DatabaseUnavailable, SQLAlchemyError):
        checks["postgres"] = "unreachable"
        checks["migrations"] = "unknown"
    try:
        await here[Cache].ping()
    except (RedisError, OSError):
        checks["redis"] = "unreachable"
    if (replica := here[ReplicaReads].state) is not None:
        checks["replica"] = replica  # It is reported: without it, everything is read from the primary.
    ready = checks["postgres"] == "ok" and checks["migrations"] == "ok"
    return json_response({"status": "ready" if ready else "not ready", **checks}, status=200 if ready else 503)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics() -> Response:
    """Return the metrics for Prometheus, as text, of all workers together."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in environment():
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

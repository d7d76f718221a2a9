"""/healthz, /readyz and /metrics: the routes that need no key, and say nothing of any project."""

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
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
from app.http.describing import PLAIN, described
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


@router.get("/healthz", **described("The process answers.", Health))
async def healthz() -> Response:
    """The process answers."""
    return json_response({"status": "ok"})


@router.get("/readyz", **described("Turns can be taken.", Readiness, also={503: Readiness}))
async def readyz(request: Request) -> Response:
    """Turns can be taken: Postgres is there and migrated. Redis may be away, and is reported."""
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


@router.get("/metrics", **described("Metrics for Prometheus, as text.", media=PLAIN))
async def metrics() -> Response:
    """Prometheus's text form; of all workers together where there are several."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in environment():
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

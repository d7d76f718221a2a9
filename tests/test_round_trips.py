"""Round trips of a turn to Postgres and Redis, counted on the wire."""

import time

import pytest
import redis

from app.schema import metadata
from tests.identity_provider import identity_provider
from tests.service import Emulator, Service
from tests.wire import Proxy

TURNS = 10


@pytest.mark.parametrize(
    ("stream", "user"), [(False, None), (True, None), (False, "ann"), (True, "ann"), (False, "of a JWT")]
)
def test_a_chained_turn_is_two_statements_and_two_redis_commands(
    fresh_env: dict[str, str], emulator: Emulator, redis_url: str, stream: bool, user: str | None
) -> None:
    proxy = Proxy(fresh_env["DATABASE_URL"])
    # The leases of a worker are renewed from time to time, and its keys looked up again: that is no turn's cost.
    once = {"EVERTHREAD_LEASE_SECONDS": "3600", "EVERTHREAD_EVENT_LOG_FLUSH_SECONDS": "5"}
    service = Service(env={**fresh_env, "DATABASE_URL": proxy.url, **once})
    cache = redis.Redis.from_url(redis_url)
    counts: list[tuple[int, int]] = []
    try:
        if user == "of a JWT":
            user, token = _jwt(service)
        elif user is not None:
            token = service.http.post("/user_tokens", json={"user": user}).json()["token"]
        thread = service.thread(user=user)
        if user is not None:
            # A token from before the latest cut-off of anybody costs no statement either.
            service.http.post("/user_tokens/revoke", json={"user": "somebody"})
            service.http.headers["Authorization"] = f"Bearer {token}"
        service.turn(thread, "Hello")
        for _ in range(3):
            time.sleep(0.2)
            statements, commands = _statements(proxy), _commands(cache)
            for _ in range(TURNS):
                service.stream(thread, "Hello") if stream else service.turn(thread, "Hello")
            time.sleep(0.2)
            counts.append((_statements(proxy) - statements, _commands(cache) - commands))
    finally:
        service.stop()
    # Looking for what dead workers have left, every few seconds, falls into one round or another. What a turn costs is
    # in all of them.
    statements, commands = (min(each) for each in zip(*counts, strict=True))
    # A stream has its event log besides: XADD and EXPIRE, in one round trip a batch.
    assert (statements, commands) == (2 * TURNS, (4 if stream else 2) * TURNS), counts


def _jwt(service: Service) -> tuple[str, str]:
    """Return a user of an identity provider that the service's project accepts, and a JWT of that user."""
    with identity_provider() as provider:
        sent = {"issuer": provider.issuer, "jwks_url": provider.jwks_url, "audience": "app"}
        (project,) = service.http.get("/admin/projects").json()["data"]
        service.http.patch(f"/admin/projects/{project['id']}", json={"identity_providers": [sent]})
        token = provider.id_token("ann")
        # The key set is known from here on, without the provider.
        answer = service.http.get("/threads", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        return f"{provider.issuer}#ann", token


def _statements(proxy: Proxy) -> int:
    """Count the statements that name a table or a function of ours. Not counted: the greeting of a new connection, and
    look-ups that each worker repeats while turns run (webhooks, a key, a project's accounts, the users of threads with
    listeners, observations of models, outcomes of turns)."""
    return sum(
        any(name in statement for name in (*metadata.tables, "open_turn_v4", "close_turn_v4"))
        and not any(
            apart in statement
            for apart in (
                "FROM webhooks",
                "FROM api_keys",
                "action = 'project.encrypted'",
                "FROM accounts",
                "SELECT id, user_id FROM threads",
                "FROM learnt_models",
                "INTO turn_hours",
            )
        )
        for statement in proxy.executed
    )


def _commands(cache: "redis.Redis") -> int:
    """GET, SET and whatever else there may be, without this question itself and connecting."""
    stats: dict[str, dict[str, int]] = cache.info("commandstats")
    apart = ("info", "hello", "client", "ping", "select", "auth")
    return sum(s["calls"] for name, s in stats.items() if name.removeprefix("cmdstat_").split("|")[0] not in apart)

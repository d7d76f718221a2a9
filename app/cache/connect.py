"""Parsing of REDIS_URL, and the client that it leads to.

    redis://user:password@host:6379/0                           one server; rediss:// with TLS, unix:///path
    redis+sentinel://user:password@a:26379,b:26379/0?service=mymaster
    redis+cluster://user:password@a:7000,b:7000

`valkey` and `valkeys` say the same as `redis` and `rediss`. The query takes redis-py's own options (`ssl_ca_certs`,
`ssl_cert_reqs`, `ssl_certfile`, `client_name`, …), and for sentinels `sentinel_username` and `sentinel_password`.
"""

from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

Client = Redis | RedisCluster

SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}
SENTINEL_PORT = 26379
PORT = 6379


def connect(url: str, *, timeout_seconds: float, answers_limited: bool = True) -> Client:
    """The client for a URL. Nothing is sent yet.

    Args:
        timeout_seconds: how long connecting may take, and an answer.
        answers_limited: whether the client looks to the latter; else whoever asks does.

    Raises:
        ValueError: it is none that is known here. What it says does not quote the URL, which has a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # Its words quote the password.
        raise ValueError("it is no URL: are the signs in its user and password quoted, as in p%40ss?") from None
    name, _, kind = parts.scheme.partition("+")
    if name not in SCHEMES or kind not in ("", "sentinel", "cluster") or (name == "unix" and kind):
        raise ValueError(
            "it must begin with redis://, rediss://, valkey://, valkeys:// or unix://, "
            "or with redis+sentinel:// or redis+cluster://"
        )
    if name != "unix" and not kind and (not parts.hostname or parts.port == 0):
        raise ValueError("it names no host, as in redis://host:6379/0")
    options: dict[str, Any] = {
        "socket_timeout": timeout_seconds if answers_limited else None,
        "socket_connect_timeout": timeout_seconds,
        # A connection that was closed is opened again; one that does not answer is not waited for twice.
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    }
    if kind == "sentinel":
        return _behind_sentinels(SCHEMES[name], parts, options)
    if kind == "cluster":
        hosts, given = _given(SCHEMES[name], parts, PORT)
        given.pop("db", None)
        return RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in hosts],
            **options,
            **given,
        )
    return Redis.from_url(parts._replace(scheme=SCHEMES[name]).geturl(), **options)


def _behind_sentinels(scheme: str, parts: SplitResult, options: dict[str, Any]) -> Redis:
    query = dict(parse_qsl(parts.query))
    service = query.pop("service", None)
    if service is None:
        raise ValueError("it must name the service that the sentinels watch, as in ?service=mymaster")
    of_sentinels = {
        name.removeprefix("sentinel_"): query.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in query
    }
    hosts, given = _given(scheme, parts._replace(query=urlencode(query)), SENTINEL_PORT)
    shared = {name: value for name, value in given.items() if name.startswith("ssl")}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        hosts,
        sentinel_kwargs={
            "socket_timeout": options["socket_connect_timeout"],
            "socket_connect_timeout": options["socket_connect_timeout"],
            **shared,
            **of_sentinels,
        },
        **options,
        **given,
    )
    master: Redis = sentinel.master_for(service)
    return master


def _given(scheme: str, parts: SplitResult, default_port: int) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """The hosts of a URL that has several, and its options in redis-py's names."""
    who, at, where = parts.netloc.rpartition("@")
    hosts = []
    for each in where.split(","):
        one = urlsplit(f"//{each}")
        if not one.hostname:
            raise ValueError("it must name its hosts as in a:7000,b:7000")
        hosts.append((one.hostname, one.port or default_port))
    first = f"{who}{at}{hosts[0][0]}" if ":" not in hosts[0][0] else f"{who}{at}[{hosts[0][0]}]"
    given: dict[str, Any] = {**parse_url(parts._replace(scheme=scheme, netloc=first).geturl())}
    if given.pop("connection_class", None) is SSLConnection:
        given["ssl"] = True
    given.pop("host", None)
    given.pop("port", None)
    return hosts, given

"""`everthread support-bundle`: one file to attach to a report of a problem. It holds no contents and no secrets.

What is written is an allow-list: settings by their type, labels of metrics by their name, errors by their code.
"""

import asyncio
import hashlib
import io
import os
import platform
import re
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import unquote, urlsplit

import orjson
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from redis.exceptions import RedisClusterException, RedisError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app import schema
from app.cache.connect import connect
from app.commands import doctor
from app.db import configured, connecting
from app.db.sql import statements_of
from app.embedded import postgres as embedded_postgres
from app.http.errors import DatabaseUnavailable
from app.process.atomic_file import replacing
from app.provider.models import Models
from app.settings import SECRETS, Settings, environment

SECONDS = 10.0
"""Time limit for each server that is asked."""

LARGEST_METRICS = 16 * 1024 * 1024

DAYS = 7
"""Days of errors."""

SET = "set"
"""Placeholder for a value that is not shown."""

REMOVED = "[removed]"

SHORTEST_REMOVED = 4
"""Characters of a hidden value that is removed from texts. Shorter ones are parts of ordinary words."""

ORDINARY = {"everthread", "postgres", "target_session_attrs", "read-write", "sslmode", "require", "prefer", "host"}
"""Parts of URLs that are no secret, and words of other texts."""

_HOSTS = re.compile(r"[\w.,\[\]-]*(?::\d+)?(?:,[\w.\[\]-]+(?::\d+)?)*")
_CODE = re.compile(r"[a-z0-9_.:+-]{1,64}")

SHOWN_LABELS = frozenset(
    {"continuation", "kind", "le", "meaning", "outcome", "result", "status", "step", "stream", "why", "pid"}
)
"""Labels whose values come from Everthread's own code. Those of `model` are shortened to a known family."""

SQL = statements_of(__file__)


def write(settings: Settings, file: Path, url: str) -> list[str]:
    """Write the bundle, readable by its owner alone. Returns the names of its parts.

    Args:
        url: where the service is, for its metrics.

    Raises:
        OSError: the file cannot be written.
    """
    lines: list[str] = []
    doctor.examine(settings, lines.append)
    hidden = _hidden(settings)
    parts: dict[str, Any] = {
        "versions.json": _versions(),
        "settings.json": shown_settings(settings),
        "database.json": asyncio.run(examine_database(settings)),
        "redis.json": asyncio.run(_redis(settings)),
        "metrics.json": _metrics(url),
        "doctor.txt": "".join(f"{line}\n" for line in lines),
    }
    with replacing(file, mode=0o600) as target, tarfile.open(fileobj=target, mode="w:gz") as bundle:
        for name, part in parts.items():
            content = _content(part, hidden)
            about = tarfile.TarInfo(f"everthread-support/{name}")
            about.size, about.mtime, about.mode = len(content), int(time.time()), 0o600
            bundle.addfile(about, io.BytesIO(content))
    return list(parts)


def shown_settings(settings: Settings) -> dict[str, Any]:
    """Return each setting as it may be shown, and the names of the variables that are set."""
    values = {
        name: _shown(name, about.annotation, getattr(settings, name)) for name, about in Settings.model_fields.items()
    }
    for name in ("default_model", "compaction_model", "title_model"):
        if values[name] is not None:
            values[name] = _family(getattr(settings, name))
    prefixes = ("EVERTHREAD_", "DASHSCOPE_", "OTEL_", "PG", "DATABASE_URL", "REDIS_URL")
    return {"values": values, "variables": sorted(name for name in environment() if name.startswith(prefixes))}


def _shown(name: str, annotation: Any, value: Any) -> Any:
    """Return a value that is a number, a flag or one of a few words, a URL's server, or that there is a value."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str) and value in _words(annotation):
        return value
    if isinstance(value, str) and name.endswith("_url"):
        return shown_url(value)
    return SET


def _words(annotation: Any) -> set[Any]:
    """Return the values of the literals in a type."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return set().union(*map(_words, get_args(annotation)))


def shown_url(url: str) -> str:
    """Return a URL's scheme and hosts. Where a character of a password is not quoted, the hosts cannot be told from it:
    only the scheme is returned then."""
    scheme, _, rest = url.partition("://")
    if scheme not in {"http", "https", "redis", "rediss", "valkey", "valkeys", "unix", *_plus(), *connecting.SCHEMES}:
        return SET
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{scheme}://…"
    hosts = parts.netloc.rpartition("@")[2]
    if "@" in rest.removeprefix(parts.netloc) or scheme == "unix" or not _HOSTS.fullmatch(hosts):
        return f"{scheme}://…"
    return f"{scheme}://{hosts}"


def _plus() -> set[str]:
    return {f"{name}+{kind}" for name in ("redis", "rediss", "valkey", "valkeys") for kind in ("sentinel", "cluster")}


def _hidden(settings: Settings) -> set[str]:
    """Return every value that must not be in the bundle."""
    variables = environment()
    found = {variables.get(name, "") for name in SECRETS}
    for name, about in Settings.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            found |= {value.get_secret_value(), *value.get_secret_value().split(",")}
        elif isinstance(value, str) and name.endswith("_url"):
            found |= {value, *_secrets_of(value)}
        elif value is not None and _shown(name, about.annotation, value) == SET and value != about.default:
            found.add(str(value))
    return {each for each in found if len(each) >= SHORTEST_REMOVED}


def _secrets_of(url: str) -> set[str]:
    """Return the user, the password, and the parts of the path and the query of a URL, as written and as meant."""
    user, _, place = url.partition("://")[2].rpartition("@")
    beside_hosts = re.search(r"[/?#].*", place)
    found = set(re.split(r"[@:/?&=#]", user))
    found |= set(re.split(r"[/?&=#]", beside_hosts[0])) if beside_hosts is not None else set()
    return {spelling for each in found - ORDINARY for spelling in (each, unquote(each))}


def _content(part: Any, hidden: Iterable[str]) -> bytes:
    """Return a part as it is written. Its sentences may quote an address: hidden values are removed from them."""
    if isinstance(part, str):
        return without(part, hidden).encode()
    if "error" in part:
        part = {**part, "error": without(part["error"], hidden)}
    return orjson.dumps(part, option=orjson.OPT_INDENT_2)


def without(said: str, hidden: Iterable[str]) -> str:
    """Return a text without some values."""
    for each in sorted(hidden, key=len, reverse=True):
        said = said.replace(each, REMOVED)
    return said


def _versions() -> dict[str, Any]:
    return {
        "everthread": version("everthread"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "c_library": " ".join(platform.libc_ver()),
        "processors": os.cpu_count(),
        "packages": {each.name: each.version for each in sorted(distributions(), key=lambda each: each.name)},
    }


async def examine_database(settings: Settings) -> dict[str, Any]:
    """Return the server's version, the schema's fingerprint, the tables' sizes and the last errors by their codes."""
    url = settings.database_url or embedded_postgres.url_of_running(settings.data_dir / "postgres")
    if url is None:
        return {"error": "No service is running on the data directory, and DATABASE_URL is not set."}
    tables = {"tables": sorted(schema.metadata.tables)}
    try:
        database = configured.connect(settings, url, pool_size=1, timeout_seconds=SECONDS)
    except connecting.BadURL as error:
        return {"error": f"Cannot use DATABASE_URL: {error}."}
    try:
        async with database.session() as session:
            found: dict[str, Any] = {"postgres": await session.scalar(select(func.current_setting("server_version")))}
            connection = await session.connection()
            found["migration"] = await connection.run_sync(schema.current_revision)
            found["newest_migration"] = schema.newest_revision()
            lines: dict[str, list[str]] = {}
            for row in await session.execute(SQL.schema.clause, tables):
                lines.setdefault(row.part, []).append(row.line)
            digests = {part: _digest(each) for part, each in sorted(lines.items())}
            found["fingerprint"] = _digest([f"{part} {digest}" for part, digest in digests.items()])
            found["parts"] = {part: {"fingerprint": digest} for part, digest in digests.items()}
            for row in await session.execute(SQL.sizes.clause, tables):
                found["parts"][row.part] |= {"rows": row.rows, "bytes": row.bytes}
            if "turn_hours" in digests:
                errors = await session.execute(SQL.errors.clause, {"days": DAYS})
                found[f"errors_of_{DAYS}_days"] = [
                    {"code": _code(row.outcome), "turns": row.turns, "last_hour": row.last_hour} for row in errors
                ]
            return found
    except (DatabaseUnavailable, SQLAlchemyError) as error:
        return {"error": connecting.why(error)}
    finally:
        await database.close()


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32]


def _code(word: str) -> str:
    """Return a code that has the form of one. Any other text could come from a client."""
    return word if _CODE.fullmatch(word) else "other"


async def _redis(settings: Settings) -> dict[str, Any]:
    if settings.redis_url is None:
        return {"server": "embedded"}
    try:
        client = connect(settings.redis_url, timeout_seconds=SECONDS)
    except ValueError as error:
        return {"error": f"Cannot use REDIS_URL: {error}."}
    try:
        said = await client.info()
    except (RedisError, RedisClusterException, OSError) as error:
        return {"error": type(error).__name__}
    finally:
        await client.aclose()
    names = ("redis_version", "used_memory", "maxmemory", "maxmemory_policy", "evicted_keys", "connected_clients")
    return {name: said[name] for name in names if name in said}


def _metrics(url: str) -> Any:
    """Return the service's metrics, without labels whose values come from clients."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=SECONDS) as answer:  # noqa: S310
            exposed = answer.read(LARGEST_METRICS).decode()
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(exposed):
            for sample in family.samples:
                if family.name.startswith(("everthread_", "process_")):
                    series = _series(sample.name, sample.labels)
                    sums[series] = sums.get(series, 0) + sample.value
    except (urllib.error.URLError, OSError, ValueError) as error:
        return {
            "error": f"The service's metrics cannot be read ({type(error).__name__}). Is it up, and is --url right?"
        }
    return sums


def _series(name: str, labels: Mapping[str, str]) -> str:
    shown = {
        label: value for label, value in labels.items() if label in SHOWN_LABELS and _CODE.fullmatch(value.lower())
    }
    if "model" in labels:
        shown["model"] = _family(labels["model"])
    said = ",".join(f'{label}="{value}"' for label, value in sorted(shown.items()))
    return f"{name}{{{said}}}" if said else name


def _family(model: str) -> str:
    """Return the known family of a model: its name may be written by a client."""
    name = _models().of(model).name
    return "other" if name.endswith("-") else name or "other"


@cache
def _models() -> Models:
    return Models()

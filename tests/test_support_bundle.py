"""The support bundle holds what helps, and neither a secret nor anything that somebody has said."""

import asyncio
import json
import tarfile
from pathlib import Path
from typing import Any, get_args

import asyncpg
import pytest
from pydantic import SecretStr

from app.commands import support
from app.settings import Settings
from tests.databases import query
from tests.service import Emulator, Process, Service

SAID = "zanzibar"
"""A word that is in everything that a client writes."""

PLANTED = "planted"
"""A word that is in every secret."""


def parts_of(file: Path) -> dict[str, str]:
    with tarfile.open(file) as bundle:
        found = {member.name: bundle.extractfile(member) for member in bundle.getmembers()}
        return {name.rpartition("/")[2]: part.read().decode() for name, part in found.items() if part is not None}


async def test_a_bundle_holds_nothing_that_was_said(
    service: Service, service_env: dict[str, str], database_url: str, emulator: Emulator, tmp_path: Path
) -> None:
    thread = service.thread(name=f"{SAID}-name", title=f"{SAID} title", user=f"{SAID}-user", metadata={SAID: SAID})
    service.turn(thread, f"Echo: {SAID} text", metadata={SAID: SAID}, instructions=f"Say {SAID}.", model="qwen3.5-plus")
    emulator.fault("status", status=400, code="InvalidParameter", message=f"{SAID} is wrong")
    service.http.post(f"/threads/{thread}/turns", json={"input": f"{SAID} fails"})
    service.http.post("/threads", json={SAID: SAID})
    connection = await asyncpg.connect(database_url)
    for outcome in ("provider_timeout", f"{SAID} was said"):
        await connection.execute(
            """
            INSERT INTO turn_hours SELECT project_id, date_trunc('hour', now()), $2, $1, 3, '{}', '{}'
            FROM projects LIMIT 1
            """,
            outcome,
            f"{SAID}-model",
        )
    file = tmp_path / "bundle.tar.gz"
    made = Process("support-bundle", str(file), "--url", service.url, env=service_env)
    code = await asyncio.to_thread(made.ended)
    await connection.execute("DELETE FROM turn_hours WHERE model = $1", f"{SAID}-model")
    await connection.close()
    assert code == 0, made.lines
    assert file.stat().st_mode & 0o777 == 0o600
    parts = parts_of(file)
    assert set(parts) == {
        "versions.json", "settings.json", "database.json", "redis.json", "metrics.json", "doctor.txt",
    }  # fmt: skip
    for name, part in parts.items():
        for word in (SAID, service.key, "sk-tests", thread):
            assert word not in part, name
    # The bundle has the facts that help.
    assert json.loads(parts["versions.json"])["packages"]["asyncpg"]
    database = json.loads(parts["database.json"])
    assert database["migration"] == database["newest_migration"]
    assert len(database["fingerprint"]) == 32
    assert database["parts"]["turns"]["bytes"] > 0
    counted = {each["code"]: each["turns"] for each in database["errors_of_7_days"]}
    assert counted["provider_timeout"] >= 3
    assert counted["other"] >= 3
    metrics = json.loads(parts["metrics.json"])
    assert "error" not in metrics, metrics
    assert metrics['everthread_turns_total{continuation="new",status="completed"}'] >= 1
    assert any(series.startswith("everthread_refused_requests_total{meaning=") for series in metrics)
    assert json.loads(parts["redis.json"])["redis_version"]
    assert parts["doctor.txt"].startswith("settings:")
    values = json.loads(parts["settings.json"])["values"]
    assert values["provider_stall_seconds"] == 2.0
    assert values["default_model"].startswith("qwen")
    assert values["dashscope_api_key"] == "set"


def planted(tmp_path: Path) -> dict[str, str]:
    """A value with a secret for every setting that can hold one."""
    found = {
        "DATABASE_URL": f"postgresql://{PLANTED}u:{PLANTED}%40ss@127.0.0.1:1/{PLANTED}db?application_name={PLANTED}",
        "REDIS_URL": f"redis://{PLANTED}:{PLANTED}-redis@127.0.0.1:1/0",
        "DASHSCOPE_BASE_URL": f"http://127.0.0.1:1/{PLANTED}-path/v1",  # With a user or a query, it is refused.
        "EVERTHREAD_DATABASE_READ_URL": f"postgresql://{PLANTED}:{PLANTED}-read@127.0.0.1:1/x",
        "EVERTHREAD_TRUSTED_PROXIES": "10.98.97.0/24",  # Only networks are accepted.
        "PGPASSWORD": f"{PLANTED}-password",
    }
    for name, about in Settings.model_fields.items():
        variable = str(about.validation_alias or f"EVERTHREAD_{name.upper()}")
        kinds = (about.annotation, *get_args(about.annotation))
        if variable in found:
            continue
        if SecretStr in kinds:
            found[variable] = f"{PLANTED}-{name}-0123456789,{PLANTED}-second"
        elif Path in kinds:
            found[variable] = str(tmp_path / f"{PLANTED}-{name}")
        elif str in kinds:
            found[variable] = f"{PLANTED}-{name}".replace("_", "-")
    return found


def test_a_bundle_holds_no_secret_of_any_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = planted(tmp_path)
    for variable, secret in environment.items():
        monkeypatch.setenv(variable, secret)
    settings = Settings()
    for name in Settings.model_fields:
        # Every setting has one that is not a number, a flag, or one of a few words.
        value: Any = getattr(settings, name)
        said = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        free = not isinstance(value, (bool, int, float, type(None))) and name not in ("session_cache", "log_level")
        assert not free or name == "dashscope_region" or PLANTED in said or said == "10.98.97.0/24", name
    file = tmp_path / "bundle.tar.gz"
    support.write(settings, file, "http://127.0.0.1:1")
    parts = parts_of(file)
    for name, part in parts.items():
        assert PLANTED not in part, name
        assert "10.98.97" not in part, name
    values = json.loads(parts["settings.json"])["values"]
    assert values["database_url"] == "postgresql://127.0.0.1:1"
    assert values["dashscope_base_url"] == "http://127.0.0.1:1"
    assert values["dashscope_region"] == "singapore"
    # Each unavailable server is reported, and the rest is there.
    assert "Cannot reach Postgres" in json.loads(parts["database.json"])["error"]
    assert "error" in json.loads(parts["redis.json"])
    assert "error" in json.loads(parts["metrics.json"])


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:planted/x@db/everthread", "postgresql://ada:planted?x@db/everthread",
        "redis://:planted#x@cache", "postgresql://ada:12/planted@db/x", "planted", "postgresql://[planted",
        "redis+sentinel://u:planted@a:1,b:2/0?service=m", "postgresql://db/everthread?password=planted",
        "unix:///planted", "planted://planted",
    ],
)  # fmt: skip
def test_a_url_is_shown_without_its_password_however_it_is_written(url: str) -> None:
    assert PLANTED not in support.shown_url(url)


def test_the_fingerprint_tells_a_schema_that_was_changed_by_hand(database_url: str, fresh_database_url: str) -> None:
    def fingerprint(url: str) -> tuple[str, dict[str, str]]:
        found = asyncio.run(support.examine_database(Settings.model_validate({"DATABASE_URL": url})))
        return found["fingerprint"], {name: part["fingerprint"] for name, part in found["parts"].items()}

    whole, parts = fingerprint(fresh_database_url)
    assert fingerprint(database_url) == (whole, parts)
    query(fresh_database_url, "CREATE INDEX by_hand ON calls (url)")
    changed, changed_parts = fingerprint(fresh_database_url)
    assert changed != whole
    assert {name for name in parts if parts[name] != changed_parts[name]} == {"calls"}

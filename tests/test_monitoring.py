"""The dashboard and the alert rules of deploy/, asked of a real Prometheus that reads a real service."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.databases import migrated_database
from tests.service import Emulator, Service, eventually, free_port
from tests.tenants import Tenant
from tests.tools import needs, program
from tests.witness import Witness, serving

pytestmark = needs("prometheus")

DEPLOY = Path(__file__).parents[1] / "deploy"
PANELS: list[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "everthread.json").read_text())["panels"]
QUERIES = [(panel["title"], target["expr"], target["legendFormat"]) for panel in PANELS for target in panel["targets"]]


class Prometheus:
    def __init__(self, directory: Path, service: Service) -> None:
        prometheus = program("prometheus")
        assert prometheus is not None
        shutil.copy(DEPLOY / "prometheus" / "everthread.rules.yml", directory)
        said = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
        said = said.replace("everthread:8080", f"127.0.0.1:{service.port}").replace(": 15s", ": 1s")
        (directory / "prometheus.yml").write_text(said)
        port = free_port()
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30)
        self.process = subprocess.Popen(
            [prometheus, f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
        )  # fmt: skip

    def get(self, path: str, **params: str) -> Any:
        said = self.http.get(path, params=params).json()
        assert said["status"] == "success", said
        return said["data"]

    def is_scraping(self, times: int) -> bool:
        try:
            found = self.get("/query", query="count_over_time(everthread_running_turns[5m])")["result"]
        except httpx2.TransportError:
            return False
        return bool(found) and int(found[0]["value"][1]) >= times


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory,
    server_urls: tuple[str, str],
    service_env: dict[str, str],
    running_emulator: Emulator,
) -> Iterator[Prometheus]:
    running_emulator.reset()
    witness = Witness(tmp_path_factory.mktemp("witness"))
    witness.instead = witness.cosign_anything
    served = ExitStack()
    served.enter_context(serving(witness))
    service = Service(
        env={
            **service_env,
            "DATABASE_URL": migrated_database(server_urls[0]),  # It signs all projects of its database.
            "EVERTHREAD_AUDIT_KEY": "22" * 32,
            "EVERTHREAD_ACCOUNTS_INSIDE": "true",
            "EVERTHREAD_AUDIT_WITNESSES": witness.line,
            "EVERTHREAD_AUDIT_CHECKPOINT_SECONDS": "1",
        }
    )
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), service)

    def talk() -> None:
        thread = service.thread()
        service.turn(thread, "Hello")
        service.stream(thread, "Hello")
        running_emulator.forget()
        service.turn(thread, "Hello")
        service.http.post(f"/threads/{thread}/turns", json={"input": 7})
        running_emulator.fault("status", status=500, code="InternalError", message="down", times=3)
        service.http.post(f"/threads/{thread}/turns", json={"input": "Hello"})
        # One whose first account refuses its key.
        tenant = Tenant(service)
        for name, key in (("first", "sk-invalid"), ("second", "sk-second")):
            tenant.account(name, running_emulator.base_url, key)
        tenant.turn(tenant.thread(), "Hello")

    try:
        talk()  # Every series that there is has begun.
        eventually(lambda: prometheus.is_scraping(2), 30)
        talk()
        eventually(lambda: prometheus.is_scraping(6), 30)
        yield prometheus
    finally:
        prometheus.process.kill()
        prometheus.process.wait()
        service.stop()
        served.close()


@pytest.mark.parametrize(("title", "query", "legend"), QUERIES)
def test_every_query_of_the_dashboard_finds_what_its_legend_names(
    prometheus: Prometheus, title: str, query: str, legend: str
) -> None:
    asked = query.replace("$__rate_interval", "1m").replace("$model", ".*").replace("$account", ".*")
    found = prometheus.get("/query", query=asked)["result"]
    assert found, title
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        assert all(label in series["metric"] for series in found), title


def test_every_alert_rule_is_evaluated_over_metrics_that_there_are(prometheus: Prometheus) -> None:
    names = set(prometheus.get("/label/__name__/values"))
    (group,) = prometheus.get("/rules")["groups"]
    assert len(group["rules"]) >= 8
    for rule in group["rules"]:
        assert rule["health"] == "ok", rule
        assert set(re.findall(r"everthread_\w+", rule["query"])) <= names, rule["name"]
        assert rule["state"] in ("inactive", "pending"), rule["name"]


def test_a_provider_that_fails_is_seen_by_the_rule_for_it(prometheus: Prometheus) -> None:
    """Two of eight calls in `talk` are refused three times: more than a tenth."""
    (group,) = prometheus.get("/rules")["groups"]
    (rule,) = [rule for rule in group["rules"] if rule["name"] == "EverthreadProviderFailing"]
    eventually(lambda: bool(prometheus.get("/query", query=rule["query"])["result"]))


def test_every_metric_is_shown_somewhere(prometheus: Prometheus) -> None:
    said = json.dumps(PANELS) + (DEPLOY / "prometheus" / "everthread.rules.yml").read_text()
    ours = {re.sub(r"_(bucket|count|sum|created|total)$", "", name)
            for name in prometheus.get("/label/__name__/values") if name.startswith("everthread_")}  # fmt: skip
    assert {name for name in ours if name not in said} == set()

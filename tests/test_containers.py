"""The image and what runs it, as far as can be tried without a container engine: the Dockerfile's own commands are run
in their order, as its user, in a clean folder, and what its CMD says is started."""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import httpx2
import kubernetes_validate
import pytest
import redis
import yaml
from pydantic import SecretStr

from app import schema
from app.settings import PLACEHOLDERS, SECRETS, Settings, placeholder_left
from tests.postgres_pair import PASSWORD, Pair, run_sql
from tests.redis_server import redis_server
from tests.service import Emulator, eventually, free_port
from tests.test_rolling_upgrade import NEXT

ROOT = Path(__file__).parents[1]
PLACES = ("/opt/everthread", "/var/lib/everthread", "/srv")
KEY = "et_the_key_of_the_tests_0123456789"
NEXT_REVISION = "v021_0001"


class Image:
    """A Dockerfile, done in a folder: its absolute paths are taken into that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.env: dict[str, str] = {}
        self.user = ""
        self.cmd: list[str] = []
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(sys.executable)
        self._path = f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        stages = 0
        for word, rest in self._instructions():
            match word:
                case "FROM":
                    stages += 1
                    self.at = self._in("/srv") / f"stage{stages}"
                    self.at.mkdir(parents=True)
                    self.env = {"PATH": self._path}
                case "COPY":
                    self._copy(shlex.split(rest))
                case "RUN":
                    command = self._taken_in(rest)
                    subprocess.run(["sh", "-c", command], cwd=self.at, env={**_pip(), **self.env}, check=True)
                case "ENV":
                    name, _, value = rest.partition("=")
                    value = self._taken_in(value)
                    self.env[name] = f"{value}:{self._path}" if name == "PATH" else value
                case "USER":
                    self.user = rest
                case "CMD":
                    self.cmd = [self._taken_in(part) for part in json.loads(rest)]
                case "WORKDIR" | "VOLUME" | "EXPOSE" | "HEALTHCHECK":
                    pass
                case _:
                    raise AssertionError(f"{word} is not known to this test")

    def start(self, env: dict[str, str], command: list[str] | None = None) -> "subprocess.Popen[str]":
        uid, gid = self.user.split(":")
        within: list[str] = []
        if os.geteuid() == 0:
            # To read what lies under directories that are closed to others, as no image's are; to write nowhere else.
            right = "+dac_read_search"
            within = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
            within += [f"--{kind}=-all,{right}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
        return subprocess.Popen(
            [*within, *(command or self.cmd)], cwd=self.at, env={**self.env, **env}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def _instructions(self) -> Iterator[tuple[str, str]]:
        text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                word, _, rest = line.partition(" ")
                yield word, rest.strip()

    def _copy(self, words: list[str]) -> None:
        *sources, target = words
        if sources[0].startswith("--from="):
            return  # Both stages are in the one folder.
        for source in sources:
            to = self.at / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, to / source if to.is_dir() else to)

    def _in(self, path: str) -> Path:
        return self._folder / path.lstrip("/")

    def _taken_in(self, text: str) -> str:
        for place in PLACES:
            text = text.replace(place, str(self._in(place)))
        return text


def _pip() -> dict[str, str]:
    """Return this machine's pip settings, as for any other install here."""
    return {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "HOME", "SSL_", "REQUESTS_"))}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    for place in PLACES:
        (folder / place.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    yield Image(folder)
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Deployed:
    """Commands of a deployment file, their environment, and the time to stop."""

    migrate: list[str]
    serve: list[str] | None
    """None for the image's own."""
    env: dict[str, str]
    grace_seconds: float
    redis: list[str] = field(default_factory=list)
    """Options of its Redis, where it has one."""


GIVEN = {
    "DASHSCOPE_API_KEY": "sk-tests",
    "EVERTHREAD_BOOTSTRAP_KEY": KEY,
    "EVERTHREAD_AUDIT_KEY": "66" * 32,
    "EVERTHREAD_MASTER_KEY": "77" * 32,
    "POSTGRES_PASSWORD": PASSWORD,
}
"""Values that a user puts into .env, or into the Secret."""


def composed(name: str, app: str, **given: str) -> Deployed:
    """The commands of a compose file. A variable without a default must be given."""

    def value(match: re.Match[str]) -> str:
        variable, kind, default = match.groups()
        found = given.get(variable, "")
        assert found or kind == "-", f"{variable} must be given"
        return found or default

    text = re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", value, (ROOT / name).read_text())
    services = yaml.safe_load(text)["services"]
    return Deployed(
        services["migrate"]["command"],
        services[app].get("command"),
        {name: "" if each is None else str(each) for name, each in services[app]["environment"].items()},
        float(services[app]["stop_grace_period"].removesuffix("s")),
        services["redis"]["command"][1:],
    )


def on_kubernetes() -> Deployed:
    found = {
        each["kind"]: each for each in kustomized(ROOT / "deploy") if each["metadata"]["name"] != "everthread-pods"
    }
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    pause = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    return Deployed(
        found["Job"]["spec"]["template"]["spec"]["containers"][0]["command"],
        pod["containers"][0].get("command"),
        {**found["ConfigMap"]["data"], **found["Secret"]["stringData"], **GIVEN, "PGPASSWORD": PASSWORD},
        pod["terminationGracePeriodSeconds"] - pause,
    )


DEPLOYED = {
    # Without the keys of the last two lines of .env: they are made once, in the volume.
    "compose": lambda: composed(
        "docker-compose.yml", "app", **{**GIVEN, "EVERTHREAD_AUDIT_KEY": "", "EVERTHREAD_MASTER_KEY": ""}
    ),
    "citus": lambda: composed("docker-compose.citus.yml", "everthread", **GIVEN),
    "kubernetes": on_kubernetes,
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A Postgres that is reached as that of a deployment is: over TCP, with a password."""
    pair = Pair(tmp_path_factory.mktemp("postgres"))
    pair.stop_standby()
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def older(pair: Pair, image: Image) -> str:
    """The name of a database at the newest migration of this checkout. The image gets one more."""
    run_sql(pair.url("postgres", hosts=_primary(pair)), "CREATE DATABASE older")
    asyncio.run(schema.migrate(pair.url("older", hosts=_primary(pair))))
    next_one = NEXT.format(before=schema.newest_revision(), serves=True)
    (image.at / "migrations" / "versions" / f"{NEXT_REVISION}_mood.py").write_text(next_one)
    return "older"


def _primary(pair: Pair) -> str:
    return f"127.0.0.1:{pair.ports[0]}"


@pytest.mark.long
@pytest.mark.parametrize("name", DEPLOYED)
def test_the_commands_of_a_deployment_file_migrate_serve_and_stop(
    name: str, image: Image, pair: Pair, older: str, tmp_path: Path, emulator: Emulator
) -> None:
    deployed, port, redis_port = DEPLOYED[name](), free_port(), free_port()
    empty, upgraded = f"{name}_empty", f"{name}_upgraded"
    run_sql(
        pair.url("postgres", hosts=_primary(pair)),
        f"CREATE DATABASE {empty}",
        f"CREATE DATABASE {upgraded} TEMPLATE {older}",
    )
    data = Path(image.env["EVERTHREAD_DATA_DIR"])
    for path in data.iterdir():  # A new volume.
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert deployed.env["REDIS_URL"] == "redis://redis:6379/0"
    env = {
        **deployed.env, "PGPASSWORD": PASSWORD, "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0", "PORT": str(port),
        "DASHSCOPE_BASE_URL": emulator.base_url,
    }  # fmt: skip

    def at(database: str) -> dict[str, str]:
        parts = urlsplit(deployed.env["DATABASE_URL"])
        assert parts.path == "/everthread"
        return {
            **env,
            "DATABASE_URL": parts._replace(netloc=f"postgres@{_primary(pair)}", path=f"/{database}").geturl(),
        }

    with redis_server(tmp_path / "redis", redis_port, *deployed.redis):
        migrations = [image.start(at(database), deployed.migrate) for database in (empty, upgraded)]
        for migration in migrations:
            said = migration.communicate(timeout=120)[0]
            assert f"The database is at migration {NEXT_REVISION}" in said, said
        before = {path for path in image.at.rglob("*") if path.is_file()}
        process = image.start(at(upgraded), deployed.serve)
        eventually(lambda: _ready(port) or process.poll() is not None, seconds=60)
        assert process.poll() is None, process.communicate()[0]
        if deployed.redis:
            assert redis.Redis(port=redis_port).config_get("maxmemory-policy") == {"maxmemory-policy": "volatile-lru"}
        http = httpx2.Client(base_url=f"http://127.0.0.1:{port}/v1", headers={"Authorization": f"Bearer {KEY}"})
        thread = http.post("/threads", json={}).json()["id"]
        http.post(f"/threads/{thread}/turns", json={"input": "My name is Ada."})
        answer = http.post(f"/threads/{thread}/turns", json={"input": "What is my name?"})
        assert answer.json()["output_text"] == "Ada"
        # A turn that runs when the service is stopped has its time.
        emulator.fault("slow", seconds_per_event=0.05)
        asked = {"input": "Echo: the last words before the stop", "background": True}
        assert http.post(f"/threads/{thread}/turns", json=asked).status_code in (200, 202)
        emulator.is_asked(3)
        process.terminate()
        output, _ = process.communicate(timeout=deployed.grace_seconds)
        assert process.returncode == 0, output
    ended = "SELECT status, count(*) AS turns FROM turns GROUP BY status"
    assert [tuple(row) for row in run_sql(pair.url(upgraded, hosts=_primary(pair)), ended)] == [("completed", 3)]
    # Nothing is written beside the code: the root may be read-only.
    assert {path for path in image.at.rglob("*") if path.is_file()} == before
    made = {path.name for path in data.iterdir()} & {"audit.key", "master.key"}
    assert made == ({"audit.key", "master.key"} if name == "compose" else set())
    for path in data.iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert os.geteuid() != 0 or path.stat().st_uid == 10001


@pytest.mark.long
def test_the_secret_of_the_manifests_is_refused_until_each_value_is_set(image: Image) -> None:
    (secret,) = [each["stringData"] for each in kustomized(ROOT / "deploy") if each["kind"] == "Secret"]
    left = [name for name in secret if placeholder_left({name: secret[name]}) is not None]
    # The addresses name services of the cluster, and may be right as they stand.
    assert set(secret) - set(left) == {"DATABASE_URL", "REDIS_URL"}
    for name in left:
        sentence = placeholder_left({**secret, **{each: "set" for each in left if each != name}})
        assert sentence is not None
        assert sentence.startswith(f"{name} is still the placeholder of a deployment file. Set it to ")
    for command in (["python", "-m", "app.cli", "migrate"], None):
        output, _ = (process := image.start(secret, command)).communicate(timeout=60)
        assert process.returncode == 1
        assert output.count("\n") == 1
        assert "is still the placeholder of a deployment file" in output


def test_every_secret_setting_is_checked_for_placeholders() -> None:
    for name, about in Settings.model_fields.items():
        if SecretStr in (about.annotation, *get_args(about.annotation)):
            assert str(about.validation_alias or f"EVERTHREAD_{name.upper()}") in SECRETS
    assert placeholder_left({"DASHSCOPE_API_KEY": "sk-…"}) is not None  # As the README has it.
    assert placeholder_left(GIVEN) is None
    for name in ("docker-compose.yml", "docker-compose.citus.yml"):
        assert not any(word in "".join(re.findall(r":-([^}]+)", (ROOT / name).read_text())) for word in PLACEHOLDERS)


@pytest.mark.long
def test_without_a_database_the_image_says_so(image: Image) -> None:
    process = image.start({"DASHSCOPE_API_KEY": "sk-tests"})
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "The embedded Postgres is not installed here: set DATABASE_URL." in output
    assert "Traceback" not in output


def _ready(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((ROOT / name).read_text()))


def test_compose_migrates_first_and_keeps_what_must_be_kept() -> None:
    (compose,) = documents("docker-compose.yml")
    app, migrate, postgres = (compose["services"][name] for name in ("app", "migrate", "postgres"))
    assert app["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert app["volumes"] == ["everthread:/var/lib/everthread"]
    assert app["read_only"]
    assert migrate["depends_on"]["postgres"] == {"condition": "service_healthy"}
    # The server that initialises the directory listens on its socket alone.
    assert "-h" in postgres["healthcheck"]["test"]
    # A password with any characters: it is in no URL.
    assert "PASSWORD" not in app["environment"]["DATABASE_URL"]
    assert "maxmemory" in " ".join(compose["services"]["redis"]["command"])
    assert set(compose["volumes"]) == {"everthread", "postgres", "redis"}
    assert app["stop_grace_period"] == "75s"
    for name in (
        "EVERTHREAD_AUDIT_KEY",
        "EVERTHREAD_MASTER_KEY",
        "EVERTHREAD_BOOTSTRAP_KEY",
        "DASHSCOPE_API_KEY",
        "WORKERS",
    ):
        assert name in app["environment"]


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.citus.yml"])
def test_postgres_18_images_have_their_volume_where_they_keep_their_data(name: str) -> None:
    (compose,) = documents(name)
    servers = [each for each in compose["services"].values() if each.get("image", "").startswith(("postgres", "citus"))]
    volumes = [volume.split(":") for each in servers for volume in each.get("volumes", ())]
    assert volumes
    # Under …/data, where older images have it, those of 18 refuse to start.
    assert {place for _, place in volumes} == {"/var/lib/postgresql"}
    assert {volume for volume, _ in volumes} <= set(compose["volumes"])


def test_compose_for_citus_migrates_once_the_cluster_is_joined() -> None:
    (compose,) = documents("docker-compose.citus.yml")
    app, migrate = compose["services"]["everthread"], compose["services"]["migrate"]
    assert app["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert migrate["depends_on"]["cluster"] == {"condition": "service_completed_successfully"}
    assert app["environment"] == migrate["environment"]
    assert app["volumes"] == ["everthread:/var/lib/everthread"]
    assert app["read_only"]


def kustomized(directory: Path) -> list[Any]:
    """Return the output of `kubectl kustomize` for a directory, as far as those of deploy/ need it."""
    (kustomization,) = yaml.safe_load_all((directory / "kustomization.yaml").read_text())
    known = {"apiVersion", "kind", "resources", "nameSuffix", "images"}
    assert set(kustomization) <= known
    found: list[Any] = []
    for each in kustomization["resources"]:
        path = directory / each
        found += kustomized(path) if path.is_dir() else yaml.safe_load_all(path.read_text())
    for each in found:
        each["metadata"]["name"] += kustomization.get("nameSuffix", "")
        for container in each["spec"]["template"]["spec"]["containers"] if "template" in each.get("spec", {}) else ():
            for image in kustomization.get("images", ()):
                if container["image"].partition(":")[0] == image["name"]:
                    container["image"] = f"{image['name']}:{image['newTag']}"
    return found


def test_kustomize_itself_makes_the_same_where_it_is_installed() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return
    made = subprocess.run([kubectl, "kustomize", ROOT / "deploy"], capture_output=True, text=True, check=True).stdout

    def in_order(found: list[Any]) -> list[Any]:
        return sorted(found, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert in_order(list(yaml.safe_load_all(made))) == in_order(kustomized(ROOT / "deploy"))


def test_the_kubernetes_manifests_fit_its_schemas_and_each_other() -> None:
    found = kustomized(ROOT / "deploy")
    for each in found:
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    by_kind = {each["kind"]: each for each in found if each["metadata"]["name"] != "everthread-pods"}
    assert set(by_kind) == {
        "Secret", "ConfigMap", "Job", "StatefulSet", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler",
    }  # fmt: skip
    pods = by_kind["StatefulSet"]["spec"]
    pod = pods["template"]
    assert pod["metadata"]["labels"] == by_kind["Service"]["spec"]["selector"]
    assert pod["metadata"]["labels"] == by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    # The autoscaler alone says how many pods there are.
    scaled = by_kind["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert scaled == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "everthread"}
    assert "replicas" not in pods
    # Each pod has a volume of its own, which outlives it.
    container = pod["spec"]["containers"][0]
    assert {"name": "data", "mountPath": "/var/lib/everthread"} in container["volumeMounts"]
    assert [claim["metadata"]["name"] for claim in pods["volumeClaimTemplates"]] == ["data"]
    assert "data" not in [volume["name"] for volume in pod["spec"]["volumes"]]
    assert set(pods["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    headless = [each for each in found if each["kind"] == "Service" and each["metadata"]["name"] == pods["serviceName"]]
    assert [each["spec"]["clusterIP"] for each in headless] == ["None"]
    # A Job cannot be changed: each release has its own.
    release = version("everthread")
    job = by_kind["Job"]
    assert job["metadata"]["name"] == f"everthread-migrate-{release.replace('.', '-')}"
    for each in (job["spec"]["template"], pod):
        assert [one["image"] for one in each["spec"]["containers"]] == [f"everthread:{release}"]
    user = f"{pod['spec']['securityContext']['runAsUser']}:10001"
    assert f"USER {user}" in (ROOT / "Dockerfile").read_text().splitlines()
    drain = float(by_kind["ConfigMap"]["data"]["EVERTHREAD_DRAIN_SECONDS"])
    assert pod["spec"]["terminationGracePeriodSeconds"] > 2 * drain

"""The image and what runs it, as far as can be tried without a container engine: the Dockerfile's own commands are run
in their order, as its user, in a clean folder, and what its CMD says is started."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import kubernetes_validate
import pytest
import redis
import yaml

from tests.postgres_pair import Pair
from tests.redis_server import redis_server
from tests.service import Emulator, eventually, free_port

ROOT = Path(__file__).parents[1]
PLACES = ("/opt/everthread", "/var/lib/everthread", "/srv")
KEY = "et_the_key_of_the_tests_0123456789"


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
    """What pip is told on this machine, as for any other install here."""
    return {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "HOME", "SSL_", "REQUESTS_"))}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    for place in PLACES:
        (folder / place.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    yield Image(folder)
    shutil.rmtree(folder)


def test_what_the_image_starts_serves_as_a_user_without_rights(
    image: Image, tmp_path: Path, emulator: Emulator
) -> None:
    pair = Pair(tmp_path)
    primary = pair.url(hosts=f"127.0.0.1:{pair.ports[0]}")
    port, redis_port = free_port(), free_port()
    env = {
        "DATABASE_URL": primary, "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0", "DASHSCOPE_API_KEY": "sk-tests",
        "DASHSCOPE_BASE_URL": emulator.base_url, "EVERTHREAD_BOOTSTRAP_KEY": KEY, "WORKERS": "2", "PORT": str(port),
    }  # fmt: skip
    with redis_server(tmp_path / "redis", redis_port):
        eventually(redis.Redis(port=redis_port).ping)
        migrated = image.start(env, ["python", "-m", "app.cli", "migrate"])
        assert "The database is at migration" in migrated.communicate(timeout=60)[0]
        before = {path for path in image.at.rglob("*") if path.is_file()}
        process = image.start(env)
        eventually(lambda: _ready(port), seconds=60)
        http = httpx2.Client(base_url=f"http://127.0.0.1:{port}/v1", headers={"Authorization": f"Bearer {KEY}"})
        thread = http.post("/threads", json={}).json()["id"]
        http.post(f"/threads/{thread}/turns", json={"input": "My name is Ada."})
        answer = http.post(f"/threads/{thread}/turns", json={"input": "What is my name?"})
        assert answer.json()["output_text"] == "Ada"
        process.terminate()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    # Nothing is written beside the code: the root may be read-only.
    assert {path for path in image.at.rglob("*") if path.is_file()} == before
    data = Path(image.env["EVERTHREAD_DATA_DIR"])
    assert (data / "audit.key").stat().st_mode & 0o777 == 0o600
    if os.geteuid() == 0:
        assert (data / "audit.key").stat().st_uid == 10001
    pair.close()


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
    for name in (
        "EVERTHREAD_AUDIT_KEY",
        "EVERTHREAD_MASTER_KEY",
        "EVERTHREAD_BOOTSTRAP_KEY",
        "DASHSCOPE_API_KEY",
        "WORKERS",
    ):
        assert name in app["environment"]


def test_the_kubernetes_manifests_fit_its_schemas_and_each_other(image: Image) -> None:
    found = documents("deploy/kubernetes.yaml")
    for each in found:
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    by_kind = {each["kind"]: each for each in found}
    assert set(by_kind) == {
        "Secret", "ConfigMap", "Job", "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler",
    }  # fmt: skip
    pod = by_kind["Deployment"]["spec"]["template"]
    assert pod["metadata"]["labels"] == by_kind["Service"]["spec"]["selector"]
    assert pod["metadata"]["labels"] == by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    container = pod["spec"]["containers"][0]
    assert {"name": "data", "mountPath": "/var/lib/everthread"} in container["volumeMounts"]
    assert f"{pod['spec']['securityContext']['runAsUser']}:10001" == image.user
    drain = float(by_kind["ConfigMap"]["data"]["EVERTHREAD_DRAIN_SECONDS"])
    assert pod["spec"]["terminationGracePeriodSeconds"] > 2 * drain

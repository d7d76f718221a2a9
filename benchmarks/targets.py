"""Compared servers: each passes turns on to the provider, is started for the run and stopped after it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from app.embedded import postgres as embedded_postgres
from app.embedded import redis as embedded_redis
from benchmarks.processes import Tree, answers, free_port, listens, running

KEY = "et_the_key_of_the_benchmarks_0123456789"
MODEL = "qwen3.5-plus"
PEERS = Path(__file__).parent / "peers"

AIOHTTP_PACKAGES = ("aiohttp", "uvloop")
HTTPX_PACKAGES = ("starlette", "httpx", "uvicorn", "uvloop", "httptools")
LITELLM_PACKAGES = ("litellm[proxy]",)
OGX_PACKAGES = ("ogx", "faiss-cpu", "aiosqlite", "sqlalchemy[asyncio]", "tiktoken", "chardet", "pypdf")
LANGGRAPH_PACKAGES = ("langgraph-cli[inmem]", "httpx")

Api = Literal["responses", "threads", "runs"]
"""API of a turn: `/v1/responses`; a thread of Everthread's; a run of a thread of LangGraph's."""


@dataclass(slots=True)
class Target:
    name: str
    url: str
    """Base URL, without `/v1`."""
    service: Tree
    """The processes whose CPU is the target's own."""
    stores: Tree | None = None
    """Its database and cache, if it has any."""
    api: Api = "responses"
    model: str = MODEL
    streams: bool = True
    """True if its streams are the provider's events."""


class Skipped(Exception):
    """Why a peer is not in the run."""


@contextmanager
def stub(work: Path) -> Iterator[tuple[str, Tree]]:
    """The provider's stand-in, and its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.stub", str(port)]
    with running(command, ready=listens(port), log=work / "stub.log") as tree:
        yield f"http://127.0.0.1:{port}", tree


@contextmanager
def servers(work: Path) -> Iterator[tuple[str, str, Tree]]:
    """A Postgres and a Redis of the run's own."""
    with ExitStack() as stack:
        database_url = stack.enter_context(embedded_postgres.running(work / "postgres"))
        redis_url = stack.enter_context(embedded_redis.running(work / "redis"))
        yield database_url, redis_url, _Stores(work)


class _Stores(Tree):
    """The Postgres and Redis whose data is in a directory, with their processes."""

    def __init__(self, place: Path) -> None:
        self._place = str(place)

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            name, command = process.info["name"] or "", process.info["cmdline"] or []
            if name.startswith(("postgres", "redis-server")) and any(self._place in part for part in command):
                found += [process, *process.children(recursive=True)]
        return found


@contextmanager
def everthread(
    work: Path,
    upstream: str,
    database_url: str,
    redis_url: str,
    *,
    workers: int = 1,
    env: dict[str, str] | None = None,
) -> Iterator[tuple[str, Tree]]:
    """The service, on servers that are running. Gives its URL and its processes."""
    port = free_port()
    env = {
        **(env or {}),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DASHSCOPE_API_KEY": "sk-benchmark",
        "DASHSCOPE_BASE_URL": f"{upstream}/compatible-mode/v1",
        "EVERTHREAD_BOOTSTRAP_KEY": KEY,
        "EVERTHREAD_DATA_DIR": str(work / "everthread"),
    }
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--workers", str(workers)]
    url = f"http://127.0.0.1:{port}"
    with running(command, env=env, ready=answers(f"{url}/readyz"), log=work / "everthread.log") as tree:
        yield url, tree


@contextmanager
def passthrough_aiohttp(work: Path, upstream: str, venvs: Path) -> Iterator[tuple[str, Tree]]:
    with _passthrough("passthrough_aiohttp", AIOHTTP_PACKAGES, work, upstream, venvs) as started:
        yield started


@contextmanager
def passthrough_httpx(work: Path, upstream: str, venvs: Path) -> Iterator[tuple[str, Tree]]:
    with _passthrough("passthrough_httpx", HTTPX_PACKAGES, work, upstream, venvs) as started:
        yield started


@contextmanager
def _passthrough(
    name: str, packages: tuple[str, ...], work: Path, upstream: str, venvs: Path
) -> Iterator[tuple[str, Tree]]:
    python = venv(venvs / name, packages)
    port = free_port()
    command = [str(python), str(PEERS / f"{name}.py"), str(port), f"{upstream}/compatible-mode/v1"]
    url = f"http://127.0.0.1:{port}"
    with running(command, ready=answers(f"{url}/ready"), log=work / f"{name}.log") as tree:
        yield url, tree


LITELLM_CONFIG = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "{upstream}/v1", api_key: sk-benchmark}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false, drop_params: true}}
"""


@contextmanager
def litellm(work: Path, upstream: str, venvs: Path) -> Iterator[tuple[str, Tree]]:
    python = venv(venvs / "litellm", LITELLM_PACKAGES)
    port = free_port()
    config = work / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(model=MODEL, upstream=upstream, key=KEY))
    command = [str(python.parent / "litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    url = f"http://127.0.0.1:{port}"
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1", "LITELLM_LOG": "ERROR"}
    ready = answers(f"{url}/health/liveliness")
    with running(command, env=env, ready=ready, log=work / "litellm.log") as tree:
        yield url, tree


OGX_MODEL = f"stub/{MODEL}"


@contextmanager
def ogx(work: Path, upstream: str, venvs: Path) -> Iterator[tuple[str, Tree]]:
    """It asks its provider for chat completions, and keeps responses in SQLite, as its own starter does."""
    python = venv(venvs / "ogx", OGX_PACKAGES, at_least=(3, 12))
    port = free_port()
    place = work / "ogx"
    place.mkdir()
    env = {
        "UPSTREAM": f"{upstream}/v1",
        "PLACE": str(place),
        # Its vocabulary would be loaded from the network. LiteLLM's package has the same file.
        "TIKTOKEN_CACHE_DIR": str(_package(venv(venvs / "litellm", LITELLM_PACKAGES), "litellm") / TOKENIZERS),
        "OGX_LOGGING": "all=error",
    }
    command = [str(python.parent / "ogx"), "run", str(PEERS / "ogx.yaml"), "--port", str(port), "--insecure"]
    url = f"http://127.0.0.1:{port}"
    with running(command, env=env, cwd=place, ready=answers(f"{url}/v1/models"), log=work / "ogx.log") as tree:
        yield url, tree


TOKENIZERS = "litellm_core_utils/tokenizers"


def _package(python: Path, name: str) -> Path:
    """The directory of a package that a Python has installed."""
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}).submodule_search_locations[0])"
    found = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return Path(found.stdout.strip())


@contextmanager
def langgraph(work: Path, upstream: str, venvs: Path) -> Iterator[tuple[str, Tree]]:
    """Its development server, which keeps threads in memory: the one with a database needs a licence and Docker."""
    python = venv(venvs / "langgraph", LANGGRAPH_PACKAGES)
    port = free_port()
    place = work / "langgraph"
    place.mkdir()
    shutil.copy(PEERS / "langgraph_agent.py", place / "agent.py")
    config = {"dependencies": ["."], "graphs": {"agent": "./agent.py:graph"}}
    (place / "langgraph.json").write_text(json.dumps(config))
    command = [str(python.parent / "langgraph"), "dev", "--no-browser", "--no-reload", "--port", str(port)]
    command += ["--n-jobs-per-worker", "64"]
    env = {"UPSTREAM": f"{upstream}/compatible-mode/v1", "LOG_LEVEL": "error", "LANGSMITH_TRACING": "false"}
    url = f"http://127.0.0.1:{port}"
    with running(command, env=env, cwd=place, ready=answers(f"{url}/ok"), log=work / "langgraph.log") as tree:
        yield url, tree


def venv(path: Path, packages: tuple[str, ...], *, at_least: tuple[int, int] = (3, 11)) -> Path:
    """The Python of a virtual environment with these packages, made if it is not there.

    Raises:
        Skipped: they cannot be installed here.
    """
    python = path / "bin" / "python"
    if not (path / "ready").exists():
        subprocess.run([_interpreter(at_least), "-m", "venv", "--clear", str(path)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        installed = subprocess.run(pip, capture_output=True, text=True, check=False)
        if installed.returncode != 0:
            raise Skipped(f"pip could not install {' '.join(packages)}: {installed.stderr.strip()[-300:]}")
        (path / "ready").touch()
    return python


def _interpreter(at_least: tuple[int, int]) -> str:
    """This Python, or the newest one on the PATH where this one is too old."""
    if sys.version_info[:2] >= at_least:
        return sys.executable
    for minor in range(14, at_least[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    raise Skipped(f"it needs Python {at_least[0]}.{at_least[1]}, which is not installed here")

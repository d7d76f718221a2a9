"""Client libraries, unchanged except for base URL and key: a turn with a tool, and one a month later.

Slow, for each is installed: `make clients` runs them. Those that are there anyway are in tests/test_real_clients.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.service import Emulator, Service
from tests.tools import installed, needs

HERE = Path(__file__).parent / "others"

pytestmark = [pytest.mark.clients, needs("npm")]

PYTHON = {"pydantic_ai": "openai3", "instructor": "openai3", "litellm": "openai3", "llama_index": "openai2"}
"""Each client, and the lock of the environment that it runs in: two need different versions of the same package."""

CODEX = """
model = "qwen3.5-plus"
model_provider = "everthread"
[model_providers.everthread]
name = "Everthread"
base_url = "{url}/v1"
env_key = "EVERTHREAD_KEY"
wire_api = "responses"
"""


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    said = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip
    assert said.returncode == 0, f"{said.stdout}\n{said.stderr}"
    return said.stdout


@pytest.fixture(scope="session")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The interpreter of each environment."""
    made: dict[str, Path] = {}
    for name in sorted(set(PYTHON.values())):
        folder = tmp_path_factory.mktemp(name)
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        made[name] = folder / "venv" / "bin" / "python"
        lock = HERE / f"{name}.lock"
        run(made[name], "-m", "pip", "install", "--quiet", "--require-hashes", "-r", lock, cwd=folder)
    return made


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory in which the scripts in JavaScript find their packages."""
    return installed(HERE, tmp_path_factory.mktemp("others"))


def talk(service: Service, emulator: Emulator, cwd: Path, *command: str | Path) -> None:
    """Two turns, a month apart: with a tool, and without the provider's help."""
    env = {
        "EVERTHREAD_URL": service.url,
        "EVERTHREAD_KEY": service.key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # It would ask for prices else.
    }
    first: dict[str, Any] = json.loads(run(*command, cwd=cwd, **env).splitlines()[-1])
    assert first["text"] == "The tool answered: sunny"
    emulator.advance(days=30)
    second = json.loads(run(*command, first["id"], cwd=cwd, **env).splitlines()[-1])
    assert second["text"] == "Ada"


@pytest.mark.parametrize("client", PYTHON)
def test_a_client_in_python_uses_a_tool_and_goes_on_a_month_later(
    service: Service, emulator: Emulator, pythons: dict[str, Path], tmp_path: Path, client: str
) -> None:
    talk(service, emulator, tmp_path, pythons[PYTHON[client]], HERE / f"use_{client}.py")


def test_instructor_in_its_default_mode_has_an_answer_in_a_shape(
    service: Service, emulator: Emulator, pythons: dict[str, Path], tmp_path: Path
) -> None:
    env = {"EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key}
    script = HERE / "use_instructor_chat.py"
    assert run(pythons[PYTHON["instructor"]], script, cwd=tmp_path, **env).strip()


@pytest.mark.parametrize("client", ["agents", "langchain"])
def test_a_client_in_javascript_uses_a_tool_and_goes_on_a_month_later(
    service: Service, emulator: Emulator, scripts: Path, client: str
) -> None:
    talk(service, emulator, scripts, "node", f"use_{client}.mjs")


def test_codex_goes_on_with_its_session_a_month_later(
    service: Service, emulator: Emulator, scripts: Path, tmp_path: Path
) -> None:
    home = tmp_path / "codex"
    home.mkdir()
    (home / "config.toml").write_text(CODEX.format(url=service.url))
    codex = scripts / "node_modules" / ".bin" / "codex"
    how = {"CODEX_HOME": str(home), "EVERTHREAD_KEY": service.key}
    run(codex, "exec", "--skip-git-repo-check", "--json", "My name is Ada.", cwd=tmp_path, **how)
    emulator.advance(days=30)
    again = ("exec", "resume", "--last", "--skip-git-repo-check", "--json", "What is my name?")
    events = [json.loads(line) for line in run(codex, *again, cwd=tmp_path, **how).splitlines() if line[:1] == "{"]
    said = [event["item"]["text"] for event in events if event.get("item", {}).get("type") == "agent_message"]
    assert said == ["Ada"]

"""Clients that others' generators make of the OpenAPI document compile, and hold a conversation."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.service import Service
from tests.tools import installed, needs

HERE = Path(__file__).parent / "generated"

HELD = {"text": "Ada", "turns": 2, "code": "thread_not_found"}


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    return ran(*command, cwd=cwd, **env).stdout


def ran(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended


def document(service: Service, folder: Path) -> Path:
    path = folder / "openapi.json"
    path.write_bytes(httpx2.get(f"{service.url}/openapi.json").content)
    return path


def said(service: Service, folder: Path, *command: str | Path) -> Any:
    project: str = service.http.get("/project").json()["id"]
    env = {"EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key, "EVERTHREAD_PROJECT": project}
    return json.loads(run(*command, cwd=folder, **env))


@pytest.mark.long
@needs("npm")
def test_a_client_in_typescript_compiles_and_holds_a_conversation(service: Service, tmp_path: Path) -> None:
    folder = installed(HERE, tmp_path)
    tools = folder / "node_modules" / ".bin"
    run(tools / "openapi-typescript", document(service, folder), "-o", folder / "api.d.ts", cwd=folder)
    run(tools / "tsc", "--strict", "--target", "es2022", "--module", "nodenext", "talk.ts", cwd=folder)
    assert said(service, folder, "node", "talk.js") == HELD


@pytest.mark.long
def test_a_client_in_python_compiles_and_holds_a_conversation(service: Service, tmp_path: Path) -> None:
    # In an environment of its own: it needs an older typer than ours.
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    lock = HERE / "requirements.lock"
    run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", lock, cwd=tmp_path)
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    # It does not know lines of JSON, and is told to take them as text.
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"content_type_overrides": {"application/x-ndjson": "text/plain"}}))
    generate = (python.parent / "openapi-python-client", "generate", "--config", config)
    told = ran(
        *generate, "--path", document(service, tmp_path), "--output-path", tmp_path / "client", cwd=tmp_path, PATH=path
    )
    # It warns on stderr of what it leaves out, and ends with 0 all the same.
    assert "warning" not in f"{told.stdout}{told.stderr}".lower(), told.stderr
    shutil.copy(HERE / "talk.py", tmp_path / "client")
    assert said(service, tmp_path / "client", python, "talk.py") == HELD

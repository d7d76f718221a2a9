"""Every code block of README and docs does what it says. Only addresses and placeholders are filled in."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.provider.models import Models
from tests import forkserver
from tests.databases import migrated_database, new_database
from tests.service import KEY, Emulator, Process, Service, eventually
from tests.test_backup import AUDIT_KEY, PROGRAMS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN_HERE = {
    "make serve": "what runs here is what it starts; tests/test_serve.py has its forms",
    "make test": "this is it",
    "docker compose": "there is no container engine; tests/test_containers.py runs what the image starts",
    "pip wheel": "tests/test_wheel.py builds, installs and runs the wheel",
    "pip install dist": "the same",
    "uvx --from dist": "the same",
    "kubectl": "there is no cluster; tests/test_containers.py runs what the manifests start",
    "everthread demo": "it moves the emulator's clock, which is other tests' too: tests/test_console.py",
    "everthread provider check": "it needs a real key: tests/test_provider_check.py runs it against the emulator",
    "everthread projects destroy-key": "it asks, and changes the master key: tests/test_encryption.py does it",
    "everthread master-key check": "the copy is the reader's: tests/test_encryption.py tries one",
    "everthread serve --host 0.0.0.0": "tests/test_containers.py starts it",
    "python3 examples/one-page/server.py": "tests/test_examples.py starts it",
    "cd examples/react": "tests/test_examples.py builds and starts it",
    "npm start": "the same",
    "everthread serve": "tests/test_telemetry.py starts it so",
    'psql "$COORDINATOR"': "by hand, with a Citus built outside this repository: docs/scaling.md",
    'DATABASE_URL="$COORDINATOR"': "the same",
}
"""Commands that are not run, by their beginning without settings, with the reason."""

ANOTHER_KEY = "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"


@dataclass(frozen=True)
class Block:
    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        text = document.read_text()
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield Block(document, text.count("\n", 0, found.start()) + 1, found[1], found[2])


BLOCKS = list(blocks())


@dataclass(frozen=True)
class World:
    """A service that has been spoken with, and a folder with the files that the documents name."""

    service: Service
    folder: Path
    env: dict[str, str]
    placeholders: dict[str, str]

    def filled_in(self, text: str) -> str:
        for placeholder, value in self.placeholders.items():
            text = text.replace(placeholder, value)
        return text


@pytest.fixture(scope="module")
def world(
    server_urls: tuple[str, str],
    service_env: dict[str, str],
    running_emulator: Emulator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """As the reader has it who has come to a block: a service, and the documents' own names for things."""
    running_emulator.reset()
    folder = tmp_path_factory.mktemp("reader")
    (folder / "bin").mkdir()
    forkserver.program(folder / "bin")
    urls = [migrated_database(server_urls[0]), new_database(server_urls[0])]
    keys = {"EVERTHREAD_AUDIT_KEY": AUDIT_KEY, "EVERTHREAD_MASTER_KEY": "77" * 32}
    env = {**service_env, "DATABASE_URL": urls[0], **keys}
    service = Service(env=env)
    thread = service.thread(name="customer-1")
    service.turn(thread, "Hello")
    public = Process("audit", "public-key", env=env)
    assert public.ended() == 0
    there = {**env, "EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": KEY, "EMPTY_DATABASE_URL": urls[1]}
    # What an earlier block of the same page has made.
    assert Process("audit", "export", str(folder / "trail.ndjson"), env=there).ended() == 0
    subprocess.run([PROGRAMS / "pg_dump", "-Fc", "-f", folder / "everthread.dump", urls[0]], check=True)
    (folder / "threads.jsonl").write_text(
        '[{"role": "user", "content": "Hi"}]\n{"name": "b", "messages": [{"role": "user", "content": "Ho"}]}\n'
    )
    assert Process("audit", "export", str(folder / "one.ndjson"), "--thread", thread, env=there).ended() == 0
    service.turn(service.thread(user="ann"), "Hello")
    purge = service.http.delete("/users/ann/data").json()["id"]
    eventually(lambda: service.http.get(f"/purges/{purge}").json()["status"] == "completed", 60)
    project = service.http.get("/project").json()["id"]
    account = {"name": "emulator", "api_key": "sk-account", "base_url": running_emulator.base_url}
    place = f"/admin/projects/{project}/accounts"
    placeholders = {
        "proj_…": project,
        "acct_…": service.http.post(place, json=account).json()["id"],
        "et_…": KEY,
        "thread_01a2…": thread,
        "purge_01a2…": purge,
        "8c1e…": public.lines[-1],
        "3f2a…": ANOTHER_KEY,
        "http://127.0.0.1:8080": service.url,
        "localhost:8090": f"localhost:{running_emulator.port}",
        "postgresql://everthread@db1,db2/everthread?target_session_attrs=read-write": f"'{urls[0]}'",
        "redis://cache:6379/0": service_env["REDIS_URL"],
    }
    yield World(service, folder, there, placeholders)
    service.stop()


def is_run(command: str) -> bool:
    bare = re.sub(r"^(\w+=\S* )+(?=\w)", "", command)
    return not any(command.startswith(prefix) or bare.startswith(prefix) for prefix in NOT_RUN_HERE)


def run(world: World, *command: str) -> str:
    places = [world.folder / "bin", Path(sys.executable).parent, PROGRAMS, os.environ["PATH"]]
    path = os.pathsep.join(map(str, places))
    env = {**os.environ, **world.env, "PATH": path}
    ran = subprocess.run(command, env=env, cwd=world.folder, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def expect(line: str, said: str) -> None:
    """A line of output as a document shows it: `…` stands for anything, and what stands behind `  #` is a remark."""
    shown = re.sub(r"\s+#.*$", "", line).strip()
    # Of an object, some of its fields are shown.
    parts = re.findall(r'"\w+": (?:"[^"]*"|\w+)', shown) if shown.startswith("{") else shown.split("…")
    squeezed = re.sub(r"\s+", "", said)
    for part in parts:
        assert re.sub(r"\s+", "", part) in squeezed, f"{part!r} is not in:\n{said}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "console"], ids=str)
def test_every_command_does_what_is_shown(world: World, block: Block) -> None:
    script, expected = ["set -e"], []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            command = line[2:]
            if is_run(command):
                script.append(f"echo '===='\n{world.filled_in(command)}")
                expected.append((command, list[str]()))
        elif line.strip() and not line.startswith("#"):
            expected[-1][1].append(line)
    outputs = run(world, "bash", "-c", "\n".join(script)).split("====\n")[1:]
    assert len(outputs) == len(expected)
    for output, (_, lines) in zip(outputs, expected, strict=True):
        for line in lines:
            expect(line, output)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_every_example_in_python_runs(world: World, block: Block) -> None:
    imports = "" if "import" in block.text else "from openai import OpenAI\n"
    said = run(world, sys.executable, "-c", imports + world.filled_in(block.text))
    for shown in re.findall(r"^print\(.*\)  # (.*)$", block.text, re.MULTILINE):
        assert said.strip(), shown


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=str)
def test_every_file_of_models_is_taken(tmp_path: Path, block: Block) -> None:
    file = tmp_path / "models.toml"
    file.write_text(block.text)
    Models(file)


def test_every_block_says_what_it_is_and_every_exception_is_needed() -> None:
    # tests/clients has those of clients.md whole; audit.md configures Vector and Fluent Bit.
    pieces = {"clients.md": {"py", "js", "ts", "conf"}, "audit.md": {"yaml", "ini"}}
    for block in BLOCKS:
        assert block.language in {"console", "python", "json", "toml"} | pieces.get(block.document.name, set()), block
    commands = [line[2:] for block in BLOCKS for line in block.text.splitlines() if line.startswith("$ ")]
    left_out = [command for command in commands if not is_run(command)]
    for prefix in NOT_RUN_HERE:
        assert any(prefix in command for command in left_out), prefix
    assert len(left_out) < len(commands) / 2

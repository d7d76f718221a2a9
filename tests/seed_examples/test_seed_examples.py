"""Every code example of the provider's page runs as it is written; only the base URL and the key are changed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service import Emulator, Service, read_events, said
from tests.tools import installed, needs

HERE = Path(__file__).parent
PROVIDER = "https://dashscope-intl.aliyuncs.com"
NAMES = ("basic", "multi_turn", "streaming", "built_in_tools", "migration")

needs_node = needs("npm")
needs_curl = needs("curl")


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `import OpenAI from "openai"` finds the npm package."""
    return installed(HERE, tmp_path_factory.mktemp("node"))


def run(service: Service, command: list[str], script: Path, cwd: Path, *, changes: dict[str, str] | None = None) -> str:
    """Return what an example prints, run as a process of its own."""
    text = script.read_text()
    assert PROVIDER in text
    for old, new in {PROVIDER: service.url, **(changes or {})}.items():
        assert old in text
        text = text.replace(old, new)
    mine = cwd / script.name
    mine.write_text(text)
    ran = subprocess.run(
        [*command, mine.name],
        cwd=cwd,
        env={**os.environ, "DASHSCOPE_API_KEY": service.key},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def check(name: str, printed: str, emulator: Emulator) -> None:
    """Check that the example printed what its reader would expect."""
    match name:
        case "basic":
            assert len(printed.strip()) > 20
        case "multi_turn":
            first, second = printed.strip().splitlines()
            assert first.startswith("First response: ")
            assert second == "Second response: Yes, John! I remember your name. How can I assist you today?"
            asked = emulator.calls()[-1]["body"]
            assert asked["previous_response_id"] == emulator.calls()[-2]["answer"]["id"]
        case "streaming":
            assert printed.startswith("Receiving stream output:\n")
            assert "Stream completed" in printed
            assert re.search(r"Total tokens: \d+$", printed.strip())
        case "built_in_tools":
            assert len(printed.strip()) > 20
        case "migration":
            chat, messages, brief = printed.strip().splitlines()
            assert chat == messages  # The same conversation, by either API.
            assert brief


@pytest.mark.parametrize("name", NAMES)
def test_python(service: Service, emulator: Emulator, tmp_path: Path, name: str) -> None:
    check(name, run(service, [sys.executable], HERE / f"{name}.py", tmp_path), emulator)


@needs_node
@pytest.mark.parametrize("name", NAMES)
def test_node(service: Service, emulator: Emulator, node_modules: Path, name: str) -> None:
    printed = run(service, ["node"], HERE / f"{name}.mjs", node_modules)
    check(name, printed, emulator)
    if name == "built_in_tools":
        assert "Model is thinking..." in printed
        assert "Search query: Find the Alibaba Cloud website" in printed
        assert "Extracting web content..." in printed
        assert "Response: " in printed


@needs_curl
@pytest.mark.parametrize("name", ["basic", "built_in_tools"])
def test_curl(service: Service, tmp_path: Path, name: str) -> None:
    answer = json.loads(run(service, ["sh"], HERE / f"{name}.sh", tmp_path))
    assert answer["object"] == "response"
    assert answer["status"] == "completed"
    assert answer["output"][-1]["content"][0]["text"]
    if name == "built_in_tools":
        assert {"reasoning", "web_search_call", "web_extractor_call"} < {item["type"] for item in answer["output"]}
        assert answer["usage"]["x_tools"]["web_search"] == {"count": 1}


@needs_curl
def test_curl_multi_turn(service: Service, tmp_path: Path) -> None:
    first, second = (HERE / "multi_turn.sh").read_text().split("# Second round")
    (tmp_path / "first.sh").write_text(first)
    (tmp_path / "second.sh").write_text("# Second round" + second)
    made = json.loads(run(service, ["sh"], tmp_path / "first.sh", tmp_path))
    changes = {"response_id_from_first_round": made["id"]}
    answer = json.loads(run(service, ["sh"], tmp_path / "second.sh", tmp_path, changes=changes))
    assert answer["output"][0]["content"][0]["text"].startswith("Yes, John!")
    assert answer["usage"]["input_tokens"] > made["usage"]["input_tokens"]


@needs_curl
def test_curl_streaming(service: Service, tmp_path: Path) -> None:
    events = read_events(run(service, ["sh"], HERE / "streaming.sh", tmp_path).splitlines())
    assert events[-1]["type"] == "response.completed"
    assert said(events) == events[-1]["response"]["output"][0]["content"][0]["text"]


@needs_curl
def test_curl_migration(service: Service, tmp_path: Path) -> None:
    printed = run(service, ["sh"], HERE / "migration.sh", tmp_path)
    chat, end = json.JSONDecoder().raw_decode(printed)
    response = json.loads(printed[end:])
    assert chat["choices"][0]["message"]["content"]
    assert response["output"][0]["content"][0]["text"]

"""The Vercel AI SDK runs unchanged: its base URL and key are Everthread's."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.service import Emulator, Service
from tests.tools import installed, needs

HERE = Path(__file__).parent
pytestmark = needs("npm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory in which the script finds its packages."""
    return installed(HERE / "vercel", tmp_path_factory.mktemp("vercel"))


def step(folder: Path, service: Service, *arguments: str) -> dict[str, Any]:
    env = {**os.environ, "EVERTHREAD_URL": service.url, "EVERTHREAD_KEY": service.key}
    ran = subprocess.run(
        ["node", "vercel.mjs", *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return said


def test_a_conversation_goes_on_from_a_response_that_the_provider_has_forgotten(
    folder: Path, service: Service, emulator: Emulator
) -> None:
    begun = step(folder, service, "begin")
    emulator.forget()
    assert step(folder, service, "goOn", begun["id"]) == {"text": "Ada"}


def test_its_own_message_arrays_are_taken_back_and_streamed(folder: Path, service: Service, emulator: Emulator) -> None:
    assert step(folder, service, "messages") == {"text": "Ada", "reasoning": "", "errors": []}


def test_its_tool_loop_ends_with_the_tools_answer(folder: Path, service: Service, emulator: Emulator) -> None:
    said = step(folder, service, "tool")
    assert (said["text"], said["errors"], said["steps"]) == ("The tool answered: sunny", [], 2)


def test_reasoning_is_shown_to_who_asks_for_its_summary(folder: Path, service: Service, emulator: Emulator) -> None:
    said = step(folder, service, "reasoning")
    assert said["reasoning"].startswith("The user asked something.")
    assert said["errors"] == []


def test_a_schema_is_followed(folder: Path, service: Service, emulator: Emulator) -> None:
    assert step(folder, service, "object") == {"city": "Oslo"}

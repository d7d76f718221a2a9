"""The wheel, installed into an environment of its own with another Python, and run far from the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service import Service, free_port

ROOT = Path(__file__).parents[1]
NEWEST = ("3.13", "3.12", "3.11")
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


def newest_python() -> Path:
    """Return the newest Python on the PATH or in pyenv that the wheel supports."""
    for version in NEWEST:
        found = shutil.which(f"python{version}")
        places = [Path(found)] if found is not None else []
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
        for place in (*places, *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))):
            if subprocess.run([place, "-m", "ensurepip", "--version"], capture_output=True).returncode == 0:
                return place
    return Path(sys.executable)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("app", "migrations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "alembic.ini"):
        shutil.copy(ROOT / name, source)
    command: list[str | Path] = [sys.executable, *PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([*command, source], check=True)
    (built,) = folder.glob("everthread-*.whl")
    shutil.rmtree(source)
    return built


def serves(folder: Path, command: list[str]) -> None:
    folder.mkdir()
    service = Service("--emulator-port", str(free_port()), key=None, cwd=folder, command=command)
    thread = service.thread(name="ada")
    service.turn(thread, "My name is Ada.")
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    assert (folder / "everthread-data").is_dir()
    assert service.stop() == 0


@pytest.mark.long
def test_the_wheel_serves_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "environment"
    subprocess.run([newest_python(), "-m", "venv", place], check=True)
    python = place / "bin" / "python"
    subprocess.run(
        [python, *PIP, "install", "--no-compile", "--require-hashes", "-r", ROOT / "requirements.lock"], check=True
    )
    subprocess.run([python, *PIP, "install", "--no-deps", wheel], check=True)
    serves(tmp_path / "elsewhere", [str(place / "bin" / "everthread")])


@pytest.mark.clients
def test_the_wheel_serves_with_uvx(wheel: Path, tmp_path: Path) -> None:
    uvx = Path(sys.executable).parent / "uvx"
    # Our packages' newest versions, as a user gets them.
    serves(tmp_path / "elsewhere", [str(uvx), "--from", str(wheel), "everthread"])

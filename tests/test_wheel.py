"""The wheel, installed into an environment of its own with another Python, and run far from the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.service import Service, free_port

ROOT = Path(__file__).parents[1]
NEWEST = ("3.13", "3.12", "3.11")


def newest_python() -> Path:
    """Of the Pythons that this machine has, on the PATH or pyenv's, the newest that the wheel is for."""
    for version in NEWEST:
        found = shutil.which(f"python{version}")
        places = [Path(found)] if found is not None else []
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
        for place in (*places, *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))):
            if subprocess.run([place, "-m", "ensurepip", "--version"], capture_output=True).returncode == 0:
                return place
    return Path(sys.executable)


def test_the_wheel_serves_outside_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("app", "migrations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "alembic.ini"):
        shutil.copy(ROOT / name, source)
    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    command: list[str | Path] = [sys.executable, *pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    subprocess.run([*command, source], check=True)
    (wheel,) = tmp_path.glob("everthread-*.whl")
    shutil.rmtree(source)
    place = tmp_path / "environment"
    subprocess.run([newest_python(), "-m", "venv", place], check=True)
    python = place / "bin" / "python"
    subprocess.run(
        [python, *pip, "install", "--no-compile", "--require-hashes", "-r", ROOT / "requirements.lock"], check=True
    )
    subprocess.run([python, *pip, "install", "--no-deps", wheel], check=True)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    service = Service(
        "--emulator-port", str(free_port()), key=None, cwd=elsewhere, command=[str(place / "bin" / "everthread")]
    )
    thread = service.thread(name="ada")
    service.turn(thread, "My name is Ada.")
    assert service.turn(thread, "What is my name?")["output_text"] == "Ada"
    assert (elsewhere / "everthread-data").is_dir()
    assert service.stop() == 0

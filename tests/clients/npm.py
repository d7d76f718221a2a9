"""The npm workspace in clients/typescript and the example that is made with it, installed and built once for all tests.

`python -m tests.clients.npm` does so before they begin.
"""

import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2] / "clients" / "typescript"
REACT = Path(__file__).parents[2] / "examples" / "react"

INSTALL = ("npm", "ci", "--no-audit", "--no-fund", "--silent", "--prefer-offline")

MADE = {"node_modules", "dist", "build"}
"""Directories that npm and the compiler write."""


def workspace() -> Path:
    """Return the workspace's directory, with its packages installed and its own packages compiled.

    Both are kept between runs, as long as the lock file and the sources are the same.
    """
    with _alone():
        manifests = [ROOT / "package-lock.json", *ROOT.glob("package.json"), *ROOT.glob("*/package.json")]
        if _changed(ROOT / "node_modules" / ".installed", manifests):
            run(*INSTALL)
            _keep(ROOT / "node_modules" / ".installed", manifests)
        sources = list(_sources())
        if _changed(ROOT / "node_modules" / ".built", sources):
            run("npm", "run", "--silent", "build")
            for name in manifest()["workspaces"]:
                if (ROOT / name).exists():
                    run("npm", "run", "--silent", "--if-present", "build", "--workspace", name)
            _keep(ROOT / "node_modules" / ".built", sources)
    return ROOT


def react() -> Path:
    """Return the directory of the React example, built with the packages of the workspace."""
    workspace()
    with _alone():
        made = REACT / "node_modules" / ".built"
        sources = [*_sources(), *_sources(REACT)]
        if _changed(made, sources):
            # The workspace has many of the same packages: npm has just read what is known about them.
            _run(REACT, *INSTALL)
            _run(REACT, "npm", "run", "--silent", "build")
            _keep(made, sources)
    return REACT


@contextmanager
def _alone() -> Iterator[None]:
    """Wait for the other processes of the tests."""
    cache = ROOT.parents[1] / ".pytest_cache"
    cache.mkdir(exist_ok=True)
    with (cache / "npm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def manifest() -> dict[str, Any]:
    """Return the package.json of @everthread/client."""
    found: dict[str, Any] = json.loads((ROOT / "package.json").read_text())
    return found


def run(*command: str, **env: str) -> str:
    """Run a command in the workspace, and return its output."""
    return _run(ROOT, *command, **env)


def _run(folder: Path, *command: str, **env: str) -> str:
    ended = subprocess.run(command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def _sources(root: Path = ROOT) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in MADE]
        yield from (Path(folder, name) for name in names)


def _changed(stamp: Path, files: Iterable[Path]) -> bool:
    return not stamp.exists() or stamp.read_text() != _digest(files)


def _keep(stamp: Path, files: Iterable[Path]) -> None:
    stamp.write_text(_digest(files))


def _digest(files: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(f"{path.relative_to(ROOT.parents[1])}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


if __name__ == "__main__":
    react()
